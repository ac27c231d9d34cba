//go:build guest

package tracer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/probe"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// variant is an accounting of the known-bad kernel's, and what a trace says of it.
type variant struct {
	name     string
	loads    []func(*testing.T) // that show it
	scheme   string
	verdicts []string
}

func variants() []variant {
	return []variant{
		{"right", []func(*testing.T){manyBuffers, allowanceLowered, auxAreas}, "split", nil},
		{"cumulative", []func(*testing.T){manyBuffers, auxAreas}, "cumulative", []string{"overcharge"}},
		{"twice", []func(*testing.T){manyBuffers}, "twice", []string{"overcharge"}},
		{"unclamped", []func(*testing.T){manyBuffers, allowanceLowered}, "unclamped", []string{"overcharge"}},
		{"aux-full", []func(*testing.T){manyBuffers, auxAreas}, "split", []string{"underflow"}},
		{"aux-either", []func(*testing.T){manyBuffers, auxAreas}, "split", []string{"leak"}},
	}
}

func manyBuffers(t *testing.T) {
	load(t, "perf-buffers", "--quiet", "--pages", "64", "--memlock-kib", "4096", "--max", "12")
}

// allowanceLowered lowers the allowance below what a user has mapped, which then maps more.
func allowanceLowered(t *testing.T) {
	holder := holdBuffers(t, "--pages", "64", "--max", "4")
	holder.WaitFor(`"buffer":4`)
	before := read(t, settings+"mlock_kb")
	guesttest.Set(t, settings+"mlock_kb", "4")
	load(t, "perf-buffers", "--quiet", "--pages", "8", "--memlock-kib", "4096", "--max", "1")
	holder.Stop(unix.SIGKILL)
	guesttest.Set(t, settings+"mlock_kb", before)
}

func auxAreas(t *testing.T) {
	load(t, "aux", "--pmu", "aux_test")
	load(t, "aux", "--pmu", "aux_test", "--data-first")
}

// Each accounting of the past gets its verdict, on real kernel code, and the
// right one gets none.
func TestKnownBadKernel(t *testing.T) {
	list := variants()
	ways := slices.DeleteFunc(combinations(), func(c combination) bool { return c.backend == probe.AttachSession }) // 6.1 has none
	if !guesttest.All() {                                                                                           // the others with make test-kernels
		list, ways = list[:2], ways[:1]
	}
	kernels := func(t *testing.T) (kernels []guesttest.Kernel) {
		for _, v := range list {
			kernels = append(kernels, guesttest.KnownBad(t, v.name))
		}
		return kernels
	}
	guests.Test(t, kernels, func(t *testing.T, k guesttest.Kernel) {
		v := list[slices.IndexFunc(list, func(v variant) bool { return v.name == k.Variant })]
		for _, c := range ways {
			t.Run(c.String(), func(t *testing.T) { v.isFound(t, c) })
		}
	})
}

func (v *variant) isFound(t *testing.T, c combination) {
	tr := begin(t, c.options(t))
	for _, load := range v.loads {
		load(t)
	}
	tr.stop()
	verdicts := verdictsOf(tr.complete())
	if diff := cmp.Diff(v.verdicts, verdicts); diff != "" {
		t.Errorf("verdicts: %s", diff)
	}
	if tr.summary.Scheme.String() != v.scheme {
		t.Errorf("scheme %s; want %s", tr.summary.Scheme, v.scheme)
	}
}

// complete are the entries of the children, none of which may be lost.
func (tr *trace) complete() []ledger.Entry {
	tr.t.Helper()
	entries := tr.children()
	if len(entries) == 0 || tr.lost != 0 {
		tr.t.Fatalf("%d entries, %d lost: %s", len(entries), tr.lost, tr.Losses())
	}
	return entries
}

// finding is what a stock kernel was proven to get wrong: see testdata/findings.
type finding struct {
	Name     string   `json:"name"`
	Verdict  string   `json:"verdict"`
	Workload string   `json:"workload"` // that shows it
	Series   []string `json:"series"`
}

// findings are what testdata/findings has.
func findings() (list []finding) {
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "findings", "findings.json"))
	if err == nil {
		err = json.Unmarshal(raw, &list)
	}
	if err != nil {
		panic(err)
	}
	return list
}

// examined reports whether a series was looked into. A newer one that appears on the
// mirror may have a known finding or not; it may have no other.
func examined(series string) bool {
	return slices.ContainsFunc(findings(), func(f finding) bool { return slices.Contains(f.Series, series) })
}

// has reports whether a series has a finding of this name.
func has(series, name string) bool {
	return slices.ContainsFunc(findings(), func(f finding) bool { return f.Name == name && slices.Contains(f.Series, series) })
}

// Stock kernels break the rules that they are known to break, in the workloads
// that show it, and no other: anything new is to be looked into. The witnesses are
// not ours: how many buffers fit before EPERM, and VmPin.
func TestFindings(t *testing.T) {
	guests.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) {
		var workloads []string
		for _, f := range findings() {
			if !slices.Contains(workloads, f.Workload) {
				workloads = append(workloads, f.Workload)
				t.Run(f.Workload, func(t *testing.T) { findsKnown(t, f.Workload, k.Upstream()) })
			}
		}
		t.Run("witness", func(t *testing.T) { witnessesAgree(t, k.Upstream()) })
	})
}

// findsKnown checks the certain verdicts of a workload's trace.
func findsKnown(t *testing.T, workload, series string) {
	tr := begin(t, perfBuffersAlone())
	load(t, strings.Fields(workload)...)
	tr.stop()
	var want []string
	for _, f := range findings() {
		if f.Workload == workload && slices.Contains(f.Series, series) {
			want = append(want, f.Verdict)
		}
	}
	got := slices.DeleteFunc(verdictsOf(tr.complete()), func(v string) bool { return strings.HasSuffix(v, "?") })
	if !examined(series) {
		t.Logf("series %s was not examined yet: %v", series, got)
		got = slices.DeleteFunc(got, func(v string) bool {
			return slices.ContainsFunc(findings(), func(f finding) bool { return f.Workload == workload && f.Verdict == v })
		})
	}
	if len(want)+len(got) > 0 && !slices.Equal(want, got) {
		t.Errorf("verdicts %v; want %v", got, want)
	}
}

// witnessesAgree asks the kernel itself, without a trace.
func witnessesAgree(t *testing.T, series string) {
	// A user of its own: what an earlier test of this guest made the kernel keep is not its.
	const uid = "2290"
	live(t, 2290)
	fit := func() (count int) {
		for _, s := range buffers(t, "--uid", uid, "--pages", "32", "--memlock-kib", "512") {
			if s.Step == "map" {
				count++
			}
		}
		return count
	}
	before := fit()
	load(t, "perf-buffers", "--uid", uid, "--quiet", "--pages", "32", "--max", "2", "--remaps", "4")
	after := fit()
	steps := lines[workload.ShareStep](t, load(t, "two-processes", "--payer-first"))
	last := steps[len(steps)-1]
	if last.Step != "unmap" || last.Process != "sharer" {
		t.Fatalf("steps %+v", steps)
	}
	if !examined(series) {
		t.Logf("series %s was not examined yet: %d buffers fit, then %d; VmPin %d kB", series, before, after, last.VmPinKiB)
		return
	}
	// 8 further mappings of 33 pages: 8 buffers fewer.
	lost := 0
	if has(series, "double-charge-of-further-mappings") {
		lost = 8
	}
	if before-after != lost {
		t.Errorf("%d buffers fit, and %d after further mappings came and went; want %d fewer", before, after, lost)
	}
	if negative := last.VmPinKiB < 0; negative != has(series, "misdirected-refund-to-the-last-process") {
		t.Errorf("VmPin of the process that unmapped last, and had not paid: %d kB", last.VmPinKiB)
	}
}
