package workload

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Calls that are refused for what is closed already: the kernel's workers give it back a
// moment later.

// closable is something that pages are charged for.
type closable struct {
	get func() unix.Errno
	fd  int
}

// closedRounds is how often something is made and closed, at most, until the next one is
// refused; closedPatience how long the workers may take.
const (
	closedRounds   = 1000
	closedPatience = 20 * time.Second
)

// afterClosing makes things and closes them at once, until the kernel refuses one, and then
// tries that one until it succeeds: made is 1 if it does. The error is of the refusal.
func afterClosing(open func() (*closable, error)) (made int, err error) {
	for range closedRounds {
		c, err := open()
		if err != nil {
			return 0, err
		}
		refused := c.get()
		for end := time.Now().Add(closedPatience); refused != 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
			if c.get() == 0 {
				return 1, errors.Join(refused, unix.Close(c.fd))
			}
		}
		if err := unix.Close(c.fd); refused != 0 || err != nil {
			return 0, errors.Join(refused, err)
		}
	}
	return 1, nil
}

func (r *oneCall) closedRing() (int, error) {
	memory, err := smallPages(r.pages)
	if err != nil {
		return 0, err
	}
	return afterClosing(func() (*closable, error) {
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
	return afterClosing(func() (*closable, error) {
		fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW, 0)
		if err != nil {
			return nil, fmt.Errorf("AF_XDP socket: %s", err)
		}
		return &closable{func() unix.Errno { return registerUmem(fd, umemOf(memory)) }, fd}, nil
	})
}

func (r *oneCall) closedMap() (int, error) {
	attr := mapCreateAttr{mapType: uint32(ebpf.Array), keySize: 4, valueSize: uint32(os.Getpagesize()), maxEntries: uint32(r.pages)}
	return afterClosing(func() (*closable, error) {
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
	return afterClosing(func() (*closable, error) {
		c := &closable{}
		c.get = func() (errno unix.Errno) {
			c.fd, errno = p.open()
			return errno
		}
		return c, nil
	})
}
