package workload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// The provocations of the others that charge locked memory.

func ringProvocations() []Provocation {
	return []Provocation{
		{"ring-limit", "io_uring_setup where perf buffers of the same user fill its counter, RLIMIT_MEMLOCK 512 KiB", ringLimit},
		{"ring-cgroup", "io_uring_setup of the largest ring in a cgroup that has 2 MiB left", ringCgroup},
		{"ring-forbidden", "io_uring_setup where kernel.io_uring_disabled is 2", func(r *Refuse) error { return ringSysctl(r, "2") }},
		{"ring-group", "io_uring_setup where kernel.io_uring_disabled is 1, by a user outside of the group", func(r *Refuse) error { return ringSysctl(r, "1") }},
		{"ring-entries", "io_uring_setup with more entries than there may be", ringOf("32769 entries", rule.MostRingEntries+1, 0)},
		{"ring-none", "io_uring_setup with no entries", ringOf("no entries", 0, 0)},
		{"ring-flags", "io_uring_setup with a flag that does not exist", ringOf("an unknown flag", 8, 1<<31)},
		{"ring-completions", "io_uring_setup with fewer completions than entries", ringCompletions},
		{"ring-address", "io_uring_setup with its parameters nowhere", ringAddress},
		{"ring-files", "io_uring_setup with no file descriptor left", ringFiles},
		{"ring-threads", "io_uring_setup with a kernel thread beyond pids.max of the cgroup", ringThreads},
		{"buffers-limit", "nine buffers of 4 KiB that are not aligned, registered with a ring, RLIMIT_MEMLOCK 64 KiB", buffersLimit},
		{"buffers-tagged", "two buffers of nine pages, registered with a ring by the call that takes tags, RLIMIT_MEMLOCK 64 KiB", buffersTagged},
		{"buffers-huge", "a buffer of a page on a huge page, registered with a ring, RLIMIT_MEMLOCK 1 MiB", buffersHuge},
		{"buffers-perf", "seven buffers of a page, registered where perf buffers of the same user fill its counter, RLIMIT_MEMLOCK 512 KiB", buffersPerf},
		{"buffers-unmapped", "a buffer at an address where nothing is, registered with a ring", buffersOf("an unmapped address", func(v *unix.Iovec) { v.Base = (*byte)(address(uintptr(os.Getpagesize()))) })},
		{"buffers-empty", "a buffer of no bytes, registered with a ring", buffersOf("no bytes", func(v *unix.Iovec) { v.SetLen(0) })},
		{"buffers-large", "a buffer of more than 1 GiB, registered with a ring", buffersOf("more than 1 GiB", func(v *unix.Iovec) { v.SetLen(1<<30 + 1) })},
		{"buffers-overflow", "a buffer beyond the end of the addresses, registered with a ring", buffersOf("beyond the end of the addresses", func(v *unix.Iovec) {
			v.Base = (*byte)(address(^uintptr(0) - 4096))
			v.SetLen(1 << 20)
		})},
		{"buffers-none", "no buffers, registered with a ring", buffersNone},
		{"buffers-twice", "buffers registered with a ring that has some", buffersTwice},
		{"buffers-cgroup", "16 MiB registered that nobody has touched, in a cgroup that has 1 MiB left", buffersCgroup},
	}
}

// address is one of no memory of Go's.
func address(a uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&a)) }

// ring makes a ring, which lasts until the end.
func (r *Refuse) ring(entries, flags uint32) (fd int, errno unix.Errno) {
	if fd, errno = newRing(entries, flags); errno == 0 {
		r.finally(func() { unix.Close(fd) })
	}
	return fd, errno
}

// smallRing is one that there must be.
func (r *Refuse) smallRing() (fd int, err error) {
	err = r.control(attempt{call: "io_uring_setup", what: "4 entries"}, func() (errno unix.Errno) {
		fd, errno = r.ring(4, 0)
		return errno
	})
	return fd, err
}

func ringOf(what string, entries, flags uint32) func(*Refuse) error {
	return func(r *Refuse) error {
		return r.provoke(attempt{call: "io_uring_setup", what: what}, func() unix.Errno {
			_, errno := r.ring(entries, flags)
			return errno
		})
	}
}

// holdsAllowance has a process of the user's hold 28 perf buffers of 16 pages and one.
func holdsAllowance(r *Refuse) error {
	return r.hold(holder{UID: 65534, Memlock: 128, Pages: 16, Count: r.count(28)})
}

func ringLimit(r *Refuse) error {
	if err := holdsAllowance(r); err != nil {
		return err
	}
	if err := r.become(65534, 128); err != nil {
		return err
	}
	return ringOf("32 entries", uint32(r.pages(32)), 0)(r)
}

func ringCgroup(r *Refuse) error {
	if err := r.become(-1, noLimit); err != nil {
		return err
	}
	// A ring is in one piece of 2 MiB: where the machine has none, that is what refuses. The
	// kernel makes some, or leaves it.
	_ = os.WriteFile("/proc/sys/vm/compact_memory", []byte("1"), 0)
	var errno unix.Errno
	if err := r.within(2<<20, func() { _, errno = r.ring(rule.MostRingEntries, 0) }); err != nil {
		return err
	}
	return r.provoke(attempt{call: "io_uring_setup", what: "32768 entries in a cgroup"}, func() unix.Errno { return errno })
}

func ringSysctl(r *Refuse, value string) error {
	if _, err := r.sysctl("kernel/io_uring_disabled", value); err != nil {
		return err
	}
	return asUser(65534, func() error { return ringOf("4 entries where that is forbidden", 4, 0)(r) })
}

func ringCompletions(r *Refuse) error {
	params := [30]uint32{1: 4, 2: rule.RingSetCQ} // struct io_uring_params
	return r.provoke(attempt{call: "io_uring_setup", what: "8 entries and 4 completions"}, func() unix.Errno {
		return setupRing(8, unsafe.Pointer(&params))
	})
}

func ringAddress(r *Refuse) error {
	return r.provoke(attempt{call: "io_uring_setup", what: "parameters nowhere"}, func() unix.Errno {
		return setupRing(8, address(uintptr(os.Getpagesize())))
	})
}

// setupRing makes no ring.
func setupRing(entries uintptr, params unsafe.Pointer) unix.Errno {
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, entries, uintptr(params), 0)
	if errno == 0 {
		unix.Close(int(fd))
	}
	return errno
}

func ringFiles(r *Refuse) error {
	var errno unix.Errno
	if err := withoutFiles(func() { _, errno = r.ring(8, 0) }); err != nil {
		return err
	}
	return r.provoke(attempt{call: "io_uring_setup", what: "8 entries, and RLIMIT_NOFILE 0"}, func() unix.Errno { return errno })
}

func ringThreads(r *Refuse) error {
	dir, err := r.join("memory", "pids")
	if err != nil {
		return err
	}
	most := filepath.Join(dir, "pids.max")
	if err := os.WriteFile(most, []byte("1"), 0); err != nil {
		return err
	}
	_, errno := r.ring(4, 1<<1) // IORING_SETUP_SQPOLL
	if err := os.WriteFile(most, []byte("max"), 0); err != nil {
		return err
	}
	return r.provoke(attempt{call: "io_uring_setup", what: "4 entries, with a kernel thread"}, func() unix.Errno { return errno })
}

func buffersOf(what string, spoil func(*unix.Iovec)) func(*Refuse) error {
	return func(r *Refuse) error {
		fd, err := r.smallRing()
		if err != nil {
			return err
		}
		memory, err := smallPages(1)
		if err != nil {
			return err
		}
		v := vector(memory)
		spoil(&v)
		return r.provoke(registering(what, 0), func() unix.Errno { return registerBuffers(fd, v) })
	}
}

func registering(what string, pages int64) attempt {
	return attempt{call: "io_uring_register", what: what, asked: pages}
}

// smallPages are so many anonymous pages of the usual size.
func smallPages(pages int) ([]byte, error) {
	memory, err := anonymous(pages)
	if err != nil {
		return nil, err
	}
	unix.Madvise(memory, unix.MADV_NOHUGEPAGE) // EINVAL where there are none
	return memory, nil
}

func buffersLimit(r *Refuse) error {
	if err := r.become(65534, 16); err != nil {
		return err
	}
	fd, err := r.smallRing()
	if err != nil {
		return err
	}
	count, page := r.count(9), os.Getpagesize()
	memory, err := smallPages(count + 1)
	if err != nil {
		return err
	}
	var vectors []unix.Iovec
	for i := range count {
		vectors = append(vectors, vector(memory[i*page+16:][:page]))
	}
	return r.provoke(registering(fmt.Sprintf("%d buffers of a page that are not aligned", count), int64(2*count)), func() unix.Errno {
		return registerBuffers(fd, vectors...)
	})
}

// buffersTagged is given the size of a struct, where the other call is given the number.
func buffersTagged(r *Refuse) error {
	if err := r.become(65534, 16); err != nil {
		return err
	}
	fd, err := r.smallRing()
	if err != nil {
		return err
	}
	half := 9 * os.Getpagesize()
	memory, err := smallPages(18)
	if err != nil {
		return err
	}
	vectors := []unix.Iovec{vector(memory[:half]), vector(memory[half:])}
	given := struct { // struct io_uring_rsrc_register
		count, flags            uint32
		reserved, vectors, tags uint64
	}{count: 2, vectors: uint64(uintptr(unsafe.Pointer(&vectors[0])))}
	const registerBuffers2 = 15
	return r.provoke(registering("two buffers of nine pages, without tags", 18), func() unix.Errno {
		return ringRegister(fd, registerBuffers2, unsafe.Pointer(&given), unsafe.Sizeof(given))
	})
}

func buffersPerf(r *Refuse) error {
	if err := holdsAllowance(r); err != nil {
		return err
	}
	if err := r.become(65534, 128); err != nil {
		return err
	}
	var fd int
	errno, err := r.try(attempt{call: "io_uring_setup", what: "4 entries"}, func() (errno unix.Errno) {
		fd, errno = r.ring(4, 0)
		return errno
	})
	if err != nil || errno != 0 {
		return err // rings are charged here, and so this is refused already
	}
	count := 7
	memory, err := smallPages(count)
	if err != nil {
		return err
	}
	var vectors []unix.Iovec
	for i := range count {
		vectors = append(vectors, vector(memory[i*os.Getpagesize():][:os.Getpagesize()]))
	}
	return r.provoke(registering("7 buffers of a page", 7), func() unix.Errno { return registerBuffers(fd, vectors...) })
}

// hugePage is how many bytes a huge page has.
func hugePage() (int, error) {
	size, err := readNumber("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
	if err != nil {
		return 0, fmt.Errorf("huge pages: %w (requires CONFIG_TRANSPARENT_HUGEPAGE)", err)
	}
	return int(size), nil
}

func buffersHuge(r *Refuse) error {
	huge, err := hugePage()
	if err != nil {
		return err
	}
	if err := r.become(65534, 256); err != nil {
		return err
	}
	fd, err := r.smallRing()
	if err != nil {
		return err
	}
	memory, err := unix.Mmap(-1, 0, 2*huge, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	if err := unix.Madvise(memory, unix.MADV_HUGEPAGE); err != nil {
		return fmt.Errorf("huge pages: %w (requires CONFIG_TRANSPARENT_HUGEPAGE)", err)
	}
	skip := -int(uintptr(unsafe.Pointer(&memory[0]))) & (huge - 1)
	memory = memory[skip:][:os.Getpagesize()]
	memory[0] = 1
	return r.provoke(registering("a buffer of a page on a huge page", int64(huge/os.Getpagesize())), func() unix.Errno { return registerBuffers(fd, vector(memory)) })
}

func buffersNone(r *Refuse) error {
	fd, err := r.smallRing()
	if err != nil {
		return err
	}
	none := make([]unix.Iovec, 1)[:0]
	return r.provoke(registering("no buffers", 0), func() unix.Errno { return registerBuffers(fd, none...) })
}

func buffersTwice(r *Refuse) error {
	fd, err := r.smallRing()
	if err != nil {
		return err
	}
	memory, err := smallPages(1)
	if err != nil {
		return err
	}
	if err := r.control(registering("a buffer", 1), func() unix.Errno { return registerBuffers(fd, vector(memory)) }); err != nil {
		return err
	}
	return r.provoke(registering("another one", 1), func() unix.Errno { return registerBuffers(fd, vector(memory)) })
}

func buffersCgroup(r *Refuse) error {
	fd, err := r.smallRing()
	if err != nil {
		return err
	}
	const bytes = 16 << 20
	memory, err := smallPages(bytes / os.Getpagesize())
	if err != nil {
		return err
	}
	var errno unix.Errno
	if err := r.within(1<<20, func() { errno = registerBuffers(fd, vector(memory)) }); err != nil {
		return err
	}
	return r.provoke(registering("16 MiB that are not there yet, in a cgroup", bytes/int64(os.Getpagesize())), func() unix.Errno { return errno })
}

func umemProvocations() []Provocation {
	page := uint64(os.Getpagesize())
	return []Provocation{
		{"umem-limit", "a umem of 17 pages, RLIMIT_MEMLOCK 64 KiB", umemLimit},
		{"umem-chunk", "a umem with chunks of less than 2048 bytes", umemWith("chunks of 1024 bytes", func(u *unix.XDPUmemReg) { u.Size = 1024 })},
		{"umem-power", "a umem with chunks that are no power of two", umemWith("chunks of 3000 bytes", func(u *unix.XDPUmemReg) { u.Size = 3000 })},
		{"umem-align", "a umem that begins inside of a page", umemWith("memory that is not aligned", func(u *unix.XDPUmemReg) { u.Addr += 16; u.Len -= page })},
		{"umem-empty", "a umem of no chunk", umemWith("less than a chunk", func(u *unix.XDPUmemReg) { u.Len = 16 })},
		{"umem-rest", "a umem that is no multiple of its chunks", umemWith("a chunk and a half", func(u *unix.XDPUmemReg) { u.Len = 3072 })},
		{"umem-headroom", "a umem whose headroom takes all of a chunk", umemWith("headroom of a chunk", func(u *unix.XDPUmemReg) { u.Headroom = 2048 })},
		{"umem-flags", "a umem with a flag that does not exist", umemWith("an unknown flag", func(u *unix.XDPUmemReg) { u.Flags = 1 << 31 })},
		{"umem-wrap", "a umem beyond the end of the addresses", umemWith("beyond the end of the addresses", func(u *unix.XDPUmemReg) { u.Len = ^uint64(0) &^ 2047 })},
		{"umem-unmapped", "a umem at an address where nothing is", umemWith("an unmapped address", func(u *unix.XDPUmemReg) { u.Addr = page })},
		{"umem-hole", "a umem whose last page is not there", umemHole},
		{"umem-twice", "a second umem of a socket", umemTwice},
		{"umem-huge", "a umem with more page pointers than the machine has memory", umemWith("more than there can be", func(u *unix.XDPUmemReg) { u.Addr, u.Len, u.Size = page, 1<<31*page, uint32(page) })},
	}
}

// xdpSocket opens one until the end.
func (r *Refuse) xdpSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW, 0)
	if err != nil {
		return -1, fmt.Errorf("AF_XDP socket: %w (needs CAP_NET_RAW, and a kernel with CONFIG_XDP_SOCKETS)", err)
	}
	r.finally(func() { unix.Close(fd) })
	return fd, nil
}

func umemOp(what string, pages int) attempt {
	return attempt{call: "setsockopt", what: what, asked: int64(pages)}
}

func umemLimit(r *Refuse) error {
	if err := r.become(65534, 16, "cap_net_raw"); err != nil {
		return err
	}
	fd, err := r.xdpSocket()
	if err != nil {
		return err
	}
	pages := r.pages(17)
	memory, err := smallPages(pages)
	if err != nil {
		return err
	}
	return r.provoke(umemOp("a umem", pages), func() unix.Errno { return registerUmem(fd, umemOf(memory)) })
}

func umemWith(what string, spoil func(*unix.XDPUmemReg)) func(*Refuse) error {
	return func(r *Refuse) error {
		fd, err := r.xdpSocket()
		if err != nil {
			return err
		}
		memory, err := smallPages(4)
		if err != nil {
			return err
		}
		umem := umemOf(memory)
		spoil(&umem)
		return r.provoke(umemOp(what, 0), func() unix.Errno { return registerUmem(fd, umem) })
	}
}

func umemHole(r *Refuse) error {
	fd, err := r.xdpSocket()
	if err != nil {
		return err
	}
	memory, err := smallPages(4)
	if err != nil {
		return err
	}
	last := memory[3*os.Getpagesize():]
	if err := munmap(uintptr(unsafe.Pointer(&last[0])), uintptr(len(last))); err != nil {
		return err
	}
	return r.provoke(umemOp("a umem whose last page is not there", 4), func() unix.Errno { return registerUmem(fd, umemOf(memory)) })
}

func umemTwice(r *Refuse) error {
	fd, err := r.xdpSocket()
	if err != nil {
		return err
	}
	memory, err := smallPages(4)
	if err != nil {
		return err
	}
	if err := r.control(umemOp("a umem", 4), func() unix.Errno { return registerUmem(fd, umemOf(memory)) }); err != nil {
		return err
	}
	return r.provoke(umemOp("another one", 4), func() unix.Errno { return registerUmem(fd, umemOf(memory)) })
}

func sendProvocations() []Provocation {
	return []Provocation{
		{"send-limit", "a send of a page less than 64 KiB with MSG_ZEROCOPY, RLIMIT_MEMLOCK 64 KiB", func(r *Refuse) error {
			return sends(r, send{pages: sendLimit() - 2}, send{pages: sendLimit() - 1})
		}},
		{"send-outstanding", "a second send of a page less than 32 KiB with MSG_ZEROCOPY while the first is under way, RLIMIT_MEMLOCK 64 KiB", func(r *Refuse) error {
			return sends(r, send{sendLimit()/2 - 1, true}, send{sendLimit()/2 - 1, true})
		}},
		{"send-notes", "a send with MSG_ZEROCOPY where net.core.optmem_max leaves the socket no memory for its notification", sendNotes},
	}
}

// sendLimit is RLIMIT_MEMLOCK of those who send, in pages: a datagram has less than 64 KiB.
func sendLimit() int { return 64 << 10 / os.Getpagesize() }

// send is one with MSG_ZEROCOPY.
type send struct {
	pages int
	more  bool // it is corked, and stays under way until its socket is closed
}

// sends sends on sockets of their own; all but the last pass.
func sends(r *Refuse, list ...send) error {
	if err := r.become(65534, int64(sendLimit())); err != nil {
		return err
	}
	for i, s := range list {
		if i == len(list)-1 {
			s.pages = r.pages(s.pages)
		}
		bytes := s.pages * os.Getpagesize()
		l, err := newLane()
		if err != nil {
			return err
		}
		r.finally(l.release)
		memory, err := smallPages(s.pages + 1)
		if err != nil {
			return err
		}
		try, what, flags := r.control, "", unix.MSG_ZEROCOPY
		if i == len(list)-1 {
			try = r.provoke
		}
		if s.more {
			what, flags = " and MSG_MORE", flags|unix.MSG_MORE
		}
		pages := rule.ZeroCopyPages(uint64(bytes), uint64(os.Getpagesize()))
		err = try(attempt{call: "sendto", what: fmt.Sprintf("%d bytes with MSG_ZEROCOPY%s", bytes, what), asked: pages}, func() unix.Errno {
			return errnoOf(unix.Sendto(l.sender, memory[:bytes], flags, l.to))
		})
		if err != nil {
			return err
		}
		if i < len(list)-1 && !s.more {
			if err := l.complete(); err != nil {
				return err
			}
		}
	}
	return nil
}

// complete waits until a send is no longer under way: its notification comes once its pages
// are given back.
func (l *lane) complete() error {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(l.sender)}}, 10_000) // POLLERR is always asked for
	for err == unix.EINTR {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(l.sender)}}, 10_000)
	}
	if err == nil && n == 0 {
		err = errors.New("no notification came")
	}
	return err
}

// sendNotes leaves the socket no memory for the notification that it is to have.
func sendNotes(r *Refuse) error {
	l, err := newLane()
	if err != nil {
		return err
	}
	r.finally(l.release)
	if ok, err := r.sysctl("net/core/optmem_max", "256"); err != nil || !ok {
		return fmt.Errorf("net.core.optmem_max: %w", err)
	}
	return r.provoke(attempt{call: "sendto", what: "64 bytes with MSG_ZEROCOPY", asked: 2}, func() unix.Errno {
		return errnoOf(unix.Sendto(l.sender, make([]byte, 64), unix.MSG_ZEROCOPY, l.to))
	})
}

func mapProvocations() []Provocation {
	array := func(value, entries uint32) mapCreateAttr {
		return mapCreateAttr{mapType: uint32(ebpf.Array), keySize: 4, valueSize: value, maxEntries: entries}
	}
	hash := mapCreateAttr{mapType: uint32(ebpf.Hash), keySize: 9, valueSize: 1, maxEntries: 500}
	percpu := mapCreateAttr{mapType: uint32(ebpf.PerCPUArray), keySize: 4, valueSize: 40 << 10, maxEntries: 1}
	cpus := mapCreateAttr{mapType: uint32(ebpf.CPUMap), keySize: 4, valueSize: 4, maxEntries: 1 << 20}
	large := mapCreateAttr{mapType: uint32(ebpf.Hash), keySize: 4, valueSize: uint32(os.Getpagesize()) << 11, maxEntries: 1} // PAGE_SIZE << MAX_PAGE_ORDER is 4 MiB, or 32 MiB with pages of 16 KiB
	many := mapCreateAttr{mapType: uint32(ebpf.Hash), keySize: 4, valueSize: 4, maxEntries: 1 << 30}
	return []Provocation{
		{"map-rlimit", "two hash maps of 500 elements, RLIMIT_MEMLOCK 64 KiB: before 5.11 the second is refused", func(r *Refuse) error { return mapsOfUser(r, &hash, "cap_bpf", "cap_perfmon", "cap_sys_admin") }},
		{"map-capability", "a map of a user without capabilities", func(r *Refuse) error { a := array(8, 1); return oneMap(r, "a map without CAP_BPF", &a, true) }},
		{"map-machine", "a hash map larger than the machine", mapMachine},
		{"map-cgroup", "an array of 16 MiB in a cgroup that has 8 MiB left", mapCgroup},
		{"map-percpu", "a map with values of 40 KiB for each CPU", func(r *Refuse) error { return oneMap(r, "values of 40 KiB for each CPU", &percpu, false) }},
		{"map-value", "a hash map with values that no allocation takes", func(r *Refuse) error {
			return oneMap(r, fmt.Sprintf("values of %d bytes", large.valueSize), &large, false)
		}},
		{"map-entries", "a hash map with more buckets than can be counted", func(r *Refuse) error { return oneMap(r, "2^30 elements", &many, false) }},
		{"map-type-size", "a CPU map for more CPUs than any machine has", func(r *Refuse) error { return oneMap(r, "2^20 CPUs", &cpus, false) }},
		{"map-attributes", "a map without elements", func(r *Refuse) error { a := array(8, 0); return oneMap(r, "no elements", &a, false) }},
		{"map-4g", "an array of 4 GiB: before 5.11 too large for the charge", func(r *Refuse) error { a := array(1<<20, 4096); return oneMap(r, "an array of 4 GiB", &a, false) }},
		{"update-cgroup", "elements of a hash map without preallocation, in a cgroup that has 4 MiB left", updateCgroup},
		{"update-outside-cgroup", "elements of several pages of a hash map without preallocation whose cgroup has 1 MiB left, by a process that is in another one", updateOutside},
		{"update-full", "more elements than a hash map may have", updateFull},
		{"update-read-only", "an element of a map that is frozen", updateFrozen},
		{"update-exists", "an element that exists, with BPF_NOEXIST", func(r *Refuse) error { return updateWith(r, "an existing element as a new one", 1, false) }},
		{"update-absent", "an element that does not exist, with BPF_EXIST", func(r *Refuse) error { return updateWith(r, "an element that is not there as an old one", 2, false) }},
		{"update-flags", "an element with a flag that does not exist", func(r *Refuse) error { return updateWith(r, "an unknown flag", 1<<40, false) }},
		{"update-address", "an element whose value is nowhere", func(r *Refuse) error { return updateWith(r, "a value nowhere", 0, true) }},
		{"program-rlimit", "a program of a user whose RLIMIT_MEMLOCK is nothing: before 5.11 refused", programRlimit},
		{"program-capability", "a program of a user without capabilities", func(r *Refuse) error { return asSomebody(r, oneProgram) }},
		{"program-invalid", "a program that does not end", func(r *Refuse) error {
			return loadProgram(r, "a program without an exit", asm.Instructions{asm.Mov.Imm(asm.R0, 0)})
		}},
		{"program-access", "a program that reads a register that it has not set", func(r *Refuse) error {
			return loadProgram(r, "a register that is not set", asm.Instructions{asm.Mov.Reg(asm.R0, asm.R5), asm.Return()})
		}},
		{"program-cgroup", "a program of 1 MiB or more in a cgroup that has 64 KiB left", programCgroup},
		{"program-empty", "a program of no instructions", func(r *Refuse) error { return loadProgram(r, "no instructions", nil) }},
		{"secret-end", "a page beyond the end of secret memory", secretEnd},
		{"secret-limit", "17 pages of secret memory, RLIMIT_MEMLOCK 64 KiB: since 7.2 the last is refused", secretLimit},
	}
}

func creating(what string) attempt { return attempt{call: "bpf(BPF_MAP_CREATE)", what: what} }

// createMap creates a map that lasts until the end.
func (r *Refuse) createMap(attr *mapCreateAttr) (fd int, errno unix.Errno) {
	fd, err := createBPFMap(attr)
	if err == nil {
		r.finally(func() { unix.Close(fd) })
	}
	return fd, errnoOf(err)
}

func oneMap(r *Refuse, what string, attr *mapCreateAttr, user bool) error {
	limit, uid := int64(noLimit), -1
	if user {
		limit, uid = 128, 65534
	}
	if err := r.become(uid, limit); err != nil {
		return err
	}
	return r.provoke(creating(what), func() unix.Errno {
		_, errno := r.createMap(attr)
		return errno
	})
}

func mapsOfUser(r *Refuse, attr *mapCreateAttr, caps ...string) error {
	if err := r.become(65534, 16, caps...); err != nil {
		return err
	}
	for i := range r.count(2) {
		errno, err := r.try(attempt{call: "bpf(BPF_MAP_CREATE)", what: "a hash map of 500 elements", control: i == 0}, func() unix.Errno {
			_, errno := r.createMap(attr)
			return errno
		})
		if err != nil || errno != 0 {
			return err
		}
	}
	return nil
}

func mapMachine(r *Refuse) error {
	total, err := memTotal()
	if err != nil {
		return err
	}
	attr := mapCreateAttr{mapType: uint32(ebpf.Hash), keySize: 8, valueSize: 256, maxEntries: 1 << 16}
	for attr.maxEntries < 1<<27 {
		m := rule.Map{Type: attr.mapType, KeySize: 8, ValueSize: 256, MaxEntries: attr.maxEntries}
		if m.Size(rule.MapMachine{PageSize: uint64(os.Getpagesize())}, total) == rule.MapLargerThanMachine {
			break
		}
		attr.maxEntries *= 2
	}
	if r.Count > 0 {
		attr.maxEntries = uint32(r.Count)
	}
	return oneMap(r, fmt.Sprintf("a hash map of %d elements of 256 bytes", attr.maxEntries), &attr, false)
}

// memTotal is the machine's memory, in bytes.
func memTotal() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, err
	}
	return int64(info.Totalram) * int64(info.Unit), nil
}

func mapCgroup(r *Refuse) error {
	if err := r.become(-1, noLimit); err != nil {
		return err
	}
	attr := mapCreateAttr{mapType: uint32(ebpf.Array), keySize: 4, valueSize: 4096, maxEntries: 4096}
	var errno unix.Errno
	if err := r.within(8<<20, func() { _, errno = r.createMap(&attr) }); err != nil {
		return err
	}
	return r.provoke(creating("an array of 16 MiB in a cgroup"), func() unix.Errno { return errno })
}

// elements sets so many of a map's, as long as it lets it.
func elements(r *Refuse, what string, attr *mapCreateAttr, n int) error {
	if err := r.become(-1, noLimit); err != nil {
		return err
	}
	fd := -1
	if err := r.control(creating("a map"), func() (errno unix.Errno) { fd, errno = r.createMap(attr); return errno }); err != nil {
		return err
	}
	key, value := make([]byte, attr.keySize), make([]byte, attr.valueSize)
	done := 0
	var errno unix.Errno
	for ; done < n && errno == 0; done++ {
		*(*uint32)(unsafe.Pointer(&key[0])) = uint32(done)
		errno = updateElement(fd, key, value, 0)
	}
	return r.provoke(attempt{call: "bpf(BPF_MAP_UPDATE_ELEM)", what: fmt.Sprintf("%s: the %dth", what, done)}, func() unix.Errno { return errno })
}

// updateElement is the system call, without what Go would allocate around it.
func updateElement(fd int, key, value []byte, flags uint64) unix.Errno {
	attr := struct {
		fd, _             uint32
		key, value, flags uint64
	}{fd: uint32(fd), key: uint64(uintptr(unsafe.Pointer(&key[0]))), value: uint64(uintptr(unsafe.Pointer(&value[0]))), flags: flags}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_UPDATE_ELEM, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(key)
	runtime.KeepAlive(value)
	return errno
}

// updateCgroup fills a map that was created in the cgroup, which is charged for what is
// added.
func updateCgroup(r *Refuse) error {
	attr := mapCreateAttr{mapType: uint32(ebpf.Hash), mapFlags: unix.BPF_F_NO_PREALLOC, keySize: 4, valueSize: 4000, maxEntries: 4096}
	if err := r.become(-1, noLimit); err != nil {
		return err
	}
	key, value := make([]byte, attr.keySize), make([]byte, attr.valueSize)
	var created, errno unix.Errno
	done := 0
	if err := r.within(4<<20, func() {
		var fd int
		if fd, created = r.createMap(&attr); created != 0 {
			return
		}
		for ; done < int(attr.maxEntries) && errno == 0; done++ {
			*(*uint32)(unsafe.Pointer(&key[0])) = uint32(done)
			errno = updateElement(fd, key, value, 0)
		}
	}); err != nil {
		return err
	}
	if err := r.control(creating("a hash map without preallocation, in a cgroup"), func() unix.Errno { return created }); err != nil {
		return err
	}
	return r.provoke(attempt{call: "bpf(BPF_MAP_UPDATE_ELEM)", what: fmt.Sprintf("the %dth element of 4000 bytes", done)}, func() unix.Errno { return errno })
}

func updateOutside(r *Refuse) error {
	if err := r.become(-1, noLimit); err != nil {
		return err
	}
	dir, err := r.join("memory")
	if err != nil {
		return err
	}
	attr := mapCreateAttr{mapType: uint32(ebpf.Hash), mapFlags: unix.BPF_F_NO_PREALLOC, keySize: 4, valueSize: 64 << 10, maxEntries: 256}
	fd, errno := r.createMap(&attr)
	if errno != 0 {
		return fmt.Errorf("create a map: %w", errno)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.procs"), []byte("0"), 0); err != nil {
		return err
	}
	current, err := readNumber(filepath.Join(dir, "memory.current"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "memory.max"), fmt.Append(nil, current+1<<20), 0)
	}
	if err != nil {
		return err
	}
	key, value, done := make([]byte, attr.keySize), make([]byte, attr.valueSize), 0
	for ; done < int(attr.maxEntries) && errno == 0; done++ {
		*(*uint32)(unsafe.Pointer(&key[0])) = uint32(done)
		errno = updateElement(fd, key, value, 0)
	}
	return r.provoke(attempt{call: "bpf(BPF_MAP_UPDATE_ELEM)", what: fmt.Sprintf("the %dth element of 64 KiB", done)}, func() unix.Errno { return errno })
}

func updateFull(r *Refuse) error {
	attr := mapCreateAttr{mapType: uint32(ebpf.Hash), keySize: 4, valueSize: 8, maxEntries: 8}
	return elements(r, "an element of a map that may have 8", &attr, 9)
}

func updateFrozen(r *Refuse) error {
	attr := mapCreateAttr{mapType: uint32(ebpf.Array), keySize: 4, valueSize: 8, maxEntries: 1}
	fd, errno := r.createMap(&attr)
	if errno != 0 {
		return errno
	}
	freeze := uint32(fd)
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_FREEZE, uintptr(unsafe.Pointer(&freeze)), 4); errno != 0 {
		return fmt.Errorf("freeze: %w", errno)
	}
	return r.provoke(attempt{call: "bpf(BPF_MAP_UPDATE_ELEM)", what: "an element of a frozen map"}, func() unix.Errno {
		return updateElement(fd, make([]byte, 4), make([]byte, 8), 0)
	})
}

// updateWith updates a hash map that has element 0; with BPF_EXIST it is another one.
func updateWith(r *Refuse, what string, flags uint64, nowhere bool) error {
	attr := mapCreateAttr{mapType: uint32(ebpf.Hash), keySize: 4, valueSize: 8, maxEntries: 8}
	fd, errno := r.createMap(&attr)
	if errno != 0 {
		return errno
	}
	const exist = 2
	key, value := make([]byte, 4), make([]byte, 8)
	if errno := updateElement(fd, key, value, 0); errno != 0 {
		return errno
	}
	if flags == exist {
		key[0] = 1
	}
	if nowhere {
		value = unsafe.Slice((*byte)(address(uintptr(os.Getpagesize()))), 8)
	}
	return r.provoke(attempt{call: "bpf(BPF_MAP_UPDATE_ELEM)", what: what}, func() unix.Errno { return updateElement(fd, key, value, flags) })
}

func programCgroup(r *Refuse) error {
	if err := r.become(-1, noLimit); err != nil {
		return err
	}
	// A CPU has up to 64 pages of a cgroup in stock (MEMCG_CHARGE_BATCH): with large pages
	// they would hold a small program.
	code := make(asm.Instructions, 0, max(1<<17, 2*64*os.Getpagesize()/8))
	for range cap(code) - 1 {
		code = append(code, asm.Mov.Imm(asm.R0, 0))
	}
	p, err := newProgram(append(code, asm.Return()))
	if err != nil {
		return err
	}
	if err := r.control(attempt{call: "bpf(BPF_PROG_LOAD)", what: fmt.Sprintf("a program of %d instructions", len(code)+1)}, func() unix.Errno { return p.load(r) }); err != nil {
		return err
	}
	var errno unix.Errno
	if err := r.within(64<<10, func() { errno = p.load(r) }); err != nil {
		return err
	}
	return r.provoke(attempt{call: "bpf(BPF_PROG_LOAD)", what: fmt.Sprintf("a program of %d instructions in a cgroup", len(code)+1)}, func() unix.Errno { return errno })
}

func secretEnd(r *Refuse) error {
	fd, _, errno := unix.Syscall(unix.SYS_MEMFD_SECRET, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return r.provoke(attempt{call: "memfd_secret", what: "secret memory"}, func() unix.Errno { return errno })
	}
	r.finally(func() { unix.Close(int(fd)) })
	page := os.Getpagesize()
	if err := unix.Ftruncate(int(fd), int64(page)); err != nil {
		return err
	}
	memory, err := unix.Mmap(int(fd), 0, 2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	zero, err := os.Open("/dev/zero")
	if err != nil {
		return err
	}
	defer zero.Close()
	return r.provoke(attempt{call: "read", what: "into the page after the last of secret memory"}, func() unix.Errno {
		_, err := unix.Read(int(zero.Fd()), memory[page:][:1])
		return errnoOf(err)
	})
}

func oneProgram(r *Refuse) error {
	return loadProgram(r, "a program of two instructions", asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()})
}

func asSomebody(r *Refuse, do func(*Refuse) error) error {
	if err := r.become(65534, 128); err != nil {
		return err
	}
	return do(r)
}

func programRlimit(r *Refuse) error {
	if err := r.become(65534, 0, "cap_bpf", "cap_perfmon", "cap_sys_admin"); err != nil {
		return err
	}
	return oneProgram(r)
}

// loadProgram loads a socket filter.
func loadProgram(r *Refuse, what string, code asm.Instructions) error {
	p, err := newProgram(code)
	if err != nil {
		return err
	}
	return r.provoke(attempt{call: "bpf(BPF_PROG_LOAD)", what: what}, func() unix.Errno { return p.load(r) })
}

// filter is a socket filter as bpf(2) takes it.
type filter struct {
	count uint32
	text  []byte
}

func newProgram(code asm.Instructions) (*filter, error) {
	var b bytes.Buffer
	if err := code.Marshal(&b, binary.LittleEndian); err != nil { // amd64 and arm64
		return nil, err
	}
	return &filter{uint32(b.Len() / asm.InstructionSize), append(b.Bytes(), make([]byte, 8)...)}, nil
}

// load loads it until the end.
func (p *filter) load(r *Refuse) unix.Errno {
	fd, errno := p.open()
	if errno == 0 {
		r.finally(func() { unix.Close(fd) })
	}
	return errno
}

func (p *filter) open() (int, unix.Errno) {
	license := []byte("GPL\x00")
	var attr struct {
		kind, count   uint32
		code, license uint64
		behind        [64]byte // is not given to the kernel: no name stands there
	}
	attr.kind, attr.count = uint32(ebpf.SocketFilter), p.count
	attr.code, attr.license = uint64(uintptr(unsafe.Pointer(&p.text[0]))), uint64(uintptr(unsafe.Pointer(&license[0])))
	copy(attr.behind[:], strings.Repeat("behind", 10))
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Offsetof(attr.behind))
	runtime.KeepAlive(p)
	runtime.KeepAlive(license)
	return int(fd), errno
}

// secretLimit touches secret memory by read(2): here a fault that is refused would be the
// end of the process, there it is EFAULT.
func secretLimit(r *Refuse) error {
	if err := r.become(65534, 16); err != nil {
		return err
	}
	fd, _, errno := unix.Syscall(unix.SYS_MEMFD_SECRET, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return r.provoke(attempt{call: "memfd_secret", what: "secret memory"}, func() unix.Errno { return errno })
	}
	r.finally(func() { unix.Close(int(fd)) })
	pages, page := r.pages(17), os.Getpagesize()
	if err := unix.Ftruncate(int(fd), int64(pages*page)); err != nil {
		return err
	}
	zero, err := os.Open("/dev/zero")
	if err != nil {
		return err
	}
	r.finally(func() { zero.Close() })
	// Two mappings: before 7.2 each is held against the limit by itself.
	return r.provoke(attempt{call: "read", what: fmt.Sprintf("into the %dth page of secret memory", pages), asked: 1}, func() unix.Errno {
		for i := range pages {
			memory, err := unix.Mmap(int(fd), int64(i*page), page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return errnoOf(err)
			}
			_, err = unix.Read(int(zero.Fd()), memory[:1])
			if errno := errnoOf(errors.Join(err, unix.Munmap(memory))); errno != 0 {
				return errno
			}
		}
		return 0
	})
}
