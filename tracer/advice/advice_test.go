package advice

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/remedy"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// host has two processes of uid 1000, one of which holds the allowance, and a
// buffer that both have mapped.
func host() *snapshot.Snapshot {
	return &snapshot.Snapshot{
		Source: snapshot.SourceIterators, PageSize: 4096, OnlineCPUs: 4, MlockKiB: 516, Paranoid: 2,
		Processes: []snapshot.Process{
			{PID: 10, Comm: "profiler", UID: 1000, CgroupPath: "/system.slice/docker-" + strings.Repeat("0123456789abcdef", 4) + ".scope", PinnedVM: 4, LockLimit: 128, Known: true},
			{PID: 11, Comm: "agent", UID: 1000, CgroupPath: "/", LockLimit: 16, Known: true},
			{PID: 12, Comm: "hidden", UID: 1000},
			{PID: 13, Comm: "helper", UID: 0, LockLimit: 16, Known: true, CapIPCLock: true},
		},
		Users: []snapshot.User{
			{UID: 0, Processes: 1, Known: true},
			{UID: 1000, Processes: 3, PerfLocked: 516, LockedVM: 516, Known: true, BufferPages: 500},
		},
		Buffers: []snapshot.Buffer{
			{PID: 10, ID: 1, Pages: 257, ExtraKnown: true, PayerUID: 1000, PayerKnown: true, Mappings: 2},
			{PID: 10, ID: 2, Pages: 205, Extra: 4, ExtraKnown: true, PayerUID: 1000, PayerKnown: true, Mappings: 1},
			{PID: 11, ID: 1, Pages: 257, ExtraKnown: true, PayerUID: 1000, PayerKnown: true, Mappings: 2},
			// Mapped by a process that has changed its uid since.
			{PID: 13, ID: 3, Pages: 42, ExtraKnown: true, PayerUID: 1000, PayerKnown: true, Mappings: 1},
		},
		IOUring: []snapshot.IOUring{{PID: 11, FD: 3, Buffers: 1, Pages: 7}},
	}
}

func TestExplain(t *testing.T) {
	facts := &snapshot.Facts{}
	x, err := Explain(host(), facts, Ask{Pages: 65, PID: 11})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Verdict{Certain: true, Errno: "EPERM", Limit: LimitMemlock, Over: 49}); x.Verdict != want {
		t.Errorf("verdict %+v; want %+v", x.Verdict, want)
	}
	if want := (Numbers{PageBytes: 4096, MlockKiB: 516, OnlineCPUs: 4, Paranoid: 2, UserLockLimit: 516, UserLocked: 516, Extra: 65, Locked: 65, LockLimit: 16}); x.Numbers != want {
		t.Errorf("numbers %+v; want %+v", x.Numbers, want)
	}
	if want := (Subject{OutsideUID: -1, PID: 11, Comm: "agent", UID: 1000, Cgroup: "/"}); x.Subject != want {
		t.Errorf("subject %+v; want %+v", x.Subject, want)
	}
	wantHolders := []Holder{
		{PID: 10, Comm: "profiler", UID: 1000, Cgroup: host().Processes[0].CgroupPath, Container: "docker:0123456789ab", Buffers: 2, Pages: 462, UserPart: 458, Extra: 4, Share: 88.8},
		{PID: 13, Comm: "helper", UID: 0, Buffers: 1, Pages: 42, UserPart: 42, Share: 8.1},
	}
	if diff := cmp.Diff(wantHolders, x.Holders); diff != "" {
		t.Error(diff)
	}
	if want := (Held{UserLocked: 516, Share: 100, Buffers: 500, Unowned: 16, IOUring: 7, LockedVM: 516}); x.Held != want {
		t.Errorf("held %+v; want %+v", x.Held, want)
	}
	var names []string
	for _, r := range x.Remedies {
		names = append(names, r.Name)
	}
	want := []string{"smaller buffer", "user of its own", "RLIMIT_MEMLOCK", "end a holder", "CAP_IPC_LOCK", "perf_event_mlock_kb", "perf_event_paranoid"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

func TestNewProcessOfAUser(t *testing.T) {
	s := host()
	x, err := Explain(s, &snapshot.Facts{}, Ask{Pages: 17, UID: 1000})
	if err != nil {
		t.Fatal(err)
	}
	// The smallest limit of its processes, and nothing pinned yet.
	if n := x.Numbers; n.LockLimit != 16 || n.PinnedVM != 0 || n.CapIPCLock || x.Verdict.Over != 1 {
		t.Errorf("%+v %+v", n, x.Verdict)
	}
	if !strings.Contains(strings.Join(x.Unknown, " "), "its processes differ") {
		t.Errorf("unknown: %v", x.Unknown)
	}
	x, _ = Explain(s, &snapshot.Facts{}, Ask{Pages: 17, UID: 7, Limit: 5})
	if x.Numbers.LockLimit != 5 || !x.Verdict.Allowed || !strings.Contains(strings.Join(x.Unknown, " "), "pinwatch's own") {
		t.Errorf("a user without processes: %+v %+v %v", x.Numbers, x.Verdict, x.Unknown)
	}
	x, _ = Explain(s, &snapshot.Facts{}, Ask{Pages: 1025, UID: 0})
	if !x.Verdict.Allowed || x.Verdict.Exempt != "CAP_IPC_LOCK" || x.Fits != rule.NoLimit {
		t.Errorf("root: %+v, %d fit", x.Verdict, x.Fits)
	}
}

func TestNobody(t *testing.T) {
	for pid, want := range map[uint32]string{99: "there is none", 12: "cannot be read"} {
		if _, err := Explain(host(), &snapshot.Facts{}, Ask{Pages: 65, PID: pid}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("process %d: %v; want %q", pid, err, want)
		}
	}
}

func TestNegativePinned(t *testing.T) {
	s := host()
	s.Processes[1].PinnedVM = -100
	x, err := Explain(s, &snapshot.Facts{}, Ask{Pages: 65, PID: 11})
	if err != nil {
		t.Fatal(err)
	}
	if x.Verdict.Limit != LimitNegative || x.Verdict.Errno != "EPERM" || x.Fits != 0 {
		t.Errorf("%+v, %d fit", x.Verdict, x.Fits)
	}
	for _, r := range x.Remedies {
		if r.Name == "RLIMIT_MEMLOCK" || r.Name == "perf_event_mlock_kb" {
			t.Errorf("%s does not help", r.Name)
		}
	}
}

func TestGeometry(t *testing.T) {
	x, err := Explain(host(), &snapshot.Facts{}, Ask{Pages: 101, PID: 10})
	if err != nil {
		t.Fatal(err)
	}
	if x.Verdict.Errno != "EINVAL" || x.Verdict.Limit != LimitGeometry || len(x.Remedies) != 2 || x.Remedies[0].Pages != 65 || x.Remedies[1].Pages != 129 {
		t.Errorf("%+v %+v", x.Verdict, x.Remedies)
	}
}

// Of an event, the same: its numbers are what the kernel decided on.
func TestOfEntry(t *testing.T) {
	e := ledger.Entry{Kind: ledger.Refusal, Event: ledger.Event{
		Errno: rule.EPERM, PageSize: 4096,
		Caller:  ledger.Caller{PID: 10, UID: 1000, Comm: "a", LockLimit: 128},
		User:    ledger.Reading{Before: 516},
		Process: ledger.Reading{Before: 69},
		Buffer:  ledger.Buffer{Pages: 65, Extra: 65, Limits: ledger.Limits{Allowance: 516, Paranoid: 2, OnlineCPUs: 4}},
	}}
	x := OfEntry(&e, accounting.Finding{})
	if want := (Verdict{Certain: true, Errno: "EPERM", Limit: LimitMemlock, Over: 6}); x.Verdict != want {
		t.Errorf("%+v; want %+v", x.Verdict, want)
	}
	if n := x.Numbers; n.UserLocked != 516 || n.Extra != 65 || n.Locked != 134 || n.MlockKiB != 516 {
		t.Errorf("%+v", n)
	}
	// The numbers are the call's own, and stay so; the holders are as of later.
	x.AddHolders(&snapshot.Snapshot{Source: snapshot.SourceProc, PageSize: 4096, OnlineCPUs: 4, MlockKiB: 516, Paranoid: 2}, &snapshot.Facts{})
	if x.Numbers.Estimated || x.Numbers.UserLocked != 516 || !x.Held.Estimated || !x.Held.After || x.Held.UserLocked != 0 || x.Held.Share != 0 {
		t.Errorf("%+v, %+v", x.Numbers, x.Held)
	}
	e.Errno = int32(unix.EBUSY)
	if x := OfEntry(&e, accounting.Finding{}); x.Verdict.Errno != "EBUSY" || x.Verdict.Limit != LimitOther || len(x.Remedies) != 0 {
		t.Errorf("%+v", x.Verdict)
	}
	// The published trace: refused by the history.
	e = ledger.Entry{Kind: ledger.Refusal, Event: ledger.Event{
		Errno: rule.EPERM, PageSize: 4096,
		Caller:  ledger.Caller{PID: 10, LockLimit: 131072},
		User:    ledger.Reading{Before: 32898},
		Process: ledger.Reading{Before: 112998},
		Buffer:  ledger.Buffer{Pages: 3, Limits: ledger.Limits{Allowance: 4644, Paranoid: 2, OnlineCPUs: 36}},
	}}
	if x := OfEntry(&e, accounting.Finding{By: accounting.ByExperiment, Accounting: rule.Accounting{Scheme: rule.SchemeCumulative}}); x.Numbers.Extra != 28257 || x.Verdict.Over != 10183 {
		t.Errorf("%+v %+v", x.Numbers, x.Verdict)
	}
}

// Whatever the numbers, a remedy that is offered helps, and a limit that is named
// is the smallest one.
func TestRemediesHelp(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	offered := map[string]int{}
	for range 5000 {
		s := rule.Settings{PageSize: 4096 << (2 * random.IntN(3)), MlockKiB: random.IntN(2000), OnlineCPUs: 1 + random.IntN(16), Paranoid: random.IntN(4),
			Accounting: rule.Accounting{Scheme: rule.Scheme(random.IntN(rule.Schemes))}}
		c := rule.Caller{UserLocked: random.Int64N(3000), PinnedVM: random.Int64N(500) - 50, LockLimit: random.Int64N(2000)}
		ask := Ask{Pages: 1<<random.IntN(11) + 1, Buffers: 1 + random.Int64N(8)}
		x := judge(s, c, ask)
		if x.Verdict.Allowed != succeed(s, c, ask) {
			t.Fatalf("%+v %+v %+v: %+v", s, c, ask, x.Verdict)
		}
		for _, r := range x.Remedies {
			offered[r.Name]++
			if name, ok := helps(s, c, ask, r); !ok {
				t.Fatalf("%+v %+v %+v: %s does not help, or is more than needed: %+v", s, c, ask, name, r)
			}
		}
	}
	for _, name := range []string{"smaller buffer", "user of its own", "new process", "RLIMIT_MEMLOCK", "perf_event_mlock_kb", "CAP_IPC_LOCK", "perf_event_paranoid"} {
		if offered[name] == 0 {
			t.Errorf("%s was never offered", name)
		}
	}
}

// helps applies a remedy, and a little less of it.
func helps(s rule.Settings, c rule.Caller, ask Ask, r remedy.Remedy) (string, bool) {
	less := false // whether less would do too
	switch r.Name {
	case "smaller buffer":
		ask.Pages = r.Pages
		larger := ask
		larger.Pages = 2*(r.Pages-1) + 1
		less = succeed(s, c, larger)
	case "user of its own":
		c.UserLocked = 0
	case "new process":
		c.PinnedVM = 0
	case "RLIMIT_MEMLOCK":
		c.LockLimit = r.Pages - 1
		less = succeed(s, c, ask)
		c.LockLimit = r.Pages
		if enough := s.Limits().Fits(c, ask.Area, ask.Pages); enough != r.Buffers || enough < ask.Buffers {
			return fmt.Sprintf("%d buffers", enough), false
		}
		if r.Shell != fmt.Sprintf("ulimit -l %d", r.Pages*int64(s.PageSize)/1024) {
			return r.Shell, false
		}
	case "perf_event_mlock_kb":
		fmt.Sscanf(r.Shell, "sysctl -w kernel.perf_event_mlock_kb=%d", &s.MlockKiB)
		s.MlockKiB--
		less = succeed(s, c, ask)
		if s.Accounting.Scheme == rule.SchemeCumulative { // which holds all that the user has
			less = s.UserLockLimit() >= c.UserLocked+ask.Pages*ask.Buffers
		}
		s.MlockKiB++
	case "CAP_IPC_LOCK":
		c.CapIPCLock = true
	case "perf_event_paranoid":
		s.Paranoid = -1
	default:
		return "unknown " + r.Name, false
	}
	return r.Name, succeed(s, c, ask) && !less
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"4096": 4096, "512K": 512 << 10, "512KiB": 512 << 10, "2m": 2 << 20, "1G": 1 << 30} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "K", "0", "-1", "1.5M", "9999999999G", "12X"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// The checks tell apart what looks alike.
func TestChecks(t *testing.T) {
	all := uint64(1)<<41 - 1
	ipc := uint64(1) << unix.CAP_IPC_LOCK
	for name, c := range map[string]struct {
		facts snapshot.Facts
		check int // index
		state string
		says  string
	}{
		"child user namespace":     {snapshot.Facts{CapsKnown: true, CapEffective: all, CapPermitted: all, UserNSKnown: true}, 1, Refuses, "only in a user namespace of its own"},
		"permitted, not effective": {snapshot.Facts{CapsKnown: true, CapPermitted: ipc, CapBounding: all, UserNSKnown: true, InitialUserNS: true}, 1, Refuses, "permitted, but not effective"},
		"not granted":              {snapshot.Facts{CapsKnown: true, CapBounding: all}, 1, Refuses, "not granted; without"},
		"not in the bounding set":  {snapshot.Facts{CapsKnown: true, NoNewPrivs: true}, 1, Refuses, "not in the bounding set"},
		"unknown":                  {snapshot.Facts{}, 1, Unknown, "cannot be read"},
		"seccomp":                  {snapshot.Facts{Seccomp: snapshot.SeccompFilter}, 2, May, "a filter"},
		"no seccomp":               {snapshot.Facts{}, 2, Passes, "no filter"},
		"no LSM":                   {snapshot.Facts{LSMsKnown: true, LSMs: []string{"capability", "yama"}}, 3, Passes, "yama"},
		"an LSM":                   {snapshot.Facts{LSMsKnown: true, LSMs: []string{"selinux"}}, 3, May, "selinux"},
		"locked down":              {snapshot.Facts{Lockdown: "confidentiality"}, 4, May, "confidentiality"},
		"rlimit":                   {snapshot.Facts{BPF: kernel.BPFRlimit}, 5, May, "locked_vm"},
		"memcg":                    {snapshot.Facts{BPF: kernel.BPFMemcg}, 5, Passes, "memory cgroup"},
	} {
		x, err := Explain(host(), &c.facts, Ask{Pages: 65, PID: 11})
		if err != nil {
			t.Fatal(err)
		}
		if got := x.Checks[c.check]; got.State != c.state || !strings.Contains(got.Detail, c.says) {
			t.Errorf("%s: %+v; want %s, %q", name, got, c.state, c.says)
		}
	}
	s := host()
	for _, c := range []struct {
		level   int
		caps    uint64
		buffers int64
		state   string
	}{{3, 0, 1, May}, {3, 1 << unix.CAP_PERFMON, 1, May}, {3, 1 << unix.CAP_SYS_ADMIN, 1, Passes}, {2, 0, 1, Passes}, {2, 0, 4, May}, {2, 1 << unix.CAP_PERFMON, 4, Passes}, {0, 0, 4, Passes}, {-1, 0, 4, Passes}} {
		s.Paranoid = c.level
		x, _ := Explain(s, &snapshot.Facts{CapsKnown: true, CapEffective: c.caps, InitialUserNS: true, UserNSKnown: true}, Ask{Pages: 65, PID: 11, Buffers: c.buffers})
		if got := x.Checks[0]; got.State != c.state {
			t.Errorf("level %d, capabilities %x, %d buffers: %+v; want %s", c.level, c.caps, c.buffers, got, c.state)
		}
	}
}
