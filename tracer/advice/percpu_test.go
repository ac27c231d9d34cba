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
