// Package ledger is the accounting model: events in, entries with verdicts out.
//
// It is pure. Events come from a live kernel, a recording or a test, and it
// cannot tell which. All amounts are pages unless a name says otherwise.
package ledger

import (
	"github.com/pinwatch/pinwatch/tracer/ledger/call"
	"github.com/pinwatch/pinwatch/tracer/ledger/counter"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Op is what the kernel was asked to do.
type Op uint8

// The operations on perf buffers, and on BPF objects.
const (
	Map           Op = iota // perf_mmap()
	Unmap                   // perf_mmap_close()
	Create                  // a BPF map was created, or a program loaded
	Grow                    // a BPF map took more memory
	Free                    // a BPF object's memory was freed
	Account                 // another charger moved the counters
	AlreadyMapped           // a perf buffer was mapped before the trace began
	Split                   // a part of a perf buffer's mapping would have been changed
	Close                   // the last reference to a BPF object, an io_uring or a umem went: it is released later
)

// Charger is who charges locked_vm and pinned_vm besides perf buffers and BPF objects, by
// the name that rows have for it: io_uring, xdp and others (see chargers in
// tracer/decode.go). "": none.
type Charger string

// NoCharger is that of perf buffers and BPF objects.
const NoCharger Charger = ""

// Event is one call, with what was read at its entry and at its return. No field
// changes its meaning with another one.
type Event struct {
	TimeNS   uint64 // at return, Unix time in nanoseconds
	Lost     uint64 // events lost before this one, as far as is known
	PageSize uint32 // bytes
	Errno    int32  // 0, or why the call failed
	Op       Op
	Charger  Charger // of Account
	// Moves is by how many pages a call of Account moved the user's counter, as the kernel's
	// own arguments say; 0: the counter alone tells.
	Moves     int64
	GivesBack bool // it gives back, if it moves anything
	Followed  bool // the next event is there already
	// SplitCounter reports whether User is locked_vm on a kernel where perf has a
	// counter of its own (user_struct.perf_mlock, 7.3).
	SplitCounter bool

	Caller Caller
	// User is the counter of the user that pays: of the caller when mapping, of the
	// one who once paid when unmapping. Its owner is a uid.
	User Reading
	// Process is mm_struct.pinned_vm of the process that pays. Its owner identifies
	// the mm within one trace, and may be used again once that is gone; 0: unknown.
	Process Reading
	// LockedVM is its mm_struct.locked_vm, of vfio and iommufd alone.
	LockedVM Reading

	Buffer Buffer  // of Map, Unmap and AlreadyMapped
	Object *Object // of Create, Grow, Free, and Close of such; else nil
	// Instance is of Account and Close: which io_uring or umem it is about.
	Instance object.Instance
	Failed   *refusal.Call // of a call that failed, where something was seen of that
}

// Caller is who made the call, Buffer a perf buffer and what the call did to it, and Limits are
// what perf_mmap() decided by.
type (
	Caller   = call.Caller
	Buffer   = call.Buffer
	Count    = call.Count
	Recorded = call.Recorded
	Limits   = call.Limits
)

// Reading is one of the kernel's counters at a call's entry and at its return, in
// pages.
type Reading = counter.Reading

// counter is the one that was read.
func (e *Event) counter() object.User { return object.User{UID: e.Payer(), Split: e.SplitCounter} }

// Payer is the uid whose counter was read.
func (e *Event) Payer() uint32 { return uint32(e.User.Owner) }

// Asked is how many pages the call asked the user's counter for, or gives back to it.
func (e *Event) Asked() int64 {
	if e.Object != nil {
		return e.Object.Pages
	}
	return e.Buffer.Pages
}

// Demand is what the user's counter would be if all that was asked for were charged to
// it. The kernel calls it user_locked.
func (e *Event) Demand() int64 { return e.User.Before + e.Asked() }

// Locked is what pinned_vm would be with the part for the process, which the kernel
// holds against RLIMIT_MEMLOCK. It calls that locked.
func (e *Event) Locked() int64 { return e.Process.Before + e.Buffer.Extra }

// mayExceed reports whether the rule lets the caller exceed its limit.
func (e *Event) mayExceed() bool {
	return rule.MayExceed(e.Caller.CapIPCLock, int(e.Buffer.Limits.Paranoid))
}
