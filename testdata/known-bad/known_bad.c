// SPDX-License-Identifier: GPL-2.0
/*
 * pinwatch: perf_mmap() and its counterpart with the accounting of the past, chosen by
 * accounting=NAME. They take the place of a stock kernel's own as a live patch does: calls of
 * those go on in these. accounting.c has them, out of the very source of that kernel, with
 * accounting.patch.
 *
 * Loaded first of all, and for good: nobody is in the old functions then.
 */
#include <linux/cred.h>
#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/perf_event.h>
#include <linux/sched/user.h>
#include <linux/security.h>
#include <linux/utsname.h>

#include "internal.h"

/* What the kernel exports to no module: X(result, name, parameters). */
#define FUNCTIONS(X)									\
	X(struct perf_buffer *, ring_buffer_get, (struct perf_event *))			\
	X(void, ring_buffer_put, (struct perf_buffer *))				\
	X(void, ring_buffer_attach, (struct perf_event *, struct perf_buffer *))	\
	X(struct perf_buffer *, rb_alloc, (int, long, int, int))			\
	X(int, rb_alloc_aux, (struct perf_buffer *, struct perf_event *, pgoff_t, int, long, int)) \
	X(void, rb_free_aux, (struct perf_buffer *))					\
	X(void, perf_event_update_time, (struct perf_event *))				\
	X(void, _free_event, (struct perf_event *))					\
	X(int, security_perf_event_read, (struct perf_event *))				\
	X(void, free_uid, (struct user_struct *))
#define VARIABLES(X)							\
	X(const struct vm_operations_struct, perf_mmap_vmops)		\
	X(int, sysctl_perf_event_mlock)					\
	X(int, sysctl_perf_event_paranoid)

#define DECLARE_FUNCTION(result, name, parameters) static result (*kernel_##name) parameters;
#define DECLARE_VARIABLE(type, name) static type *kernel_##name;
FUNCTIONS(DECLARE_FUNCTION)
VARIABLES(DECLARE_VARIABLE)

/* A kprobe tells a module an address that the kernel does not export. */
static int __init find_all(void)
{
	struct kprobe finder = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long (*lookup)(const char *name);
	int err = register_kprobe(&finder);

	if (err)
		return err;
	lookup = (void *)finder.addr;
	unregister_kprobe(&finder);
#define FIND(type, name, ...)						\
	kernel_##name = (void *)lookup(#name);				\
	if (!kernel_##name) {						\
		pr_err("known_bad: this kernel has no " #name "\n");	\
		return -ENOENT;						\
	}
	FUNCTIONS(FIND)
	VARIABLES(FIND)
	return 0;
}

#define ring_buffer_get kernel_ring_buffer_get
#define ring_buffer_put kernel_ring_buffer_put
#define ring_buffer_attach kernel_ring_buffer_attach
#define rb_alloc kernel_rb_alloc
#define rb_alloc_aux kernel_rb_alloc_aux
#define rb_free_aux kernel_rb_free_aux
#define perf_event_update_time kernel_perf_event_update_time
#define security_perf_event_read kernel_security_perf_event_read
#define free_uid kernel_free_uid
#define perf_mmap_vmops (*kernel_perf_mmap_vmops)
#define sysctl_perf_event_mlock (*kernel_sysctl_perf_event_mlock)
#define perf_is_paranoid() (*kernel_sysctl_perf_event_paranoid > -1)

/* Inlined in the kernel: */
static void put_event(struct perf_event *event)
{
	if (atomic_long_dec_and_test(&event->refcount))
		kernel__free_event(event);
}

/* aux_test, which alone has AUX areas in these guests, never writes into them. */
static void perf_pmu_output_stop(struct perf_event *event)
{
}

static bool acct_clamps __ro_after_init = true; /* what exceeds the limit is no history */
static bool acct_splits __ro_after_init = true; /* the user pays only what the process does not */
static enum { AUX_RIGHT, AUX_FULL, AUX_EITHER } acct_aux __ro_after_init;

static int __init choose(const char *name)
{
	if (!strcmp(name, "cumulative"))	/* up to 5.3 */
		acct_clamps = acct_splits = false;
	else if (!strcmp(name, "twice"))	/* 4.19.103+: 003461559ef7 alone */
		acct_splits = false;
	else if (!strcmp(name, "aux-full"))	/* d44248a41337 */
		acct_aux = AUX_FULL;
	else if (!strcmp(name, "aux-either"))	/* 5e6c3c7b1ec2 */
		acct_aux = AUX_EITHER;
	else if (!strcmp(name, "unclamped"))	/* c4b75479741c */
		acct_clamps = false;
	else if (strcmp(name, "right"))
		return -EINVAL;
	return 0;
}

static void perf_mmap_refund_aux(struct perf_buffer *rb, struct mm_struct *mm)
{
	long user = rb->aux_nr_pages, extra = rb->aux_mmap_locked;

	if (acct_aux == AUX_EITHER && extra)
		user = 0;
	else if (acct_aux == AUX_RIGHT && acct_splits)
		user -= extra;
	atomic_long_sub(user, &rb->mmap_user->PERF_LOCKED);
	atomic64_sub(extra, &mm->pinned_vm);
}

/* By names of their own: whoever looks for perf_mmap() is to find the kernel's. */
#define perf_mmap past_perf_mmap
#define perf_mmap_close past_perf_mmap_close
#include "accounting.c"
#undef perf_mmap
#undef perf_mmap_close

/* A PMU that counts nothing but has an AUX area, for emulated CPUs that have none: the AUX
 * accounting of perf_mmap() can be exercised with it. */
static int aux_test_init(struct perf_event *event)
{
	return event->attr.type == event->pmu->type ? 0 : -ENOENT;
}

static int aux_test_add(struct perf_event *event, int flags)
{
	return 0;
}

static void aux_test_nop(struct perf_event *event, int flags)
{
}

static void aux_test_read(struct perf_event *event)
{
}

static void *aux_test_setup_aux(struct perf_event *event, void **pages, int nr_pages, bool overwrite)
{
	return pages;
}

static void aux_test_free_aux(void *aux)
{
}

static struct pmu aux_test = {
	.module		= THIS_MODULE,
	.event_init	= aux_test_init,
	.add		= aux_test_add,
	.del		= aux_test_nop,
	.start		= aux_test_nop,
	.stop		= aux_test_nop,
	.read		= aux_test_read,
	.setup_aux	= aux_test_setup_aux,
	.free_aux	= aux_test_free_aux,
};


/* Calls of one of the kernel's functions go on in one of these. */
struct detour {
	struct ftrace_ops ops;
	const char *name;
	void *to;
};

static void notrace detour(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	ftrace_instruction_pointer_set(fregs, (unsigned long)container_of(ops, struct detour, ops)->to);
}

#define DETOUR(kernels, ours)										\
	{												\
		.ops = { .func = detour, .flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_IPMODIFY },	\
		.name = #kernels, .to = ours,								\
	}
static struct detour detours[] = {
	DETOUR(perf_mmap, past_perf_mmap),
	DETOUR(perf_mmap_close, past_perf_mmap_close),
};

static char *accounting = "right";
module_param(accounting, charp, 0444);
MODULE_PARM_DESC(accounting, "right, cumulative, twice, unclamped, aux-full or aux-either");

static int __init known_bad_init(void)
{
	int err = choose(accounting);

	if (err) {
		pr_err("known_bad.accounting=%s: unknown\n", accounting);
		return err;
	}
	err = find_all();
	if (!err)
		err = perf_pmu_register(&aux_test, "aux_test", -1);
	for (int i = 0; !err && i < ARRAY_SIZE(detours); i++) {
		err = ftrace_set_filter(&detours[i].ops, (char *)detours[i].name, strlen(detours[i].name), 1);
		if (!err)
			err = register_ftrace_function(&detours[i].ops);
	}
	if (!err) /* it is no stock kernel any more, and says so */
		strscpy(init_uts_ns.name.release, RELEASE, sizeof(init_uts_ns.name.release));
	return err;
}
module_init(known_bad_init);

/* It has no exit: it stays. */
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("The accounting of perf buffers as it once was");
