package advice

import (
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/remedy"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Who maps a buffer for each CPU is told what helps all of them: what helps the first alone
// has the second refused.
func TestRemediesForEachCPU(t *testing.T) {
	refused := func(pages, limit, user int64, cpu int32) *ledger.Entry {
		_, extra := rule.Split(pages, user, 516)
		return &ledger.Entry{Kind: ledger.Refusal, Event: ledger.Event{
			Errno: rule.EPERM, PageSize: 4096,
			Caller: ledger.Caller{PID: 10, UID: 1000, LockLimit: limit},
			User:   ledger.Reading{Before: user},
			Buffer: ledger.Buffer{Pages: pages, Extra: extra, Limits: ledger.Limits{Allowance: 516, Paranoid: 2, OnlineCPUs: 4}},
			Failed: &refusal.Call{Function: refusal.PerfMmap, Mapping: refusal.Mapping{CPU: cpu, SystemCall: -1}},
		}}
	}
	halfway := refused(129, 16, 516, 2)
	halfway.Held = &ledger.Held{Same: 2, SameUser: 258}
	for name, c := range map[string]struct {
		e       *ledger.Entry
		wanted  int64
		limit   string
		setting string // "": none helps
		smaller int64
	}{
		"16 MiB for each":             {refused(4097, 2048, 0, 0), 4, "ulimit -l 63488", "sysctl kernel.perf_event_mlock_kb=14340", 513},
		"16 MiB for one":              {refused(4097, 2048, 0, -1), 1, "ulimit -l 14324", "sysctl kernel.perf_event_mlock_kb=2052", 2049},
		"a second profile":            {refused(129, 16, 516, 0), 4, "ulimit -l 2064", "sysctl kernel.perf_event_mlock_kb=1016", 3},
		"a third container":           {refused(65, 16, 516, 0), 4, "ulimit -l 1040", "sysctl kernel.perf_event_mlock_kb=760", 3},
		"after two of its own":        {halfway, 2, "ulimit -l 1032", "sysctl kernel.perf_event_mlock_kb=760", 65},
		"perf's default size doubles": {refused(129, 4, 516, 0), 4, "ulimit -l 2064", "sysctl kernel.perf_event_mlock_kb=1028 (perf itself: with -m 128, for its default size grows with the setting)", 0},
	} {
		x := OfEntry(c.e, accounting.Finding{})
		brief := strings.Join(x.Brief(), "\n")
		var smaller int64
		for _, r := range x.Remedies {
			if r.Name == remedy.Smaller {
				smaller = r.Pages
			}
		}
		if x.Wanted != c.wanted || x.Buffers != 1 || smaller != c.smaller || !strings.Contains(brief, c.limit+" (KiB)\n") || !strings.Contains(brief, c.setting+"\n") {
			t.Errorf("%s: for %d buffers, the smaller one of %d pages:\n%s\nwant %+v", name, x.Wanted, smaller, brief, c)
		}
	}
}

// What no kernel takes is refused whatever the limits, and no limit is a remedy.
func TestLargestBuffer(t *testing.T) {
	settings := rule.Settings{PageSize: 4096, MlockKiB: 516, OnlineCPUs: 4, Paranoid: 2}
	free := rule.Caller{LockLimit: 2048, CapIPCLock: true}
	for _, c := range []struct {
		caller  rule.Caller
		area    rule.Area
		pages   int64
		errno   string
		smaller int64 // pages
	}{
		{free, rule.Data, 1<<19 + 1, "ENOMEM", 1<<18 + 1},
		{free, rule.Data, 1<<18 + 1, "", 0},
		{free, rule.AUX, 1 << 20, "ENOMEM", 1 << 19},
		{rule.Caller{LockLimit: 2048}, rule.Data, 1<<19 + 1, "EPERM", 2049},
	} {
		x := judge(settings, c.caller, Ask{Area: c.area, Pages: c.pages, Buffers: 1})
		if x.Verdict.Errno != c.errno || x.Verdict.Allowed != (c.errno == "") {
			t.Errorf("%d pages: %+v; want %q", c.pages, x.Verdict, c.errno)
		}
		if c.errno != "" && (x.Verdict.Limit != LimitLargest || x.Fits != 0 || len(x.Remedies) != 1 || x.Remedies[0].Pages != c.smaller) {
			t.Errorf("%d pages: %+v, %d fit, %+v; want a smaller one of %d", c.pages, x.Verdict, x.Fits, x.Remedies, c.smaller)
		}
	}
}

// What the machine has no memory for is promised to nobody: only what is smaller helps.
func TestBeyondMachine(t *testing.T) {
	settings := rule.Settings{PageSize: 4096, MlockKiB: 516, OnlineCPUs: 4, Paranoid: 2, Accounting: rule.Accounting{Scheme: rule.SchemeSplit}}
	limited, free := rule.Caller{LockLimit: 16}, rule.Caller{LockLimit: 16, CapIPCLock: true}
	const machine = 1 << 30
	for _, c := range []struct {
		caller         rule.Caller
		pages, buffers int64
		limit          string
		beyond         bool
		fits, smaller  int64
	}{
		{limited, 1<<17 + 1, 1, LimitMemlock, false, 0, 513},
		{limited, 1<<17 + 1, 4, LimitMemlock, true, 0, 129},
		{limited, 1<<18 + 1, 1, LimitMemlock, true, 0, 513},
		{free, 1<<18 + 1, 1, LimitMachine, true, 0, 1<<17 + 1},
		{free, 1<<17 + 1, 2, LimitMachine, true, 1, 1<<16 + 1},
		{free, 1<<17 + 1, 1, LimitNone, false, rule.NoLimit, 0},
	} {
		x := judge(settings, c.caller, Ask{Area: rule.Data, Pages: c.pages, Buffers: c.buffers, Machine: machine})
		if x.Verdict.Limit != c.limit || x.BeyondMachine != c.beyond || x.Fits != c.fits {
			t.Errorf("%d of %d pages: %+v, beyond: %v, %d fit; want %+v", c.buffers, c.pages, x.Verdict, x.BeyondMachine, x.Fits, c)
		}
		raises := false
		for _, r := range x.Remedies {
			raises = raises || r.Name == remedy.Limit || r.Name == remedy.Capable || r.Name == remedy.Allowance
		}
		if raises == c.beyond && !x.Verdict.Allowed {
			t.Errorf("%d of %d pages: %+v", c.buffers, c.pages, x.Remedies)
		}
		if c.smaller != 0 && x.Remedies[0].Pages != c.smaller {
			t.Errorf("%d of %d pages: %+v; want a smaller one of %d", c.buffers, c.pages, x.Remedies[0], c.smaller)
		}
	}
}
