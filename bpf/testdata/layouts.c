// SPDX-License-Identifier: GPL-2.0
/*
 * The structures of old kernels, as far as the legacy programs read them: what these are
 * loaded against in tests, for no such kernel is on Debian's mirrors. The order and the
 * kinds of the members are the kernel's; most of what is never read is left out, so the
 * offsets are no kernel's.
 *
 * layouts.sh compiles it once for each version at which one of them changed, as LINUX,
 * 100 * major + minor.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef _Bool bool;

typedef struct {
	int counter;
} atomic_t;
typedef struct {
	long counter;
} atomic_long_t;
typedef struct {
	long counter;
} atomic64_t;
typedef struct refcount_struct {
	atomic_t refs;
} refcount_t;
typedef struct {
	u32 val;
} kuid_t;
typedef struct kernel_cap_struct {
	u32 cap[2];
} kernel_cap_t;

struct list_head {
	struct list_head *next, *prev;
};
struct callback_head {
	struct callback_head *next;
	void (*func)(struct callback_head *head);
} __attribute__((aligned(sizeof(void *))));
struct work_struct;
typedef void (*work_func_t)(struct work_struct *work);
struct work_struct {
	atomic_long_t data;
	struct list_head entry;
	work_func_t func;
};

/* ---- users, processes ---- */

struct user_struct {
	refcount_t __count;
	atomic_t processes;
	atomic_t sigpending;
	unsigned long locked_shm;
	unsigned long unix_inflight;
	kuid_t uid;
	atomic_long_t locked_vm;
};
struct user_namespace {
	struct user_namespace *parent;
	int level;
	kuid_t owner;
};
struct cred {
	atomic_t usage;
	kuid_t uid;
	kuid_t euid;
	unsigned securebits;
	kernel_cap_t cap_inheritable;
	kernel_cap_t cap_permitted;
	kernel_cap_t cap_effective;
	struct user_struct *user;
	struct user_namespace *user_ns;
	struct callback_head rcu;
};
struct rlimit {
	unsigned long rlim_cur;
	unsigned long rlim_max;
};
struct signal_struct {
	atomic_t live;
	int nr_threads;
	struct rlimit rlim[16];
};
struct mm_struct {
	struct {
		unsigned long total_vm;
		unsigned long locked_vm;
#if LINUX < 501
		unsigned long pinned_vm;
#else
		atomic64_t pinned_vm;
#endif
		unsigned long data_vm;
		struct user_namespace *user_ns;
	};
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	atomic_t count;
	struct fdtable *fdt;
};
struct cgroup_subsys_state;
struct cgroup;
struct css_set {
	struct cgroup_subsys_state *subsys[13];
	refcount_t refcount;
	struct cgroup *dfl_cgrp;
};
enum cgroup_subsys_id {
	cpuset_cgrp_id = 0,
	cpu_cgrp_id = 1,
	cpuacct_cgrp_id = 2,
	memory_cgrp_id = 3,
	CGROUP_SUBSYS_COUNT = 4,
};
struct perf_event_context {
	struct list_head event_list;
	struct task_struct *task;
	struct perf_event *first; /* in place of the trees of events */
};
struct task_struct {
	volatile long state;
	void *stack;
	unsigned int flags;
	struct mm_struct *mm;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *parent;
	struct task_struct *group_leader;
	const struct cred *real_cred;
	const struct cred *cred;
	char comm[16];
	struct files_struct *files;
	struct signal_struct *signal;
	struct css_set *cgroups;
	struct perf_event_context *perf_event_ctxp[2];
	struct mem_cgroup *active_memcg;
};

/* ---- files ---- */

struct super_block {
	struct list_head s_list;
	unsigned long s_magic;
	struct user_namespace *s_user_ns;
};
struct inode {
	u16 i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
};
struct qstr {
	union {
		struct {
			u32 hash;
			u32 len;
		};
		u64 hash_len;
	};
	const unsigned char *name;
};
struct dentry {
	unsigned int d_flags;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};
struct path {
	void *mnt;
	struct dentry *dentry;
};
struct file_operations;
struct file {
	union {
		void *fu_llist;
		struct callback_head fu_rcuhead;
	} f_u;
	struct path f_path;
	struct inode *f_inode;
	const struct file_operations *f_op;
	const struct cred *f_cred;
	void *private_data;
};
struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	struct vm_area_struct *vm_next, *vm_prev;
	struct mm_struct *vm_mm;
	unsigned long vm_flags;
	unsigned long vm_pgoff;
	struct file *vm_file;
};

/* ---- perf ---- */

struct ring_buffer {
	refcount_t refcount;
	struct callback_head callback_head;
	int nr_pages;
	int overwrite;
	int paused;
	atomic_t poll;
	long watermark;
	struct list_head event_list;
	atomic_t mmap_count;
	unsigned long mmap_locked;
	struct user_struct *mmap_user;
	long aux_head;
	unsigned long aux_pgoff;
	int aux_nr_pages;
	int aux_overwrite;
	atomic_t aux_mmap_count;
	unsigned long aux_mmap_locked;
	void (*free_aux)(void *);
	struct perf_event_mmap_page *user_page;
	void *data_pages[0];
};
/* Up to 5.5 the tracing sources have a struct ring_buffer of their own, and so such a
 * kernel's types have twice whatever leads to one of the two. */
struct ring_buffer___ftrace {
	unsigned flags;
	int cpus;
	atomic_t record_disabled;
	void **buffers;
	u64 (*clock)(void);
};
struct perf_event;
struct pmu {
	int type;
	void *(*setup_aux)(struct perf_event *event, void **pages, int nr_pages, bool overwrite);
};
enum perf_event_state {
	PERF_EVENT_STATE_DEAD = -4,
	PERF_EVENT_STATE_ACTIVE = 1,
};
struct perf_event_attr {
	u32 type;
	u32 size;
	u64 config[4];
	u64 bits;
};
struct pt_regs {
	u64 regs[31]; /* arm64's */
	int syscallno;
};
struct perf_event {
	struct list_head event_entry;
	struct pmu *pmu;
	enum perf_event_state state;
	struct perf_event_attr attr;
	int cpu;
	struct perf_event_context *ctx;
	atomic_long_t refcount;
	atomic_t mmap_count;
	struct ring_buffer *rb;
	struct list_head rb_entry;
};

/* ---- cgroups ---- */

union kernfs_node_id {
	struct {
		u32 ino;
		u32 generation;
	};
	u64 id;
};
struct kernfs_node {
	atomic_t count;
	atomic_t active;
	struct kernfs_node *parent;
	const char *name;
	const void *ns;
	unsigned int hash;
	void *priv;
#if LINUX < 505
	union kernfs_node_id id;
#else
	u64 id;
#endif
	unsigned short flags;
};
struct cgroup_subsys_state {
	struct cgroup *cgroup;
	void *ss;
	struct list_head sibling;
	int id;
	unsigned int flags;
	struct cgroup_subsys_state *parent;
};
struct cgroup_root {
	void *kf_root;
	unsigned int subsys_mask;
	int hierarchy_id;
};
struct cgroup {
	struct cgroup_subsys_state self;
	unsigned long flags;
	int id;
	int level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};
struct page_counter {
	atomic_long_t usage;
	unsigned long min;
	unsigned long low;
	unsigned long max;
	struct page_counter *parent;
};
struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
};

/* ---- BPF ---- */

enum bpf_map_type {
	BPF_MAP_TYPE_UNSPEC,
	BPF_MAP_TYPE_HASH,
};
enum bpf_prog_type {
	BPF_PROG_TYPE_UNSPEC,
	BPF_PROG_TYPE_SOCKET_FILTER,
};
union bpf_attr {
	u32 map_type;
	u64 others[9];
};
struct bpf_map_memory {
	u32 pages;
	struct user_struct *user;
};
struct bpf_map {
	const void *ops;
	struct bpf_map *inner_map_meta;
	void *security;
	enum bpf_map_type map_type;
	u32 key_size;
	u32 value_size;
	u32 max_entries;
	u32 map_flags;
#if LINUX < 503
	u32 pages;
	u32 id;
#else
	int spin_lock_off;
	u32 id;
#endif
	int numa_node;
#if LINUX < 503
	bool unpriv_array;
	struct user_struct *user;
	atomic_t refcnt;
#else
	struct bpf_map_memory memory;
	bool unpriv_array;
	bool frozen;
	atomic_t refcnt;
#endif
	atomic_t usercnt;
	struct work_struct work;
	char name[16];
};
struct bpf_htab {
	struct bpf_map map;
	void *buckets;
	void *elems;
	union {
		struct list_head freelist;
		struct list_head lru;
	};
	atomic_t count;
};
struct lpm_trie {
	struct bpf_map map;
	void *root;
	u64 n_entries;
};
struct bpf_prog;
struct bpf_prog_aux {
	atomic_t refcnt;
	u32 used_map_cnt;
	u32 id;
	struct bpf_prog **func;
	struct bpf_map **used_maps;
	struct bpf_prog *prog;
	struct user_struct *user;
	u64 load_time;
	char name[16];
	union {
		struct work_struct work;
		struct callback_head rcu;
	};
};
struct bpf_prog {
	u16 pages;
	u16 jited : 1, gpl_compatible : 1, cb_access : 1;
	enum bpf_prog_type type;
	u32 len;
	u8 tag[8];
	struct bpf_prog_aux *aux;
};

/* ---- the other chargers ---- */

#if LINUX >= 501
struct io_ring_ctx {
	struct {
		unsigned int flags;
		bool compat;
		bool account_mem;
		u32 sq_entries;
	};
	struct mm_struct *sqo_mm;
	unsigned nr_user_bufs;
	struct user_struct *user;
};
#endif
struct xdp_umem {
	u64 size;
	struct work_struct work;
	void **pgs;
	u32 npgs;
	struct user_struct *user;
	refcount_t users;
};
struct sock {
	u64 common;
};
struct xdp_sock {
	struct sock sk;
	void *rx;
	void *dev;
	struct xdp_umem *umem;
};
struct socket {
	int state;
	void *file;
	struct sock *sk;
};
struct mmpin {
	struct user_struct *user;
	unsigned int num_pg;
};
struct ubuf_info {
	void (*callback)(struct ubuf_info *, bool zerocopy_success);
	union {
		struct {
			unsigned long desc;
			void *ctx;
		};
		struct {
			u32 id;
			u16 len;
			u16 zerocopy : 1;
			u32 bytelen;
		};
	};
	refcount_t refcnt;
	struct mmpin mmp;
};

/* The compiler describes in full what it has a variable of. */
#define KEEP(type) struct type *keep_##type
KEEP(callback_head);
KEEP(work_struct);
KEEP(user_struct);
KEEP(user_namespace);
KEEP(cred);
KEEP(rlimit);
KEEP(signal_struct);
KEEP(mm_struct);
KEEP(fdtable);
KEEP(files_struct);
KEEP(css_set);
KEEP(perf_event_context);
KEEP(task_struct);
KEEP(super_block);
KEEP(inode);
KEEP(qstr);
KEEP(dentry);
KEEP(path);
KEEP(file);
KEEP(vm_area_struct);
KEEP(ring_buffer);
KEEP(ring_buffer___ftrace);
KEEP(pmu);
KEEP(pt_regs);
KEEP(perf_event);
KEEP(kernfs_node);
KEEP(cgroup_subsys_state);
KEEP(cgroup);
KEEP(cgroup_root);
KEEP(page_counter);
KEEP(mem_cgroup);
KEEP(bpf_map);
KEEP(bpf_htab);
KEEP(lpm_trie);
KEEP(bpf_prog_aux);
KEEP(bpf_prog);
#if LINUX >= 501
KEEP(io_ring_ctx);
#endif
KEEP(xdp_umem);
KEEP(xdp_sock);
KEEP(socket);
KEEP(mmpin);
KEEP(ubuf_info);
enum cgroup_subsys_id *keep_cgroup_subsys_id;
union bpf_attr *keep_bpf_attr;
