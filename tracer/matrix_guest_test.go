//go:build guest

package tracer_test

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/probe"
	"github.com/pinwatch/pinwatch/tracer/transport"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// combination is a way to trace.
type combination struct {
	backend, transport string
	noBTF              bool // on a kernel without types; they come from a file
}

func (c combination) String() string {
	name := c.backend + "/" + c.transport
	if c.noBTF {
		name = "no-BTF/" + name
	}
	return name
}

// combinations are all there are. Without types of its own the kernel is not read by typed
// loads, and together the last is the path of a kernel from before 5.2.
func combinations() (list []combination) {
	for _, backend := range []string{probe.AttachKprobe, probe.AttachFentry, probe.AttachSession} {
		for _, t := range []string{transport.Ringbuf, transport.PerfArray} {
			list = append(list, combination{backend, t, false})
		}
	}
	list = append(list, combination{probe.AttachAuto, transport.Auto, false})
	for _, t := range []string{transport.Ringbuf, transport.PerfArray} {
		list = append(list, combination{probe.AttachKprobe, t, true})
	}
	return list
}

// usual reports whether it is one of few that have each way to attach, each transport, and
// the lack of types.
func (c combination) usual() bool {
	switch c.backend {
	case probe.AttachAuto:
		return true
	case probe.AttachFentry:
		return c.transport == transport.Ringbuf
	}
	return c.transport == transport.PerfArray
}

// perfBuffersAlone is pinwatch trace --only perf.
func perfBuffersAlone() tracer.Options { return tracer.Options{} }

// options trace perf buffers in this way. Types are hidden until the test ends.
func (c combination) options(t *testing.T) tracer.Options {
	t.Helper()
	opts := tracer.Options{Attach: c.backend, Transport: c.transport}
	if c.noBTF {
		opts.BTF = hideBTF(t)
	}
	return opts
}

// hideBTF makes a kernel look as one that was built without types, until the test ends. It
// returns a file with them.
func hideBTF(t *testing.T) string {
	t.Helper()
	const dir = "/sys/kernel/btf"
	file := filepath.Join(t.TempDir(), "types")
	if err := os.WriteFile(file, []byte(read(t, filepath.Join(dir, "vmlinux"))), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatalf("hide %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("show %s again: %v", dir, err)
		}
	})
	return file
}

// Every kernel, in every way to attach and with every transport, reports the same
// and agrees with the witnesses. What a kernel lacks is known beforehand, and said
// by pinwatch.
func TestMatrix(t *testing.T) {
	guests.Test(t, guesttest.Ends, func(t *testing.T, k guesttest.Kernel) {
		t.Run("edges", func(t *testing.T) { edgesAgree(t, k.Before("5.11")) })
		for _, c := range combinations() {
			if guesttest.All() || c.usual() {
				t.Run(c.String(), func(t *testing.T) { c.agrees(t) })
			}
		}
	})
}

// What the matrix runs, and the guest's limits.
const (
	memlockKiB, dataPages, cpus = 768, 32, 4
)

// agrees traces a process that maps until EPERM.
func (c combination) agrees(t *testing.T) {
	opts := c.options(t)
	// The others start slowly: all of them everywhere is for make test-kernels.
	if guesttest.All() || c.backend == probe.AttachAuto || c.noBTF && c.transport == transport.PerfArray {
		opts.BPF, opts.Others = true, true
	}
	for attempt := 1; ; attempt++ {
		tr, err := open(t, opts)
		if err != nil && c.backend == probe.AttachFentry {
			for _, want := range []string{"attach Tracing/", "not supported", "use --attach kprobe"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in: %v", want, err)
				}
			}
			guesttest.Missing(t, "5.16", "fentry on perf_mmap, which BTF describes", err)
		}
		if err != nil && c.backend == probe.AttachSession {
			for _, want := range []string{"kprobe sessions: requires Linux 6.10", "use --attach kprobe"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in: %v", want, err)
				}
			}
			guesttest.Missing(t, sessionsSince(), "kprobe sessions", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		tr.run()
		steps := buffers(t, "--memlock-kib", fmt.Sprint(memlockKiB), "--pages", fmt.Sprint(dataPages))
		tr.stop()
		// Emulated machines skip kprobes now and then, two times in a row too, and these are
		// counted: once more.
		if attempt == 3 || !tr.skipped() {
			tr.agrees(steps)
			return
		}
	}
}

// sessionsSince is the first kernel that has them: on arm64 they came with the function graph
// tracer's.
func sessionsSince() string {
	if runtime.GOARCH == "arm64" {
		return "6.14"
	}
	return "6.10"
}

// agrees compares the trace of a process that maps until EPERM with witnesses that are not
// ours: VmPin after every step, the call that the kernel refuses, and how many buffers fit by
// the limits.
func (tr *trace) agrees(steps []workload.Step) {
	t := tr.t
	t.Helper()
	entries := tr.children()
	if len(entries) != len(steps) || len(entries) == 0 {
		t.Fatalf("%d entries for %d steps of the workload: %+v", len(entries), len(steps), entries)
	}
	var user, pinned, fit int64
	for i, step := range steps {
		e := &entries[i]
		stepAgrees(t, i+1, e, step)
		if step.Step == "map" {
			fit++
		}
		user += e.ChargedUser
		pinned += e.ChargedPinned
	}
	if user != 0 || pinned != 0 {
		t.Errorf("charges and refunds leave %d and %d pages", user, pinned)
	}
	if s := &tr.summary; s.Broken() || s.Uncertain() != 0 || tr.lost != 0 {
		t.Errorf("%d lost; %+v", tr.lost, s)
	}

	// The limits, from what the guest was given: nothing of ours.
	page := int64(steps[0].PageBytes)
	allowance := (512<<10 + page) / page * cpus // perf_event_mlock_kb is 512 KiB and a page
	limit := memlockKiB * 1024 / page
	if want := (allowance + limit) / (dataPages + 1); fit != want {
		t.Errorf("%d buffers fit; the limits leave room for %d", fit, want)
	}
	if e := &entries[0]; e.Buffer.Limits.Allowance != allowance || e.Caller.LockLimit != limit || e.Fits != fit-1 {
		t.Errorf("first entry: allowance %d, limit %d, %d more fit; want %d, %d, %d",
			e.Buffer.Limits.Allowance, e.Caller.LockLimit, e.Fits, allowance, limit, fit-1)
	}
	if !slices.ContainsFunc(steps, func(s workload.Step) bool { return s.Errno == int(unix.EPERM) }) {
		t.Error("the workload never met EPERM")
	}
}

func stepAgrees(t *testing.T, number int, e *ledger.Entry, step workload.Step) {
	t.Helper()
	kind := map[string]ledger.Kind{"map": ledger.Charge, "refused": ledger.Refusal, "unmap": ledger.Refund}[step.Step]
	if e.Kind != kind || e.Errno != int32(step.Errno) || e.Asked() != int64(step.Pages) || e.Caller.UID != 65534 {
		t.Errorf("step %d: entry %+v; the workload saw %+v", number, e, step)
	}
	if vmPin := step.VmPinKiB * 1024 / int64(step.PageBytes); e.Process.After != vmPin {
		t.Errorf("step %d: pinned_vm %d after the call; VmPin says %d", number, e.Process.After, vmPin)
	}
	if e.Process.Before+e.ChargedPinned != e.Process.After {
		t.Errorf("step %d: %d + %d is not %d", number, e.Process.Before, e.ChargedPinned, e.Process.After)
	}
	if e.Verdict != ledger.OK || e.Uncertain {
		t.Errorf("step %d: %s, uncertain: %v on a kernel that accounts right", number, e.Verdict, e.Uncertain)
	}
	if step.Step == "map" && e.ChargedUser+e.ChargedPinned != int64(step.Pages) {
		t.Errorf("step %d: charged %d and %d for %d pages", number, e.ChargedUser, e.ChargedPinned, step.Pages)
	}
}

// edgesAgree checks the trace of buffers that are mapped and unmapped in the less usual ways:
// the same entries on every kernel, but that older ones let a part be unmapped, which newer
// ones refuse.
func edgesAgree(t *testing.T, old bool) {
	tr := begin(t, tracer.Options{Transport: transport.PerfArray})
	steps := lines[workload.ShareStep](t, load(t, "edges"))
	tr.stop()
	if said := strings.Join(tr.Degraded(), "\n"); strings.Contains(said, "pinwatch's own ") {
		t.Errorf("its own buffers and BPF objects are its own user's: %s", said)
	}
	if len(steps) != 6 || steps[5].VmPinKiB != 0 {
		t.Errorf("steps %+v; want 6 and nothing pinned at the end", steps)
	}
	var got []string
	for _, e := range tr.children() {
		certainty := "exact"
		if e.Uncertain {
			certainty = "uncertain"
		}
		got = append(got, fmt.Sprintf("%s uid %d: %d pages, %+d %+d, errno %d, %s %s",
			e.Kind, e.Caller.UID, e.Asked(), e.ChargedUser, e.ChargedPinned, e.Errno, e.Verdict, certainty))
	}
	if diff := gocmp.Diff(edgeEntries(old), got); diff != "" {
		t.Errorf("entries: %s", diff)
	}
	ownRings(t, tr)
}

func edgeEntries(old bool) []string {
	page := int64(os.Getpagesize())
	allowance := cpus * (512<<10 + page) / page // perf_event_mlock_kb is 512 KiB and a page
	line := func(kind string, uid, pages, sign int64, errno int) string {
		return fmt.Sprintf("%s uid %d: %d pages, %+d %+d, errno %d, ok exact", kind, uid, pages, sign*allowance, sign*(1025-allowance), errno)
	}
	entries := []string{
		line("refusal", 0, 1<<21*(page/4096)+1, 0, 12),
		line("charge", 65534, 1025, 1, 0),
		line("refund", 65534, 1025, -1, 0),
		line("charge", 65534, 1025, 1, 0),
		line("unmapping", 65534, 1025, 0, 0),
	}
	if old {
		return append(entries, line("unmapping", 65534, 1, 0, 0), line("refund", 65534, 1024, -1, 0))
	}
	return append(entries, line("refusal", 65534, 1025, 0, 22), line("refund", 65534, 1025, -1, 0))
}

// ownRings wants what pinwatch itself is charged for the perf array: CPU by CPU a ring of
// 256 KiB and the control page, upon which the small one of the start goes, of 32 KiB.
func ownRings(t *testing.T, tr *trace) {
	t.Helper()
	var own []string
	for _, e := range tr.entries {
		if e.Caller.Self {
			own = append(own, fmt.Sprintf("%s of %d", e.Kind, max(0, e.ChargedUser+e.ChargedPinned)-min(0, e.ChargedUser+e.ChargedPinned)))
		}
	}
	ring := func(kind string, bytes int) string { return fmt.Sprintf("%s of %d", kind, bytes/os.Getpagesize()+1) }
	want := slices.Repeat([]string{ring("charge", 256<<10), ring("refund", 32<<10)}, cpus)
	if diff := gocmp.Diff(want, own); diff != "" {
		t.Errorf("pinwatch itself: %s", diff)
	}
}

// writeTable writes what became of every kernel and combination to the file that
// PINWATCH_TABLE names: the one table of make test-kernels.
func writeTable() error {
	outcomes := append(guests.Outcomes("TestKnownBadKernel"), guests.Outcomes("TestMatrix")...)
	file := os.Getenv("PINWATCH_TABLE")
	if file == "" || len(outcomes) == 0 {
		return nil
	}
	return os.WriteFile(file, []byte(table(outcomes)), 0o644)
}

// table is one line per kernel, and one for each cell that is not a pass. A cell
// that no test came to is a "?".
func table(outcomes []guesttest.Outcome) string {
	var b strings.Builder
	line := func(first string, cell func(c combination) string) {
		fmt.Fprintf(&b, "%-22s", first)
		for _, c := range combinations() {
			fmt.Fprintf(&b, " %-21s", cell(c))
		}
		b.WriteString("\n")
	}
	line("KERNEL", combination.String)
	var notes []string
	for kernels := outcomes; len(kernels) > 0; {
		k := kernels[0].Kernel
		line(k.String(), func(c combination) string {
			i := slices.IndexFunc(outcomes, func(o guesttest.Outcome) bool { return o.Kernel == k && o.Subtest == c.String() })
			if i < 0 {
				return "?"
			}
			o := outcomes[i]
			if o.Result != "pass" {
				notes = append(notes, fmt.Sprintf("%s, %s: %s: %s", k, c, cell(o), o.Words))
			}
			return cell(o)
		})
		kernels = slices.DeleteFunc(slices.Clone(kernels), func(o guesttest.Outcome) bool { return o.Kernel == k })
	}
	for _, note := range notes {
		b.WriteString(note + "\n")
	}
	for _, f := range findings() {
		fmt.Fprintf(&b, "finding, %s: %s (testdata/findings)\n", strings.Join(f.Series, " "), f.Name)
	}
	return b.String()
}

// cell is what became of a combination: one that did not end has failed.
func cell(o guesttest.Outcome) string {
	if o.Result == "fail" || o.Result == "" {
		return "FAIL"
	}
	return cmp.Or(o.Result, "?")
}
