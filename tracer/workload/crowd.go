package workload

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Crowd has many processes map one buffer at once, of which each waits for the
// others in perf_mmap(). Their numbers agree in the lower bits: what is found by
// those is found by all of them at one place.
type Crowd struct {
	Processes int
	Pages     int // data pages, a power of two
	// AtOnce lets each unmap the buffer as soon as it has mapped it: then the last
	// unmapping meets new mappings, which 6.19 to 7.1 do not survive (testdata/findings).
	// Otherwise all unmap it when all have mapped it.
	AtOnce bool
}

// crowdApart is by how much their numbers differ.
const crowdApart = 1024

// Run starts them, lets them go, and waits until all have mapped and unmapped.
func (c *Crowd) Run() error {
	events, err := openEvents("", 1)
	if err != nil {
		return err
	}
	m := member{event: uintptr(events[0]), size: uintptr((c.Pages + 1) * os.Getpagesize()), atOnce: c.AtOnce}
	for _, pipe := range []*[2]int{&m.start, &m.mapped, &m.end} {
		if err := unix.Pipe(pipe[:]); err != nil {
			return err
		}
	}
	var members []int
	for pid := (os.Getpid()/crowdApart + 1) * crowdApart; len(members) < c.Processes; pid += crowdApart {
		err := m.fork(int32(pid))
		if errors.Is(err, unix.EEXIST) {
			continue // somebody has the number
		}
		if err != nil {
			return fmt.Errorf("start process %d: %w", pid, err)
		}
		members = append(members, pid)
	}
	unix.Close(m.start[1])
	for range c.Processes {
		if _, err := unix.Read(m.mapped[0], make([]byte, 1)); err != nil {
			return err
		}
	}
	unix.Close(m.end[1])
	var failed error
	for _, pid := range members {
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
			return err
		}
		if status.ExitStatus() != 0 {
			failed = errors.Join(failed, fmt.Errorf("process %d: %w", pid, unix.Errno(status.ExitStatus())))
		}
	}
	return failed
}

// member is what one of the crowd does. It waits until the pipes start and end are
// closed, and tells through the pipe mapped.
type member struct {
	event, size        uintptr
	start, mapped, end [2]int
	atOnce             bool
}

// fork makes a member with a number of our choice (clone3, 5.5). It runs nothing but
// system calls, for a copy of one thread is no Go program, and exits with the error.
func (m *member) fork(pid int32) error {
	args := struct {
		flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize uint64
	}{exitSignal: uint64(unix.SIGCHLD), setTID: uint64(uintptr(unsafe.Pointer(&pid))), setTIDSize: 1}
	child, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if errno != 0 {
		return errno
	}
	if child != 0 {
		return nil
	}
	var b [1]byte
	word := uintptr(unsafe.Pointer(&b))
	unix.RawSyscall(unix.SYS_CLOSE, uintptr(m.start[1]), 0, 0)
	unix.RawSyscall(unix.SYS_CLOSE, uintptr(m.end[1]), 0, 0)
	unix.RawSyscall(unix.SYS_READ, uintptr(m.start[0]), word, 1)
	address, _, errno := unix.RawSyscall6(unix.SYS_MMAP, 0, m.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED, m.event, 0)
	unix.RawSyscall(unix.SYS_WRITE, uintptr(m.mapped[1]), word, 1)
	if !m.atOnce {
		unix.RawSyscall(unix.SYS_READ, uintptr(m.end[0]), word, 1)
	}
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_MUNMAP, address, m.size, 0)
	}
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
}
