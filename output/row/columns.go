package row

import (
	"slices"
	"strconv"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Columns are all there are, in the order of the JSON fields and of the table. They keep
// what they found out, so they are for one goroutine.
func Columns() []Column {
	return slices.Concat(whatColumns(), whoColumns(), amountColumns(), judgementColumns(), bufferColumns(), doubtColumns(), traceColumns(), objectColumns(), failedColumns())
}

// whatColumns tell what happened, and when.
func whatColumns() []Column {
	return []Column{
		derived("v", all, "version of the fields", func(*Row) int64 { return Version }),
		integer("event", all, "number of the event; of the summary: how many there were", func(r *Row) *uint64 { return &r.Number }).
			header("EVENT", 0).top(7, 6),
		integer("time_ns", all, "when the call returned, Unix time", func(r *Row) *uint64 { return &r.TimeNS }).
			header("TIME", 12).top(2, 12).left().shown(clock),
		text("subsystem", all, "who charges: perf, bpf, memcg, or io_uring and the like", subsystemName).parsed(parseSubsystem),
		text("kind", all, "charge, refund, refusal, mapping, unmapping, growth; no calls: preexisting, closing, summary", kind).parsed(parseKind).
			header("KIND", 9).top(1, 9).left().word(),
	}
}

// whoColumns tell who made the call, and who pays.
func whoColumns() []Column {
	identify := identities()
	return []Column{
		integer("pid", calls, "process that made the call", func(r *Row) *uint32 { return &r.Caller.PID }).
			header("PID", 7).top(1, 7).word(),
		integer("tid", calls, "thread that made the call", func(r *Row) *uint32 { return &r.Caller.TID }),
		textField("comm", calls, "name of the thread that made the call", func(r *Row) *string { return &r.Caller.Comm }).
			shown(comm).header("COMM", 11).top(3, 9).left().word(),
		integer("uid", calls, "user that made the call", func(r *Row) *uint32 { return &r.Caller.UID }).
			header("UID", 5).top(5, 5).word(),
		integer("payer_uid", Perf|BPF|Others, "user that pays, whose counter was read", func(r *Row) *uint64 { return &r.User.Owner }).parsed(parsePayer),
		integer("cgroup_id", calls, "cgroup that the caller was in", func(r *Row) *uint64 { return &r.Caller.CgroupID }),
		textField("cgroup", calls, "path of the caller's cgroup, where it is known", func(r *Row) *string { return &r.Caller.Cgroup }).cached(),
		text("container", calls, "container that the cgroup's path names", func(r *Row) string { return identify(r.Caller.Cgroup).ContainerID }).cached(),
		text("runtime", calls, "what runs that container", func(r *Row) string { return identify(r.Caller.Cgroup).Runtime }).cached(),
		text("pod_uid", calls, "pod that the cgroup's path names", func(r *Row) string { return identify(r.Caller.Cgroup).PodUID }).cached(),
		textField("pod_name", calls, "that pod's name, where the node's runtime or kubelet left it", func(r *Row) *string { return &r.Caller.Names.Pod }).cached(),
		textField("pod_namespace", calls, "that pod's namespace", func(r *Row) *string { return &r.Caller.Names.Namespace }).cached(),
		textField("container_name", calls, "that container's name", func(r *Row) *string { return &r.Caller.Names.Container }).cached(),
		integer("cpu", calls, "CPU that the call returned on", func(r *Row) *uint32 { return &r.Caller.CPU }),
		boolean("self", calls, "pinwatch itself made the call", func(r *Row) *bool { return &r.Caller.Self }).former("own"),
		integer("process", Perf|Others, "address space that pays: a number within the trace; 0: none", func(r *Row) *uint64 { return &r.ProcessID }).
			parsed(parseInto(func(r *Row) *uint64 { return &r.Process.Owner })),
		integer("instance", Others, "io_uring or AF_XDP umem that is charged: a number within the trace; 0: not known", func(r *Row) *uint64 { return &r.InstanceID }).
			parsed(parseInto(func(r *Row) *uint64 { return &r.Instance.Key })),
		integer("instance_pages", Others, "of a umem that is closed, what it still holds, by its own record; else 0", func(r *Row) *int64 { return &r.Instance.Pages }),
	}
}

// amountColumns tell what was asked for, by which limits, and what was charged.
func amountColumns() []Column {
	return []Column{
		integer("buffer", Perf, "perf buffer, by its number in the trace; 0: none", func(r *Row) *uint64 { return &r.BufferID }).
			parsed(parseInto(func(r *Row) *uint64 { return &r.Buffer.Key })).shown(id).header("ID", 5).top(10, 5),
		text("area", Perf, "area of the buffer: data or aux", func(r *Row) string { return r.Buffer.Area.String() }).parsed(parseArea),
		derived("pages", calls, "size of what is mapped, unmapped or charged", pages).shown(pagesOrUnknown).header("PAGES", 5).top(3, 6),
		derived("user_locked_pages", Perf|BPF|Others, "the user's counter, with what a new mapping asks for", demand).
			shown(userLocked).header("USER_LOCKED", 11).top(8, 11).parsed(parseInto(func(r *Row) *int64 { return &r.User.Before })),
		derived("user_extra_pages", Perf|BPF|Others, "what the call asks the user's counter for, or gives back to it", func(r *Row) int64 { return r.Asked() }).
			parsed(parseInto(func(r *Row) *int64 { return &r.Buffer.Pages })),
		integer("user_lock_limit_pages", Perf, "the user's allowance: perf_event_mlock_kb × online CPUs", func(r *Row) *int64 { return &r.Buffer.Limits.Allowance }),
		integer("extra_pages", Perf, "the part past the user's allowance, for the process", func(r *Row) *int64 { return &r.Buffer.Extra }).
			shown(extra).header("EXTRA", 6).top(3, 6),
		integer("pinned_vm_pages", Perf|Others, "pages charged to the process before the call", func(r *Row) *int64 { return &r.Process.Before }).
			shown(pinnedVM).header("PINNED_VM", 9).top(6, 9),
		derived("locked_pages", Perf|Others, "pinned_vm_pages with the part for the process of a new mapping", locked),
		integer("lock_limit_pages", Perf|BPF|Others, "RLIMIT_MEMLOCK of the process", func(r *Row) *int64 { return &r.Caller.LockLimit }).
			shown(lockLimit).header("LOCK_LIMIT", 10).top(9, 10),
		integer("charged_user_pages", Perf|BPF|Others, "what the user was charged; negative: given back", func(r *Row) *int64 { return &r.ChargedUser }).computed(),
		integer("charged_pinned_pages", Perf|Others, "what the process was charged; negative: given back", func(r *Row) *int64 { return &r.ChargedPinned }).computed(),
		integer("expected_user_pages", Perf|BPF|Others, "what the user should have been charged", func(r *Row) *int64 { return &r.ExpectedUser }).computed(),
		integer("expected_pinned_pages", Perf|Others, "what the process should have been charged", func(r *Row) *int64 { return &r.ExpectedPinned }).computed(),
		integer("user_locked_after_pages", Perf|BPF|Others, "the user's counter after the call", func(r *Row) *int64 { return &r.User.After }),
		integer("pinned_vm_after_pages", Perf|Others, "pages charged to the process after the call", func(r *Row) *int64 { return &r.Process.After }),
		integer("process_locked_vm_pages", Others, "of vfio and iommufd, locked_vm of the process before the call (VmLck, which mlock() counts in too); else 0", func(r *Row) *int64 { return &r.LockedVM.Before }),
		integer("process_locked_vm_after_pages", Others, "the same after the call", func(r *Row) *int64 { return &r.LockedVM.After }),
		boolean("cap_ipc_lock", Perf|BPF|Others, "the process has CAP_IPC_LOCK and may exceed its limit", func(r *Row) *bool { return &r.Caller.CapIPCLock }),
		integer("paranoid", Perf, "perf_event_paranoid; -1 lifts the limit", func(r *Row) *int32 { return &r.Buffer.Limits.Paranoid }),
		integer("moves_pages", Others, "by how many pages the call moved the user's counter, as the kernel's own arguments say; negative: given back; 0: the counter alone tells, which is uncertain where another call moved it meanwhile", func(r *Row) *int64 { return &r.Moves }),
		boolean("gives_back", Others, "a call that gives back, if it moves anything", func(r *Row) *bool { return &r.GivesBack }),
		integer("errno", calls, "0, or why the call failed", func(r *Row) *int32 { return &r.Errno }),
	}
}

// judgementColumns tell what the ledger makes of it.
func judgementColumns() []Column {
	return []Column{
		text("verdict", all, "ok, or the rule that the kernel broke", func(r *Row) string { return r.Verdict.String() }).
			shown(verdict).header("VERDICT", 19).top(2, 19).left().word(),
		text("certainty", all, "exact, or uncertain: a counter may have been moved by something else", certainty),
		integer("overcharge_pages", Perf|BPF|Others, "by how much the verdict is off", func(r *Row) *int64 { return &r.Excess }).computed(),
		integer("overcharge_total_pages", Perf|Others|Summary, "charged wrongly so far, for the process; of the summary: for all", func(r *Row) *int64 { return &r.ProcessOvercharge }).computed(),
		integer("overcharge_user_total_pages", Perf|BPF|Others, "charged wrongly so far, to the user", func(r *Row) *int64 { return &r.UserOvercharge }).computed(),
		integer("pinned_vm_overcharged_pages", Perf|Others, "what pinned_vm holds now and should not; negative: is short of", func(r *Row) *int64 { return &r.PinnedOver }).computed(),
		integer("user_locked_overcharged_pages", Perf|BPF|Others, "what the user's counter holds now and should not", func(r *Row) *int64 { return &r.UserOver }).computed(),
		text("outcome", Perf|BPF|Others, "of a call that failed: limit, other_rule, no_memory, or unknown; else empty", outcome).computed(),
		text("reasons", Perf|BPF|Others, "of a call that failed: the kernel's own reasons that the facts allow; empty: not known", reasons).computed(),
		derived("over_pages", Perf|BPF|Others, "of a call that a limit in pages refused: by how many that was exceeded; else 0", over).computed(),
		derived("closed_pages", Perf|BPF|Others, "of a call that was refused: pages of the user's counter that are of what was seen to be closed, and that the kernel had not released yet; else 0", closedPages).computed(),
		text("closed", Perf|BPF|Others, "what these are of, what holds the most first, with semicolons between: io_uring, xdp, bpf_map or bpf_prog, pages, process that closed it (0: not known), and age in ns", closed).computed(),
		text("remedies", Perf|BPF|Others, "of a call that a limit refused: what lets it succeed, each one held against the rule, with semicolons between", remedies).computed(),
		integer("fits_calls", Perf|BPF, "how many more calls like this fit before EPERM; -1: no limit; -2: not known yet", func(r *Row) *int64 { return &r.Fits }).computed(),
	}
}

// bufferColumns tell what a perf buffer itself records.
func bufferColumns() []Column {
	return []Column{
		integer("mappings", Perf, "the buffer's mappings before the call", func(r *Row) *int32 { return &r.Buffer.Mappings.Before }),
		integer("mappings_after", Perf, "the buffer's mappings after the call", func(r *Row) *int32 { return &r.Buffer.Mappings.After }),
		integer("aux_mappings", Perf, "mappings of the AUX area before the call", func(r *Row) *int32 { return &r.Buffer.AUXMappings.Before }),
		integer("aux_mappings_after", Perf, "mappings of the AUX area after the call", func(r *Row) *int32 { return &r.Buffer.AUXMappings.After }),
		integer("buffer_data_pages", Perf, "size of the data area, by the buffer's own record", func(r *Row) *int64 { return &r.Buffer.Recorded[rule.Data].Pages }),
		integer("buffer_data_extra_pages", Perf, "part of the data area charged to the process, by the buffer's own record", func(r *Row) *int64 { return &r.Buffer.Recorded[rule.Data].Extra }),
		integer("buffer_aux_pages", Perf, "size of the AUX area, by the buffer's own record", func(r *Row) *int64 { return &r.Buffer.Recorded[rule.AUX].Pages }),
		integer("buffer_aux_extra_pages", Perf, "part of the AUX area charged to the process, by the buffer's own record", func(r *Row) *int64 { return &r.Buffer.Recorded[rule.AUX].Extra }),
	}
}

// doubtColumns tell what makes a reading uncertain.
func doubtColumns() []Column {
	return []Column{
		boolean("overlap_user", Perf|BPF|Others, "another call on the user's counter was under way", func(r *Row) *bool { return &r.User.Shared }),
		boolean("overlap_process", Perf|Others, "another call on pinned_vm was under way", func(r *Row) *bool { return &r.Process.Shared }),
		boolean("overlap_buffer", Perf, "another call on the buffer was under way", func(r *Row) *bool { return &r.Buffer.Shared }),
		boolean("split_counter", Others, "the user's counter is locked_vm where perf has one of its own", func(r *Row) *bool { return &r.SplitCounter }).former("locked_vm_apart"),
		boolean("user_gone", Perf|BPF|Others, "the user went with the call: its counter could not be read after it", func(r *Row) *bool { return &r.User.Gone }),
		boolean("limits_moved", Perf, "a limit or a sysctl was changed during the call", func(r *Row) *bool { return &r.Buffer.Limits.Moved }),
	}
}

// traceColumns are about the trace up to the row.
func traceColumns() []Column {
	return []Column{
		integer("page_size_bytes", all, "size of a page", func(r *Row) *uint32 { return &r.PageSize }),
		integer("online_cpus", Perf|Summary, "CPUs that the allowance counts", func(r *Row) *uint32 { return &r.Buffer.Limits.OnlineCPUs }),
		text("scheme", all, "how this kernel was seen to account up to here", func(r *Row) string { return r.Scheme.String() }).former("era"),
		integer("refusals", all, "calls refused with EPERM by a limit up to here", func(r *Row) *uint64 { return &r.Refusals }).computed(),
		integer("lost", all, "events lost up to here, as far as is known", func(r *Row) *uint64 { return &r.Lost }),
		text("note", all, "what the numbers mean, in words", func(r *Row) string { return r.Note }).header("NOTE", 0).top(11, 30).left(),
	}
}

// identitiesKept bounds the memory for what paths say.
const identitiesKept = 1 << 12

// identities reads paths of cgroups, each once.
func identities() func(path string) *cgroup.Identity {
	known := map[string]*cgroup.Identity{}
	var lastPath string
	var last *cgroup.Identity
	return func(path string) *cgroup.Identity {
		if last != nil && path == lastPath {
			return last
		}
		id := known[path]
		if id == nil {
			if len(known) >= identitiesKept {
				clear(known)
			}
			found := cgroup.Identify(path)
			id = &found
			known[path] = id
		}
		lastPath, last = path, id
		return id
	}
}

// id is the table's name of a buffer or a BPF object.
func id(r *Row) string {
	if r.Object != nil {
		return objectID(r.Object)
	}
	if r.BufferID == 0 {
		return none
	}
	s := strconv.FormatUint(r.BufferID, 10)
	if r.Buffer.Area == rule.AUX {
		s += "a"
	}
	return s
}
