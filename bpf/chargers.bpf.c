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

struct record {
	struct header header;
	struct reading user;	/* user_struct.locked_vm */
	struct reading process; /* pinned_vm; its owner is 0 where it is none's */
	enum charger charger;
	__s32 ret; /* a negative one is an errno */
};

/* A call between its entry and its return. */
struct call {
	struct record record;
	struct stay stays[INFLIGHT_MM + 1];
	__u64 user; /* struct user_struct *; 0: nobody is charged */
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
	return call;
}

/* What an outer call has, it has with all that it calls. */
static __always_inline void charge_begin_inner(enum charger charger, struct user_struct *user, struct mm_struct *mm)
{
	if (!charge_find(OUTER(charger)))
		charge_begin(INNER(charger), user, mm);
}

static __always_inline void charge_begin_current(enum charger charger)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	charge_begin(OUTER(charger), kernel_read(task, cred, user), kernel_read(task, mm));
}

static __always_inline void read_after(struct call *call)
{
	struct record *r = &call->record;

	r->user.after = user_locked_vm((void *)call->user);
	if (r->process.owner)
		r->process.after = mm_pinned((void *)r->process.owner);
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
	r->header.flags |= user_flags((void *)call->user, &r->user, &call->stays[INFLIGHT_USER]);
	if (r->process.owner && !inflight_exclusive(INFLIGHT_MM, &call->stays[INFLIGHT_MM]))
		r->header.flags |= FLAG_OVERLAP_MM;
	record_submit(ctx, reserved, r);
}

static __always_inline bool has_moved(const struct record *r)
{
	return r->user.after != r->user.before || r->process.after != r->process.before;
}

static __always_inline void charge_end(void *ctx, __u32 level, int ret)
{
	struct call call;

	if (!call_take(call_key(level, call_by_thread()), &call))
		return;
	if (call.user) {
		read_after(&call);
		if (has_moved(&call.record) || is_refusal(ret))
			charge_report(ctx, &call, ret);
	}
	call_exit(&call);
}

/* ---- probes ---- */

/* What a function does to the caller's own user and mm. */
#define PROBE_PAIR(function, charger)                                          \
	SEC("kprobe/" #function)                                               \
	int BPF_KPROBE(kprobe_##function)                                      \
	{                                                                      \
		charge_begin_current(charger);                                 \
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

PROBE_PAIR(sys_io_uring_setup, CHARGER_IO_URING)
PROBE_PAIR(sys_io_uring_register, CHARGER_IO_URING)

/* What a ring's end gives back, wherever that is done. */
SEC("kprobe/io_sqe_buffers_unregister")
int BPF_KPROBE(kprobe_io_sqe_buffers_unregister, struct io_ring_ctx *ring)
{
	charge_begin_inner(CHARGER_IO_URING, ring_user(ring), ring_mm(ring));
	return 0;
}
PROBE_RETURN(io_sqe_buffers_unregister, INNER(CHARGER_IO_URING))

SEC("kprobe/io_free_region")
int BPF_KPROBE(kprobe_io_free_region, struct io_ring_ctx *ring)
{
	charge_begin_inner(CHARGER_IO_URING, ring_user(ring), ring_mm(ring));
	return 0;
}
PROBE_RETURN(io_free_region, INNER(CHARGER_IO_URING))

/* 7.0: takes the user in place of the ring. */
SEC("kprobe/io_free_region")
int BPF_KPROBE(kprobe_io_free_region_user, struct user_struct *user)
{
	charge_begin_inner(CHARGER_IO_URING, user, 0);
	return 0;
}

static __always_inline struct call *ring_begin(struct io_ring_ctx *ring)
{
	return charge_begin(OUTER(CHARGER_IO_URING), ring_user(ring), ring_mm(ring));
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

SEC("kprobe/io_rsrc_put_work")
int BPF_KPROBE(kprobe_io_rsrc_put_work, void *work)
{
	struct io_ring_ctx *ring = ring_of_rsrc_work(work);

	if (ring)
		ring_begin(ring);
	return 0;
}
PROBE_RETURN(io_rsrc_put_work, OUTER(CHARGER_IO_URING))

/* Returns a pointer or an ERR_PTR(), of which the lower half is the errno. */
PROBE_PAIR(xdp_umem_create, CHARGER_XDP)

SEC("kprobe/xdp_umem_release_deferred")
int BPF_KPROBE(kprobe_xdp_umem_release_deferred, void *work)
{
	charge_begin(OUTER(CHARGER_XDP), kernel_read(umem_of_work(work), user), 0);
	return 0;
}
PROBE_RETURN(xdp_umem_release_deferred, OUTER(CHARGER_XDP))

/* RCU lets sockets go, in interrupts. */
SEC("kprobe/xdp_put_umem")
int BPF_KPROBE(kprobe_xdp_put_umem, struct xdp_umem *umem)
{
	if (umem)
		charge_begin(INNER(CHARGER_XDP), kernel_read(umem, user), 0);
	return 0;
}
PROBE_RETURN(xdp_put_umem, INNER(CHARGER_XDP))

PROBE_PAIR(mm_account_pinned_pages, CHARGER_ZEROCOPY)

/* The end of a MSG_ZEROCOPY buffer, in interrupts too. */
#define ZEROCOPY_PAIR(function, ...)                                           \
	SEC("kprobe/" #function)                                               \
	int BPF_KPROBE(kprobe_##function, __VA_ARGS__)                         \
	{                                                                      \
		charge_begin(INNER(CHARGER_ZEROCOPY), zerocopy_user(buffer), 0); \
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

PROBE_PAIR(ib_umem_get, CHARGER_RDMA)
PROBE_PAIR(ib_umem_release, CHARGER_RDMA)
PROBE_PAIR(iopt_pages_update_pinned, CHARGER_IOMMUFD)
PROBE_PAIR(do_update_pinned, CHARGER_IOMMUFD)
PROBE_PAIR(vfio_lock_acct, CHARGER_VFIO)
PROBE_PAIR(vhost_vdpa_map, CHARGER_VDPA)
PROBE_PAIR(vhost_vdpa_pa_unmap, CHARGER_VDPA)
PROBE_PAIR(secretmem_fault, CHARGER_SECRETMEM)
PROBE_PAIR(secretmem_release, CHARGER_SECRETMEM)
