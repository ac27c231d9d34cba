/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Which calls were alone on a counter, and whose they are: shared by all C
 * sources here, and its map by all programs that are loaded.
 */
#ifndef PINWATCH_FLOW_H
#define PINWATCH_FLOW_H

/*
 * How many traced calls have begun and ended on a counter or a buffer, told by the
 * address of what holds it. A call was alone on its counter if all earlier ones had
 * ended when it began, and none began before it ended. "Begun" is added before a
 * counter is read at entry, "ended" after it is read at return, so a doubt always
 * falls on the side of an overlap.
 *
 * The place in the array is a hash of the address: a look-up costs a tenth of one in
 * a hash map, and there are nine of them in a call. Where two addresses share a
 * place, calls on them that are under way together count as overlapping: a doubt
 * too many, on the right side. Each kind has places of its own, for a call is on one
 * of each kind at once.
 */
struct flow {
	__u64 begun;
	__u64 ended;
};
enum flow_kind {
	FLOW_USER,
	FLOW_MM,
	FLOW_BUFFER,
	FLOW_KINDS,
};
#define FLOW_BITS 14 /* of the hash */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOW_KINDS << FLOW_BITS);
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

/* The address is read from a map's value: there the verifier takes it for a number,
 * that can be multiplied, and not for the pointer that it may have been. */
static __always_inline struct flow *flow_of(enum flow_kind kind, const __u64 *address)
{
	/* By 2^64 / the golden ratio: then the upper bits are a good hash. */
	__u64 product = *(volatile const __u64 *)address * 0x9e3779b97f4a7c15;
	__u32 place = kind << FLOW_BITS | product >> (64 - FLOW_BITS);

	return bpf_map_lookup_elem(&flows, &place);
}

/* Returns begun, or 0 (never a valid one) when the call is not alone. */
static __always_inline __u64 flow_begin(enum flow_kind kind, const __u64 *address)
{
	struct flow *flow = flow_of(kind, address);
	__u64 begun;

	if (!flow)
		return 0;
	__sync_fetch_and_add(&flow->begun, 1);
	begun = *(volatile __u64 *)&flow->begun;
	return *(volatile __u64 *)&flow->ended == begun - 1 ? begun : 0;
}

/* Whether the call was alone on the counter from flow_begin() until now. */
static __always_inline bool flow_alone(enum flow_kind kind, const __u64 *address, __u64 begun)
{
	struct flow *flow = flow_of(kind, address);

	return flow && begun && *(volatile __u64 *)&flow->begun == begun;
}

/* After the record went out, so that those of all earlier calls are there when
 * one is alone. */
static __always_inline void flow_end(enum flow_kind kind, const __u64 *address)
{
	struct flow *flow = flow_of(kind, address);

	if (flow)
		__sync_fetch_and_add(&flow->ended, 1);
}

/* Descends the caller from the traced command? pinwatch is the child subreaper
 * of its command, so orphans of it stay below pinwatch. */
static __always_inline bool is_command(struct task_struct *task, __u32 parent)
{
#pragma unroll
	for (int depth = 0; depth < 12; depth++) {
		task = BPF_CORE_READ(task, real_parent);
		if (BPF_CORE_READ(task, tgid) == parent)
			return true;
	}
	return false;
}

#endif
