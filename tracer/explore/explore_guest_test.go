//go:build guest

package explore_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/explore"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

var guests guesttest.Guests

func TestMain(m *testing.M) { os.Exit(guests.Main(m)) }

// exploring explores a kernel with a bounded number of programs of a seed.
func exploring(t *testing.T, programs int, seed uint64, args ...string) (explore.Explored, int) {
	t.Helper()
	result := guesttest.Check(t, append([]string{"--format", "json", "--explore", "10m", "--programs", fmt.Sprint(programs), "--seed", fmt.Sprint(seed)}, args...)...)
	var r explore.Report
	if err := json.Unmarshal([]byte(result.Stdout), &r); err != nil || len(r.Kernels) != 1 {
		t.Fatalf("%v\n%s", err, result.Stdout)
	}
	x := r.Kernels[0]
	if x.Error != "" {
		t.Fatalf("%s: %s", x.Release, x.Error)
	}
	for _, f := range append(x.Findings, x.Doubts...) {
		t.Logf("%s of program %d, after %d: %v\n%s", f.Name, f.Number, f.AfterPrograms, f.Program.Steps, f.Reason)
	}
	if x.CouldNotRun*20 > x.Programs {
		t.Errorf("%d of %d programs could not run: %s", x.CouldNotRun, x.Programs, x.Why)
	}
	return x, result.Code
}

// Stock kernels are seen to break what they are known to break, without being told, and
// nothing else.
func TestExploreStockKernels(t *testing.T) {
	guesttest.Long(t)
	t.Parallel()
	const programs = 150
	for _, k := range guesttest.Kernels(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			guesttest.BinaryFor(t, k.Arch)
			x, code := exploring(t, programs, stockSeed, "--kernel", k.Image)
			if code != 3 || len(x.Findings) == 0 {
				t.Fatalf("exit %d with %d findings", code, len(x.Findings))
			}
			found := map[string]bool{}
			var survived []explore.Finding
			for _, f := range x.Findings {
				found[f.Known] = true
				if f.Verdict != explore.Crash {
					survived = append(survived, f)
				}
				if f.Known == "" && !atOnce(f.Program) {
					t.Errorf("%s is new", f.Name)
				}
			}
			for _, known := range explore.KnownOf(k.Release) {
				// What no scenario shows takes two processes that meet.
				if !found[known.Name] && len(known.Scenarios) > 0 {
					t.Errorf("%s: not found in %d programs", known.Name, programs)
				}
			}
			play(t, k, survived[0])
		})
	}
}

// atOnce reports whether processes map at the same time in a program: what comes of that
// has another name each time.
func atOnce(p check.Program) bool {
	return slices.ContainsFunc(p.Steps, func(o check.Op) bool { return o.Call == check.CallRace })
}

const stockSeed = 2

// play plays the program of a finding from a file: it fails again, by the same verdict.
func play(t *testing.T, k guesttest.Kernel, f explore.Finding) {
	t.Helper()
	raw, err := json.Marshal(f.Program)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "program.json")
	if err := os.WriteFile(file, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	result := guesttest.Check(t, "--format", "json", "--kernel", k.Image, "--program", file)
	var r struct {
		Kernels []struct {
			Scenarios []struct{ Verdicts []string }
		}
	}
	if err := json.Unmarshal([]byte(result.Stdout), &r); err != nil || len(r.Kernels) != 1 || len(r.Kernels[0].Scenarios) != 1 {
		t.Fatalf("%v\n%s", err, result.Stdout)
	}
	if verdicts := r.Kernels[0].Scenarios[0].Verdicts; !slices.Contains(verdicts, f.Verdict) || result.Code != 3 {
		t.Errorf("played again: %v, exit %d", verdicts, result.Code)
	}
}

// Each accounting of the past is found for what it is, without being told.
func TestExploreKnownBadKernel(t *testing.T) {
	guesttest.Long(t)
	t.Parallel()
	for variant, verdict := range map[string]string{"cumulative": "overcharge", "twice": "overcharge", "unclamped": "overcharge", "aux-full": "underflow", "aux-either": "leak"} {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			x, _ := exploring(t, badPrograms, badSeed, guesttest.KnownBad(t, variant).Flags()...)
			if !slices.ContainsFunc(x.Findings, func(f explore.Finding) bool { return f.Verdict == verdict }) {
				t.Errorf("no %s in %d programs", verdict, x.Programs)
			}
		})
	}
}

const (
	badSeed     = 1
	badPrograms = 150
)
