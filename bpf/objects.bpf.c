//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * Watches BPF maps and programs come and go, and who pays for them.
 *
 * Before 5.11 they are charged to a user: user_struct.locked_vm, in pages,
 * against RLIMIT_MEMLOCK. Since then they are charged to a memory cgroup, in
 * bytes (80ee81e0403c for maps, 3ac1f01b43b6 for programs).
 *
 * What is charged to a memory cgroup between the entry of bpf(2) and the making of
 * the file descriptor is the object's. The charge functions are hot: everyone who is
 * in none of the calls that are traced leaves them after one look at a counter.
 */
#include "kernel.h"
#include "record.h"
#include "overlap.h"

char LICENSE[] SEC("license") = "GPL";

enum op {
	OP_CREATE, /* BPF_MAP_CREATE, BPF_PROG_LOAD */
	OP_GROW,   /* memory that a map took later */
	OP_FREE,   /* the object's memory is freed */
	OP_CLOSE,  /* the last reference to an object has gone, and OP_FREE comes later */
};

enum kind {
	KIND_MAP,
	KIND_PROG,
};

/* What one cgroup pays. Pages of the page allocator and vmalloc, and objects of
 * the slab and the percpu allocator, which are charged by the byte. */
struct payer {
	__u64 cgroup_id;
	__s64 page_bytes;
	__s64 object_bytes;
};

struct record {
	struct header header;
	struct reading user; /* user_struct.locked_vm; its owner alone unless FLAG_RLIMIT */
	__u64 object; /* the bpf_map or bpf_prog: an identity, never shown */
	__s64 pages;  /* charged to the user, by the object's own record; when it was refused, those asked for */

	/* Charged to cgroups, in bytes; negative: given back. */
	struct payer payers[2];
	__s64 further_bytes;	 /* of any more cgroups */
	__s64 unpaid_bytes;	 /* of pages that no cgroup, or the root cgroup, pays for */
	__u64 map_cgroup_id;	 /* that the map itself names for what it takes later */
	__u64 limit_cgroup_id;	 /* whose memory.current and memory.max follow: the one that */
	__s64 usage_bytes;	 /* refused, else the first payer */
	__s64 limit_bytes;

	enum op op;
	enum kind kind;
	__s32 ret; /* a file descriptor, or -errno */
	__u32 type; /* bpf_map_type or bpf_prog_type */
	__u32 id;
	__u32 key_size;
	__u32 value_size;
	__u32 max_entries;
	__u32 map_flags;
	__u32 command; /* of bpf(2), at OP_CREATE, and at OP_GROW if it failed */
	__u8 name[16];
};

/* A call between its entry and its return, and what it is about. */
struct call {
	struct record record;
	struct stay stays[INFLIGHT_USER + 1];
	__u64 user;  /* struct user_struct *; 0: no user is charged */
	__u64 memcg; /* of the first payer, or the one that refused */
	__u64 page;  /* a page charge between its entry and its return */
	__u32 order;
	__u32 closed; /* the file descriptor is being made: that is no part of it */
	__u32 interrupt; /* it is one, or part of one */
	__u32 refused; /* the record has the cgroup that refused, as it was then */
	__u64 full;	/* a memory cgroup that had no room for the call, */
	__s64 full_pages; /* and for how much */
	enum record_flag account; /* what the comparison with the user's limit was seen to do */
	__s64 percpu_bytes; /* asked for by an allocation under way, on all CPUs */
	__s64 percpu_before; /* the charges of objects at its begin */
};

/* How many calls are under way, and how many of them are refills. */
struct open_calls {
	__u64 all;
	__u64 refills;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct open_calls);
} open_map SEC(".maps");

/* The levels of calls: a thread can be in bpf(2), in there or in a program in a map's
 * allocation, and be interrupted by RCU that frees a program, and by a refill of a
 * cache. */
enum level {
	LEVEL_BPF, /* bpf(2), and the worker that frees maps */
	LEVEL_ALLOC,
	LEVEL_PROG_FREE,
	LEVEL_REFILL, /* found by the CPU */
	LEVEL_CLOSE,
};

#define CALL_SLOTS 256
#define CALL_OVERFLOW 1024
#define CALL_GONE(key) open_calls_add(key, -1)
static __always_inline void open_calls_add(__u64 key, __s64 n);
#include "calls.h"

/* What a map took later and nobody was told of yet. */
struct growth {
	struct payer payers[2];
	__s64 further_bytes;
	__s64 unpaid_bytes;
};

/* The last time that a cgroup refused memory for a map's elements. */
struct memcg_refusal {
	__u64 time_ns;
	__u64 cgroup_id;
	__s64 usage_bytes;
	__s64 limit_bytes;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct memcg_refusal);
} memcg_refusals SEC(".maps");

/* How long a cache of elements that could not be filled explains that there is none. */
#define REFUSAL_COUNTS_NS 1000000000
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct growth);
} growths SEC(".maps");

/* The map behind a BPF memory allocator's cache, by the cache's percpu pointer. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u64);
} caches SEC(".maps");

#define GROWTH_REPORTED (64 << 10) /* bytes that are worth a record */

static __always_inline struct open_calls *open_calls(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&open_map, &zero);
}

static __always_inline __u64 level_key(enum level level)
{
	return call_key(level, level == LEVEL_REFILL ? call_on_cpu() : call_by_thread());
}

static __always_inline void open_calls_add(__u64 key, __s64 n)
{
	struct open_calls *open = open_calls();

	if (!open)
		return;
	__sync_fetch_and_add(&open->all, n);
	if (call_level(key) == LEVEL_REFILL)
		__sync_fetch_and_add(&open->refills, n);
}

static __always_inline struct call *level_find(enum level level)
{
	return call_find(level_key(level));
}

/* Reports whether anyone is in a call at all: nearly everyone may leave after that. */
static __always_inline bool any_open(void)
{
	struct open_calls *open = open_calls();

	return open && open->all;
}

/* The call that a charge belongs to, the innermost one, or 0. */
static __always_inline struct call *call_around(void)
{
	struct open_calls *open = open_calls();
	struct call *call;

	if (!open || !open->all)
		return 0;
	if (open->refills) {
		call = level_find(LEVEL_REFILL);
		if (call)
			return call;
	}
	call = level_find(LEVEL_ALLOC);
	if (call)
		return call;
	call = level_find(LEVEL_BPF);
	return call && !call->closed ? call : 0;
}

/* ---- charges ---- */

static __always_inline void payers_add(struct payer payers[2], __s64 *further, __u64 cgroup, __s64 page_bytes,
				       __s64 object_bytes)
{
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (payers[i].cgroup_id && payers[i].cgroup_id != cgroup)
			continue;
		payers[i].cgroup_id = cgroup;
		payers[i].page_bytes += page_bytes;
		payers[i].object_bytes += object_bytes;
		return;
	}
	*further += page_bytes + object_bytes;
}

/* Whether what a call gives back can be a memory cgroup's: the map's; of what has no such, and
 * of a map that is being made, the one that the call charged first. */
static __always_inline bool pays_for(struct call *call, struct mem_cgroup *memcg)
{
	struct record *r = &call->record;

	if (r->map_cgroup_id)
		return memcg_cgroup_id(memcg) == r->map_cgroup_id;
	return r->op == OP_FREE || call->memcg == (__u64)memcg;
}

static __always_inline void charge(struct call *call, struct mem_cgroup *memcg, __s64 page_bytes,
				   __s64 object_bytes)
{
	struct record *r = &call->record;

	if (!memcg || !BPF_CORE_READ(memcg, css.parent)) {
		r->unpaid_bytes += page_bytes + object_bytes;
		return;
	}
	/* An interrupt of whoever frees, or takes, may free for others. */
	if ((r->op == OP_FREE || page_bytes + object_bytes < 0) && !pays_for(call, memcg))
		return;
	if (!call->memcg)
		call->memcg = (__u64)memcg;
	payers_add(r->payers, &r->further_bytes, memcg_cgroup_id(memcg), page_bytes, object_bytes);
}

/* Of a memory cgroup and those above it, the one that has the least left. */
static __always_inline struct mem_cgroup *tightest(struct mem_cgroup *memcg)
{
	struct mem_cgroup *least = memcg;
	__s64 left, least_left = ((__u64)1 << 63) - 1;

	for (int i = 0; i < 12; i++) { /* 5.3: only where there are memory cgroups for it */
		if (!memcg)
			break;
		left = memcg_left(memcg);
		if (left < least_left) {
			least = memcg;
			least_left = left;
		}
		memcg = (void *)BPF_CORE_READ(memcg, css.parent);
	}
	return least;
}

static __always_inline void read_usage(struct record *r, struct mem_cgroup *memcg, __u32 page_shift)
{
	r->limit_cgroup_id = memcg_cgroup_id(memcg);
	r->usage_bytes = BPF_CORE_READ(memcg, memory.usage.counter) << page_shift;
	r->limit_bytes = memory_max(memcg, page_shift);
}

/* Keeps what the cgroup that refused has, as it is then. */
static __always_inline void call_refused(struct call *call, struct mem_cgroup *refusing)
{
	const struct config *config = config_get();

	if (!config || !refusing)
		return;
	read_usage(&call->record, refusing, config->page_shift);
	call->refused = 1;
}

/* A page was charged, or refused. */
static __always_inline void page_charged(struct call *call, struct page *page, __u32 order,
					 struct mem_cgroup *refusing)
{
	const struct config *config = config_get();

	if (refusing)
		call_refused(call, refusing);
	else if (config)
		charge(call, page_memcg(page), (__s64)1 << (config->page_shift + order), 0);
}

/* Whose cache of elements an interrupt fills up, on this CPU: what it takes is charged to that
 * memory cgroup, and not to the one of the task that it came upon; 0: none is filled. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} refilling SEC(".maps");

static __always_inline void refill_is(struct mem_cgroup *memcg)
{
	__u32 zero = 0;
	__u64 *slot = bpf_map_lookup_elem(&refilling, &zero);

	if (slot)
		*slot = (__u64)memcg;
}

/* The memory cgroup that refused a charge; 0: none did. It is looked up before the call
 * is: the verifier follows all that comes after call_around() once for each map that
 * the call may be in. */
static __always_inline struct mem_cgroup *refusing_memcg(int ret)
{
	__u32 zero = 0;
	__u64 *refill;
	struct mem_cgroup *memcg;

	if (!ret)
		return 0;
	refill = bpf_map_lookup_elem(&refilling, &zero);
	memcg = refill ? (void *)*refill : 0;
	if (!memcg)
		memcg = task_memcg((void *)bpf_get_current_task());
	return tightest(memcg);
}

/* More than any stack of a task's: 16 KiB, by the kernel's configuration up to 64. */
#define STACK_MOST (64 << 10)

/* Whether the task is interrupted: interrupts have a stack of the CPU's, and so has what they
 * start, RCU's callbacks. The context of a program lies on the stack that is in use. */
static __always_inline bool interrupted(const void *ctx)
{
	__u64 stack = (__u64)BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), stack), here = 0;

	/* Read, for the verifier allows no arithmetic on it. */
	bpf_probe_read_kernel(&here, sizeof(here), &ctx);
	return here - stack >= STACK_MOST;
}

/* The functions that are under way on a CPU, from the innermost. */
#define FRAMES 16
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[FRAMES]);
} frames_map SEC(".maps");

/* Whether the scheduler is at work, beneath whom the task was preempted: it takes leave of the
 * task before, and of its memory's last page table if that has ended. */
static __always_inline bool switching(void *ctx)
{
	__u64 start = (__u64)&__sched_text_start, length = (__u64)&__sched_text_end - start;
	__u32 zero = 0;
	__u64 *frames = bpf_map_lookup_elem(&frames_map, &zero);
	long got;

	if (!frames || !start)
		return false;
	got = bpf_get_stack(ctx, frames, FRAMES * sizeof(*frames), 0);
#pragma unroll
	for (int i = 0; i < FRAMES; i++)
		if ((i + 1) * (long)sizeof(*frames) <= got && frames[i] - start < length)
			return true;
	return false;
}

/* The call that gives something back; 0: none. RCU lets go of what others were charged, page
 * tables for one, in interrupts of whoever is running: only a call that is an interrupt itself
 * has a part in that. Nor has it in what the scheduler does. */
static __always_inline struct call *call_giving_back(void *ctx)
{
	struct call *call = call_around();

	if (!call || (!call->interrupt && (interrupted(ctx) || switching(ctx))))
		return 0;
	return call;
}

static __always_inline void page_uncharged(void *ctx, struct page *page, __u32 order)
{
	struct call *call = call_giving_back(ctx);
	const struct config *config;

	if (!call)
		return;
	config = config_get();
	if (config)
		charge(call, page_memcg(page), -((__s64)1 << (config->page_shift + order)), 0);
}

static __always_inline void object_uncharged(void *ctx, struct obj_cgroup *objcg, __s64 bytes)
{
	struct call *call = call_giving_back(ctx);

	if (call)
		charge(call, BPF_CORE_READ(objcg, memcg), 0, -bytes);
}

/* The charge of an obj_cgroup failed. */
static __always_inline void object_refused(struct obj_cgroup *objcg)
{
	struct mem_cgroup *refusing;
	struct call *call;

	if (!any_open())
		return;
	refusing = tightest(BPF_CORE_READ(objcg, memcg));
	call = call_around();
	if (call)
		call_refused(call, refusing);
}

static __always_inline void object_charged(struct obj_cgroup *objcg, __s64 bytes)
{
	struct call *call = call_around();

	if (call)
		charge(call, BPF_CORE_READ(objcg, memcg), 0, bytes);
}

/* Where the slab allocator charges without a call. Every object has a pointer of its
 * own besides. */
static __always_inline void slab_charged(struct kmem_cache *cache, __u64 objects, bool charged)
{
	struct call *call;
	struct mem_cgroup *memcg;

	if (!slab_charges_unseen())
		return;
	call = call_around();
	if (!call)
		return;
	/* Allocations for a map are charged to the map's cgroup, which the
	 * allocator makes the active one. */
	memcg = (void *)call->memcg;
	if (!call->record.map_cgroup_id || !memcg)
		memcg = task_memcg((void *)bpf_get_current_task());
	if (!charged) {
		call_refused(call, tightest(memcg));
		return;
	}
	charge(call, memcg, 0, objects * (BPF_CORE_READ(cache, size) + sizeof(void *)));
}

/* ---- objects ---- */

/* Maps that take elements from an allocator give them back through it. */
static __always_inline bool frees_later(struct bpf_map *map)
{
	__u32 type = BPF_CORE_READ(map, map_type);

	return BPF_CORE_READ(map, map_flags) & BPF_F_NO_PREALLOC || type == BPF_MAP_TYPE_LPM_TRIE ||
	       is_local_storage(type);
}

static __always_inline void describe_map(struct call *call, struct bpf_map *map)
{
	struct record *r = &call->record;

	if (frees_later(map))
		r->header.flags |= FLAG_LATER;

	r->kind = KIND_MAP;
	r->object = (__u64)map;
	r->id = BPF_CORE_READ(map, id);
	r->type = BPF_CORE_READ(map, map_type);
	r->key_size = BPF_CORE_READ(map, key_size);
	r->value_size = BPF_CORE_READ(map, value_size);
	r->max_entries = BPF_CORE_READ(map, max_entries);
	r->map_flags = BPF_CORE_READ(map, map_flags);
	BPF_CORE_READ_INTO(&r->name, map, name);
	if (map_has_user()) {
		r->header.flags |= FLAG_RLIMIT;
		r->pages = map_pages(map);
	} else {
		struct mem_cgroup *memcg = map_memcg(map);

		if (memcg)
			r->map_cgroup_id = memcg_cgroup_id(memcg);
	}
}

static __always_inline void describe_prog(struct call *call, struct bpf_prog *prog)
{
	struct record *r = &call->record;
	struct bpf_prog_aux *aux = BPF_CORE_READ(prog, aux);

	r->kind = KIND_PROG;
	r->object = (__u64)prog;
	r->id = BPF_CORE_READ(aux, id);
	r->type = BPF_CORE_READ(prog, type);
	BPF_CORE_READ_INTO(&r->name, aux, name);
	if (map_has_user()) {
		r->header.flags |= FLAG_RLIMIT;
		r->pages = BPF_CORE_READ(prog, pages);
	}
}

/* The readings at the entry of any call. */
static __always_inline struct call *object_begin(enum level level, enum op op, struct user_struct *user)
{
	struct header header = { .kind = RECORD_OBJECT };
	const struct config *config = config_get();
	__u64 key = level_key(level);
	struct call *call;
	struct record *r;

	if (!config)
		return 0;
	caller_read(config, &header);
	call = call_enter(key);
	if (!call)
		return 0;
	open_calls_add(key, 1);
	r = &call->record;
	r->header = header;
	r->op = op;
	if (user)
		r->user.owner = user_uid(user);
	if (user && map_has_user()) {
		call->user = (__u64)user;
		inflight_enter(INFLIGHT_USER, &call->stays[INFLIGHT_USER], locked_vm_address(user));
		r->user.before = user_locked_vm(user);
	}
	return call;
}

/* The allocator's caches of a map that takes its elements from there. */
static __always_inline void cache_enter(struct bpf_map *map, __u64 cache)
{
	__u64 value = (__u64)map;

	if (cache)
		bpf_map_update_elem(&caches, &cache, &value, BPF_ANY);
}

static __always_inline void caches_enter(struct bpf_map *map)
{
	__u64 elements = 0, values = 0;

	map_caches(map, &elements, &values);
	cache_enter(map, elements);
	cache_enter(map, values);
}

static __always_inline void caches_leave(struct bpf_map *map)
{
	__u64 elements = 0, values = 0;

	map_caches(map, &elements, &values);
	bpf_map_delete_elem(&caches, &elements);
	bpf_map_delete_elem(&caches, &values);
}

static __always_inline bool has_growth(const struct record *r)
{
	return r->payers[0].cgroup_id || r->unpaid_bytes || r->further_bytes;
}

/* The readings at its return, and the record. */
static __always_inline void object_end(void *ctx, struct call *call, int ret)
{
	struct record *r = &call->record;
	struct mem_cgroup *memcg = (void *)call->memcg;
	struct user_struct *user = (void *)call->user;
	const struct config *config = config_get();
	reserved_t reserved = record_reserve();

	r->ret = ret;
	if (ret < 0)
		caller_read_limits(&r->header);
	r->header.flags |= call->account;
	if (call->refused)
		r->header.flags |= FLAG_MEMCG_REFUSED;
	if (user) {
		r->user.after = user_locked_vm(user);
		r->header.flags |= user_flags(user, &r->user, &call->stays[INFLIGHT_USER]);
	}
	if (memcg && config && !call->refused)
		read_usage(r, memcg, config->page_shift);
	record_submit(ctx, reserved, r);
	call_leave(call);
}

/* How many bytes of a structure the caller gave: the kernel takes the others for zeroes,
 * whatever lies behind. */
static __always_inline __u64 bytes_given(__u64 size, __u64 wanted)
{
	__u64 bytes = size < wanted ? size : wanted;

	barrier_var(bytes); /* so that the verifier sees the very value bounded */
	return bytes > wanted ? wanted : bytes;
}

/* What a failed call asked for is known from its arguments alone. */
static __always_inline void read_attr(struct record *r, __u64 cmd, const void *attr, __u32 size)
{
	/* The beginnings of the structs in union bpf_attr. */
	struct {
		__u32 map_type, key_size, value_size, max_entries, map_flags, inner_map_fd, numa_node;
		char map_name[16];
	} map = {};
	struct {
		__u32 prog_type, others[11];
		char prog_name[16];
	} prog = {};

	if (cmd == BPF_MAP_CREATE && !bpf_probe_read_user(&map, bytes_given(size, sizeof(map)), attr)) {
		r->type = map.map_type;
		r->key_size = map.key_size;
		r->value_size = map.value_size;
		r->max_entries = map.max_entries;
		r->map_flags = map.map_flags;
		__builtin_memcpy(r->name, map.map_name, sizeof(r->name));
	} else if (cmd == BPF_PROG_LOAD && !bpf_probe_read_user(&prog, bytes_given(size, sizeof(prog)), attr)) {
		r->type = prog.prog_type;
		__builtin_memcpy(r->name, prog.prog_name, sizeof(r->name));
	}
}

/* The map behind a file descriptor of the calling process, or 0. */
static __always_inline struct bpf_map *map_of_fd(__u32 fd)
{
	struct file *file = file_of_fd(fd);

	if (!file || BPF_CORE_READ(file, f_op) != (void *)&bpf_map_fops)
		return 0;
	return BPF_CORE_READ(file, private_data);
}

/* Whose file descriptor an update names. */
static __always_inline struct bpf_map *updated_map(__u64 cmd, const void *attr)
{
	__u32 fd;

	/* map_fd in union bpf_attr: first, or after the fields of a batch. */
	if (bpf_probe_read_user(&fd, sizeof(fd), attr + (cmd == BPF_MAP_UPDATE_BATCH ? 36 : 0)))
		return 0;
	return map_of_fd(fd);
}

static __always_inline void call_is_growth(struct call *call, struct bpf_map *map)
{
	struct mem_cgroup *memcg;

	describe_map(call, map);
	memcg = map_memcg(map);
	if (memcg)
		call->memcg = (__u64)memcg;
}

/* The commands that make an object, and those by which a map may grow. */
static __always_inline bool makes_object(__u64 cmd)
{
	return cmd == BPF_MAP_CREATE || cmd == BPF_PROG_LOAD;
}

static __always_inline bool updates_map(__u64 cmd)
{
	return cmd == BPF_MAP_UPDATE_ELEM || cmd == BPF_MAP_UPDATE_BATCH;
}

static __always_inline void call_is_making(struct call *call, __u64 cmd, const void *attr, __u32 size)
{
	struct record *r = &call->record;

	r->command = cmd;
	r->kind = cmd == BPF_PROG_LOAD ? KIND_PROG : KIND_MAP;
	if (map_has_user())
		r->header.flags |= FLAG_RLIMIT;
	if (size <= bpf_attr_size())
		r->header.flags |= FLAG_ATTR_KNOWN;
	read_attr(r, cmd, attr, size);
}

static __always_inline void bpf_begin(struct pt_regs *regs)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct config *config = config_get();
	__u64 cmd = syscall_arg(regs, 0);
	struct user_struct *user = 0;
	struct bpf_map *map = 0;
	struct call *call;
	void *attr;

	if (!config)
		return;
	if (!makes_object(cmd) && !(config->watch_memcg && updates_map(cmd)))
		return;
	attr = (void *)syscall_arg(regs, 1);
	if (makes_object(cmd)) {
		user = BPF_CORE_READ(task, cred, user);
	} else {
		map = updated_map(cmd, attr);
		if (!map)
			return;
	}
	call = object_begin(LEVEL_BPF, map ? OP_GROW : OP_CREATE, user);
	if (!call)
		return;
	if (map) {
		call_is_growth(call, map);
		call->record.command = cmd;
	} else {
		call_is_making(call, cmd, attr, syscall_arg(regs, 2));
	}
}

/* The file descriptor is made last: the object is complete. */
static __always_inline void fd_begin(const void *fops, void *object)
{
	struct call *call = level_find(LEVEL_BPF);

	if (!call || call->closed || call->record.op != OP_CREATE)
		return;
	if (fops == (void *)&bpf_map_fops)
		describe_map(call, object);
	else if (fops == (void *)&bpf_prog_fops)
		describe_prog(call, object);
	else
		return;
	call->closed = 1;
	if (call->record.kind == KIND_MAP)
		caches_enter(object);
}

/* Adds what a call found to what its map has taken, and makes the call's event
 * tell it when it is worth that. */
static __always_inline bool growth_due(struct record *r, __s64 worth)
{
	struct growth none = {}, *growth = bpf_map_lookup_elem(&growths, &r->object);
	__s64 sum;

	if (!growth) {
		bpf_map_update_elem(&growths, &r->object, &none, BPF_NOEXIST);
		growth = bpf_map_lookup_elem(&growths, &r->object);
		if (!growth)
			return true; /* at once, then */
	}
#pragma unroll
	for (int i = 0; i < 2; i++)
		if (r->payers[i].cgroup_id)
			payers_add(growth->payers, &growth->further_bytes, r->payers[i].cgroup_id,
				   r->payers[i].page_bytes, r->payers[i].object_bytes);
	growth->further_bytes += r->further_bytes;
	growth->unpaid_bytes += r->unpaid_bytes;
	sum = growth->payers[0].page_bytes + growth->payers[0].object_bytes + growth->payers[1].page_bytes +
	      growth->payers[1].object_bytes + growth->further_bytes + growth->unpaid_bytes;
	if (sum < worth && sum > -worth)
		return false;
	__builtin_memcpy(r->payers, growth->payers, sizeof(r->payers));
	r->further_bytes = growth->further_bytes;
	r->unpaid_bytes = growth->unpaid_bytes;
	__builtin_memset(growth, 0, sizeof(*growth));
	return true;
}

/* A cgroup refused memory for an element of a map's, on whosever behalf. */
static __always_inline void remember_refusal(const struct record *r)
{
	struct memcg_refusal refusal = { .time_ns = bpf_ktime_get_ns(), .cgroup_id = r->limit_cgroup_id,
					 .usage_bytes = r->usage_bytes, .limit_bytes = r->limit_bytes };

	if (r->object)
		bpf_map_update_elem(&memcg_refusals, &r->object, &refusal, BPF_ANY);
}

/* Whether a cgroup refused what an update wanted: an element that was to be allocated,
 * there and then or into the map's cache. */
static __always_inline void recall_refusal(struct call *call)
{
	struct record *r = &call->record;
	struct memcg_refusal *refusal = bpf_map_lookup_elem(&memcg_refusals, &r->object);

	if (call->refused || !refusal || bpf_ktime_get_ns() - refusal->time_ns > REFUSAL_COUNTS_NS)
		return;
	r->limit_cgroup_id = refusal->cgroup_id;
	r->usage_bytes = refusal->usage_bytes;
	r->limit_bytes = refusal->limit_bytes;
	call->refused = 1;
}

/* bpf(2) failed for want of memory, and was not followed: most updates of maps are not
 * worth it. What it was asked is still in the registers that its entry saved. */
static __always_inline void failed_update_begin(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	const struct config *config = config_get();
	struct pt_regs *regs;
	struct bpf_map *map;
	struct call *call;
	__u64 cmd;
	void *attr;

	if (!config || level_find(LEVEL_BPF))
		return;
	regs = task_registers(task, config->page_shift, SYS_BPF);
	if (!regs)
		return;
	cmd = syscall_arg(regs, 0);
	attr = (void *)syscall_arg(regs, 1);
	map = updates_map(cmd) ? updated_map(cmd, attr) : 0;
	if (!map)
		return;
	call = object_begin(LEVEL_BPF, OP_GROW, BPF_CORE_READ(task, cred, user));
	if (!call)
		return;
	call_is_growth(call, map);
	call->record.command = cmd;
}

/* The same where the charges are not watched, for a map that allocates an element when it is
 * set: nothing waits for memory then, and a cgroup that has no room for it refuses at once. */
static __always_inline void full_memcg(struct call *call)
{
#ifndef PINWATCH_LEGACY /* a loop requires 5.3, and this is in the program of bpf(2) */
	const struct config *config = config_get();
	struct record *r = &call->record;
	struct mem_cgroup *memcg;
	__s64 pages;

	if (!config || config->watch_memcg || call->refused || !(r->header.flags & FLAG_LATER))
		return;
	memcg = tightest((void *)call->memcg);
	if (!memcg)
		return;
	pages = (((__u64)r->key_size + r->value_size) >> config->page_shift) + 1;
	if (memcg_left(memcg) < pages)
		call_refused(call, memcg);
#endif
}

static __always_inline void failed_update_end(void *ctx, struct call *call, int ret)
{
	recall_refusal(call);
	full_memcg(call);
	call->memcg = 0; /* the one that refused, or none */
	call->record.pages = 0;
	object_end(ctx, call, ret);
}

/* The return of a call that may be a growth: one that is worth no record yet is kept for
 * a later one. */
static __always_inline void level_end(void *ctx, enum level level, int ret)
{
	struct call *call = level_find(level);
	bool growth;

	if (!call)
		return; /* a command that is of no interest */
	growth = call->record.op == OP_GROW;
	if (growth && call->refused)
		remember_refusal(&call->record);
	if (growth && level == LEVEL_BPF && ret == -ENOMEM)
		failed_update_end(ctx, call, ret);
	else if (growth && !(has_growth(&call->record) && growth_due(&call->record, GROWTH_REPORTED)))
		call_leave(call);
	else
		object_end(ctx, call, growth ? 0 : ret);
}

static __always_inline bool watches_memcg(void)
{
	const struct config *config = config_get();

	return config && config->watch_memcg;
}

/* A map's memory goes, in a worker of the kernel's. */
static __always_inline void map_free_begin(void *ctx, struct work_struct *work)
{
	struct bpf_map *map = map_of_work(work);
	struct call *call = object_begin(LEVEL_BPF, OP_FREE, map_user(map));
	struct record *r;

	if (!call)
		return;
	r = &call->record;
	describe_map(call, map);
	caches_leave(map);
	if (watches_memcg() && growth_due(r, 1)) {
		reserved_t reserved = record_reserve();

		r->op = OP_GROW;
		record_submit(ctx, reserved, r);
		r->op = OP_FREE;
		__builtin_memset(r->payers, 0, sizeof(r->payers));
		r->further_bytes = r->unpaid_bytes = 0;
	}
	if (watches_memcg())
		bpf_map_delete_elem(&growths, &r->object);
	else if (!call->user)
		object_end(ctx, call, 0); /* nothing to wait for */
}

static __always_inline void free_end(void *ctx, enum level level)
{
	struct call *call = level_find(level);

	if (call)
		object_end(ctx, call, 0);
}

/* A program goes, in the context of whatever RCU interrupts. */
static __always_inline void prog_free_begin(void *ctx, void *rcu)
{
	struct bpf_prog_aux *aux = prog_aux_of_rcu(rcu);
	struct bpf_prog *prog = BPF_CORE_READ(aux, prog);
	struct call *call = object_begin(LEVEL_PROG_FREE, OP_FREE, map_has_user() ? prog_user(aux) : 0);

	if (!call)
		return;
	call->interrupt = interrupted(ctx);
	caller_blank(&call->record.header); /* it is whoever RCU interrupted */
	describe_prog(call, prog);
	if (!call->user)
		object_end(ctx, call, 0);
}

/* The last reference to an object goes that a user pays for, or memory cgroups, where they are
 * watched. */
static __always_inline struct call *closed_begin(struct user_struct *user, bool by_process)
{
	struct call *call;

	if (!user && map_has_user())
		return 0; /* nobody pays */
	call = object_begin(LEVEL_CLOSE, OP_CLOSE, 0);
	if (!call)
		return 0;
	if (user) {
		call->record.user.owner = user_uid(user);
		call->record.user.before = call->record.user.after = user_locked_vm(user);
	}
	if (!by_process || task_is_kernel((void *)bpf_get_current_task()))
		caller_blank(&call->record.header);
	return call;
}

static __always_inline void map_closed(void *ctx, struct bpf_map *map, bool by_process)
{
	struct call *call = map_ends(map) ? closed_begin(map_user(map), by_process) : 0;

	if (!call)
		return;
	describe_map(call, map);
	object_end(ctx, call, 0);
}

static __always_inline void prog_closed(void *ctx, struct bpf_prog *prog, bool by_process)
{
	struct call *call = prog_ends(prog) ? closed_begin(map_has_user() ? prog_user(BPF_CORE_READ(prog, aux)) : 0, by_process) : 0;

	if (!call)
		return;
	describe_prog(call, prog);
	object_end(ctx, call, 0);
}

static __always_inline __s64 object_bytes(const struct record *r)
{
	return r->payers[0].object_bytes + r->payers[1].object_bytes + r->further_bytes + r->unpaid_bytes;
}

/* Percpu memory for a map. Up to now kernels charge what is taken while the map is
 * made to the cgroup that the map names, and it names none yet: nobody pays. */
static __always_inline void percpu_begin(__u64 bytes)
{
	struct call *call = level_find(LEVEL_BPF);
	const struct config *config = config_get();

	if (call && config && !call->closed && call->record.op == OP_CREATE) {
		call->percpu_bytes = bytes * config->possible_cpus;
		call->percpu_before = object_bytes(&call->record);
	}
}

static __always_inline void percpu_end(void *memory)
{
	struct call *call = level_find(LEVEL_BPF);

	if (!call || !call->percpu_bytes)
		return;
	if (memory && object_bytes(&call->record) == call->percpu_before)
		call->record.unpaid_bytes += call->percpu_bytes;
	call->percpu_bytes = 0;
}

/* A map takes memory for an element, on behalf of whoever. */
static __always_inline void alloc_begin(const void *ctx, struct bpf_map *map)
{
	struct call *call = level_find(LEVEL_BPF);

	if (call && call->record.op == OP_CREATE && !call->closed)
		return; /* part of the making of the map */
	call = object_begin(LEVEL_ALLOC, OP_GROW, 0);
	if (!call)
		return;
	call->interrupt = interrupted(ctx);
	call_is_growth(call, map);
}

/* BPF's allocator fills a cache of elements up, in an interrupt. */
static __always_inline void refill_begin(void *work)
{
	struct bpf_mem_cache *cache = cache_of_work(work);
	__u64 base = percpu_base(cache, bpf_get_smp_processor_id());
	struct obj_cgroup *objcg = BPF_CORE_READ(cache, objcg);
	__u64 *map = bpf_map_lookup_elem(&caches, &base);
	struct call *call = object_begin(LEVEL_REFILL, OP_GROW, 0);

	if (!call)
		return;
	call->interrupt = 1;
	if (map)
		describe_map(call, (void *)*map);
	if (objcg) {
		call->memcg = (__u64)BPF_CORE_READ(objcg, memcg);
		call->record.map_cgroup_id = memcg_cgroup_id((void *)call->memcg);
		refill_is((void *)call->memcg);
	}
}

SEC("kprobe/sys_bpf")
int BPF_KPROBE(kprobe_sys_bpf, struct pt_regs *regs)
{
	bpf_begin(regs);
	return 0;
}

SEC("kretprobe/sys_bpf")
int BPF_KRETPROBE(kretprobe_sys_bpf, int ret)
{
	if (ret == -ENOMEM)
		failed_update_begin();
	level_end(ctx, LEVEL_BPF, ret);
	return 0;
}

/* A program that failed without this did not come to the verifier. */
SEC("kretprobe/bpf_check")
int BPF_KRETPROBE(kretprobe_bpf_check, int ret)
{
	struct call *call = level_find(LEVEL_BPF);

	if (call)
		call->record.header.flags |= ret ? FLAG_VERIFIER_REFUSED : FLAG_VERIFIER_PASSED;
	return 0;
}

/* Since 6.9 (caf8f28e036c) bpf(2) says EINVAL, not ENOMEM, where this finds no memory. */
SEC("kretprobe/bpf_prog_alloc")
int BPF_KRETPROBE(kretprobe_bpf_prog_alloc, const void *prog)
{
	struct call *call = level_find(LEVEL_BPF);

	if (call)
		call->record.header.flags |= prog ? FLAG_PROG_ALLOCATED : FLAG_PROG_REFUSED;
	return 0;
}

/* Where the charges are not watched: a memory cgroup has no room for what a call allocates. The
 * kernel frees some of its memory, and tries again, several times. If there is none after
 * the last time, it refuses. */
SEC("kprobe/try_to_free_mem_cgroup_pages")
int BPF_KPROBE(kprobe_free_cgroup_pages, struct mem_cgroup *memcg, __u64 pages)
{
	struct call *call = level_find(LEVEL_BPF);

	if (call && call->record.op == OP_CREATE && !call->closed) {
		call->full = (__u64)memcg;
		call->full_pages = pages;
	}
	return 0;
}

SEC("kretprobe/try_to_free_mem_cgroup_pages")
int BPF_KRETPROBE(kretprobe_free_cgroup_pages)
{
	struct call *call = level_find(LEVEL_BPF);
	struct mem_cgroup *memcg;

	if (!call || !call->full)
		return 0;
	memcg = (void *)call->full;
	if (memcg_left(memcg) < call->full_pages) {
		call_refused(call, memcg);
	} else {
		call->record.limit_cgroup_id = call->record.usage_bytes = call->record.limit_bytes = 0;
		call->refused = 0;
	}
	return 0;
}

SEC("kprobe/anon_inode_getfd")
int BPF_KPROBE(kprobe_anon_inode_getfd, const char *name, const void *fops, void *object)
{
	fd_begin(fops, object);
	return 0;
}

SEC("kprobe/bpf_map_free_deferred")
int BPF_KPROBE(kprobe_bpf_map_free_deferred, struct work_struct *work)
{
	map_free_begin(ctx, work);
	return 0;
}

SEC("kretprobe/bpf_map_free_deferred")
int BPF_KRETPROBE(kretprobe_bpf_map_free_deferred)
{
	free_end(ctx, LEVEL_BPF);
	return 0;
}

SEC("kprobe/__bpf_prog_put_rcu")
int BPF_KPROBE(kprobe_bpf_prog_put_rcu, void *rcu)
{
	prog_free_begin(ctx, rcu);
	return 0;
}

SEC("kretprobe/__bpf_prog_put_rcu")
int BPF_KRETPROBE(kretprobe_bpf_prog_put_rcu)
{
	free_end(ctx, LEVEL_PROG_FREE);
	return 0;
}

SEC("fentry/__bpf_prog_put_rcu")
int BPF_PROG(fentry_bpf_prog_put_rcu, void *rcu)
{
	prog_free_begin(ctx, rcu);
	return 0;
}

SEC("fexit/__bpf_prog_put_rcu")
int BPF_PROG(fexit_bpf_prog_put_rcu)
{
	free_end(ctx, LEVEL_PROG_FREE);
	return 0;
}

/* The file of an object goes, in the process that has closed it; or what else had
 * a reference, such as a program one to a map, wherever that is. */
SEC("kprobe/bpf_map_release")
int BPF_KPROBE(kprobe_bpf_map_release, void *inode, struct file *file)
{
	map_closed(ctx, BPF_CORE_READ(file, private_data), true);
	return 0;
}

SEC("kprobe/bpf_map_put")
int BPF_KPROBE(kprobe_bpf_map_put, struct bpf_map *map)
{
	map_closed(ctx, map, false);
	return 0;
}

SEC("kprobe/bpf_prog_release")
int BPF_KPROBE(kprobe_bpf_prog_release, void *inode, struct file *file)
{
	prog_closed(ctx, BPF_CORE_READ(file, private_data), true);
	return 0;
}

SEC("kprobe/bpf_prog_put")
int BPF_KPROBE(kprobe_bpf_prog_put, struct bpf_prog *prog)
{
	prog_closed(ctx, prog, false);
	return 0;
}

/* How many bytes or pages were asked for, where the user is refused. */
SEC("kprobe/bpf_map_charge_init")
int BPF_KPROBE(kprobe_bpf_map_charge_init, void *memory, __u64 bytes)
{
	struct call *call = level_find(LEVEL_BPF);
	const struct config *config = config_get();

	if (call && config)
		call->record.pages = (bytes + (1 << config->page_shift) - 1) >> config->page_shift;
	return 0;
}

SEC("kprobe/bpf_map_precharge_memlock")
int BPF_KPROBE(kprobe_bpf_map_precharge_memlock, __u32 pages)
{
	struct call *call = level_find(LEVEL_BPF);

	if (call)
		call->record.pages = pages;
	return 0;
}

/* What that comes to. */
#define ACCOUNT_RETURN(function)                                               \
	SEC("kretprobe/" #function)                                            \
	int BPF_KRETPROBE(kretprobe_##function, int ret)                       \
	{                                                                      \
		struct call *call = level_find(LEVEL_BPF);                     \
		if (call)                                                      \
			call->account = ret ? FLAG_ACCOUNT_REFUSED : FLAG_ACCOUNT_PASSED; \
		return 0;                                                      \
	}
ACCOUNT_RETURN(bpf_map_charge_init)
ACCOUNT_RETURN(bpf_map_precharge_memlock)
ACCOUNT_RETURN(__bpf_prog_charge)

SEC("kprobe/__bpf_prog_charge")
int BPF_KPROBE(kprobe_bpf_prog_charge, struct user_struct *user, __u32 pages)
{
	struct call *call = level_find(LEVEL_BPF);

	if (call)
		call->record.pages = pages;
	return 0;
}

/* ---- what maps take later ---- */

SEC("kprobe/bpf_map_alloc")
int BPF_KPROBE(kprobe_map_alloc, struct bpf_map *map)
{
	alloc_begin(ctx, map);
	return 0;
}

SEC("kretprobe/bpf_map_alloc")
int BPF_KRETPROBE(kretprobe_map_alloc)
{
	level_end(ctx, LEVEL_ALLOC, 0);
	return 0;
}

SEC("kprobe/bpf_map_alloc_percpu")
int BPF_KPROBE(kprobe_map_alloc_percpu, struct bpf_map *map, __u64 bytes)
{
	percpu_begin(bytes);
	alloc_begin(ctx, map);
	return 0;
}

SEC("kretprobe/bpf_map_alloc_percpu")
int BPF_KRETPROBE(kretprobe_map_alloc_percpu, void *memory)
{
	percpu_end(memory);
	level_end(ctx, LEVEL_ALLOC, 0);
	return 0;
}

SEC("kprobe/bpf_mem_refill")
int BPF_KPROBE(kprobe_bpf_mem_refill, void *work)
{
	refill_begin(work);
	return 0;
}

SEC("kretprobe/bpf_mem_refill")
int BPF_KRETPROBE(kretprobe_bpf_mem_refill)
{
	refill_is(0);
	level_end(ctx, LEVEL_REFILL, 0);
	return 0;
}

/* The same by trampolines, which run inside of other BPF programs too. */
SEC("fentry/bpf_map_kmalloc_node")
int BPF_PROG(fentry_map_alloc, struct bpf_map *map)
{
	alloc_begin(ctx, map);
	return 0;
}

SEC("fexit/bpf_map_kmalloc_node")
int BPF_PROG(fexit_map_alloc)
{
	level_end(ctx, LEVEL_ALLOC, 0);
	return 0;
}

SEC("fentry/bpf_map_alloc_percpu")
int BPF_PROG(fentry_map_alloc_percpu, struct bpf_map *map, __u64 bytes)
{
	percpu_begin(bytes);
	alloc_begin(ctx, map);
	return 0;
}

SEC("fexit/bpf_map_alloc_percpu")
int BPF_PROG(fexit_map_alloc_percpu, struct bpf_map *map, __u64 bytes, __u64 align, unsigned int flags, void *memory)
{
	percpu_end(memory);
	level_end(ctx, LEVEL_ALLOC, 0);
	return 0;
}

SEC("fentry/bpf_mem_refill")
int fentry_bpf_mem_refill(__u64 *ctx)
{
	void *work = 0;

	/* As a number: the verifier does not let a typed pointer be moved back to
	 * the struct around it. */
	bpf_probe_read_kernel(&work, sizeof(work), ctx);
	refill_begin(work);
	return 0;
}

SEC("fexit/bpf_mem_refill")
int BPF_PROG(fexit_bpf_mem_refill, void *work)
{
	refill_is(0);
	level_end(ctx, LEVEL_REFILL, 0);
	return 0;
}

/* ---- the charge paths ---- */

SEC("fexit/__memcg_kmem_charge_page")
int BPF_PROG(fexit_charge_page, struct page *page, unsigned int gfp, int order, int ret)
{
	struct mem_cgroup *refusing;
	struct call *call;

	if (!any_open())
		return 0;
	refusing = refusing_memcg(ret);
	call = call_around();
	if (call)
		page_charged(call, page, order, refusing);
	return 0;
}

SEC("kprobe/__memcg_kmem_charge_page")
int BPF_KPROBE(kprobe_charge_page, struct page *page, unsigned int gfp, int order)
{
	struct call *call = call_around();

	if (call) {
		call->page = (__u64)page;
		call->order = order;
	}
	return 0;
}

SEC("kretprobe/__memcg_kmem_charge_page")
int BPF_KRETPROBE(kretprobe_charge_page, int ret)
{
	struct mem_cgroup *refusing;
	struct call *call;

	if (!any_open())
		return 0;
	refusing = refusing_memcg(ret);
	call = call_around();
	if (call && call->page)
		page_charged(call, (void *)call->page, call->order, refusing);
	return 0;
}

SEC("fentry/__memcg_kmem_uncharge_page")
int BPF_PROG(fentry_uncharge_page, struct page *page, int order)
{
	page_uncharged(ctx, page, order);
	return 0;
}

SEC("kprobe/__memcg_kmem_uncharge_page")
int BPF_KPROBE(kprobe_uncharge_page, struct page *page, int order)
{
	page_uncharged(ctx, page, order);
	return 0;
}

SEC("fexit/obj_cgroup_charge")
int BPF_PROG(fexit_obj_charge, struct obj_cgroup *objcg, unsigned int gfp, __u64 bytes, int ret)
{
	if (ret)
		object_refused(objcg);
	else
		object_charged(objcg, bytes);
	return 0;
}

SEC("kprobe/obj_cgroup_charge")
int BPF_KPROBE(kprobe_obj_charge, struct obj_cgroup *objcg, unsigned int gfp, __u64 bytes)
{
	object_charged(objcg, bytes);
	return 0;
}

/* 6.16 to 7.0: the slab allocator's. obj_cgroup_charge() may call it too, without
 * a node. */
SEC("fexit/obj_cgroup_charge_account")
int BPF_PROG(fexit_obj_charge_account, struct obj_cgroup *objcg, unsigned int gfp, __u64 bytes, void *node, int item, int ret)
{
	if (node && ret)
		object_refused(objcg);
	else if (node)
		object_charged(objcg, bytes);
	return 0;
}

SEC("kprobe/obj_cgroup_charge_account")
int BPF_KPROBE(kprobe_obj_charge_account, struct obj_cgroup *objcg, unsigned int gfp, __u64 bytes, void *node)
{
	if (node)
		object_charged(objcg, bytes);
	return 0;
}

SEC("fentry/obj_cgroup_uncharge")
int BPF_PROG(fentry_obj_uncharge, struct obj_cgroup *objcg, __u64 bytes)
{
	object_uncharged(ctx, objcg, bytes);
	return 0;
}

SEC("kprobe/obj_cgroup_uncharge")
int BPF_KPROBE(kprobe_obj_uncharge, struct obj_cgroup *objcg, __u64 bytes)
{
	object_uncharged(ctx, objcg, bytes);
	return 0;
}

SEC("kprobe/__memcg_slab_post_alloc_hook")
int BPF_KPROBE(kprobe_slab_hook, struct kmem_cache *cache, void *lru, unsigned int flags, __u64 objects)
{
	slab_charged(cache, objects, true);
	return 0;
}

/* 7.2 put slab_alloc_flags before the number of objects. */
SEC("kprobe/__memcg_slab_post_alloc_hook")
int BPF_KPROBE(kprobe_slab_hook_flags, struct kmem_cache *cache, void *lru, unsigned int flags,
	       unsigned int slab_alloc_flags, __u64 objects)
{
	slab_charged(cache, objects, true);
	return 0;
}

SEC("fexit/__memcg_slab_post_alloc_hook")
int BPF_PROG(fexit_slab_hook, struct kmem_cache *cache, void *lru, unsigned int flags, __u64 objects, void **list, bool charged)
{
	slab_charged(cache, objects, charged);
	return 0;
}

SEC("fexit/__memcg_slab_post_alloc_hook")
int BPF_PROG(fexit_slab_hook_flags, struct kmem_cache *cache, void *lru, unsigned int flags,
	     unsigned int slab_alloc_flags, __u64 objects, void **list, bool charged)
{
	slab_charged(cache, objects, charged);
	return 0;
}
