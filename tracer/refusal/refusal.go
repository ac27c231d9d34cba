// Package refusal is what was seen of a call that failed, besides the counters that every
// event has: where it failed, and what the kernel had asked of it by then. It says nothing
// of causes.
package refusal

import "slices"

// Accounting is what became of the kernel's comparison with a limit on locked memory.
type Accounting uint8

// A call that failed after the comparison passed, or before it was reached, was not
// refused by the limit.
const (
	Unseen     Accounting = iota // the function that compares could not be probed: this is no answer
	Refused                      // it was seen to refuse
	Passed                       // it was seen to pass all that was asked for
	NotReached                   // it would have been seen, and was not called
)

var accountingNames = [...]string{"unseen", "refused", "passed", "not_reached"}

func (a Accounting) String() string { return accountingNames[a] }

// ParseAccounting is the inverse of String.
func ParseAccounting(name string) (Accounting, bool) {
	for a, n := range accountingNames {
		if n == name {
			return Accounting(a), true
		}
	}
	return 0, false
}

// RingsFor is who may make an io_uring: a value of kernel.io_uring_disabled.
type RingsFor uint8

// Those of them that there are.
const (
	RingsUnseen    RingsFor = iota // another call, or there is no such setting (before 6.6), or it could not be read
	RingsForAll                    // 0
	RingsForGroup                  // 1: who has CAP_SYS_ADMIN, or is in kernel.io_uring_group
	RingsForNobody                 // 2
)

var ringsForNames = [...]string{"", "all", "group", "nobody"}

func (r RingsFor) String() string { return ringsForNames[r] }

// ParseRingsFor is the inverse of String.
func ParseRingsFor(name string) (RingsFor, bool) {
	i := slices.Index(ringsForNames[:], name)
	return RingsFor(max(i, 0)), i >= 0
}

// Call is a call that failed. What it has no part of is zero.
type Call struct {
	// Function is the function of the kernel's, or the system call, whose return was seen.
	Function   string
	Accounting Accounting

	// Asked is how many pages the call asked for in all, up to what was refused: the sum
	// that the kernel compared, or, where that is unseen, what the arguments say: fewer
	// than the kernel asks for where they lie on huge pages. 0: not known.
	Asked int64
	// LastAsked is the part of it that the kernel compared last, and LastHeld what the
	// user's counter held then, with this call's earlier parts, in pages. A
	// refusal is LastHeld + LastAsked > RLIMIT_MEMLOCK. LastAsked is 0 where it is unseen.
	LastAsked, LastHeld int64
	// Exempt reports whether the io_uring in question was made with CAP_IPC_LOCK: nobody
	// is charged for it, whoever uses it.
	Exempt bool
	// Charged reports that it was made without, and its maker is charged, whoever uses it.
	// Neither: that was not seen.
	Charged bool
	// Mapping is of calls on perf buffers.
	Mapping Mapping
	// Request is the opcode of io_uring_register(2), or the flags of a ring that was to be
	// made; Count is how many things it was given, or that ring's entries.
	Request, Count uint32
	// RingsFor is who may make rings, by kernel.io_uring_disabled just after one was refused
	// with EPERM.
	RingsFor RingsFor

	// Verifier is what the verifier said of a BPF program.
	Verifier Accounting
	// Allocation is whether there was memory for a program as such, before its verifier's.
	Allocation Accounting
	// AttributesKnown reports that the attributes of bpf(2) have nothing beyond those that
	// this kernel has.
	AttributesKnown bool
	// Memory is what the memory cgroups said to what a call of io_uring's or of bpf(2)'s
	// allocated, and Limit the one that had no room for a ring at last.
	Memory Accounting
	Limit  MemoryLimit

	// MachineBytes is how much memory the machine has, and PossibleCPUs how many CPUs it
	// can have: what the size of a BPF map or of a buffer is held against, and depends on. 0: not known.
	MachineBytes int64
	PossibleCPUs uint32
}

// Refuser is the path of the memory cgroup that had no room; "": none, or it is not known.
func (c *Call) Refuser() string {
	if c.Memory != Refused {
		return ""
	}
	return c.Limit.Cgroup
}

// MemoryLimit is a memory cgroup and what it had, in bytes, as it was after the kernel had
// tried to free some for the WantedBytes that it was to have room for at once. LimitBytes is -1
// without a limit.
type MemoryLimit struct {
	CgroupID                            uint64 // marked, if it is of v1
	Cgroup                              string // its path, where it is known
	UsageBytes, WantedBytes, LimitBytes int64
}

// Mapping is what perf_mmap() and perf_mmap_may_split() decide by, besides limits, as it
// was when the call returned.
type Mapping struct {
	Private    bool   // MAP_PRIVATE
	Inherited  bool   // the event's children inherit it
	AUXCapable bool   // the event's PMU can fill an AUX area
	Revoked    bool   // the event's PMU is gone
	CPU        int32  // of the event; -1: any
	Offset     int64  // where the mapping begins in the file, in pages; other than 0: an AUX area
	AUXOffset  int64  // where the AUX area that is there begins, in pages; 0: there is none
	WantOffset uint64 // aux_offset of the control page, where user space said that it wants one, in bytes
	WantSize   uint64 // aux_size of it, in bytes
	// SystemCall is the one that would have split a mapping, as the architecture numbers
	// it; -1: another call, or not known. perf_mmap_may_split() fails with EINVAL; mmap(2)
	// does so too, or with ENOMEM, on 6.1.
	SystemCall int32
}

// Where mappings are seen to fail, and which commands of bpf(2).
const (
	PerfMmap       = "perf_mmap"
	MaySplit       = "perf_mmap_may_split"
	MapCreate      = "BPF_MAP_CREATE"
	ProgLoad       = "BPF_PROG_LOAD"
	MapUpdate      = "BPF_MAP_UPDATE_ELEM"
	MapUpdateBatch = "BPF_MAP_UPDATE_BATCH"
)

// Where memory for devices is seen not to be pinned.
const (
	VFIOMap    = "VFIO_IOMMU_MAP_DMA"
	RDMAGet    = "ib_umem_get"
	IOMMUFDPin = "iopt_pages_update_pinned" // do_update_pinned before 6.19
	VDPAMap    = "VHOST_IOTLB_UPDATE"
)

// What io_uring_register(2) does about buffers (include/uapi/linux/io_uring.h).
const (
	RegisterBuffers       = 0
	UnregisterBuffers     = 1
	RegisterBuffers2      = 15
	RegisterBuffersUpdate = 16
)
