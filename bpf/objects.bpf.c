//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * Watches BPF maps and programs come and go, and who pays for them.
 *
 * Before 5.11 they are charged to a user: user_struct.locked_vm, in pages,
 * against RLIMIT_MEMLOCK. Since then they are charged to a memory cgroup, in
 * bytes (80ee81e0403c for maps, 3ac1f01b43b6 for programs).
 *
 * bpf(2) is bracketed. What is charged to a memory cgroup between its entry and
 * the making of the file descriptor is the object's. The charge functions are
 * hot: everyone who is in no bracket leaves them after one look at a counter.
 */
#include "kernel.h"
#include "transport.h"
#include "flow.h"

char LICENSE[] SEC("license") = "GPL";

enum object_op {
	OBJECT_CREATE, /* BPF_MAP_CREATE, BPF_PROG_LOAD */
	OBJECT_GROW,   /* memory that a map took later */
	OBJECT_FREE,   /* the object's memory is freed */
};

enum object_kind {
	OBJECT_MAP,
	OBJECT_PROG,
};

enum object_flag {
	OBJECT_RLIMIT = 1 << 0,	      /* charged to the user: the object's struct has a place for it */
	OBJECT_OVERLAP_USER = 1 << 1, /* another traced call moved the user's counter meanwhile */
	OBJECT_COMMAND = 1 << 2,      /* by a descendant of the traced command */
	OBJECT_USER_GONE = 1 << 3,
	OBJECT_LATER = 1 << 4, /* part of its memory is freed later, through RCU */
};

/* What one cgroup pays. Pages of the page allocator and vmalloc, and objects of
 * the slab and the percpu allocator, which are charged by the byte. */
struct payer {
	__u64 cgroup_id;
	__s64 page_bytes;
	__s64 object_bytes;
};

struct object_event {
	struct header header; /* its time is that of the return */
	__u64 cgroup_id; /* of the caller, v2 hierarchy */
	__u64 object;	 /* the bpf_map or bpf_prog: an identity, never shown */

	/* Charged to the user, in pages. */
	__s64 pages; /* by the object's own record; when it was refused, those asked for */
	__s64 user_before;
	__s64 user_after;
	__s64 lock_limit; /* RLIMIT_MEMLOCK of the caller */

	/* Charged to cgroups, in bytes; negative: given back. */
	struct payer payers[2];
	__s64 further_bytes;	 /* of any more cgroups */
	__s64 unpaid_bytes;	 /* of pages that no cgroup, or the root cgroup, pays for */
	__u64 map_cgroup_id;	 /* that the map itself names for what it takes later */
	__u64 limit_cgroup_id;	 /* whose memory.current and memory.max follow: the one that */
	__s64 usage_bytes;	 /* refused, else the first payer */
	__s64 limit_bytes;

	enum object_op op;
	__u32 pid; /* tgid */
	__u32 tid;
	__u32 uid;	 /* real uid of the caller */
	__u32 payer_uid; /* of the user whose counter was read */
	__s32 ret;	 /* a file descriptor, or -errno */
	enum object_kind kind;
	__u32 type; /* bpf_map_type or bpf_prog_type */
	__u32 id;
	__u32 key_size;
	__u32 value_size;
	__u32 max_entries;
	__u32 map_flags;
	enum object_flag flags;
	__u32 cpu;
	__u8 name[16];
	__u8 comm[16];
};

/* A call between its entry and its return, and what it is about. */
struct object_call {
	struct object_event event;
	__u64 user; /* struct user_struct * */
	__u64 user_begun;
	__u64 memcg; /* of the first payer, or the one that refused */
	__u64 page;  /* a page charge between its entry and its return */
	__u32 order;
	__u32 closed; /* the file descriptor is being made: that is no part of it */
	__u32 refused; /* the event has the cgroup that refused, as it was then */
	__u32 pad;
	__s64 percpu_bytes; /* asked for by an allocation under way, on all CPUs */
	__s64 percpu_before; /* the charges of objects at its begin */
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct object_call);
} object_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct object_call);
} object_blank SEC(".maps");

/* How many brackets are open, and how many of them on a CPU's interrupts. */
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

/* What a map took later and nobody was told of yet. */
struct growth {
	struct payer payers[2];
	__s64 further_bytes;
	__s64 unpaid_bytes;
};
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

#define BPF_MAP_TYPE_CGRP_STORAGE_6_2 32 /* newer than the headers that this is built with */

enum { BPF_CMD_MAP_CREATE = 0, BPF_CMD_MAP_UPDATE = 2, BPF_CMD_PROG_LOAD = 5, BPF_CMD_MAP_UPDATE_BATCH = 26 };

/* The brackets, the innermost first. A thread can be in bpf(2), in there or in a
 * program in a map's allocation, and be interrupted by a refill of a cache. */
#define KEY_REFILL ((__u64)1 << 63) /* | cpu */
#define KEY_ALLOC ((__u64)1 << 62)  /* | pid_tgid, whose topmost bits are free */

static __always_inline struct open_calls *open_calls(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&open_map, &zero);
}

static __always_inline struct object_call *call_open(__u64 key)
{
	struct object_call *call = bpf_map_lookup_elem(&object_calls, &key);
	struct open_calls *open = open_calls();
	__u32 zero = 0;

	if (call) {
		count_loss(missed_return);
		if (call->user)
			flow_end(FLOW_USER, &call->user);
	} else if (open) {
		__sync_fetch_and_add(&open->all, 1);
		if (key & KEY_REFILL)
			__sync_fetch_and_add(&open->refills, 1);
	}
	call = bpf_map_lookup_elem(&object_blank, &zero);
	if (!call || bpf_map_update_elem(&object_calls, &key, call, BPF_ANY)) {
		count_loss(in_flight_full);
		return 0;
	}
	return bpf_map_lookup_elem(&object_calls, &key);
}

static __always_inline void call_close(__u64 key)
{
	struct open_calls *open = open_calls();

	bpf_map_delete_elem(&object_calls, &key);
	if (open) {
		__sync_fetch_and_add(&open->all, -1);
		if (key & KEY_REFILL)
			__sync_fetch_and_add(&open->refills, -1);
	}
}

/* The bracket that a charge belongs to, or 0: for nearly everyone after one
 * look. */
static __always_inline struct object_call *call_around(void)
{
	struct open_calls *open = open_calls();
	struct object_call *call;
	__u64 key;

	if (!open || !open->all)
		return 0;
	if (open->refills) {
		key = KEY_REFILL | bpf_get_smp_processor_id();
		call = bpf_map_lookup_elem(&object_calls, &key);
		if (call)
			return call;
	}
	key = KEY_ALLOC | call_id();
	call = bpf_map_lookup_elem(&object_calls, &key);
	if (call)
		return call;
	key = call_id();
	call = bpf_map_lookup_elem(&object_calls, &key);
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

static __always_inline void charge(struct object_call *call, struct mem_cgroup *memcg, __s64 page_bytes,
				   __s64 object_bytes)
{
	struct object_event *e = &call->event;

	if (!memcg || !BPF_CORE_READ(memcg, css.parent)) {
		e->unpaid_bytes += page_bytes + object_bytes;
		return;
	}
	/* An interrupt of the worker that frees may free for others. */
	if (e->op == OBJECT_FREE && e->map_cgroup_id && memcg_cgroup_id(memcg) != e->map_cgroup_id)
		return;
	if (!call->memcg)
		call->memcg = (__u64)memcg;
	payers_add(e->payers, &e->further_bytes, memcg_cgroup_id(memcg), page_bytes, object_bytes);
}

/* Of a memory cgroup and those above it, the one that has the least left. */
static __always_inline struct mem_cgroup *tightest(struct mem_cgroup *memcg)
{
	struct mem_cgroup *least = memcg;
	__s64 left, least_left = ((__u64)1 << 63) - 1;

	for (int i = 0; i < 12; i++) { /* 5.3: only where there are memory cgroups for it */
		if (!memcg)
			break;
		left = BPF_CORE_READ(memcg, memory.max) - BPF_CORE_READ(memcg, memory.usage.counter);
		if (left < least_left) {
			least = memcg;
			least_left = left;
		}
		memcg = (void *)BPF_CORE_READ(memcg, css.parent);
	}
	return least;
}

static __always_inline void read_usage(struct object_event *e, struct mem_cgroup *memcg, __u32 page_shift)
{
	e->limit_cgroup_id = memcg_cgroup_id(memcg);
	e->usage_bytes = BPF_CORE_READ(memcg, memory.usage.counter) << page_shift;
	e->limit_bytes = memory_max(memcg, page_shift);
}

static __always_inline void page_charged(struct object_call *call, struct page *page, __u32 order, int ret)
{
	const struct config *config = config_get();

	if (!config)
		return;
	if (ret) {
		read_usage(&call->event, tightest(task_memcg((void *)bpf_get_current_task())), config->page_shift);
		call->refused = 1;
		return;
	}
	charge(call, page_memcg(page), (__s64)1 << (config->page_shift + order), 0);
}

static __always_inline void page_uncharged(struct page *page, __u32 order)
{
	struct object_call *call = call_around();
	const struct config *config;

	if (!call)
		return;
	config = config_get();
	if (config)
		charge(call, page_memcg(page), -((__s64)1 << (config->page_shift + order)), 0);
}

static __always_inline void object_charged(struct obj_cgroup *objcg, __s64 bytes)
{
	struct object_call *call = call_around();

	if (call)
		charge(call, BPF_CORE_READ(objcg, memcg), 0, bytes);
}

/* 7.1 and later: the slab allocator charges without a call. Every object has a
 * pointer of its own besides. */
static __always_inline void slab_charged(struct kmem_cache *cache, __u64 objects)
{
	struct object_call *call;
	struct mem_cgroup *memcg;

	if (!bpf_core_field_exists(((struct obj_cgroup___root *)0)->is_root))
		return;
	call = call_around();
	if (!call)
		return;
	/* Allocations for a map are charged to the map's cgroup, which the
	 * allocator makes the active one. */
	memcg = (void *)call->memcg;
	if (!call->event.map_cgroup_id || !memcg)
		memcg = task_memcg((void *)bpf_get_current_task());
	charge(call, memcg, 0, objects * (BPF_CORE_READ(cache, size) + sizeof(void *)));
}

/* ---- objects ---- */

/* Maps that take elements from an allocator give them back through it. */
static __always_inline bool frees_later(struct bpf_map *map)
{
	__u32 type = BPF_CORE_READ(map, map_type);

	return BPF_CORE_READ(map, map_flags) & BPF_F_NO_PREALLOC || type == BPF_MAP_TYPE_LPM_TRIE ||
	       type == BPF_MAP_TYPE_TASK_STORAGE || type == BPF_MAP_TYPE_INODE_STORAGE ||
	       type == BPF_MAP_TYPE_SK_STORAGE || type == BPF_MAP_TYPE_CGRP_STORAGE_6_2;
}

static __always_inline void describe_map(struct object_call *call, struct bpf_map *map)
{
	struct object_event *e = &call->event;

	if (frees_later(map))
		e->flags |= OBJECT_LATER;

	e->kind = OBJECT_MAP;
	e->object = (__u64)map;
	e->id = BPF_CORE_READ(map, id);
	e->type = BPF_CORE_READ(map, map_type);
	e->key_size = BPF_CORE_READ(map, key_size);
	e->value_size = BPF_CORE_READ(map, value_size);
	e->max_entries = BPF_CORE_READ(map, max_entries);
	e->map_flags = BPF_CORE_READ(map, map_flags);
	BPF_CORE_READ_INTO(&e->name, map, name);
	if (map_has_user()) {
		e->flags |= OBJECT_RLIMIT;
		e->pages = map_pages(map);
	} else {
		struct mem_cgroup *memcg = map_memcg(map);

		if (memcg)
			e->map_cgroup_id = memcg_cgroup_id(memcg);
	}
}

static __always_inline void describe_prog(struct object_call *call, struct bpf_prog *prog)
{
	struct object_event *e = &call->event;
	struct bpf_prog_aux *aux = BPF_CORE_READ(prog, aux);

	e->kind = OBJECT_PROG;
	e->object = (__u64)prog;
	e->id = BPF_CORE_READ(aux, id);
	e->type = BPF_CORE_READ(prog, type);
	BPF_CORE_READ_INTO(&e->name, aux, name);
	if (map_has_user()) {
		e->flags |= OBJECT_RLIMIT;
		e->pages = BPF_CORE_READ(prog, pages);
	}
}

/* The readings at the entry of any bracket. */
static __always_inline struct object_call *bracket_begin(__u64 key, enum object_op op, struct user_struct *user)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct object_call *call = call_open(key);
	const struct config *config = config_get();
	struct object_event *e;

	if (!call || !config)
		return 0;
	e = &call->event;
	e->header.record = RECORD_OBJECT;
	e->op = op;
	e->pid = pid_tgid >> 32;
	e->tid = (__u32)pid_tgid;
	e->uid = (__u32)bpf_get_current_uid_gid();
	e->cpu = bpf_get_smp_processor_id();
	e->cgroup_id = bpf_get_current_cgroup_id();
	bpf_get_current_comm(&e->comm, sizeof(e->comm));
	if (config->command_parent && is_command(task, config->command_parent))
		e->flags |= OBJECT_COMMAND;
	e->lock_limit = BPF_CORE_READ(task, signal, rlim[RLIMIT_MEMLOCK].rlim_cur) >> config->page_shift;
	if (user) {
		call->user = (__u64)user;
		call->user_begun = flow_begin(FLOW_USER, &call->user);
		e->payer_uid = BPF_CORE_READ(user, uid.val);
		e->user_before = BPF_CORE_READ(user, locked_vm.counter);
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

static __always_inline void caches_of(struct bpf_map *map, __u64 *elements, __u64 *values)
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
	} else if ((type == BPF_MAP_TYPE_TASK_STORAGE || type == BPF_MAP_TYPE_INODE_STORAGE ||
		    type == BPF_MAP_TYPE_SK_STORAGE || type == BPF_MAP_TYPE_CGRP_STORAGE_6_2) &&
		   bpf_core_field_exists(storage->selem_ma)) {
		*elements = (__u64)BPF_CORE_READ(storage, selem_ma.cache);
		*values = (__u64)BPF_CORE_READ(storage, storage_ma.cache);
	}
}

static __always_inline void caches_enter(struct bpf_map *map)
{
	__u64 elements = 0, values = 0;

	caches_of(map, &elements, &values);
	cache_enter(map, elements);
	cache_enter(map, values);
}

static __always_inline void caches_leave(struct bpf_map *map)
{
	__u64 elements = 0, values = 0;

	caches_of(map, &elements, &values);
	bpf_map_delete_elem(&caches, &elements);
	bpf_map_delete_elem(&caches, &values);
}

static __always_inline bool has_growth(const struct object_event *e)
{
	return e->payers[0].cgroup_id || e->unpaid_bytes || e->further_bytes;
}

/* The readings at its return, and the record. */
static __always_inline void bracket_end(void *ctx, __u64 key, struct object_call *call, int ret)
{
	struct object_event *e = &call->event;
	struct mem_cgroup *memcg = (void *)call->memcg;
	struct user_struct *user = (void *)call->user;
	const struct config *config = config_get();
	place_t place = place_take(struct object_event);

	e->ret = ret;
	if (user) {
		e->user_after = BPF_CORE_READ(user, locked_vm.counter);
		if (BPF_CORE_READ(user, __count.refs.counter) <= 0 || BPF_CORE_READ(user, uid.val) != e->payer_uid)
			e->flags |= OBJECT_USER_GONE;
		if (!flow_alone(FLOW_USER, &call->user, call->user_begun))
			e->flags |= OBJECT_OVERLAP_USER;
	}
	if (memcg && config && !call->refused)
		read_usage(e, memcg, config->page_shift);
	place_send(ctx, place, e);
	if (user)
		flow_end(FLOW_USER, &call->user);
	call_close(key);
}

/* What a failed call asked for is known from its arguments alone. */
static __always_inline void read_attr(struct object_event *e, __u64 cmd, const void *attr)
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

	if (cmd == BPF_CMD_MAP_CREATE && !bpf_probe_read_user(&map, sizeof(map), attr)) {
		e->type = map.map_type;
		e->key_size = map.key_size;
		e->value_size = map.value_size;
		e->max_entries = map.max_entries;
		e->map_flags = map.map_flags;
		__builtin_memcpy(e->name, map.map_name, sizeof(e->name));
	} else if (cmd == BPF_CMD_PROG_LOAD && !bpf_probe_read_user(&prog, sizeof(prog), attr)) {
		e->type = prog.prog_type;
		__builtin_memcpy(e->name, prog.prog_name, sizeof(e->name));
	}
}

/* The map behind a file descriptor of the calling process, or 0. */
static __always_inline struct bpf_map *map_of_fd(__u32 fd)
{
	struct task_struct___memcg *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd);
	struct file *file = 0;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), &files[fd]);
	if (!file || BPF_CORE_READ((struct file___op *)file, f_op) != (void *)&bpf_map_fops)
		return 0;
	return BPF_CORE_READ(file, private_data);
}

/* Whose file descriptor an update names. */
static __always_inline struct bpf_map *updated_map(__u64 cmd, const void *attr)
{
	__u32 fd;

	/* map_fd in union bpf_attr: first, or after the fields of a batch. */
	if (bpf_probe_read_user(&fd, sizeof(fd), attr + (cmd == BPF_CMD_MAP_UPDATE_BATCH ? 36 : 0)))
		return 0;
	return map_of_fd(fd);
}

static __always_inline void call_is_growth(struct object_call *call, struct bpf_map *map)
{
	struct mem_cgroup *memcg;

	describe_map(call, map);
	memcg = map_memcg(map);
	if (memcg)
		call->memcg = (__u64)memcg;
}

static __always_inline void bpf_begin(struct pt_regs *regs)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 key = call_id();
	const struct config *config = config_get();
	__u64 cmd = syscall_arg0(regs);
	struct object_call *call;
	struct bpf_map *map;

	if (!config)
		return;
	if (cmd == BPF_CMD_MAP_CREATE || cmd == BPF_CMD_PROG_LOAD) {
		call = bracket_begin(key, OBJECT_CREATE, BPF_CORE_READ(task, cred, user));
		if (call)
			call->event.kind = cmd == BPF_CMD_PROG_LOAD ? OBJECT_PROG : OBJECT_MAP;
		if (call && map_has_user())
			call->event.flags |= OBJECT_RLIMIT;
		if (call)
			read_attr(&call->event, cmd, (void *)syscall_arg1(regs));
		return;
	}
	if (!config->watch_memcg || (cmd != BPF_CMD_MAP_UPDATE && cmd != BPF_CMD_MAP_UPDATE_BATCH))
		return;
	map = updated_map(cmd, (void *)syscall_arg1(regs));
	if (!map)
		return;
	call = bracket_begin(key, OBJECT_GROW, 0);
	if (call)
		call_is_growth(call, map);
}

/* The file descriptor is made last: the object is complete. */
static __always_inline void fd_begin(const void *fops, void *object)
{
	__u64 key = call_id();
	struct object_call *call = bpf_map_lookup_elem(&object_calls, &key);

	if (!call || call->closed || call->event.op != OBJECT_CREATE)
		return;
	if (fops == (void *)&bpf_map_fops)
		describe_map(call, object);
	else if (fops == (void *)&bpf_prog_fops)
		describe_prog(call, object);
	else
		return;
	call->closed = 1;
	if (call->event.kind == OBJECT_MAP)
		caches_enter(object);
}

/* Adds what a call found to what its map has taken, and makes the call's event
 * tell it when it is worth that. */
static __always_inline bool growth_due(struct object_event *e, __s64 worth)
{
	struct growth none = {}, *growth = bpf_map_lookup_elem(&growths, &e->object);
	__s64 sum;

	if (!growth) {
		bpf_map_update_elem(&growths, &e->object, &none, BPF_NOEXIST);
		growth = bpf_map_lookup_elem(&growths, &e->object);
		if (!growth)
			return true; /* at once, then */
	}
#pragma unroll
	for (int i = 0; i < 2; i++)
		if (e->payers[i].cgroup_id)
			payers_add(growth->payers, &growth->further_bytes, e->payers[i].cgroup_id,
				   e->payers[i].page_bytes, e->payers[i].object_bytes);
	growth->further_bytes += e->further_bytes;
	growth->unpaid_bytes += e->unpaid_bytes;
	sum = growth->payers[0].page_bytes + growth->payers[0].object_bytes + growth->payers[1].page_bytes +
	      growth->payers[1].object_bytes + growth->further_bytes + growth->unpaid_bytes;
	if (sum < worth && sum > -worth)
		return false;
	__builtin_memcpy(e->payers, growth->payers, sizeof(e->payers));
	e->further_bytes = growth->further_bytes;
	e->unpaid_bytes = growth->unpaid_bytes;
	__builtin_memset(growth, 0, sizeof(*growth));
	return true;
}

static __always_inline void growth_end(void *ctx, __u64 key, struct object_call *call)
{
	if (has_growth(&call->event) && growth_due(&call->event, GROWTH_REPORTED))
		bracket_end(ctx, key, call, 0);
	else
		call_close(key);
}

static __always_inline void bpf_end(void *ctx, int ret)
{
	__u64 key = call_id();
	struct object_call *call = bpf_map_lookup_elem(&object_calls, &key);

	if (!call)
		return; /* a command that is of no interest */
	if (call->event.op == OBJECT_GROW)
		growth_end(ctx, key, call);
	else
		bracket_end(ctx, key, call, ret);
}

static __always_inline bool watches_memcg(void)
{
	const struct config *config = config_get();

	return config && config->watch_memcg;
}

/* A map's memory goes, in a worker of the kernel's. */
static __always_inline void map_free_begin(void *ctx, struct work_struct *work)
{
	struct bpf_map *map = (void *)work - bpf_core_field_offset(struct bpf_map, work);
	__u64 key = call_id();
	struct object_call *call = bracket_begin(key, OBJECT_FREE, map_user(map));
	struct object_event *e;

	if (!call)
		return;
	e = &call->event;
	describe_map(call, map);
	caches_leave(map);
	if (watches_memcg() && growth_due(e, 1)) {
		place_t place = place_take(struct object_event);

		e->op = OBJECT_GROW;
		place_send(ctx, place, e);
		e->op = OBJECT_FREE;
		__builtin_memset(e->payers, 0, sizeof(e->payers));
		e->further_bytes = e->unpaid_bytes = 0;
	}
	if (watches_memcg())
		bpf_map_delete_elem(&growths, &e->object);
	else if (!call->user)
		bracket_end(ctx, key, call, 0); /* nothing to wait for */
}

static __always_inline void free_end(void *ctx, __u64 key)
{
	struct object_call *call = bpf_map_lookup_elem(&object_calls, &key);

	if (call)
		bracket_end(ctx, key, call, 0);
}

/* A program goes, in the context of whatever RCU interrupts. */
#define KEY_PROG ((__u64)1 << 61)

static __always_inline void prog_free_begin(void *ctx, void *rcu)
{
	struct bpf_prog_aux *aux = rcu - bpf_core_field_offset(struct bpf_prog_aux, rcu);
	struct bpf_prog *prog = BPF_CORE_READ(aux, prog);
	__u64 key = KEY_PROG | call_id();
	struct object_call *call = bracket_begin(key, OBJECT_FREE, map_has_user() ? prog_user(aux) : 0);

	if (!call)
		return;
	/* Whoever RCU interrupted has no part in it. */
	call->event.pid = call->event.tid = call->event.uid = 0;
	call->event.cgroup_id = 0;
	call->event.flags &= ~OBJECT_COMMAND;
	__builtin_memset(call->event.comm, 0, sizeof(call->event.comm));
	describe_prog(call, prog);
	if (!call->user)
		bracket_end(ctx, key, call, 0);
}

static __always_inline __s64 object_bytes(const struct object_event *e)
{
	return e->payers[0].object_bytes + e->payers[1].object_bytes + e->further_bytes + e->unpaid_bytes;
}

/* Percpu memory for a map. Up to now kernels charge what is taken while the map is
 * made to the cgroup that the map names, and it names none yet: nobody pays. */
static __always_inline void percpu_begin(__u64 bytes)
{
	__u64 key = call_id();
	struct object_call *call = bpf_map_lookup_elem(&object_calls, &key);
	const struct config *config = config_get();

	if (call && config && !call->closed && call->event.op == OBJECT_CREATE) {
		call->percpu_bytes = bytes * config->possible_cpus;
		call->percpu_before = object_bytes(&call->event);
	}
}

static __always_inline void percpu_end(void *memory)
{
	__u64 key = call_id();
	struct object_call *call = bpf_map_lookup_elem(&object_calls, &key);

	if (!call || !call->percpu_bytes)
		return;
	if (memory && object_bytes(&call->event) == call->percpu_before)
		call->event.unpaid_bytes += call->percpu_bytes;
	call->percpu_bytes = 0;
}

/* A map takes memory for an element, on behalf of whoever. */
static __always_inline void alloc_begin(struct bpf_map *map)
{
	__u64 outer = call_id(), key = KEY_ALLOC | outer;
	struct object_call *call = bpf_map_lookup_elem(&object_calls, &outer);

	if (call && call->event.op == OBJECT_CREATE && !call->closed)
		return; /* part of the making of the map */
	call = bracket_begin(key, OBJECT_GROW, 0);
	if (call)
		call_is_growth(call, map);
}

static __always_inline void alloc_end(void *ctx)
{
	__u64 key = KEY_ALLOC | call_id();
	struct object_call *call = bpf_map_lookup_elem(&object_calls, &key);

	if (call)
		growth_end(ctx, key, call);
}

/* BPF's allocator fills a cache of elements up, in an interrupt. */
static __always_inline void refill_begin(void *work)
{
	struct bpf_mem_cache *cache = work - bpf_core_field_offset(struct bpf_mem_cache, refill_work);
	__u32 cpu = bpf_get_smp_processor_id();
	__u64 base = percpu_base(cache, cpu);
	struct obj_cgroup *objcg = BPF_CORE_READ(cache, objcg);
	__u64 *map = bpf_map_lookup_elem(&caches, &base);
	struct object_call *call = bracket_begin(KEY_REFILL | cpu, OBJECT_GROW, 0);

	if (!call)
		return;
	if (map)
		describe_map(call, (void *)*map);
	if (objcg) {
		call->memcg = (__u64)BPF_CORE_READ(objcg, memcg);
		call->event.map_cgroup_id = memcg_cgroup_id((void *)call->memcg);
	}
}

static __always_inline void refill_end(void *ctx)
{
	__u64 key = KEY_REFILL | bpf_get_smp_processor_id();
	struct object_call *call = bpf_map_lookup_elem(&object_calls, &key);

	if (call)
		growth_end(ctx, key, call);
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
	bpf_end(ctx, ret);
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
	free_end(ctx, call_id());
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
	free_end(ctx, KEY_PROG | call_id());
	return 0;
}

/* How many bytes or pages were asked for, where the user is refused. */
SEC("kprobe/bpf_map_charge_init")
int BPF_KPROBE(kprobe_bpf_map_charge_init, void *memory, __u64 bytes)
{
	__u64 key = call_id();
	struct object_call *call = bpf_map_lookup_elem(&object_calls, &key);
	const struct config *config = config_get();

	if (call && config)
		call->event.pages = (bytes + (1 << config->page_shift) - 1) >> config->page_shift;
	return 0;
}

SEC("kprobe/bpf_map_precharge_memlock")
int BPF_KPROBE(kprobe_bpf_map_precharge_memlock, __u32 pages)
{
	__u64 key = call_id();
	struct object_call *call = bpf_map_lookup_elem(&object_calls, &key);

	if (call)
		call->event.pages = pages;
	return 0;
}

SEC("kprobe/__bpf_prog_charge")
int BPF_KPROBE(kprobe_bpf_prog_charge, struct user_struct *user, __u32 pages)
{
	__u64 key = call_id();
	struct object_call *call = bpf_map_lookup_elem(&object_calls, &key);

	if (call)
		call->event.pages = pages;
	return 0;
}

/* ---- what maps take later ---- */

SEC("kprobe/bpf_map_alloc")
int BPF_KPROBE(kprobe_map_alloc, struct bpf_map *map)
{
	alloc_begin(map);
	return 0;
}

SEC("kretprobe/bpf_map_alloc")
int BPF_KRETPROBE(kretprobe_map_alloc)
{
	alloc_end(ctx);
	return 0;
}

SEC("kprobe/bpf_map_alloc_percpu")
int BPF_KPROBE(kprobe_map_alloc_percpu, struct bpf_map *map, __u64 bytes)
{
	percpu_begin(bytes);
	alloc_begin(map);
	return 0;
}

SEC("kretprobe/bpf_map_alloc_percpu")
int BPF_KRETPROBE(kretprobe_map_alloc_percpu, void *memory)
{
	percpu_end(memory);
	alloc_end(ctx);
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
	refill_end(ctx);
	return 0;
}

/* The same by trampolines, which run inside of other BPF programs too. */
SEC("fentry/bpf_map_kmalloc_node")
int BPF_PROG(fentry_map_alloc, struct bpf_map *map)
{
	alloc_begin(map);
	return 0;
}

SEC("fexit/bpf_map_kmalloc_node")
int BPF_PROG(fexit_map_alloc)
{
	alloc_end(ctx);
	return 0;
}

SEC("fentry/bpf_map_alloc_percpu")
int BPF_PROG(fentry_map_alloc_percpu, struct bpf_map *map, __u64 bytes)
{
	percpu_begin(bytes);
	alloc_begin(map);
	return 0;
}

SEC("fexit/bpf_map_alloc_percpu")
int BPF_PROG(fexit_map_alloc_percpu, struct bpf_map *map, __u64 bytes, __u64 align, unsigned int flags, void *memory)
{
	percpu_end(memory);
	alloc_end(ctx);
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
	refill_end(ctx);
	return 0;
}

/* ---- the charge paths ---- */

SEC("fexit/__memcg_kmem_charge_page")
int BPF_PROG(fexit_charge_page, struct page *page, unsigned int gfp, int order, int ret)
{
	struct object_call *call = call_around();

	if (call)
		page_charged(call, page, order, ret);
	return 0;
}

SEC("kprobe/__memcg_kmem_charge_page")
int BPF_KPROBE(kprobe_charge_page, struct page *page, unsigned int gfp, int order)
{
	struct object_call *call = call_around();

	if (call) {
		call->page = (__u64)page;
		call->order = order;
	}
	return 0;
}

SEC("kretprobe/__memcg_kmem_charge_page")
int BPF_KRETPROBE(kretprobe_charge_page, int ret)
{
	struct object_call *call = call_around();

	if (call && call->page)
		page_charged(call, (void *)call->page, call->order, ret);
	return 0;
}

SEC("fentry/__memcg_kmem_uncharge_page")
int BPF_PROG(fentry_uncharge_page, struct page *page, int order)
{
	page_uncharged(page, order);
	return 0;
}

SEC("kprobe/__memcg_kmem_uncharge_page")
int BPF_KPROBE(kprobe_uncharge_page, struct page *page, int order)
{
	page_uncharged(page, order);
	return 0;
}

SEC("fentry/obj_cgroup_charge")
int BPF_PROG(fentry_obj_charge, struct obj_cgroup *objcg, unsigned int gfp, __u64 bytes)
{
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
SEC("fentry/obj_cgroup_charge_account")
int BPF_PROG(fentry_obj_charge_account, struct obj_cgroup *objcg, unsigned int gfp, __u64 bytes, void *node)
{
	if (node)
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
	object_charged(objcg, -bytes);
	return 0;
}

SEC("kprobe/obj_cgroup_uncharge")
int BPF_KPROBE(kprobe_obj_uncharge, struct obj_cgroup *objcg, __u64 bytes)
{
	object_charged(objcg, -bytes);
	return 0;
}

SEC("kprobe/__memcg_slab_post_alloc_hook")
int BPF_KPROBE(kprobe_slab_hook, struct kmem_cache *cache, void *lru, unsigned int flags, __u64 objects)
{
	slab_charged(cache, objects);
	return 0;
}

/* 7.2 put slab_alloc_flags before the number of objects. */
SEC("kprobe/__memcg_slab_post_alloc_hook")
int BPF_KPROBE(kprobe_slab_hook_flags, struct kmem_cache *cache, void *lru, unsigned int flags,
	       unsigned int slab_alloc_flags, __u64 objects)
{
	slab_charged(cache, objects);
	return 0;
}

SEC("fentry/__memcg_slab_post_alloc_hook")
int BPF_PROG(fentry_slab_hook, struct kmem_cache *cache, void *lru, unsigned int flags, __u64 objects)
{
	slab_charged(cache, objects);
	return 0;
}

SEC("fentry/__memcg_slab_post_alloc_hook")
int BPF_PROG(fentry_slab_hook_flags, struct kmem_cache *cache, void *lru, unsigned int flags,
	     unsigned int slab_alloc_flags, __u64 objects)
{
	slab_charged(cache, objects);
	return 0;
}
