//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * Watches the kernel charge and refund perf ring buffers.
 *
 * perf_mmap() and perf_mmap_close() are bracketed: what the accounting is based
 * on is read at entry, what became of it at return, and one record goes out at
 * return. All values are pages unless their name says otherwise.
 *
 * Before 5.16 neither function can be probed. There the calls are bracketed from
 * just outside: mmap_region(), which calls perf_mmap() with mmap_lock held, and
 * remove_vma(), which does hardly more than to call perf_mmap_close().
 *
 * The names user_locked, user_extra, user_lock_limit, extra, locked and
 * lock_limit are those of the local variables of perf_mmap()
 * (kernel/events/core.c; perf_mmap_calc_limits() since 6.18).
 */
#ifndef PINWATCH_LEGACY
#define PINWATCH_TYPED_READS
#endif
#include "kernel.h"
#include "transport.h"
#include "flow.h"

char LICENSE[] SEC("license") = "GPL";

enum op {
	OP_MAP,   /* perf_mmap() */
	OP_UNMAP, /* perf_mmap_close() */
};

enum area {
	AREA_DATA, /* the control page and the data pages */
	AREA_AUX,
};

enum flag {
	FLAG_CAP_IPC_LOCK = 1 << 0, /* effective, in the initial user namespace */
	FLAG_EXISTING = 1 << 1,	    /* the area was there before the call */
	FLAG_OVERLAP_USER = 1 << 2, /* another traced call moved the user's counter meanwhile */
	FLAG_OVERLAP_MM = 1 << 3,   /* the same, for pinned_vm */
	FLAG_USER_GONE = 1 << 4,    /* the user_struct was freed by the call: no counter after it */
	FLAG_COMMAND = 1 << 5,	    /* a descendant of the traced command */
	FLAG_LIMITS_MOVED = 1 << 6, /* a limit or a sysctl was changed during the call */
	FLAG_OVERLAP_BUFFER = 1 << 7, /* another traced call mapped or unmapped the buffer meanwhile */
};

struct event {
	struct header header; /* its time is that of the return */
	__u64 cgroup_id; /* of the caller, v2 hierarchy */
	__u64 mm;	 /* whose pinned_vm: the mapping's mm. An identity, never shown */
	__u64 buffer;	 /* the perf_buffer: an identity, never shown; 0 without one */

	__s64 user_extra;      /* pages of this mapping */
	__s64 user_locked;     /* the user's counter before + user_extra; for OP_UNMAP the counter alone */
	__s64 user_lock_limit; /* the user's allowance */
	__s64 extra;	       /* part for the process: what the buffer records, if the call made one, else the intent's */
	__s64 pinned_vm;       /* before */
	__s64 locked;	       /* pinned_vm + extra; for OP_UNMAP pinned_vm */
	__s64 lock_limit;      /* RLIMIT_MEMLOCK of the caller */

	__s64 user_after;   /* the user's counter at return */
	__s64 pinned_after; /* pinned_vm at return */

	/* What the buffer itself records: of its two areas at OP_UNMAP, of the one
	 * that the call made at OP_MAP, else 0. */
	__s64 data_pages; /* with the control page */
	__s64 data_extra; /* pages of it charged to the process */
	__s64 aux_pages;
	__s64 aux_extra;

	__u32 pid; /* tgid */
	__u32 tid;
	__u32 uid;	 /* real uid of the caller, initial user namespace */
	__u32 payer_uid; /* whose counter was read: the caller's user at OP_MAP, rb->mmap_user at OP_UNMAP */
	__u32 cpu;
	__s32 ret;
	__s32 paranoid;	 /* perf_event_paranoid */
	__s32 mappings;	 /* of the whole buffer, before the call */
	__s32 mappings_after;
	__s32 aux_mappings; /* of its AUX area */
	__s32 aux_mappings_after;
	enum op op;
	enum area area;
	enum flag flags; /* or-ed */
	__u32 online_cpus;
	__u32 pad;
	__u8 comm[16];
};

/* A call between its entry and its return, keyed by call_key(). */
struct call {
	struct event event;
	__u64 user;	   /* struct user_struct * */
	__u64 perf_event;  /* struct perf_event * */
	__u64 user_begun;  /* the flows' begun at entry */
	__u64 mm_begun;
	__u64 buffer_key; /* the perf_buffer at entry, or the perf_event where there was none */
	__u64 buffer_begun;
	__u32 reached; /* perf_mmap() was seen at work, for a bracket from outside */
	__u32 suspended; /* it has not begun on its flows */
};

/* Where the calls are whose slot in the array below is taken. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct call);
} calls_elsewhere SEC(".maps");

/* The slot of a call in an array, by its thread and op: to find it there costs a
 * tenth of what it costs in a hash map. Threads with the same lower bits of their
 * number share a slot, and those that find it taken go elsewhere. */
struct call_slot {
	__u64 claims; /* 1 of the call that is here, and 1 for a moment of each that tries */
	__u64 key;    /* of the call that is here; 0: none */
	__u64 elsewhere; /* how many calls found the slot taken, and are elsewhere now */
	struct call call;
};
#define CALL_SLOTS 1024
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CALL_SLOTS);
	__type(key, __u32);
	__type(value, struct call_slot);
} calls SEC(".maps");

/* A call that has not begun: never written. Calls elsewhere start as a copy of it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct call);
} blank SEC(".maps");

static __always_inline void call_flows_end(struct call *call)
{
	if (call->suspended)
		return;
	flow_end(FLOW_USER, &call->user);
	flow_end(FLOW_MM, &call->event.mm);
	flow_end(FLOW_BUFFER, &call->buffer_key);
}

/* What the rule holds a call against. */
struct limits {
	__s64 user_lock_limit;
	__s64 lock_limit;
	__s32 paranoid;
	__u32 online_cpus;
};

static __always_inline void read_limits(const struct config *config, struct limits *limits)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__s64 per_cpu = kernel_int(&sysctl_perf_event_mlock, config->perf_event_mlock_kb) >>
			(config->page_shift - 10);

	limits->online_cpus = kernel_online_cpus(config->online_cpus);
	limits->user_lock_limit = per_cpu * limits->online_cpus;
	limits->lock_limit = kernel_read(task, signal, rlim[RLIMIT_MEMLOCK].rlim_cur) >>
			     config->page_shift;
	limits->paranoid = kernel_int(&sysctl_perf_event_paranoid, config->perf_event_paranoid);
}

/* Whether they are still what they were when the call began: if not, the kernel
 * may have decided by other ones than were read. */
static __always_inline bool limits_moved(const struct event *e)
{
	const struct config *config = config_get();
	struct limits now;

	if (!config)
		return true;
	read_limits(config, &now);
	return now.user_lock_limit != e->user_lock_limit || now.lock_limit != e->lock_limit ||
	       now.paranoid != e->paranoid;
}

/* A thread is in at most one call of each kind: neither function calls itself,
 * but perf_mmap() of 6.14 to 7.0 calls perf_mmap_close() when it cannot insert
 * the pages. A pid_tgid never has the topmost bit. */
static __always_inline __u64 call_key(__u32 op)
{
	return bpf_get_current_pid_tgid() | (__u64)op << 63;
}

static __always_inline struct call_slot *call_slot(__u64 key)
{
	__u32 index = ((__u32)key << 1 | key >> 63) % CALL_SLOTS;

	return bpf_map_lookup_elem(&calls, &index);
}

/* Only the call itself writes its key into a slot. */
static __always_inline struct call *call_find(__u64 key)
{
	struct call_slot *slot = call_slot(key);

	if (!slot)
		return 0;
	if (slot->key == key)
		return &slot->call;
	return slot->elsewhere ? bpf_map_lookup_elem(&calls_elsewhere, &key) : 0;
}

/* Takes the slot unless another call has it. Who has it leaves its claim in, so
 * that no one else can find a single one. If two that try see each other's claim,
 * neither gets it: kernels before 5.12 cannot add and fetch in one step.
 *
 * Not on arm64: there such an addition orders no other access, and what a call
 * wrote into its slot could come after what the next one writes. */
static __always_inline struct call *call_claim(struct call_slot *slot, __u64 key)
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
	return &slot->call;
}

static __always_inline struct call *call_put_elsewhere(struct call_slot *slot, __u64 key)
{
	__u32 zero = 0;
	struct call *none = bpf_map_lookup_elem(&blank, &zero);

	if (!none || bpf_map_update_elem(&calls_elsewhere, &key, none, BPF_NOEXIST)) {
		count_loss(in_flight_full);
		return 0;
	}
	__sync_fetch_and_add(&slot->elsewhere, 1);
	return bpf_map_lookup_elem(&calls_elsewhere, &key);
}

/* Enters the calling thread's call, blank. It is filled in place, for it is too
 * large for the stack, and a scratch area of the CPU's is not safe where a program
 * can be preempted (fentry, fexit). */
static __always_inline struct call *call_make(__u32 op)
{
	__u64 key = call_key(op);
	struct call_slot *slot = call_slot(key);
	struct call *call = call_find(key);

	if (!slot)
		return 0;
	if (call) {
		count_loss(missed_return);
		if (call->user)
			call_flows_end(call);
	} else {
		call = call_claim(slot, key);
		if (!call)
			return call_put_elsewhere(slot, key);
	}
	__builtin_memset(call, 0, sizeof(*call));
	return call;
}

static __always_inline void call_forget(__u64 key)
{
	struct call_slot *slot = call_slot(key);

	if (!slot)
		return;
	if (slot->key == key) {
		slot->key = 0;
		__sync_fetch_and_add(&slot->claims, -1);
	} else {
		bpf_map_delete_elem(&calls_elsewhere, &key);
		__sync_fetch_and_add(&slot->elsewhere, -1);
	}
}

/* What the buffer itself records of an area's charge. */
static __always_inline void read_charge(struct event *e, void *rb, enum area area)
{
	if (area == AREA_AUX) {
		e->aux_pages = rb_read(rb, aux_nr_pages);
		e->aux_extra = rb_read(rb, aux_mmap_locked);
	} else {
		e->data_pages = rb_read(rb, nr_pages) + 1;
		e->data_extra = rb_read(rb, mmap_locked);
	}
}

/* How many mappings are left. As long as the event has the buffer, the buffer
 * is there to be read. It has lost it after the last unmapping, and after the
 * last one of this event alone: then the buffer may be freed, and only a count
 * that makes sense is taken. */
static __always_inline __s32 mappings_left(bool there, __s32 before, __s32 now)
{
	if (there)
		return now;
	return before > 1 && now > 0 && now < before ? now : 0;
}

/* Says whose call it is, and of what. */
static __always_inline void call_identify(const struct config *config, struct call *call, __u32 op,
					  struct mm_struct *mm, struct perf_event *perf_event,
					  struct user_struct *user)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cred *cred = kernel_read(task, cred);
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct event *e = &call->event;

	call->user = (__u64)user;
	call->perf_event = (__u64)perf_event;
	e->header.record = RECORD_CALL;
	e->op = op;
	e->mm = (__u64)mm;
	e->pid = pid_tgid >> 32;
	e->tid = (__u32)pid_tgid;
	e->uid = kernel_read(cred, uid.val);
	e->cgroup_id = bpf_get_current_cgroup_id();
	bpf_get_current_comm(&e->comm, sizeof(e->comm));
	if (cred_cap_ipc_lock(cred))
		e->flags |= FLAG_CAP_IPC_LOCK;
	if (config->command_parent && is_command(task, config->command_parent))
		e->flags |= FLAG_COMMAND;
}

/* The readings at entry that mapping and unmapping share. */
static __always_inline void call_read(const struct config *config, struct call *call, void *rb)
{
	struct user_struct *user = (void *)call->user;
	struct event *e = &call->event;
	struct limits limits;

	call->suspended = 0;
	call->user_begun = flow_begin(FLOW_USER, &call->user);
	call->mm_begun = flow_begin(FLOW_MM, &e->mm);
	call->buffer_key = rb ? (__u64)rb : call->perf_event;
	call->buffer_begun = flow_begin(FLOW_BUFFER, &call->buffer_key);

	e->buffer = (__u64)rb;
	e->cpu = bpf_get_smp_processor_id();
	e->flags &= ~FLAG_EXISTING;
	if (rb) {
		e->mappings = rb_count(rb, mmap_count);
		e->aux_mappings = rb_count(rb, aux_mmap_count);
		if (e->area == AREA_AUX ? rb_read(rb, aux_nr_pages) != 0 : e->mappings != 0)
			e->flags |= FLAG_EXISTING;
	}

	read_limits(config, &limits);
	e->lock_limit = limits.lock_limit;
	e->user_lock_limit = limits.user_lock_limit;
	e->paranoid = limits.paranoid;
	e->online_cpus = limits.online_cpus;

	e->payer_uid = kernel_read(user, uid.val);
	e->user_locked = user_perf_locked(user);
	e->pinned_vm = mm_pinned((void *)e->mm);
}

/* The readings at the entry of a mapping. */
static __always_inline void map_read(const struct config *config, struct call *call)
{
	struct perf_event *perf_event = (void *)call->perf_event;
	struct event *e = &call->event;
	__s64 before;

	call_read(config, call, kernel_read(perf_event, rb));
	/* The accounting's intent: what no longer fits the allowance goes to the
	 * process. */
	before = e->user_locked;
	e->user_locked += e->user_extra;
	e->extra = 0;
	if (!(e->flags & FLAG_EXISTING)) {
		if (before >= e->user_lock_limit)
			e->extra = e->user_extra;
		else if (e->user_locked > e->user_lock_limit)
			e->extra = e->user_locked - e->user_lock_limit;
	}
	e->locked = e->pinned_vm + e->extra;
}

/* A call that is of no interest, so that its return is not taken for one whose
 * entry was missed. */
static __always_inline void call_store_nothing(void)
{
	call_make(OP_UNMAP);
}

/* Where a call is bracketed from outside (a constant): its function is called for
 * other things than perf buffers too, and fails for other reasons. */
static __always_inline bool is_call(struct call *call, int ret, bool outside)
{
	if (!call) {
		if (!outside)
			count_loss(missed_entry);
		return false;
	}
	if (!call->user) /* there was nothing to unmap */
		return false;
	if (outside && ret == -ENOMEM && !call->reached) {
		/* A limit of the address space: it did not come to perf_mmap(). */
		call_flows_end(call);
		return false;
	}
	return true;
}

static __always_inline void call_end(void *ctx, int ret, __u32 op, bool outside)
{
	__u64 key = call_key(op);
	struct call *call = call_find(key);
	struct perf_event *perf_event;
	struct user_struct *user;
	struct event *e;
	place_t place;
	void *rb;

	if (!is_call(call, ret, outside)) {
		if (call)
			call_forget(key);
		return;
	}
	place = place_take(struct event);
	e = &call->event;
	user = (void *)call->user;
	perf_event = (void *)call->perf_event;

	e->user_after = user_perf_locked(user);
	e->pinned_after = mm_pinned((void *)e->mm);
	/* The last buffer may hold the last reference to its user, and a freed
	 * struct's counter means nothing. */
	if (user_count(user) <= 0 ||
	    kernel_read(user, uid.val) != e->payer_uid)
		e->flags |= FLAG_USER_GONE;
	if (!flow_alone(FLOW_USER, &call->user, call->user_begun))
		e->flags |= FLAG_OVERLAP_USER;
	if (!flow_alone(FLOW_MM, &e->mm, call->mm_begun))
		e->flags |= FLAG_OVERLAP_MM;

	if (op == OP_MAP && limits_moved(e))
		e->flags |= FLAG_LIMITS_MOVED;

	e->ret = ret;
	if (op == OP_MAP && ret == 0) {
		rb = kernel_read(perf_event, rb);
		/* The buffer that was there at entry may have gone before
		 * perf_mmap() had its lock: then it made a new one. */
		if (e->area == AREA_DATA && (__u64)rb != e->buffer)
			e->flags &= ~FLAG_EXISTING;
		e->buffer = (__u64)rb;
	}
	rb = (void *)e->buffer;
	if (rb) {
		__s32 mappings = rb_count(rb, mmap_count);
		__s32 aux_mappings = rb_count(rb, aux_mmap_count);
		bool there = kernel_read(perf_event, rb) == rb;

		e->mappings_after = mappings_left(there, e->mappings, mappings);
		e->aux_mappings_after = mappings_left(there, e->aux_mappings, aux_mappings);
		if (op == OP_MAP && ret == 0 && !(e->flags & FLAG_EXISTING)) {
			read_charge(e, rb, e->area);
			e->extra = e->area == AREA_AUX ? e->aux_extra : e->data_extra;
			e->locked = e->pinned_vm + e->extra;
		}
	}
	if (!flow_alone(FLOW_BUFFER, &call->buffer_key, call->buffer_begun))
		e->flags |= FLAG_OVERLAP_BUFFER;
	place_send(ctx, place, e);
	call_flows_end(call);
	call_forget(key);
}

/* perf_mmap() tells AUX from data by the offset alone. */
static __always_inline void map_begin(struct file *file, struct mm_struct *mm, __u64 pgoff, __u64 bytes)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct config *config = config_get();
	struct call *call;

	if (!config)
		return;
	call = call_make(OP_MAP);
	if (!call)
		return;
	call_identify(config, call, OP_MAP, mm, kernel_read(file, private_data),
		      kernel_read(task, cred, user));
	call->event.area = pgoff ? AREA_AUX : AREA_DATA;
	call->event.user_extra = bytes >> config->page_shift;
	map_read(config, call);
}

static __always_inline void unmap_begin(struct vm_area_struct *vma)
{
	struct perf_event *perf_event = kernel_read(vma, vm_file, private_data);
	void *rb = kernel_read(perf_event, rb);
	const struct config *config = config_get();
	struct call *call;
	struct event *e;

	/* Without a buffer there is nothing to refund: the close that the kernel
	 * itself does after a mapping failed. */
	if (!rb) {
		call_store_nothing();
		return;
	}
	if (!config)
		return;
	call = call_make(OP_UNMAP);
	if (!call)
		return;
	call_identify(config, call, OP_UNMAP, kernel_read(vma, vm_mm), perf_event,
		      rb_read(rb, mmap_user));
	e = &call->event;
	/* As perf_mmap_close() tells them apart: a part of a data area that was
	 * unmapped piecemeal has an offset too. */
	e->area = rb_read(rb, aux_nr_pages) && kernel_read(vma, vm_pgoff) == rb_read(rb, aux_pgoff) ?
			  AREA_AUX : AREA_DATA;
	e->user_extra = (kernel_read(vma, vm_end) - kernel_read(vma, vm_start)) >>
			config->page_shift;
	call_read(config, call, rb);
	read_charge(e, rb, AREA_DATA);
	read_charge(e, rb, AREA_AUX);
	e->extra = e->area == AREA_AUX ? e->aux_extra : e->data_extra;
	e->locked = e->pinned_vm;
}

static __always_inline void map_begin_vma(struct file *file, struct vm_area_struct *vma)
{
	map_begin(file, kernel_read(vma, vm_mm), kernel_read(vma, vm_pgoff),
		  kernel_read(vma, vm_end) - kernel_read(vma, vm_start));
}

/* A mapping over an old one (MAP_FIXED) unmaps that first. For so long it has not
 * begun: what was read before does not count. */
static __always_inline void outer_map_suspend(void)
{
	__u64 key = call_key(OP_MAP);
	struct call *call = call_find(key);

	if (!call || !call->user)
		return;
	call_flows_end(call);
	call->suspended = 1;
	call->user_begun = call->mm_begun = call->buffer_begun = 0;
}

static __always_inline void outer_map_resume(void)
{
	const struct config *config = config_get();
	__u64 key = call_key(OP_MAP);
	struct call *call = call_find(key);

	if (config && call && call->suspended)
		map_read(config, call);
}

/* For a bracket from outside: perf_mmap() is at work. */
static __always_inline void map_reached(void)
{
	__u64 key = call_key(OP_MAP);
	struct call *call = call_find(key);

	if (call)
		call->reached = 1;
	else
		count_loss(missed_entry);
}

SEC("kprobe/perf_mmap")
int BPF_KPROBE(kprobe_perf_mmap, struct file *file, struct vm_area_struct *vma)
{
	map_begin_vma(file, vma);
	return 0;
}

SEC("kretprobe/perf_mmap")
int BPF_KRETPROBE(kretprobe_perf_mmap, int ret)
{
	call_end(ctx, ret, OP_MAP, false);
	return 0;
}

SEC("kprobe/perf_mmap_close")
int BPF_KPROBE(kprobe_perf_mmap_close, struct vm_area_struct *vma)
{
	unmap_begin(vma);
	return 0;
}

SEC("kretprobe/perf_mmap_close")
int BPF_KRETPROBE(kretprobe_perf_mmap_close)
{
	call_end(ctx, 0, OP_UNMAP, false);
	return 0;
}

/* The same from outside, before 5.16. mmap_lock is held by then: a thread that
 * waits for it has read nothing yet. */
SEC("kprobe/mmap_region")
int BPF_KPROBE(kprobe_mmap_region, struct file *file, unsigned long addr, unsigned long len,
	       unsigned long vm_flags, unsigned long pgoff)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (file_is_perf(file))
		map_begin(file, kernel_read(task, mm), pgoff, len);
	return 0;
}

SEC("kretprobe/mmap_region")
int BPF_KRETPROBE(kretprobe_mmap_region, unsigned long ret)
{
	call_end(ctx, ret >= (unsigned long)-MAX_ERRNO ? (int)ret : 0, OP_MAP, true);
	return 0;
}

SEC("kprobe/rb_alloc")
int BPF_KPROBE(kprobe_rb_alloc)
{
	map_reached();
	return 0;
}

SEC("kprobe/rb_alloc_aux")
int BPF_KPROBE(kprobe_rb_alloc_aux)
{
	map_reached();
	return 0;
}

SEC("kprobe/remove_vma")
int BPF_KPROBE(kprobe_remove_vma, struct vm_area_struct *vma)
{
	if (file_is_perf(kernel_read(vma, vm_file))) {
		outer_map_suspend();
		unmap_begin(vma);
	}
	return 0;
}

SEC("kretprobe/remove_vma")
int BPF_KRETPROBE(kretprobe_remove_vma)
{
	__u64 key = call_key(OP_UNMAP);

	if (!call_find(key))
		return 0;
	call_end(ctx, 0, OP_UNMAP, true);
	outer_map_resume();
	return 0;
}

SEC("fentry/perf_mmap")
int BPF_PROG(fentry_perf_mmap, struct file *file, struct vm_area_struct *vma)
{
	map_begin_vma(file, vma);
	return 0;
}

SEC("fexit/perf_mmap")
int BPF_PROG(fexit_perf_mmap, struct file *file, struct vm_area_struct *vma, int ret)
{
	call_end(ctx, ret, OP_MAP, false);
	return 0;
}

SEC("fentry/perf_mmap_close")
int BPF_PROG(fentry_perf_mmap_close, struct vm_area_struct *vma)
{
	unmap_begin(vma);
	return 0;
}

SEC("fexit/perf_mmap_close")
int BPF_PROG(fexit_perf_mmap_close, struct vm_area_struct *vma)
{
	call_end(ctx, 0, OP_UNMAP, false);
	return 0;
}
