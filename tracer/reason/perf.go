package reason

import (
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Why a row cannot be provoked.
const (
	needsModule    = "it takes a device or a module that guests do not have"
	needsSecurity  = "it takes a security module with a policy, which guests do not have"
	needsExhausted = "before it refuses single pages the kernel kills processes, the tests among them"
	needsAUX       = "it takes a PMU with AUX areas, which an emulated CPU does not have"
	needsRace      = "two calls must meet"
	needsFiles     = "the tests would run out of files, too"
	needsKernel    = "what it takes is another thing on each kernel"
)

// The sums that a limit's sentence has.
var overLimit = []string{"RLIMIT_MEMLOCK refused", "{held} + {asked} = {sum} > {limit}, over by {over}"}

// reached is what is known of a check of perf_mmap()'s own.
func reached(f *Facts, t Truth) Truth {
	if seen(f.Reached) == No {
		return No
	}
	return t
}

// before is what is known of a check that comes before perf_mmap().
func before(f *Facts, t Truth) Truth { return all(not(seen(f.Reached)), t) }

func inherited(f *Facts) Truth {
	return reached(f, all(seen(f.Inherit), of(func() bool { return *f.CPU == -1 }, f.CPU)))
}

func private(f *Facts) Truth { return reached(f, not(seen(f.Shared))) }

// commonRows are those of data and AUX areas.
func commonRows(call Call) []Reason {
	inheritedProvocation, why := "perf-inherited", ""
	privateProvocation := "perf-private"
	if call == MapAUX {
		inheritedProvocation, privateProvocation = "", ""
		why = "the check is that of data areas, which come before"
	}
	return []Reason{
		{Call: call, Errno: unix.EINVAL, Name: "inherited", Function: "perf_mmap", Outcome: OtherRule, Provocation: inheritedProvocation, Unprovoked: why,
			When: "the event is inherited and bound to no CPU", holds: inherited,
			Say: []string{"an inherited event that is bound to no CPU takes no buffer: one event per CPU, or inherit=0"}},
		{Call: call, Errno: unix.EINVAL, Name: "private", Function: "perf_mmap", Outcome: OtherRule, Provocation: privateProvocation, Unprovoked: why,
			When: "the mapping is not shared", holds: private, Say: []string{"a perf buffer is mapped MAP_SHARED only"}},
		{Call: call, Errno: unix.EACCES, Name: "security", Function: "security_perf_event_read", Since: "5.5", Outcome: OtherRule, Unprovoked: needsSecurity,
			When: "a security module refuses", holds: func(f *Facts) Truth { return reached(f, Unseen) },
			Say: []string{"a security module refused: of the kernel's own checks none gives this error"}},
		{Call: call, Errno: unix.ENODEV, Name: "revoked", Function: "perf_mmap", Since: "6.15", Outcome: OtherRule, Unprovoked: needsModule,
			When: "the event's PMU was unregistered", holds: func(f *Facts) Truth { return reached(f, seen(f.Revoked)) },
			Say: []string{"the event's PMU is gone: its module was unloaded"}},
		{Call: call, Errno: unix.EPERM, Name: "security", Function: "security_perf_event_read", Since: "5.5", Outcome: OtherRule, Unprovoked: needsSecurity, last: true,
			When: "a BPF program attached to a security hook refuses", holds: func(f *Facts) Truth { return reached(f, Unseen) },
			Say: []string{"the limit was not exceeded; what is left is a security module"}},
		{Call: call, Errno: unix.EPERM, Name: "locked-forbidden", Function: "can_do_mlock", Outcome: Limit, Accounting: true, Provocation: forData(call, "perf-locked-none"), Unprovoked: forAUX(call, "as for data areas"),
			When: "MAP_LOCKED with an RLIMIT_MEMLOCK of 0", holds: func(f *Facts) Truth {
				return before(f, all(seen(f.Locked), of(func() bool { return *f.Limit == 0 }, f.Limit), not(seen(f.CapIPCLock))))
			},
			Say: []string{"with an RLIMIT_MEMLOCK of 0 nothing may be mapped MAP_LOCKED"}},
		{Call: call, Errno: unix.EAGAIN, Name: "locked", Function: "mlock_future_ok", Outcome: Limit, Accounting: true, Provocation: forData(call, "perf-locked"), Unprovoked: forAUX(call, "as for data areas"),
			When: "MAP_LOCKED, and VmLck with the mapping is more than RLIMIT_MEMLOCK", holds: func(f *Facts) Truth { return before(f, all(seen(f.Locked), limit(f))) },
			Say: append([]string{"a mapping that is to be locked counts as VmLck"}, overLimit...)},
		{Call: call, Errno: unix.ENOMEM, Name: "address-space", Function: "mmap_region", Outcome: OtherRule, Provocation: forData(call, "perf-address-space"), Unprovoked: forAUX(call, "as for data areas"),
			When: "RLIMIT_AS, max_map_count or the addresses themselves leave no room", holds: func(f *Facts) Truth { return before(f, Unseen) },
			Say: []string{"there was no room for the mapping (RLIMIT_AS, vm.max_map_count), and perf was not asked"}},
		{Call: call, Errno: unix.ENOMEM, Name: "int", Function: "perf_mmap", Outcome: OtherRule, Provocation: forData(call, "perf-int"), Unprovoked: forAUX(call, "the control page is mapped first, and the address space ends before"),
			When: "more pages than an int counts", holds: func(f *Facts) Truth { return reached(f, of(func() bool { return *f.Pages > 1<<31-1 }, f.Pages)) },
			Say: []string{"no perf buffer has that many pages", "{pages} were asked for"}},
	}
}

func forData(call Call, provocation string) string {
	if call == MapData {
		return provocation
	}
	return ""
}

func forAUX(call Call, why string) string {
	if call == MapAUX {
		return why
	}
	return ""
}

// perfRows are those of data areas, and of the mappings of both.
func perfRows() []Reason {
	data := func(f *Facts, condition func(pages int64) bool) Truth {
		return reached(f, of(func() bool { return condition(*f.Pages) }, f.Pages))
	}
	return append(commonRows(MapData), []Reason{
		{Call: MapData, Errno: unix.EINVAL, Name: "size", Function: "perf_mmap", Outcome: OtherRule, Provocation: "perf-size",
			When:  "the pages are no power of two and one",
			holds: func(f *Facts) Truth { return data(f, func(n int64) bool { return !rule.Geometry(rule.Data, n) }) },
			Say:   []string{"a perf buffer has a power of two of data pages and a control page", "{pages} were asked for"}},
		{Call: MapData, Errno: unix.EINVAL, Name: "other-size", Function: "perf_mmap", Outcome: OtherRule, Provocation: "perf-other-size",
			When: "the event has a buffer of another size",
			holds: func(f *Facts) Truth {
				return reached(f, of(func() bool { return *f.Existing > 0 && *f.Existing != *f.Pages }, f.Existing, f.Pages))
			},
			Say: []string{"the event has a buffer of another size", "it has {existing}, and {pages} were asked for"}},
		{Call: MapData, Errno: unix.EBUSY, Name: "redirected", Function: "perf_mmap_rb", Since: "6.18.15", Outcome: OtherRule, Provocation: "perf-redirected",
			When: "the event's output goes to another one's buffer", holds: func(f *Facts) Truth { return reached(f, seen(f.Redirected)) },
			Say: []string{"the event's output is redirected to another event's buffer: map that one"}},
		{Call: MapData, Errno: unix.EPERM, Name: "limit", Function: "perf_mmap", Outcome: Limit, Accounting: true, Provocation: "perf-limit",
			When: "pinned_vm and the part beyond the user's allowance are more than RLIMIT_MEMLOCK", holds: func(f *Facts) Truth { return reached(f, perfLimit(f)) }, Say: overLimit},
		{Call: MapData, Errno: unix.ENOMEM, Name: "largest", Function: "rb_alloc", Outcome: OtherRule, Provocation: "perf-largest",
			When: "the page pointers do not fit into one allocation",
			holds: func(f *Facts) Truth {
				return data(f, func(n int64) bool { return n-1 > rule.LargestData(f.pageSize()) })
			},
			Say: []string{"no kernel with pages of this size takes more than {largest}", "{pages} were asked for"}},
		{Call: MapData, Errno: unix.ENOMEM, Name: "machine", Function: "rb_alloc", Outcome: NoMemory, Unprovoked: needsExhausted,
			When: "the buffer is larger than the machine's memory",
			holds: func(f *Facts) Truth {
				return reached(f, of(func() bool { return *f.Pages > *f.Machine/int64(f.pageSize()) }, f.Pages, f.Machine))
			},
			Say: []string{"the buffer is larger than the machine's memory", "{pages} were asked for, and it has {machine}"}},
		{Call: MapData, Errno: unix.ENOMEM, Name: "memory", Function: "rb_alloc", Outcome: NoMemory, Unprovoked: needsExhausted,
			When: "the machine has no pages left", holds: func(f *Facts) Truth { return reached(f, not(seen(f.Allocated))) },
			Say: []string{"the kernel found no memory for the buffer", "{pages} were asked for"}},
		{Call: MapData, Errno: unix.ENOMEM, Name: "page-tables", Function: "map_range", Since: "6.14", Outcome: NoMemory, Unprovoked: needsExhausted,
			When: "there is no memory for page tables", holds: func(f *Facts) Truth { return reached(f, Unseen) },
			Say: []string{"the kernel found no memory for the page tables of the mapping"}},
		{Call: SplitBuffer, Errno: unix.EINVAL, Name: "split", Function: "perf_mmap_may_split", Since: "6.1", Outcome: OtherRule, Provocation: "perf-split-unmap",
			When: "a perf buffer's mapping would be split (fix of CVE-2025-38563)", holds: func(f *Facts) Truth { return all(seen(f.Split), not(seen(f.Over))) },
			Say: []string{"this kernel does not let a perf buffer's mapping be split: map and unmap it whole, or map it twice, side by side; no limit has a part in it"}},
		{Call: SplitBuffer, Errno: unix.ENOMEM, Name: "split", Function: "mmap_region", Since: "6.1", Until: "6.12", Outcome: OtherRule, Provocation: "perf-split-map",
			When: "a mapping over a part of a perf buffer's: this kernel makes ENOMEM of whatever keeps it from unmapping the part", holds: func(f *Facts) Truth { return all(seen(f.Split), seen(f.Over)) },
			Say: []string{"this kernel does not let a perf buffer's mapping be split, and says ENOMEM to that: map over the whole of it, or map it twice, side by side; neither memory nor a limit has a part in it"}},
		{Call: SplitBuffer, Errno: unix.EINVAL, Name: "split-map", Function: "perf_mmap_may_split", Since: "6.12", Outcome: OtherRule, Provocation: "perf-split-map",
			When: "a mapping over a part of a perf buffer's (fix of CVE-2025-38563)", holds: func(f *Facts) Truth { return all(seen(f.Split), seen(f.Over)) },
			Say: []string{"this kernel does not let a perf buffer's mapping be split: map over the whole of it, or map it twice, side by side; no limit has a part in it", "perf says EINVAL, and mmap() that or ENOMEM (6.1)"}},
	}...)
}

// auxRows are those of AUX areas.
func auxRows() []Reason {
	on := func(condition func(f *Facts) bool, need func(f *Facts) []*int64) func(*Facts) Truth {
		return func(f *Facts) Truth { return reached(f, of(func() bool { return condition(f) }, need(f)...)) }
	}
	row := func(name, provocation, when string, holds func(*Facts) Truth, say ...string) Reason {
		return Reason{Call: MapAUX, Errno: unix.EINVAL, Name: name, Function: "perf_mmap", Outcome: OtherRule, Provocation: provocation, When: when, holds: holds, Say: say}
	}
	existing := func(name, when string, holds func(*Facts) Truth, say ...string) Reason {
		r := row(name, "", when, holds, say...)
		r.Unprovoked = needsAUX
		return r
	}
	return append(commonRows(MapAUX), []Reason{
		row("no-data", "aux-no-data", "the event has no data area",
			on(func(f *Facts) bool { return *f.Existing == 0 }, func(f *Facts) []*int64 { return []*int64{f.Existing} }),
			"an AUX area goes with a data area: map that first, at offset 0"),
		row("inside", "aux-inside", "the control page announces an AUX area inside of the data area, or none",
			on(func(f *Facts) bool { return *f.AUXOffset < *f.Existing*int64(f.pageSize()) }, func(f *Facts) []*int64 { return []*int64{f.AUXOffset, f.Existing} }),
			"aux_offset in the control page must lie behind the data area, which has to be set before", "aux_offset is {aux-offset}, and the data area has {existing}"),
		row("elsewhere", "aux-elsewhere", "the mapping is at another offset than the control page says",
			on(func(f *Facts) bool { return *f.AUXOffset != *f.Offset }, func(f *Facts) []*int64 { return []*int64{f.AUXOffset, f.Offset} }),
			"the mapping's offset must be aux_offset of the control page", "it is {offset}, and aux_offset is {aux-offset}"),
		existing("existing-offset", "the AUX area is mapped at another offset already",
			func(f *Facts) Truth {
				return reached(f, all(of(func() bool { return *f.ExistingAUX > 0 }, f.ExistingAUX), of(func() bool { return *f.ExistingAUXOffset != *f.Offset }, f.ExistingAUXOffset, f.Offset)))
			},
			"the buffer has an AUX area at another offset already"),
		row("announced-size", "aux-other-size", "the mapping has another size than the control page says",
			on(func(f *Facts) bool { return *f.AUXSize != *f.Pages*int64(f.pageSize()) }, func(f *Facts) []*int64 { return []*int64{f.AUXSize, f.Pages} }),
			"the mapping's size must be aux_size of the control page", "it is {pages}, and aux_size is {aux-size}"),
		existing("existing-size", "the AUX area is mapped with another size already",
			on(func(f *Facts) bool { return *f.ExistingAUX > 0 && *f.ExistingAUX != *f.Pages }, func(f *Facts) []*int64 { return []*int64{f.ExistingAUX, f.Pages} }),
			"the buffer has an AUX area of another size already", "it has {existing-aux}, and {pages} were asked for"),
		row("size", "aux-size", "the pages are no power of two",
			on(func(f *Facts) bool { return !rule.Geometry(rule.AUX, *f.Pages) }, func(f *Facts) []*int64 { return []*int64{f.Pages} }),
			"an AUX area has a power of two of pages", "{pages} were asked for"),
		{Call: MapAUX, Errno: unix.EINVAL, Name: "going", Function: "perf_mmap", Outcome: OtherRule, Unprovoked: needsRace,
			When: "the data area is being unmapped", holds: func(f *Facts) Truth { return reached(f, Unseen) },
			Say: []string{"the data area was being unmapped at the same time"}},
		{Call: MapAUX, Errno: unix.EPERM, Name: "limit", Function: "perf_mmap", Outcome: Limit, Accounting: true, Provocation: "aux-limit",
			When: "pinned_vm and the part beyond the user's allowance are more than RLIMIT_MEMLOCK", holds: func(f *Facts) Truth { return reached(f, perfLimit(f)) }, Say: overLimit},
		{Call: MapAUX, Errno: unix.EOPNOTSUPP, Name: "unsupported", Function: "rb_alloc_aux", Outcome: OtherRule, Provocation: "aux-unsupported",
			When: "the PMU has no AUX areas", holds: func(f *Facts) Truth { return reached(f, not(seen(f.AUXCapable))) },
			Say: []string{"the event's PMU has no AUX areas"}},
		{Call: MapAUX, Errno: unix.ENOMEM, Name: "largest", Function: "rb_alloc_aux", Outcome: OtherRule, Unprovoked: needsAUX,
			When:  "the page pointers do not fit into one allocation",
			holds: on(func(f *Facts) bool { return *f.Pages > rule.LargestAUX(f.pageSize()) }, func(f *Facts) []*int64 { return []*int64{f.Pages} }),
			Say:   []string{"no kernel with pages of this size takes an AUX area of more than {largest-aux}", "{pages} were asked for"}},
		{Call: MapAUX, Errno: unix.ENOMEM, Name: "memory", Function: "rb_alloc_aux", Outcome: NoMemory, Unprovoked: needsAUX,
			When: "the machine has no pages left, or not in one piece where the PMU wants that", holds: func(f *Facts) Truth { return reached(f, Unseen) },
			Say: []string{"the kernel found no memory for the AUX area", "{pages} were asked for"}},
		{Call: MapAUX, Errno: unix.ENOMEM, Name: "driver", Function: "setup_aux", Outcome: OtherRule, Unprovoked: needsAUX,
			When: "the PMU's driver does not take the area", holds: func(f *Facts) Truth { return reached(f, Unseen) },
			Say: []string{"the PMU's driver did not take the AUX area (its own rules of size and mode)"}},
		{Call: MapAUX, Errno: unix.ENOMEM, Name: "page-tables", Function: "map_range", Since: "6.14", Outcome: NoMemory, Unprovoked: needsExhausted,
			When: "there is no memory for page tables", holds: func(f *Facts) Truth { return reached(f, Unseen) },
			Say: []string{"the kernel found no memory for the page tables of the mapping"}},
	}...)
}
