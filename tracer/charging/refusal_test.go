package charging

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/reason"
	"github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// refused is an entry of a refusal to uid 65534, with a limit of 16 pages.
func refused(errno unix.Errno, change func(*ledger.Entry)) *ledger.Entry {
	e := &ledger.Entry{Kind: ledger.Refusal, Event: ledger.Event{Errno: int32(errno), PageSize: 4096, Op: ledger.Account,
		Caller: ledger.Caller{UID: 65534, LockLimit: 16}, User: ledger.Reading{Owner: 65534}}}
	change(e)
	return e
}

func charged(charger ledger.Charger, function string, accounting refusal.Accounting, asked, held int64) func(*ledger.Entry) {
	return func(e *ledger.Entry) {
		e.Charger, e.User.Before, e.User.After = charger, held, held
		e.Failed = &refusal.Call{Function: function, Accounting: accounting, Asked: asked, LastAsked: asked, LastHeld: held}
	}
}

// pinned is of memory for a device, where the user's counter, pinned_vm and locked_vm of the
// process held so much.
func pinned(charger ledger.Charger, function string, accounting refusal.Accounting, asked int64, user, pinnedVM, lockedVM int64) func(*ledger.Entry) {
	return func(e *ledger.Entry) {
		charged(charger, function, accounting, asked, user)(e)
		e.Failed.LastAsked, e.Failed.LastHeld = 0, 0
		e.Process, e.LockedVM = ledger.Reading{Owner: 1, Before: pinnedVM, After: pinnedVM}, ledger.Reading{Before: lockedVM, After: lockedVM}
		e.Held = &ledger.Held{Others: user}
	}
}

func mapped(pages int64, m refusal.Mapping) func(*ledger.Entry) {
	return func(e *ledger.Entry) {
		e.Op, e.Buffer.Pages, e.Buffer.Limits = ledger.Map, pages, ledger.Limits{Allowance: 516, Paranoid: 2, OnlineCPUs: 4}
		e.Failed = &refusal.Call{Function: refusal.PerfMmap, Mapping: m}
	}
}

func created(o ledger.Object, a refusal.Accounting) func(*ledger.Entry) {
	return func(e *ledger.Entry) {
		e.Op, e.Object = ledger.Create, &o
		e.Failed = &refusal.Call{Function: refusal.MapCreate, Accounting: a, MachineBytes: 512 << 20, PossibleCPUs: 4}
	}
}

// Each refusal is explained by the rule of whoever refused: the outcome, what must be said,
// and what would be false.
func TestOfRefusal(t *testing.T) {
	unix64K := ledger.Object{Type: unix.BPF_MAP_TYPE_HASH, KeySize: 8, ValueSize: 256, MaxEntries: 2097152, Watched: true}
	for name, c := range map[string]struct {
		entry   *ledger.Entry
		outcome reason.Outcome
		says    []string
		not     []string
	}{
		"send of 17 pages": {refused(unix.ENOBUFS, charged("zerocopy", "mm_account_pinned_pages", refusal.Refused, 17, 0)), reason.Limit,
			[]string{"0 pages + 17 pages = 17 pages > 16 pages, over by 1 page", "ulimit -l 68 (KiB)", "sends of at most 61439 bytes", "CAP_IPC_LOCK"}, []string{"optmem_max"}},
		"send, comparison unseen": {refused(unix.ENOBUFS, charged("zerocopy", "mm_account_pinned_pages", refusal.Unseen, 17, 0)), reason.Unknown,
			[]string{"one of these", "optmem_max", "0 pages + 17 pages"}, []string{"Remedies"}},
		"buffers of perf's in the way": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_register", refusal.Refused, 1, 476)(e)
			e.Caller.LockLimit, e.Failed.Count = 128, 7
			e.Held = &ledger.Held{Buffers: 476, PID: 42, PIDPages: 476}
		}), reason.Limit, []string{"476 pages + 1 page = 477 pages > 128 pages", "476 are perf buffers of process 42, which perf's allowance lets it have beyond the limit", "ulimit -l 1932 (KiB) if all 7 buffers are like the refused one", "355 pages fewer of perf buffers of process 42 if all 7", "another uid"}, []string{"closed"}},
		"more than is held": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_register", refusal.Refused, 1, 476)(e)
			e.Caller.LockLimit = 128
			e.Held = &ledger.Held{Others: 477}
		}), reason.Limit, []string{"Who holds the 476 is not known to the page"}, []string{"477 are"}},
		"ring, first region": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_setup", refusal.Refused, 2, 476)(e)
			e.Caller.LockLimit = 128
		}), reason.Limit, []string{"476 pages + 2 pages = 478 pages > 128 pages", "ulimit -l 1912"}, nil},
		"ring, of which the second region was not tried": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_setup", refusal.Refused, 1, 476)(e)
			e.Caller.LockLimit, e.Failed.Count = 128, 32
			e.Held = &ledger.Held{Buffers: 476, PID: 42, PIDPages: 476}
		}), reason.Limit, []string{"476 pages + 1 page = 477 pages > 128 pages", "ulimit -l 1912 (KiB) if its 32 entries have the usual size", "another uid", "350 pages fewer of perf buffers of process 42", "CAP_IPC_LOCK"}, nil},
		"a send beside one of the same process": {refused(unix.ENOBUFS, func(e *ledger.Entry) {
			charged("zerocopy", "mm_account_pinned_pages", refusal.Refused, 9, 9)(e)
			e.Held = &ledger.Held{Others: 9}
		}), reason.Limit, []string{"9 pages + 9 pages = 18 pages > 16 pages", "ulimit -l 72 (KiB)", "sends of at most 24575 bytes"}, []string{"another uid"}},
		"nine buffers over two pages each": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_register", refusal.Refused, 2, 16)(e)
			e.Failed.Asked, e.Failed.Count, e.Held = 18, 9, &ledger.Held{}
		}), reason.Limit, []string{"16 pages + 2 pages = 18 pages > 16 pages", "Of the 16 held, 16 are this call's own", "ulimit -l 72 (KiB) if all 9 buffers", "not aligned touches one page more"}, []string{"another uid"}},
		"a buffer on a huge page, comparison unseen": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_register", refusal.Unseen, 1, 0)(e)
			e.Failed.LastAsked, e.Failed.Count = 0, 1
		}), reason.Unknown, []string{"one of these", "RLIMIT_MEMLOCK refused", "a huge page counts whole"}, []string{"did not refuse", "Remedies"}},
		"buffers of a ring that was made without the capability that its user has now": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_register", refusal.Unseen, 32, 0)(e)
			e.Failed.LastAsked, e.Failed.Charged, e.Caller.CapIPCLock, e.Failed.Memory = 0, true, true, refusal.NotReached
		}), reason.Limit, []string{"0 pages + 32 pages = 32 pages > 16 pages", "CAP_IPC_LOCK (effective, initial user namespace) when the ring is made"}, []string{"did not refuse", "page pointers"}},
		"buffers of a ring of which it is not known how it was made": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_register", refusal.Unseen, 32, 0)(e)
			e.Failed.LastAsked, e.Caller.CapIPCLock, e.Failed.Memory = 0, true, refusal.NotReached
		}), reason.Unknown, []string{"one of these", "RLIMIT_MEMLOCK refused", "page pointers"}, []string{"did not refuse"}},
		"buffers of a ring that was made with it": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_register", refusal.Unseen, 32, 0)(e)
			e.Failed.LastAsked, e.Failed.Exempt, e.Failed.Memory = 0, true, refusal.NotReached
		}), reason.NoMemory, []string{"page pointers", "RLIMIT_MEMLOCK did not refuse: the io_uring was made with CAP_IPC_LOCK"}, []string{"caller has"}},
		"memory that a ring is given later": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_register", refusal.Refused, 128, 2)(e)
			e.Failed.Request, e.Failed.Count = 22, 1 // IORING_REGISTER_PBUF_RING
		}), reason.Limit, []string{"2 pages + 128 pages = 130 pages > 16 pages", "ulimit -l 520 (KiB) or more: what the call asks for after that was not seen, or CAP_IPC_LOCK (effective, initial user namespace) when the ring is made"}, []string{"why is not known", "entries"}},
		"ring of root in a cgroup": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_setup", refusal.NotReached, 0, 0)(e)
			e.Caller.LockLimit, e.Caller.CapIPCLock = rule.Unlimited, true
		}), reason.Unknown, []string{"a memory cgroup is at its limit", "RLIMIT_MEMLOCK did not refuse: the caller has CAP_IPC_LOCK"}, []string{"at the limit if", "ulimit"}},
		"ring of root in a cgroup that was seen to refuse": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_setup", refusal.NotReached, 0, 0)(e)
			e.Caller.LockLimit, e.Caller.CapIPCLock = rule.Unlimited, true
			e.Failed.Memory, e.Failed.Limit = refusal.Refused, refusal.MemoryLimit{CgroupID: 7, Cgroup: "/web", UsageBytes: 4096, WantedBytes: 8192, LimitBytes: 10240}
		}), reason.Limit, []string{"a memory cgroup had no room; it is /web; memory.current was 4096 bytes, memory.max 10240 bytes; it was to have room for 8192 bytes more at once", "RLIMIT_MEMLOCK did not refuse: the caller has CAP_IPC_LOCK", "a higher memory.max of /web"}, []string{"one of these", "ulimit"}},
		"ring of root in a cgroup of v1": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_setup", refusal.NotReached, 0, 0)(e)
			e.Failed.Memory, e.Failed.Limit = refusal.Refused, refusal.MemoryLimit{CgroupID: cgroup.MarkV1(7), Cgroup: "/web", UsageBytes: 4096, WantedBytes: 8192, LimitBytes: 10240}
		}), reason.Limit, []string{"it is /web; memory.usage_in_bytes was 4096 bytes, memory.limit_in_bytes 10240 bytes; it was", "a higher memory.limit_in_bytes of /web"}, []string{"memory.max", "memory.current"}},
		"ring that no cgroup refused": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_setup", refusal.NotReached, 0, 0)(e)
			e.Failed.Memory = refusal.NotReached
		}), reason.NoMemory, []string{"found no memory for the ring", "no memory cgroup refused"}, []string{"at its limit"}},
		"ring, refused by the limit after a cgroup had too little": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_setup", refusal.Refused, 2, 476)(e)
			e.Failed.Memory, e.Failed.Limit = refusal.Refused, refusal.MemoryLimit{CgroupID: 7, Cgroup: "/web"}
		}), reason.Limit, []string{"476 pages + 2 pages"}, []string{"/web"}},
		"held by a ring that is closed": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "__io_account_mem", refusal.Refused, 9, 12)(e)
			e.Held = &ledger.Held{Others: 12, ClosedOthers: 12, Closed: []object.Closed{{What: object.Ring, PID: 42, Count: 1, Pages: 12, AgeNS: 12345678}}}
		}), reason.Limit, []string{"Of the 12 held, 12 are of an io_uring that process 42 had closed 12 ms before and the kernel had not released yet", "Remedies: try again shortly, or "}, []string{"sends under way", "a moment ago", "before the trace"}},
		"held by more than what is closed": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "__io_account_mem", refusal.Refused, 9, 24)(e)
			e.Held = &ledger.Held{Others: 14, Buffers: 8, ClosedOthers: 2, ClosedObjects: 3, Closed: []object.Closed{{What: object.Map, Count: 2, Pages: 4, AgeNS: 999}, {What: object.Ring, PID: 42, Count: 1, Pages: 2, AgeNS: 2e9}}}
		}), reason.Limit, []string{"Of the 24 held, 4 are of 2 BPF maps that had been closed at most 0 µs before and the kernel had not released yet, 2 are of an io_uring that process 42 had closed 2.0 s before and",
			"5 are further perf buffers or BPF objects", "12 are of io_uring", "1 were held before the trace began"}, []string{"try again"}},
		"closed, of another whose end would not be enough": {refused(unix.EPERM, func(e *ledger.Entry) {
			created(ledger.Object{Type: unix.BPF_MAP_TYPE_HASH, KeySize: 9, ValueSize: 1, MaxEntries: 500, Rlimit: true, Pages: 17}, refusal.Refused)(e)
			e.User.Before, e.Held = 11, &ledger.Held{Buffers: 11, ClosedObjects: 11, Closed: []object.Closed{{What: object.Program, PID: 42, Count: 1, Pages: 11, AgeNS: 5e5}}}
		}), reason.Limit, []string{"Of the 11 held, 11 are of a BPF program that process 42 had closed 500 µs before"}, []string{"try again", "made", "a moment ago"}},
		"a limit of the process's own": {refused(unix.ENOBUFS, func(e *ledger.Entry) {
			charged("zerocopy", "mm_account_pinned_pages", refusal.Refused, 17, 0)(e)
			e.Caller.HardLimit, e.Caller.ParentLimit = 2048, rule.Unlimited
		}), reason.Limit, []string{"The limit is the process's own: that of its parent is unlimited", "Its hard limit is 2048 pages"}, nil},
		"a limit that was inherited": {refused(unix.ENOBUFS, func(e *ledger.Entry) {
			charged("zerocopy", "mm_account_pinned_pages", refusal.Refused, 17, 0)(e)
			e.Caller.HardLimit, e.Caller.ParentLimit = 16, 16
		}), reason.Limit, nil, []string{"its parent", "hard limit"}},
		"a program that the verifier refused": {refused(unix.EINVAL, func(e *ledger.Entry) {
			created(ledger.Object{Program: true}, refusal.Unseen)(e)
			e.Failed.Function, e.Failed.Verifier = refusal.ProgLoad, refusal.Refused
		}), reason.OtherRule, []string{"the verifier did not accept the program"}, []string{"one of these", "memory cgroup"}},
		"a program that a cgroup refused with EINVAL": {refused(unix.EINVAL, func(e *ledger.Entry) {
			created(ledger.Object{Program: true, Watched: true, Refused: true, LimitCgroupID: 7, LimitCgroup: "/web", UsageBytes: 4096, LimitBytes: 8192}, refusal.Unseen)(e)
			e.Failed.Function, e.Failed.Verifier = refusal.ProgLoad, refusal.NotReached
		}), reason.Limit, []string{"could not be allocated, to which the kernel says EINVAL since Linux 6.9", "/web"}, []string{"verifier", "no limit has a part"}},
		"a program that came to no verifier, cgroups not watched": {refused(unix.EINVAL, func(e *ledger.Entry) {
			created(ledger.Object{Program: true}, refusal.Unseen)(e)
			e.Failed.Function, e.Failed.Verifier = refusal.ProgLoad, refusal.NotReached
		}), reason.Unknown, []string{"one of these", "a memory cgroup is at its limit", "attributes are none"}, []string{"verifier"}},
		"a program before 5.11": {refused(unix.EINVAL, func(e *ledger.Entry) {
			created(ledger.Object{Program: true, Rlimit: true, Pages: 1}, refusal.Unseen)(e)
			e.Failed.Function, e.Failed.Verifier = refusal.ProgLoad, refusal.NotReached
		}), reason.OtherRule, []string{"attributes are none"}, []string{"one of these", "cgroup", "memory"}},
		"a CPU map for too many CPUs": {refused(unix.E2BIG, created(ledger.Object{Type: unix.BPF_MAP_TYPE_CPUMAP, KeySize: 4, ValueSize: 4, MaxEntries: 100000, Watched: true}, refusal.Unseen)), reason.OtherRule,
			[]string{"maps of this type do not take so large a key or value, or so many elements"}, []string{"4 GiB"}},
		"umem":      {refused(unix.ENOBUFS, charged("xdp", "xdp_umem_create", refusal.Unseen, 17, 0)), reason.Limit, []string{"= 17 pages > 16 pages", "ulimit -l 68 (KiB)", "a umem of at most 16 pages"}, nil},
		"inherited": {refused(unix.EINVAL, mapped(9, refusal.Mapping{Inherited: true, CPU: -1})), reason.OtherRule, []string{"an inherited event that is bound to no CPU takes no buffer"}, []string{"power of two"}},
		"private":   {refused(unix.EINVAL, mapped(9, refusal.Mapping{Private: true, CPU: 0})), reason.OtherRule, []string{"MAP_SHARED"}, []string{"power of two"}},
		"no size":   {refused(unix.EINVAL, mapped(8, refusal.Mapping{CPU: 0})), reason.OtherRule, []string{"a power of two of data pages and a control page", "8 pages were asked for"}, []string{"inherited"}},
		"another size": {refused(unix.EINVAL, func(e *ledger.Entry) {
			mapped(5, refusal.Mapping{CPU: 0})(e)
			e.Buffer.Recorded[rule.Data].Pages = 9
		}), reason.OtherRule, []string{"it has 9 pages, and 5 pages were asked for"}, nil},
		"largest": {refused(unix.ENOMEM, mapped(524289, refusal.Mapping{CPU: 0})), reason.OtherRule, []string{"no kernel with pages of this size takes more than 262144 data pages"}, []string{"memory for the buffer"}},
		"split": {refused(unix.EINVAL, func(e *ledger.Entry) {
			mapped(9, refusal.Mapping{SystemCall: unix.SYS_MMAP})(e)
			e.Op, e.Failed.Function = ledger.Split, refusal.MaySplit
		}), reason.OtherRule, []string{"this kernel does not let a perf buffer's mapping be split", "no limit has a part in it"}, []string{"MAP_SHARED"}},
		"map larger than the machine": {refused(unix.ENOMEM, created(unix64K, refusal.Unseen)), reason.NoMemory,
			[]string{"the map is larger than the machine", "536870912 bytes", "No memory cgroup refused"}, []string{"is at its limit"}},
		"map in a full cgroup": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			o := ledger.Object{Type: unix.BPF_MAP_TYPE_ARRAY, KeySize: 4, ValueSize: 8, MaxEntries: 1 << 20, Watched: true, Refused: true, LimitCgroupID: 7, LimitCgroup: "/web", UsageBytes: 4096, LimitBytes: 8192}
			created(o, refusal.Unseen)(e)
		}), reason.Limit, []string{"it is /web", "memory.current was 4096 bytes, memory.max 8192 bytes", "Remedies: memory.max 9445376 of /web"}, []string{"ulimit"}},
		"map in a cgroup that holds a closed one": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			o := ledger.Object{Type: unix.BPF_MAP_TYPE_ARRAY, KeySize: 4, ValueSize: 8, MaxEntries: 1 << 20, Watched: true, Refused: true, LimitCgroupID: 7, LimitCgroup: "/web", UsageBytes: 12 << 20, LimitBytes: 16 << 20}
			created(o, refusal.Unseen)(e)
			e.Unreleased = []object.Closed{{What: object.Map, PID: 42, Count: 1, Bytes: 10 << 20, AgeNS: 3e6}}
		}), reason.Limit, []string{"Of the 12582912 bytes that it had, up to 10485760 are of a BPF map that process 42 had closed 3 ms before and the kernel had not released yet", "Remedies: try again shortly, or memory.max "}, []string{"ulimit"}},
		"map that does not fit without the closed one either": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			o := ledger.Object{Type: unix.BPF_MAP_TYPE_ARRAY, KeySize: 4, ValueSize: 8, MaxEntries: 4 << 20, Watched: true, Refused: true, LimitCgroupID: 7, LimitCgroup: "/web", UsageBytes: 12 << 20, LimitBytes: 16 << 20}
			created(o, refusal.Unseen)(e)
			e.Unreleased = []object.Closed{{What: object.Map, PID: 42, Count: 1, Bytes: 10 << 20, AgeNS: 3e6}}
		}), reason.Limit, []string{"10485760 are of a BPF map that process 42 had closed", "Remedies: memory.max "}, []string{"try again"}},
		"map in a cgroup of v1": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			o := ledger.Object{Type: unix.BPF_MAP_TYPE_ARRAY, KeySize: 4, ValueSize: 8, MaxEntries: 1 << 20, Watched: true, Refused: true, LimitCgroupID: cgroup.MarkV1(7), LimitCgroup: "/web", UsageBytes: 4096, LimitBytes: 8192}
			created(o, refusal.Unseen)(e)
		}), reason.Limit, []string{"it is /web", "memory.usage_in_bytes was 4096 bytes, memory.limit_in_bytes 8192 bytes", "Remedies: memory.limit_in_bytes 9445376 of /web"}, []string{"memory.max"}},
		"update of which no cgroup was seen": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			created(ledger.Object{Type: unix.BPF_MAP_TYPE_HASH, KeySize: 4, ValueSize: 8, MaxEntries: 9, Watched: true}, refusal.Unseen)(e)
			e.Op, e.Failed.Function = ledger.Grow, refusal.MapUpdate
		}), reason.NoMemory, []string{"no memory for the element", "No memory cgroup refused"}, []string{"is at its limit"}},
		"map before 5.11": {refused(unix.EPERM, func(e *ledger.Entry) {
			created(ledger.Object{Type: unix.BPF_MAP_TYPE_HASH, KeySize: 9, ValueSize: 1, MaxEntries: 500, Rlimit: true, Pages: 11}, refusal.Refused)(e)
			e.User.Before, e.Held = 11, &ledger.Held{Buffers: 11, Maker: 42, MakerPages: 11}
		}), reason.Limit, []string{"11 pages + 11 pages = 22 pages > 16 pages", "Of the 11 held, 11 are BPF objects that process 42 made; what was closed a moment ago still counts", "ulimit -l 88", "no capability lifts this limit"}, []string{"or CAP_IPC_LOCK"}},
		"map before 5.11 with more than is allocated for each CPU": {refused(unix.EPERM, func(e *ledger.Entry) {
			created(ledger.Object{Type: unix.BPF_MAP_TYPE_PERCPU_ARRAY, KeySize: 4, ValueSize: 40960, MaxEntries: 1, Rlimit: true, Pages: 41}, refusal.Refused)(e)
		}), reason.Limit, []string{"41 pages > 16 pages", "To lift the limit does not help: a value of 40960 bytes is larger than what the kernel allocates for each CPU"}, []string{"Remedies"}},
		"map before 5.11 that the machine has no memory for": {refused(unix.EPERM, func(e *ledger.Entry) {
			created(ledger.Object{Type: unix.BPF_MAP_TYPE_RINGBUF, MaxEntries: 1 << 30, Rlimit: true, Pages: 262148}, refusal.Refused)(e)
		}), reason.Limit, []string{"To lift the limit does not help: it has 1073754432 bytes, and the machine has 536870912 bytes"}, []string{"Remedies"}},
		"map before 5.11 with a key beyond the stack": {refused(unix.E2BIG, func(e *ledger.Entry) {
			created(ledger.Object{Type: unix.BPF_MAP_TYPE_HASH, KeySize: 600, ValueSize: 4, MaxEntries: 10, Rlimit: true}, refusal.NotReached)(e)
			e.Failed.AttributesKnown = true
		}), reason.OtherRule, []string{"the key is too large; it has 600 bytes"}, []string{"one of these", "attributes"}},
		"map in a cgroup of which no path is known": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			created(ledger.Object{Type: unix.BPF_MAP_TYPE_ARRAY, KeySize: 4, ValueSize: 1 << 20, MaxEntries: 32, Watched: true, Refused: true, LimitCgroupID: 7, UsageBytes: 12 << 20, LimitBytes: 12 << 20}, refusal.Unseen)(e)
		}), reason.Limit, []string{"a memory cgroup is at its limit; memory.current was 12582912 bytes, memory.max 12582912 bytes"}, []string{"it is "}},
		"map in a cgroup that has little left": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			created(ledger.Object{Type: unix.BPF_MAP_TYPE_ARRAY, KeySize: 4, ValueSize: 1 << 20, MaxEntries: 32, Watched: true, Refused: true, LimitCgroupID: 7, LimitCgroup: "/web", UsageBytes: 11 << 20, LimitBytes: 12 << 20}, refusal.Unseen)(e)
		}), reason.Limit, []string{"a memory cgroup had no room; it is /web; memory.current was 11534336 bytes, memory.max 12582912 bytes"}, []string{"at its limit"}},
		"map of another type before 5.11 that was charged": {refused(unix.E2BIG, func(e *ledger.Entry) {
			created(ledger.Object{Type: unix.BPF_MAP_TYPE_CGROUP_STORAGE, KeySize: 8, ValueSize: 8192, Rlimit: true}, refusal.Passed)(e)
			e.Failed.AttributesKnown = true
		}), reason.OtherRule, []string{"maps of this type do not take so large a key or value"}, []string{"one of these", "4 GiB"}},
		"map of a type that is only pointers, of 4 GiB before 5.11": {refused(unix.E2BIG, func(e *ledger.Entry) {
			created(ledger.Object{Type: unix.BPF_MAP_TYPE_SOCKMAP, KeySize: 4, ValueSize: 4, MaxEntries: 1 << 29, Rlimit: true}, refusal.Refused)(e)
			e.Failed.AttributesKnown = true
		}), reason.OtherRule, []string{"no map may have 4 GiB on this kernel"}, []string{"one of these"}},
		"program, attributes": {refused(unix.EINVAL, func(e *ledger.Entry) {
			created(ledger.Object{Program: true}, refusal.Unseen)(e)
			e.Failed.Function, e.Failed.Verifier, e.Failed.Memory, e.Failed.Allocation = refusal.ProgLoad, refusal.NotReached, refusal.NotReached, refusal.NotReached
		}), reason.OtherRule, []string{"the program's attributes are none that this kernel takes"}, []string{"one of these", "no memory for"}},
		"program for which there was no memory": {refused(unix.EINVAL, func(e *ledger.Entry) {
			created(ledger.Object{Program: true}, refusal.Unseen)(e)
			e.Failed.Function, e.Failed.Verifier, e.Failed.Memory, e.Failed.Allocation = refusal.ProgLoad, refusal.NotReached, refusal.NotReached, refusal.Refused
		}), reason.NoMemory, []string{"found no memory for the program, to which it says EINVAL"}, []string{"one of these"}},
		"two buffers on huge pages": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			charged("io_uring", "io_uring_register", refusal.Refused, 512, 0)(e)
			e.Failed.Count = 2
		}), reason.Limit, []string{"ulimit -l 4096 (KiB) if all 2 buffers are like the refused one, and share no huge page"}, nil},
		"map without the capability": {refused(unix.EPERM, created(ledger.Object{Type: unix.BPF_MAP_TYPE_ARRAY, KeySize: 4, ValueSize: 8, MaxEntries: 1, Watched: true}, refusal.Unseen)), reason.OtherRule,
			[]string{"it takes CAP_BPF", "no limit has a part in it"}, []string{"MEMLOCK may be"}},
		"vfio, locked_vm of the process": {refused(unix.ENOMEM, pinned("vfio", refusal.VFIOMap, refusal.Refused, 10, 100, 200, 7)), reason.Limit,
			[]string{"locked_vm of the process: 7 pages + 10 pages = 17 pages > 16 pages, over by 1 page", "in which mlock() counts", "at most 9 pages at once", "ulimit -l 68", "CAP_IPC_LOCK"}, []string{"Of the 100", "who holds nothing else"}},
		"vfio, memory of a device, perhaps": {refused(unix.ENOMEM, pinned("vfio", refusal.VFIOMap, refusal.Unseen, 10, 0, 0, 7)), reason.Unknown,
			[]string{"one of these", "no memory for its bookkeeping"}, []string{"ulimit", "17 pages"}},
		"vfio, memory of a device": {refused(unix.ENOMEM, pinned("vfio", refusal.VFIOMap, refusal.Passed, 10, 0, 0, 7)), reason.NoMemory,
			[]string{"RLIMIT_MEMLOCK did not refuse: the kernel's comparison was seen not to"}, []string{"ulimit", "17 pages"}},
		"vfio, pinned, and within the limit": {refused(unix.ENOMEM, pinned("vfio", refusal.VFIOMap, refusal.Refused, 9, 0, 0, 7)), reason.NoMemory,
			[]string{"RLIMIT_MEMLOCK did not refuse: 7 + 9 = 16 pages of 16"}, []string{"ulimit"}},
		"vfio, with the capability": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			pinned("vfio", refusal.VFIOMap, refusal.Unseen, 10, 0, 0, 7)(e)
			e.Caller.CapIPCLock = true
		}), reason.NoMemory, []string{"RLIMIT_MEMLOCK did not refuse: the caller has CAP_IPC_LOCK"}, []string{"ulimit"}},
		"vfio, another call moved the counter": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			pinned("vfio", refusal.VFIOMap, refusal.Refused, 10, 0, 0, 7)(e)
			e.Process.Shared = true
		}), reason.Unknown, []string{"one of these"}, []string{"ulimit"}},
		"RDMA, pinned_vm of the process": {refused(unix.ENOMEM, pinned("rdma", refusal.RDMAGet, refusal.Unseen, 10, 100, 7, 0)), reason.Limit,
			[]string{"pinned_vm of the process: 7 pages + 10 pages = 17 pages > 16 pages", "ulimit -l 68", "CAP_IPC_LOCK"}, []string{"Of the 100", "mlock"}},
		"RDMA, within the limit": {refused(unix.ENOMEM, pinned("rdma", refusal.RDMAGet, refusal.Unseen, 9, 100, 7, 0)), reason.NoMemory,
			[]string{"no memory for its bookkeeping", "RLIMIT_MEMLOCK did not refuse: 7 + 9 = 16 pages of 16"}, []string{"ulimit"}},
		"vDPA, which no capability lets exceed": {refused(unix.ENOMEM, func(e *ledger.Entry) {
			pinned("vdpa", refusal.VDPAMap, refusal.Unseen, 10, 0, 7, 0)(e)
			e.Caller.CapIPCLock = true
		}), reason.Limit, []string{"pinned_vm of the process: 7 pages + 10 pages", "no capability lifts this limit", "write(2) makes EFAULT of it", "ulimit -l 68"}, []string{"or CAP_IPC_LOCK"}},
		"iommufd, the user's counter": {refused(unix.ENOMEM, pinned("iommufd", refusal.IOMMUFDPin, refusal.Refused, 10, 7, 200, 0)), reason.Limit,
			[]string{"locked_vm of the user: 7 pages + 10 pages = 17 pages", "Of the 7 held"}, []string{"VmLck"}},
		"iommufd, the process's counter": {refused(unix.ENOMEM, pinned("iommufd", refusal.IOMMUFDPin, refusal.Refused, 10, 0, 0, 7)), reason.Limit,
			[]string{"locked_vm of the process: 7 pages + 10 pages = 17 pages"}, []string{"of the user", "held,"}},
		"iommufd, either counter": {refused(unix.ENOMEM, pinned("iommufd", refusal.IOMMUFDPin, refusal.Refused, 10, 8, 0, 7)), reason.Limit,
			[]string{"RLIMIT_MEMLOCK refused"}, []string{"= 1", "ulimit"}},
		"a charger of which no table knows": {refused(unix.ENOMEM, func(e *ledger.Entry) { e.Charger = "new" }), reason.Unknown, []string{"ENOMEM: why is not known"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := OfRefusal(c.entry)
			text := r.Text()
			if r.Outcome != c.outcome {
				t.Errorf("outcome %v, want %v", r.Outcome, c.outcome)
			}
			for _, s := range c.says {
				if !strings.Contains(text, s) {
					t.Errorf("does not say %q: %s", s, text)
				}
			}
			for _, s := range c.not {
				if strings.Contains(text, s) {
					t.Errorf("says %q: %s", s, text)
				}
			}
		})
	}
}

// By how much is told only where the limit refused; what helps, of perf buffers too.
func TestOverAndBrief(t *testing.T) {
	for _, c := range []struct {
		entry *ledger.Entry
		over  int64
		first string // of what helps
	}{
		{refused(unix.ENOBUFS, charged("zerocopy", "mm_account_pinned_pages", refusal.Refused, 17, 0)), 1, "sends of at most 61439 bytes"},
		{refused(unix.ENOBUFS, charged("zerocopy", "mm_account_pinned_pages", refusal.Unseen, 17, 0)), 0, ""},
		{refused(unix.EINVAL, mapped(8, refusal.Mapping{CPU: 0})), 0, ""},
		{refused(unix.EPERM, func(e *ledger.Entry) {
			mapped(129, refusal.Mapping{CPU: -1})(e)
			e.User.Before, e.Buffer.Extra = 516, 129
		}), 113, "ulimit -l 516 (KiB)"},
		{refused(unix.EPERM, func(e *ledger.Entry) {
			mapped(129, refusal.Mapping{CPU: -1})(e)
			e.User.Before, e.Buffer.Extra = 516, 129
			e.Held = &ledger.Held{Closed: []object.Closed{{What: object.Ring, Pages: 113}}}
		}), 113, "try again shortly"},
		{refused(unix.EPERM, func(e *ledger.Entry) {
			mapped(129, refusal.Mapping{CPU: -1})(e)
			e.User.Before, e.Buffer.Extra = 516, 129
			e.Held = &ledger.Held{Closed: []object.Closed{{What: object.Ring, Pages: 112}}}
		}), 113, "ulimit -l 516 (KiB)"},
	} {
		first := ""
		if brief := Brief(c.entry); len(brief) > 0 {
			first = brief[0]
		}
		if over := OfRefusal(c.entry).Over(); over != c.over || first != c.first {
			t.Errorf("%s: %d over, %q; want %d, %q", OfRefusal(c.entry).Text(), over, first, c.over, c.first)
		}
	}
}
