// Package workload makes processes that use locked memory, for the demo, the
// tests, and anyone who wants to see the tool work.
package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"golang.org/x/sys/unix"
)

// PerfBuffers maps perf buffers until the kernel refuses, and unmaps them.
type PerfBuffers struct {
	UID     int           // to become; -1: stay
	Memlock int64         // RLIMIT_MEMLOCK in bytes; -1: leave it alone
	Pages   int           // data pages of a buffer: a power of two
	Max     int           // buffers at most; 0: until refused
	Again   int           // further mappings of every buffer, unmapped at once
	Hold    time.Duration // between the last mapping and the first unmapping
	Pause   time.Duration // between two steps
	JSON    bool          // one object per step, for programs
	Quiet   bool          // no output
}

// Step is what a step did, by the witness of the system call and of VmPin.
type Step struct {
	Step      string `json:"step"` // "map", "refused" or "unmap"
	Buffer    int    `json:"buffer"`
	Pages     int    `json:"pages"`
	Errno     int    `json:"errno"`
	VmPinKiB  int64  `json:"vm_pin_kib"` // of /proc/self/status, after the step
	PageBytes int    `json:"page_bytes"`
}

// Run runs the workload and writes its steps to out.
func (p *PerfBuffers) Run(out io.Writer) error {
	if p.Pages < 1 || p.Pages&(p.Pages-1) != 0 {
		return fmt.Errorf("--pages %d: want a power of two", p.Pages)
	}
	count, err := p.enough()
	if err != nil {
		return err
	}
	// The events are opened while the privileges are still there: Debian's
	// perf_event_paranoid of 3 refuses ordinary users. Mapping is what counts
	// here, and is left to the uid.
	events, err := openEvents("", count)
	if err != nil {
		return err
	}
	defer func() {
		for _, fd := range events {
			unix.Close(fd)
		}
	}()
	if err := p.drop(); err != nil {
		return err
	}
	// VmPin is read through this thread; Go's threads share the mm.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return p.mapAll(events, out)
}

// enough is how many buffers exhaust the allowance and the limit, and one more.
func (p *PerfBuffers) enough() (int, error) {
	if p.Max > 0 {
		return p.Max, nil
	}
	limit := p.Memlock
	if limit < 0 {
		var now unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &now); err != nil {
			return 0, err
		}
		limit = int64(min(now.Cur, 1<<62))
	}
	mlock, err := os.ReadFile("/proc/sys/kernel/perf_event_mlock_kb")
	if err != nil {
		return 0, fmt.Errorf("%w: requires a kernel with CONFIG_PERF_EVENTS", err)
	}
	kib, err := strconv.ParseInt(strings.TrimSpace(string(mlock)), 10, 64)
	if err != nil {
		return 0, err
	}
	size := int64(p.Pages+1) * int64(os.Getpagesize())
	need := (limit+kib*1024*int64(runtime.NumCPU()))/size + 2
	const most = 1000
	if need > most {
		return most, nil
	}
	return int(need), nil
}

// eventOf is an event that counts nothing worth knowing, of a PMU: "" is the
// kernel's own dummy.
func eventOf(pmu string) (unix.PerfEventAttr, error) {
	attr := *kernel.DummyEvent()
	if pmu == "" {
		return attr, nil
	}
	kind, err := kernel.PMUType(pmu)
	if err != nil {
		return attr, fmt.Errorf("AUX area: requires a PMU that has one: %w", err)
	}
	attr.Type, attr.Config = kind, 0
	return attr, nil
}

// openEvents opens so many events of this process, of a PMU.
func openEvents(pmu string, count int) ([]int, error) {
	attr, err := eventOf(pmu)
	if err != nil {
		return nil, err
	}
	fds := make([]int, 0, count)
	for range count {
		fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			return nil, fmt.Errorf("perf_event_open: %w (perf_event_paranoid may refuse this user: run as root, the workload drops the privileges itself)", err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// drop sets the limit and becomes the uid, which takes CAP_IPC_LOCK away.
func (p *PerfBuffers) drop() error {
	if p.Memlock >= 0 {
		limit := unix.Rlimit{Cur: uint64(p.Memlock), Max: uint64(p.Memlock)}
		if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &limit, nil); err != nil {
			return fmt.Errorf("set RLIMIT_MEMLOCK to %d: %w", p.Memlock, err)
		}
	}
	if p.UID < 0 || p.UID == os.Getuid() {
		return nil
	}
	if err := unix.Setgroups(nil); err != nil {
		return fmt.Errorf("become uid %d: %w (needs root)", p.UID, err)
	}
	if err := unix.Setresgid(p.UID, p.UID, p.UID); err != nil {
		return fmt.Errorf("become gid %d: %w", p.UID, err)
	}
	if err := unix.Setresuid(p.UID, p.UID, p.UID); err != nil {
		return fmt.Errorf("become uid %d: %w", p.UID, err)
	}
	return nil
}

func (p *PerfBuffers) mapAll(events []int, out io.Writer) error {
	size := (p.Pages + 1) * os.Getpagesize()
	var mapped [][]byte
	for i, fd := range events {
		data, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		var errno unix.Errno
		if err != nil && !errors.As(err, &errno) {
			return err
		}
		step := "map"
		if err != nil {
			step = "refused"
		}
		if err := p.report(out, step, i+1, errno); err != nil {
			return err
		}
		if err != nil {
			break
		}
		mapped = append(mapped, data)
		if err := p.mapAgain(fd, size); err != nil {
			return fmt.Errorf("map buffer %d again: %w", i+1, err)
		}
		time.Sleep(p.Pause)
	}
	time.Sleep(p.Hold)
	for i, data := range mapped {
		if err := unix.Munmap(data); err != nil {
			return fmt.Errorf("unmap buffer %d: %w", i+1, err)
		}
		if err := p.report(out, "unmap", i+1, 0); err != nil {
			return err
		}
		time.Sleep(p.Pause)
	}
	return nil
}

func (p *PerfBuffers) mapAgain(fd, size int) error {
	for range p.Again {
		data, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		if err := unix.Munmap(data); err != nil {
			return err
		}
	}
	return nil
}

func (p *PerfBuffers) report(out io.Writer, step string, buffer int, errno unix.Errno) error {
	pin, err := kernel.VmPin("self")
	if err != nil {
		return err
	}
	s := Step{Step: step, Buffer: buffer, Pages: p.Pages + 1, Errno: int(errno), VmPinKiB: pin, PageBytes: os.Getpagesize()}
	if p.JSON {
		return json.NewEncoder(out).Encode(s)
	}
	if p.Quiet {
		return nil
	}
	said := "ok"
	if errno != 0 {
		said = rule.ErrnoName(errno)
	}
	_, err = fmt.Fprintf(out, "workload: %-7s buffer %d, %d pages: %s, VmPin %d kB\n", s.Step, s.Buffer, s.Pages, said, s.VmPinKiB)
	return err
}
