//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * Watches the other ones that charge user_struct.locked_vm and mm_struct.pinned_vm:
 * io_uring, AF_XDP, MSG_ZEROCOPY, RDMA, iommufd, vfio, vDPA.
 *
 * What charges is often inlined, so the probes are on functions further out, at their
 * entry and return, and the counters before and after tell. A call that moved nothing
 * is not reported, unless it was refused.
 *
 * A ring or a umem that is closed keeps what it was charged until a worker of the kernel's
 * gives that back: its closing is a record of its own.
 *
 * A new charger is a name in enum charger and a PROBE_PAIR() at the end of this file.
 */
#include "kernel.h"
#include "record.h"
#include "overlap.h"

char LICENSE[] SEC("license") = "GPL";

enum charger {
	CHARGER_IO_URING,
	CHARGER_XDP,
	CHARGER_ZEROCOPY,
	CHARGER_RDMA,
	CHARGER_IOMMUFD,
	CHARGER_VFIO,
	CHARGER_VDPA,
	CHARGER_SECRETMEM,
	CHARGER_COUNT,
};

/* The functions that make the calls, and that are seen to fail. */
enum function {
	FUNCTION_OTHER,
	FUNCTION_RING_SETUP,	/* io_uring_setup(2) */
	FUNCTION_RING_REGISTER, /* io_uring_register(2) */
	FUNCTION_RING_SEND,	/* a zero-copy send of io_uring's */
	FUNCTION_UMEM,		/* xdp_umem_create() */
	FUNCTION_SEND,		/* mm_account_pinned_pages() */
	FUNCTION_RELEASE,	/* one that gives back, if anything */
	FUNCTION_VFIO_MAP,	/* ioctl(VFIO_IOMMU_MAP_DMA) */
	FUNCTION_RDMA_GET,	/* ib_umem_get() */
	FUNCTION_IOMMUFD_PIN,	/* iopt_pages_update_pinned() */
	FUNCTION_VDPA_MAP,	/* an IOTLB message */
};

/* What became of the comparison with the limit. */
enum accounting {
	ACCOUNTING_UNSEEN, /* where that is done could not be probed, or was not reached */
	ACCOUNTING_REFUSED,
	ACCOUNTING_PASSED, /* all that was asked for: if the call failed, then for another reason */
};

struct record {
	struct header header;
	struct reading user;	/* user_struct.locked_vm */
	struct reading process; /* pinned_vm; its owner is 0 where it is none's */
	/* locked_vm of the same mm, which vfio charges, and iommufd if it was told to; else 0. */
	__s64 locked_before, locked_after;
	__u64 holder; /* the io_uring or umem in question: an identity, never shown; 0: not known */
	__s64 holder_pages; /* of a umem that is closed, by its own record */

	/* Of functions that have a comparison, in pages: */
	__s64 asked;	 /* in all by this call, up to what was refused; derived from its arguments if that is unseen; negative: given back; 0: not known */
	__s64 last_asked; /* the last part of it, that the kernel compared at once; 0: unseen */
	__s64 last_held; /* what the counter was then: with the parts of this call before it */

	/* Of io_uring's calls, the memory cgroup that had no room, in bytes, as it was after
	 * the kernel had tried to free some for it; 0: all had. */
	__u64 limit_cgroup_id;
	__s64 usage_bytes;
	__s64 wanted_bytes; /* at once, beside that */
	__s64 limit_bytes;

	enum charger charger;
	__s32 ret; /* a negative one is an errno */
	enum function function;
	enum accounting accounting;
	__u32 request; /* the opcode of io_uring_register(2) */
	__u32 count;   /* entries of a ring, or what io_uring_register(2) is given how many of */
};

/* A call between its entry and its return. */
struct call {
	struct record record;
	struct stay stays[INFLIGHT_MM + 1];
	__u64 user; /* struct user_struct *; 0: nobody is charged */
	__u64 argument; /* of io_uring_register(2), in user space; the struct mmpin of a send */
	__u64 memcg;	/* in which memory is being freed for the call */
	__u64 memcg_pages; /* that the call wants it to have room for */
	__u32 comparing; /* functions that compare, one of which may call the other */
	__u32 pinned_at_once; /* by vfio, the last time */
	__s64 uncompared; /* pages that vfio has pinned, and not yet been let have */
};
#define CALL_SLOTS 256
#define CALL_OVERFLOW 2048
#include "calls.h"

/* The levels of a charger's calls. The inner one is of what may come inside of its
 * others: called by them, or in an interrupt. */
#define OUTER(charger) ((charger) << 1)
#define INNER(charger) ((charger) << 1 | 1)
#define charger_of(level) ((level) >> 1)
_Static_assert(INNER(CHARGER_COUNT) < CALL_LEVELS, "each charger has two levels of its own");

static __always_inline struct call *charge_find(__u32 level)
{
	return call_find(call_key(level, call_by_thread()));
}

/* Reports whether a charger may charge mm_struct.locked_vm, which mlock() counts in. */
static __always_inline bool charges_locked(enum charger charger)
{
	return charger == CHARGER_VFIO || charger == CHARGER_IOMMUFD;
}

static __always_inline struct call *charge_begin(__u32 level, struct user_struct *user, struct mm_struct *mm)
{
	const struct config *config = config_get();
	struct header header = { .kind = RECORD_CHARGER };
	struct call *call;
	struct record *r;

	if (!config)
		return 0;
	caller_read(config, &header);
	if (user_has_perf_mlock())
		header.flags |= FLAG_SPLIT_COUNTER;
	call = call_enter(call_key(level, call_by_thread()));
	if (!call || !user)
		return call;
	call->user = (__u64)user;
	inflight_enter(INFLIGHT_USER, &call->stays[INFLIGHT_USER], locked_vm_address(user));
	if (mm)
		inflight_enter(INFLIGHT_MM, &call->stays[INFLIGHT_MM], (__u64)mm);
	r = &call->record;
	r->header = header;
	r->charger = charger_of(level);
	r->user.owner = user_uid(user);
	r->user.before = user_locked_vm(user);
	r->process.owner = (__u64)mm;
	if (mm)
		r->process.before = mm_pinned(mm);
	if (mm && charges_locked(r->charger))
		r->locked_before = mm_locked(mm);
	return call;
}

/* What a call is about, unless that is known. */
static __always_inline void call_holder(struct call *call, const void *holder)
{
	if (call && !call->record.holder)
		call->record.holder = (__u64)holder;
}

static __always_inline struct call *call_is(struct call *call, enum function function)
{
	if (call)
		call->record.function = function;
	return call;
}

static __always_inline struct call *release_begin(__u32 level, struct user_struct *user, struct mm_struct *mm)
{
	return call_is(charge_begin(level, user, mm), FUNCTION_RELEASE);
}

/* What an outer call has, it has with all that it calls. */
static __always_inline void release_begin_inner(enum charger charger, struct user_struct *user, struct mm_struct *mm,
						const void *holder)
{
	struct call *call = charge_find(OUTER(charger));

	call_holder(call ?: release_begin(INNER(charger), user, mm), holder);
}

static __always_inline struct call *charge_begin_current(enum charger charger)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return charge_begin(OUTER(charger), kernel_read(task, cred, user), kernel_read(task, mm));
}

static __always_inline void read_after(struct call *call)
{
	struct record *r = &call->record;

	r->user.after = user_locked_vm((void *)call->user);
	if (r->process.owner)
		r->process.after = mm_pinned((void *)r->process.owner);
	if (r->process.owner && charges_locked(r->charger))
		r->locked_after = mm_locked((void *)r->process.owner);
}

/* Errors that a limit on locked memory can cause. */
static __always_inline bool is_refusal(int ret)
{
	return ret == -EPERM || ret == -ENOMEM || ret == -ENOBUFS;
}

static __always_inline void charge_report(void *ctx, struct call *call, int ret)
{
	struct record *r = &call->record;
	reserved_t reserved = record_reserve();

	read_after(call);
	r->ret = ret;
	if (ret < 0)
		caller_read_limits(&r->header);
	r->header.flags |= user_flags((void *)call->user, &r->user, &call->stays[INFLIGHT_USER]);
	if (r->process.owner && !inflight_exclusive(INFLIGHT_MM, &call->stays[INFLIGHT_MM]))
		r->header.flags |= FLAG_OVERLAP_MM;
	record_submit(ctx, reserved, r);
}

static __always_inline bool has_moved(const struct record *r)
{
	return r->user.after != r->user.before || r->process.after != r->process.before ||
	       r->locked_after != r->locked_before;
}

/* The stack has no room for it beside a call, and no kprobe comes upon another one's program. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct record);
} closed_record SEC(".maps");

/* The last reference to what a user was charged for has gone, and nothing has come back yet.
 * Without a holder: what is known of the user's others holds no more. */
static __always_inline void report_closed(void *ctx, enum charger charger, struct user_struct *user,
					  const void *holder, __s64 pages)
{
	const struct config *config = config_get();
	reserved_t reserved;
	struct record *r;
	__u32 zero = 0;

	r = bpf_map_lookup_elem(&closed_record, &zero);
	if (!config || !user || !r)
		return;
	__builtin_memset(r, 0, sizeof(*r));
	r->header.kind = RECORD_CHARGER;
	r->charger = charger;
	r->holder = (__u64)holder;
	r->holder_pages = pages;
	caller_read(config, &r->header);
	if (task_is_kernel((void *)bpf_get_current_task()))
		caller_blank(&r->header);
	r->header.flags |= FLAG_CLOSED;
	if (user_has_perf_mlock())
		r->header.flags |= FLAG_SPLIT_COUNTER;
	r->user.owner = user_uid(user);
	reserved = record_reserve();
	r->user.before = r->user.after = user_locked_vm(user);
	record_submit(ctx, reserved, r);
}

/* ---- what was asked for ---- */

/* The kernel is about to compare pages, and what a counter holds, with the limit. */
static __always_inline void asked_begin(struct call *call, struct user_struct *user, __u64 pages)
{
	struct record *r = &call->record;

	r->asked += pages;
	r->last_asked = pages;
	r->last_held = user_locked_vm(user);
}

static __always_inline void asked_end(struct call *call, int ret)
{
	call->record.accounting = ret < 0 ? ACCOUNTING_REFUSED : ACCOUNTING_PASSED;
}

/* The part of struct iovec, and of struct io_uring_rsrc_register. */
struct vector {
	__u64 base;
	__u64 bytes;
};
struct vectors_given {
	__u32 count;
	__u32 flags;
	__u64 reserved;
	__u64 vectors;
};
#define REGISTER_BUFFERS 0
#define REGISTER_BUFFERS2 15
#define REGISTER_BUFFERS_UPDATE 16
#define REGISTER_CLONE_BUFFERS 30 /* 6.12 (7cc2a6eadcd7) */
#ifdef PINWATCH_LEGACY
#define VECTORS_READ 16 /* without a loop */
#else
#define VECTORS_READ 64
#endif

static __always_inline __s64 vector_pages(const struct vector *v, __u32 page_shift)
{
	__u64 page = (__u64)1 << page_shift;

	return ((v->base + v->bytes + page - 1) >> page_shift) - (v->base >> page_shift);
}

/* How many pages buffers lie on that io_uring_register(2) is given; 0: not known. Those
 * of huge pages are more, and the kernel alone knows. */
static __always_inline __s64 vectors_pages(__u64 vectors, __u32 count, __u32 page_shift)
{
	struct vector v;
	__s64 pages = 0;

	if (count > VECTORS_READ)
		return 0;
#ifdef PINWATCH_LEGACY
#pragma unroll
	for (int i = 0; i < VECTORS_READ; i++) {
		if (i < count && bpf_probe_read_user(&v, sizeof(v), (void *)(vectors + i * sizeof(v))) == 0)
			pages += vector_pages(&v, page_shift);
	}
#else
	for (int i = 0; i < VECTORS_READ; i++) {
		/* Without a branch, which the verifier would follow both ways each time: half a
		 * million instructions. A read that fails leaves zeroes, which are no pages. */
		__s64 beyond = (__s64)i - (__s64)count;

		barrier_var(beyond); /* else the compiler has a branch */
		bpf_probe_read_user(&v, sizeof(v), (void *)(vectors + i * sizeof(v)));
		pages += vector_pages(&v, page_shift) & (beyond >> 63);
	}
#endif
	return pages;
}

static __always_inline void derive_asked(struct call *call)
{
	const struct config *config = config_get();
	struct vectors_given given = {};
	struct record *r = &call->record;

	if (!config || r->asked)
		return;
	if (r->request == REGISTER_BUFFERS) {
		given.vectors = call->argument;
		given.count = r->count;
	} else if (r->request != REGISTER_BUFFERS2 ||
		   bpf_probe_read_user(&given, sizeof(given), (void *)call->argument)) {
		return;
	}
	r->asked = vectors_pages(given.vectors, given.count, config->page_shift);
}

static __always_inline void charge_end(void *ctx, __u32 level, int ret)
{
	struct call call;

	if (!call_take(call_key(level, call_by_thread()), &call))
		return;
	if (call.user) {
		read_after(&call);
		/* Another call may have moved the counter as far back. */
		if (has_moved(&call.record) || is_refusal(ret) || (ret >= 0 && call.record.asked))
			charge_report(ctx, &call, ret);
	}
	call_exit(&call);
}

/* ---- probes ---- */

/* What a function does to the caller's own user and mm. */
#define PROBE_PAIR(function, charger) CURRENT_PAIR(function, charger, FUNCTION_OTHER)
/* The same of one that gives back alone. */
#define RELEASE_PAIR(function, charger) CURRENT_PAIR(function, charger, FUNCTION_RELEASE)
#define CURRENT_PAIR(function, charger, what)                                  \
	SEC("kprobe/" #function)                                               \
	int BPF_KPROBE(kprobe_##function)                                      \
	{                                                                      \
		call_is(charge_begin_current(charger), what);                  \
		return 0;                                                      \
	}                                                                      \
	PROBE_RETURN(function, OUTER(charger))

#define PROBE_RETURN(function, level)                                          \
	SEC("kretprobe/" #function)                                            \
	int BPF_KRETPROBE(kretprobe_##function, int ret)                       \
	{                                                                      \
		charge_end(ctx, level, ret);                                   \
		return 0;                                                      \
	}

static __always_inline struct call *ring_call_begin(enum function function, __u32 request, __u32 count, __u64 argument)
{
	struct call *call = charge_begin_current(CHARGER_IO_URING);

	if (!call)
		return 0;
	call->argument = argument;
	call->record.function = function;
	call->record.request = request;
	call->record.count = count;
	return call;
}

SEC("kprobe/sys_io_uring_setup")
int BPF_KPROBE(kprobe_sys_io_uring_setup, struct pt_regs *regs)
{
	__u32 flags = 0;

	/* The third word of struct io_uring_params. */
	bpf_probe_read_user(&flags, sizeof(flags), (void *)(syscall_arg(regs, 1) + 8));
	ring_call_begin(FUNCTION_RING_SETUP, flags, syscall_arg(regs, 0), 0);
	return 0;
}

/* 6.5: the ring gets a place in a table of the thread's, and no file descriptor. */
#define RING_WITHOUT_FD (1U << 15) /* IORING_SETUP_REGISTERED_FD_ONLY */
#define RING_BY_INDEX (1U << 31)   /* IORING_REGISTER_USE_REGISTERED_RING */

SEC("kretprobe/sys_io_uring_setup")
int BPF_KRETPROBE(kretprobe_sys_io_uring_setup, int ret)
{
	struct call *call = ret >= 0 ? charge_find(OUTER(CHARGER_IO_URING)) : 0;

	if (call && !(call->record.request & RING_WITHOUT_FD))
		call_holder(call, ring_of_fd(ret));
	charge_end(ctx, OUTER(CHARGER_IO_URING), ret);
	return 0;
}

/* How many buffers, of what else how many: the newer calls are given the size of a struct, which
 * has the number. */
static __always_inline __u32 number_given(__u32 request, __u64 argument, __u32 count)
{
	__u64 at = 0; /* in struct io_uring_rsrc_register */

	if (request == REGISTER_BUFFERS_UPDATE)
		at = 24; /* in struct io_uring_rsrc_update2 */
	else if (request != REGISTER_BUFFERS2)
		return count;
	if (bpf_probe_read_user(&count, sizeof(count), (void *)(argument + at)))
		return 0;
	return count;
}

SEC("kprobe/sys_io_uring_register")
int BPF_KPROBE(kprobe_sys_io_uring_register, struct pt_regs *regs)
{
	__u32 given = syscall_arg(regs, 1), request = given & ~RING_BY_INDEX;
	__u64 argument = syscall_arg(regs, 2);
	struct call *call = ring_call_begin(FUNCTION_RING_REGISTER, request,
					    number_given(request, argument, syscall_arg(regs, 3)), argument);

	if (call && !(given & RING_BY_INDEX))
		call_holder(call, ring_of_fd(syscall_arg(regs, 0)));
	return 0;
}

SEC("kretprobe/sys_io_uring_register")
int BPF_KRETPROBE(kretprobe_sys_io_uring_register, int ret)
{
	struct call *call = charge_find(OUTER(CHARGER_IO_URING));

	if (call && is_refusal(ret))
		derive_asked(call);
	/* Another ring has the buffers now too: they may outlive the one that was charged. */
	else if (call && ret >= 0 && call->record.request == REGISTER_CLONE_BUFFERS)
		report_closed(ctx, CHARGER_IO_URING, (void *)call->user, 0, 0);
	charge_end(ctx, OUTER(CHARGER_IO_URING), ret);
	return 0;
}

/* A memory cgroup has no room for what one of these calls allocates: the kernel frees some of
 * its memory, and tries again, several times. If there is none after the last time, it
 * refuses. */
SEC("kprobe/try_to_free_mem_cgroup_pages")
int BPF_KPROBE(kprobe_free_cgroup_pages, struct mem_cgroup *memcg, __u64 pages)
{
	struct call *call = charge_find(OUTER(CHARGER_IO_URING));

	if (call) {
		call->memcg = (__u64)memcg;
		call->memcg_pages = pages;
	}
	return 0;
}

SEC("kretprobe/try_to_free_mem_cgroup_pages")
int BPF_KRETPROBE(kretprobe_free_cgroup_pages)
{
	struct call *call = charge_find(OUTER(CHARGER_IO_URING));
	const struct config *config = config_get();
	struct mem_cgroup *memcg;
	__s64 usage, wanted;
	bool full;

	if (!call || !config || !call->memcg)
		return 0;
	memcg = (void *)call->memcg;
	usage = BPF_CORE_READ(memcg, memory.usage.counter); /* once: what is said of it is held against it */
	full = usage + (__s64)call->memcg_pages > (__s64)BPF_CORE_READ(memcg, memory.max);
	wanted = call->memcg_pages << config->page_shift;
	/* Where a ring's memory was refused in one piece, the kernel tries it page by page
	 * (io_region_allocate_pages), which does not work for memory that is charged
	 * (alloc_pages_bulk): room for a page is no room for the ring. */
	if (!full && call->record.header.flags & FLAG_MEMCG_REFUSED && wanted < call->record.wanted_bytes)
		return 0;
	call->record.header.flags &= ~FLAG_MEMCG_REFUSED;
	if (full)
		call->record.header.flags |= FLAG_MEMCG_REFUSED;
	call->record.limit_cgroup_id = memcg_cgroup_id(memcg);
	call->record.usage_bytes = usage << config->page_shift;
	call->record.wanted_bytes = wanted;
	call->record.limit_bytes = memory_max(memcg, config->page_shift);
	return 0;
}

/* Whoever made the ring is charged for its buffers, whoever registers them: up to here it was
 * taken to be the caller. */
static __always_inline void ring_payer(struct call *call, struct user_struct *user, struct mm_struct *mm)
{
	struct record *r = &call->record;

	if (call->user != (__u64)user) {
		inflight_exit(INFLIGHT_USER, &call->stays[INFLIGHT_USER]);
		inflight_enter(INFLIGHT_USER, &call->stays[INFLIGHT_USER], locked_vm_address(user));
		call->user = (__u64)user;
		r->user.owner = user_uid(user);
		r->user.before = user_locked_vm(user);
	}
	if (mm && r->process.owner != (__u64)mm) {
		inflight_exit(INFLIGHT_MM, &call->stays[INFLIGHT_MM]);
		inflight_enter(INFLIGHT_MM, &call->stays[INFLIGHT_MM], (__u64)mm);
		r->process.owner = (__u64)mm;
		r->process.before = mm_pinned(mm);
	}
}

SEC("kprobe/io_sqe_buffers_register")
int BPF_KPROBE(kprobe_io_sqe_buffers_register, struct io_ring_ctx *ring)
{
	struct call *call = charge_find(OUTER(CHARGER_IO_URING));
	struct user_struct *user = ring_user(ring);

	call_holder(call, ring);
	if (!call || !call->user)
		return 0;
	if (ring_is_exempt(ring))
		call->record.header.flags |= FLAG_EXEMPT;
	if (!user)
		return 0;
	call->record.header.flags |= FLAG_CHARGED;
	ring_payer(call, user, ring_mm(ring));
	return 0;
}

static __always_inline struct call *send_find(void)
{
	struct call *call = charge_find(INNER(CHARGER_IO_URING));

	return call && call->record.function == FUNCTION_RING_SEND ? call : 0;
}

/* The comparison itself. Outside of the system calls above it is a zero-copy send, which
 * is of interest when it is refused: its end cannot be seen. */
static __always_inline void ring_asks(struct user_struct *user, __u64 pages)
{
	struct call *call = charge_find(OUTER(CHARGER_IO_URING));

	if (!user)
		return;
	if (!call)
		call = send_find();
	if (!call)
		call = call_is(charge_begin(INNER(CHARGER_IO_URING), user, 0), FUNCTION_RING_SEND);
	if (call && !call->comparing++)
		asked_begin(call, user, pages);
}

static __always_inline void ring_answer(void *ctx, int ret)
{
	struct call *call = charge_find(OUTER(CHARGER_IO_URING));
	bool sends = !call;
	struct call send;

	if (sends)
		call = send_find();
	if (!call || !call->comparing || --call->comparing)
		return;
	if (!sends) {
		if (call->record.last_asked)
			asked_end(call, ret);
		return;
	}
	if (!call_take(call_key(INNER(CHARGER_IO_URING), call_by_thread()), &send))
		return;
	if (ret < 0 && send.user) {
		asked_end(&send, ret);
		charge_report(ctx, &send, ret);
	}
	call_exit(&send);
}

#define RING_ANSWER(function, program)                                         \
	SEC("kretprobe/" #function)                                            \
	int BPF_KRETPROBE(program, int ret)                                    \
	{                                                                      \
		ring_answer(ctx, ret);                                         \
		return 0;                                                      \
	}

SEC("kprobe/__io_account_mem")
int BPF_KPROBE(kprobe_io_account_mem, struct user_struct *user, __u64 pages)
{
	ring_asks(user, pages);
	return 0;
}
RING_ANSWER(__io_account_mem, kretprobe_io_account_mem)

/* 6.16 to 6.19. It holds nothing against the limit without a user. */
SEC("kprobe/io_account_mem")
int BPF_KPROBE(kprobe_io_account_mem_ring, struct io_ring_ctx *ring, __u64 pages)
{
	ring_asks(ring_user(ring), pages);
	return 0;
}
RING_ANSWER(io_account_mem, kretprobe_io_account_mem_ring)

/* 7.0. */
SEC("kprobe/io_account_mem")
int BPF_KPROBE(kprobe_io_account_mem_user, struct user_struct *user, void *mm, __u64 pages)
{
	ring_asks(user, pages);
	return 0;
}

/* What a ring's end gives back, wherever that is done. */
SEC("kprobe/io_sqe_buffers_unregister")
int BPF_KPROBE(kprobe_io_sqe_buffers_unregister, struct io_ring_ctx *ring)
{
	release_begin_inner(CHARGER_IO_URING, ring_user(ring), ring_mm(ring), ring);
	return 0;
}
PROBE_RETURN(io_sqe_buffers_unregister, INNER(CHARGER_IO_URING))

SEC("kprobe/io_free_region")
int BPF_KPROBE(kprobe_io_free_region, struct io_ring_ctx *ring)
{
	release_begin_inner(CHARGER_IO_URING, ring_user(ring), ring_mm(ring), ring);
	return 0;
}
PROBE_RETURN(io_free_region, INNER(CHARGER_IO_URING))

/* 7.0: takes the user in place of the ring. */
SEC("kprobe/io_free_region")
int BPF_KPROBE(kprobe_io_free_region_user, struct user_struct *user)
{
	release_begin_inner(CHARGER_IO_URING, user, 0, 0);
	return 0;
}

static __always_inline struct call *ring_begin(struct io_ring_ctx *ring)
{
	struct call *call = release_begin(OUTER(CHARGER_IO_URING), ring_user(ring), ring_mm(ring));

	call_holder(call, ring);
	return call;
}

/* A ring's end, and the late end of its buffers, in workers of the kernel's. */
SEC("kprobe/io_ring_exit_work")
int BPF_KPROBE(kprobe_io_ring_exit_work, void *work)
{
	struct io_ring_ctx *ring = ring_of_exit_work(work);
	struct call *call = ring ? ring_begin(ring) : 0;

	/* It waits long before it gives back. The next reading tells what it did
	 * itself. */
	if (call) {
		call_suspend(call);
		call->record.process.owner = call->record.process.before = 0;
	}
	return 0;
}
PROBE_RETURN(io_ring_exit_work, OUTER(CHARGER_IO_URING))

/* Before 5.7 a ring ends, with all that it was charged for, when its file does, and up to
 * 5.11 that gives the rings' own pages back. */
SEC("kprobe/io_uring_release")
int BPF_KPROBE(kprobe_io_uring_release, void *inode, struct file *file)
{
	ring_begin(ring_of_file(file));
	return 0;
}
PROBE_RETURN(io_uring_release, OUTER(CHARGER_IO_URING))

/* The last reference to a ring's file goes: from now on it is no use to anybody. Its pages are
 * given back by the work above. */
SEC("kprobe/io_uring_release")
int BPF_KPROBE(kprobe_io_uring_closed, void *inode, struct file *file)
{
	struct io_ring_ctx *ring = ring_of_file(file);

	report_closed(ctx, CHARGER_IO_URING, ring_user(ring), ring, 0);
	return 0;
}

SEC("kprobe/io_rsrc_put_work")
int BPF_KPROBE(kprobe_io_rsrc_put_work, void *work)
{
	struct io_ring_ctx *ring = ring_of_rsrc_work(work);

	if (ring)
		ring_begin(ring);
	return 0;
}
PROBE_RETURN(io_rsrc_put_work, OUTER(CHARGER_IO_URING))

/* The beginning of struct xdp_umem_reg, which is the same for user space. */
struct umem_asked {
	__u64 address;
	__u64 bytes;
};

SEC("kprobe/xdp_umem_create")
int BPF_KPROBE(kprobe_xdp_umem_create, const void *argument)
{
	struct umem_asked umem = {};
	const struct config *config = config_get();
	struct call *call = charge_begin_current(CHARGER_XDP);

	if (!call || !config)
		return 0;
	/* The comparison is a part of this function. */
	call->record.function = FUNCTION_UMEM;
	bpf_probe_read_kernel(&umem, sizeof(umem), argument);
	call->record.asked = (umem.bytes + ((__u64)1 << config->page_shift) - 1) >> config->page_shift;
	return 0;
}

/* Whoever may exceed the limit is not charged. */
SEC("kretprobe/xdp_umem_create")
int BPF_KRETPROBE(kretprobe_xdp_umem_create, struct xdp_umem *umem)
{
	int ret = pointer_errno(umem);
	struct call *call = charge_find(OUTER(CHARGER_XDP));

	if (call && !ret) {
		call->record.asked = kernel_read(umem, user) ? umem_pages(umem) : 0;
		call_holder(call, umem);
	}
	charge_end(ctx, OUTER(CHARGER_XDP), ret);
	return 0;
}

/* A socket goes that alone has its umem. RCU lets the socket go later, and then a worker the
 * umem. */
SEC("kprobe/xsk_release")
int BPF_KPROBE(kprobe_xsk_release, struct socket *socket)
{
	struct xdp_umem *umem = socket_last_umem(socket);

	if (umem)
		report_closed(ctx, CHARGER_XDP, kernel_read(umem, user), umem, umem_pages(umem));
	return 0;
}

SEC("kprobe/xdp_umem_release_deferred")
int BPF_KPROBE(kprobe_xdp_umem_release_deferred, void *work)
{
	struct xdp_umem *umem = umem_of_work(work);
	struct call *call = release_begin(OUTER(CHARGER_XDP), kernel_read(umem, user), 0);

	call_holder(call, umem);
	if (call)
		call->record.asked = -umem_pages(umem);
	return 0;
}
PROBE_RETURN(xdp_umem_release_deferred, OUTER(CHARGER_XDP))

/* RCU lets sockets go, in interrupts. */
SEC("kprobe/xdp_put_umem")
int BPF_KPROBE(kprobe_xdp_put_umem, struct xdp_umem *umem)
{
	if (umem)
		call_holder(release_begin(INNER(CHARGER_XDP), kernel_read(umem, user), 0), umem);
	return 0;
}
PROBE_RETURN(xdp_put_umem, INNER(CHARGER_XDP))

/* It is the comparison, and asks for two pages more than the bytes would fill. */
SEC("kprobe/mm_account_pinned_pages")
int BPF_KPROBE(kprobe_mm_account_pinned_pages, void *pin, __u64 bytes)
{
	const struct config *config = config_get();
	struct call *call = charge_begin_current(CHARGER_ZEROCOPY);

	if (!call || !config)
		return 0;
	call->record.function = FUNCTION_SEND;
	call->argument = (__u64)pin;
	if (call->user)
		asked_begin(call, (void *)call->user, (bytes >> config->page_shift) + 2);
	return 0;
}

SEC("kretprobe/mm_account_pinned_pages")
int BPF_KRETPROBE(kretprobe_mm_account_pinned_pages, int ret)
{
	struct call *call = charge_find(OUTER(CHARGER_ZEROCOPY));
	struct mmpin *pin;

	if (call) {
		asked_end(call, ret);
		pin = (void *)call->argument;
		if (!ret && !kernel_read(pin, user))
			call->record.asked = 0; /* it may exceed the limit, and is not charged */
	}
	charge_end(ctx, OUTER(CHARGER_ZEROCOPY), ret);
	return 0;
}

/* The end of a MSG_ZEROCOPY buffer, in interrupts too. */
#define ZEROCOPY_PAIR(function, ...)                                           \
	SEC("kprobe/" #function)                                               \
	int BPF_KPROBE(kprobe_##function, __VA_ARGS__)                         \
	{                                                                      \
		release_begin(INNER(CHARGER_ZEROCOPY), zerocopy_user(buffer), 0); \
		return 0;                                                      \
	}                                                                      \
	SEC("kretprobe/" #function)                                            \
	int BPF_KRETPROBE(kretprobe_##function)                                \
	{                                                                      \
		charge_end(ctx, INNER(CHARGER_ZEROCOPY), 0);                   \
		return 0;                                                      \
	}

/* Up to 5.11 or so the buffer is the first argument, then it follows the skb. */
ZEROCOPY_PAIR(sock_zerocopy_callback, void *buffer)
ZEROCOPY_PAIR(msg_zerocopy_callback, void *skb, void *buffer)
ZEROCOPY_PAIR(msg_zerocopy_complete, void *skb, void *buffer)

/* ---- memory that devices reach ---- */

/* A call that is to pin so many pages. */
static __always_inline void pin_begin(enum charger charger, enum function function, __u64 pages)
{
	struct call *call = call_is(charge_begin_current(charger), function);

	if (call)
		call->record.asked = pages;
}

/* What it came to, the counters tell. */
static __always_inline void pin_end(void *ctx, enum charger charger, int ret)
{
	struct call *call = charge_find(OUTER(charger));

	if (!call)
		return;
	if (ret >= 0)
		call->record.asked = 0;
	charge_end(ctx, OUTER(charger), ret);
}

static __always_inline void unpin_begin(enum charger charger)
{
	call_is(charge_begin_current(charger), FUNCTION_RELEASE);
}

/* How many pages some bytes lie on. */
static __always_inline __u64 pages_spanned(__u64 address, __u64 bytes)
{
	const struct config *config = config_get();
	struct vector v = { .base = address, .bytes = bytes };

	return config ? vector_pages(&v, config->page_shift) : 0;
}

/* The comparison is a part of what compilers inline, and so is all between it and this. What
 * it calls in other files tells how far it came: it pins pages, compares each with the limit,
 * and charges them, which may fail too. The memory of a device cannot be pinned so, and is not
 * compared. */
#define VFIO_IOMMU_MAP_DMA 0x3b71
#define VFIO_IOMMU_UNMAP_DMA 0x3b72
/* The beginning of struct vfio_iommu_type1_dma_map. */
struct vfio_asked {
	__u32 size;
	__u32 flags;
	__u64 address;
	__u64 iova;
	__u64 bytes;
};

SEC("kprobe/vfio_iommu_type1_ioctl")
int BPF_KPROBE(kprobe_vfio_iommu_type1_ioctl, void *iommu, unsigned int request, const void *argument)
{
	struct vfio_asked asked = {};

	if (request == VFIO_IOMMU_MAP_DMA) {
		bpf_probe_read_user(&asked, sizeof(asked), argument);
		pin_begin(CHARGER_VFIO, FUNCTION_VFIO_MAP, pages_spanned(asked.address, asked.bytes));
	} else if (request == VFIO_IOMMU_UNMAP_DMA) {
		unpin_begin(CHARGER_VFIO);
	}
	return 0;
}

SEC("kretprobe/vfio_iommu_type1_ioctl")
int BPF_KRETPROBE(kretprobe_vfio_iommu_type1_ioctl, int ret)
{
	pin_end(ctx, CHARGER_VFIO, ret);
	return 0;
}

static __always_inline struct call *vfio_maps(void)
{
	struct call *call = charge_find(OUTER(CHARGER_VFIO));

	return call && call->record.function == FUNCTION_VFIO_MAP ? call : 0;
}

SEC("kretprobe/pin_user_pages_remote")
int BPF_KRETPROBE(kretprobe_vfio_pin, long pages)
{
	struct call *call = vfio_maps();

	if (!call)
		return 0;
	call->record.accounting = pages > 0 ? ACCOUNTING_REFUSED : ACCOUNTING_PASSED; /* if this is the end of it */
	call->pinned_at_once = pages;
	call->uncompared = pages > 0 ? call->uncompared + pages : 0;
	return 0;
}

SEC("kprobe/__account_locked_vm")
int BPF_KPROBE(kprobe_vfio_account, struct mm_struct *mm, __u64 pages, bool more)
{
	struct call *call = vfio_maps();

	if (call)
		call->argument = more ? pages : 0; /* nor does it matter what is given back after a failure */
	return 0;
}

SEC("kretprobe/__account_locked_vm")
int BPF_KRETPROBE(kretprobe_vfio_account, int ret)
{
	struct call *call = vfio_maps();

	if (!call || !call->argument)
		return 0;
	call->uncompared -= call->argument;
	if (ret < 0)
		call->record.accounting = ACCOUNTING_REFUSED;
	else if (call->uncompared <= 0)
		call->record.accounting = ACCOUNTING_PASSED;
	/* Where it pins page by page, one that does not lie beside the last is let go, and
	 * pinned again: it may be that, or one that is compared next. */
	else if (call->pinned_at_once == 1)
		call->record.accounting = ACCOUNTING_UNSEEN;
	else
		call->record.accounting = ACCOUNTING_REFUSED;
	return 0;
}

/* What was mapped is given back when the last group leaves, or the container is closed. */
RELEASE_PAIR(vfio_iommu_type1_detach_group, CHARGER_VFIO)
RELEASE_PAIR(vfio_iommu_type1_release, CHARGER_VFIO)

/* It holds the pages against the limit itself. */
SEC("kprobe/ib_umem_get")
int BPF_KPROBE(kprobe_ib_umem_get, void *device, __u64 address, __u64 bytes)
{
	pin_begin(CHARGER_RDMA, FUNCTION_RDMA_GET, pages_spanned(address, bytes));
	return 0;
}

SEC("kretprobe/ib_umem_get")
int BPF_KRETPROBE(kretprobe_ib_umem_get, const void *umem)
{
	pin_end(ctx, CHARGER_RDMA, pointer_errno(umem));
	return 0;
}
RELEASE_PAIR(ib_umem_release, CHARGER_RDMA)

/* It fails only where the limit refuses. */
#define IOMMUFD_PAIR(function)                                                 \
	SEC("kprobe/" #function)                                               \
	int BPF_KPROBE(kprobe_##function, void *pages, __u64 count, bool more) \
	{                                                                      \
		if (more)                                                      \
			pin_begin(CHARGER_IOMMUFD, FUNCTION_IOMMUFD_PIN, count); \
		else                                                           \
			unpin_begin(CHARGER_IOMMUFD);                          \
		return 0;                                                      \
	}                                                                      \
	SEC("kretprobe/" #function)                                            \
	int BPF_KRETPROBE(kretprobe_##function, int ret)                       \
	{                                                                      \
		struct call *call = charge_find(OUTER(CHARGER_IOMMUFD));       \
                                                                               \
		if (call)                                                      \
			asked_end(call, ret);                                  \
		pin_end(ctx, CHARGER_IOMMUFD, ret);                            \
		return 0;                                                      \
	}
IOMMUFD_PAIR(iopt_pages_update_pinned)
IOMMUFD_PAIR(do_update_pinned)

#define VHOST_IOTLB_UPDATE 2
/* struct vhost_iotlb_msg. */
struct iotlb_message {
	__u64 iova;
	__u64 bytes;
	__u64 address;
	__u8 permissions;
	__u8 type;
};

/* Since 5.19 (91233ad711f1) there is the number of an address space before the message. */
SEC("kprobe/vhost_vdpa_process_iotlb_msg")
int BPF_KPROBE(kprobe_vhost_vdpa_process_iotlb_msg, void *vhost, __u64 second, __u64 third)
{
	struct iotlb_message message = {};

	bpf_probe_read_kernel(&message, sizeof(message), (void *)((__s64)second < 0 ? second : third));
	/* It asks for the bytes, with those before them on the first page of the device's. */
	if (message.type == VHOST_IOTLB_UPDATE)
		pin_begin(CHARGER_VDPA, FUNCTION_VDPA_MAP, pages_spanned(message.iova, message.bytes));
	else
		unpin_begin(CHARGER_VDPA);
	return 0;
}

SEC("kretprobe/vhost_vdpa_process_iotlb_msg")
int BPF_KRETPROBE(kretprobe_vhost_vdpa_process_iotlb_msg, int ret)
{
	pin_end(ctx, CHARGER_VDPA, ret);
	return 0;
}
RELEASE_PAIR(vhost_vdpa_release, CHARGER_VDPA)

PROBE_PAIR(secretmem_fault, CHARGER_SECRETMEM)
RELEASE_PAIR(secretmem_release, CHARGER_SECRETMEM)
