//go:build guest

package tracer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/child"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/session"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// This file is what the tests in guests have in common: traces, and processes that are
// traced.

var guests = guesttest.Guests{
	Shell:   true,
	Files:   []string{"../testdata/findings/findings.json:testdata/findings/findings.json"},
	Env:     []string{soakVariable},
	Timeout: timeout(),
}

// timeout is for all tests on a kernel.
func timeout() time.Duration {
	if guesttest.All() {
		return time.Hour + 3*soakTime()
	}
	return 20 * time.Minute
}

func TestMain(m *testing.M) {
	child.Init(accounting.Children(), kernel.Children(), workload.Children(), child.Table{waiterChild: waitForEnd})
	end := func(err error, code int) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}
	if os.Getenv(twoUsersVariable) != "" {
		end(twoUsers(), 0)
	}
	if os.Getenv(overVariable) != "" {
		end(mapOver(), 0)
	}
	code := guests.Main(m)
	end(writeTable(), code)
}

// everything is what pinwatch trace watches where it is not told.
func everything() tracer.Options { return tracer.Options{BPF: true, Others: true} }

// trace is a trace of this process's children, by this process.
type trace struct {
	*session.Session
	*session.Publisher // the summary until now
	t                  *testing.T
	end                func()
	done               chan struct{}   // closed when it has ended
	forgets            bool            // keeps no entries
	sinks              []pipeline.Sink // more of them

	mu      sync.Mutex
	entries []ledger.Entry
	more    chan struct{}  // closed at the next entries
	summary ledger.Summary // once it has ended
	lost    uint64
}

// begin opens a trace and lets it run until the test ends, or end does.
func begin(t *testing.T, opts tracer.Options) *trace {
	t.Helper()
	tr, err := open(t, opts)
	if err != nil {
		t.Fatal(err)
	}
	tr.run()
	return tr
}

// open opens a trace that reads nothing until it is run.
func open(t *testing.T, opts tracer.Options) (*trace, error) {
	t.Helper()
	opts.CommandParent = os.Getpid()
	s, err := session.Open(t.Context(), session.Options{Tracer: opts, Snapshot: snapshot.Options{BTF: opts.BTF}})
	if err != nil {
		return nil, err
	}
	t.Cleanup(s.Close)
	return &trace{Session: s, Publisher: session.NewPublisher(0), t: t, done: make(chan struct{}), more: make(chan struct{})}, nil
}

// run has the trace read.
func (tr *trace) run() {
	ctx, cancel := context.WithCancel(context.Background())
	tr.end = cancel
	go func() {
		defer close(tr.done)
		if err := tr.Session.Run(ctx, append(tr.sinks, tr.Publisher, tr)...); err != nil {
			tr.t.Error(err)
		}
	}()
	tr.t.Cleanup(tr.stop) // before it is closed
}

// stop ends the trace: what happened until now is in it.
func (tr *trace) stop() {
	tr.end()
	<-tr.done
}

// Enter keeps an entry.
func (tr *trace) Enter(e *ledger.Entry) error {
	if tr.forgets {
		return nil
	}
	kept := *e
	if e.Object != nil {
		object := *e.Object
		kept.Object = &object
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.entries = append(tr.entries, kept)
	return nil
}

// Flush tells who waits.
func (tr *trace) Flush(pipeline.View) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	close(tr.more)
	tr.more = make(chan struct{})
	return nil
}

// Close keeps the summary.
func (tr *trace) Close(now pipeline.View, lost uint64) error {
	tr.summary, tr.lost = now.Summary(), lost
	return nil
}

// children are the entries of the test's children until now.
func (tr *trace) children() []ledger.Entry {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(tr.entries), func(e ledger.Entry) bool { return e.Caller.Self || !e.Caller.Command })
}

// patience is how long something that must happen may take in an emulated guest.
const patience = time.Minute

// until waits until the entries are as they must become. What the test looks for
// afterwards is missing where it waited in vain.
func (tr *trace) until(enough func([]ledger.Entry) bool) {
	tr.t.Helper()
	for late := time.After(patience); ; {
		tr.mu.Lock()
		more, ended := tr.more, enough(tr.entries)
		tr.mu.Unlock()
		if ended {
			return
		}
		select {
		case <-more:
		case <-late:
			tr.t.Logf("waited in vain for %s", patience)
			return
		}
	}
}

// verdictsOf are the verdicts of entries that are not OK, each once and sorted. Those that
// are not certain have a "?".
func verdictsOf(entries []ledger.Entry) (verdicts []string) {
	for _, e := range entries {
		name := e.Verdict.String()
		if e.Uncertain {
			name += "?"
		}
		if e.Verdict != ledger.OK && !slices.Contains(verdicts, name) {
			verdicts = append(verdicts, name)
		}
	}
	slices.Sort(verdicts)
	return verdicts
}

// run runs a command that must succeed, and returns what it wrote to stdout.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	c := guesttest.Command(t, name, args...)
	r := c.Run()
	if r.Code != 0 {
		t.Fatalf("%s: exit %d\n%s%s", c, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// load runs one of pinwatch's workloads to its end.
func load(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "pinwatch", append([]string{"workload"}, args...)...)
}

// lines reads what a workload has written with --json.
func lines[T any](t *testing.T, text string) (list []T) {
	t.Helper()
	for decoder := json.NewDecoder(strings.NewReader(text)); ; {
		var line T
		if err := decoder.Decode(&line); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		list = append(list, line)
	}
}

// buffers runs a workload of perf buffers, and returns its steps.
func buffers(t *testing.T, args ...string) []workload.Step {
	t.Helper()
	return lines[workload.Step](t, load(t, append([]string{"perf-buffers", "--json"}, args...)...))
}

// userPages gives users an allowance of 129 pages per CPU, as the kernel does where pages
// are of 4 KiB, for tests that count in pages. It returns KiB as so many pages.
func userPages(t *testing.T, k guesttest.Kernel) (kib func(pages int64) string) {
	t.Helper()
	kib = func(pages int64) string { return strconv.FormatInt(pages*k.PageKiB(), 10) }
	guesttest.Set(t, settings+"mlock_kb", kib(129))
	return kib
}

const settings = "/proc/sys/kernel/perf_event_"

// setCPU takes a CPU away, or gives it back, until the test ends.
func setCPU(t *testing.T, cpu int, online bool) {
	t.Helper()
	value := "0"
	if online {
		value = "1"
	}
	guesttest.Set(t, filepath.Join("/sys/devices/system/cpu", "cpu"+strconv.Itoa(cpu), "online"), value)
}

// onCPU lets a function start its processes on one CPU.
func onCPU(t *testing.T, cpu int, do func()) {
	t.Helper()
	if err := stayOnCPU(cpu, do); err != nil {
		t.Fatal(err)
	}
}

func stayOnCPU(cpu int, do func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, only unix.CPUSet
	only.Set(cpu)
	if err := errors.Join(unix.SchedGetaffinity(0, &before), unix.SchedSetaffinity(0, &only)); err != nil {
		return err
	}
	defer unix.SchedSetaffinity(0, &before)
	do()
	return nil
}

// live keeps a process of a user's, which has the user's counter live, until the test ends.
func live(t *testing.T, uid uint32) {
	t.Helper()
	waiter := child.Command(t.Context(), waiterChild, nil)
	waiter.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if _, err := waiter.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := waiter.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { waiter.Wait() }) // its context has ended
}

const waiterChild = "waiter"

// waitForEnd is a process that ends with its standard input, if it is not killed.
func waitForEnd(string) error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// status is a line of a process's /proc/PID/status, such as VmPin; "" without it.
func status(t *testing.T, pid int, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(raw) {
		if value, ok := strings.CutPrefix(string(line), name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
