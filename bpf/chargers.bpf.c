//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * Watches the other ones that charge user_struct.locked_vm and pinned_vm:
 * io_uring, AF_XDP, MSG_ZEROCOPY, RDMA, iommufd, vfio, vDPA.
 *
 * What charges is often inlined, so calls are bracketed further out, and the
 * counters before and after tell. A call that moved nothing is not reported,
 * unless it was refused.
 */
#include "kernel.h"
#include "transport.h"
#include "flow.h"

char LICENSE[] SEC("license") = "GPL";

enum charger {
	CHARGER_IO_URING,
	CHARGER_XDP,
	CHARGER_ZEROCOPY,
	CHARGER_RDMA,
	CHARGER_IOMMUFD,
	CHARGER_VFIO,
	CHARGER_VDPA,
};

enum charge_flag {
	CHARGE_OVERLAP_USER = 1 << 0, /* another traced call moved the user's counter meanwhile */
	CHARGE_OVERLAP_MM = 1 << 1,
	CHARGE_COMMAND = 1 << 2,   /* by a descendant of the traced command */
	CHARGE_USER_GONE = 1 << 3, /* the user_struct was freed by the call */
	CHARGE_APART = 1 << 4,	   /* perf charges another counter here */
	CHARGE_CAP_IPC_LOCK = 1 << 5,
};

struct charge_event {
	struct header header; /* its time is that of the return */
	__u64 cgroup_id;      /* of the caller, v2 hierarchy */
	__u64 mm;	      /* whose pinned_vm; 0: none. An identity, never shown */
	__s64 user_before;    /* user_struct.locked_vm, pages */
	__s64 user_after;
	__s64 pinned_before; /* mm_struct.pinned_vm, pages */
	__s64 pinned_after;
	__s64 lock_limit; /* RLIMIT_MEMLOCK of the caller, pages */
	enum charger charger;
	enum charge_flag flags;
	__u32 pid; /* tgid */
	__u32 tid;
	__u32 uid;	 /* real uid of the caller */
	__u32 payer_uid; /* of the user whose counter was read */
	__u32 cpu;
	__s32 ret; /* a negative one is an errno */
	__u8 comm[16];
};

struct charge_call {
	struct charge_event event;
	__u64 user; /* struct user_struct * */
	__u64 user_flow;
	__u64 user_begun;
	__u64 mm_begun;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2048);
	__type(key, __u64); /* pid_tgid, and the charger in the topmost bits */
	__type(value, struct charge_call);
} charge_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct charge_call);
} charge_blank SEC(".maps");

static __always_inline __u64 charge_key(__u32 slot)
{
	return call_id() | (__u64)slot << 60;
}

/* A second slot of a charger, for what may come inside of its others: called by
 * them, when the outer bracket has it all, or in an interrupt. */
#define INNER(charger) ((charger) | 8)

/* A counter of its own is a flow of its own. */
static __always_inline __u64 user_flow(struct user_struct *user)
{
	return (__u64)user | user_has_perf_mlock();
}

static __always_inline void charge_begin_slot(__u32 slot, struct user_struct *user, struct mm_struct *mm)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct config *config = config_get();
	__u64 key = charge_key(slot);
	struct charge_call *call;
	struct charge_event *e;
	__u32 zero = 0;

	call = bpf_map_lookup_elem(&charge_calls, &key);
	if (call) {
		count_loss(missed_return);
		if (call->user_flow)
			flow_end(FLOW_USER, &call->user_flow);
		if (call->event.mm)
			flow_end(FLOW_MM, &call->event.mm);
	}
	call = bpf_map_lookup_elem(&charge_blank, &zero);
	if (!call || !config || !user)
		return;
	if (bpf_map_update_elem(&charge_calls, &key, call, BPF_ANY)) {
		count_loss(in_flight_full);
		return;
	}
	call = bpf_map_lookup_elem(&charge_calls, &key);
	if (!call)
		return;
	call->user = (__u64)user;
	call->user_flow = user_flow(user);
	call->user_begun = flow_begin(FLOW_USER, &call->user_flow);
	e = &call->event;
	e->mm = (__u64)mm;
	if (mm)
		call->mm_begun = flow_begin(FLOW_MM, &e->mm);
	e->header.record = RECORD_CHARGE;
	e->charger = slot & 7;
	e->pid = bpf_get_current_pid_tgid() >> 32;
	e->tid = (__u32)bpf_get_current_pid_tgid();
	e->uid = (__u32)bpf_get_current_uid_gid();
	e->cpu = bpf_get_smp_processor_id();
	e->cgroup_id = bpf_get_current_cgroup_id();
	bpf_get_current_comm(&e->comm, sizeof(e->comm));
	if (cred_cap_ipc_lock(BPF_CORE_READ(task, cred)))
		e->flags |= CHARGE_CAP_IPC_LOCK;
	if (config->command_parent && is_command(task, config->command_parent))
		e->flags |= CHARGE_COMMAND;
	if (user_has_perf_mlock())
		e->flags |= CHARGE_APART;
	e->lock_limit = BPF_CORE_READ(task, signal, rlim[RLIMIT_MEMLOCK].rlim_cur) >> config->page_shift;
	e->payer_uid = BPF_CORE_READ(user, uid.val);
	e->user_before = BPF_CORE_READ(user, locked_vm.counter);
	if (mm)
		e->pinned_before = mm_pinned(mm);
}

static __always_inline void charge_begin(enum charger charger, struct user_struct *user, struct mm_struct *mm)
{
	charge_begin_slot(charger, user, mm);
}

static __always_inline void charge_begin_inner(enum charger charger, struct user_struct *user, struct mm_struct *mm)
{
	__u64 outer = charge_key(charger);

	if (!bpf_map_lookup_elem(&charge_calls, &outer))
		charge_begin_slot(INNER(charger), user, mm);
}

/* Errors that a limit on locked memory can cause. */
static __always_inline bool is_refusal(int ret)
{
	return ret == -1 /* EPERM */ || ret == -12 /* ENOMEM */ || ret == -105 /* ENOBUFS */;
}

static __always_inline void charge_end(void *ctx, __u32 slot, int ret)
{
	__u64 key = charge_key(slot);
	struct charge_call *call = bpf_map_lookup_elem(&charge_calls, &key);
	struct charge_event *e;
	struct user_struct *user;
	__s64 user_now, pinned_now = 0;

	if (!call)
		return;
	e = &call->event;
	user = (void *)call->user;
	user_now = BPF_CORE_READ(user, locked_vm.counter);
	if (e->mm)
		pinned_now = mm_pinned((void *)e->mm);
	if (user_now != e->user_before || pinned_now != e->pinned_before || is_refusal(ret)) {
		place_t place = place_take(struct charge_event);

		e->user_after = BPF_CORE_READ(user, locked_vm.counter);
		e->pinned_after = e->mm ? mm_pinned((void *)e->mm) : 0;
		e->ret = ret;
		if (BPF_CORE_READ(user, __count.refs.counter) <= 0 || BPF_CORE_READ(user, uid.val) != e->payer_uid)
			e->flags |= CHARGE_USER_GONE;
		if (!flow_alone(FLOW_USER, &call->user_flow, call->user_begun))
			e->flags |= CHARGE_OVERLAP_USER;
		if (e->mm && !flow_alone(FLOW_MM, &e->mm, call->mm_begun))
			e->flags |= CHARGE_OVERLAP_MM;
		place_send(ctx, place, e);
	}
	if (call->user_flow)
		flow_end(FLOW_USER, &call->user_flow);
	if (e->mm)
		flow_end(FLOW_MM, &e->mm);
	bpf_map_delete_elem(&charge_calls, &key);
}

static __always_inline void charge_begin_current(enum charger charger)
{
	struct task_struct___mm *task = (void *)bpf_get_current_task();

	charge_begin(charger, BPF_CORE_READ((struct task_struct *)task, cred, user), BPF_CORE_READ(task, mm));
}

/* A bracket of the caller's own user and mm. */
#define BRACKET(name, charger)                                                 \
	SEC("kprobe/" #name)                                                   \
	int BPF_KPROBE(kprobe_##name)                                          \
	{                                                                      \
		charge_begin_current(charger);                                 \
		return 0;                                                      \
	}                                                                      \
	RETURN(name, charger)

#define RETURN(name, charger)                                                  \
	SEC("kretprobe/" #name)                                                \
	int BPF_KRETPROBE(kretprobe_##name, int ret)                           \
	{                                                                      \
		charge_end(ctx, charger, ret);                                 \
		return 0;                                                      \
	}

BRACKET(sys_io_uring_setup, CHARGER_IO_URING)
BRACKET(sys_io_uring_register, CHARGER_IO_URING)

static __always_inline void ring_begin(void *ring)
{
	struct io_ring_ctx *c = ring;

	charge_begin(CHARGER_IO_URING, BPF_CORE_READ(c, user), BPF_CORE_READ(c, mm_account));
}

/* What a ring's end gives back, wherever that is done. */
SEC("kprobe/io_sqe_buffers_unregister")
int BPF_KPROBE(kprobe_io_sqe_buffers_unregister, struct io_ring_ctx *c)
{
	charge_begin_inner(CHARGER_IO_URING, BPF_CORE_READ(c, user), BPF_CORE_READ(c, mm_account));
	return 0;
}
RETURN(io_sqe_buffers_unregister, INNER(CHARGER_IO_URING))

SEC("kprobe/io_free_region")
int BPF_KPROBE(kprobe_io_free_region, struct io_ring_ctx *c)
{
	charge_begin_inner(CHARGER_IO_URING, BPF_CORE_READ(c, user), BPF_CORE_READ(c, mm_account));
	return 0;
}
RETURN(io_free_region, INNER(CHARGER_IO_URING))

/* 7.0: takes the user in place of the ring. */
SEC("kprobe/io_free_region")
int BPF_KPROBE(kprobe_io_free_region_user, struct user_struct *user)
{
	charge_begin_inner(CHARGER_IO_URING, user, 0);
	return 0;
}

/* A ring's end, and the late end of its buffers, in workers of the kernel's. */
SEC("kprobe/io_ring_exit_work")
int BPF_KPROBE(kprobe_io_ring_exit_work, void *work)
{
	__u64 key = charge_key(CHARGER_IO_URING);
	struct charge_call *call;

	ring_begin(work - bpf_core_field_offset(struct io_ring_ctx, exit_work));
	call = bpf_map_lookup_elem(&charge_calls, &key);
	if (!call)
		return 0;
	/* It waits long before it gives back: other calls shall not count as
	 * overlapping it. What it did itself the next reading tells. */
	flow_end(FLOW_USER, &call->user_flow);
	call->user_begun = 0;
	call->user_flow = 0;
	if (call->event.mm)
		flow_end(FLOW_MM, &call->event.mm);
	call->mm_begun = 0;
	call->event.mm = 0;
	return 0;
}
RETURN(io_ring_exit_work, CHARGER_IO_URING)

SEC("kprobe/io_rsrc_put_work")
int BPF_KPROBE(kprobe_io_rsrc_put_work, void *work)
{
	struct io_ring_ctx___rsrc *c = 0;

	if (bpf_core_field_exists(c->rsrc_put_work))
		ring_begin(work - bpf_core_field_offset(struct io_ring_ctx___rsrc, rsrc_put_work));
	return 0;
}
RETURN(io_rsrc_put_work, CHARGER_IO_URING)

/* Returns a pointer or an ERR_PTR(), of which the lower half is the errno. */
BRACKET(xdp_umem_create, CHARGER_XDP)

SEC("kprobe/xdp_umem_release_deferred")
int BPF_KPROBE(kprobe_xdp_umem_release_deferred, void *work)
{
	struct xdp_umem *umem = work - bpf_core_field_offset(struct xdp_umem, work);

	charge_begin(CHARGER_XDP, BPF_CORE_READ(umem, user), 0);
	return 0;
}
RETURN(xdp_umem_release_deferred, CHARGER_XDP)

/* RCU lets sockets go, in interrupts. */

SEC("kprobe/xdp_put_umem")
int BPF_KPROBE(kprobe_xdp_put_umem, struct xdp_umem *umem)
{
	if (umem)
		charge_begin_slot(INNER(CHARGER_XDP), BPF_CORE_READ(umem, user), 0);
	return 0;
}
RETURN(xdp_put_umem, INNER(CHARGER_XDP))

BRACKET(mm_account_pinned_pages, CHARGER_ZEROCOPY)

static __always_inline void zerocopy_begin(void *uarg)
{
	struct ubuf_info_msgzc *msgzc = uarg;
	struct ubuf_info *old = uarg;

	if (bpf_core_field_exists(msgzc->mmp))
		charge_begin_slot(INNER(CHARGER_ZEROCOPY), BPF_CORE_READ(msgzc, mmp.user), 0);
	else if (bpf_core_field_exists(old->mmp))
		charge_begin_slot(INNER(CHARGER_ZEROCOPY), BPF_CORE_READ(old, mmp.user), 0);
}

/* Up to 5.11 or so the buffer is the first argument, then it follows the skb. */
SEC("kprobe/sock_zerocopy_callback")
int BPF_KPROBE(kprobe_zerocopy_first, void *uarg)
{
	zerocopy_begin(uarg);
	return 0;
}

SEC("kprobe/msg_zerocopy_complete")
int BPF_KPROBE(kprobe_zerocopy_second, void *skb, void *uarg)
{
	zerocopy_begin(uarg);
	return 0;
}

SEC("kretprobe/msg_zerocopy_complete")
int BPF_KRETPROBE(kretprobe_zerocopy)
{
	charge_end(ctx, INNER(CHARGER_ZEROCOPY), 0);
	return 0;
}

BRACKET(ib_umem_get, CHARGER_RDMA)
BRACKET(ib_umem_release, CHARGER_RDMA)
BRACKET(iopt_pages_update_pinned, CHARGER_IOMMUFD)
BRACKET(do_update_pinned, CHARGER_IOMMUFD)
BRACKET(vfio_lock_acct, CHARGER_VFIO)
BRACKET(vhost_vdpa_map, CHARGER_VDPA)
BRACKET(vhost_vdpa_pa_unmap, CHARGER_VDPA)
