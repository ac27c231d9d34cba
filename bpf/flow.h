/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Which calls were alone on a counter, and whose they are: shared by all C
 * sources here, and its map by all programs that are loaded.
 */
#ifndef PINWATCH_FLOW_H
#define PINWATCH_FLOW_H

/*
 * How many traced calls have begun and ended on a counter or a buffer, keyed by
 * the user_struct or mm_struct that holds it, or the buffer. A call was alone on its counter if
 * all earlier ones had ended when it began, and none began before it ended.
 * "Begun" is added before a counter is read at entry, "ended" after it is read
 * at return, so a doubt always falls on the side of an overlap.
 */
struct flow {
	__u64 begun;
	__u64 ended;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct flow);
} flows SEC(".maps");

/* Returns begun, or 0 (never a valid one) when the call is not alone. */
static __always_inline __u64 flow_begin(__u64 key)
{
	struct flow none = {}, *flow;
	__u64 begun;

	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow) {
		bpf_map_update_elem(&flows, &key, &none, BPF_NOEXIST);
		flow = bpf_map_lookup_elem(&flows, &key);
		if (!flow)
			return 0;
	}
	__sync_fetch_and_add(&flow->begun, 1);
	begun = *(volatile __u64 *)&flow->begun;
	return *(volatile __u64 *)&flow->ended == begun - 1 ? begun : 0;
}

/* Whether the call was alone on the counter from flow_begin() until now. */
static __always_inline bool flow_alone(__u64 key, __u64 begun)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);

	return flow && begun && *(volatile __u64 *)&flow->begun == begun;
}

/* After the record went out, so that those of all earlier calls are there when
 * one is alone. */
static __always_inline void flow_end(__u64 key)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);

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
