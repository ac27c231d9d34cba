/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What pinwatch knows of the kernel's structures, and every difference between
 * kernel versions: one accessor per fact, naming the version and the commit.
 *
 * No vmlinux.h: only the fields that are used are declared. Their offsets come
 * from the running kernel's BTF (CO-RE). A struct with a ___suffix is a flavour:
 * the same kernel struct as another version lays it out.
 */
#ifndef PINWATCH_KERNEL_H
#define PINWATCH_KERNEL_H

#include <linux/bpf.h>
#include <linux/perf_event.h>

/* The user-space view of the registers is ABI: kprobe programs read arguments
 * and the return value through it, with the macros of bpf_tracing.h. */
struct pt_regs {
	unsigned long r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8;
	unsigned long rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags, rsp, ss;
};
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp, pc, pstate;
};

#include <bpf/bpf_helpers.h>
#ifdef PINWATCH_LEGACY
/* 5.5 (6ae08ae3dea2) parted it in two for kernel and user; the older one goes on
 * to work for both on x86_64 and arm64. */
#define bpf_probe_read_kernel bpf_probe_read
#define bpf_probe_read_user bpf_probe_read
#endif
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

typedef _Bool bool;
enum { false = 0, true = 1 };

#define RLIMIT_MEMLOCK 8
#define CAP_IPC_LOCK 14
#define EPERM 1
#define ENOENT 2
#define ENOMEM 12
#define EOPNOTSUPP 95
#define ENOBUFS 105
#define MAX_ERRNO 4095
#define VM_SHARED 8
#define PF_KTHREAD 0x00200000
#define ANON_INODE_FS_MAGIC 0x09041934

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct pt_regs___saved {
	__s32 syscallno;
};

typedef struct {
	int counter;
} atomic_t;
typedef struct {
	long counter;
} atomic_long_t;
typedef struct {
	__s64 counter;
} atomic64_t;
typedef struct refcount_struct {
	atomic_t refs;
} refcount_t;

typedef struct {
	__u32 val;
} kuid_t;

struct user_struct {
	refcount_t __count;
	kuid_t uid;
	atomic_long_t locked_vm;
};
/* Before fc37a3b8b438, of 4.19. */
struct user_struct___atomic {
	atomic_t __count;
};
/* 7.3: perf charges a counter of its own. */
struct user_struct___perf_mlock {
	atomic_long_t perf_mlock;
};

struct user_namespace {
	int level;
};

typedef struct {
	__u64 val;
} kernel_cap_t;
/* Before 6.3 (f122a08b197d): two 32-bit words. */
typedef struct {
	__u32 cap[2];
} kernel_cap_t___words;

struct cred {
	struct user_struct *user;
	struct user_namespace *user_ns;
	kernel_cap_t cap_effective;
	kuid_t uid;
};
struct cred___words {
	kernel_cap_t___words cap_effective;
};

struct rlimit {
	unsigned long rlim_cur;
	unsigned long rlim_max;
};
struct signal_struct {
	struct rlimit rlim[16];
};
struct task_struct {
	int pid;
	int tgid;
	unsigned int flags;
	char comm[16];
	struct mm_struct *mm;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct cred *cred;
	void *stack;
	struct signal_struct *signal;
	struct files_struct *files;
	struct css_set *cgroups;
	struct mem_cgroup *active_memcg;
	void *io_uring; /* 5.10 (0f2122045b94) */
};

struct mm_struct {
	atomic64_t pinned_vm;
	unsigned long locked_vm;
};
/* Before 5.1 (70f8a3ca68d3): a plain integer. */
struct mm_struct___plain {
	unsigned long pinned_vm;
};

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	unsigned long vm_flags;
	unsigned long vm_pgoff;
	struct mm_struct *vm_mm;
	struct file *vm_file;
};

struct super_block {
	unsigned long s_magic;
};
struct inode {
	struct super_block *i_sb;
};
struct qstr {
	const unsigned char *name;
};
struct dentry {
	struct qstr d_name;
};
struct path {
	struct dentry *dentry;
};
struct file {
	struct path f_path;
	struct inode *f_inode;
	const void *f_op;
	void *private_data;
};

struct perf_buffer {
	int nr_pages;
	atomic_t mmap_count;
	unsigned long mmap_locked;
	struct user_struct *mmap_user;
	unsigned long aux_pgoff;
	int aux_nr_pages;
	atomic_t aux_mmap_count;
	unsigned long aux_mmap_locked;
	struct perf_event_mmap_page *user_page;
};
/* 6.18 (448f97fba901): the mapping counts became refcount_t. */
struct perf_buffer___refcount {
	refcount_t mmap_count;
	refcount_t aux_mmap_count;
};
/* Before 5.6 (56de4e8f9146) the struct was called ring_buffer. */
struct ring_buffer {
	int nr_pages;
	atomic_t mmap_count;
	unsigned long mmap_locked;
	struct user_struct *mmap_user;
	unsigned long aux_pgoff;
	int aux_nr_pages;
	atomic_t aux_mmap_count;
	unsigned long aux_mmap_locked;
	struct perf_event_mmap_page *user_page;
};

struct pmu {
	void *setup_aux; /* a function */
};
/* 6.15: of an event whose PMU is gone. */
enum perf_event_state {
	PERF_EVENT_STATE_REVOKED = -4,
};
struct perf_event {
	struct perf_buffer *rb;
	struct pmu *pmu;
	enum perf_event_state state;
	struct perf_event_attr attr; /* as user space knows it */
	int cpu;
};

#pragma clang attribute pop

/* Data symbols. BTF has no entry for them, so they are untyped and read by
 * address; weak, because kallsyms may hide or lack them (then 0). */
extern void sysctl_perf_event_mlock __ksym __weak;
extern void sysctl_perf_event_paranoid __ksym __weak;
/* 5.4 (0c09ab96fc82). */
extern void __num_online_cpus __ksym __weak;
/* Older: a mask, and how many of its bits mean something. */
extern void __cpu_online_mask __ksym __weak;
extern void nr_cpu_ids __ksym __weak;

/* 6.2 (a35b9af4ec2c): gives an address a type of the kernel's, and then what is
 * there is read by mere loads, in a tenth of the instructions of a call to
 * bpf_probe_read_kernel(). A load that faults yields 0, too. User space hides it
 * where it must not be called. */
#ifdef PINWATCH_TYPED_READS
extern void *bpf_rdonly_cast(const void *address, __u32 type_id) __ksym __weak;
#define typed_reads() (&bpf_rdonly_cast != 0)
#else
#define typed_reads() false
#define bpf_rdonly_cast(address, type_id) (address)
#endif
#define kernel_typed(p) \
	((typeof(p))bpf_rdonly_cast(p, bpf_core_type_id_kernel(typeof(*(p)))))

/* Like BPF_CORE_READ(p, field, field of what that points to, ...). */
#define kernel_read(p, field, ...)                                             \
	(typed_reads() ? ___arrow(kernel_typed(p), field, ##__VA_ARGS__) :     \
			 BPF_CORE_READ(p, field, ##__VA_ARGS__))

/* An int behind a symbol, or what user space read from /proc and /sys where
 * the kernel does not give the symbol away. Only structs can be typed reads: the
 * one taken here is an int. */
static __always_inline int kernel_int(const void *symbol, int otherwise)
{
	int value;

	if (!symbol)
		return otherwise;
	if (typed_reads())
		return kernel_typed((struct refcount_struct *)symbol)->refs.counter;
	return bpf_probe_read_kernel(&value, sizeof(value), symbol) ? otherwise : value;
}

/* How many CPUs are online, up to 1024 of them where they have to be counted. */
static __always_inline __u32 kernel_online_cpus(__u32 otherwise)
{
	__u64 mask[16] = {};
	__u64 bytes;
	__u32 online = 0;

	if (&__num_online_cpus)
		return kernel_int(&__num_online_cpus, otherwise);
	bytes = ((__u64)(__u32)kernel_int(&nr_cpu_ids, 0) + 63) / 64 * 8;
	barrier_var(bytes); /* so that the verifier sees the very value bounded */
	if (!&__cpu_online_mask || bytes > sizeof(mask))
		return otherwise;
	if (bpf_probe_read_kernel(mask, bytes, &__cpu_online_mask))
		return otherwise;
#pragma unroll
	for (int i = 0; i < 16; i++)
		online += __builtin_popcountll(mask[i]);
	return online ?: otherwise;
}

/* Whether it is a perf event. Told by the name that the kernel gave it in the file
 * system of anonymous inodes, where nobody else can give names: that needs no
 * symbol, as the address of perf_fops would. */
static __always_inline bool file_is_perf(struct file *file)
{
	__u64 name[2] = {};

	if (!file || BPF_CORE_READ(file, f_inode, i_sb, s_magic) != ANON_INODE_FS_MAGIC)
		return false;
	bpf_probe_read_kernel(name, sizeof("[perf_event]"), BPF_CORE_READ(file, f_path.dentry, d_name.name));
	return name[0] == 0x76655f667265705b /* [perf_ev */ && name[1] == 0x5d746e65 /* ent] */;
}

/* user_struct.locked_vm, in pages: what perf_mmap() charges unless it has a counter of
 * its own, and what the other chargers do. */
static __always_inline __s64 user_locked_vm(struct user_struct *user)
{
	return kernel_read(user, locked_vm.counter);
}

static __always_inline bool task_is_kernel(struct task_struct *task)
{
	return kernel_read(task, flags) & PF_KTHREAD;
}

/* Reports whether perf has a counter of its own, so that locked_vm is the others'. */
static __always_inline bool user_has_perf_mlock(void)
{
	return bpf_core_field_exists(((struct user_struct___perf_mlock *)0)->perf_mlock);
}

/* The counter that perf_mmap() charges to a user, in pages. */
static __always_inline __s64 user_perf_locked(struct user_struct *user)
{
	if (user_has_perf_mlock())
		return kernel_read((struct user_struct___perf_mlock *)user, perf_mlock.counter);
	return user_locked_vm(user);
}

/* What the two counters of a user are told apart by: the one that perf_mmap() charges
 * has the user's address, and locked_vm, where that is another one, an odd one. */
static __always_inline __u64 locked_vm_address(struct user_struct *user)
{
	return (__u64)user | user_has_perf_mlock();
}

static __always_inline __u32 user_uid(struct user_struct *user)
{
	return kernel_read(user, uid.val);
}

/* References to a user; 0 once it is freed. */
static __always_inline int user_count(struct user_struct *user)
{
	struct user_struct___atomic *older = (void *)user;

	if (bpf_core_field_exists(user->__count.refs.counter))
		return kernel_read(user, __count.refs.counter);
	return kernel_read(older, __count.counter);
}

/* Pages of a process that are pinned. */
static __always_inline __s64 mm_pinned(struct mm_struct *mm)
{
	struct mm_struct___plain *plain = (void *)mm;

	if (bpf_core_field_exists(mm->pinned_vm.counter))
		return kernel_read(mm, pinned_vm.counter);
	return (__s64)kernel_read(plain, pinned_vm);
}

/* Pages of a process that are locked in memory. */
static __always_inline __s64 mm_locked(struct mm_struct *mm)
{
	return (__s64)kernel_read(mm, locked_vm);
}

/* capable(CAP_IPC_LOCK): effective, and in the initial user namespace. A
 * capability in a child namespace does not count. */
static __always_inline bool cred_cap_ipc_lock(struct cred *cred)
{
	struct cred___words *words = (void *)cred;
	__u64 effective;

	if (kernel_read(cred, user_ns, level) != 0)
		return false;
	if (bpf_core_field_exists(cred->cap_effective.val))
		effective = kernel_read(cred, cap_effective.val);
	else
		effective = kernel_read(words, cap_effective.cap[0]);
	return effective >> CAP_IPC_LOCK & 1;
}

/* attr.inherit, the second bit behind read_format. */
static __always_inline bool event_inherits(struct perf_event *event)
{
	__u64 bits = 0;

	bpf_probe_read_kernel(&bits, sizeof(bits),
			      (void *)event + bpf_core_field_offset(struct perf_event, attr) +
				      __builtin_offsetof(struct perf_event_attr, read_format) + sizeof(__u64));
	return bits & 2;
}

static __always_inline bool event_is_revoked(struct perf_event *event)
{
	/* The value itself is not asked for: the compiler would do so on older kernels too. */
	return bpf_core_enum_value_exists(enum perf_event_state, PERF_EVENT_STATE_REVOKED) &&
	       (__s32)kernel_read(event, state) <= PERF_EVENT_STATE_REVOKED;
}

/* Where the registers are saved at the entry of a system call: on top of the stack of a
 * kernel that is built for no sanitizer. */
#if defined(bpf_target_x86)
#define SAVED_AT ((1 << 14) - sizeof(struct pt_regs) + __builtin_offsetof(struct pt_regs, orig_rax))
#else
#define SAVED_AT                                                                               \
	((page_shift > 14 ? 1 << page_shift : 1 << 14) -                                     \
	 bpf_core_type_size(struct pt_regs___saved) + bpf_core_field_offset(struct pt_regs___saved, syscallno))
#endif
#define USER_CS 0x33

/* The number of bpf(2). */
#if defined(bpf_target_x86)
#define SYS_BPF 321
#else
#define SYS_BPF 280
#endif

/* The number of the system call that a task is in, and where it was saved; the number is
 * something else where the kernel has another layout. */
static __always_inline void *task_system_call(struct task_struct *task, __u32 page_shift, __s32 *number)
{
	void *saved = BPF_CORE_READ(task, stack) + SAVED_AT;

	*number = -1;
	bpf_probe_read_kernel(number, sizeof(*number), saved);
#if defined(bpf_target_x86)
	/* 6.9, with CONFIG_X86_FRED: two words of room above the registers. */
	if ((*number & 0xffff) == USER_CS) {
		saved -= 2 * sizeof(__u64);
		bpf_probe_read_kernel(number, sizeof(*number), saved);
	}
#endif
	return saved;
}

/* The registers that the entry of a system call saved, if it is that one; else 0. */
static __always_inline struct pt_regs *task_registers(struct task_struct *task, __u32 page_shift, __s32 number)
{
	__s32 current_number;
	void *saved = task_system_call(task, page_shift, &current_number);

	if (current_number != number)
		return 0;
#if defined(bpf_target_x86)
	return saved - __builtin_offsetof(struct pt_regs, orig_rax);
#else
	return saved - bpf_core_field_offset(struct pt_regs___saved, syscallno);
#endif
}

#define rb_read(rb, field)                                                     \
	(bpf_core_type_exists(struct perf_buffer) ?                            \
		 kernel_read((struct perf_buffer *)(rb), field) :            \
		 kernel_read((struct ring_buffer *)(rb), field))

#define rb_count(rb, field)                                                    \
	(bpf_core_field_exists(                                                \
		 ((struct perf_buffer___refcount *)0)->field.refs.counter) ?   \
		 kernel_read((struct perf_buffer___refcount *)(rb),          \
			       field.refs.counter) :                           \
		 rb_read(rb, field.counter))

/* ---- BPF objects and memory cgroups ---- */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	__u64 id;
};
/* Before 5.5 (67c0496e87d1): the generation and the inode's number, which are one
 * number together. */
union kernfs_node_id {
	__u64 id;
};
struct kernfs_node___parts {
	union kernfs_node_id id;
};
struct cgroup_root {
	int hierarchy_id; /* 0: v2 */
};
struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_root *root;
};
struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};
struct page_counter {
	atomic_long_t usage;
	unsigned long max;
};
struct mem_cgroup {
	struct cgroup_subsys_state css; /* first: a css is its mem_cgroup */
	struct page_counter memory;
};
struct obj_cgroup {
	struct mem_cgroup *memcg;
};
/* 7.1: the root has one too, and the slab allocator charges without a call. */
struct obj_cgroup___root {
	bool is_root;
};
struct css_set {
	struct cgroup_subsys_state *subsys[16];
	struct cgroup *dfl_cgrp;
};
enum cgroup_subsys_id {
	memory_cgrp_id = 4,
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};

struct page {
	unsigned long memcg_data;
};
/* 6.16: no longer in struct page, which is the same memory. */
struct folio {
	unsigned long memcg_data;
};
struct kmem_cache {
	unsigned int size;
};

struct work_struct {
	long dummy;
} __attribute__((preserve_access_index));

struct bpf_map {
	atomic_t refcnt; /* 5.5 (1e0bd5a091e5): of 64 bits, the lower ones of which come first */
	enum bpf_map_type map_type;
	__u32 key_size;
	__u32 value_size;
	__u32 max_entries;
	__u32 map_flags;
	__u32 id;
	char name[16];
	struct work_struct work;
	struct obj_cgroup *objcg; /* 6.0 (4201d9ab3e42) */
};
/* 5.11 to 5.19. */
struct bpf_map___memcg {
	struct mem_cgroup *memcg;
};
/* 5.3 to 5.10. */
struct bpf_map_memory {
	__u32 pages;
	struct user_struct *user;
};
struct bpf_map___memory {
	struct bpf_map_memory memory;
};
/* Before 5.3. */
struct bpf_map___pages {
	__u32 pages;
	struct user_struct *user;
};
struct callback_head {
	long dummy;
};
struct bpf_prog {
	__u16 pages;
	enum bpf_prog_type type;
	struct bpf_prog_aux *aux;
};
struct bpf_prog_aux {
	atomic_t refcnt; /* 5.5 (85192dbf4de0): the same */
	__u32 id;
	char name[16];
	struct bpf_prog *prog;
	struct callback_head rcu;
};
/* Before 5.11. */
struct bpf_prog_aux___user {
	struct user_struct *user;
};

/* BPF's allocator of elements, 6.1 (7c8199e24fa0). */
struct irq_work {
	long dummy;
};
struct bpf_mem_cache {
	struct irq_work refill_work;
	struct obj_cgroup *objcg;
};
struct bpf_mem_alloc {
	struct bpf_mem_cache *cache; /* percpu */
};
struct bpf_htab {
	struct bpf_mem_alloc ma;
	struct bpf_mem_alloc pcpu_ma;
};
struct lpm_trie {
	struct bpf_mem_alloc ma;
};
struct bpf_local_storage_map {
	struct bpf_mem_alloc selem_ma;
	struct bpf_mem_alloc storage_ma;
};

#pragma clang attribute pop

extern void bpf_map_fops __ksym __weak;
extern void bpf_prog_fops __ksym __weak;
extern void __per_cpu_offset __ksym __weak;
extern void __sched_text_start __ksym __weak;
extern void __sched_text_end __ksym __weak;

/* What the calling process has open; 0: nothing. */
static __always_inline struct file *file_of_fd(__u32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd);
	struct file *file = 0;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), &files[fd]);
	return file;
}

/* 7.1: the slab allocator charges without a call. */
static __always_inline bool slab_charges_unseen(void)
{
	return bpf_core_field_exists(((struct obj_cgroup___root *)0)->is_root);
}

/* Each hierarchy has ids of its own: those of v1 are marked, and no cgroup of v2 is taken for
 * one of theirs. */
#define CGROUP_V1 (1ULL << 52)

static __always_inline __u64 memcg_cgroup_id(struct mem_cgroup *memcg)
{
	struct cgroup *cgroup = BPF_CORE_READ(memcg, css.cgroup);
	struct kernfs_node *node = BPF_CORE_READ(cgroup, kn);
	__u64 v1 = BPF_CORE_READ(cgroup, root, hierarchy_id) ? CGROUP_V1 : 0;

	if (bpf_core_field_exists(((struct kernfs_node___parts *)0)->id.id))
		return BPF_CORE_READ((struct kernfs_node___parts *)node, id.id) | v1;
	return BPF_CORE_READ(node, id) | v1;
}

/* The pages that a memory cgroup has left up to its memory.max; negative: it has more. */
static __always_inline __s64 memcg_left(struct mem_cgroup *memcg)
{
	return BPF_CORE_READ(memcg, memory.max) - BPF_CORE_READ(memcg, memory.usage.counter);
}

/* memory.max in bytes; -1: none. */
static __always_inline __s64 memory_max(struct mem_cgroup *memcg, __u32 page_shift)
{
	__u64 pages = BPF_CORE_READ(memcg, memory.max);

	return pages >> (62 - page_shift) ? -1 : (__s64)(pages << page_shift);
}

/* The memory cgroup that the running code charges: the active one, else its
 * task's. */
static __always_inline struct mem_cgroup *task_memcg(struct task_struct *task)
{
	struct mem_cgroup *active = BPF_CORE_READ(task, active_memcg);
	struct css_set *set;
	struct cgroup_subsys_state *css = 0;

	if (active)
		return active;
	set = BPF_CORE_READ(task, cgroups);
	bpf_probe_read_kernel(&css, sizeof(css),
			      (void *)set + bpf_core_field_offset(struct css_set, subsys) +
				      8 * bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id));
	return (void *)css;
}

/* Who pays for a page, by the page's own record (5.11 on); 0: nobody. */
static __always_inline struct mem_cgroup *page_memcg(struct page *page)
{
	struct folio *folio = (void *)page;
	unsigned long data;

	if (bpf_core_field_exists(folio->memcg_data))
		data = BPF_CORE_READ(folio, memcg_data);
	else
		data = BPF_CORE_READ(page, memcg_data);
	if (!(data & 2)) /* MEMCG_DATA_KMEM: what follows is an obj_cgroup */
		return 0;
	return BPF_CORE_READ((struct obj_cgroup *)(data & ~7UL), memcg);
}

/* The bytes of the attributes of bpf(2) that this kernel has: those beyond them must be zeroes
 * (bpf_check_uarg_tail_zero()). */
union bpf_attr___kernel {
	__u32 map_type;
} __attribute__((preserve_access_index));

static __always_inline __u32 bpf_attr_size(void)
{
	return bpf_core_type_size(union bpf_attr___kernel);
}

/* Reports whether BPF objects are charged to a user here: until 5.10 their structs
 * have a place for it. */
static __always_inline bool map_has_user(void)
{
	return bpf_core_field_exists(((struct bpf_map___memory *)0)->memory) ||
	       bpf_core_field_exists(((struct bpf_map___pages *)0)->pages);
}

static __always_inline __u32 map_pages(struct bpf_map *map)
{
	if (bpf_core_field_exists(((struct bpf_map___memory *)0)->memory))
		return BPF_CORE_READ((struct bpf_map___memory *)map, memory.pages);
	return BPF_CORE_READ((struct bpf_map___pages *)map, pages);
}

static __always_inline struct user_struct *map_user(struct bpf_map *map)
{
	if (bpf_core_field_exists(((struct bpf_map___memory *)0)->memory))
		return BPF_CORE_READ((struct bpf_map___memory *)map, memory.user);
	if (bpf_core_field_exists(((struct bpf_map___pages *)0)->pages))
		return BPF_CORE_READ((struct bpf_map___pages *)map, user);
	return 0;
}

/* Reports whether who puts a reference to a map, or to a program, has the last one. */
static __always_inline bool map_ends(struct bpf_map *map)
{
	return BPF_CORE_READ(map, refcnt.counter) == 1;
}

static __always_inline bool prog_ends(struct bpf_prog *prog)
{
	return BPF_CORE_READ(prog, aux, refcnt.counter) == 1;
}

static __always_inline struct user_struct *prog_user(struct bpf_prog_aux *aux)
{
	return BPF_CORE_READ((struct bpf_prog_aux___user *)aux, user);
}

/* Who pays for what a map takes later. */
static __always_inline struct mem_cgroup *map_memcg(struct bpf_map *map)
{
	if (bpf_core_field_exists(map->objcg)) {
		struct obj_cgroup *objcg = BPF_CORE_READ(map, objcg);

		return objcg ? BPF_CORE_READ(objcg, memcg) : 0;
	}
	if (bpf_core_field_exists(((struct bpf_map___memcg *)0)->memcg))
		return BPF_CORE_READ((struct bpf_map___memcg *)map, memcg);
	return 0;
}

/* The work that frees a map is part of it. */
static __always_inline struct bpf_map *map_of_work(struct work_struct *work)
{
	return (void *)work - bpf_core_field_offset(struct bpf_map, work);
}

/* And so is RCU's head of a program. */
static __always_inline struct bpf_prog_aux *prog_aux_of_rcu(void *rcu)
{
	return rcu - bpf_core_field_offset(struct bpf_prog_aux, rcu);
}

#define BPF_MAP_TYPE_CGRP_STORAGE_6_2 32 /* newer than the headers that this is built with */

static __always_inline bool is_local_storage(__u32 type)
{
	return type == BPF_MAP_TYPE_TASK_STORAGE || type == BPF_MAP_TYPE_INODE_STORAGE ||
	       type == BPF_MAP_TYPE_SK_STORAGE || type == BPF_MAP_TYPE_CGRP_STORAGE_6_2;
}

/* The allocator's caches, by their percpu pointers, of a map that takes its elements
 * from there; 0: none. */
static __always_inline void map_caches(struct bpf_map *map, __u64 *elements, __u64 *values)
{
	struct bpf_htab *htab = (void *)map;
	struct lpm_trie *trie = (void *)map;
	struct bpf_local_storage_map *storage = (void *)map;
	__u32 type = BPF_CORE_READ(map, map_type);

	if (type == BPF_MAP_TYPE_HASH || type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_HASH_OF_MAPS) {
		if (bpf_core_field_exists(htab->ma)) {
			*elements = (__u64)BPF_CORE_READ(htab, ma.cache);
			*values = (__u64)BPF_CORE_READ(htab, pcpu_ma.cache);
		}
	} else if (type == BPF_MAP_TYPE_LPM_TRIE && bpf_core_field_exists(trie->ma)) {
		*elements = (__u64)BPF_CORE_READ(trie, ma.cache);
	} else if (is_local_storage(type) && bpf_core_field_exists(storage->selem_ma)) {
		*elements = (__u64)BPF_CORE_READ(storage, selem_ma.cache);
		*values = (__u64)BPF_CORE_READ(storage, storage_ma.cache);
	}
}

static __always_inline struct bpf_mem_cache *cache_of_work(void *work)
{
	return work - bpf_core_field_offset(struct bpf_mem_cache, refill_work);
}

/* The percpu pointer behind a CPU's own copy. */
static __always_inline __u64 percpu_base(void *copy, __u32 cpu)
{
	__u64 offset = 0;

	if (&__per_cpu_offset)
		bpf_probe_read_kernel(&offset, sizeof(offset), (void *)&__per_cpu_offset + 8 * cpu);
	return (__u64)copy - offset;
}

/* The arguments of a system call, which are in the registers that its entry
 * saved and hands on. */
#if defined(bpf_target_x86)
#define syscall_register(n)                                                                    \
	((n) == 0 ? __builtin_offsetof(struct pt_regs, rdi) :                                  \
	 (n) == 1 ? __builtin_offsetof(struct pt_regs, rsi) :                                  \
	 (n) == 2 ? __builtin_offsetof(struct pt_regs, rdx) :                                  \
		    __builtin_offsetof(struct pt_regs, r10))
#else
#define syscall_register(n) __builtin_offsetof(struct user_pt_regs, regs[n])
#endif

#define syscall_arg(regs, n)                                                                   \
	({                                                                                     \
		__u64 __value = 0;                                                             \
		bpf_probe_read_kernel(&__value, sizeof(__value), (void *)(regs) + syscall_register(n)); \
		__value;                                                                       \
	})

/* ---- iterators ---- */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};
struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct vm_area_struct *vma;
};
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

#pragma clang attribute pop

/* ---- the other chargers ---- */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct io_ring_ctx { /* 5.1 */
	struct user_struct *user;
	struct mm_struct *mm_account; /* 5.10 */
	struct work_struct exit_work;
};
struct io_ring_ctx___rsrc {
	struct work_struct rsrc_put_work; /* the first member of a delayed_work */
};
struct xdp_umem {
	struct user_struct *user;
	refcount_t users;
	struct work_struct work;
	__u32 npgs;
};
struct xdp_sock {
	struct xdp_umem *umem;
};
struct socket {
	struct xdp_sock *sk; /* of which the kernel's struct sock is the beginning */
};
struct mmpin {
	struct user_struct *user;
};
struct ubuf_info_msgzc {
	struct mmpin mmp;
};
/* Before 6.1 (e7d2b510165f). */
struct ubuf_info {
	struct mmpin mmp;
};

#pragma clang attribute pop

/* Reports whether a task has ever used an io_uring, as far as the kernel knows. */
#define task_has_io_uring(task) (bpf_core_field_exists((task)->io_uring) && (task)->io_uring)

/* Who is charged for a ring. */
static __always_inline struct user_struct *ring_user(struct io_ring_ctx *ring)
{
	return bpf_core_field_exists(ring->user) ? kernel_read(ring, user) : 0;
}

/* Reports whether nobody is: it was made with CAP_IPC_LOCK. */
static __always_inline bool ring_is_exempt(struct io_ring_ctx *ring)
{
	return bpf_core_field_exists(ring->user) && !kernel_read(ring, user);
}

/* Whose pinned_vm its buffers are in; 0: they are in none. */
static __always_inline struct mm_struct *ring_mm(struct io_ring_ctx *ring)
{
	return bpf_core_field_exists(ring->mm_account) ? kernel_read(ring, mm_account) : 0;
}

static __always_inline struct io_ring_ctx *ring_of_file(struct file *file)
{
	return kernel_read(file, private_data);
}

/* The errno that an ERR_PTR() is; 0: it is a pointer. */
static __always_inline int pointer_errno(const void *pointer)
{
	return (__u64)pointer >> 32 == ~0U ? (__s32)(__u64)pointer : 0;
}

/* The ring behind a file descriptor of the calling process that is one of a ring. */
static __always_inline struct io_ring_ctx *ring_of_fd(__u32 fd)
{
	struct file *file = file_of_fd(fd);

	return file ? ring_of_file(file) : 0;
}

/* 0 before 5.7 (85faa7b8346e), where there is no such work. */
static __always_inline struct io_ring_ctx *ring_of_exit_work(void *work)
{
	if (!bpf_core_field_exists(((struct io_ring_ctx *)0)->exit_work))
		return 0;
	return work - bpf_core_field_offset(struct io_ring_ctx, exit_work);
}

/* 0 where there is no such work. */
static __always_inline struct io_ring_ctx *ring_of_rsrc_work(void *work)
{
	if (!bpf_core_field_exists(((struct io_ring_ctx___rsrc *)0)->rsrc_put_work))
		return 0;
	return work - bpf_core_field_offset(struct io_ring_ctx___rsrc, rsrc_put_work);
}

static __always_inline struct xdp_umem *umem_of_work(void *work)
{
	return work - bpf_core_field_offset(struct xdp_umem, work);
}

/* The umem of an AF_XDP socket that nothing but the socket has; 0: none. */
static __always_inline struct xdp_umem *socket_last_umem(struct socket *socket)
{
	struct xdp_umem *umem = kernel_read(socket, sk, umem);

	return umem && kernel_read(umem, users.refs.counter) == 1 ? umem : 0;
}

/* The pages of a umem, which are what its user is charged for. */
static __always_inline __s64 umem_pages(struct xdp_umem *umem)
{
	return kernel_read(umem, npgs);
}

/* Who is charged for a MSG_ZEROCOPY buffer; 0 where that is not known. */
static __always_inline struct user_struct *zerocopy_user(void *buffer)
{
	struct ubuf_info_msgzc *msgzc = buffer;
	struct ubuf_info *older = buffer;

	if (bpf_core_field_exists(msgzc->mmp))
		return kernel_read(msgzc, mmp.user);
	if (bpf_core_field_exists(older->mmp))
		return kernel_read(older, mmp.user);
	return 0;
}

#endif
