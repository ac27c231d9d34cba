/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The calls that are under way: what was read at a function's entry is kept here until
 * its return. Before this is included, a source defines
 *
 *	struct call       with members record and stays,
 *	CALL_SLOTS        how many calls are found fast,
 *	CALL_OVERFLOW     how many more there is room for,
 *	CALL_GONE(key)    what else is to be done when a call ends; may be left out,
 *	CALL_BLANK        how many bytes of a call are blank when it begins; left out: all.
 */
#ifndef PINWATCH_CALLS_H
#define PINWATCH_CALLS_H

#ifndef CALL_GONE
#define CALL_GONE(key)
#endif
#ifndef CALL_BLANK
#define CALL_BLANK sizeof(struct call)
#endif

_Static_assert(!__builtin_offsetof(struct record, header), "user space finds the header of any record at its beginning");
_Static_assert(sizeof(struct record) % 8 == 0, "padding at the end would be sent as it is");
_Static_assert(sizeof(((struct call *)0)->stays) <= INFLIGHT_KINDS * sizeof(struct stay), "a stay has an index by its kind");
_Static_assert((CALL_SLOTS & (CALL_SLOTS - 1)) == 0, "a slot is found without a division");

/* The slot of a call in an array, by its key: to find it there costs a tenth of what it
 * costs in a hash map. Calls whose keys share a slot and find it taken overflow. */
struct call_slot {
	struct call call; /* first: its address is the slot's */
	__u64 claims;	  /* 1 of the call that is here, and 1 for a moment of each that tries */
	__u64 key;	  /* of the call that is here; 0: none */
	__u64 overflowed; /* how many calls found the slot taken, and are in calls_overflow now */
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CALL_SLOTS);
	__type(key, __u32);
	__type(value, struct call_slot);
} calls SEC(".maps");

/* Slots of their own, that have no claims. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CALL_OVERFLOW);
	__type(key, __u64);
	__type(value, struct call_slot);
} calls_overflow SEC(".maps");

/* Who makes a call: a thread, by its number, which none that lives shares. The idle
 * tasks are all number 0, and RCU runs in interrupts on them: what they do is found by
 * the CPU. */
static __always_inline __u32 call_on_cpu(void)
{
	return (__u32)1 << 31 | bpf_get_smp_processor_id();
}

static __always_inline __u32 call_by_thread(void)
{
	__u32 tid = bpf_get_current_pid_tgid();

	return tid ? tid : call_on_cpu();
}

/* A call's key, never 0. A thread can be in several calls at once, inside of each other
 * or in an interrupt, but in no more than one of each level: what comes again there has
 * missed its return. */
#define CALL_LEVELS (1 << 16)
static __always_inline __u64 call_key(__u32 level, __u32 who)
{
	return (__u64)(level + 1) << 32 | who;
}

static __always_inline __u32 call_level(__u64 key)
{
	return (__u32)(key >> 32) - 1;
}

static __always_inline struct call_slot *call_slot(__u64 key)
{
	/* Threads with numbers in a row have slots in a row, on each level elsewhere. */
	__u32 index = ((__u32)key + (__u32)(key >> 32) * 331) % CALL_SLOTS;

	return bpf_map_lookup_elem(&calls, &index);
}

/* Only the call itself writes its key into a slot. */
static __always_inline struct call_slot *call_at(struct call_slot *slot, __u64 key)
{
	if (slot->key == key)
		return slot;
	return slot->overflowed ? bpf_map_lookup_elem(&calls_overflow, &key) : 0;
}

static __always_inline struct call *call_find(__u64 key)
{
	struct call_slot *slot = call_slot(key);

	return slot ? (struct call *)call_at(slot, key) : 0;
}

/* Takes the slot unless another call has it. Who has it leaves its claim in, so that no
 * one else can find a single one. If two that try see each other's claim, neither gets
 * it: kernels before 5.12 cannot add and fetch in one step.
 *
 * Not on arm64: there such an addition orders no other access, and what a call wrote
 * into its slot could come after what the next one writes. */
static __always_inline struct call_slot *call_claim(struct call_slot *slot, __u64 key)
{
#ifndef __TARGET_ARCH_x86
	return 0;
#endif
	__sync_fetch_and_add(&slot->claims, 1);
	if (*(volatile __u64 *)&slot->claims != 1) {
		__sync_fetch_and_add(&slot->claims, -1);
		return 0;
	}
	slot->key = key;
	return slot;
}

static __always_inline struct call_slot *call_overflow(struct call_slot *slot, __u64 key)
{
	struct call_slot *own;

	/* With a copy of whatever the slot holds, which is blanked next. */
	if (bpf_map_update_elem(&calls_overflow, &key, slot, BPF_NOEXIST))
		return 0;
	__sync_fetch_and_add(&slot->overflowed, 1);
	own = bpf_map_lookup_elem(&calls_overflow, &key);
	if (!own)
		return 0;
	own->claims = 0;
	own->key = key;
	return own;
}

/* Takes a call off all its counters. */
static __always_inline void call_exit(struct call *call)
{
	for (__u32 kind = 0; kind < sizeof(call->stays) / sizeof(call->stays[0]); kind++)
		inflight_exit(kind, &call->stays[kind]);
}

/* The same while it waits: others shall not count as overlapping it for so long. It
 * enters them again, or it was not alone. */
static __always_inline void call_suspend(struct call *call)
{
	call_exit(call);
	__builtin_memset(call->stays, 0, sizeof(call->stays));
}

/* Enters a call, blank. It is filled in place, for it is too large for the stack, and a
 * scratch area of the CPU's is not safe where a program can be preempted (fentry, fexit). */
static __always_inline struct call *call_enter(__u64 key)
{
	struct call_slot *home = call_slot(key), *slot;

	if (!home)
		return 0;
	slot = call_at(home, key);
	if (slot) {
		count_loss(missed_return);
		call_exit(&slot->call);
		CALL_GONE(key);
	} else {
		slot = call_claim(home, key);
		if (!slot)
			slot = call_overflow(home, key);
		if (!slot) {
			count_loss(in_flight_full);
			return 0;
		}
	}
	__builtin_memset(&slot->call, 0, CALL_BLANK);
	return &slot->call;
}

/* Gives the place of a call back. It is not to be touched any more. */
static __always_inline void call_free(struct call *call)
{
	struct call_slot *slot = (void *)call;
	__u64 key = slot->key;

	CALL_GONE(key);
	if (slot->claims) {
		slot->key = 0;
		__sync_fetch_and_add(&slot->claims, -1);
		return;
	}
	bpf_map_delete_elem(&calls_overflow, &key);
	slot = call_slot(key);
	if (slot)
		__sync_fetch_and_add(&slot->overflowed, -1);
}

/* Ends a call, after its record was sent. */
static __always_inline void call_leave(struct call *call)
{
	call_exit(call);
	call_free(call);
}

/* Moves a call that ends to the stack, if it fits there, and reports whether there was
 * one. The verifier follows all that comes after call_find() once for each map that the
 * call may be in; what comes after this, once. call_exit() is left to be done. */
static __always_inline bool call_take(__u64 key, struct call *to)
{
	struct call *call = call_find(key);

	if (!call)
		return false;
	__builtin_memcpy(to, call, sizeof(*to));
	call_free(call);
	return true;
}

#endif
