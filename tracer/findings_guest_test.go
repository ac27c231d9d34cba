//go:build guest

package tracer_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// broken are the verdicts of a trace that are certain, each once, and its era.
func broken(t *testing.T, out guesttest.Result) (verdicts []string, era string) {
	t.Helper()
	rows, summary, _ := split(t, out.Stdout)
	if out.Code != 0 || len(rows) == 0 || summary.Lost != 0 {
		t.Fatalf("exit %d, %d rows, %d lost\n%s", out.Code, len(rows), summary.Lost, out.Stderr)
	}
	seen := map[string]bool{}
	for _, r := range rows {
		if r.Verdict == "ok" {
			continue
		}
		if r.Certainty == "exact" {
			seen[r.Verdict] = true
		} else if !seen[r.Verdict+"?"] {
			seen[r.Verdict+"?"] = true
		}
	}
	return slices.Sorted(maps.Keys(seen)), summary.Era
}

// Each accounting of the past gets its verdict, on real kernel code, and the
// right one gets none.
func TestKnownBadKernel(t *testing.T) {
	t.Parallel()
	const buffers = "pinwatch workload perf-buffers --quiet --pages 64 --memlock-kib 4096 --max 12\n"
	const lowered = `
pinwatch workload perf-buffers --quiet --pages 64 --max 4 --hold 2s &
busybox sleep 1
echo 4 > /proc/sys/kernel/perf_event_mlock_kb
pinwatch workload perf-buffers --quiet --pages 8 --memlock-kib 4096 --max 1
wait
echo 516 > /proc/sys/kernel/perf_event_mlock_kb
`
	const aux = `
pinwatch workload aux --pmu aux_test
pinwatch workload aux --pmu aux_test --data-first
`
	variants := []struct {
		name, script, era string
		verdicts          []string
	}{
		{"right", buffers + lowered + aux, "split", nil},
		{"cumulative", buffers + aux, "cumulative", []string{"overcharge"}},
		{"twice", buffers, "twice", []string{"overcharge"}},
		{"unclamped", buffers + lowered, "unclamped", []string{"overcharge"}},
		{"aux-full", buffers + aux, "split", []string{"underflow"}},
		{"aux-either", buffers + aux, "split", []string{"leak"}},
	}
	ways := combinations
	if !guesttest.All() { // the others with make test-kernels
		variants, ways = variants[:2], combinations[:1]
	}
	k := guesttest.KnownBad(t)
	for _, v := range variants {
		name := "known-bad/" + v.name
		addRow(name)
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			var script string
			for _, c := range ways {
				script += c.trace("--only perf --json -- sh -c '" + v.script + "'")
			}
			shell := guesttest.Shell(t)
			out := guesttest.Run(t, k, func(c *guest.Config) {
				shell(c)
				c.Append = "perf_mmap_accounting=" + v.name
			}, "workload", "run-as", "--", "sh", "-c", script)
			for i, result := range unmark(t, out, len(ways)) {
				t.Run(ways[i].String(), func(t *testing.T) {
					setCell(name, ways[i], "FAIL: see above")
					verdicts, era := broken(t, result)
					if diff := cmp.Diff(v.verdicts, verdicts); diff != "" {
						t.Errorf("verdicts: %s\n%s", diff, result.Stderr)
					}
					if era != v.era {
						t.Errorf("era %s; want %s", era, v.era)
					}
					if !t.Failed() {
						setCell(name, ways[i], "pass")
					}
				})
			}
		})
	}
}

// finding is what a stock kernel was proven to get wrong: see testdata/findings.
type finding struct {
	Name     string   `json:"name"`
	Verdict  string   `json:"verdict"`
	Workload string   `json:"workload"` // that shows it
	Series   []string `json:"series"`
}

// findings are what testdata/findings has.
var findings = func() (list []finding) {
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "findings", "findings.json"))
	if err == nil {
		err = json.Unmarshal(raw, &list)
	}
	if err != nil {
		panic(err)
	}
	return list
}()

// examined says whether a series was looked into. A newer one that appears on the
// mirror may have a known finding or not; it may have no other.
func examined(series string) bool {
	return slices.ContainsFunc(findings, func(f finding) bool { return slices.Contains(f.Series, series) })
}

// Stock kernels break the rules that they are known to break, in the workloads
// that show it, and no other: anything new is to be looked into. The witnesses are
// not ours: how many buffers fit before EPERM, and VmPin.
func TestFindings(t *testing.T) {
	t.Parallel()
	const witness = `{
pinwatch workload run-as --uid 65534 -- busybox sleep 60 &
busybox sleep 1
count() { pinwatch workload perf-buffers --json --pages 32 --memlock-kib 512 | busybox grep -c '"map"'; }
count
pinwatch workload perf-buffers --quiet --pages 32 --max 2 --remaps 4
count
pinwatch workload two-processes --payer-first | busybox tail -n 1
}`
	var workloads []string
	for _, f := range findings {
		if !slices.Contains(workloads, f.Workload) {
			workloads = append(workloads, f.Workload)
		}
	}
	var script string
	for _, workload := range workloads {
		script += marked(workload, "pinwatch trace --only perf --json -- sh -c 'pinwatch workload "+workload+" >&2'")
	}
	// Last, for it leaves the user without its allowance where a kernel forgets charges.
	script += marked("witness", witness)
	shell := guesttest.Shell(t)
	for _, k := range guesttest.Newest(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			results := unmark(t, guesttest.Run(t, k, shell, "workload", "run-as", "--", "sh", "-c", script), len(workloads)+1)
			for i, workload := range workloads {
				t.Run(workload, func(t *testing.T) { findsKnown(t, workload, k.Upstream(), results[i]) })
			}
			t.Run("witness", func(t *testing.T) { witnessesAgree(t, k.Upstream(), results[len(workloads)]) })
		})
	}
}

// findsKnown checks the certain verdicts of a workload's trace.
func findsKnown(t *testing.T, workload, series string, out guesttest.Result) {
	t.Helper()
	var want []string
	for _, f := range findings {
		if f.Workload == workload && slices.Contains(f.Series, series) {
			want = append(want, f.Verdict)
		}
	}
	got, _ := broken(t, out)
	got = slices.DeleteFunc(got, func(v string) bool { return strings.HasSuffix(v, "?") })
	if !examined(series) {
		t.Logf("series %s was not examined yet: %v", series, got)
		got = slices.DeleteFunc(got, func(v string) bool {
			return slices.ContainsFunc(findings, func(f finding) bool { return f.Workload == workload && f.Verdict == v })
		})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%s", diff, out.Stderr)
	}
}

func witnessesAgree(t *testing.T, series string, out guesttest.Result) {
	t.Helper()
	has := func(name string) bool {
		return slices.ContainsFunc(findings, func(f finding) bool { return f.Name == name && slices.Contains(f.Series, series) })
	}
	var before, after, vmPin int
	if _, err := fmt.Sscanf(out.Stdout, "%d\n%d\n"+`{"step":"unmap","process":"sharer","vm_pin_kib":%d}`, &before, &after, &vmPin); err != nil {
		t.Fatalf("%v\n%s%s", err, out.Stdout, out.Stderr)
	}
	if !examined(series) {
		t.Logf("series %s was not examined yet: %d buffers fit, then %d; VmPin %d kB", series, before, after, vmPin)
		return
	}
	// 8 further mappings of 33 pages: 8 buffers fewer.
	lost := 0
	if has("double-charge-of-further-mappings") {
		lost = 8
	}
	if before-after != lost {
		t.Errorf("%d buffers fit, and %d after further mappings came and went; want %d fewer", before, after, lost)
	}
	if negative := vmPin < 0; negative != has("misdirected-refund-to-the-last-process") {
		t.Errorf("VmPin of the process that unmapped last, and had not paid: %d kB", vmPin)
	}
}
