//go:build ignore

// SPDX-License-Identifier: GPL-2.0
/*
 * Tells who pays for a map that pinwatch has open, on kernels without the iterator over
 * maps: pinwatch asks with a prctl() that no kernel knows, and the program answers.
 */
#define PINWATCH_LEGACY /* for 4.19 */
#include "kernel.h"

char LICENSE[] SEC("license") = "GPL";

/* The option of the prctl(); its second argument is the file descriptor. */
enum question {
	QUESTION_NONE,
	QUESTION_PAYER = 0x70696e77,
};

struct answer {
	enum question question; /* that this answers */
	__u32 known;		/* the map names who pays */
	__u64 payer;		/* a uid, or the id of a memory cgroup */
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answer);
} answers SEC(".maps");

static __always_inline void answer(struct answer *answer, struct bpf_map *map)
{
	struct user_struct *user = map_user(map);
	struct mem_cgroup *memcg = map_memcg(map);

	if (user) {
		answer->known = 1;
		answer->payer = user_uid(user);
	} else if (memcg) {
		answer->known = 1;
		answer->payer = memcg_cgroup_id(memcg);
	}
	answer->question = QUESTION_PAYER;
}

SEC("kprobe/sys_prctl")
int BPF_KPROBE(kprobe_sys_prctl, struct pt_regs *regs)
{
	__u32 zero = 0;
	struct answer *place;
	struct file *file;

	if (syscall_arg(regs, 0) != QUESTION_PAYER)
		return 0;
	place = bpf_map_lookup_elem(&answers, &zero);
	file = file_of_fd(syscall_arg(regs, 1));
	if (place && file)
		answer(place, BPF_CORE_READ(file, private_data));
	return 0;
}
