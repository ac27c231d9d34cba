//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * Iterators that say what locked memory exists already: processes and the
 * counters of their users, the mappings of perf buffers, and the files behind
 * them. They write fixed binary records, one per thing found, and hook nothing.
 *
 * All values are pages unless their name says otherwise.
 */
#include "kernel.h"

char LICENSE[] SEC("license") = "GPL";

enum process_flag {
	PROCESS_CAP_IPC_LOCK = 1 << 0,	/* effective, in the initial user namespace */
	PROCESS_SPLIT_COUNTER = 1 << 1, /* perf charges users in a counter of its own (7.3+) */
	PROCESS_IO_URING = 1 << 2,	/* it has used an io_uring */
};

/* A process, and its user's counters at that time. */
struct process {
	__u64 mm; /* an identity, never shown */
	__u64 cgroup_id;
	__u64 lock_limit; /* RLIMIT_MEMLOCK in bytes */
	__s64 pinned_vm;
	__s64 perf_locked; /* the user's counter that perf_mmap() charges */
	__s64 locked_vm;   /* user_struct.locked_vm */
	__u32 pid;	   /* tgid */
	__u32 uid;	   /* of the user_struct: the real uid, initial user namespace */
	enum process_flag flags; /* or-ed */
	__u32 pad;
	__u8 comm[16];
};

enum buffer_flag {
	BUFFER_AUX = 1 << 0,   /* this mapping is of the AUX area */
	BUFFER_PAYER = 1 << 1, /* payer_uid is known */
	BUFFER_PAYER_COUNTERS = 1 << 2, /* and so are the payer's counters */
};

/* A perf buffer, as one mapping or one descriptor leads to it. */
struct buffer {
	__u64 buffer; /* identities, never shown */
	__u64 mm;
	__s64 data_pages; /* with the control page */
	__s64 data_extra; /* pages of it charged to a process */
	__s64 aux_pages;
	__s64 aux_extra;
	__s64 payer_perf_locked; /* the payer's counters, as in struct process */
	__s64 payer_locked_vm;
	__u32 pid; /* tgid */
	__u32 payer_uid;
	enum buffer_flag flags; /* or-ed */
	__s32 mappings;		/* of the whole buffer */
	__s32 aux_mappings;	/* of its AUX area */
	__u32 pad;
};

/* Never used: that they are named here puts the types into the object's BTF,
 * and bpf2go makes Go types of them. */
const struct process *process_type __attribute__((unused));
const struct buffer *buffer_type __attribute__((unused));

/* perf_fops, once a perf event was met. */
const void *perf_fops = 0;

/* Once per file of the host: what can be had without a helper is read first. */
static __always_inline bool is_perf_event(struct file *file)
{
	if (perf_fops)
		return file->f_op == perf_fops;
	if (file->f_inode->i_sb->s_magic != ANON_INODE_FS_MAGIC || !file_is_perf(file))
		return false;
	perf_fops = file->f_op;
	return true;
}

SEC("iter/task")
int iter_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct user_struct *user;
	struct process p = {};
	struct mm_struct *mm;
	bool rings;

	if (!task)
		return 0;
	mm = task->mm;
	if (!mm || task->flags & PF_KTHREAD)
		return 0;
	rings = task_has_io_uring(task);
	/* One record per process: of its leader, or of any thread when the leader
	 * has ended. Threads with io_urings speak up as well. */
	if (task->pid != task->tgid && task->group_leader->mm && !rings)
		return 0;
	user = BPF_CORE_READ(task, cred, user);
	p.mm = (__u64)mm;
	p.cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	p.lock_limit = BPF_CORE_READ(task, signal, rlim[RLIMIT_MEMLOCK].rlim_cur);
	p.pinned_vm = mm_pinned(mm);
	p.perf_locked = user_perf_locked(user);
	p.locked_vm = user_locked_vm(user);
	p.pid = task->tgid;
	p.uid = user_uid(user);
	if (cred_cap_ipc_lock(BPF_CORE_READ(task, cred)))
		p.flags |= PROCESS_CAP_IPC_LOCK;
	if (user_has_perf_mlock())
		p.flags |= PROCESS_SPLIT_COUNTER;
	if (rings)
		p.flags |= PROCESS_IO_URING;
	bpf_probe_read_kernel(p.comm, sizeof(p.comm), task->group_leader->comm);
	bpf_seq_write(ctx->meta->seq, &p, sizeof(p));
	return 0;
}

/* What a perf event's buffer records of itself. It is read once per buffer of the
 * host, so what can be had without a helper is. */
static __always_inline bool read_buffer(struct buffer *b, struct task_struct *task, struct file *file)
{
	struct perf_event *event = file->private_data;
	void *rb = BPF_CORE_READ(event, rb);
	struct user_struct *user;

	if (!rb)
		return false;
	b->buffer = (__u64)rb;
	b->mm = (__u64)task->mm;
	b->pid = task->tgid;
	b->data_pages = rb_read(rb, nr_pages) + 1;
	b->data_extra = rb_read(rb, mmap_locked);
	b->mappings = rb_count(rb, mmap_count);
	b->aux_pages = rb_read(rb, aux_nr_pages);
	if (b->aux_pages) {
		b->aux_extra = rb_read(rb, aux_mmap_locked);
		b->aux_mappings = rb_count(rb, aux_mmap_count);
	}
	user = rb_read(rb, mmap_user);
	if (!user)
		return true;
	b->flags |= BUFFER_PAYER;
	if (user == task->cred->user) {
		b->payer_uid = task->cred->user->uid.val;
		return true;
	}
	/* A user that may have no process to tell its counters. */
	b->flags |= BUFFER_PAYER_COUNTERS;
	b->payer_uid = user_uid(user);
	b->payer_perf_locked = user_perf_locked(user);
	b->payer_locked_vm = user_locked_vm(user);
	return true;
}

/* Every mapping of a perf buffer. The kernel holds the process's mmap_lock
 * meanwhile, so that no mapping of it goes, and the buffer stays. */
SEC("iter/task_vma")
int iter_task_vma(struct bpf_iter__task_vma *ctx)
{
	struct vm_area_struct *vma = ctx->vma;
	struct task_struct *task = ctx->task;
	struct buffer b = {};
	struct file *file;

	if (!task || !vma)
		return 0;
	file = vma->vm_file;
	if (!file || !is_perf_event(file))
		return 0;
	if (!read_buffer(&b, task, file))
		return 0;
	if (vma->vm_pgoff)
		b.flags |= BUFFER_AUX;
	bpf_seq_write(ctx->meta->seq, &b, sizeof(b));
	return 0;
}

/* Every descriptor of a perf event with a buffer: where there is no iterator of
 * mappings. Nothing keeps the buffer here; a reading that makes no sense is for
 * user space to refuse. */
SEC("iter/task_file")
int iter_perf_files(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct buffer b = {};

	if (!task || !file || !is_perf_event(file))
		return 0;
	if (read_buffer(&b, task, file))
		bpf_seq_write(ctx->meta->seq, &b, sizeof(b));
	return 0;
}
