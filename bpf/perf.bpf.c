//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * Watches the kernel charge and refund perf ring buffers.
 *
 * There are probes at the entry and at the return of perf_mmap() and
 * perf_mmap_close(): what the accounting is based on is read at entry, what became of
 * it at return, and one record goes out at return. All values are pages unless their
 * name says otherwise.
 *
 * Before 5.16 neither function can be probed. There the probes are on their callers:
 * mmap_region(), which calls perf_mmap() with mmap_lock held, and remove_vma(), which
 * does hardly more than to call perf_mmap_close().
 *
 * The names user_extra, user_lock_limit, extra and lock_limit are those of the local
 * variables of perf_mmap() (kernel/events/core.c; perf_mmap_calc_limits() since 6.18).
 */
#ifndef PINWATCH_LEGACY
#define PINWATCH_TYPED_READS
#endif
#include "kernel.h"
#include "record.h"
#include "overlap.h"

char LICENSE[] SEC("license") = "GPL";

enum op {
	OP_MAP,   /* perf_mmap() */
	OP_UNMAP, /* perf_mmap_close() */
	OP_SPLIT, /* perf_mmap_may_split(): something would change a part of a mapping */
};

enum area {
	AREA_DATA, /* the control page and the data pages */
	AREA_AUX,
};

struct record {
	struct header header;
	struct reading user;	/* the counter of whoever pays: the caller's user at OP_MAP, rb->mmap_user at OP_UNMAP */
	struct reading process; /* pinned_vm of the mapping's mm */
	__u64 buffer;		/* the perf_buffer: an identity, never shown; 0 without one */
	__s64 user_extra;	/* pages of this mapping */
	__s64 user_lock_limit;	/* the user's allowance */
	__s64 extra; /* part for the process: what the buffer records, if the call made one, else the intent's */

	/* What the buffer itself records: of its two areas at OP_UNMAP, of the one
	 * that the call made at OP_MAP, else 0. */
	__s64 data_pages; /* with the control page */
	__s64 data_extra; /* pages of it charged to the process */
	__s64 aux_pages;
	__s64 aux_extra;

	enum op op;
	enum area area;
	__s32 ret;
	__s32 paranoid; /* perf_event_paranoid */
	__u32 online_cpus;
	__s32 mappings; /* of the whole buffer, before the call */
	__s32 mappings_after;
	__s32 aux_mappings; /* of its AUX area */
	__s32 aux_mappings_after;
	__u32 pad;
};

enum fact {
	FACT_SHARED = 1 << 0,	   /* the mapping is MAP_SHARED */
	FACT_INHERIT = 1 << 1,	   /* the event's children inherit it */
	FACT_AUX_CAPABLE = 1 << 2, /* the event's PMU can fill an AUX area */
	FACT_REVOKED = 1 << 3,	   /* the event's PMU is gone */
};

/* What else a call that failed may have failed for, read at its return. */
struct facts {
	__u64 aux_offset; /* as user space set them in the control page, in bytes; 0 without a buffer */
	__u64 aux_size;
	__s64 aux_pgoff;  /* where the buffer's AUX area begins, in pages; 0: it has none */
	__s64 pgoff;	  /* where the mapping begins, in pages */
	__s32 cpu;	  /* of the event; -1: any */
	__s32 system_call; /* its number, at OP_SPLIT */
	enum fact facts;  /* or-ed */
	__u32 pad;
};

/* The record of a call that failed. */
struct failed {
	union {
		struct header header;
		struct record record;
	};
	struct facts facts;
};

/* A call between its entry and its return. */
struct call {
	struct stay stays[INFLIGHT_KINDS]; /* on the buffer, or on the perf_event where there is none yet */
	__u64 user;	   /* struct user_struct *; 0: there is nothing to unmap */
	__u64 perf_event;  /* struct perf_event * */
	__u32 reached; /* perf_mmap() was seen at work, for probes on its callers */
	__u32 suspended; /* until a mapping inside of it is undone */
	union {
		struct record record;
		struct failed failed;
	};
	/* What a mapping is to be: */
	__u64 vma; /* struct vm_area_struct *; 0: there is none yet, and these tell: */
	__u64 vm_flags;
	__u64 pgoff;
};
#define CALL_BLANK __builtin_offsetof(struct call, failed.facts) /* the rest is set where it is used */
#define CALL_SLOTS 1024
#define CALL_OVERFLOW 4096
#include "calls.h"

/* What the rule holds a call against, besides the caller's lock_limit. */
struct limits {
	__s64 user_lock_limit;
	__s32 paranoid;
	__u32 online_cpus;
};

static __always_inline void read_limits(const struct config *config, struct limits *limits)
{
	__s64 per_cpu = kernel_int(&sysctl_perf_event_mlock, config->perf_event_mlock_kb) >>
			(config->page_shift - 10);

	limits->online_cpus = kernel_online_cpus(config->online_cpus);
	limits->user_lock_limit = per_cpu * limits->online_cpus;
	limits->paranoid = kernel_int(&sysctl_perf_event_paranoid, config->perf_event_paranoid);
}

/* Reports whether they are other ones than when the call began: then the kernel may
 * have decided by others than were read. */
static __always_inline bool limits_moved(const struct record *r)
{
	const struct config *config = config_get();
	struct limits now;

	if (!config)
		return true;
	read_limits(config, &now);
	return now.user_lock_limit != r->user_lock_limit || now.paranoid != r->paranoid ||
	       caller_lock_limit(config) != r->header.caller.lock_limit;
}

/* A thread is in at most one call of each kind: neither function calls itself,
 * but perf_mmap() of 6.14 to 7.0 calls perf_mmap_close() when it cannot insert
 * the pages. */
static __always_inline __u64 op_key(enum op op)
{
	return call_key(op, call_by_thread());
}

/* What the buffer itself records of an area's charge. */
static __always_inline void read_charge(struct record *r, void *rb, enum area area)
{
	if (area == AREA_AUX) {
		r->aux_pages = rb_read(rb, aux_nr_pages);
		r->aux_extra = rb_read(rb, aux_mmap_locked);
	} else {
		r->data_pages = rb_read(rb, nr_pages) + 1;
		r->data_extra = rb_read(rb, mmap_locked);
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
static __always_inline void call_identify(const struct config *config, struct call *call, enum op op,
					  struct mm_struct *mm, struct perf_event *perf_event,
					  struct user_struct *user)
{
	struct record *r = &call->record;

	call->user = (__u64)user;
	call->perf_event = (__u64)perf_event;
	r->header.kind = RECORD_PERF;
	r->op = op;
	r->process.owner = (__u64)mm;
	caller_read(config, &r->header);
}

/* The readings at entry that mapping and unmapping share. */
static __always_inline void call_read(const struct config *config, struct call *call, void *rb)
{
	struct user_struct *user = (void *)call->user;
	struct record *r = &call->record;
	struct limits limits;

	inflight_enter(INFLIGHT_USER, &call->stays[INFLIGHT_USER], call->user);
	inflight_enter(INFLIGHT_MM, &call->stays[INFLIGHT_MM], r->process.owner);
	inflight_enter(INFLIGHT_BUFFER, &call->stays[INFLIGHT_BUFFER], rb ? (__u64)rb : call->perf_event);

	r->buffer = (__u64)rb;
	r->header.flags &= ~FLAG_EXISTING;
	if (rb) {
		r->mappings = rb_count(rb, mmap_count);
		r->aux_mappings = rb_count(rb, aux_mmap_count);
		if (r->area == AREA_AUX ? rb_read(rb, aux_nr_pages) != 0 : r->mappings != 0)
			r->header.flags |= FLAG_EXISTING;
	}

	read_limits(config, &limits);
	r->user_lock_limit = limits.user_lock_limit;
	r->paranoid = limits.paranoid;
	r->online_cpus = limits.online_cpus;

	r->user.owner = user_uid(user);
	r->user.before = user_perf_locked(user);
	r->process.before = mm_pinned((void *)r->process.owner);
}

/* The readings at the entry of a mapping. */
static __always_inline void map_read(const struct config *config, struct call *call)
{
	struct perf_event *perf_event = (void *)call->perf_event;
	struct record *r = &call->record;

	call_read(config, call, kernel_read(perf_event, rb));
	/* The accounting's intent: what no longer fits the allowance goes to the
	 * process. */
	r->extra = 0;
	if (!(r->header.flags & FLAG_EXISTING)) {
		if (r->user.before >= r->user_lock_limit)
			r->extra = r->user_extra;
		else if (r->user.before + r->user_extra > r->user_lock_limit)
			r->extra = r->user.before + r->user_extra - r->user_lock_limit;
	}
}

/* Reports whether a call is one of perf's. A function that perf's is called by
 * (outer, a constant) is called for other things too, and fails for other reasons. */
static __always_inline bool is_call(struct call *call, int ret, bool outer)
{
	if (!call->user)
		return false;
	/* A limit of the address space: it did not come to perf_mmap(). */
	return !outer || ret != -ENOMEM || call->reached;
}

static __always_inline void map_end(struct call *call, int ret)
{
	struct perf_event *perf_event = (void *)call->perf_event;
	struct record *r = &call->record;
	__u64 rb;

	if (limits_moved(r))
		r->header.flags |= FLAG_LIMITS_MOVED;
	if (ret)
		return;
	rb = (__u64)kernel_read(perf_event, rb);
	/* The buffer that was there at entry may have gone before
	 * perf_mmap() had its lock: then it made a new one. */
	if (r->area == AREA_DATA && rb != r->buffer)
		r->header.flags &= ~FLAG_EXISTING;
	r->buffer = rb;
}

/* Reads what a call may have failed for. */
static __always_inline void facts_read(struct call *call, enum op op)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct perf_event *perf_event = (void *)call->perf_event;
	struct vm_area_struct *vma = (void *)call->vma;
	const struct config *config = config_get();
	void *rb = kernel_read(perf_event, rb);
	struct record *r = &call->record;
	struct facts *f = &call->failed.facts;

	/* Not by kernel_read(): the compiler would make one load of two whose pointers the
	 * verifier tells apart. */
	if (vma) {
		call->vm_flags = BPF_CORE_READ(vma, vm_flags);
		call->pgoff = BPF_CORE_READ(vma, vm_pgoff);
	}
	__builtin_memset(f, 0, sizeof(*f));
	f->pgoff = call->pgoff;
	f->cpu = kernel_read(perf_event, cpu);
	f->system_call = -1;
	if (op == OP_SPLIT && config)
		task_system_call(task, config->page_shift, &f->system_call);
	if (call->vm_flags & VM_SHARED)
		f->facts |= FACT_SHARED;
	if (event_inherits(perf_event))
		f->facts |= FACT_INHERIT;
	if (kernel_read(perf_event, pmu, setup_aux))
		f->facts |= FACT_AUX_CAPABLE;
	if (event_is_revoked(perf_event))
		f->facts |= FACT_REVOKED;
	if (!rb)
		return;
	read_charge(r, rb, AREA_DATA);
	read_charge(r, rb, AREA_AUX);
	if (r->aux_pages) {
		f->aux_pgoff = rb_read(rb, aux_pgoff);
	}
	bpf_probe_read_kernel(&f->aux_offset, 2 * sizeof(__u64), /* and aux_size */
			      (void *)rb_read(rb, user_page) + __builtin_offsetof(struct perf_event_mmap_page, aux_offset));
}

static __always_inline void call_report(void *ctx, struct call *call, int ret, enum op op, bool failed)
{
	struct perf_event *perf_event = (void *)call->perf_event;
	struct user_struct *user = (void *)call->user;
	struct record *r = &call->record;
	reserved_t reserved = failed ? record_reserve_of(struct failed) : record_reserve();
	void *rb;

	r->user.after = user_perf_locked(user);
	r->process.after = mm_pinned((void *)r->process.owner);
	r->header.flags |= user_flags(user, &r->user, &call->stays[INFLIGHT_USER]);
	if (!inflight_exclusive(INFLIGHT_MM, &call->stays[INFLIGHT_MM]))
		r->header.flags |= FLAG_OVERLAP_MM;
	r->ret = ret;
	if (op == OP_MAP)
		map_end(call, ret);
	rb = (void *)r->buffer;
	if (rb) {
		__s32 mappings = rb_count(rb, mmap_count);
		__s32 aux_mappings = rb_count(rb, aux_mmap_count);
		bool there = kernel_read(perf_event, rb) == rb;

		r->mappings_after = mappings_left(there, r->mappings, mappings);
		r->aux_mappings_after = mappings_left(there, r->aux_mappings, aux_mappings);
		if (op == OP_MAP && ret == 0 && !(r->header.flags & FLAG_EXISTING)) {
			read_charge(r, rb, r->area);
			r->extra = r->area == AREA_AUX ? r->aux_extra : r->data_extra;
		}
	}
	if (!inflight_exclusive(INFLIGHT_BUFFER, &call->stays[INFLIGHT_BUFFER]))
		r->header.flags |= FLAG_OVERLAP_BUFFER;
	if (failed) {
		r->header.kind = RECORD_PERF_FAILED;
		caller_read_limits(&r->header);
		facts_read(call, op);
		record_submit(ctx, reserved, &call->failed);
	} else {
		record_submit(ctx, reserved, r);
	}
}

static __always_inline void call_end(void *ctx, int ret, enum op op, bool outer)
{
	struct call *call = call_find(op_key(op));

	if (!call) {
		if (!outer)
			count_loss(missed_entry);
		return;
	}
	if (is_call(call, ret, outer)) {
		if (op != OP_UNMAP && ret)
			call_report(ctx, call, ret, op, true);
		else if (op != OP_SPLIT)
			call_report(ctx, call, ret, op, false);
	}
	call_leave(call);
}

/* perf_mmap() tells AUX from data by the offset alone. */
static __always_inline struct call *map_begin(struct file *file, struct mm_struct *mm, __u64 pgoff, __u64 bytes)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct config *config = config_get();
	struct call *call;

	if (!config)
		return 0;
	call = call_enter(op_key(OP_MAP));
	if (!call)
		return 0;
	call_identify(config, call, OP_MAP, mm, kernel_read(file, private_data),
		      kernel_read(task, cred, user));
	call->record.area = pgoff ? AREA_AUX : AREA_DATA;
	call->record.user_extra = bytes >> config->page_shift;
	map_read(config, call);
	return call;
}

static __always_inline void unmap_begin(struct vm_area_struct *vma)
{
	struct perf_event *perf_event = kernel_read(vma, vm_file, private_data);
	void *rb = kernel_read(perf_event, rb);
	const struct config *config = config_get();
	struct call *call;
	struct record *r;

	if (!config)
		return;
	call = call_enter(op_key(OP_UNMAP));
	/* Without a buffer there is nothing to refund: the close that the kernel
	 * itself does after a mapping failed. It is entered all the same, so that its
	 * return is not taken for one whose entry was missed. */
	if (!call || !rb)
		return;
	call_identify(config, call, OP_UNMAP, kernel_read(vma, vm_mm), perf_event,
		      rb_read(rb, mmap_user));
	r = &call->record;
	/* As perf_mmap_close() tells them apart: a part of a data area that was
	 * unmapped piecemeal has an offset too. */
	r->area = rb_read(rb, aux_nr_pages) && kernel_read(vma, vm_pgoff) == rb_read(rb, aux_pgoff) ?
			  AREA_AUX : AREA_DATA;
	r->user_extra = (kernel_read(vma, vm_end) - kernel_read(vma, vm_start)) >>
			config->page_shift;
	call_read(config, call, rb);
	read_charge(r, rb, AREA_DATA);
	read_charge(r, rb, AREA_AUX);
	r->extra = r->area == AREA_AUX ? r->aux_extra : r->data_extra;
}

static __always_inline void map_begin_vma(struct file *file, struct vm_area_struct *vma)
{
	struct call *call = map_begin(file, kernel_read(vma, vm_mm), kernel_read(vma, vm_pgoff),
				      kernel_read(vma, vm_end) - kernel_read(vma, vm_start));

	if (call)
		call->vma = (__u64)vma;
}

/* A part of a mapping is to be unmapped, mapped over or changed. Where that is refused, it
 * never comes to a call on the buffer. */
static __always_inline void split_begin(struct vm_area_struct *vma)
{
	struct perf_event *perf_event = kernel_read(vma, vm_file, private_data);
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct config *config = config_get();
	struct call *call;
	struct record *r;

	if (!config)
		return;
	call = call_enter(op_key(OP_SPLIT));
	if (!call)
		return;
	call_identify(config, call, OP_SPLIT, kernel_read(vma, vm_mm), perf_event, kernel_read(task, cred, user));
	call->vma = (__u64)vma;
	r = &call->record;
	r->area = kernel_read(vma, vm_pgoff) ? AREA_AUX : AREA_DATA;
	r->user_extra = (kernel_read(vma, vm_end) - kernel_read(vma, vm_start)) >> config->page_shift;
	call_read(config, call, kernel_read(perf_event, rb));
}

/* A mapping over an old one (MAP_FIXED) unmaps that first. For so long it has not
 * begun: what was read before does not count. */
static __always_inline void outer_map_suspend(void)
{
	struct call *call = call_find(op_key(OP_MAP));

	if (!call || !call->user)
		return;
	call_suspend(call);
	call->suspended = 1;
}

static __always_inline void outer_map_resume(void)
{
	const struct config *config = config_get();
	struct call *call = call_find(op_key(OP_MAP));

	if (!config || !call || !call->suspended)
		return;
	call->suspended = 0;
	call->record.header.caller.lock_limit = caller_lock_limit(config);
	map_read(config, call);
}

/* For the probes on its callers: perf_mmap() is at work. */
static __always_inline void map_reached(void)
{
	struct call *call = call_find(op_key(OP_MAP));

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

/* 6.1.148, 6.12.42 and 6.16.1: since then a mapping cannot be split. */
SEC("kprobe/perf_mmap_may_split")
int BPF_KPROBE(kprobe_perf_mmap_may_split, struct vm_area_struct *vma)
{
	split_begin(vma);
	return 0;
}

SEC("kretprobe/perf_mmap_may_split")
int BPF_KRETPROBE(kretprobe_perf_mmap_may_split, int ret)
{
	call_end(ctx, ret, OP_SPLIT, false);
	return 0;
}

/* The same on their callers, before 5.16. mmap_lock is held by then: a thread that
 * waits for it has read nothing yet. */
SEC("kprobe/mmap_region")
int BPF_KPROBE(kprobe_mmap_region, struct file *file, unsigned long addr, unsigned long len,
	       unsigned long vm_flags, unsigned long pgoff)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	struct call *call = file_is_perf(file) ? map_begin(file, kernel_read(task, mm), pgoff, len) : 0;

	if (call) {
		call->vma = 0;
		call->vm_flags = vm_flags;
		call->pgoff = pgoff;
	}
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
	if (!call_find(op_key(OP_UNMAP)))
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

SEC("fentry/perf_mmap_may_split")
int BPF_PROG(fentry_perf_mmap_may_split, struct vm_area_struct *vma)
{
	split_begin(vma);
	return 0;
}

SEC("fexit/perf_mmap_may_split")
int BPF_PROG(fexit_perf_mmap_may_split, struct vm_area_struct *vma, unsigned long address, int ret)
{
	call_end(ctx, ret, OP_SPLIT, false);
	return 0;
}
