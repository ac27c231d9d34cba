package reason

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Facts are what was seen of a call that failed. What was not seen is nil, and is never
// taken for anything.
type Facts struct {
	Call  Call
	Errno unix.Errno

	PageSize uint64 // bytes; 0: 4096
	Machine  *int64 // the machine's memory, in bytes

	// The charge that was tried: Asked and Held are what is held against Limit, in pages.
	// For a perf buffer Asked is the part beyond the allowance, and Held is pinned_vm.
	Asked, Held, Limit *int64
	Counter            rule.Counter // that Held is of
	CapIPCLock         *bool
	Paranoid           *int64 // perf_event_paranoid
	// Disturbed reports that another call moved the counter meanwhile: then the sum proves
	// nothing.
	Disturbed bool
	// Accepted is what the kernel's own accounting function said, where that was seen:
	// false is its refusal. It counts for more than the sum.
	Accepted *bool

	// The memory cgroup of what the call allocated.
	CgroupRefused              *bool
	Cgroup                     string // its path; "" is not known
	CgroupV1                   bool   // it is in a hierarchy of v1
	CgroupCurrent, CgroupLimit *int64 // bytes
	CgroupWanted               *int64 // bytes that it was to have room for at once

	// A mapping of a perf event.
	Reached    *bool  // perf_mmap() was called
	Split      *bool  // a mapping of a perf buffer would have been split
	Over       *bool  // by a mapping over a part of it
	Pages      *int64 // of the mapping
	Locked     *bool  // MAP_LOCKED, or mlockall(MCL_FUTURE)
	Inherit    *bool
	CPU        *int64 // -1: any
	Shared     *bool
	Existing   *int64 // pages of the event's buffer, with the control page; 0: it has none
	Redirected *bool  // that buffer is another event's, and the event has not mapped it
	Revoked    *bool  // the PMU is gone
	Allocated  *bool  // the kernel got its memory for the buffer
	// Of an AUX area: where it is mapped, and where and how large it was announced in the
	// control page; in bytes.
	Offset, AUXOffset, AUXSize *int64
	ExistingAUX                *int64 // pages; 0: none
	ExistingAUXOffset          *int64 // bytes
	AUXCapable                 *bool  // the PMU has AUX areas

	// io_uring
	Ring         *rule.Ring
	Polls        *bool  // the ring was to have a kernel thread (IORING_SETUP_SQPOLL), where a privilege may be needed for that
	RingDisabled *int64 // kernel.io_uring_disabled
	RingGroup    *bool  // the caller is in kernel.io_uring_group
	CapSysAdmin  *bool
	Buffers      *int64 // how many are registered by the call
	Registered   *bool  // the ring has buffers already
	BufferBytes  *int64 // of the buffer that failed
	BufferAt     *int64 // its address
	FileBacked   *bool
	Pinned       *bool // its pages could be pinned

	// AF_XDP and sends
	Umem         *unix.XDPUmemReg
	UmemExists   *bool
	Notification *bool // the socket had memory left for the notification (optmem_max)

	// bpf(2)
	Map             *rule.Map
	On              rule.MapMachine // with Map
	ChargesRlimit   *bool           // this kernel charges BPF objects to users
	CapBPF          *bool           // or CAP_SYS_ADMIN
	CapNetAdmin     *bool
	CapPerfmon      *bool
	UnprivilegedBPF *bool  // kernel.unprivileged_bpf_disabled is 0
	Elements        *int64 // of a map that is updated, before
	Frozen          *bool
	Instructions    *int64
	Later           *bool // the attributes go beyond those that this kernel has
	Verified        *bool // the verifier was called
	Accepts         *bool // and accepted
}

// Truth is what facts say of a condition. The order makes "and" the least of several, and
// "or" the greatest.
type Truth int8

// The truths.
const (
	No     Truth = -1
	Unseen Truth = 0
	Yes    Truth = 1
)

func truth(b bool) Truth {
	if b {
		return Yes
	}
	return No
}

func seen(b *bool) Truth {
	if b == nil {
		return Unseen
	}
	return truth(*b)
}

func not(t Truth) Truth { return -t }

func all(ts ...Truth) Truth {
	least := Yes
	for _, t := range ts {
		least = min(least, t)
	}
	return least
}

func either(ts ...Truth) Truth {
	most := No
	for _, t := range ts {
		most = max(most, t)
	}
	return most
}

// of is a condition on values that must all have been seen.
func of(condition func() bool, values ...*int64) Truth {
	for _, v := range values {
		if v == nil {
			return Unseen
		}
	}
	return truth(condition())
}

// Exceeds reports whether what was asked for and held is seen to be more than the limit.
func (f *Facts) Exceeds() bool {
	return of(func() bool { return rule.Charge{Asked: *f.Asked, Held: *f.Held, Limit: *f.Limit}.Refused() }, f.Asked, f.Held, f.Limit) == Yes
}

// Page is the size of a page, in bytes.
func (f *Facts) Page() uint64 { return f.pageSize() }

func (f *Facts) pageSize() uint64 {
	if f.PageSize == 0 {
		return 4096
	}
	return f.PageSize
}

// refusedByLimit reports whether RLIMIT_MEMLOCK refused, which a capability may lift: as
// the accounting function said, or else by the sum.
func (f *Facts) refusedByLimit(lifted Truth) Truth {
	if f.Accepted != nil {
		return not(seen(f.Accepted))
	}
	sum := of(func() bool { return rule.Charge{Asked: *f.Asked, Held: *f.Held, Limit: *f.Limit}.Refused() }, f.Asked, f.Held, f.Limit)
	if f.Disturbed {
		sum = Unseen
	}
	return all(sum, not(lifted))
}

// limit is refusedByLimit where CAP_IPC_LOCK lifts the limit.
func limit(f *Facts) Truth { return f.refusedByLimit(seen(f.CapIPCLock)) }

// hardLimit is refusedByLimit where nothing lifts it.
func hardLimit(f *Facts) Truth { return f.refusedByLimit(No) }

// perfLimit is refusedByLimit of perf_mmap().
func perfLimit(f *Facts) Truth {
	return f.refusedByLimit(either(seen(f.CapIPCLock), of(func() bool { return *f.Paranoid < 0 }, f.Paranoid)))
}

func byCgroup(f *Facts) Truth { return seen(f.CgroupRefused) }

// values are what sentences may say: placeholder and words. What was not seen has none.
func (f *Facts) values() map[string]string {
	v := map[string]string{}
	number := func(name string, n *int64, what string) {
		if n != nil {
			v[name] = count(*n, what)
		}
	}
	number("pages", f.Pages, "page")
	number("asked", f.Asked, "page")
	number("held", f.Held, "page")
	if f.Held != nil {
		v["counter"] = f.Counter.String()
	}
	number("existing", f.Existing, "page")
	number("existing-aux", f.ExistingAUX, "page")
	if f.CgroupCurrent != nil {
		v["usage-file"], v["limit-file"] = cgroup.MemoryFiles(f.CgroupV1)
	}
	number("current", f.CgroupCurrent, "byte")
	number("max", f.CgroupLimit, "byte")
	number("wanted", f.CgroupWanted, "byte")
	number("machine", f.Machine, "byte")
	number("buffer", f.BufferBytes, "byte")
	number("buffers", f.Buffers, "buffer")
	number("offset", f.Offset, "byte")
	number("aux-offset", f.AUXOffset, "byte")
	number("aux-size", f.AUXSize, "byte")
	number("instructions", f.Instructions, "instruction")
	if f.Limit != nil {
		v["limit"] = count(*f.Limit, "page")
		if *f.Limit >= rule.Unlimited {
			v["limit"] = "unlimited"
		} else if f.Asked != nil && f.Held != nil && !f.Disturbed {
			if charge := (rule.Charge{Asked: *f.Asked, Held: *f.Held, Limit: *f.Limit}); charge.Over() > 0 {
				v["sum"], v["over"] = count(charge.Sum(), "page"), count(charge.Over(), "page")
			}
		}
	}
	v["cgroup-is"] = "is at its limit"
	if f.CgroupCurrent != nil && f.CgroupLimit != nil && *f.CgroupCurrent < *f.CgroupLimit {
		v["cgroup-is"] = "had no room"
	}
	v["largest"] = count(rule.LargestData(f.pageSize()), "data page")
	v["largest-aux"] = count(rule.LargestAUX(f.pageSize()), "page")
	if f.Cgroup != "" {
		v["cgroup"] = f.Cgroup
	}
	if f.Map != nil {
		v["key"] = count(int64(f.Map.KeySize), "byte")
		v["value"] = count(int64(f.Map.ValueSize), "byte")
		v["entries"] = count(int64(f.Map.MaxEntries), "element")
		if mem, ok := f.Map.Memory(f.mapMachine()); ok {
			v["piece"] = count(mem.Largest, "byte")
		}
	}
	if f.Ring != nil {
		v["ring"] = fmt.Sprint(f.Ring.Entries)
	}
	return v
}

func (f *Facts) mapMachine() rule.MapMachine {
	on := f.On
	if on.PageSize == 0 {
		on.PageSize = f.pageSize()
	}
	return on
}

func count(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// Sentence is what can be said of the reason: those of its clauses of which all values were
// seen.
func (r Reason) Sentence(f *Facts) string {
	values := f.values()
	var said []string
	for _, clause := range r.Say {
		if text, ok := fill(clause, values); ok {
			said = append(said, text)
		}
	}
	return strings.Join(said, "; ")
}

// fill puts values in the place of {names}. Not ok: one was not seen.
func fill(clause string, values map[string]string) (string, bool) {
	var b strings.Builder
	for {
		before, rest, more := strings.Cut(clause, "{")
		b.WriteString(before)
		if !more {
			return b.String(), true
		}
		name, after, _ := strings.Cut(rest, "}")
		value, ok := values[name]
		if !ok {
			return "", false
		}
		b.WriteString(value)
		clause = after
	}
}
