package reason

import (
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// notSupported is ENOTSUPP, which is the kernel's own and no system call's.
const notSupported = unix.Errno(524)

// makeRow makes a row of a call.
type makeRow func(errno unix.Errno, name, function, provocation, when string, holds func(*Facts) Truth, say ...string) Reason

// bpfRow makes rows of one command of bpf(2).
func bpfRow(call Call) makeRow {
	return func(errno unix.Errno, name, function, provocation, when string, holds func(*Facts) Truth, say ...string) Reason {
		return Reason{Call: call, Errno: errno, Name: name, Function: function, Outcome: OtherRule, Provocation: provocation, When: when, holds: holds, Say: say}
	}
}

func unseen(*Facts) Truth { return Unseen }

// limited makes a row one of a limit.
func (r Reason) limited(since, until string) Reason {
	r.Outcome, r.Accounting, r.Since, r.Until = Limit, true, since, until
	return r
}

func (r Reason) between(since, until string) Reason {
	r.Since, r.Until = since, until
	return r
}

func (r Reason) noMemory() Reason {
	r.Outcome = NoMemory
	return r
}

// size reports whether that is what is wrong with a map's size.
func size(what rule.MapSize) func(*Facts) Truth {
	return func(f *Facts) Truth {
		if f.Map == nil {
			return Unseen
		}
		var machine int64
		if f.Machine != nil {
			machine = *f.Machine
		}
		is := f.Map.Size(f.mapMachine(), machine)
		if is == rule.MapFits && what == rule.MapLargerThanMachine {
			if _, known := f.Map.Memory(f.mapMachine()); !known || f.Machine == nil {
				return Unseen
			}
		}
		return truth(is == what)
	}
}

// capable reports whether the caller may use bpf(2) at all.
func capable(f *Facts) Truth { return either(seen(f.CapBPF), seen(f.UnprivilegedBPF)) }

// mapRows are those of BPF_MAP_CREATE.
func mapRows() []Reason {
	row := bpfRow(CreateMap)
	return append([]Reason{
		row(unix.EPERM, "capability", "bpf_capable", "map-capability", "kernel.unprivileged_bpf_disabled, and the caller has no CAP_BPF (CAP_SYS_ADMIN before 5.8)",
			func(f *Facts) Truth { return not(capable(f)) }, "it takes CAP_BPF (CAP_SYS_ADMIN before 5.8), or kernel.unprivileged_bpf_disabled=0; no limit has a part in it"),
		row(unix.EPERM, "type", "map_create", "", "this type takes CAP_BPF, or CAP_NET_ADMIN, even if others do not", lacksForType, "maps of this type take CAP_BPF, or CAP_NET_ADMIN; no limit has a part in it").unprovoked("it takes a kernel that lets ordinary users create the other types"),
		row(unix.EPERM, "seed", "htab_map_alloc_check", "", "BPF_F_ZERO_SEED without CAP_SYS_ADMIN", func(f *Facts) Truth {
			if f.Map == nil {
				return Unseen
			}
			return all(truth(f.Map.Flags&(1<<6) != 0), not(seen(f.CapSysAdmin)))
		}, "BPF_F_ZERO_SEED takes CAP_SYS_ADMIN").between("5.0", "").unprovoked("the same errno of the same call, by a flag that is for tests of the kernel"),
		row(unix.EPERM, "limit", "bpf_charge_memlock", "map-rlimit", "the map's pages and the user's counter are more than RLIMIT_MEMLOCK", mapLimit, append([]string{"no capability lifts this limit"}, overLimit...)...).limited("", "5.11"),
		func() Reason {
			r := row(unix.EPERM, "security", "security_bpf", "", "a security module refuses", unseen, "what is left is a security module").unprovoked(needsSecurity)
			r.last = true
			return r
		}(),
		row(unix.EACCES, "security", "security_bpf", "", "a security module refuses", unseen, "a security module refused: of the kernel's own checks none gives this error").unprovoked(needsSecurity),
		row(unix.EINVAL, "attributes", "map_alloc_check", "map-attributes", "sizes, flags or a type that this kernel does not take", unseen, "this kernel does not take a map of this type with these sizes and flags; no limit has a part in it"),
		row(unix.E2BIG, "later", "bpf_check_uarg_tail_zero", "map-later", "attributes that this kernel does not know, and that are not zero", func(f *Facts) Truth { return all(seen(f.Later), Unseen) }, "the attributes of bpf(2) have something that this kernel does not know; no limit has a part in it"),
		row(unix.E2BIG, "key", "htab_map_alloc_check", "", "a key larger than one allocation, or on 5.10 than 512 bytes", func(f *Facts) Truth {
			if f.Map != nil && f.Map.KeyBeyondStack() && seen(f.ChargesRlimit) == Yes {
				return Yes
			}
			return size(rule.MapKeyTooLarge)(f)
		}, "the key is too large", "it has {key}").unprovoked("the row of large values is the same check"),
		row(unix.E2BIG, "value", "htab_map_alloc_check", "map-value", "a value larger than one allocation takes", size(rule.MapValueTooLarge), "the value is larger than one allocation can be", "it has {value}"),
		row(unix.E2BIG, "percpu", "htab_map_alloc_check", "map-percpu", "a value for each CPU of more than 32 KiB", size(rule.MapPercpuTooLarge), "a value that each CPU has for itself may have 32 KiB at most", "it has {value}").between("6.1", ""),
		row(unix.E2BIG, "entries", "htab_map_alloc", "map-entries", "more elements than can be counted", size(rule.MapTooMany), "the map would have more elements than can be counted", "{entries} were asked for"),
		row(unix.E2BIG, "rlimit-size", "bpf_map_charge_init", "map-4g", "4 GiB and more, where maps are charged to users", func(f *Facts) Truth {
			if f.Accepted != nil {
				return all(not(seen(f.Accepted)), seen(f.ChargesRlimit)) // it counts before it compares
			}
			large := Unseen
			if f.Map != nil {
				if mem, ok := f.Map.Memory(f.mapMachine()); ok {
					large = truth(mem.TooMuchToCharge(f.pageSize()))
				}
			}
			return all(large, seen(f.ChargesRlimit))
		}, "no map may have 4 GiB on this kernel").between("", "5.11"),
		row(unix.E2BIG, "type-size", "map_alloc", "map-type-size", "more than maps of this type take: of a key, of a value, of elements, or of all together", func(f *Facts) Truth {
			if f.Map != nil && f.Map.SizeKnown() {
				return No // the rows before it have all that there is
			}
			return Unseen
		}, "maps of this type do not take so large a key or value, or so many elements; no limit has a part in it"),
		row(notSupported, "flags", "htab_map_alloc_check", "", "an LRU map without preallocation", unseen, "LRU maps are always allocated before").unprovoked("the errno is the kernel's own, and no memory has a part in it"),
		row(unix.ENOMEM, "percpu", "pcpu_alloc", "map-percpu", "a value for each CPU of more than 32 KiB", size(rule.MapPercpuTooLarge), "a value that each CPU has for itself may have 32 KiB at most, and this kernel says ENOMEM to more; no limit has a part in it", "it has {value}").between("", "6.1"),
		row(unix.ENOMEM, "machine", "__vmalloc_node_range", "map-machine", "a piece of the map is larger than the machine's memory", func(f *Facts) Truth {
			if byCgroup(f) == Yes {
				return No // it refused another piece, before this one
			}
			return size(rule.MapLargerThanMachine)(f)
		}, "the map is larger than the machine; no limit refused", "one piece of it has {piece}, and the machine has {machine}").noMemory(),
		row(unix.ENOMEM, "cgroup", "__memcg_kmem_charge_page", "map-cgroup", "a memory cgroup refuses", byCgroup, overCgroup...).limited("5.11", ""),
		row(unix.ENOMEM, "memory", "bpf_map_area_alloc", "", "the machine has no memory left, or the allocator for each CPU has not", unseen, "the kernel found no memory for the map").noMemory().unprovoked(needsExhausted),
		row(unix.EBADF, "descriptor", "bpf_map_meta_alloc", "map-descriptor", "a file descriptor in the attributes is none of a map's, or of a BTF's", unseen, "a file descriptor that the map is to be made with (inner_map_fd, btf_fd) is none; no limit has a part in it"),
	}, attributeRows(row, "map")...)
}

// attributeRows are those of any command that makes a file descriptor.
func attributeRows(row makeRow, what string) []Reason {
	return []Reason{
		row(unix.EFAULT, "address", "bpf_check_uarg_tail_zero", what+"-address", "the attributes, or what they point to, are at no address", unseen, "the attributes of bpf(2), or what they point to, are at no valid address"),
		row(unix.EMFILE, "files", "get_unused_fd_flags", what+"-files", "RLIMIT_NOFILE", unseen, "the process has as many files open as RLIMIT_NOFILE allows; memory has no part in it"),
		row(unix.ENFILE, "all-files", "alloc_empty_file", "", "fs.file-max", unseen, "the machine has as many files open as fs.file-max allows").unprovoked(needsFiles),
		row(unix.ENOSPC, "ids", "bpf_map_alloc_id", "", "2^31 objects have a number", unseen, "there is no number left for a further object").unprovoked("it takes 2^31 objects"),
	}
}

// lacksForType reports whether the caller lacks what the map's type takes.
func lacksForType(f *Facts) Truth {
	if f.Map == nil {
		return Unseen
	}
	switch f.Map.Type {
	case unix.BPF_MAP_TYPE_SOCKMAP, unix.BPF_MAP_TYPE_SOCKHASH, unix.BPF_MAP_TYPE_DEVMAP, unix.BPF_MAP_TYPE_DEVMAP_HASH, unix.BPF_MAP_TYPE_XSKMAP:
		return not(seen(f.CapNetAdmin))
	case unix.BPF_MAP_TYPE_HASH, unix.BPF_MAP_TYPE_ARRAY, unix.BPF_MAP_TYPE_PERCPU_HASH, unix.BPF_MAP_TYPE_PERCPU_ARRAY,
		unix.BPF_MAP_TYPE_PROG_ARRAY, unix.BPF_MAP_TYPE_PERF_EVENT_ARRAY, unix.BPF_MAP_TYPE_CGROUP_ARRAY, unix.BPF_MAP_TYPE_RINGBUF:
		return No
	}
	return all(not(seen(f.CapBPF)), Unseen) // it depends on the kernel
}

// mapLimit is the limit of a kernel that charges maps to users.
func mapLimit(f *Facts) Truth {
	charges := seen(f.ChargesRlimit)
	if f.Accepted != nil {
		charges = Yes // the function is there only where it charges
	}
	return all(charges, hardLimit(f))
}

// updateRows are those of BPF_MAP_UPDATE_ELEM.
func updateRows() []Reason {
	row := bpfRow(UpdateMap)
	full := func(f *Facts) Truth {
		if f.Map == nil {
			return Unseen
		}
		return of(func() bool { return *f.Elements >= int64(f.Map.MaxEntries) }, f.Elements)
	}
	return []Reason{
		row(unix.EPERM, "read-only", "map_update_elem", "update-read-only", "the map is frozen, or opened for reading", func(f *Facts) Truth { return seen(f.Frozen) }, "the map is frozen, or opened only for reading").between("5.2", ""),
		row(unix.E2BIG, "full", "alloc_htab_elem", "update-full", "as many elements as max_entries, or an index beyond it", full, "the map is full", "it may have {entries}"),
		row(unix.ENOMEM, "cgroup", "obj_cgroup_charge", "update-cgroup", "a memory cgroup refuses the element: that of who created the map", byCgroup, append([]string{"an element of a map without preallocation is allocated when it is set, and charged to the map's cgroup"}, overCgroup...)...).limited("5.11", ""),
		row(unix.ENOMEM, "memory", "bpf_map_kmalloc_node", "", "no memory at once: an update does not wait for any", unseen, "the kernel found no memory for the element at once").noMemory().unprovoked(needsExhausted),
		row(unix.EEXIST, "exists", "htab_map_update_elem", "update-exists", "BPF_NOEXIST, and the element exists", unseen, "the element exists, and BPF_NOEXIST wants a new one"),
		row(unix.ENOENT, "absent", "htab_map_update_elem", "update-absent", "BPF_EXIST, and there is no such element", unseen, "there is no such element, and BPF_EXIST wants one"),
		row(unix.EINVAL, "attributes", "map_update_elem", "update-flags", "flags that are none", unseen, "the kernel does not take the flags for this map"),
		row(unix.EBUSY, "busy", "htab_lock_bucket", "", "the same CPU is in the same map already", unseen, "the map was busy on the same CPU").unprovoked(needsRace),
		row(unix.EDEADLK, "deadlock", "htab_lock_bucket", "", "the same CPU is in the same map already", unseen, "the map was busy on the same CPU").between("6.15", "").unprovoked(needsRace),
		row(unix.ETIMEDOUT, "timeout", "htab_lock_bucket", "", "another CPU is in the same map for too long", unseen, "the map was busy for too long").between("6.15", "").unprovoked(needsRace),
		row(unix.EFAULT, "address", "map_update_elem", "update-address", "the key or the value is at no address", unseen, "the key or the value is at no valid address"),
		row(unix.EBADF, "descriptor", "map_update_elem", "update-descriptor", "the file descriptor is no map's", unseen, "the file descriptor is no map's"),
		row(unix.ENOSPC, "trie", "trie_update_elem", "update-trie", "as many elements as max_entries, of a longest-prefix trie", unseen, "the trie is full", "it may have {entries}"),
		row(notSupported, "type", "map_update_elem", "", "maps of this type are not updated so", unseen, "maps of this type take no elements by bpf(2)").unprovoked("the errno is the kernel's own, and no memory has a part in it"),
	}
}

// unverified is what is known of a check that comes before the verifier.
func unverified(t func(*Facts) Truth) func(*Facts) Truth {
	return func(f *Facts) Truth {
		if seen(f.Verified) == Yes {
			return No
		}
		return t(f)
	}
}

// verifier is what is known of what the verifier refused.
func verifier(f *Facts) Truth { return all(seen(f.Verified), not(seen(f.Accepts))) }

// programRows are those of BPF_PROG_LOAD.
func programRows() []Reason {
	row := bpfRow(LoadProgram)
	return append([]Reason{
		row(unix.EPERM, "capability", "bpf_prog_load", "program-capability", "the caller has no CAP_BPF, or not what the type takes (CAP_PERFMON, CAP_NET_ADMIN)", unverified(func(f *Facts) Truth { return not(capable(f)) }), "it takes CAP_BPF (CAP_SYS_ADMIN before 5.8), or kernel.unprivileged_bpf_disabled=0; no limit has a part in it"),
		row(unix.EPERM, "type", "bpf_prog_load", "", "this type takes CAP_PERFMON or CAP_NET_ADMIN", unverified(func(f *Facts) Truth {
			return all(not(all(seen(f.CapPerfmon), seen(f.CapNetAdmin))), Unseen)
		}), "programs of this type take CAP_PERFMON, or CAP_NET_ADMIN").unprovoked("it is the same check with another capability"),
		row(unix.EPERM, "limit", "__bpf_prog_charge", "program-rlimit", "the program's pages and the user's counter are more than RLIMIT_MEMLOCK", unverified(hardLimit), append([]string{"no capability lifts this limit"}, overLimit...)...).limited("", "5.11"),
		row(unix.EPERM, "jit", "bpf_jit_charge_modmem", "", "net.core.bpf_jit_limit is used up, by a caller without CAP_BPF", func(f *Facts) Truth { return all(not(seen(f.CapBPF)), seen(f.Accepts), Unseen) }, "net.core.bpf_jit_limit is used up").unprovoked("it takes a kernel that lets ordinary users load programs"),
		func() Reason {
			r := row(unix.EPERM, "security", "security_bpf", "", "a security module refuses", unseen, "what is left is a security module, or lockdown").unprovoked(needsSecurity)
			r.last = true
			return r
		}(),
		row(unix.E2BIG, "later", "bpf_check_uarg_tail_zero", "program-later", "attributes that this kernel does not know, and that are not zero", unverified(func(f *Facts) Truth { return all(seen(f.Later), Unseen) }), "the attributes of bpf(2) have something that this kernel does not know; no limit has a part in it"),
		row(unix.E2BIG, "instructions", "bpf_prog_load", "program-empty", "no instructions, or more than a million (4096 for users, and before 5.2)", unverified(func(f *Facts) Truth {
			return of(func() bool { return *f.Instructions == 0 || *f.Instructions > 1000000 }, f.Instructions)
		}), "a program has 1 to 1000000 instructions, and 4096 at most without CAP_BPF", "it has {instructions}"),
		row(unix.E2BIG, "complexity", "bpf_check", "", "the verifier gave up: too complex", verifier, "the program is too complex for the verifier").unprovoked("it takes a program that keeps an emulated CPU busy for minutes"),
		row(unix.EPERM, "verifier", "bpf_check", "", "the verifier does not let an ordinary user's program do this", verifier, "the verifier does not let the program of a user without CAP_PERFMON do this: its log says what; no limit has a part in it").unprovoked("it takes a kernel that lets ordinary users load programs"),
		row(unix.EINVAL, "cgroup", "bpf_prog_alloc", "program-cgroup", "a memory cgroup refuses: since 6.9 the kernel makes EINVAL of ENOMEM here", unverified(func(f *Facts) Truth {
			if seen(f.Allocated) == Yes {
				return No
			}
			return byCgroup(f)
		}), append([]string{"the program could not be allocated, to which the kernel says EINVAL since Linux 6.9"}, overCgroup...)...).limited("6.9", ""),
		row(unix.EINVAL, "memory", "bpf_prog_alloc", "", "the machine has no memory left: since 6.9 the kernel makes EINVAL of ENOMEM here", unverified(func(f *Facts) Truth {
			if f.Allocated != nil {
				return not(seen(f.Allocated))
			}
			return all(not(seen(f.ChargesRlimit)), Unseen) // who charges users is older
		}), "the kernel found no memory for the program, to which it says EINVAL since Linux 6.9").between("6.9", "").noMemory().unprovoked(needsExhausted),
		row(unix.EINVAL, "attributes", "bpf_prog_load", "program-attributes", "attributes that this kernel does not take", unverified(unseen), "the program's attributes are none that this kernel takes; no limit has a part in it"),
		row(unix.EINVAL, "verifier", "bpf_check", "program-invalid", "the verifier", verifier, "the verifier did not accept the program: its log says why; no limit has a part in it"),
		row(unix.EACCES, "verifier", "bpf_check", "program-access", "the verifier", verifier, "the verifier did not accept an access of the program: its log says which; no limit has a part in it"),
		row(unix.EACCES, "security", "security_bpf", "", "a security module refuses", unverified(unseen), "a security module refused: the verifier was not asked").unprovoked(needsSecurity),
		row(unix.ENOMEM, "cgroup", "__memcg_kmem_charge_page", "program-cgroup", "a memory cgroup refuses", byCgroup, overCgroup...).limited("5.11", ""),
		row(unix.ENOMEM, "memory", "bpf_prog_alloc", "", "the machine has no memory left", unseen, "the kernel found no memory for the program").noMemory().unprovoked(needsExhausted),
		row(unix.ENOSPC, "log", "bpf_verifier_log", "", "the verifier's log did not fit its buffer", verifier, "the verifier's log did not fit into the buffer; no limit has a part in it").unprovoked("no memory is charged for it, and the program may be fine"),
		row(unix.EBADF, "descriptor", "resolve_pseudo_ldimm64", "program-descriptor", "a file descriptor in the attributes or in an instruction is none of a map's, a program's or a BTF's", unseen, "a file descriptor that the program is to be loaded with (a map's, prog_btf_fd, attach_prog_fd) is none; no limit has a part in it"),
		row(unix.EAGAIN, "signal", "do_check", "", "a signal came while the verifier was at it", verifier, "a signal ended the verifier's work: load the program again").between("5.0", "").unprovoked(needsRace),
		row(unix.ENOENT, "absent", "bpf_check_attach_target", "", "something that the program names is not in this kernel's BTF", unseen, "the program names something that this kernel does not have: its log says which; no limit has a part in it").unprovoked(needsKernel),
		row(unix.ESRCH, "absent", "bpf_check_attach_target", "", "something that the program names is not in this kernel's BTF", unseen, "the program names something that this kernel does not have: its log says which; no limit has a part in it").unprovoked(needsKernel),
		row(notSupported, "unsupported", "bpf_check", "", "something that this kernel's verifier or JIT does not support", unseen, "this kernel does not support what the program does: its log says what; no limit has a part in it").unprovoked(needsKernel),
	}, attributeRows(row, "program")...)
}

// otherRows are those of the chargers of which one errno is a limit's.
func otherRows() []Reason {
	pins := func(call Call, function, since, provocation string, holds func(*Facts) Truth, say ...string) []Reason {
		limited := Reason{Call: call, Errno: unix.ENOMEM, Name: "limit", Function: function, Since: since, Outcome: Limit, Accounting: true, Provocation: provocation,
			When: "the pages and the counter are more than RLIMIT_MEMLOCK", holds: holds,
			Say: append([]string{"RLIMIT_MEMLOCK refused", "{counter}: {held} + {asked} = {sum} > {limit}, over by {over}"}, say...)}
		return []Reason{limited,
			{Call: call, Errno: unix.ENOMEM, Name: "memory", Function: function, Since: since, Outcome: NoMemory, Unprovoked: needsExhausted,
				When: "the machine or a memory cgroup has no memory left for the bookkeeping", holds: unseen, Say: []string{"the kernel found no memory for its bookkeeping"}},
		}
	}
	list := []Reason{
		{Call: TouchSecret, Errno: unix.EFAULT, Name: "limit", Function: "secretmem_fault", Since: "7.2", Outcome: Limit, Accounting: true, Provocation: "secret-limit",
			When: "the page and the counter of the memory's creator are more than RLIMIT_MEMLOCK of who touches it: EFAULT in a system call, else SIGBUS", holds: hardLimit, Say: append([]string{"no capability lifts this limit"}, overLimit...)},
		{Call: TouchSecret, Errno: unix.EFAULT, Name: "end", Function: "secretmem_fault", Since: "5.14", Outcome: OtherRule, Provocation: "secret-end",
			When: "beyond the end of the file", holds: unseen, Say: []string{"the page is beyond the end of the secret memory"}},
	}
	list = append(list, pins(MapVFIO, "vfio_pin_pages_remote", "", "vfio-limit", limit, "it is VmLck, in which mlock() counts, too")...)
	list = append(list, pins(MapIOMMUFD, "iopt_pages_update_pinned", "6.2", "iommufd-limit", limit)...)
	list = append(list, pins(RegisterRDMA, "ib_umem_get", "", "rdma-limit", limit)...)
	return append(list, pins(MapVDPA, "vhost_vdpa_pa_map", "5.7", "vdpa-limit", hardLimit, "no capability lifts this limit", "write(2) makes EFAULT of it")...)
}
