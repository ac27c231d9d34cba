package rule

import "golang.org/x/sys/unix"

// The rules of those that charge locked memory beside perf_mmap(). Each asks for a number
// of pages, holds them with what its counter has already against a limit, and refuses with
// an errno of its own. None of them has an allowance.

// Counter is what pages are counted in.
type Counter uint8

// The counters.
const (
	UserLockedVM    Counter = iota // user_struct.locked_vm
	ProcessPinnedVM                // mm_struct.pinned_vm, VmPin
	ProcessLockedVM                // mm_struct.locked_vm, VmLck
	CgroupMemory                   // memory.current of a cgroup and of those above it; in bytes
)

var counterNames = [...]string{UserLockedVM: "locked_vm of the user", ProcessPinnedVM: "pinned_vm of the process", ProcessLockedVM: "locked_vm of the process", CgroupMemory: "memory.current of the cgroup"}

func (c Counter) String() string { return counterNames[c] }

// Charger is one of them, by the name that records have.
type Charger struct {
	Name     string
	Function string // of the kernel's, that decides
	Counter  Counter
	Errno    unix.Errno // of a refusal
	// Waived reports whether CAP_IPC_LOCK in the initial user namespace lifts the limit.
	// Nothing else does: neither root's uid nor perf_event_paranoid.
	Waived bool
}

// Chargers are all whose refusals are explained, perf_mmap() apart.
func Chargers() []Charger {
	return []Charger{
		{"io_uring", "__io_account_mem", UserLockedVM, unix.ENOMEM, true},
		{"xdp", "xdp_umem_account_pages", UserLockedVM, unix.ENOBUFS, true},
		{"zerocopy", "mm_account_pinned_pages", UserLockedVM, unix.ENOBUFS, true},
		{"bpf-rlimit", "bpf_charge_memlock", UserLockedVM, unix.EPERM, false},      // before 5.11
		{"bpf-memcg", "obj_cgroup_charge_pages", CgroupMemory, unix.ENOMEM, false}, // since
		{"secretmem", "__secretmem_account_pages", UserLockedVM, unix.EFAULT, false},
		{"vfio", "__account_locked_vm", ProcessLockedVM, unix.ENOMEM, true},
		{"rdma", "ib_umem_get", ProcessPinnedVM, unix.ENOMEM, true},
		{"vdpa", "vhost_vdpa_pa_map", ProcessPinnedVM, unix.ENOMEM, false},
		{"iommufd", "incr_user_locked_vm", UserLockedVM, unix.ENOMEM, true},
	}
}

// Charge is one attempt to charge.
type Charge struct {
	Asked  int64 // pages
	Held   int64 // pages that the counter has before
	Limit  int64 // pages of RLIMIT_MEMLOCK; Unlimited without one
	Exempt bool  // the caller may exceed it
}

// Sum is what is held against the limit, in pages.
func (c Charge) Sum() int64 { return c.Held + c.Asked }

// Over is by how many pages the sum exceeds the limit, whether or not that is held against
// the caller; negative: so many pages are left.
func (c Charge) Over() int64 { return c.Sum() - min(c.Limit, Unlimited) }

// Refused reports whether the kernel says no. It compares unsigned: a counter that has
// become negative is more than any limit.
func (c Charge) Refused() bool {
	if c.Exempt || c.Asked == 0 {
		return false
	}
	return c.Sum() < 0 || c.Limit < Unlimited && c.Over() > 0
}

// Fits counts the charges of as many pages that succeed one after the other, this one
// among them. NoLimit: any number.
func (c Charge) Fits() int64 {
	switch {
	case c.Exempt, c.Asked <= 0:
		return NoLimit
	case c.Refused():
		return 0
	case c.Held < 0: // until it is no longer
		rest := Charge{Asked: c.Asked, Held: c.Sum(), Limit: c.Limit}.Fits()
		if rest == NoLimit {
			return rest
		}
		return 1 + rest
	case c.Limit >= Unlimited:
		return NoLimit
	}
	return max(0, c.Limit-c.Held) / c.Asked
}

// Suffices is the smallest limit, in pages, with which so many charges of the same size
// succeed, this one among them.
func (c Charge) Suffices(charges int64) int64 { return max(0, c.Held) + charges*c.Asked }

// Vector is a buffer of io_uring's, as in an iovec.
type Vector struct {
	Address, Bytes uint64
	// HugePage is the size in bytes of the pages that the memory consists of; 0: they are
	// of the usual size.
	HugePage uint64
}

// BufferPages is what io_uring asks for, in pages, to register a buffer with a ring:
// every page that it touches, so that one that is not aligned touches one more, and a
// huge page whole (io_buffer_account_pin()).
func BufferPages(v Vector, pageSize uint64) int64 {
	return RegisteredPages([]Vector{v}, pageSize)[0]
}

// RegisteredPages is what each of a ring's buffers asks for, in pages, one after the other:
// a huge page counts once for all of a ring's (headpage_already_acct(), hpage_acct_ref()),
// a page of the usual size as often as it is touched.
func RegisteredPages(vectors []Vector, pageSize uint64) []int64 {
	asked := make([]int64, len(vectors))
	seen := map[uint64]bool{}
	for i, v := range vectors {
		if v.Bytes == 0 {
			continue
		}
		size := max(v.HugePage, pageSize)
		first, last := v.Address/size, (v.Address+v.Bytes-1)/size
		if size == pageSize {
			asked[i] = int64(last - first + 1)
			continue
		}
		for page := first; page <= last; page++ {
			if !seen[page*size] {
				seen[page*size] = true
				asked[i] += int64(size / pageSize)
			}
		}
	}
	return asked
}

// Flags of io_uring_setup() by which its rules differ.
const (
	RingPolls   = 1 << 1  // IORING_SETUP_SQPOLL: a kernel thread looks for what is asked
	RingSetCQ   = 1 << 3  // IORING_SETUP_CQSIZE: the caller says how many completions
	RingSQE128  = 1 << 10 // entries of twice the size
	RingCQE32   = 1 << 11
	RingNoArray = 1 << 16 // IORING_SETUP_NO_SQARRAY
)

// MostRingEntries is how many entries io_uring_setup() takes (IORING_MAX_ENTRIES); of
// completions it takes twice as many.
const MostRingEntries = 32768

// Ring is what is asked of io_uring_setup().
type Ring struct {
	Entries           uint32
	CompletionEntries uint32 // with RingSetCQ; else there are twice as many as entries
	Flags             uint32
}

// Bytes are the sizes of a ring's two areas: that of the rings themselves, with the
// completions and the index array, and that of the submission entries (rings_size()). Not
// ok: the kernel takes no such number.
func (r Ring) Bytes() (rings, entries uint64, ok bool) {
	if r.Entries == 0 || r.Entries > MostRingEntries {
		return 0, 0, false
	}
	sq := powerOfTwo(uint64(r.Entries))
	cq := 2 * sq
	if r.Flags&RingSetCQ != 0 {
		cq = powerOfTwo(uint64(r.CompletionEntries))
		if r.CompletionEntries == 0 || cq > 2*MostRingEntries || cq < sq {
			return 0, 0, false
		}
	}
	const header, completion, entry, cacheLine = 320, 16, 64, 64 // struct io_rings, ...
	rings, entries = header+completion*cq, entry*sq
	if r.Flags&RingCQE32 != 0 {
		rings = header + 2*completion*cq
	}
	if r.Flags&RingSQE128 != 0 {
		entries *= 2
	}
	rings = roundUp(rings, cacheLine)
	if r.Flags&RingNoArray == 0 {
		rings += 4 * sq
	}
	return rings, entries, true
}

// Regions are the pages of a ring's two areas, which a kernel that charges regions
// (io_create_region(), seen on 6.16) asks for one after the other.
func (r Ring) Regions(pageSize uint64) (rings, entries int64) {
	a, b, _ := r.Bytes()
	return pagesOf(a, pageSize), pagesOf(b, pageSize)
}

// Blocks are the pages of the same two areas where each is one block of a power of two
// of pages: what kernels ask a cgroup for that allocate it so, and what kernels asked the
// user for, as one sum, that charge rings by ring_pages() (5.1 to 5.11).
func (r Ring) Blocks(pageSize uint64) (rings, entries int64) {
	a, b := r.Regions(pageSize)
	return int64(powerOfTwo(uint64(a))), int64(powerOfTwo(uint64(b)))
}

// UmemPages is what AF_XDP asks for, in pages, to register a umem (xdp_umem_reg()).
func UmemPages(bytes, pageSize uint64) int64 { return pagesOf(bytes, pageSize) }

// ZeroCopyPages is what one send with MSG_ZEROCOPY asks for, in pages: the kernel takes
// the worst case, a first and a last page that are only touched. It is the same for
// aligned memory (mm_account_pinned_pages()), and for io_uring's sends
// (io_notif_account_mem()).
func ZeroCopyPages(bytes, pageSize uint64) int64 {
	if bytes == 0 {
		return 0
	}
	return int64(bytes/pageSize) + 2
}

// LargestZeroCopy is the largest send, in bytes, that so many pages allow; 0: none.
func LargestZeroCopy(pages int64, pageSize uint64) uint64 {
	if pages < 2 {
		return 0
	}
	return uint64(pages-1)*pageSize - 1
}

// LargestData is the largest number of data pages of a perf buffer: the kernel keeps its
// page pointers in one allocation, which must not exceed the largest block of pages
// (rb_alloc(): order_base_2(size)).
func LargestData(pageSize uint64) int64 {
	// The pointers and struct perf_buffer: a power of two of pointers that would fill
	// the largest block is one too many.
	return int64(largestBlock(pageSize) / 8 / 2)
}

// LargestAUX is the same of an AUX area, which has an array of pointers without a header
// (rb_alloc_aux()).
func LargestAUX(pageSize uint64) int64 { return int64(largestBlock(pageSize) / 8) }

// largestBlock is PAGE_SIZE << MAX_PAGE_ORDER, in bytes: kernels with larger pages have
// another MAX_PAGE_ORDER (arch/arm64/Kconfig).
func largestBlock(pageSize uint64) uint64 {
	order := map[uint64]uint{16 << 10: 11, 64 << 10: 13}[pageSize]
	if order == 0 {
		order = 10
	}
	return pageSize << order
}

func pagesOf(bytes, pageSize uint64) int64 { return int64((bytes + pageSize - 1) / pageSize) }

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }

// powerOfTwo is the smallest that is not less than n.
func powerOfTwo(n uint64) uint64 {
	p := uint64(1)
	for p < n {
		p *= 2
	}
	return p
}
