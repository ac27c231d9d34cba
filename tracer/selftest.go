package tracer

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/probe"
)

// A probe that attaches is not a probe that fires: the compiler may have inlined
// the function and left a symbol behind, and an emulated machine may lose a
// breakpoint. So one call of each kind is made, and every probe must see it.

// errSilent says that a probe is attached and does not fire.
var errSilent = errors.New("attached, but silent")

// errNoSelfTest says that the self-test could not be made.
var errNoSelfTest = errors.New("no self-test")

// selfTest makes one call of each kind and asks every probe for it. Events of
// others that come meanwhile are kept for Events.
func (t *Tracer) selfTest() (states []probe.State, err error) {
	// The kernel counts the runs of BPF programs only while asked to (5.8+).
	// Where it does not, the reports alone must do.
	counted := false
	if stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME)); err == nil {
		defer stats.Close()
		counted = true
	}
	calls, err := exercise()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSelfTest, err)
	}
	seen, err := t.awaitOwn(calls)
	if err != nil {
		return nil, err
	}
	if !counted {
		states = t.perf.Assumed(seen == calls)
	} else if states, err = allFired(t.perf); err != nil {
		return states, err
	}
	if seen < calls {
		return states, fmt.Errorf("%w: the self-test made %d calls and %d were reported", errSilent, calls, seen)
	}
	return states, nil
}

// allFired fails if one that must has not.
func allFired(set *probe.Set) ([]probe.State, error) {
	states, silent, err := set.Fired()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSelfTest, err)
	}
	if len(silent) > 0 {
		return states, fmt.Errorf("%w: the probes on %v", errSilent, silent)
	}
	return states, nil
}

// exercise maps a small buffer, asks for an impossible one, and unmaps the first.
// It returns the number of calls that must be reported. It maps nothing twice:
// there are kernels that charge for that and never give it back.
func exercise() (calls int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.PerfEventOpen(kernel.DummyEvent(), 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("perf_event_open: %w", err)
	}
	defer unix.Close(fd)
	page := os.Getpagesize()
	data, err := unix.Mmap(fd, 0, 2*page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("map a perf buffer: %w", err)
	}
	if odd, err := unix.Mmap(fd, 0, 4*page, unix.PROT_READ, unix.MAP_SHARED); err == nil {
		unix.Munmap(odd)
		unix.Munmap(data)
		return 0, errors.New("a perf buffer of three data pages was mapped, which no kernel should allow")
	}
	if err := unix.Munmap(data); err != nil {
		return 0, fmt.Errorf("unmap a perf buffer: %w", err)
	}
	return 3, nil
}

// awaitOwn reads until so many events of this process were seen, or a second has
// passed.
func (t *Tracer) awaitOwn(calls int) (seen int, err error) {
	t.reader.SetDeadline(time.Now().Add(time.Second))
	defer t.reader.SetDeadline(time.Time{})
	var record []byte
	for seen < calls {
		if err := t.reader.ReadInto(&record); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			return seen, fmt.Errorf("read the %s: %w", t.transport.What, err)
		}
		event, err := t.decoder.decode(record)
		if err != nil {
			return seen, err
		}
		if event.Caller.Self {
			seen++
		} else {
			t.early = append(t.early, event)
		}
	}
	return seen, nil
}

// testObjects makes a map and a program, lets them go, and asks the probes that
// every kernel must have for it. Kernels free them later.
func (t *Tracer) testObjects() error {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		t.degraded = append(t.degraded, "the probes on BPF objects were not tested: the kernel does not count their runs: "+err.Error())
		return nil
	}
	defer stats.Close()
	for deadline := time.Now().Add(2 * time.Second); ; {
		if err := exerciseObjects(); err != nil {
			t.degraded = append(t.degraded, "the probes on BPF objects were not tested: "+err.Error())
			return nil
		}
		states, err := allFired(t.bpfObjects)
		if err == nil {
			t.states = append(t.states, states...)
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("self-test on Linux %s: %w", kernel.Release(), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// exerciseObjects makes the smallest map and program, and closes them.
func exerciseObjects() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("make a BPF map: %w", err)
	}
	defer m.Close()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{asm.LoadImm(asm.R0, 0, asm.DWord), asm.Return()}})
	if err != nil {
		return fmt.Errorf("load a BPF program: %w", err)
	}
	return program.Close()
}

// Probes says what the self-test found of each probe; nil when it could not be
// made.
func (t *Tracer) Probes() []probe.State { return t.states }

// replayEarly yields what came during the self-test.
func (t *Tracer) replayEarly(yield func(ledger.Event, error) bool) bool {
	for _, event := range t.early {
		if t.within(&event) && !yield(event, nil) {
			return false
		}
	}
	t.early = nil
	return true
}
