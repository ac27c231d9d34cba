package check

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Children of an actor are copies of it that make nothing but system calls: they want no
// memory, which a cgroup may not have, and nothing of the runtime, which is of threads that
// they do not have.

// forkAndExit makes a child by fork(2), with a copy of this mm, that ends at
// once, and waits for it.
func forkAndExit() reply {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return result(0, errno)
	}
	if pid == 0 {
		for {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	_, err := waitFor(int(pid), 0)
	return failed(err)
}

// waitFor waits for a child to end, or for what the options say besides.
func waitFor(pid, options int) (status unix.WaitStatus, err error) {
	for {
		_, err = unix.Wait4(pid, &status, options, nil)
		if !errors.Is(err, unix.EINTR) {
			return status, err
		}
	}
}

// inside has a child in a cgroup make a system call, with the argument behind its first one a
// pointer. Its errno is the child's exit status. A child that has got something stops, and is
// the value; where it is not to hold it, it ends.
func inside(cgroup int, hold bool, call, first uintptr, p unsafe.Pointer, last uintptr) reply {
	clone := struct {
		flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
	}{flags: unix.CLONE_INTO_CGROUP, exitSignal: uint64(unix.SIGCHLD), cgroup: uint64(cgroup)}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&clone)), unsafe.Sizeof(clone), 0)
	if errno != 0 {
		return failed(fmt.Errorf("make a child in a cgroup: %w", errno))
	}
	if pid == 0 {
		_, _, errno = unix.RawSyscall(call, first, uintptr(p), last)
		if errno == 0 && hold {
			self, _, _ := unix.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
			unix.RawSyscall(unix.SYS_KILL, self, uintptr(unix.SIGSTOP), 0)
		}
		for {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(min(errno, 255)), 0, 0)
		}
	}
	status, err := waitFor(int(pid), unix.WUNTRACED)
	switch {
	case err != nil:
		return failed(err)
	case status.Stopped():
		return reply{Value: int64(pid)}
	case !status.Exited():
		return failed(fmt.Errorf("the child in the cgroup was ended by %v", status.Signal()))
	}
	return reply{Errno: status.ExitStatus()}
}

// bpfMapInside has a child create one array map, and end with it.
func bpfMapInside(cgroup int, pages int64) reply {
	spec := arrayOf(pages)
	attr := [5]uint32{uint32(spec.Type), spec.KeySize, spec.ValueSize, spec.MaxEntries} // and map_flags
	return inside(cgroup, false, unix.SYS_BPF, unix.BPF_MAP_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

// uringInside has a child make an io_uring of some entries, and hold it.
func uringInside(cgroup int, entries int64) reply {
	var params uringParams
	return inside(cgroup, true, unix.SYS_IO_URING_SETUP, uintptr(entries), unsafe.Pointer(&params), 0)
}
