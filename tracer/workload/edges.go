package workload

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Edges maps, moves and unmaps buffers in the less usual ways: a mapping over
// another one, a moved one, one unmapped in parts, one that is too large for the
// kernel, and one that fails before perf_mmap() is asked.
type Edges struct {
	UID     int
	Memlock int64 // RLIMIT_MEMLOCK in bytes; -1: leave it alone
	Pages   int   // data pages of a buffer, a power of two
}

// Run runs the workload; the steps are those of ShareStep.
func (e *Edges) Run(out io.Writer) error {
	events, err := openEvents("", 2)
	if err != nil {
		return err
	}
	page := os.Getpagesize()
	// More page pointers than the kernel can allocate at once: ENOMEM, for who has
	// CAP_IPC_LOCK.
	tooMany := 1 << 21 * (page / 4096)
	if _, err := unix.Mmap(events[0], 0, (tooMany+1)*page, unix.PROT_READ, unix.MAP_SHARED); !errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("map %d data pages: %v; want ENOMEM", tooMany, err)
	}
	p := PerfBuffers{UID: e.UID, Memlock: e.Memlock}
	if err := p.drop(); err != nil {
		return err
	}
	size := uintptr((e.Pages + 1) * page)
	// The kernel chooses addresses for three mappings, which end up unused.
	var hole [3]uintptr
	for i := range hole {
		if hole[i], err = mmapAt(0, size, -1); err != nil {
			return err
		}
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"map", func() error { _, err := mmapAt(hole[0], size, events[0]); return err }},
		{"map over", func() error { _, err := mmapAt(hole[0], size, events[1]); return err }},
		{"move", func() error { return mremapTo(hole[0], size, hole[1]) }},
		{"map without address space", func() error { return withoutAddressSpace(events[0], page) }},
		{"unmap a part", func() error {
			// Refused since 6.1.
			if err := munmap(hole[1], uintptr(page)); err != nil && !errors.Is(err, unix.EINVAL) {
				return err
			}
			return nil
		}},
		{"unmap", func() error { return munmap(hole[1], size) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if err := shareReport(out, step.name, "edges"); err != nil {
			return err
		}
	}
	return nil
}

// mmapAt maps an event at an address, over whatever is there; at 0, anonymous
// memory where the kernel likes.
func mmapAt(address, size uintptr, fd int) (uintptr, error) {
	flags := uintptr(unix.MAP_SHARED | unix.MAP_FIXED)
	if address == 0 {
		flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	}
	got, _, errno := unix.Syscall6(unix.SYS_MMAP, address, size, unix.PROT_READ, flags, uintptr(fd), 0)
	if errno != 0 {
		return 0, errno
	}
	return got, nil
}

func mremapTo(from, size, to uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_MREMAP, from, size, size, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func munmap(address, size uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, address, size, 0); errno != 0 {
		return errno
	}
	return nil
}

// withoutAddressSpace asks for a mapping that RLIMIT_AS forbids.
func withoutAddressSpace(fd, page int) error {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err
	}
	used, err := strconv.ParseUint(strings.Fields(string(raw))[0], 10, 64)
	if err != nil {
		return err
	}
	const slack = 256 << 20 // for the Go runtime
	var old unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_AS, nil, &old); err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: used*uint64(page) + slack, Max: old.Max}
	if err := unix.Prlimit(0, unix.RLIMIT_AS, &limit, nil); err != nil {
		return err
	}
	defer unix.Prlimit(0, unix.RLIMIT_AS, &old, nil)
	data, err := unix.Mmap(fd, 0, 2*slack+page, unix.PROT_READ, unix.MAP_SHARED)
	if errors.Is(err, unix.ENOMEM) {
		return nil
	}
	if err == nil {
		munmap(uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)))
	}
	return fmt.Errorf("%v; want ENOMEM", err)
}
