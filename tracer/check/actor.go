package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// An actor is a process of a scenario: this program once more, which does one
// system call after the other as it is told to over a socket. What a scenario
// does stands in the checker; what the kernel charges for it, it charges to this
// process and to a throwaway user. An actor ends when its socket does.
//
// A user is what a thread is, and starting a process is most of what a scenario
// costs in an emulated guest. So each life of an actor is a thread of its own, which
// becomes the user, and the next scenario may have the process for another one.

// controlFD is the actor's end of the socket.
const controlFD = 3

// request is one thing to do. Each op uses the fields that it needs.
type request struct {
	Op      string   `json:"op"`
	FD      int      `json:"fd"`
	Other   int      `json:"other"`
	Addr    uintptr  `json:"addr"`
	Bytes   uintptr  `json:"bytes"`
	Offset  uintptr  `json:"offset"` // bytes
	Prot    uintptr  `json:"prot"`
	Flags   uintptr  `json:"flags"`
	N       int      `json:"n"`
	Pages   int64    `json:"pages"`
	Type    uint32   `json:"type"`
	UID     int      `json:"uid"`
	Caps    []string `json:"caps"`
	Threads int      `json:"threads"`
	Accept  []int    `json:"accept"` // errnos that a storm may meet
}

// reply is what came of it.
type reply struct {
	Errno int      `json:"errno"`
	Value int64    `json:"value"`
	Notes []string `json:"notes"`
	Error string   `json:"error"` // what should not happen; Errno is what may
}

// actor is the process's own side.
type actor struct {
	sock    int
	rights  int   // descriptor that came with the request; -1: none
	send    int   // descriptor to go with the reply; -1: none
	events  []int // opened while there were the privileges, and free to use
	opened  []int // all descriptors of this life
	user    *user // that the threads of this life are; nil: root
	objects objects
}

// user is who an actor becomes.
type user struct {
	uid  int
	caps []string
}

// act serves requests until the socket ends.
func act() (err error) {
	unix.CloseOnExec(controlFD)
	for again := true; again && err == nil; {
		a := &actor{sock: controlFD}
		onThread(func() { again, err = a.live() })
	}
	return err
}

// onThread runs something on a thread that ends with it, and with it who the
// thread has become.
func onThread(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the runtime ends such a thread
		if unix.Gettid() == unix.Getpid() {
			// But not the main one. While this waits on it, others run elsewhere.
			onThread(do)
			runtime.UnlockOSThread()
			return
		}
		do()
	}()
	<-done
}

// live serves requests for one life. It says whether there may be another one.
func (a *actor) live() (again bool, err error) {
	if err := a.reply(reply{}); err != nil { // ready
		return false, err
	}
	buffer, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(a.sock, buffer, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return false, nil // the checker is gone
		}
		a.rights, a.send = received(oob[:oobn]), -1
		if a.rights >= 0 {
			a.opened = append(a.opened, a.rights)
		}
		var r request
		if err := json.Unmarshal(buffer[:n], &r); err != nil {
			return false, err
		}
		if r.Op == "retire" {
			for _, fd := range a.opened {
				unix.Close(fd)
			}
			return true, nil
		}
		if err := a.reply(a.do(&r)); err != nil {
			return false, err
		}
	}
}

func received(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return -1
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return -1
	}
	return fds[0]
}

func (a *actor) reply(r reply) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var oob []byte
	if a.send > 0 {
		oob = unix.UnixRights(a.send)
	}
	return unix.Sendmsg(a.sock, text, oob, nil, 0)
}

// result is the reply for a system call.
func result(value uintptr, errno unix.Errno) reply {
	if errno != 0 {
		return reply{Errno: int(errno)}
	}
	return reply{Value: int64(value)}
}

// failed is the reply for an error: a system call's, or one that should not be.
func failed(err error) reply {
	var errno unix.Errno
	switch {
	case err == nil:
		return reply{}
	case errors.As(err, &errno):
		return reply{Errno: int(errno), Error: err.Error()}
	}
	return reply{Errno: -1, Error: err.Error()}
}

func (a *actor) do(r *request) reply {
	switch r.Op {
	case "become":
		a.user = &user{r.UID, r.Caps}
		return failed(a.user.become())
	case "capability":
		return failed(raise(r.Caps[0], r.N != 0))
	case "reserve":
		return a.reserve(r.N)
	case "open":
		return a.openEvent(r.Type)
	case "take":
		return a.take()
	case "redirect":
		return failed(unix.IoctlSetInt(r.FD, unix.PERF_EVENT_IOC_SET_OUTPUT, r.Other))
	case "mmap":
		return result(mmapAt(r.Addr, r.FD, r.Bytes, r.Offset, r.Prot, r.Flags))
	case "munmap":
		_, _, errno := unix.Syscall(unix.SYS_MUNMAP, r.Addr, r.Bytes, 0)
		return result(0, errno)
	case "cover":
		return cover(r.Addr, r.Bytes)
	case "move":
		return move(r.Addr, r.Bytes)
	case "resize":
		got, _, errno := unix.Syscall6(unix.SYS_MREMAP, r.Addr, r.Bytes, uintptr(r.Pages*page()), unix.MREMAP_MAYMOVE, 0, 0)
		return result(got, errno)
	case "mprotect":
		_, _, errno := unix.Syscall(unix.SYS_MPROTECT, r.Addr, r.Bytes, r.Prot)
		return result(0, errno)
	case "announce-aux":
		return announce(r)
	case "close":
		a.opened = slices.DeleteFunc(a.opened, func(fd int) bool { return fd == r.FD })
		return failed(unix.Close(r.FD))
	case "send":
		a.send = r.FD
		return reply{}
	case "receive":
		return reply{Value: int64(a.rights)}
	case "room":
		return a.measureRoom(r.Pages)
	case "storm":
		return a.storm(r)
	case "bpf-map-inside":
		return bpfMapInside(a.rights, r.Pages)
	case "uring-inside":
		return uringInside(a.rights, r.Pages)
	case "end-child":
		unix.Kill(r.N, unix.SIGKILL)
		_, err := waitFor(r.N, 0)
		return failed(err)
	case "fork":
		return forkAndExit()
	case "exit":
		os.Exit(0)
	case "exec":
		return failed(execAgain(a.sock))
	}
	if do := a.objects.op(r.Op); do != nil {
		return do(r)
	}
	return reply{Errno: -1, Error: "no such op: " + r.Op}
}

// become makes this thread, which is root's, the user with just its capabilities.
// The calls are made for this thread alone: Go's own, and libcap's, stop all threads
// of the process for each.
func (u *user) become() error {
	if u == nil {
		return nil
	}
	var caps [2]unix.CapUserData
	for _, name := range u.caps {
		value, err := cap.FromName(name)
		if err != nil {
			return fmt.Errorf("capability %q: %w", name, err)
		}
		caps[value/32].Permitted |= 1 << (value % 32)
		caps[value/32].Effective |= 1 << (value % 32)
	}
	id := uintptr(u.uid)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("leave all groups: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); errno != 0 {
		return fmt.Errorf("become gid %d: %w", u.uid, errno)
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); errno != 0 {
		return fmt.Errorf("become uid %d: %w", u.uid, errno)
	}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]); err != nil {
		return fmt.Errorf("keep capabilities %v: %w", u.caps, err)
	}
	return nil
}

// raise makes a capability that this thread has effective, or not.
func raise(name string, effective bool) error {
	value, err := cap.FromName(name)
	if err != nil {
		return fmt.Errorf("capability %q: %w", name, err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return err
	}
	caps[value/32].Effective &^= 1 << (value % 32)
	if effective {
		caps[value/32].Effective |= 1 << (value % 32)
	}
	return unix.Capset(&header, &caps[0])
}

func (a *actor) openEvent(kind uint32) reply {
	attr := kernel.DummyEvent()
	if kind != attr.Type {
		attr.Type, attr.Config, attr.Bits = kind, 0, unix.PerfBitDisabled
	}
	fd, err := unix.PerfEventOpen(attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return failed(fmt.Errorf("perf_event_open: %w", err))
	}
	a.opened = append(a.opened, fd)
	return reply{Value: int64(fd)}
}

// reserve opens events for later: perf_event_paranoid may refuse the user that
// the actor becomes. Mapping is what counts here.
func (a *actor) reserve(n int) reply {
	for range n {
		opened := a.openEvent(unix.PERF_TYPE_SOFTWARE)
		if opened.Errno != 0 {
			return opened
		}
		a.events = append(a.events, int(opened.Value))
	}
	return reply{}
}

// take gives one of the reserved events out.
func (a *actor) take() reply {
	if len(a.events) == 0 {
		return reply{Errno: -1, Error: "no event is left in reserve"}
	}
	fd := a.events[0]
	a.events = a.events[1:]
	return reply{Value: int64(fd)}
}

func mmap(fd int, bytes, offset, prot, flags uintptr) (uintptr, unix.Errno) {
	return mmapAt(0, fd, bytes, offset, prot, flags)
}

func mmapAt(addr uintptr, fd int, bytes, offset, prot, flags uintptr) (uintptr, unix.Errno) {
	addr, _, errno := unix.Syscall6(unix.SYS_MMAP, addr, bytes, prot, flags, uintptr(fd), offset)
	return addr, errno
}

const readWrite = unix.PROT_READ | unix.PROT_WRITE

// pointer makes one of an address that mmap gave: no memory of Go's.
func pointer(addr uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&addr)) }

// move moves a mapping to another address, which charges nothing.
func move(addr, bytes uintptr) reply {
	there, errno := mmap(-1, bytes, 0, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if errno != 0 {
		return result(0, errno)
	}
	const flags = unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED
	got, _, errno := unix.Syscall6(unix.SYS_MREMAP, addr, bytes, bytes, flags, there, 0)
	if errno != 0 {
		unix.Syscall(unix.SYS_MUNMAP, there, bytes, 0)
	}
	return result(got, errno)
}

// cover maps something else over a mapping, and unmaps that.
func cover(addr, bytes uintptr) reply {
	const flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED
	_, _, errno := unix.Syscall6(unix.SYS_MMAP, addr, bytes, unix.PROT_NONE, flags, ^uintptr(0), 0)
	if errno == 0 {
		_, _, errno = unix.Syscall(unix.SYS_MUNMAP, addr, bytes, 0)
	}
	return result(0, errno)
}

// announce writes the place of an AUX area into the control page, if that is still there to
// be written to.
func announce(r *request) (came reply) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			came = reply{Errno: int(unix.EFAULT)}
		}
	}()
	page := (*unix.PerfEventMmapPage)(pointer(r.Addr))
	page.Aux_offset, page.Aux_size = uint64(r.Offset), uint64(r.Bytes)
	return reply{}
}

// measureRoom maps the largest buffers that are not refused, down to single
// pages, and unmaps them: with an RLIMIT_MEMLOCK of 0 that is what is left of
// the user's allowance, to the page, by the witness of EPERM alone. It stops at
// most pages. The notes hold the number of buffers mapped.
func (a *actor) measureRoom(most int64) reply {
	var sum int64
	type mapping struct{ addr, bytes uintptr }
	var mappings []mapping
	defer func() {
		for _, m := range mappings {
			unix.Syscall(unix.SYS_MUNMAP, m.addr, m.bytes, 0)
		}
	}()
	page := uintptr(os.Getpagesize())
	size := int64(1)
	for size*2 <= most {
		size *= 2
	}
	for size >= 0 { // data pages; 0: the control page alone
		if sum+size+1 > most {
			size = smaller(size)
			continue
		}
		if len(mappings) == len(a.events) {
			return reply{Errno: -1, Error: "no event is left in reserve"}
		}
		bytes := uintptr(size+1) * page
		addr, errno := mmap(a.events[len(mappings)], bytes, 0, readWrite, unix.MAP_SHARED)
		if errno != 0 {
			if errno != unix.EPERM {
				return failed(fmt.Errorf("map %d pages: %w", size+1, errno))
			}
			size = smaller(size)
			continue
		}
		sum += size + 1
		mappings = append(mappings, mapping{addr, bytes})
	}
	return reply{Value: sum, Notes: []string{fmt.Sprint(len(mappings))}}
}

// smaller is the next smaller number of data pages; below 0 there is none.
func smaller(size int64) int64 {
	if size == 0 {
		return -1
	}
	return size / 2
}

// storm maps and unmaps in several threads at once: an event of each thread's
// own, or, with FD, all the same one. The value counts the mappings made.
func (a *actor) storm(r *request) reply {
	bytes := uintptr(r.Pages) * uintptr(os.Getpagesize())
	var made atomic.Int64
	failures := make(chan error, r.Threads)
	var ready, wait sync.WaitGroup
	ready.Add(r.Threads)
	for range r.Threads {
		fd := r.FD
		if fd < 0 {
			taken := a.take()
			if taken.Errno != 0 {
				return taken
			}
			fd = int(taken.Value)
		}
		wait.Go(func() {
			onThread(func() {
				err := a.user.become()
				if err == nil {
					err = mapAndUnmap(fd, bytes, r, &made, &ready)
				} else {
					ready.Done()
				}
				if err != nil {
					failures <- err
				}
			})
		})
	}
	wait.Wait()
	close(failures)
	if err := <-failures; err != nil {
		return failed(err)
	}
	return reply{Value: made.Load()}
}

// mapAndUnmap is what one thread of a storm does.
func mapAndUnmap(fd int, bytes uintptr, r *request, made *atomic.Int64, ready *sync.WaitGroup) error {
	for round := range r.N {
		addr, errno := mmap(fd, bytes, 0, readWrite, unix.MAP_SHARED)
		if errno == 0 {
			made.Add(1)
		}
		if round == 0 { // once, all threads have it mapped
			ready.Done()
			ready.Wait()
		}
		switch errno {
		case 0:
			runtime.Gosched()
			if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, addr, bytes, 0); errno != 0 {
				return fmt.Errorf("munmap: %w", errno)
			}
		case unix.EAGAIN, unix.EINVAL, unix.EBUSY:
			// A new mapping that meets the end of the old one may be told to try
			// again, or that there is none.
		default:
			if !slices.Contains(r.Accept, int(errno)) {
				return errno
			}
		}
	}
	return nil
}

// execAgain runs this program again on the same socket: what was mapped goes
// with the mm.
func execAgain(sock int) error {
	if _, err := unix.FcntlInt(uintptr(sock), unix.F_SETFD, 0); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, os.Environ())
}
