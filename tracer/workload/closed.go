package workload

import (
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Calls that are refused for what is closed already: the kernel's workers give it back a
// moment later.

// beforeWorkers has this thread run before the kernel's workers on its CPU, which have what it
// closes to release, until it sleeps.
func beforeWorkers() error {
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0); err != nil {
		return fmt.Errorf("SCHED_FIFO: %w (needs root)", err)
	}
	return nil
}

// closable is something that pages are charged for.
type closable struct {
	get func() unix.Errno
	fd  int
}

// closedTries is how often something is made and closed, at most, and closedPatience how long the
// workers may take.
const (
	closedTries    = 1000
	closedPatience = 20 * time.Second
)

// rest sleeps for a millisecond. Go's own sleep may start a thread, which a full cgroup has no
// memory for.
func rest() {
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&unix.Timespec{Nsec: int64(time.Millisecond)})), 0, 0)
}

// afterClosing makes things and closes them at once, until the kernel has refused so many as
// are asked for. Each that is refused is tried until it succeeds: made is how many did. The
// error is of the refusals.
func (r *oneCall) afterClosing(open func() (*closable, error)) (made int, err error) {
	var refused unix.Errno
	for i := 0; i < closedTries && made < r.count; i++ {
		c, err := open()
		if err != nil {
			return made, err
		}
		errno := c.get()
		for end := time.Now().Add(closedPatience); errno != 0; rest() {
			if refused = errno; c.get() == 0 {
				made++
				break
			}
			if time.Now().After(end) {
				return made, refused
			}
		}
		if err := unix.Close(c.fd); err != nil {
			return made, err
		}
	}
	if refused == 0 {
		return made, nil
	}
	return made, refused
}

func (r *oneCall) closedRing() (int, error) {
	memory, err := smallPages(r.pages)
	if err != nil {
		return 0, err
	}
	return r.afterClosing(func() (*closable, error) {
		fd, errno := newRing(1, 0)
		if errno != 0 {
			return nil, fmt.Errorf("io_uring_setup: %s", errno)
		}
		return &closable{func() unix.Errno { return registerBuffers(fd, vector(memory)) }, fd}, nil
	})
}

func (r *oneCall) closedUmem() (int, error) {
	memory, err := smallPages(r.pages)
	if err != nil {
		return 0, err
	}
	return r.afterClosing(func() (*closable, error) {
		fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW, 0)
		if err != nil {
			return nil, fmt.Errorf("AF_XDP socket: %s", err)
		}
		return &closable{func() unix.Errno { return registerUmem(fd, umemOf(memory)) }, fd}, nil
	})
}

// closedMap is in a cgroup, if one is named. That is full at times, and has nobody else to kill
// then.
func (r *oneCall) closedMap() (int, error) {
	if r.cgroup != "" {
		debug.SetGCPercent(-1)
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
			return 0, err
		}
		if err := r.join(); err != nil {
			return 0, err
		}
	}
	attr := mapCreateAttr{mapType: uint32(ebpf.Array), keySize: 4, valueSize: uint32(os.Getpagesize()), maxEntries: uint32(r.pages)}
	return r.afterClosing(func() (*closable, error) {
		c := &closable{}
		c.get = func() unix.Errno {
			fd, err := createBPFMap(&attr)
			c.fd = fd
			return errnoOf(err)
		}
		return c, nil
	})
}

func (r *oneCall) closedProgram() (int, error) {
	instructions := r.pages * os.Getpagesize() / asm.InstructionSize
	p, err := newProgram(append(slices.Repeat(asm.Instructions{asm.Mov.Imm(asm.R0, 0)}, instructions), asm.Return()))
	if err != nil {
		return 0, err
	}
	return r.afterClosing(func() (*closable, error) {
		c := &closable{}
		c.get = func() (errno unix.Errno) {
			for errno = unix.EAGAIN; errno == unix.EAGAIN; { // a signal of Go's
				c.fd, errno = p.open()
			}
			return errno
		}
		return c, nil
	})
}
