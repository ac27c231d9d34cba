package workload

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// The provocations of mmap() of a perf event.

func perfProvocations() []Provocation {
	return []Provocation{
		{"perf-limit", "a buffer of 16 MiB for each CPU, RLIMIT_MEMLOCK 8 MiB: the first is refused", perfPerCPU},
		{"perf-second-profile", "a buffer of 128 pages for each CPU where a process of the same user has them, RLIMIT_MEMLOCK 64 KiB", perfSecondProfile},
		{"perf-containers", "uid 0 without CAP_IPC_LOCK: a buffer of 64 pages for each CPU, the third such process, RLIMIT_MEMLOCK 64 KiB", perfContainers},
		{"perf-inherited", "a buffer of an inherited event on any CPU", perfInherited},
		{"perf-private", "a buffer mapped MAP_PRIVATE", perfPrivate},
		{"perf-size", "a buffer that is no power of two of pages and one", perfSize},
		{"perf-other-size", "a buffer that has another size already", perfOtherSize},
		{"perf-largest", "a buffer with more page pointers than one allocation takes", perfLargest},
		{"perf-int", "a buffer of more pages than an int counts", perfInt},
		{"perf-redirected", "the buffer that an event has its output redirected to, mapped through that event", perfRedirected},
		{"perf-split-map", "a mapping over a part of a buffer", perfSplitMap},
		{"perf-split-unmap", "the unmapping of a part of a buffer", perfSplitUnmap},
		{"perf-address-space", "a buffer larger than RLIMIT_AS allows", perfAddressSpace},
		{"perf-locked", "a buffer mapped MAP_LOCKED beyond RLIMIT_MEMLOCK", func(r *Refuse) error { return perfLocked(r, 16) }},
		{"perf-locked-none", "a buffer mapped MAP_LOCKED with an RLIMIT_MEMLOCK of nothing", func(r *Refuse) error { return perfLocked(r, 0) }},
	}
}

func mmapOf(what string, pages int) attempt {
	return attempt{call: "mmap", what: what, asked: int64(pages)}
}

// perfPerCPU is perf record -m 16M of a user.
func perfPerCPU(r *Refuse) error { return mapPerCPU(r, 65534, 2048, 4096) }

// mapPerCPU maps buffers of so many data pages as somebody else, one for each CPU, until
// one is refused.
func mapPerCPU(r *Refuse, uid int, limit int64, data int) error {
	data = r.pages(data)
	var events []int
	for cpu := range r.count(runtime.NumCPU()) {
		fd, err := openEvent(unix.PERF_COUNT_SW_DUMMY, false, cpu)
		if err != nil {
			return err
		}
		r.finally(func() { unix.Close(fd) })
		events = append(events, fd)
	}
	if err := r.become(uid, limit); err != nil {
		return err
	}
	for cpu, fd := range events {
		errno, err := r.try(mmapOf(fmt.Sprintf("a buffer for CPU %d", cpu), data+1), func() unix.Errno {
			_, errno := mapEvent(fd, data+1)
			return errno
		})
		if err != nil || errno != 0 {
			return err
		}
	}
	return nil
}

func perfSecondProfile(r *Refuse) error {
	if err := r.hold(holder{UID: 65534, Memlock: 16, Pages: 128, Count: runtime.NumCPU()}); err != nil {
		return err
	}
	return mapPerCPU(r, 65534, 16, 128)
}

func perfContainers(r *Refuse) error {
	for range 2 {
		if err := r.hold(holder{UID: 0, Memlock: 16, Pages: 64, Count: runtime.NumCPU()}); err != nil {
			return err
		}
	}
	return mapPerCPU(r, 0, 16, 64)
}

func perfInherited(r *Refuse) error {
	for _, c := range []struct {
		inherit bool
		cpu     int
		what    string
	}{{false, -1, "an event on any CPU"}, {true, 0, "an inherited event on CPU 0"}, {true, -1, "an inherited event on any CPU"}} {
		fd, err := openEvent(unix.PERF_COUNT_SW_CPU_CLOCK, c.inherit, c.cpu)
		if err != nil {
			return err
		}
		r.finally(func() { unix.Close(fd) })
		try := r.control
		if c.inherit && c.cpu < 0 {
			try = r.provoke
		}
		if err := try(mmapOf(c.what, r.pages(8)+1), func() unix.Errno {
			_, errno := mapEvent(fd, r.pages(8)+1)
			return errno
		}); err != nil {
			return err
		}
	}
	return nil
}

// event opens an event until the end.
func (r *Refuse) event() (int, error) {
	fd, err := openEvent(unix.PERF_COUNT_SW_DUMMY, false, -1)
	if err == nil {
		r.finally(func() { unix.Close(fd) })
	}
	return fd, err
}

// mapped is an event with a buffer of so many data pages.
func (r *Refuse) mapped(data int) (fd int, memory []byte, err error) {
	if fd, err = r.event(); err != nil {
		return fd, nil, err
	}
	err = r.control(mmapOf("a buffer", data+1), func() (errno unix.Errno) {
		memory, errno = mapEvent(fd, data+1)
		return errno
	})
	return fd, memory, err
}

func perfPrivate(r *Refuse) error {
	fd, err := r.event()
	if err != nil {
		return err
	}
	return r.provoke(mmapOf("a private mapping", r.pages(8)+1), func() unix.Errno {
		_, err := unix.Mmap(fd, 0, (r.pages(8)+1)*os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE)
		return errnoOf(err)
	})
}

// mapAs maps so many pages of a new event, as root.
func mapAs(what string, pages int) func(*Refuse) error {
	return func(r *Refuse) error {
		fd, err := r.event()
		if err != nil {
			return err
		}
		return r.provoke(mmapOf(what, r.pages(pages)), func() unix.Errno {
			_, errno := mapEvent(fd, r.pages(pages))
			return errno
		})
	}
}

func perfSize(r *Refuse) error { return mapAs("a buffer of 7 data pages", 8)(r) }

func perfLargest(r *Refuse) error {
	// Half of it the kernel would try to allocate, whatever the machine has.
	return mapAs("a buffer with too many page pointers", 2*int(rule.LargestData(uint64(os.Getpagesize())))+1)(r)
}

func perfInt(r *Refuse) error { return mapAs("a buffer of 2^31 data pages", 1<<31+1)(r) }

func perfOtherSize(r *Refuse) error {
	fd, _, err := r.mapped(r.pages(8))
	if err != nil {
		return err
	}
	return r.provoke(mmapOf("the same buffer with half of its data", r.pages(8)/2+1), func() unix.Errno {
		_, errno := mapEvent(fd, r.pages(8)/2+1)
		return errno
	})
}

func perfRedirected(r *Refuse) error {
	// An event is its thread's, and is redirected to one of the same thread's alone.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	to, _, err := r.mapped(r.pages(8))
	if err != nil {
		return err
	}
	from, err := r.event()
	if err != nil {
		return err
	}
	if err := unix.IoctlSetInt(from, unix.PERF_EVENT_IOC_SET_OUTPUT, to); err != nil {
		return fmt.Errorf("redirect: %w", err)
	}
	return r.provoke(mmapOf("an event whose output is redirected", r.pages(8)+1), func() unix.Errno {
		_, errno := mapEvent(from, r.pages(8)+1)
		return errno
	})
}

// perfSplitMap maps the way a mirrored ring is built, in room that it has reserved: where the
// kernel allows it, nothing else is overwritten.
func perfSplitMap(r *Refuse) error {
	fd, err := r.event()
	if err != nil {
		return err
	}
	page, pages := uintptr(os.Getpagesize()), r.pages(8)+1
	size := uintptr(pages) * page
	room, err := mmapAt(0, 2*size, -1)
	if err != nil {
		return fmt.Errorf("reserve room: %w", err)
	}
	mapping := func(at uintptr) func() unix.Errno {
		return func() unix.Errno {
			_, err := mmapAt(at, size, fd)
			return errnoOf(err)
		}
	}
	if err := r.control(mmapOf("a buffer", pages), mapping(room)); err != nil {
		return err
	}
	// Over all but the first page: what is left would be a part.
	return r.provoke(mmapOf("over a part of the same buffer", pages), mapping(room+page))
}

func perfSplitUnmap(r *Refuse) error {
	_, memory, err := r.mapped(r.pages(8))
	if err != nil {
		return err
	}
	return r.provoke(attempt{call: "munmap", what: "the first page of a buffer"}, func() unix.Errno {
		return errnoOf(munmap(uintptr(unsafe.Pointer(&memory[0])), uintptr(os.Getpagesize())))
	})
}

func perfAddressSpace(r *Refuse) error {
	fd, err := r.event()
	if err != nil {
		return err
	}
	return r.provoke(mmapOf("more than the address space may have", 0), func() unix.Errno {
		if err := withoutAddressSpace(fd, os.Getpagesize()); err != nil {
			return 0
		}
		return unix.ENOMEM
	})
}

func perfLocked(r *Refuse, limit int64) error {
	fd, err := r.event()
	if err != nil {
		return err
	}
	if err := r.become(65534, limit); err != nil {
		return err
	}
	pages := r.pages(16) + 1
	return r.provoke(mmapOf("a locked mapping", pages), func() unix.Errno {
		_, err := unix.Mmap(fd, 0, pages*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_LOCKED)
		return errnoOf(err)
	})
}

func auxProvocations() []Provocation {
	// A software event has no AUX area; but that is looked at last.
	aux := func(name, about string, area auxArea) Provocation {
		return Provocation{name, about, func(r *Refuse) error { return area.provoke(r) }}
	}
	return []Provocation{
		aux("aux-no-data", "an AUX area of an event that has no data area", auxArea{alone: true, offset: 9, size: 8, at: 9, pages: 8}),
		aux("aux-unset", "an AUX area whose place is not announced in the control page", auxArea{at: 9, pages: 8}),
		aux("aux-inside", "an AUX area announced inside of the data area", auxArea{offset: 4, size: 8, at: 4, pages: 8}),
		aux("aux-elsewhere", "an AUX area at another place than announced", auxArea{offset: 16, size: 8, at: 9, pages: 8}),
		aux("aux-other-size", "an AUX area of another size than announced", auxArea{offset: 9, size: 16, at: 9, pages: 8}),
		aux("aux-size", "an AUX area that is no power of two of pages", auxArea{offset: 9, size: 7, at: 9, pages: 7}),
		aux("aux-limit", "an AUX area beyond the allowance and RLIMIT_MEMLOCK", auxArea{offset: 9, size: 1024, at: 9, pages: 1024, user: true}),
		aux("aux-unsupported", "an AUX area of an event whose PMU has none", auxArea{offset: 9, size: 8, at: 9, pages: 8}),
	}
}

// auxArea is how an AUX area is announced, and how it is mapped behind a data area of 8
// pages and one; all in pages.
type auxArea struct {
	alone        bool // there is no data area
	offset, size int
	at, pages    int
	user         bool // by a user, and not by root
}

func (a auxArea) provoke(r *Refuse) error {
	fd, err := r.event()
	if err != nil {
		return err
	}
	if a.user {
		if err := r.become(65534, 16); err != nil {
			return err
		}
	}
	page := os.Getpagesize()
	if !a.alone {
		var memory []byte
		err = r.control(mmapOf("a data area", 9), func() (errno unix.Errno) {
			memory, errno = mapEvent(fd, 9)
			return errno
		})
		if err != nil {
			return err
		}
		control := (*unix.PerfEventMmapPage)(unsafe.Pointer(&memory[0]))
		control.Aux_offset, control.Aux_size = uint64(a.offset*page), uint64(a.size*page)
	}
	return r.provoke(mmapOf("the AUX area", a.pages), func() unix.Errno {
		_, err := unix.Mmap(fd, int64(a.at*page), a.pages*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		return errnoOf(err)
	})
}
