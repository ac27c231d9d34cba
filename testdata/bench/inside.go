package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sample is one measurement.
type Sample struct {
	Figure string  `json:"figure"`
	Of     string  `json:"of"` // what was measured
	Value  float64 `json:"value"`
}

func say(figure, of string, value float64) error {
	return json.NewEncoder(os.Stdout).Encode(Sample{figure, of, value})
}

// The figures of a guest.
const (
	figureCall      = "call"      // instructions of the calling thread, per mmap and munmap
	figureReader    = "reader"    // of the tracer's process, per mmap and munmap
	figureStart     = "start"     // instructions from exec to the first event
	figureStop      = "stop"      // and from SIGINT to the exit
	figureMemory    = "memory"    // peak resident KiB, once it has seen the calls
	figureTracing   = "tracing"   // resident KiB then: without what the start took
	figureBystander = "bystander" // instructions of a round of other work
	figureEvent     = "event"     // instructions of the Go side, per event
)

const (
	callRounds      = 3
	callBatches     = 4   // in a round
	callPairs       = 500 // in a batch: more at once, and bpftrace loses some
	bystanderRounds = 4
)

// inside is the part that runs in a guest.
func inside(what, only string) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}, nil)
	switch what {
	case "calls":
		return measureCalls(only)
	case "events":
		return measureEvents()
	case "bystander":
		return measureBystander()
	case "bursts":
		return measureBursts()
	case "agent":
		return measureAgent()
	}
	return fmt.Errorf("%q: want events, calls, agent, bystander or bursts", what)
}

// contestant is a way to trace that is measured.
type contestant struct {
	name   string
	args   []string
	marker string
}

func pinwatch(attach, transport string) contestant {
	return contestant{"pinwatch " + attach + " " + transport,
		[]string{"pinwatch", "trace", "--json", "--only", "perf", "--attach", attach, "--transport", transport}, `"subsystem":"perf"`}
}

// floors are what empty programs are attached by.
func floors() []string { return []string{"kprobe", "fentry", "session"} }

// floor is that of a contestant.
func (c contestant) floor() string {
	for _, by := range floors() {
		if strings.Contains(c.name, by) {
			return "empty " + by
		}
	}
	return "empty kprobe" // which is what is taken on the kernel of the table
}

const bpftrace = "bpftrace"

func contestants() []contestant {
	return []contestant{
		pinwatch("fentry", "ringbuf"), pinwatch("kprobe", "ringbuf"), pinwatch("session", "ringbuf"), pinwatch("fentry", "perf"), pinwatch("kprobe", "perf"),
		{"pinwatch, all", []string{"pinwatch", "trace", "--json"}, `"subsystem":"perf"`},
		{bpftrace, []string{"bpftrace", "-B", "line", "/values.bt"}, "EV "},
	}
}

// measureCalls measures the contestants whose name contains only.
func measureCalls(only string) error {
	for range callRounds {
		if err := measureBare("none", func() (func(), error) { return func() {}, nil }); err != nil {
			return err
		}
		for _, by := range floors() {
			if err := measureBare("empty "+by, func() (func(), error) { return empty(by) }); err != nil {
				return err
			}
		}
		for _, c := range contestants() {
			if !strings.Contains(c.name, only) {
				continue
			}
			if err := c.measure(); err != nil {
				return err
			}
		}
	}
	return nil
}

func measureBare(name string, attach func() (func(), error)) error {
	detach, err := attach()
	if err != nil {
		return err
	}
	defer detach()
	if err := pairs(callPairs / 10); err != nil {
		return err
	}
	thread, err := costOfPairs(func() {})
	if err != nil {
		return err
	}
	return say(figureCall, name, thread)
}

// costOfPairs is what a pair costs the thread that makes it. It rests after a batch.
func costOfPairs(rest func()) (each float64, err error) {
	var sum int64
	for range callBatches {
		thread, _, err := costOf(func() error { return pairs(callPairs) })
		if err != nil {
			return 0, err
		}
		sum += thread
		rest()
	}
	return float64(sum) / (callBatches * callPairs), nil
}

func (c contestant) measure() error {
	tracer, err := startChild(c.args, c.marker)
	if err != nil {
		return err
	}
	if err := pairs(callPairs / 10); err != nil {
		return err
	}
	settle(tracer.size)
	before, err := tracer.events()
	if err != nil {
		return err
	}
	cpu := tracer.cpu()
	thread, err := costOfPairs(func() { settle(tracer.size) })
	if err != nil {
		return err
	}
	cpu = tracer.cpu() - cpu
	after, err := tracer.events()
	if err != nil {
		return err
	}
	if made := 2 * callBatches * callPairs; after-before != made {
		return fmt.Errorf("%s saw %d of %d calls: %s", c.name, after-before, made, tracer.errors.String())
	}
	peak, err := tracer.status("VmHWM")
	if err != nil {
		return err
	}
	now, err := tracer.status("VmRSS")
	if err != nil {
		return err
	}
	say(figureCall, c.name, thread)
	say(figureReader, c.name, float64(cpu)/(callBatches*callPairs))
	say(figureStart, c.name, float64(tracer.start))
	say(figureMemory, c.name, float64(peak))
	say(figureTracing, c.name, float64(now))
	took, err := tracer.stop()
	say(figureStop, c.name, float64(took))
	return err
}

// measureEvents runs the Go benchmarks, where a second of CPU time is 1e9 instructions.
func measureEvents() error {
	cmd := exec.Command("/bin/events", "-test.run", "^$", "-test.bench", "Events|Yardstick", "-test.benchtime", "50000x", "-test.cpu", "1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return metrics(out, func(name, unit string, value float64) {
		if unit == unitRate {
			say(figureEvent, name, 1e9/value)
		}
	})
}

// joinCgroup moves this process to a cgroup of its own: the root's processes are
// charged nothing, and would never come to the charge paths.
func joinCgroup(dir string) error {
	if err := os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
		return fmt.Errorf("account memory in cgroups: %w", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0)
}

// measureBystander runs work that uses neither perf nor BPF, beside a trace of all
// there is and beside none.
func measureBystander() error {
	if err := joinCgroup("/sys/fs/cgroup/bystander"); err != nil {
		return err
	}
	all := contestant{"all probes", []string{"pinwatch", "trace", "--json", "--only", "perf,bpf,memcg,others"}, `"subsystem":"perf"`}
	for range bystanderRounds {
		if err := bystanderRound("no probes"); err != nil {
			return err
		}
		tracer, err := startChild(all.args, all.marker)
		if err != nil {
			return err
		}
		if err := bystanderRound(all.name); err != nil {
			return err
		}
		if _, err := tracer.stop(); err != nil {
			return err
		}
	}
	return nil
}

func bystanderRound(name string) error {
	if err := bystander(20); err != nil {
		return err
	}
	before, err := busy()
	if err != nil {
		return err
	}
	if err := bystander(200); err != nil {
		return err
	}
	after, err := busy()
	if err != nil {
		return err
	}
	return say(figureBystander, name, float64(after-before))
}

// busy is what this process and the children it waited for have used of the CPU, in
// ns. The time on the wall would hold waits for grace periods too.
func busy() (sum int64, err error) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var used unix.Rusage
		if err := unix.Getrusage(who, &used); err != nil {
			return 0, err
		}
		sum += used.Utime.Nano() + used.Stime.Nano()
	}
	return sum, nil
}

// bystander starts processes and fills and empties the page cache.
func bystander(n int) error {
	data := []byte(strings.Repeat("pinwatch", 32<<10))
	for range n {
		pid, err := syscall.ForkExec("/bin/true", []string{"true"}, nil)
		if err != nil {
			return fmt.Errorf("run /bin/true: %w", err)
		}
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
			return err
		}
		if err := os.WriteFile("/tmp/cached", data, 0o600); err != nil {
			return err
		}
		if _, err := os.ReadFile("/tmp/cached"); err != nil {
			return err
		}
		if err := os.Remove("/tmp/cached"); err != nil {
			return err
		}
	}
	return nil
}
