//go:build guest

package tracer_test

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// Started after the fact, explain names the process that holds the allowance of
// another user, from the kernel and from /proc, and says what an ordinary user
// cannot know.
func TestExplainAfterTheFact(t *testing.T) { guests.Test(t, guesttest.Newest, explainsAfterTheFact) }

func explainsAfterTheFact(t *testing.T, k guesttest.Kernel) {
	const uid, dataPages = 2100, 256
	kib := userPages(t, k)
	group, err := os.Open(guesttest.Cgroup(t, "holder"))
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	holder := guesttest.Command(t, "pinwatch", "workload", "perf-buffers", "--json", "--uid", strconv.Itoa(uid), "--memlock-kib", kib(128), "--pages", "64", "--max", "7", "--hold", "10m")
	holder.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	holder.Start().WaitFor(`"buffer":7`)
	pid := uint32(holder.Process.Pid)

	t.Run("kernel", func(t *testing.T) {
		r := guesttest.Command(t, "pinwatch", "explain", "--uid", strconv.Itoa(uid), "--buffer", kib(dataPages)+"K", "--json").Run()
		if r.Code != 1 {
			t.Errorf("exit %d although refused", r.Code)
		}
		x := explanation(t, r)
		if x.Source != snapshot.SourceIterators || x.Numbers.Estimated {
			t.Errorf("source %s, estimated: %v", x.Source, x.Numbers.Estimated)
		}
		holdsAllowance(t, x, pid)
		regime := "memory cgroup"
		if k.Before("5.11") {
			regime = "locked_vm"
		}
		if c := x.Checks[len(x.Checks)-1]; !strings.Contains(c.Detail, regime) {
			t.Errorf("BPF objects: %+v; want %q", c, regime)
		}
	})
	t.Run("proc", func(t *testing.T) {
		from := snapshot.Options{NoIterators: true, Accounting: accounting.Find(t.Context())}
		s, err := snapshot.Take(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		x, err := advice.Explain(s, snapshot.Inspect(from, 0), advice.NewAsk(s, 0, uid, dataPages, false, false))
		if err != nil {
			t.Fatal(err)
		}
		if x.Source != snapshot.SourceProc || !x.Numbers.Estimated {
			t.Errorf("source %s, estimated: %v", x.Source, x.Numbers.Estimated)
		}
		holdsAllowance(t, x, pid)
	})
	t.Run("unprivileged", func(t *testing.T) {
		cmd := guesttest.Command(t, "pinwatch", "explain", "--buffer", kib(dataPages)+"K", "--json")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		x := explanation(t, cmd.Run())
		if x.Source != snapshot.SourceProc || !strings.Contains(strings.Join(x.Unknown, " "), "not readable by this user") {
			t.Errorf("an ordinary user is told %v, from %s", x.Unknown, x.Source)
		}
	})
}

// explanation is what explain --json has written.
func explanation(t *testing.T, r guesttest.Result) *advice.Explanation {
	t.Helper()
	var x advice.Explanation
	if err := json.NewDecoder(strings.NewReader(r.Stdout)).Decode(&x); err != nil {
		t.Fatalf("exit %d: %v\n%s\n%s", r.Code, err, r.Stdout, r.Stderr)
	}
	return &x
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

// The predictions of explain are tried: random mappings under random settings, each of
// which the kernel must answer as predicted.
func TestPredictions(t *testing.T) {
	guests.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) {
		userPages(t, k)
		count, few := 60, 30
		if guesttest.All() {
			count, few = 400, 50
		}
		t.Run("kernel", func(t *testing.T) {
			predictionsHold(t, snapshot.Options{}, snapshot.SourceIterators, workload.Trials{Seed: 1, Count: count})
		})
		t.Run("proc", func(t *testing.T) {
			predictionsHold(t, snapshot.Options{NoIterators: true}, snapshot.SourceProc, workload.Trials{Seed: 2, Count: few})
		})
	})
}

// predictionsHold tries predictions that rest on snapshots of a source.
func predictionsHold(t *testing.T, from snapshot.Options, source string, trials workload.Trials) (s workload.TrialSummary) {
	t.Helper()
	var err error
	from.Accounting = accounting.Find(t.Context())
	if !from.Accounting.Seen() {
		t.Errorf("%s", from.Accounting.Basis())
	}
	if trials.Source, err = snapshot.Open(from); err != nil {
		t.Fatal(err)
	}
	defer trials.Source.Close()
	var out bytes.Buffer
	runErr := trials.Run(t.Context(), &out)
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		t.Fatalf("%v: %v\n%s", runErr, err, out.String())
	}
	if runErr != nil {
		t.Error(runErr)
	}
	if s.Source != source || s.Trials != trials.Count {
		t.Errorf("%d trials from %s; want %d from %s", s.Trials, s.Source, trials.Count, source)
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
	if s.Boundary < trials.Count/5 || s.Exempt == 0 && trials.Count >= 60 {
		t.Errorf("%s: %d at the boundary, %d exempt of %d", source, s.Boundary, s.Exempt, trials.Count)
	}
	return s
}

// The accountings of the past are seen as what they are, and predicted to the page: AUX
// areas as well, for which no emulated CPU has a PMU, so that the known-bad kernel brings
// its own.
func TestPredictionsKnownBad(t *testing.T) {
	guesttest.Long(t)
	list := variants()
	kernels := func(t *testing.T) (kernels []guesttest.Kernel) {
		for _, v := range list {
			kernels = append(kernels, guesttest.KnownBad(t, v.name))
		}
		return kernels
	}
	guests.Test(t, kernels, func(t *testing.T, k guesttest.Kernel) {
		v := list[slices.IndexFunc(list, func(v variant) bool { return v.name == k.Variant })]
		v.isSeen(t)
		count := 80
		if guesttest.All() {
			count = 200
		}
		t.Run("proc", func(t *testing.T) {
			// What a kernel forgets to refund, or gives back too much of, no file shows: these come first.
			trials := workload.Trials{Seed: 2, Count: count, PMU: "aux_test"}
			if v.name == "aux-full" || v.name == "aux-either" {
				trials.PMU = ""
			}
			predictionsHold(t, snapshot.Options{NoIterators: true}, snapshot.SourceProc, trials)
		})
		t.Run("kernel", func(t *testing.T) {
			s := predictionsHold(t, snapshot.Options{}, snapshot.SourceIterators, workload.Trials{Seed: 1, Count: count, PMU: "aux_test"})
			if s.AUX < count/4 {
				t.Errorf("%d of %d trials were of AUX areas", s.AUX, count)
			}
		})
	})
}

// isSeen wants an accounting known: from the experiment, or, where that cannot bring a
// user above its allowance, from a trace of one that was there.
func (v *variant) isSeen(t *testing.T) {
	t.Helper()
	f := accounting.Find(t.Context())
	if v.scheme == "unclamped" && f.Scheme == rule.SchemeSplit && f.Doubt() != "" {
		trace := guesttest.Command(t, "pinwatch", "trace", "--only", "perf").Start()
		trace.WaitFor("watching")
		allowanceLowered(t)
		trace.Stop(os.Interrupt)
		f = accounting.Find(t.Context())
	}
	if f.Scheme.String() != v.scheme {
		t.Fatalf("%+v; want %s", f, v.scheme)
	}
}

// A command's refusals are explained from their own numbers, with the holders.
func TestExplainCommand(t *testing.T) { guests.Test(t, guesttest.First, explainsCommand) }

func explainsCommand(t *testing.T, _ guesttest.Kernel) {
	c := guesttest.Command(t, "pinwatch", "explain", "--json", "--", "pinwatch", "workload", "perf-buffers", "--quiet", "--pages", "64", "--hold", "10m").Start()
	c.WaitUntil("explained a refusal", func(stdout, _ string) bool { return json.Valid([]byte(stdout)) })
	r := c.Stop(os.Interrupt)
	if r.Code != 1 {
		t.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
	x := explanation(t, r)
	if want := (advice.Verdict{Certain: true, Errno: "EPERM", Limit: advice.LimitMemlock, Over: 6}); x.Verdict != want || x.Numbers.PinnedVM != 69 {
		t.Errorf("%+v, %+v; want %+v", x.Verdict, x.Numbers, want)
	}
	// Where nothing was refused, the command's own exit status is passed on.
	if r := guesttest.Command(t, "pinwatch", "explain", "--", "pinwatch", "--no-such-flag").Run(); r.Code != 2 {
		t.Errorf("exit %d of a command whose own is 2: %s", r.Code, r.Stderr)
	}
	if len(x.Holders) != 1 || x.Holders[0].PID != x.Subject.PID || x.Holders[0].Buffers != 9 || x.Holders[0].UserPart != 516 || x.Holders[0].Extra != 69 {
		t.Errorf("holders %+v of process %d", x.Holders, x.Subject.PID)
	}
}

// What a command is refused by the kernel's bug is called that, and so is the row of a
// trace, whose rule the summary names.
func TestExplainKernelsFault(t *testing.T) {
	cumulative := func(t *testing.T) []guesttest.Kernel { return []guesttest.Kernel{guesttest.KnownBad(t, "cumulative")} }
	guests.Test(t, cumulative, func(t *testing.T, _ guesttest.Kernel) {
		load := []string{"pinwatch", "workload", "perf-buffers", "--quiet", "--pages", "64", "--memlock-kib", "4096"}
		r := guesttest.Command(t, "pinwatch", append([]string{"explain", "--"}, load...)...).Run()
		for _, want := range []string{"REFUSED with EPERM", "This kernel is at fault: the intended rule allows it", "cumulative (", "d44248a41337"} {
			if !strings.Contains(r.Stdout, want) {
				t.Errorf("explain does not say %q:\n%s%s", want, r.Stdout, r.Stderr)
			}
		}
		r = guesttest.Command(t, "pinwatch", append([]string{"trace", "--"}, load...)...).Run()
		if !strings.Contains(r.Stdout+r.Stderr, "This kernel's bug, fixed in Linux 5.3.9 and 5.4 (d44248a41337)") {
			t.Errorf("trace:\n%s%s", r.Stdout, r.Stderr)
		}
		// Whoever holds 15 buffers leaves another one of its user no room: by the intended
		// rule 1 fits.
		holder := guesttest.Command(t, "pinwatch", "workload", "perf-buffers", "--json", "--uid", "65534", "--memlock-kib", "16384", "--pages", "64", "--max", "15", "--hold", "10m").Start()
		holder.WaitFor(`"buffer":15`)
		for limit, want := range map[string][2]int64{"512": {0, 1}, "16384": {5, 63}} {
			other := guesttest.Command(t, "pinwatch", "workload", "perf-buffers", "--json", "--uid", "65534", "--memlock-kib", limit, "--pages", "64")
			fit := strings.Count(other.Run().Stdout, `"step":"map"`)
			for _, source := range []string{"auto", "proc"} {
				waiter := guesttest.Command(t, "pinwatch", "workload", "perf-buffers", "--json", "--uid", "65534", "--memlock-kib", limit, "--pages", "1", "--max", "1", "--hold", "10m").Start()
				waiter.WaitFor(`"buffer":1`)
				x := explanation(t, guesttest.Command(t, "pinwatch", "explain", "--uid", "65534", "--pages", "64", "--source", source, "--json").Run())
				waiter.Stop(os.Kill)
				// The waiter's two pages are part of the history.
				if int64(fit) != want[0] || x.Fits != want[0] || x.Intended.Fits != want[1] || x.KernelFault != (want[0] == 0) || !x.Accounting.Seen {
					t.Errorf("limit %s KiB, %s: %d fit; explain says %d, and %d by the intended rule, fault %v; want %v", limit, source, fit, x.Fits, x.Intended.Fits, x.KernelFault, want)
				}
			}
		}
	})
}

// Inside a user namespace of its own, root is another user to the kernel, whose buffers
// outside cannot be seen: nothing is promised.
func TestExplainInUserNamespace(t *testing.T) {
	guests.Test(t, guesttest.First, func(t *testing.T, _ guesttest.Kernel) {
		holder := holdBuffers(t, "--uid", "2100", "--pages", "64", "--max", "7", "--memlock-kib", "512")
		holder.WaitFor(`"buffer":7`)
		cmd := guesttest.Command(t, "pinwatch", "explain", "--pages", "256", "--json")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, Credential: &syscall.Credential{NoSetGroups: true},
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 2100, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 2100, Size: 1}}}
		r := cmd.Run()
		x := explanation(t, r)
		if x.Subject.UID != 0 || x.Subject.OutsideUID != 2100 {
			t.Errorf("%+v", x.Subject)
		}
		if x.Verdict.Allowed && x.Verdict.Certain || r.Code != 1 {
			t.Errorf("exit %d, %+v: 455 pages of 516 are held outside, and 257 are refused", r.Code, x.Verdict)
		}
		if !strings.Contains(strings.Join(x.Unknown, " "), "user namespace of its own") {
			t.Errorf("%v", x.Unknown)
		}
		if !x.Accounting.Seen && !strings.Contains(x.Accounting.Basis, "not seen here: ") {
			t.Errorf("%+v", x.Accounting)
		}
	})
}
