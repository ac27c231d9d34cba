package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Refused makes one system call that the kernel may refuse, and says what came of it.
type Refused struct {
	Call    string   // one of RefusedCalls
	UID     int      // to become; -1: stay
	Caps    []string // to keep
	Memlock int64    // RLIMIT_MEMLOCK in bytes; -1: leave it alone
	Count   int      // entries of a ring, buffers, or sends
	Bytes   int      // of a buffer, a umem, or a send
	Offset  int      // of a buffer from the beginning of a page, in bytes
	Huge    bool     // buffers lie on huge pages, where the kernel has some
}

// Outcome is what a call returned, by the witness of the call itself.
type Outcome struct {
	Call  string `json:"call"`
	Errno int    `json:"errno"`
	Made  int    `json:"made"` // of those that were to be made, how many there are
}

var refusedCalls = map[string]func(*Refused) (made int, err error){
	"ring":    (*Refused).ring,
	"buffers": (*Refused).buffers,
	"umem":    (*Refused).umem,
	"sends":   (*Refused).sends,
}

// RefusedCalls are the names of the calls.
func RefusedCalls() []string { return slices.Sorted(maps.Keys(refusedCalls)) }

// Run makes the call, and writes what came of it as a JSON line.
func (r *Refused) Run(out io.Writer) error {
	call := refusedCalls[r.Call]
	if call == nil {
		return fmt.Errorf("call %q: want one of %s", r.Call, strings.Join(RefusedCalls(), ", "))
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if r.Memlock >= 0 {
		limit := unix.Rlimit{Cur: uint64(r.Memlock), Max: uint64(r.Memlock)}
		if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &limit, nil); err != nil {
			return fmt.Errorf("set RLIMIT_MEMLOCK: %w", err)
		}
	}
	if err := (&RunAs{UID: r.UID, Caps: r.Caps}).become(); err != nil {
		return err
	}
	runtime.LockOSThread()
	made, err := call(r)
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		return err
	}
	return json.NewEncoder(out).Encode(Outcome{r.Call, int(errno), made})
}

func (r *Refused) ring() (int, error) {
	fd, err := newRing(r.Count)
	if err != nil {
		return 0, err
	}
	return 1, unix.Close(fd)
}

// newRing makes an io_uring, and returns its file descriptor.
func newRing(entries int) (int, error) {
	var params [120]byte // struct io_uring_params
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// buffers registers all of them at once.
func (r *Refused) buffers() (int, error) {
	fd, err := newRing(1)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	memory, err := r.memory(r.Count*r.Bytes + r.Offset)
	if err != nil {
		return 0, err
	}
	vectors := make([]unix.Iovec, r.Count)
	for i := range vectors {
		vectors[i].Base = &memory[r.Offset+i*r.Bytes]
		vectors[i].SetLen(r.Bytes)
	}
	const registerBuffers = 0
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), registerBuffers, uintptr(unsafe.Pointer(&vectors[0])), uintptr(r.Count), 0, 0); errno != 0 {
		return 0, errno
	}
	return r.Count, nil
}

// memory is so many bytes at the beginning of a page, on huge pages or on none.
func (r *Refused) memory(bytes int) ([]byte, error) {
	const huge = 2 << 20
	page := os.Getpagesize()
	memory, err := anonymous((bytes + 2*huge) / page)
	if err != nil {
		return nil, err
	}
	advice := unix.MADV_NOHUGEPAGE
	if r.Huge {
		advice = unix.MADV_HUGEPAGE
	}
	if err := unix.Madvise(memory, advice); err != nil {
		return nil, fmt.Errorf("huge pages: %w", err)
	}
	skip := (huge - int(uintptr(unsafe.Pointer(&memory[0]))%huge)) % huge
	memory = memory[skip:]
	for i := 0; i < bytes; i += page {
		memory[i] = 1 // so that it is there
	}
	return memory, nil
}

func (r *Refused) umem() (int, error) {
	release, err := xdpUmem(r.Bytes / os.Getpagesize())
	if err != nil {
		return 0, err
	}
	release()
	return 1, nil
}

// sends are under way at once.
func (r *Refused) sends() (int, error) {
	made, release, err := zeroCopy(r.Bytes, r.Count)
	if err == nil {
		release()
	}
	return made, err
}
