// Package ledger is the accounting model: events in, entries with verdicts out.
//
// It is pure. Events come from a live kernel, a recording or a test, and it
// cannot tell which. All amounts are pages unless a name says otherwise.
package ledger

import "github.com/pinwatch/pinwatch/tracer/rule"

// Op is what the kernel was asked to do.
type Op uint8

// The operations on perf buffers, and on BPF objects.
const (
	Map     Op = iota // perf_mmap()
	Unmap             // perf_mmap_close()
	Create            // a BPF map was created, or a program loaded
	Grow              // a BPF map took more memory
	Free              // a BPF object's memory was freed
	Account           // another charger moved the counters
	Found             // a perf buffer was mapped before the trace began
)

// Charger is who charges locked_vm and pinned_vm besides perf buffers and BPF
// objects.
type Charger uint8

// The chargers.
const (
	NoCharger Charger = iota
	IOUring           // registered buffers, and rings
	XDP               // AF_XDP umem
	ZeroCopy          // MSG_ZEROCOPY
	RDMA
	IOMMUFD
	VFIO
	VDPA
)

var chargerNames = [...]string{"", "io_uring", "xdp", "zerocopy", "rdma", "iommufd", "vfio", "vdpa"}

func (c Charger) String() string { return chargerNames[c] }

// ParseCharger is the inverse of String.
func ParseCharger(name string) (Charger, bool) {
	for c, n := range chargerNames {
		if n == name {
			return Charger(c), true
		}
	}
	return 0, false
}

// Event is one call, with what was read at its entry and at its return.
type Event struct {
	Lost     uint64 // events lost before this one, as far as is known
	TimeNS   uint64 // at return, Unix time in nanoseconds
	Op       Op
	Area     rule.Area
	PID      uint32 // of the caller, as are all up to Command
	TID      uint32
	UID      uint32
	CPU      uint32
	Comm     string
	CgroupID uint64
	Cgroup   string // its path, where it is known
	Command  bool   // the caller descends from the command that is traced
	Own      bool   // the caller is the tracer itself, which maps perf buffers to read events from
	Followed bool   // the next event is there already

	PageSize   uint32 // bytes
	OnlineCPUs uint32

	CapIPCLock bool  // effective, in the initial user namespace
	Paranoid   int32 // perf_event_paranoid
	Errno      int32 // 0, or why the call failed

	// Charger is who moved the counters, where Op is Account.
	Charger Charger
	// Apart says that this kernel has a counter of perf's own (user_struct.perf_mlock,
	// 7.3), so that locked_vm, which this event is about, is another one.
	Apart bool
	// Object is the BPF object that the call is about, or nil.
	Object *Object

	// MM and Buffer identify the process that is charged and the buffer. They
	// mean something only within one trace, and are used again after the thing
	// they name is gone. Buffer is 0 when there is none.
	MM, Buffer uint64
	// Payer is the uid whose counter was read: of the caller when mapping, of
	// the one who once paid when unmapping.
	Payer uint32
	// Existing says that the area was there before the call.
	Existing bool
	// Mappings and MappingsAfter count the buffer's mappings before the call and
	// at its return, those of its AUX area included, which AUXMappings and
	// AUXMappingsAfter count alone.
	Mappings, MappingsAfter       int32
	AUXMappings, AUXMappingsAfter int32

	// The local variables of perf_mmap(). All are of the entry but Extra, which
	// is what the buffer records as charged to the process for this area, or what
	// the intent of the accounting gives where no area was made. When unmapping,
	// UserLocked is the user's counter alone, and Locked equals PinnedVM.
	UserExtra     int64 // pages of this mapping
	UserLocked    int64 // the user's counter + UserExtra
	UserLockLimit int64 // the user's allowance
	Extra         int64 // the part for the process
	PinnedVM      int64 // mm_struct.pinned_vm
	Locked        int64 // PinnedVM + Extra
	LockLimit     int64 // RLIMIT_MEMLOCK

	// At return.
	UserAfter   int64 // the user's counter
	PinnedAfter int64 // mm_struct.pinned_vm

	// What the buffer itself records of its areas when one is unmapped or found: pages,
	// and how many of them were charged to the process.
	DataPages, DataExtra int64
	AUXPages, AUXExtra   int64

	// OverlapUser and OverlapMM say that another call was under way on the
	// same counter, so that its difference may not be this call's alone.
	OverlapUser, OverlapMM bool
	// OverlapBuffer says that another call mapped or unmapped the same buffer
	// meanwhile.
	OverlapBuffer bool
	// UserGone says that the user's last reference went with this call: the
	// counter could not be read after it.
	UserGone bool
	// LimitsMoved says that a limit or a sysctl was changed during the call: the
	// kernel may have decided by other ones than are given here.
	LimitsMoved bool
}

// userBefore is the user's counter at entry.
func (e *Event) userBefore() int64 {
	if e.Op == Map || e.Op == Create {
		return e.UserLocked - e.UserExtra
	}
	return e.UserLocked
}

// recorded is what the buffer itself records of an area.
func (e *Event) recorded(area rule.Area) (pages, extra int64) {
	if area == rule.AUX {
		return e.AUXPages, e.AUXExtra
	}
	return e.DataPages, e.DataExtra
}

// userDelta is what the call did to the user's counter, as far as can be seen.
func (e *Event) userDelta() int64 { return e.UserAfter - e.userBefore() }

// pinnedDelta is what the call did to pinned_vm, as far as can be seen.
func (e *Event) pinnedDelta() int64 { return e.PinnedAfter - e.PinnedVM }

// mayExceed says that the rule lets the caller exceed its limit.
func (e *Event) mayExceed() bool { return e.CapIPCLock || e.Paranoid <= -1 }
