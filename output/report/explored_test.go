package report

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/explore"
)

func anExplored() *explore.Report {
	program := check.Program{MlockPages: 2, Steps: []check.Op{{Call: check.CallStart, Limit: 64}, {Call: check.CallOpen}, {Call: check.CallMap, Pages: 1}, {Call: check.CallMap, Mapping: 1, Pages: 1}}}
	double := explore.Finding{Name: "double-charge", Verdict: "double-charge", Known: "further-mappings", Program: program, Form: []string{"map p0 e0 m0", "map p0 e0 m1"}, Number: 1, Steps: 9,
		Runs: 3, Failed: 3, Met: 5, AfterPrograms: 2, AfterMS: 1500, Reason: "witness: 9 pages", Hurts: "all processes", Certain: true}
	leak := explore.Finding{Name: "leak", Verdict: "leak", Program: check.Program{Steps: program.Steps[:1]}, Number: 7, Steps: 1, Runs: 3, Failed: 1, Reason: "VmPin", Certain: true}
	crash := explore.Finding{Name: "kernel-crash", Verdict: explore.Crash, Program: check.Program{Steps: program.Steps[:1]}, Number: 8, Steps: 1, Runs: 1, Failed: 1, Reason: "panicked", Certain: true, Log: "BUG: \x1b[31m\nRIP: x\n"}
	return &explore.Report{Version: explore.Version, Kernels: []explore.Explored{
		{Kernel: check.Kernel{Image: "/boot/two words", Release: "6.16.12", DurationMS: 10000}, Seed: 7, Programs: 80, Tries: 20, PassedBy: 300, CouldNotRun: 1, Why: "program 3: busy",
			Findings: []explore.Finding{double, crash}, Doubts: []explore.Finding{leak}},
		{Kernel: check.Kernel{Image: "x", Release: "x", Error: "too short"}},
	}}
}

// Each finding is told with its program and how to see it again; what is not to be relied
// on says so, and what the kernel said moves no cursor.
func TestExplored(t *testing.T) {
	write, err := ExploredWriter(FormatTable)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := write(&b, anExplored(), []string{"--cpus", "2", "--seed", "7"}); err != nil {
		t.Fatal(err)
	}
	want := `6.16.12: double-charge by program 1, after 2 programs and 1.5 s, 4 steps of 9, again 3 of 3 times, known as further-mappings
    perf_event_mlock_kb is 2 pages
    p0 starts: user u0, RLIMIT_MEMLOCK 64 pages
    p0 opens e0
    p0 maps 1 page of e0: m0
    p0 maps 1 page of e0: m1
    seen: witness: 9 pages
    it hurts all processes
    program: {"mlock_pages":2,"steps":[{"call":"start","limit":64},{"call":"open"},{"call":"map","pages":1},{"call":"map","mapping":1,"pages":1}]}
    whole: pinwatch check --kernel '/boot/two words' --cpus 2 --seed 7 --program-number 1
6.16.12: kernel-crash by program 8, after 0 programs and 0.0 s, 1 step of 1, again 1 of 1 times
    p0 starts: user u0, RLIMIT_MEMLOCK 64 pages
    seen: panicked
    kernel: BUG: \x1b[31m
    kernel: RIP: x
    program: {"mlock_pages":0,"steps":[{"call":"start","limit":64}]}
    whole: pinwatch check --kernel '/boot/two words' --cpus 2 --seed 7 --program-number 8
6.16.12: leak by program 7, after 0 programs and 0.0 s, 1 step of 1, again 1 of 3 times, not to be relied on
    p0 starts: user u0, RLIMIT_MEMLOCK 64 pages
    seen: VmPin
    program: {"mlock_pages":0,"steps":[{"call":"start","limit":64}]}
    whole: pinwatch check --kernel '/boot/two words' --cpus 2 --seed 7 --program-number 7
6.16.12: 1 program could not run, the first: program 3: busy
6.16.12: 2 findings in 80 programs of seed 7, with 20 runs to shrink them, 10 s, 10.0 runs per second; passed by, for they do what was found already: 300 programs
x could not be explored: too short
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

// The JSON comes back as it went, and the exit status is a check's.
func TestExploredJSON(t *testing.T) {
	write, err := ExploredWriter(FormatJSON)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	r := anExplored()
	if err := write(&b, r, nil); err != nil {
		t.Fatal(err)
	}
	var back explore.Report
	if err := json.Unmarshal([]byte(b.String()), &back); err != nil {
		t.Fatal(err)
	}
	if back.Kernels[0].Findings[0].Program.Steps[3] != r.Kernels[0].Findings[0].Program.Steps[3] {
		t.Error(b.String())
	}
	for name, c := range map[string]struct {
		kernels []explore.Explored
		want    int
	}{
		"found":           {r.Kernels[:1], 3},
		"could not":       {r.Kernels[1:], 1},
		"nothing, or not": {[]explore.Explored{{Programs: 9, Doubts: r.Kernels[0].Doubts}}, 0},
	} {
		sum := (&explore.Report{Kernels: c.kernels}).Check()
		if code, err := sum.ExitCode(check.ExitDefault, false); err != nil || code != c.want {
			t.Errorf("%s: exit %d, %v; want %d", name, code, err, c.want)
		}
	}
	if _, err := ExploredWriter(FormatJUnit); err == nil {
		t.Error("JUnit is for scenarios")
	}
}
