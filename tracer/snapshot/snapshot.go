// Package snapshot says what locked memory exists already: a trace sees only new
// events, and its users come when it is too late.
//
// All amounts are pages unless a name says otherwise.
package snapshot

import (
	"github.com/cilium/ebpf/btf"

	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/self"
)

// The sources of a snapshot.
const (
	SourceIterators = "bpf-iterators" // BPF iterators: all that the kernel itself has
	SourceProc      = "proc"          // what /proc shows to this user
)

// Snapshot is the state of the host at one time. What could not be read is
// named in Degraded, and marked as unknown where it is missing.
type Snapshot struct {
	TimeNS     uint64 // Unix time in nanoseconds
	Source     string // SourceIterators or SourceProc
	PageSize   uint32 // bytes
	OnlineCPUs int
	MlockKiB   int // perf_event_mlock_kb
	Paranoid   int // perf_event_paranoid
	// SplitCounter says that perf charges users in a counter of its own (7.3+),
	// not in locked_vm. It means something where a User is Known.
	SplitCounter bool

	Processes []Process // by PID; kernel threads are left out
	Users     []User    // by UID
	Buffers   []Buffer  // by PID and ID
	IOUring   []IOUring // by PID
	BPF       BPFObjects
	Degraded  []string // what is unknown or less exact, why, and what to do

	// Accounting is how this kernel accounts, by who took the snapshot.
	Accounting accounting.Finding
	// Enclosed: pinwatch is in a pid or user namespace of its own, and what its users have
	// mapped elsewhere is not in here.
	Enclosed bool

	Names *cgroup.Names // of the containers that paths of cgroups name

	lastID uint64  // of Buffers
	uids   uidMaps // of pinwatch's user namespace
}

// Process is one process and its memory. Processes that share an mm (vfork) are
// listed each.
type Process struct {
	PID        uint32
	Comm       string
	UID        uint32 // real, in the initial user namespace
	CgroupPath string // v2 hierarchy; "" where it is not known
	// PinnedVM is mm_struct.pinned_vm in pages. It can be negative.
	PinnedVM  int64
	LockLimit int64 // RLIMIT_MEMLOCK in pages; rule.Unlimited without one
	// Known says that PinnedVM and LockLimit could be read.
	Known bool
	// CapIPCLock says that CAP_IPC_LOCK is effective, in the initial user
	// namespace.
	CapIPCLock  bool
	Buffers     int   // perf buffers that it has mapped, each once
	BufferPages int64 // of those, AUX areas included

	hidden   bool   // its mappings could not be read
	mm       uint64 // identity of the mm, as ledger.Event.MM; 0: not known
	cgroupID uint64
}

// User is one user of the initial user namespace and its counters.
type User struct {
	UID       uint32
	Processes int // that run as it
	// PerfLocked is the counter that perf_mmap() holds against the allowance, and
	// LockedVM is user_struct.locked_vm: the same one before 7.3. In pages. Where
	// they are not Known, both are an estimate from the sizes of buffers and VmPin.
	PerfLocked, LockedVM int64
	Known                bool // the counters were readable
	// BufferPages is the user's part of the charges of the buffers that were
	// found, in pages: what of PerfLocked has an owner.
	BufferPages int64
	// Hidden is how many of its processes have mappings that could not be read.
	Hidden int
}

// Buffer is one area of a perf buffer, as one process has it mapped. A buffer
// that several processes map is listed for each of them, with the same ID.
type Buffer struct {
	PID  uint32
	ID   uint64 // small number, the same for both areas of one buffer and for all of its mappings; means something within one snapshot
	Area rule.Area
	// Pages of the area, and Extra, the part of them that was charged to a
	// process. Extra is 0 where ExtraKnown is not set.
	Pages, Extra int64
	ExtraKnown   bool
	PayerUID     uint32 // whose counter holds the rest
	PayerKnown   bool
	Mappings     int32 // of the area, by all processes together

	all          int32  // mappings of the whole buffer
	identity, mm uint64 // as ledger.Event.Buffer and MM; 0: not known
	again        bool   // the same area is listed before, for another process
}

// IOUring is one io_uring instance.
type IOUring struct {
	PID     uint32
	FD      int
	Buffers int   // registered ones
	Pages   int64 // that they cover
}

// BPFObjects counts the host's BPF objects.
type BPFObjects struct {
	Maps, Programs, Links int
	Known                 bool // they could be listed
}

// Options say how to take a snapshot.
type Options struct {
	// Proc and Sys are where procfs and sysfs are mounted; "": /proc and /sys.
	Proc, Sys string
	// NoIterators takes everything from /proc.
	NoIterators bool
	// Accounting is how this kernel accounts (accounting.Find), by which users' counters
	// are estimated where they cannot be read.
	Accounting accounting.Finding
	// BTF is a file with the kernel's types, for kernels that carry none.
	BTF string
	// Cache keeps what was read of the kernel's own types, which takes long; nil:
	// nobody else wants them.
	Cache *btf.Cache
	// Payer is who is charged for what pinwatch makes; nil: a user of its own.
	Payer *self.User
}
