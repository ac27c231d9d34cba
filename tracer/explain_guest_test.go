//go:build guest

package tracer_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// Started after the fact, explain names the process that holds the allowance of
// another user, from the kernel and from /proc, and says what an ordinary user
// cannot know. Then its predictions are tried: random mappings under random
// settings, each of which the kernel must answer as predicted.
func TestExplainAfterTheFact(t *testing.T) {
	t.Parallel()
	trials := 100
	if guesttest.All() {
		trials = 400
	}
	script := fmt.Sprintf(`
mkdir /sys/fs/cgroup/holder
(echo 0 > /sys/fs/cgroup/holder/cgroup.procs; exec pinwatch workload perf-buffers --quiet --uid 2100 --memlock-kib $((128 * kib)) --pages 64 --max 7 --hold 100s) &
echo $!
sleep 2
pinwatch explain --uid 2100 --buffer $((256 * kib))K --json
echo $?
pinwatch explain --uid 2100 --buffer $((256 * kib))K --json --source proc
pinwatch workload run-as --uid 2100 -- pinwatch explain --buffer $((256 * kib))K --json
kill $!
pinwatch workload trials --seed %d --count %d
pinwatch workload trials --seed %d --count 50 --source proc
`, 1, trials, 2)
	shell := guesttest.Shell(t)
	for _, k := range guesttest.Newest(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			out := guesttest.Run(t, k, shell, "workload", "run-as", "--", "sh", "-c", k.Limits()+"for a in mkdir sleep kill; do alias $a=\"busybox $a\"; done\n"+script)
			var pid uint32
			var code int
			var fromKernel, fromProc, unprivileged advice.Explanation
			var tried, triedProc workload.TrialSummary
			decoder := json.NewDecoder(strings.NewReader(out.Stdout))
			for _, into := range []any{&pid, &fromKernel, &code, &fromProc, &unprivileged, &tried, &triedProc} {
				if err := decoder.Decode(into); err != nil {
					t.Fatalf("%T: %v\n%s\n%s", into, err, out.Stdout, out.Stderr)
				}
			}
			if fromKernel.Source != snapshot.SourceIterators || fromKernel.Numbers.Estimated || fromProc.Source != snapshot.SourceProc || !fromProc.Numbers.Estimated {
				t.Errorf("sources %s and %s", fromKernel.Source, fromProc.Source)
			}
			if code != 1 {
				t.Errorf("exit %d although refused", code)
			}
			for _, x := range []advice.Explanation{fromKernel, fromProc} {
				holdsAllowance(t, &x, pid)
			}
			regime := "memory cgroup"
			if k.Series == "5.10" { // the last one before 5.11
				regime = "locked_vm"
			}
			if c := fromKernel.Checks[len(fromKernel.Checks)-1]; !strings.Contains(c.Detail, regime) {
				t.Errorf("BPF objects: %+v; want %q", c, regime)
			}
			if unprivileged.Source != snapshot.SourceProc || !strings.Contains(strings.Join(unprivileged.Unknown, " "), "not readable by this user") {
				t.Errorf("an ordinary user is told %v", unprivileged.Unknown)
			}
			predictionsHold(t, &tried, snapshot.SourceIterators, trials)
			predictionsHold(t, &triedProc, snapshot.SourceProc, 50)
		})
	}
}

// holdsAllowance wants 7 buffers of 65 pages found at one process, and a buffer of
// 257 pages refused for them: 712 of 516 pages, so 196 are held against the
// limit of 128.
func holdsAllowance(t *testing.T, x *advice.Explanation, pid uint32) {
	t.Helper()
	if len(x.Holders) != 1 {
		t.Fatalf("%s: holders %+v; want process %d", x.Source, x.Holders, pid)
	}
	want := advice.Holder{PID: pid, Comm: "pinwatch", UID: 2100, Cgroup: "/holder", Buffers: 7, Pages: 455, UserPart: 455, Share: 88.2}
	if x.Holders[0] != want {
		t.Errorf("%s: holder %+v; want %+v", x.Source, x.Holders[0], want)
	}
	if v := x.Verdict; v.Errno != "EPERM" || v.Limit != advice.LimitMemlock || v.Over != 68 || x.Held.Unowned != 0 || x.Fits != 0 {
		t.Errorf("%s: %+v, %+v, %d fit", x.Source, v, x.Held, x.Fits)
	}
}

func predictionsHold(t *testing.T, s *workload.TrialSummary, source string, trials int) {
	t.Helper()
	if s.Source != source || s.Trials != trials {
		t.Errorf("%d trials from %s; want %d from %s", s.Trials, s.Source, trials, source)
	}
	for _, m := range s.Mismatches {
		t.Errorf("%s: %+v", source, m)
	}
	// What did not occur was not tested.
	for _, outcome := range []string{"ok", "EPERM", "EINVAL"} {
		if s.Outcomes[outcome] == 0 {
			t.Errorf("%s: no outcome %s in %v", source, outcome, s.Outcomes)
		}
	}
	if s.Boundary < trials/5 || s.Exempt == 0 && trials >= 100 {
		t.Errorf("%s: %d at the boundary, %d exempt of %d", source, s.Boundary, s.Exempt, trials)
	}
}

// AUX areas are predicted as well. No emulated CPU has a PMU with one, so the
// known-bad kernel, whose accounting is right unless it is told otherwise, brings
// its own.
func TestExplainAUX(t *testing.T) {
	if !guesttest.All() {
		t.Skip("runs with make test-kernels")
	}
	t.Parallel()
	const trials = 200
	out := guesttest.Run(t, guesttest.KnownBad(t), nil, "workload", "trials", "--pmu", "aux_test", "--count", fmt.Sprint(trials))
	var tried workload.TrialSummary
	if err := json.Unmarshal([]byte(out.Stdout), &tried); err != nil || out.Code != 0 {
		t.Errorf("exit %d: %v\n%s\n%s", out.Code, err, out.Stdout, out.Stderr)
	}
	predictionsHold(t, &tried, snapshot.SourceIterators, trials)
	if tried.AUX < trials/4 {
		t.Errorf("%d of %d trials were of AUX areas", tried.AUX, trials)
	}
}

// A command's refusals are explained from their own numbers, with the holders.
func TestExplainCommand(t *testing.T) {
	t.Parallel()
	k := guesttest.Kernels(t)[0]
	out := guesttest.Run(t, k, nil, "explain", "--json", "--", "pinwatch", "workload", "perf-buffers", "--quiet", "--pages", "64", "--hold", "2s")
	var x advice.Explanation
	if err := json.NewDecoder(strings.NewReader(out.Stdout)).Decode(&x); err != nil || out.Code != 1 {
		t.Fatalf("exit %d: %v\n%s\n%s", out.Code, err, out.Stdout, out.Stderr)
	}
	if want := (advice.Verdict{Errno: "EPERM", Limit: advice.LimitMemlock, Over: 6}); x.Verdict != want || x.Numbers.PinnedVM != 69 {
		t.Errorf("%+v, %+v; want %+v", x.Verdict, x.Numbers, want)
	}
	if len(x.Holders) != 1 || x.Holders[0].PID != x.Subject.PID || x.Holders[0].Buffers != 9 || x.Holders[0].UserPart != 516 || x.Holders[0].Extra != 69 {
		t.Errorf("holders %+v of process %d", x.Holders, x.Subject.PID)
	}
}
