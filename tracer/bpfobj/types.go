package bpfobj

import "fmt"

// MapType is the kernel's name of a map type, BPF_MAP_TYPE_ and in capitals
// there.
func MapType(n uint32) string { return typeName(n, MapTypes()) }

// MapTypes are the names of all map types, by their numbers.
func MapTypes() []string {
	return []string{
		"unspec", "hash", "array", "prog_array", "perf_event_array", "percpu_hash", "percpu_array", "stack_trace",
		"cgroup_array", "lru_hash", "lru_percpu_hash", "lpm_trie", "array_of_maps", "hash_of_maps", "devmap", "sockmap",
		"cpumap", "xskmap", "sockhash", "cgroup_storage", "reuseport_sockarray", "percpu_cgroup_storage", "queue", "stack",
		"sk_storage", "devmap_hash", "struct_ops", "ringbuf", "inode_storage", "task_storage", "bloom_filter", "user_ringbuf",
		"cgrp_storage", "arena", "insn_array", "rhash",
	}
}

// ProgramType is the kernel's name of a program type.
func ProgramType(n uint32) string { return typeName(n, ProgramTypes()) }

// ProgramTypes are the names of all program types, by their numbers.
func ProgramTypes() []string {
	return []string{
		"unspec", "socket_filter", "kprobe", "sched_cls", "sched_act", "tracepoint", "xdp", "perf_event",
		"cgroup_skb", "cgroup_sock", "lwt_in", "lwt_out", "lwt_xmit", "sock_ops", "sk_skb", "cgroup_device",
		"sk_msg", "raw_tracepoint", "cgroup_sock_addr", "lwt_seg6local", "lirc_mode2", "sk_reuseport", "flow_dissector", "cgroup_sysctl",
		"raw_tracepoint_writable", "cgroup_sockopt", "tracing", "struct_ops", "ext", "lsm", "sk_lookup", "syscall",
		"netfilter",
	}
}

func typeName(n uint32, names []string) string {
	if n < uint32(len(names)) {
		return names[n]
	}
	return fmt.Sprintf("type %d", n)
}
