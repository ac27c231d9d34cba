// SPDX-License-Identifier: GPL-2.0
/*
 * Two processes map and unmap the buffer of one perf event at the same time. Afterwards
 * nothing is mapped, and as many pages must fit before EPERM as before. As root:
 *
 *	cc -O2 -static -o race race.c && ./race [ROUNDS]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST	1024	/* pages that are counted */
#define SIZE	(9 * getpagesize())

static int spare[MOST];

static int open_event(void)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr), .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_DUMMY,
		.disabled = 1, .exclude_kernel = 1, .exclude_hv = 1,
	};

	return syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
}

static void memlock(rlim_t now)
{
	struct rlimit limit = { now, RLIM_INFINITY };

	if (setrlimit(RLIMIT_MEMLOCK, &limit))
		perror("setrlimit");
}

/* What is left of the user's allowance: pages that fit before EPERM, at no process's expense. */
static int fit(void)
{
	static void *page[MOST];
	int n, i;

	memlock(0);
	for (n = 0; n < MOST; n++) {
		page[n] = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE, MAP_SHARED, spare[n], 0);
		if (page[n] == MAP_FAILED)
			break;
	}
	for (i = 0; i < n; i++)
		munmap(page[i], getpagesize());
	memlock(RLIM_INFINITY);
	return n;
}

static void say(const char *who, const char *path, const char *word)
{
	FILE *f = fopen(path, "r");
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, word))
			printf("%s: %s", who, line);
	if (f)
		fclose(f);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 300;
	struct rlimit files = { 2 * MOST, 2 * MOST };
	int event, before, after, i, n;
	volatile int *ready;

	setrlimit(RLIMIT_NOFILE, &files);
	memlock(RLIM_INFINITY);
	for (i = 0; i < MOST; i++)
		spare[i] = open_event();
	event = open_event();
	if (event < 0 || setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)) {
		perror("open the events, and become uid 65534");
		return 2;
	}
	ready = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	before = fit();
	for (i = 0; i < 2; i++) {
		fflush(NULL);
		if (fork())
			continue;
		__sync_fetch_and_add(ready, 1);
		while (*ready < 2)
			;
		for (n = 0; n < rounds; n++) {
			void *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, event, 0);

			if (p != MAP_FAILED && munmap(p, SIZE))
				perror("munmap");
		}
		say("nothing mapped", "/proc/self/status", "VmPin");
		say("still mapped", "/proc/self/maps", "perf_event");
		exit(0);
	}
	while (wait(NULL) > 0)
		;
	close(event);
	after = fit();
	printf("pages that fit before EPERM: %d before, %d after\n", before, after);
	return before != after;
}
