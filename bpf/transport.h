/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How records get to user space, and what user space tells the programs: shared
 * by all C sources here, and their maps by all programs that are loaded.
 *
 * Two objects are made of each source. The one for today's kernels sends records
 * through the ring buffer. The other one, with PINWATCH_LEGACY, sends them
 * through the perf event array, and uses nothing that Linux 4.19 lacks.
 */
#ifndef PINWATCH_TRANSPORT_H
#define PINWATCH_TRANSPORT_H

/* Which struct a record is. */
enum record {
	RECORD_CALL = 1,   /* struct event of perf.bpf.c */
	RECORD_OBJECT = 2, /* struct object_event of objects.bpf.c */
	RECORD_CHARGE = 3, /* struct charge_event of chargers.bpf.c */
};

/* What every record begins with. */
struct header {
	enum record record; /* a __u32 */
	__u32 pad;
	__u64 order;   /* the place among all records, see place_take(); 0 with the ring buffer */
	__u64 time_ns; /* CLOCK_MONOTONIC, when it was sent */
	__u64 lost;    /* all losses before it */
};

/* What user space tells the programs. An array, not global data: that needs
 * 5.2. The values read from /proc and /sys stand in where a symbol is hidden. */
struct config {
	__u32 page_shift;
	__s32 perf_event_mlock_kb;
	__s32 perf_event_paranoid;
	__u32 online_cpus;
	__u32 command_parent; /* tgid whose descendants get FLAG_COMMAND; 0: none */
	__u32 watch_memcg;    /* the charge paths of memory cgroups are watched */
	__u32 possible_cpus;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config_map SEC(".maps");

static __always_inline const struct config *config_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config_map, &zero);
}

/* What a call is found by from its entry to its return, in 60 bits: pid and thread.
 * The idle tasks share the pid 0, and RCU runs in interrupts on them: what they
 * do is found by the CPU. */
static __always_inline __u64 call_id(void)
{
	__u64 id = bpf_get_current_pid_tgid();

	return id ? id : (__u64)bpf_get_smp_processor_id() << 32;
}

/* Losses are counted, never hidden. Every record carries their sum, so that user
 * space has no need to look them up while it traces: a lookup by syscall
 * forbids tracing programs on its CPU until it is done, and on a preemptible
 * kernel another task's call can come in between and be missed. */
struct losses {
	__u64 ring_full;      /* records that found the ring buffer full; the perf array's are the gaps in the order */
	__u64 in_flight_full; /* calls not followed: too many under way at once */
	__u64 missed_return;  /* calls whose return was not seen */
	__u64 missed_entry;   /* calls whose entry was not seen */
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct losses);
} losses_map SEC(".maps");

/* Counts one loss. The counters are shared by all CPUs: losses are rare. */
#define count_loss(which)                                                      \
	do {                                                                   \
		__u32 zero = 0;                                                \
		struct losses *losses = bpf_map_lookup_elem(&losses_map, &zero); \
		if (losses)                                                    \
			__sync_fetch_and_add(&losses->which, 1);               \
	} while (0)

static __always_inline __u64 losses_total(void)
{
	__u32 zero = 0;
	struct losses *l = bpf_map_lookup_elem(&losses_map, &zero);

	return l ? l->ring_full + l->in_flight_full + l->missed_return + l->missed_entry : 0;
}

/*
 * Sending takes two steps, in one program and with nothing but readings between
 * them:
 *
 *	place_t place = place_take(struct thing);
 *	... read the counters into *thing ...
 *	place_send(ctx, place, thing);
 *
 * The place is taken before the counters are read. So whatever began after the
 * readings comes later, and a call that was alone stands between all that ended
 * before it and all that began after it. A place that was taken must be sent.
 * A record begins with its struct header, named header, whose member record is
 * set; the rest of the header is filled in here.
 */
#ifndef PINWATCH_LEGACY

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SEC(".maps");

/* A part of the ring buffer: what is reserved earlier is read earlier. */
typedef void *place_t;

#define place_take(type) bpf_ringbuf_reserve(&events, sizeof(type), 0)

#define place_send(ctx, place, thing)                                          \
	do {                                                                   \
		(thing)->header.time_ns = bpf_ktime_get_ns();                  \
		(thing)->header.lost = losses_total();                         \
		if (place) {                                                   \
			__builtin_memcpy((typeof(thing))place, thing,          \
					 sizeof(*(thing)));                    \
			bpf_ringbuf_submit(place, 0);                          \
		} else {                                                       \
			count_loss(ring_full);                                 \
		}                                                              \
	} while (0)

#else

/* User space gives it as many entries as there are possible CPUs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SEC(".maps");

/* Which of them is the ring of a CPU. User space gives it as many entries. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} rings_map SEC(".maps");

/* How many places were taken. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} order_map SEC(".maps");

/*
 * A number, for each CPU has a ring of its own. It is the count after our own
 * addition to it, with what others added meanwhile: kernels before 5.12 cannot
 * add and fetch in one step. So two that were taken at the same time may be equal,
 * but one that was taken after another one is always greater, and the n-th place
 * taken is n at the least. User space puts the records in order by that, and sees
 * by the gaps how many never came.
 */
typedef __u64 place_t;

static __always_inline place_t place_number(void)
{
	__u32 zero = 0;
	__u64 *taken = bpf_map_lookup_elem(&order_map, &zero);

	if (!taken)
		return 0;
	__sync_fetch_and_add(taken, 1);
	return *(volatile __u64 *)taken;
}

#define place_take(type) place_number()

static __always_inline __u64 ring_index(void)
{
	__u32 cpu = bpf_get_smp_processor_id();
	__u32 *index = bpf_map_lookup_elem(&rings_map, &cpu);

	return index ? *index : cpu;
}

/* What cannot be sent is a gap in the order. The result is not looked at: before
 * 5.1 it says nothing. */
#define place_send(ctx, place, thing)                                          \
	do {                                                                   \
		(thing)->header.order = place;                                 \
		(thing)->header.time_ns = bpf_ktime_get_ns();                  \
		(thing)->header.lost = losses_total();                         \
		bpf_perf_event_output(ctx, &events, ring_index(), thing,       \
				      sizeof(*(thing)));                       \
	} while (0)

#endif
#endif
