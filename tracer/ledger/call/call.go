// Package call has what is seen of a call: who made it, and what it did to a perf buffer.
package call

import (
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Caller is who made the call.
type Caller struct {
	PID, TID, UID, CPU uint32
	Comm               string
	CgroupID           uint64
	Cgroup             string          // its path, where it is known
	Names              container.Names // of the container that it names
	LockLimit          int64           // RLIMIT_MEMLOCK, in pages
	// HardLimit is what it may raise that to by itself, and ParentLimit that of its parent,
	// at a call that failed; both 0: not read.
	HardLimit, ParentLimit int64
	CapIPCLock             bool // effective, in the initial user namespace
	Command                bool // descends from the command that is traced
	Self                   bool // is the tracer, which maps perf buffers to read events from
}

// Buffer is a perf buffer, and what a call did to it. Amounts are pages.
type Buffer struct {
	Key   uint64 // identifies it within a trace, and may be used again; 0: there is none
	Pages int64  // of this mapping, the control page included
	// Extra is the part for the process: what the buffer records for this area, or
	// what the intent of the accounting gives where no area was made.
	Extra int64
	// Mappings are all of the buffer's, AUXMappings those of its AUX area alone.
	Mappings, AUXMappings Count
	// Recorded is what the buffer itself records of its areas when one is unmapped or
	// found.
	Recorded [2]Recorded // by rule.Area
	Limits   Limits
	Area     rule.Area
	Existing bool // the area was there before the call
	// Shared reports whether another call mapped or unmapped the buffer meanwhile.
	Shared bool
}

// Count is a number of mappings, at a call's entry and at its return.
type Count struct{ Before, After int32 }

// Recorded is what a buffer records of one of its areas: its pages, and how many of
// them were charged to the process.
type Recorded struct{ Pages, Extra int64 }

// Limits are what perf_mmap() decides by, besides RLIMIT_MEMLOCK.
type Limits struct {
	Allowance  int64 // of the user, in pages
	Paranoid   int32 // perf_event_paranoid
	OnlineCPUs uint32
	// Moved reports whether a limit or a sysctl was changed during the call: the
	// kernel may have decided by other ones than are given here.
	Moved bool
}
