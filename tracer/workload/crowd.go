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
}

// crowdApart is by how much their numbers differ.
const crowdApart = 1024

// Run starts them, lets them go, and waits until all have mapped and unmapped.
func (c *Crowd) Run() error {
	events, err := openEvents("", 1)
	if err != nil {
		return err
	}
	var gate [2]int
	if err := unix.Pipe(gate[:]); err != nil {
		return err
	}
	size := uintptr((c.Pages + 1) * os.Getpagesize())
	first := (os.Getpid()/crowdApart + 1) * crowdApart
	var children []int
	for i := range c.Processes {
		pid := int32(first + i*crowdApart)
		if err := forkAs(&pid, gate, events[0], size); err != nil {
			return fmt.Errorf("start process %d: %w", pid, err)
		}
		children = append(children, int(pid))
	}
	unix.Close(gate[0])
	unix.Close(gate[1])
	var failed error
	for _, pid := range children {
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

// forkAs makes a child with a number of its own choice (clone3, 5.5), which waits
// until the gate is closed, maps the event, unmaps it and exits with the error.
// It runs nothing but system calls: a copy of one thread is no Go program.
func forkAs(pid *int32, gate [2]int, event int, size uintptr) error {
	args := struct {
		flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize uint64
	}{exitSignal: uint64(unix.SIGCHLD), setTID: uint64(uintptr(unsafe.Pointer(pid))), setTIDSize: 1}
	child, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if errno != 0 {
		return errno
	}
	if child != 0 {
		return nil
	}
	var nothing [1]byte
	unix.RawSyscall(unix.SYS_CLOSE, uintptr(gate[1]), 0, 0)
	unix.RawSyscall(unix.SYS_READ, uintptr(gate[0]), uintptr(unsafe.Pointer(&nothing)), 1)
	address, _, errno := unix.RawSyscall6(unix.SYS_MMAP, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED, uintptr(event), 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_MUNMAP, address, size, 0)
	}
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
}
