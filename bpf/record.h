/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What every record begins with, how records reach user space, and what user space
 * tells the programs: shared by all C sources here, and its maps by all programs
 * that are loaded.
 *
 * Two objects are made of each source that sends records. The one for today's
 * kernels sends them through the ring buffer. The other one, with PINWATCH_LEGACY,
 * sends them through the perf event array, and uses nothing that Linux 4.19 lacks.
 */
#ifndef PINWATCH_RECORD_H
#define PINWATCH_RECORD_H

/* Marks the maps of which all programs that are loaded use one: user space makes
 * those of the other objects the ones of perf.bpf.c's. */
#define SHARED __attribute__((btf_decl_tag("shared")))

/* Which struct record it is. */
enum record_kind {
	RECORD_PERF = 1,    /* that of perf.bpf.c */
	RECORD_OBJECT = 2,  /* that of objects.bpf.c */
	RECORD_CHARGER = 3, /* that of chargers.bpf.c */
	RECORD_PERF_FAILED = 4, /* that of perf.bpf.c, and its struct facts */
};

/* Of all kinds of records: a bit means the same in each. */
enum record_flag {
	FLAG_COMMAND = 1 << 0,	    /* the caller descends from the traced command */
	FLAG_CAP_IPC_LOCK = 1 << 1, /* the caller's: effective, in the initial user namespace */
	FLAG_OVERLAP_USER = 1 << 2, /* another traced call moved the user's counter meanwhile */
	FLAG_OVERLAP_MM = 1 << 3,   /* the same, for pinned_vm */
	FLAG_USER_GONE = 1 << 4,    /* the user_struct was freed by the call: no counter after it */
	/* Perf buffers: */
	FLAG_OVERLAP_BUFFER = 1 << 5, /* another traced call mapped or unmapped the buffer meanwhile */
	FLAG_EXISTING = 1 << 6,	      /* the area was there before the call */
	FLAG_LIMITS_MOVED = 1 << 7,   /* a limit or a sysctl was changed during the call */
	/* BPF objects: */
	FLAG_RLIMIT = 1 << 8, /* charged to the user: the object's struct has a place for it */
	FLAG_LATER = 1 << 9,  /* part of its memory is freed later, through RCU */
	FLAG_MEMCG_REFUSED = 1 << 12, /* a charge of a memory cgroup failed, for this call or for an element of the map just before it; of io_uring's calls too */
	FLAG_ACCOUNT_REFUSED = 1 << 13, /* the comparison with the user's limit was seen to refuse */
	FLAG_ACCOUNT_PASSED = 1 << 14, /* it was seen to pass */
	FLAG_VERIFIER_REFUSED = 1 << 15, /* the program came to the verifier, which did not accept it */
	FLAG_VERIFIER_PASSED = 1 << 16,
	FLAG_ATTR_KNOWN = 1 << 19, /* the attributes of bpf(2) end where the kernel's do, or before */
	FLAG_PROG_REFUSED = 1 << 20, /* there was no memory for the program as such */
	FLAG_PROG_ALLOCATED = 1 << 21,
	/* The other chargers: */
	FLAG_SPLIT_COUNTER = 1 << 10, /* perf charges another counter of the user's here */
	FLAG_EXEMPT = 1 << 11, /* the ring was made with CAP_IPC_LOCK, and charges no user */
	FLAG_CHARGED = 1 << 17, /* it was made without, and charges its maker */
	FLAG_CLOSED = 1 << 18, /* no call: the last reference to what was charged went, and its pages come back later */
};

/* Who made a call. */
struct caller {
	__u64 cgroup_id;  /* v2 hierarchy */
	__s64 lock_limit; /* RLIMIT_MEMLOCK, pages */
	/* Of a call that failed, see caller_read_limits(); else 0: */
	__s64 lock_limit_hard;	 /* what it may raise that to by itself */
	__s64 parent_lock_limit; /* that of its parent */
	__u32 pid;	  /* tgid */
	__u32 tid;
	__u32 uid; /* the real one, in the initial user namespace */
	__u32 cpu;
	__u8 comm[16];
};

/* What every record begins with: a struct record has it as its first member, header. */
struct header {
	enum record_kind kind;
	enum record_flag flags; /* or-ed */
	__u64 seq;     /* see record_reserve(); 0 with the ring buffer, which keeps the order */
	__u64 time_ns; /* CLOCK_MONOTONIC, when it was sent: at the call's return */
	__u64 lost;    /* all losses before it */
	struct caller caller;
};

/* A counter at a call's entry and at its return, in pages. */
struct reading {
	__u64 owner; /* whose: a uid, or for pinned_vm the mm, an identity that is never shown */
	__s64 before;
	__s64 after;
};

/* What user space tells the programs. An array, not global data: that needs
 * 5.2. The values read from /proc and /sys stand in where a symbol is hidden. */
struct config {
	__u32 page_shift;
	__s32 perf_event_mlock_kb;
	__s32 perf_event_paranoid;
	__u32 online_cpus;
	__u32 command_parent; /* tgid whose descendants are FLAG_COMMAND; 0: none */
	__u32 watch_memcg;    /* the charge paths of memory cgroups are watched */
	__u32 possible_cpus;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config_map SHARED SEC(".maps");

static __always_inline const struct config *config_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config_map, &zero);
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
} losses_map SHARED SEC(".maps");

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
 *	reserved_t reserved = record_reserve();
 *	... read the counters into *record ...
 *	record_submit(ctx, reserved, record);
 *
 * What is reserved first is read first by user space, and it is reserved before the
 * counters are read. So whatever began after the readings comes later, and a call
 * that was alone stands between all that ended before it and all that began after
 * it. What was reserved must be submitted. The header's kind, flags and caller are
 * set by then; the rest of it is filled in here.
 */
#ifndef PINWATCH_LEGACY

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SHARED SEC(".maps");

/* A part of the ring buffer. */
typedef void *reserved_t;

#define record_reserve_of(type) bpf_ringbuf_reserve(&events, sizeof(type), 0)
#define record_reserve() record_reserve_of(struct record)

#define record_submit(ctx, reserved, record)                                   \
	do {                                                                   \
		(record)->header.time_ns = bpf_ktime_get_ns();                 \
		(record)->header.lost = losses_total();                        \
		if (reserved) {                                                \
			__builtin_memcpy((typeof(record))reserved, record,     \
					 sizeof(*(record)));                   \
			bpf_ringbuf_submit(reserved, 0);                       \
		} else {                                                       \
			count_loss(ring_full);                                 \
		}                                                              \
	} while (0)

#else

/* A ring for each CPU that is online: the library gives it an entry for each possible one. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} events SHARED SEC(".maps");

/* Takes the records of CPUs that have no ring: one that comes online gets it a moment later. */
#define SPILL_SLOTS 256
#define SPILL_BYTES 504
struct spilled {
	__u64 size; /* of the record; 0: there is none */
	__u8 record[SPILL_BYTES];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SPILL_SLOTS);
	__type(key, __u32);
	__type(value, struct spilled);
} spill_map SHARED SEC(".maps");

/* How many sequence numbers were given out. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} seq_map SHARED SEC(".maps");

/*
 * A sequence number, for each CPU has a ring of its own. It is the count after our
 * own addition to it, with what others added meanwhile: kernels before 5.12 cannot
 * add and fetch in one step. So two that were taken at the same time may be equal,
 * but one that was taken after another one is always greater, and the n-th one
 * taken is at least n. User space puts the records in order by that, and sees by
 * the gaps how many never came.
 */
typedef __u64 reserved_t;

static __always_inline reserved_t record_reserve(void)
{
	__u32 zero = 0;
	__u64 *taken = bpf_map_lookup_elem(&seq_map, &zero);

	if (!taken)
		return 0;
	__sync_fetch_and_add(taken, 1);
	return *(volatile __u64 *)taken;
}

#define record_reserve_of(type) record_reserve()

/* Two CPUs may have the same slot, if both have no ring: then one record is lost, and like any
 * that cannot be sent it is a gap in the sequence. */
#define record_spill(seq, from)                                                \
	do {                                                                   \
		__u32 slot = (seq) % SPILL_SLOTS;                              \
		struct spilled *to = bpf_map_lookup_elem(&spill_map, &slot);   \
                                                                               \
		_Static_assert(sizeof(*(from)) <= SPILL_BYTES, "too large to spill"); \
		if (to) {                                                      \
			*(volatile __u64 *)&to->size = 0;                      \
			__builtin_memcpy(to->record, from, sizeof(*(from)));   \
			barrier();                                             \
			*(volatile __u64 *)&to->size = sizeof(*(from));        \
		}                                                              \
	} while (0)

/* The result tells whether there was a live ring, and, before 5.1, nothing of whether there was
 * room in it. */
#define record_submit(ctx, reserved, from)                                     \
	do {                                                                   \
		long sent;                                                     \
                                                                               \
		(from)->header.seq = reserved;                                 \
		(from)->header.time_ns = bpf_ktime_get_ns();                   \
		(from)->header.lost = losses_total();                          \
		sent = bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, from, \
					     sizeof(*(from)));                 \
		if (sent == -ENOENT || sent == -EOPNOTSUPP)                    \
			record_spill(reserved, from);                          \
	} while (0)

#endif

/* ---- callers ---- */

/* Reports whether a task descends from a process. pinwatch is the child subreaper
 * of its command, so orphans of it stay below pinwatch. */
static __always_inline bool descends_from(struct task_struct *task, __u32 tgid)
{
#ifdef PINWATCH_LEGACY
#pragma unroll /* loops require 5.3 */
#endif
	for (int depth = 0; depth < 12; depth++) {
		task = BPF_CORE_READ(task, real_parent);
		if (BPF_CORE_READ(task, tgid) == tgid)
			return true;
	}
	return false;
}

static __always_inline __s64 task_lock_limit(const struct config *config, struct task_struct *task)
{
	return kernel_read(task, signal, rlim[RLIMIT_MEMLOCK].rlim_cur) >> config->page_shift;
}

static __always_inline __s64 caller_lock_limit(const struct config *config)
{
	return task_lock_limit(config, (void *)bpf_get_current_task());
}

/* Fills in who is running. */
static __always_inline void caller_read(const struct config *config, struct header *header)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cred *cred = kernel_read(task, cred);
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct caller *caller = &header->caller;

	caller->cgroup_id = bpf_get_current_cgroup_id();
	caller->lock_limit = task_lock_limit(config, task);
	caller->pid = pid_tgid >> 32;
	caller->tid = (__u32)pid_tgid;
	caller->uid = kernel_read(cred, uid.val);
	caller->cpu = bpf_get_smp_processor_id();
	bpf_get_current_comm(&caller->comm, sizeof(caller->comm));
	if (cred_cap_ipc_lock(cred))
		header->flags |= FLAG_CAP_IPC_LOCK;
	if (config->command_parent && descends_from(task, config->command_parent))
		header->flags |= FLAG_COMMAND;
}

/* Whoever is running has no part in it: a worker, or whatever an interrupt came upon. */
static __always_inline void caller_blank(struct header *header)
{
	struct caller *caller = &header->caller;

	caller->pid = caller->tid = caller->uid = 0;
	caller->cgroup_id = 0;
	__builtin_memset(caller->comm, 0, sizeof(caller->comm));
	header->flags &= ~(FLAG_COMMAND | FLAG_CAP_IPC_LOCK);
}

/* Of a call that failed: where its caller's limit comes from. */
static __always_inline void caller_read_limits(struct header *header)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct config *config = config_get();

	if (!config)
		return;
	header->caller.lock_limit_hard = kernel_read(task, signal, rlim[RLIMIT_MEMLOCK].rlim_max) >> config->page_shift;
	header->caller.parent_lock_limit = task_lock_limit(config, kernel_read(task, real_parent));
}

#endif
