package accounting

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/child"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// Children are the processes that this package starts.
func Children() child.Table {
	return child.Table{throwaway: child.Of(func(t task) error {
		var a answer
		f, err := t.run()
		if err != nil {
			a.Error = err.Error()
		}
		a.Finding = f
		return json.NewEncoder(os.Stdout).Encode(a)
	})}
}

const throwaway = "accounting"

// task is what the throwaway user is to do.
type task struct {
	UID       int   `json:"uid"`
	Allowance int64 `json:"allowance_pages"`
}

// answer is what the child says.
type answer struct {
	Finding Finding `json:"finding"`
	Error   string  `json:"error"` // why it could not be seen; "": it could
}

// tryTime is far more than the experiment needs.
const tryTime = 30 * time.Second

// firstUID is the first of the uids that the experiment takes: nobody's.
const firstUID = 0x7ffe0000

// Try makes the experiment. It takes a user that nobody else is, whose counter goes with
// its one process, and whatever the kernel forgets to give back with it.
func Try(ctx context.Context) (Finding, error) {
	if !kernel.HasCapability(unix.CAP_SETUID) || !kernel.HasCapability(unix.CAP_SETGID) {
		return Finding{}, errors.New("becoming a throwaway user takes CAP_SETUID and CAP_SETGID: run as root")
	}
	settings, err := kernel.ReadSettings()
	if err != nil {
		return Finding{}, err
	}
	allowance := settings.UserLockLimit()
	if allowance < 0 {
		return Finding{}, fmt.Errorf("perf_event_mlock_kb is %d, which is no limit: nothing is charged past it", settings.MlockKiB)
	}
	if most := mostPages(); allowance > most {
		return Finding{}, fmt.Errorf("a user's allowance is %d pages here: more memory than is mapped just for this (%d pages)", allowance, most)
	}
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	f, err := ask(ctx, task{UID: firstUID + os.Getpid()%0xffff, Allowance: allowance})
	if now, readErr := kernel.ReadSettings(); err == nil && (readErr != nil || now != settings) {
		return Finding{}, errors.New("perf_event_mlock_kb or the online CPUs were changed meanwhile: try again")
	}
	return f, err
}

func ask(ctx context.Context, t task) (Finding, error) {
	cmd := child.Command(ctx, throwaway, t)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return Finding{}, fmt.Errorf("experiment with a throwaway user: %w: %s", err, strings.TrimSpace(complaints.String()))
	}
	var a answer
	if err := json.Unmarshal(out, &a); err != nil {
		return Finding{}, fmt.Errorf("experiment with a throwaway user: %w", err)
	}
	if a.Error != "" {
		return Finding{}, errors.New("experiment with a throwaway user: " + a.Error)
	}
	return a.Finding, nil
}

// mostPages bounds the memory that is mapped: 64 MiB, or a small part of what there is.
func mostPages() int64 {
	most := int64(64 << 20)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		most = max(most, int64(info.Totalram*uint64(info.Unit)/64))
	}
	return most / int64(os.Getpagesize())
}

// run is the child's side.
func (t task) run() (Finding, error) {
	p := &process{page: os.Getpagesize()}
	for range len(sizes(t.Allowance)) + spare {
		fd, err := unix.PerfEventOpen(kernel.DummyEvent(), 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			return Finding{}, fmt.Errorf("perf_event_open: %w", err)
		}
		p.events = append(p.events, fd)
	}
	// The limit is no part of this, but it must leave room.
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit) != nil && unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) == nil {
		limit.Cur = limit.Max
		unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit)
	}
	if err := errors.Join(unix.Setgroups(nil), unix.Setresgid(t.UID, t.UID, t.UID), unix.Setresuid(t.UID, t.UID, t.UID)); err != nil {
		return Finding{}, fmt.Errorf("become uid %d: %w", t.UID, err)
	}
	return observe(p, t.Allowance)
}

// spare is how many events the experiment needs besides those that fill the allowance.
const spare = 12

// process is the throwaway user's one process.
type process struct {
	page   int
	events []int    // opened while there were the privileges
	mapped [][]byte // by events
}

// Map maps the next event.
func (p *process) Map(pages int64) (buffer int, extra int64, err error) {
	before, err := kernel.VmPin("self")
	if err != nil {
		return 0, 0, err
	}
	buffer = len(p.mapped)
	data, err := p.mmap(buffer, int(pages)*p.page)
	if err != nil {
		return 0, 0, fmt.Errorf("map %d pages: %w", pages, err)
	}
	p.mapped = append(p.mapped, data)
	after, err := kernel.VmPin("self")
	return buffer, (after - before) * 1024 / int64(p.page), err
}

func (p *process) mmap(buffer, size int) ([]byte, error) {
	return unix.Mmap(p.events[buffer], 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// Again maps a buffer once more, and unmaps that.
func (p *process) Again(buffer int) error {
	data, err := p.mmap(buffer, len(p.mapped[buffer]))
	if err != nil {
		return fmt.Errorf("map a buffer again: %w", err)
	}
	return unix.Munmap(data)
}

// Unmap ends a buffer.
func (p *process) Unmap(buffer int) error { return unix.Munmap(p.mapped[buffer]) }

// Pin registers a buffer with an io_uring, which stays until the process ends.
func (p *process) Pin(pages int64) error {
	memory, err := unix.Mmap(-1, 0, int(pages)*p.page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	// A huge page would be charged whole. Kernels without any have no such advice.
	unix.Madvise(memory, unix.MADV_NOHUGEPAGE)
	var params [120]byte // struct io_uring_params
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return errno
	}
	vector := unix.Iovec{Base: &memory[0]}
	vector.SetLen(len(memory))
	const registerBuffers = 0 // IORING_REGISTER_BUFFERS
	_, _, errno = unix.Syscall6(unix.SYS_IO_URING_REGISTER, ring, registerBuffers, uintptr(unsafe.Pointer(&vector)), 1, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
