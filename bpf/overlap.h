/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Which calls had a counter or a buffer to themselves: shared by all C sources
 * here, and its map by all programs that are loaded.
 */
#ifndef PINWATCH_OVERLAP_H
#define PINWATCH_OVERLAP_H

/*
 * Per counter or buffer, keyed by the address of what holds it: how many traced
 * calls have entered and left. A call was alone if all earlier calls had left when it
 * entered, and none entered before it left. "entered" is raised before the reading at
 * entry, and "left" after the reading at return, so a race is reported as an overlap
 * and never missed.
 *
 * The index is a hash of the address: a look-up in an array costs a tenth of one in a
 * hash map, and there are nine of them in a call. Calls on two addresses with the same
 * hash count as overlapping: one doubt too many, which is the right side to be wrong
 * on. Each kind has indexes of its own, for a call is on one of each kind at once.
 */
struct inflight {
	__u64 entered;
	__u64 left;
};
enum inflight_kind {
	INFLIGHT_USER,
	INFLIGHT_MM,
	INFLIGHT_BUFFER,
	INFLIGHT_KINDS,
};
#define INFLIGHT_BITS 14 /* of the hash */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, INFLIGHT_KINDS << INFLIGHT_BITS);
	__type(key, __u32);
	__type(value, struct inflight);
} inflight_map SHARED SEC(".maps");

/* A call's stay on a counter or a buffer. It is kept in a map: what is read back from
 * there the verifier takes for a number, which can be multiplied, and not for the
 * pointer that it may have been. */
struct stay {
	__u64 address; /* 0: it is not on one */
	__u64 ticket;  /* how many had entered with it; 0: it was not alone then */
};

static __always_inline struct inflight *inflight_of(enum inflight_kind kind, const struct stay *stay)
{
	/* By 2^64 / the golden ratio: then the upper bits are a good hash. */
	__u64 product = *(volatile const __u64 *)&stay->address * 0x9e3779b97f4a7c15;
	__u32 index = kind << INFLIGHT_BITS | product >> (64 - INFLIGHT_BITS);

	return bpf_map_lookup_elem(&inflight_map, &index);
}

/* Before the reading at entry. */
static __always_inline void inflight_enter(enum inflight_kind kind, struct stay *stay, __u64 address)
{
	struct inflight *inflight;
	__u64 ticket;

	*(volatile __u64 *)&stay->address = address;
	stay->ticket = 0;
	inflight = inflight_of(kind, stay);
	if (!inflight)
		return;
	__sync_fetch_and_add(&inflight->entered, 1);
	ticket = *(volatile __u64 *)&inflight->entered;
	if (*(volatile __u64 *)&inflight->left == ticket - 1)
		stay->ticket = ticket;
}

/* After the reading at return: reports whether the call was alone until now. */
static __always_inline bool inflight_exclusive(enum inflight_kind kind, const struct stay *stay)
{
	struct inflight *inflight = inflight_of(kind, stay);

	return inflight && stay->ticket && *(volatile __u64 *)&inflight->entered == stay->ticket;
}

/* After the record was sent, so that those of all earlier calls are there when one
 * is alone. */
static __always_inline void inflight_exit(enum inflight_kind kind, const struct stay *stay)
{
	struct inflight *inflight;

	if (!stay->address)
		return;
	inflight = inflight_of(kind, stay);
	if (inflight)
		__sync_fetch_and_add(&inflight->left, 1);
}

/* What the return of a call tells of its user. The last buffer may hold the last
 * reference to it, and a freed struct's counter means nothing. */
static __always_inline enum record_flag user_flags(struct user_struct *user, const struct reading *reading,
						   const struct stay *stay)
{
	enum record_flag flags = 0;

	if (user_count(user) <= 0 || user_uid(user) != reading->owner)
		flags |= FLAG_USER_GONE;
	if (!inflight_exclusive(INFLIGHT_USER, stay))
		flags |= FLAG_OVERLAP_USER;
	return flags;
}

#endif
