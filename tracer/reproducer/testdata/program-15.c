// SPDX-License-Identifier: GPL-2.0
/*
 * program: a program of calls.
 *
 * Expected: perf_mmap() charges an area of a buffer once, when it is first
 * mapped: to the user (user->locked_vm) what still fits perf_event_mlock_kb
 * times the online CPUs, the rest to the process (mm->pinned_vm). Whoever
 * unmaps it last, perf_mmap_close() gives both back to those who were charged.
 * VmPin of /proc/PID/status is pinned_vm; how many more pages fit before
 * EPERM, with an RLIMIT_MEMLOCK of 0, is what locked_vm leaves of the
 * allowance.
 *
 * io_uring's buffers (and its rings, on some kernels), AF_XDP umems, sends
 * with MSG_ZEROCOPY and, before 5.11, BPF maps are charged to user->locked_vm
 * while they live, and refused where that would exceed RLIMIT_MEMLOCK; with
 * CAP_IPC_LOCK only BPF maps are. A buffer of io_uring is in pinned_vm, too.
 * How many pages another process of the user can register before ENOMEM is
 * what they leave of its limit. Which counter perf_mmap() charges is tried
 * first.
 *
 * Known on Linux 6.16, 6.17, 6.18, 6.19, 7.0, 7.1, 7.2, 7.3 as double-charge
 * (perf_mmap()): Mapping the buffer of an event that is mapped already charges
 * its pages to the user once more, and nothing gives them back before the
 * user's last process ends. No fix is known to whoever wrote this.
 *
 * It changes settings of the whole machine, and puts them back.
 *
 *	cc -O2 -static -pthread -o program program.c && ./program
 *
 * As root. Exit status: 0 the accounting is right, 1 it is not, 4 it cannot be told.
 * Written by pinwatch check --emit c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/if_xdp.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define KSFT_SKIP	4
#define say(...)	printf(__VA_ARGS__)

/* Processes, events and mappings of the calls, which are at the end. */
enum { p0, NR_PROCS };
enum { e0, e1, NR_EVENTS };
enum { m0, m1, m2, m3, NR_NAMED };
enum { o0, o1, NR_OBJECTS };

#define NR_USERS	2
#define GAUGES		(NR_PROCS + NR_USERS)	/* the first of those that measure user->locked_vm */
#define TRIER		(GAUGES + NR_USERS)	/* who tries first how the kernel charges */
#define NR_ALL_PROCS	(TRIER + 1)
#define NR_FILL		16	/* events that fill an allowance: one of each size */
#define NR_SPARE	(NR_FILL + 8)
#define NR_ALL		(NR_EVENTS + NR_SPARE)
#define NR_MAPS		1024
#define BEYOND		512	/* pages that are measured past the allowance */
#define MOST		32768	/* pages that are mapped for it at most */
#define NO_LIMIT	(1L << 40)
#define MLOCK_KB	"/proc/sys/kernel/perf_event_mlock_kb"
#define TAINTED		"/proc/sys/kernel/tainted"
#define DIED		(1 << 7)	/* the kernel crashed: BUG, oops */
#define PARANOID	"/proc/sys/kernel/perf_event_paranoid"

enum op { MAP, MAP_AT, SPACE, UNMAP, COVER, MOVE, PROTECT, ANNOUNCE, REDIRECT, SEND, RECEIVE, CLOSE, ROOM, STORM, FORK, EXEC, EXIT, CAPABLE, RING, REGISTER, UNREGISTER, UMEM, SEND_MORE, BPF_MAP, CLOSE_FD };

struct call {
	enum op op;
	long a, b, c;
};

/* What the accounting is meant to be. Amounts are pages. */
struct mm {
	long pages;
};

struct area {
	int user, mappings;
	struct mm *mm;
	long pages, to_user, to_mm;
};

struct buffer {
	struct area area[2];	/* data, which every mapping keeps, and AUX */
};

struct event {
	struct buffer *buffer;
	int mappings;
};

struct map {
	int proc, which, live, fill;
	unsigned long addr;
	long pages;
	struct event *event;
	struct buffer *buffer;
};

struct proc {
	const char *name;
	pid_t pid;		/* 0: there is none */
	int sock, user, capable, may, has[NR_ALL];
	long limit, off, shown;
	struct mm *mm;
	struct event spare[NR_SPARE];
};

static struct proc procs[NR_ALL_PROCS];	/* the last ones measure, one for each user */
static struct event events[NR_EVENTS + 1];
static struct map maps[NR_MAPS];
static int nr_maps;
static int named[NR_NAMED];	/* number of the mapping, from 1 on; 0: there is none */
static long charged[NR_USERS], page, allowance;	/* charged: for perf buffers */
static int died;	/* it had before */
static int paranoid, broken[2], measured, passing[2];	/* broken: by VmPin, by EPERM */
static char step[128] = "start";
static pid_t parent;
static int rounds = 10;	/* of threads that map at once */

static void restore(void);

static void skip(const char *why, int error)
{
	say("SKIP: %s%s%s, after %s\n", why, error ? ": " : "", error ? strerror(error) : "", step);
	restore();
	fflush(NULL);
	_exit(KSFT_SKIP);
}

static void bug(int witness, const char *what, const char *who, long seen, long expected)
{
	broken[witness]++;
	say("BUG: %s%s: %ld, expected %ld, after %s\n", what, who, seen, expected, step);
}

/* The process that makes the calls. */

static int fds[NR_ALL];
static int room_fds[20];

static int perf_open(int type, int config)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr), .type = type, .config = config, .disabled = 1,
		.exclude_kernel = type == PERF_TYPE_SOFTWARE, .exclude_hv = type == PERF_TYPE_SOFTWARE,
	};

	return syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

static long capable(int effective, int permitted)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { };

	/* For AF_XDP and BPF: none of them lifts a limit. */
	data[0].permitted = data[0].effective = 1 << CAP_NET_RAW | 1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN;
	data[1].permitted = data[1].effective = 1 << 7 | 1 << 6;	/* CAP_BPF, CAP_PERFMON */
	data[0].permitted |= permitted << CAP_IPC_LOCK;
	data[0].effective |= effective << CAP_IPC_LOCK;
	return syscall(SYS_capset, &header, data);
}

static long map_pages(int fd, long pages, long offset)
{
	void *at = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset * page);

	return at == MAP_FAILED ? -errno : (long)at;
}

/* How many more pages fit before EPERM, with an RLIMIT_MEMLOCK of 0: the largest buffers first. */
static long room(long most)
{
	long size = 1, sum = 0, at[20], pages[20];
	int n = 0;

	while (size * 2 <= most)
		size *= 2;
	for (; size >= 0 && n < 20; size = size ? size / 2 : -1) {
		if (sum + size + 1 > most)
			continue;
		at[n] = map_pages(room_fds[n], size + 1, 0);
		if (at[n] < 0 && at[n] != -EPERM) {
			sum = at[n];
			break;
		}
		if (at[n] < 0)
			continue;
		pages[n++] = size + 1;
		sum += size + 1;
	}
	while (n-- > 0)
		munmap((void *)at[n], pages[n] * page);
	return sum;
}

static long move(unsigned long addr, long bytes)
{
	void *to = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at;

	if (to == MAP_FAILED)
		return -errno;
	at = mremap((void *)addr, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	if (at != MAP_FAILED)
		return (long)at;
	bytes = -errno;
	munmap(to, page);
	return bytes;
}

static long or_errno(long result)
{
	return result < 0 ? -errno : result;
}

/* Small pages, all of them charged one by one. */
static void *memory(long pages)
{
	void *at = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at != MAP_FAILED)
		madvise(at, pages * page, MADV_NOHUGEPAGE);
	return at;
}

static long make_io_uring(void)
{
	struct io_uring_params params = { };

	return or_errno(syscall(SYS_io_uring_setup, 4, &params));
}

static long register_pages(int ring, long pages)
{
	struct iovec iov = { memory(pages), pages * page };
	long result;

	if (iov.iov_base == MAP_FAILED)
		return -errno;
	result = or_errno(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1));
	munmap(iov.iov_base, iov.iov_len);	/* pinned, where it was registered */
	return result;
}

static long make_umem(long pages)
{
	struct xdp_umem_reg reg = { .len = pages * page, .chunk_size = page < 4096 ? page : 4096 };
	int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	void *at = memory(pages);
	long result;

	if (fd < 0 || at == MAP_FAILED)
		return -errno;
	reg.addr = (unsigned long)at;
	result = or_errno(setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &reg, sizeof(reg)));
	munmap(at, pages * page);
	if (result < 0)
		close(fd);
	return result < 0 ? result : fd;
}

/* What the kernel puts before the values is less than half a page. */
static long make_bpf_map(long pages)
{
	union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = (pages * page - page / 2) / 8 };

	return or_errno(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)));
}

static long make(struct call *c, int sock)
{

	switch (c->op) {
	case MAP:
		return map_pages(fds[c->a], c->b, c->c);
	case UNMAP:
		return munmap((void *)c->a, c->b) ? -errno : 0;
	case MOVE:
		return move(c->a, c->b);
	case ROOM:
		return room(c->a);
	case RING:
		return make_io_uring();
	case REGISTER:
		return register_pages(c->a, c->b);
	case UNREGISTER:
		return or_errno(syscall(SYS_io_uring_register, c->a, IORING_UNREGISTER_BUFFERS, NULL, 0));
	case CLOSE_FD:
		return close(c->a) ? -errno : 0;
	case UMEM:
		return make_umem(c->a);
	case BPF_MAP:
		return make_bpf_map(c->a);
	case EXIT:
		exit(0);
	default:
		return -EINVAL;
	}
}

static void serve(int sock, long first)
{
	struct call c;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	do {
		if (send(sock, &first, sizeof(first), 0) != sizeof(first) || recv(sock, &c, sizeof(c), 0) != sizeof(c))
			_exit(0);
		first = make(&c, sock);
	} while (1);
}

/* Opens the events, which perf_event_paranoid may refuse to the user that it becomes. */
static long become(uid_t uid, int ipc_lock, int measures)
{
	int i;

	for (i = 0; i < (measures ? 20 : NR_ALL); i++) {
		int fd = perf_open(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY);

		if (fd < 0)
			return -errno;
		*(measures ? &room_fds[i] : &fds[i]) = fd;
	}
	if (prctl(PR_SET_KEEPCAPS, 1) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid) || capable(ipc_lock, ipc_lock))
		return -errno;
	return 0;
}

/* The process that has the calls made, and looks. */

static long read_file(const char *path)
{
	FILE *f = fopen(path, "r");
	long value;

	if (!f || fscanf(f, "%ld", &value) != 1)
		skip(path, errno);
	fclose(f);
	return value;
}

/* It died with a crash of the kernel, or it hangs behind one. */
static void lost(struct proc *p)
{
	if (died || !(read_file(TAINTED) & DIED))
		skip("a process does not answer", 0);
	say("BUG: %s does not answer, and the kernel crashed: see its messages, after %s\n", p->name, step);
	restore();
	fflush(NULL);
	_exit(1);
}

static long answer(struct proc *p)
{
	long result;

	if (recv(p->sock, &result, sizeof(result), 0) != sizeof(result))
		lost(p);
	return result;
}

static long ask(int p, enum op op, long a, long b, long c)
{
	struct call call = { op, a, b, c };

	if (send(procs[p].sock, &call, sizeof(call), MSG_NOSIGNAL) != sizeof(call))
		lost(&procs[p]);
	return answer(&procs[p]);
}

static void set_limit(struct proc *p, long pages)
{
	struct rlimit limit = { pages == NO_LIMIT ? RLIM_INFINITY : (rlim_t)(pages * page), RLIM_INFINITY };

	if (prlimit(p->pid, RLIMIT_MEMLOCK, &limit, NULL))
		skip("set RLIMIT_MEMLOCK", errno);
	p->limit = pages;
}

static void begin(int p, const char *name, int user, long limit, int ipc_lock)
{
	struct proc *proc = &procs[p];
	struct timeval patience = { 60, 0 };
	int pair[2], i;
	long ready;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		skip("socketpair", errno);
	fflush(NULL);
	proc->pid = fork();
	if (!proc->pid) {
		close(pair[1]);
		for (i = 0; i < NR_ALL_PROCS; i++)
			if (procs[i].pid && i != p)
				close(procs[i].sock);
		serve(pair[0], become(0x7fc00000 + parent % 0x1000 * 0x200 + user, ipc_lock, p >= NR_PROCS));
	}
	close(pair[0]);
	if (proc->pid < 0 || recv(pair[1], &ready, sizeof(ready), 0) != sizeof(ready))
		skip("start a process", 0);
	if (ready)
		skip("open events and become another user, which wants root and a kernel with perf", -ready);
	proc->name = name;
	proc->sock = pair[1];
	setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	proc->user = user;
	proc->capable = proc->may = ipc_lock;
	proc->mm = calloc(1, sizeof(*proc->mm));
	set_limit(proc, limit);
}

static void settings(void)
{
	allowance = read_file(MLOCK_KB) * 1024 / page * sysconf(_SC_NPROCESSORS_ONLN);
	paranoid = read_file(PARANOID);
}

/* What others than perf are charged, to user->locked_vm; perf's counter is the same one, mostly. */
static long locked[NR_USERS + 1];
static int apart;

static long left(int user)
{
	long full = charged[user] + (apart ? 0 : locked[user]);

	return allowance > full ? allowance - full : 0;
}

/* The user's counter, by the one that nobody can forge: EPERM. */
static void measure(void)
{
	int user;

	if (paranoid < 0)
		return;	/* nothing is refused */
	if (allowance + BEYOND > MOST)
		skip("the allowance is too large to be mapped here: lower perf_event_mlock_kb", 0);
	for (user = 0; user < NR_USERS; user++) {
		long seen = ask(NR_PROCS + user, ROOM, allowance + BEYOND, 0, 0);

		if (seen < 0)
			skip("measure what fits", -seen);
		measured++;
		say("    user %d: %ld pages fit before EPERM\n", user, seen);
		if (seen != left(user))
			bug(1, "pages that fit before EPERM", "", seen, left(user));
	}
}

static long vm_pin(struct proc *p)
{
	char path[64], line[256];
	unsigned long kb = 0;	/* below 0 it is printed as what is far above */
	int found = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", p->pid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		found += sscanf(line, "VmPin: %lu", &kb) == 1;
	if (!found)
		skip("read VmPin", 0);
	fclose(f);
	return (long)kb * 1024 / page;
}

/* What stays off by the same amount was said before. */
static void look(void)
{
	int i;

	for (i = 0; i < NR_PROCS; i++) {
		struct proc *p = &procs[i];
		long pin, off;

		if (!p->pid)
			continue;
		pin = vm_pin(p);
		off = pin - p->mm->pages;
		if (pin != p->shown)
			say("    %s: VmPin %ld pages\n", p->name, pin);
		p->shown = pin;
		if (off && off != p->off)
			bug(0, "VmPin of ", p->name, pin, p->mm->pages);
		p->off = off;
	}
}

/*
 * io_uring's rings and buffers, umems, sends with MSG_ZEROCOPY and BPF maps. How this kernel
 * charges them is tried first: whether perf buffers have a counter of their own, whether a
 * buffer is charged to the process as well, what a ring takes.
 */
#define GAUGE	128	/* RLIMIT_MEMLOCK of those who measure */
#define TRIED	4
#define TICKS	500	/* of 10 ms: the kernel gives back in workers */

static struct object {
	int p, live, is_ring, counts, registered;
	long fd, to_user, buffer_user, buffer_mm;
	struct mm *mm;
} objects[NR_OBJECTS];

static long ring_pages, gauge_ring[NR_USERS], gauge_off[NR_USERS];
static int pins;
static int rlimit;

/* How many pages can be registered with a ring before ENOMEM. What is expected is tried first. */
static long fits(int p, long ring, long expected)
{
	long low = 0, high = GAUGE + 1;

	while (low + 1 < high) {
		long middle = (low + high) / 2, came;

		if (low < expected && expected < high)
			middle = expected;
		else if (low == expected)
			middle = low + 1;
		came = ask(p, REGISTER, ring, middle, 0);
		if (came < 0 && came != -ENOMEM)
			skip("register a buffer with an io_uring", -came);
		if (came < 0) {
			high = middle;
		} else {
			low = middle;
			ask(p, UNREGISTER, ring, 0, 0);
		}
	}
	return low;
}

static void find_habits(void)
{
	struct proc *p = &procs[TRIER];
	long ring, before, taken, n;

	if (paranoid < 0 || allowance < TRIED || allowance + BEYOND > MOST)
		skip("the allowance tells nothing: perf_event_mlock_kb, perf_event_paranoid", 0);
	begin(TRIER, "first one to try", NR_USERS, 0, 0);
	before = ask(TRIER, ROOM, allowance + BEYOND, 0, 0);
	n = ask(TRIER, BPF_MAP, 1, 0, 0);
	rlimit = n == -EPERM;
	if (n >= 0)
		ask(TRIER, CLOSE_FD, n, 0, 0);
	set_limit(p, GAUGE);
	ring = ask(TRIER, RING, 0, 0, 0);
	if (ring < 0)
		skip("make an io_uring", -ring);
	ring_pages = GAUGE - fits(TRIER, ring, GAUGE);
	n = ask(TRIER, REGISTER, ring, TRIED, 0);
	if (n < 0)
		skip("register a buffer with an io_uring", -n);
	pins = vm_pin(p) != 0;
	set_limit(p, vm_pin(p));	/* which perf_mmap() holds against it, too */
	taken = before - ask(TRIER, ROOM, allowance + BEYOND, 0, 0);
	apart = !taken;
	if (taken && taken != TRIED + ring_pages)
		skip("whom io_uring's buffers are charged to cannot be told", 0);
	kill(p->pid, SIGKILL);
	waitpid(p->pid, NULL, 0);
	p->pid = 0;
}

static void begin_gauges(void)
{
	int user;

	for (user = 0; user < NR_USERS; user++) {
		begin(GAUGES + user, "gauge", user, GAUGE, 0);
		gauge_ring[user] = ask(GAUGES + user, RING, 0, 0, 0);
		if (gauge_ring[user] < 0)
			skip("make an io_uring", -gauge_ring[user]);
		locked[user] += ring_pages;
	}
}

static void end_gauges(void)
{
	int user, ticks;

	for (user = 0; user < NR_USERS; user++) {
		struct proc *p = &procs[GAUGES + user];

		kill(p->pid, SIGKILL);
		waitpid(p->pid, NULL, 0);
		p->pid = 0;
		locked[user] -= ring_pages;
		for (ticks = 0; paranoid >= 0 && ticks < TICKS && ask(NR_PROCS + user, ROOM, allowance + BEYOND, 0, 0) != left(user); ticks++)
			usleep(10000);
	}
}

static long used(int user)
{
	return locked[user] + (apart ? 0 : charged[user]);
}

static int unsettled(void)
{
	int i;

	for (i = 0; i < NR_PROCS; i++)
		if (procs[i].pid && vm_pin(&procs[i]) - procs[i].mm->pages != procs[i].off)
			return 1;
	return 0;
}

/* Waits for what the kernel gives back later, and looks. */
static void settled(int user)
{
	long expected = GAUGE > used(user) ? GAUGE - used(user) : 0, seen;
	int ticks;

	for (ticks = 0; ticks < TICKS && unsettled(); ticks++)
		usleep(10000);
	look();
	for (ticks = 0; ; ticks++) {
		seen = fits(GAUGES + user, gauge_ring[user], expected);
		if (seen == expected || seen == expected + gauge_off[user] || ticks == TICKS)
			break;
		usleep(10000);
	}
	say("    user %d: %ld pages can be registered before ENOMEM\n", user, seen);
	if (seen != expected && seen != expected + gauge_off[user])
		bug(1, "pages that can be registered before ENOMEM", "", seen, expected);
	gauge_off[user] = seen - expected;
}

static int exceeds(int p, long to_user)
{
	return to_user && used(procs[p].user) + to_user > procs[p].limit;
}

/* Makes a call by which a user is charged, or which is refused where its counter would exceed the limit. */
static long charging(int p, enum op op, long a, long b, long to_user, int refusal)
{
	int want = exceeds(p, to_user);
	long came = ask(p, op, a, b, 0);

	if (came < 0 && came != -refusal)
		skip("make what is charged", -came);
	if ((came < 0) != want)
		bug(1, "is refused: ", procs[p].name, came < 0, want);
	return came;
}

static void make_object(int p, int o, enum op op, long pages, long to_user, int refusal)
{
	struct object *of = &objects[o];
	long fd;

	if (!procs[p].pid || of->live)
		return;
	fd = charging(p, op, pages, 0, to_user, refusal);
	if (fd >= 0) {
		if (exceeds(p, to_user))	/* which was said: it is as if it had charged nothing */
			to_user = 0;
		*of = (struct object){ .p = p, .live = 1, .is_ring = op == RING, .counts = !procs[p].capable, .fd = fd, .to_user = to_user, .mm = procs[p].mm };
		locked[procs[p].user] += to_user;
	}
	settled(procs[p].user);
}

static void empty(struct object *of)
{
	locked[procs[of->p].user] -= of->buffer_user;
	of->mm->pages -= of->buffer_mm;
	of->registered = of->buffer_user = of->buffer_mm = 0;
}

static void freed(struct object *of)
{
	empty(of);
	locked[procs[of->p].user] -= of->to_user;
	of->live = 0;
}

static void objects_end(int p)
{
	int i, had = 0;

	for (i = 0; i < NR_OBJECTS; i++)
		if (objects[i].live && objects[i].p == p) {
			freed(&objects[i]);
			had = 1;
		}
	if (had)
		settled(procs[p].user);
}

/* The first mapping of an area: to the user what fits its allowance, the rest to the process. */
static int charge(struct area *area, struct proc *p, long pages)
{
	long to_user = pages < left(p->user) ? pages : left(p->user), to_mm = pages - to_user;

	*area = (struct area){ .user = p->user, .mm = p->mm, .pages = pages };
	if (p->mm->pages + to_mm > p->limit && paranoid > -1 && !p->capable)
		return -EPERM;
	area->to_user = to_user;
	area->to_mm = to_mm;
	charged[p->user] += to_user;
	p->mm->pages += to_mm;
	return 0;
}

static void refund(struct area *area)
{
	charged[area->user] -= area->to_user;
	area->mm->pages -= area->to_mm;
	area->to_user = area->to_mm = 0;
}

static void leave(struct buffer *b)
{
	int i, n;

	for (i = 0; i < NR_EVENTS; i++)
		if (events[i].buffer == b)
			events[i].buffer = NULL;
	for (i = 0; i < NR_PROCS; i++)
		for (n = 0; n < NR_SPARE; n++)
			if (procs[i].spare[n].buffer == b)
				procs[i].spare[n].buffer = NULL;
}

static struct map *mapped(struct map m)
{
	int i;

	if (nr_maps == NR_MAPS)
		skip("too many mappings", 0);
	for (i = 0; i <= m.which; i++)
		m.buffer->area[i].mappings++;
	m.event->mappings++;
	m.live = 1;
	maps[nr_maps] = m;
	return &maps[nr_maps++];
}

static void gone(struct map *m)
{
	int i;

	m->live = 0;
	for (i = 0; i <= m->which; i++)
		if (!--m->buffer->area[i].mappings)
			refund(&m->buffer->area[i]);
	if (!--m->event->mappings)
		m->event->buffer = NULL;
	if (!m->buffer->area[0].mappings)
		leave(m->buffer);
}

/* Some pages, from at on, are no part of a mapping any more: what is left may be two. */
static void without(struct map *m, long at, long pages)
{
	struct map rest = *m;

	rest.pages = m->pages - at - pages;
	rest.addr = m->addr + (at + pages) * page;
	if (!at && !rest.pages) {
		gone(m);
	} else if (!at) {
		m->addr = rest.addr;
		m->pages = rest.pages;
	} else {
		m->pages = at;
		if (rest.pages)
			mapped(rest);
	}
}
static struct map *map_area(int p, int e, int which, long pages, long place)
{
	struct event *event = e < NR_EVENTS ? &events[e] : &procs[p].spare[e - NR_EVENTS];
	struct buffer *b = event->buffer;
	int again = b && b->area[which].mappings, want = 0;
	struct area area = { };
	long at = place ? ask(p, MAP_AT, e, pages, place) : ask(p, MAP, e, pages, which ? b->area[0].pages : 0);

	if (at < 0 && at != -EPERM) {	/* which has its reasons, and charges nothing */
		say("    mmap: %s\n", strerror(-at));
		return NULL;
	}
	if (!again)
		want = charge(&area, &procs[p], pages);
	if ((at < 0) != (want < 0))
		bug(1, "mmap is refused by EPERM: ", procs[p].name, at < 0, want < 0);
	if (at < 0) {
		if (!again)
			refund(&area);
		return NULL;
	}
	if (!b)
		b = event->buffer = calloc(1, sizeof(*b));
	if (!again)
		b->area[which] = area;
	return mapped((struct map){ .proc = p, .which = which, .addr = at, .pages = pages, .event = event, .buffer = b });
}

static int alive(int p, int e)
{
	return procs[p].pid && (e < 0 || procs[p].has[e]);
}

/* The calls. One that cannot be made, for what it names is not there, is left out. */

#define start(p, user, limit, ipc_lock)	begin(p, #p, user, limit, ipc_lock)

static void open_event(int p, int e)
{
	procs[p].has[e] |= procs[p].pid && procs[p].may >= 0;
}

static void map(int p, int e, int m, long pages)
{
	struct map *made = alive(p, e) ? map_area(p, e, 0, pages, 0) : NULL;

	if (made)
		named[m] = made - maps + 1;
}

static struct map *part(int p, int m, long at, long *pages)
{
	struct map *is = named[m] ? &maps[named[m] - 1] : NULL;

	if (!is || !is->live || at >= is->pages || !procs[p].pid || !procs[is->proc].pid)
		return NULL;
	if (!*pages || *pages > is->pages - at)
		*pages = is->pages - at;
	return is;
}

static void remap(int p, int m, long at, long pages)
{
	struct map *is = part(p, m, at, &pages), moved;
	long to;

	if (!is)
		return;
	to = ask(is->proc, MOVE, is->addr + at * page, pages * page, 0);
	if (to < 0)
		return;
	if (pages == is->pages) {
		is->addr = to;
		return;
	}
	moved = *is;
	moved.addr = to;
	moved.pages = pages;
	mapped(moved);
	without(is, at, pages);
}

static void umem(int p, int o, long pages)
{
	if (procs[p].may >= 0)	/* who called exec has no capabilities left */
		make_object(p, o, UMEM, pages, procs[p].capable ? 0 : pages, ENOBUFS);
}

static void bpf_map(int p, int o, long pages)
{
	if (procs[p].may >= 0)
		make_object(p, o, BPF_MAP, pages, rlimit ? pages : 0, EPERM);
}

static void drop(int p, int o)
{
	struct object *of = &objects[o];

	if (!alive(p, -1) || !of->live || of->p != p)
		return;
	if (ask(p, CLOSE_FD, of->fd, 0, 0))
		skip("close", 0);
	freed(of);
	settled(procs[p].user);
}

static void ends(int p)
{
	int i;

	for (i = 0; i < nr_maps; i++)
		if (maps[i].live && maps[i].proc == p)
			gone(&maps[i]);
	memset(procs[p].has, 0, sizeof(procs[p].has));
	objects_end(p);
}

static void end(int p, int sig)
{
	struct call call = { EXIT, 0, 0, 0 };

	if (!alive(p, -1))
		return;
	if (sig)
		kill(procs[p].pid, sig);
	else if (send(procs[p].sock, &call, sizeof(call), 0) < 0)
		skip("exit", errno);
	waitpid(procs[p].pid, NULL, 0);
	close(procs[p].sock);
	procs[p].pid = 0;
	ends(p);
}

/* Settings of the machine, and what they were. */
static struct {
	char path[64];
	long was;
} changed[4];
static int nr_changed;

static int write_file(const char *path, long value)
{
	char text[32];
	int fd = open(path, O_WRONLY), n = snprintf(text, sizeof(text), "%ld\n", value);
	int failed = fd < 0 || write(fd, text, n) != n;

	if (fd >= 0)
		close(fd);
	return failed;
}

static void restore(void)
{
	while (nr_changed && getpid() == parent) {
		nr_changed--;
		write_file(changed[nr_changed].path, changed[nr_changed].was);
	}
}

static void interrupted(int sig)
{
	restore();
	_exit(KSFT_SKIP);
}

static void set(const char *path, long value)
{
	int i;

	for (i = 0; i < nr_changed && strcmp(changed[i].path, path); i++)
		;
	if (i == nr_changed) {
		snprintf(changed[i].path, sizeof(changed[i].path), "%s", path);
		changed[i].was = read_file(path);
		nr_changed++;
	}
	if (write_file(path, value))
		skip(path, errno);
	settings();
}

static void mlock_pages(long pages)
{
	set(MLOCK_KB, pages * page / 1024);
}

/* What is left goes, what came last first. */
static void finish(void)
{
	int i;
	for (i = 0; i < NR_OBJECTS; i++)
		drop(objects[i].p, i);
	for (i = nr_maps - 1; i >= 0; i--) {
		struct map *m = &maps[i];

		if (m->live && !ask(m->proc, UNMAP, m->addr, m->pages * page, 0)) {
			gone(m);
			look();
		}
	}
	for (i = 0; i < NR_PROCS; i++)
		end(i, 0);
	end_gauges();
	measure();
}

#define STEP(what, ...) do {							\
	snprintf(step, sizeof(step), "%s(%s)", #what, #__VA_ARGS__);		\
	say("%s\n", step);							\
	what(__VA_ARGS__);							\
	look();									\
} while (0)

int main(int argc, char **argv)
{
	struct rlimit files = { 8192, 8192 };
	int i;

	page = sysconf(_SC_PAGESIZE);
	if (argc == 3) {	/* the new program of a process that called exec */
		passing[1] = atoi(argv[2]);
		serve(atoi(argv[1]), 0);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);	/* a crash loses no line */
	parent = getpid();
	if (argc == 2)
		rounds = atoi(argv[1]);
	died = read_file(TAINTED) & DIED;
	signal(SIGINT, interrupted);
	signal(SIGTERM, interrupted);
	setrlimit(RLIMIT_NOFILE, &files);
	settings();
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, passing))
		skip("socketpair", errno);
	for (i = 0; i < NR_USERS; i++)	/* a user's counter goes with its last process */
		begin(NR_PROCS + i, "keeper", i, 0, 0);
	set(MLOCK_KB, 2 * page / 1024);
	find_habits();
	begin_gauges();
	measure();

	STEP(start, p0, 1, 9, 0);
	STEP(open_event, p0, e0);
	STEP(map, p0, e0, m0, 3);
	STEP(map, p0, e0, m1, 2);
	STEP(open_event, p0, e1);
	STEP(map, p0, e1, m2, 17);
	STEP(map, p0, e1, m3, 17);
	STEP(remap, p0, m2, 2, 1);
	STEP(umem, p0, o0, 13);
	STEP(bpf_map, p0, o1, 2);
	STEP(mlock_pages, 2);

	snprintf(step, sizeof(step), "finish()");
	say("%s\n", step);
	finish();
	restore();
	for (i = 0; i < NR_USERS; i++)
		end(NR_PROCS + i, SIGKILL);
	if (!measured && !broken[0])
		skip("what the user is charged could not be measured", 0);
	say("%s: %d readings are wrong\n", broken[0] + broken[1] ? "BUG" : "ok", broken[0] + broken[1]);
	return broken[0] + broken[1] ? 1 : 0;
}
