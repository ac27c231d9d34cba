// Package reason has the kernel's own reasons to refuse what is watched: for each call and
// errno all that there are, from 4.19 on, each with the function that refuses, and
// which of them the facts allow. It is pure, and knows nothing of how facts are seen.
//
// The rows stand in the order in which the kernel looks.
package reason

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Call is what failed.
type Call uint8

// The calls that are watched.
const (
	MapData         Call = iota // mmap() of a perf event at offset 0
	MapAUX                      // mmap() of a perf event at another offset
	SplitBuffer                 // munmap(), mprotect() or mremap() of a part of a perf buffer's mapping, or mmap() over one
	SetupRing                   // io_uring_setup()
	RegisterBuffers             // io_uring_register(IORING_REGISTER_BUFFERS)
	SendRing                    // IORING_OP_SEND_ZC: the errno is in the completion
	RegisterUmem                // setsockopt(XDP_UMEM_REG)
	SendZeroCopy                // sendmsg(MSG_ZEROCOPY)
	CreateMap                   // bpf(BPF_MAP_CREATE)
	UpdateMap                   // bpf(BPF_MAP_UPDATE_ELEM)
	LoadProgram                 // bpf(BPF_PROG_LOAD)
	TouchSecret                 // a fault in memory of memfd_secret()
	MapVFIO                     // ioctl(VFIO_IOMMU_MAP_DMA)
	MapIOMMUFD                  // ioctl(IOMMU_IOAS_MAP)
	RegisterRDMA                // ibv_reg_mr()
	MapVDPA                     // an IOTLB message to vhost-vdpa
	calls
)

var callNames = [...]string{
	MapData: "mmap of a perf buffer", MapAUX: "mmap of an AUX area", SplitBuffer: "splitting a perf buffer's mapping", SetupRing: "io_uring_setup", RegisterBuffers: "io_uring_register(BUFFERS)",
	SendRing: "io_uring send_zc", RegisterUmem: "setsockopt(XDP_UMEM_REG)", SendZeroCopy: "sendmsg(MSG_ZEROCOPY)", CreateMap: "bpf(BPF_MAP_CREATE)", UpdateMap: "bpf(BPF_MAP_UPDATE_ELEM)",
	LoadProgram: "bpf(BPF_PROG_LOAD)", TouchSecret: "touching secret memory", MapVFIO: "ioctl(VFIO_IOMMU_MAP_DMA)", MapIOMMUFD: "ioctl(IOMMU_IOAS_MAP)", RegisterRDMA: "registering RDMA memory", MapVDPA: "mapping vDPA memory",
}

func (c Call) String() string { return callNames[c] }

// Outcome is what an explanation comes to.
type Outcome uint8

// The four outcomes.
const (
	Unknown   Outcome = iota // of no row: not known
	Limit                    // a limit refused, and there is a sum
	OtherRule                // another rule refused
	NoMemory                 // the machine had no memory
)

var outcomeNames = [...]string{Unknown: "unknown", Limit: "limit", OtherRule: "other_rule", NoMemory: "no_memory"}

func (o Outcome) String() string { return outcomeNames[o] }

// Reason is a row of the table.
type Reason struct {
	Call     Call
	Errno    unix.Errno
	Name     string // unlike others of the call and errno
	Function string // of the kernel's
	// Since and Until are the first kernel that has it and the first that has it no more,
	// as mainline counts; "": always. Backports decide what a kernel does: nothing
	// is concluded from them but what a test expects of kernels that it knows.
	Since, Until string
	When         string   // the condition, in words
	Say          []string // what is said; of a clause with {values} only if they were seen
	Outcome      Outcome
	Accounting   bool // the accounting of locked or cgroup memory has a part in it
	// Provocation is what provokes it, of pinwatch workload refuse; or Unprovoked is why
	// nothing does.
	Provocation, Unprovoked string

	holds func(*Facts) Truth
	// last says that it counts only where nothing else is left: it takes a security
	// module of one's own making.
	last bool
}

// Holds is what the facts say of the reason's condition.
func (r Reason) Holds(f *Facts) Truth {
	if r.holds == nil {
		return Unseen
	}
	return r.holds(f)
}

// Table has all rows.
func Table() []Reason {
	return slices.Concat(perfRows(), auxRows(), ringRows(), bufferRows(), umemRows(), sendRows(), mapRows(), updateRows(), programRows(), otherRows())
}

// Match returns the reasons that the facts allow, in the kernel's order. None: not known.
// One: that is it, proven if its condition holds, and else the only one left. Several: it
// is one of them.
//
// The kernel ends with the first check that fails: a reason whose condition was seen to
// hold leaves out all that come after it, but not those before it of which nothing was
// seen, unless it is the accounting's own refusal that was seen.
func Match(f *Facts) (list []Reason) {
	var last []Reason
	for _, r := range Table() {
		if r.Call != f.Call || r.Errno != f.Errno {
			continue
		}
		holds := r.Holds(f)
		switch {
		case holds == No:
			continue
		case r.last && holds != Yes:
			last = append(last, r)
			continue
		}
		if holds == Yes && r.Accounting && r.Outcome == Limit && f.Accepted != nil {
			return []Reason{r} // the kernel's own accounting was seen to refuse: the call came so far
		}
		list = append(list, r)
		if holds == Yes {
			return list
		}
	}
	if len(list) == 0 {
		return last
	}
	return list
}
