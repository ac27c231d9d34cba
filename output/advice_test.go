package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/doctor"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	refused "github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares a text with a file of testdata/golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("..", "testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (go test ./output -update writes it anew):\n%s", name, diff)
	}
}

// explained is a refusal on a host where a container holds the allowance, under a
// hostile name.
func explained(t *testing.T, change func(*snapshot.Snapshot, *advice.Ask)) *advice.Explanation {
	t.Helper()
	s := &snapshot.Snapshot{
		Source: snapshot.SourceIterators, PageSize: 4096, OnlineCPUs: 4, MlockKiB: 516, Paranoid: 2,
		Accounting: accounting.Finding{By: accounting.ByExperiment, Accounting: rule.Accounting{Scheme: rule.SchemeSplit}, Clamps: true},
		Processes: []snapshot.Process{
			{PID: 10, Comm: "evil\x1b[2J", UID: 1000, CgroupPath: "/docker/" + strings.Repeat("0123456789abcdef", 4), PinnedVM: 4, LockLimit: 128, Known: true},
			{PID: 11, Comm: "agent", UID: 1000, CgroupPath: "/system.slice/agent\x1b]0;.service", LockLimit: 16, Known: true},
		},
		Users:   []snapshot.User{{UID: 1000, Processes: 2, PerfLocked: 516, LockedVM: 516, Known: true}},
		Buffers: []snapshot.Buffer{{PID: 10, ID: 1, Pages: 513, Extra: 4, ExtraKnown: true, PayerUID: 1000, PayerKnown: true, Mappings: 1}},
	}
	ask := advice.Ask{Pages: 65, PID: 11, Buffers: 4}
	if change != nil {
		change(s, &ask)
	}
	facts := &snapshot.Facts{CapsKnown: true, UserNSKnown: true, InitialUserNS: true, LSMsKnown: true, LSMs: []string{"capability"},
		Lockdown: "none", BPF: kernel.BPFMemcg}
	x, err := advice.Explain(s, facts, ask)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// published is the machine of the published measurement: uid 0 holds 32886 pages, its
// limit is 512 MiB, and one buffer of 12 KiB for each CPU is wanted, without CAP_IPC_LOCK.
func published(s *snapshot.Snapshot, a *advice.Ask) {
	s.OnlineCPUs, s.Accounting.Accounting = 36, rule.Accounting{Scheme: rule.SchemeCumulative}
	s.Processes = []snapshot.Process{
		{PID: 500, Comm: "profiler", CgroupPath: "/", LockLimit: rule.Unlimited, Known: true, CapIPCLock: true},
		{PID: 600, Comm: "ilarouter", CgroupPath: "/", LockLimit: 131072, Known: true},
	}
	holder := rule.Caller{LockLimit: rule.Unlimited}
	for i, pages := range []int64{16385, 16385, 65, 33, 17, 1} {
		o := s.Settings().Limits().Map(holder, rule.Data, pages)
		holder = holder.Charged(o)
		s.Buffers = append(s.Buffers[:i], snapshot.Buffer{PID: 500, ID: uint64(i + 1), Pages: pages, Extra: o.Extra, ExtraKnown: true, PayerKnown: true, Mappings: 1})
	}
	s.Processes[0].PinnedVM = holder.PinnedVM
	s.Users = []snapshot.User{{Processes: 2, PerfLocked: holder.UserLocked, LockedVM: holder.UserLocked, Known: true}}
	a.Pages, a.PID, a.Buffers = 3, 600, 36
}

func TestAdviceText(t *testing.T) {
	for name, change := range map[string]func(*snapshot.Snapshot, *advice.Ask){
		"refused": nil,
		"allowed": func(s *snapshot.Snapshot, a *advice.Ask) { s.Processes[1].LockLimit = 1000 },
		"exempt":  func(s *snapshot.Snapshot, a *advice.Ask) { s.Processes[1].CapIPCLock = true },
		"per-cpu": func(s *snapshot.Snapshot, a *advice.Ask) {
			a.PID, a.UID, a.Buffers, s.Users[0].PerfLocked = 0, 1000, 5, 356
		},
		"invalid": func(s *snapshot.Snapshot, a *advice.Ask) { a.Pages = 101 },
		"negative": func(s *snapshot.Snapshot, a *advice.Ask) {
			s.Processes[1].PinnedVM, s.Users[0].PerfLocked, s.SplitCounter = -100, -9, true
		},
		"proc": func(s *snapshot.Snapshot, a *advice.Ask) {
			a.PID, a.UID = 0, 1000
			s.Source, s.Users[0].Known, s.Users[0].PerfLocked = snapshot.SourceProc, false, 509
			s.Buffers[0].PayerKnown, s.Buffers[0].ExtraKnown, s.Buffers[0].Extra = false, false, 0
			s.Degraded = []string{"BPF iterators: not used, as told"}
		},
		"assumed": func(s *snapshot.Snapshot, a *advice.Ask) {
			s.Accounting = accounting.Assume("becoming a throwaway user takes CAP_SETUID and CAP_SETGID: run as root")
		},
		"named": func(s *snapshot.Snapshot, a *advice.Ask) {
			id := strings.Repeat("0123456789abcdef", 4)
			s.Names = cgroup.NewNames(fstest.MapFS{
				"var/lib/docker/containers/" + id + "/config.v2.json":      {Data: []byte(`{"Name":"/profiler\u001b[2J"}`)},
				"var/log/pods/prod_web-1_33d556edd3ae8ef21980288cef77ae8b": {Mode: fs.ModeDir},
			})
			s.Processes[1].CgroupPath = "/kubepods/pod33d556edd3ae8ef21980288cef77ae8b"
		},
		"further-mappings": func(s *snapshot.Snapshot, a *advice.Ask) { s.Accounting.Remaps = true },
		"published":        published,
		"history-without-effect": func(s *snapshot.Snapshot, a *advice.Ask) {
			published(s, a)
			s.Users[0].PerfLocked, s.Buffers, a.Buffers = 0, nil, 2
		},
		"hidden": func(s *snapshot.Snapshot, a *advice.Ask) {
			a.PID, a.UID, a.Buffers = 0, 1000, 1
			s.Source, s.Users[0] = snapshot.SourceProc, snapshot.User{UID: 1000, Processes: 2, Hidden: 2}
			s.Buffers = nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			text := AdviceText(explained(t, change))
			if strings.ContainsRune(text, '\x1b') {
				t.Error("an escape sequence reaches the terminal")
			}
			golden(t, "explain-"+name+".txt", text)
		})
	}
}

// JSON has every field, whatever the verdict, and says the version.
func TestAdviceJSON(t *testing.T) {
	keys := func(x *advice.Explanation) (top []string) {
		var b bytes.Buffer
		if err := Advice(&b, x, true); err != nil {
			t.Fatal(err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(b.Bytes(), &fields); err != nil {
			t.Fatal(err)
		}
		for name, value := range fields {
			if string(value) == "null" {
				t.Errorf("%s is null", name)
			}
			top = append(top, name)
		}
		if string(fields["v"]) != "1" {
			t.Errorf("version %s", fields["v"])
		}
		return top
	}
	refused := keys(explained(t, nil))
	invalid := keys(explained(t, func(s *snapshot.Snapshot, a *advice.Ask) { a.Pages, s.Users, s.Buffers = 101, nil, nil }))
	if len(refused) != len(invalid) || len(refused) != 23 {
		t.Errorf("%d fields when refused, %d when invalid; want 23", len(refused), len(invalid))
	}
}

// Every refusal of the command is explained once, and those of others are not.
func TestExplainRefusals(t *testing.T) {
	refusal := ledger.Event{
		Errno: rule.EPERM, PageSize: 4096,
		Caller: ledger.Caller{Command: true, PID: 11, UID: 1000, Comm: "agent", LockLimit: 16, ParentLimit: 2048},
		User:   ledger.Reading{Before: 516, After: 516},
		Buffer: ledger.Buffer{Pages: 65, Extra: 65, Limits: ledger.Limits{Allowance: 516, Paranoid: 2, OnlineCPUs: 4}},
	}
	others := refusal
	others.Caller.Command = false
	odd := refusal
	odd.Errno, odd.Buffer.Pages = 22, 64
	private := odd // another reason for the same size
	private.Buffer.Pages, private.Failed = 64, &refused.Call{Function: refused.PerfMmap, Mapping: refused.Mapping{Private: true, CPU: -1, SystemCall: -1}}
	events := func(yield func(ledger.Event, error) bool) {
		for _, e := range []ledger.Event{refusal, others, refusal, odd, private} {
			if !yield(e, nil) {
				return
			}
		}
	}
	var b strings.Builder
	x := &Explainer{Out: &b,
		Take:  func() (*snapshot.Snapshot, error) { return &snapshot.Snapshot{Source: snapshot.SourceProc}, nil },
		Facts: func(uint32) *snapshot.Facts { return &snapshot.Facts{} }}
	none := func() uint64 { return 0 }
	if err := pipeline.Run(events, none, x); err != nil || x.Refused != 4 {
		t.Errorf("%d, %v", x.Refused, err)
	}
	text := b.String()
	if strings.Count(text, "REFUSED with EPERM") != 1 || strings.Count(text, "REFUSED with EINVAL") != 2 || !strings.Contains(text, "succeeded; 4 refusals were seen.\n") || strings.Contains(text, "for want of locked memory") ||
		!strings.Contains(text, "\nThe limit is the process's own: that of its parent is 2048 pages, and was lowered for this process, by itself or by what started it.\n") {
		t.Error(text)
	}
	b.Reset()
	x = &Explainer{Out: &b}
	if err := pipeline.Run(func(func(ledger.Event, error) bool) {}, none, x); err != nil || x.Refused != 0 || !strings.Contains(b.String(), "not for want of locked memory") ||
		!strings.Contains(b.String(), "no refusal was seen") || !strings.Contains(b.String(), "optmem_max") || !strings.Contains(b.String(), "MAP_LOCKED") || !strings.Contains(b.String(), "mlockall(MCL_FUTURE)") || !strings.Contains(b.String(), "EAGAIN") {
		t.Error(b.String())
	}
}

// Doctor says how the kernel accounts, what is wrong with that, and where the experiment
// and the trace contradict each other.
func TestAccountingChecks(t *testing.T) {
	seen := func(scheme rule.Scheme, clamps bool) accounting.Finding {
		return accounting.Finding{By: accounting.ByExperiment, Accounting: rule.Accounting{Scheme: scheme}, Clamps: clamps}
	}
	for _, c := range []struct {
		check       doctor.Check
		state, says string
	}{
		{Accounting(seen(rule.SchemeSplit, true)), doctor.StateOK, "seen in an experiment"},
		{Accounting(seen(rule.SchemeSplit, false)), doctor.StateOK, "was not seen: nothing here could bring a throwaway user there"},
		{Accounting(seen(rule.SchemeCumulative, false)), doctor.StateDegraded, "accounts locked memory wrong: each mapping past the allowance"},
		{Accounting(accounting.Finding{By: accounting.ByExperiment, Accounting: rule.Accounting{Scheme: rule.SchemeSplit, Remaps: true}}), doctor.StateDegraded, "a further mapping"},
		{Accounting(accounting.Assume("run as root")), doctor.StateDegraded, "not seen here: run as root"},
		{Traced(seen(rule.SchemeSplit, true), ledger.Summary{Events: 1, Scheme: rule.SchemeSplit, Verdicts: [ledger.Verdicts]uint64{1}}, nil), doctor.StateOK, "ok"},
		{Traced(seen(rule.SchemeSplit, true), ledger.Summary{Events: 1, Scheme: rule.SchemeCumulative, Verdicts: [ledger.Verdicts]uint64{1}}, nil), doctor.StateDegraded, "contradicts the experiment"},
		{Traced(seen(rule.SchemeCumulative, true), ledger.Summary{Events: 1, Scheme: rule.SchemeEither, Verdicts: [ledger.Verdicts]uint64{1}}, nil), doctor.StateOK, "cumulative-or-twice"},
		{Traced(accounting.Assume(""), ledger.Summary{Events: 1, Scheme: rule.SchemeTwice, Verdicts: [ledger.Verdicts]uint64{1}}, nil), doctor.StateOK, "twice"},
		{Traced(seen(rule.SchemeSplit, true), ledger.Summary{}, errors.New("no probes")), doctor.StateDegraded, "not known: no probes"},
	} {
		if c.check.State != c.state || !strings.Contains(c.check.Detail, c.says) {
			t.Errorf("%+v; want %s, %q", c.check, c.state, c.says)
		}
	}
}

func TestDoctorText(t *testing.T) {
	checks := []doctor.Check{
		{Name: "kernel", State: doctor.StateOK, Detail: "6.1"},
		{Name: "CAP_SYSLOG", State: doctor.StateDegraded, Detail: "not effective: see kernel symbols", Remedy: "run as root"},
		{Name: "a long name", State: doctor.StateMissing, Remedy: "do something"},
	}
	var b strings.Builder
	if err := Doctor(&b, checks, false); err != nil {
		t.Fatal(err)
	}
	golden(t, "doctor.txt", b.String())
	b.Reset()
	if err := Doctor(&b, checks, true); err != nil {
		t.Fatal(err)
	}
	golden(t, "doctor.json", b.String())
}
