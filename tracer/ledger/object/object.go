// Package object has what holds locked memory beside perf buffers: BPF maps and programs,
// io_uring instances and AF_XDP umems. And which of them are closed already, but not yet
// released: workers of the kernel's give their pages back a moment later.
package object

import "github.com/pinwatch/pinwatch/tracer/cgroup/container"

// Object is a BPF map or program, and what one call on it was charged.
type Object struct {
	Key        uint64 // identifies it within a trace, as that of a perf buffer does; 0: not known
	Program    bool   // else a map
	Type       uint32 // bpf_map_type or bpf_prog_type
	ID         uint32
	Name       string
	KeySize    uint32 // bytes, as is ValueSize
	ValueSize  uint32
	MaxEntries uint32
	Flags      uint32 // map_flags

	// Rlimit reports whether this kernel charges BPF objects to a user, in pages,
	// against RLIMIT_MEMLOCK. Else it charges memory cgroups, in bytes.
	Rlimit bool
	// Pages are what the user is asked for, or given back: what the object itself
	// records. 0 where memory cgroups pay.
	Pages int64
	// Watched reports whether the charges to memory cgroups were watched.
	Watched bool
	// LateElements reports whether elements of the map are freed after it, through RCU.
	LateElements bool

	// Payers are the cgroups that were charged (negative: given back), in the
	// order of their first charge; a slot without a cgroup is empty.
	Payers [2]Payer
	// FurtherBytes were charged to any more cgroups.
	FurtherBytes int64
	// UnpaidBytes are of pages that no cgroup, or only the root, pays for.
	UnpaidBytes int64
	// MapCgroupID names who pays for what the map takes later.
	MapCgroupID uint64
	MapCgroup   string          // its path, where it is known, as are the others
	MapNames    container.Names // of the container that it names, as are the others
	// Refused reports whether the charge of a cgroup was seen to fail: LimitCgroupID's.
	Refused bool
	// LimitCgroupID is whose UsageBytes and LimitBytes these are: of the cgroup
	// that refused, else of the first payer. LimitBytes is -1 without a limit.
	LimitCgroupID          uint64
	LimitCgroup            string
	LimitNames             container.Names
	UsageBytes, LimitBytes int64
}

// Payer is what a memory cgroup was charged, in bytes.
type Payer struct {
	CgroupID uint64
	Cgroup   string
	Names    container.Names
	Pages    int64 // for pages, vmalloc included
	Objects  int64 // by the slab and percpu allocators
}

// What is the object's kind.
func (o *Object) What() What {
	if o.Program {
		return Program
	}
	return Map
}

// Refuser is the path of the memory cgroup that was seen to refuse; "": none, or it is not known.
func (o *Object) Refuser() string {
	if !o.Refused {
		return ""
	}
	return o.LimitCgroup
}

// Charged is the sum over all cgroups, in bytes.
func (o *Object) Charged() int64 {
	return o.PageBytes() + o.Payers[0].Objects + o.Payers[1].Objects + o.FurtherBytes
}

// PageBytes is the part of Charged that was for pages.
func (o *Object) PageBytes() int64 { return o.Payers[0].Pages + o.Payers[1].Pages }
