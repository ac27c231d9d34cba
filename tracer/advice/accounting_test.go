package advice

import (
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// seenAs is how a kernel was seen to account.
func seenAs(scheme rule.Scheme) accounting.Finding {
	return accounting.Finding{By: accounting.ByExperiment, Accounting: rule.Accounting{Scheme: scheme}, Clamps: true}
}

// holding is a machine of an accounting where process 20 of uid 65534 has mapped so many
// buffers of 65 pages, and process 21 of it none: by the kernel's own lists, or by /proc.
func holding(scheme rule.Scheme, buffers int, limit int64, source string) *snapshot.Snapshot {
	s := &snapshot.Snapshot{Source: source, PageSize: 4096, OnlineCPUs: 4, MlockKiB: 516, Paranoid: 2, Accounting: seenAs(scheme)}
	known := source == snapshot.SourceIterators
	at := rule.Caller{LockLimit: rule.Unlimited}
	for i := range buffers {
		o := s.Settings().Limits().Map(at, rule.Data, 65)
		at = at.Charged(o)
		b := snapshot.Buffer{PID: 20, ID: uint64(i + 1), Pages: 65, PayerUID: 65534, Mappings: 1}
		if known {
			b.Extra, b.ExtraKnown, b.PayerKnown = o.Extra, true, true
		}
		s.Buffers = append(s.Buffers, b)
	}
	s.Processes = []snapshot.Process{
		{PID: 20, Comm: "holder", UID: 65534, PinnedVM: at.PinnedVM, LockLimit: limit, Known: true, Buffers: buffers, BufferPages: int64(65 * buffers)},
		{PID: 21, Comm: "other", UID: 65534, LockLimit: limit, Known: true},
	}
	s.Users = []snapshot.User{{UID: 65534, Processes: 2, PerfLocked: at.UserLocked, LockedVM: at.UserLocked, Known: known}}
	return s
}

// What a genuine kernel from before the fix does, and what the intended rule would give.
func TestBothRules(t *testing.T) {
	for _, c := range []struct {
		scheme         rule.Scheme
		held           int
		limit          int64
		pid            uint32
		fits, intended int64
		fault          bool
	}{
		{rule.SchemeCumulative, 15, 128, 21, 0, 1, true},
		{rule.SchemeCumulative, 15, 4096, 21, 5, 63, false},
		{rule.SchemeCumulative, 7, 4096, 21, 11, 63, false},
		{rule.SchemeCumulative, 15, 4096, 20, 3, 55, false}, // pinned_vm 1852, of which 459 are right
		{rule.SchemeSplit, 15, 128, 21, 1, 1, false},
		{rule.SchemeTwice, 15, 4096, 21, 63, 63, false},
		{rule.SchemeUnknown, 15, 128, 21, 1, 1, false},
	} {
		x, err := Explain(holding(c.scheme, c.held, c.limit, snapshot.SourceIterators), &snapshot.Facts{}, Ask{Pages: 65, PID: c.pid})
		if err != nil {
			t.Fatal(err)
		}
		if x.Fits != c.fits || x.Intended.Fits != c.intended || x.KernelFault != c.fault || x.Verdict.Allowed != (c.fits > 0) || !x.Intended.Allowed {
			t.Errorf("%+v: %d fit, %d by the intended rule, the kernel's fault: %v", c, x.Fits, x.Intended.Fits, x.KernelFault)
		}
		if c.scheme == rule.SchemeCumulative && (x.Accounting.Bug == "" || !strings.Contains(x.Accounting.Fixed, "d44248a41337")) {
			t.Errorf("%+v", x.Accounting)
		}
		// From /proc the same, but for what is the process's and the user's right share.
		y, err := Explain(holding(c.scheme, c.held, c.limit, snapshot.SourceProc), &snapshot.Facts{}, Ask{Pages: 65, PID: c.pid})
		if err != nil {
			t.Fatal(err)
		}
		if y.Fits != c.fits || y.Intended.Fits > c.intended || y.KernelFault != c.fault || !y.Numbers.Estimated {
			t.Errorf("%+v, from /proc: %d fit, %d by the intended rule, the kernel's fault: %v", c, y.Fits, y.Intended.Fits, y.KernelFault)
		}
		for _, x := range []*Explanation{x, y} {
			if h := x.Holders[0]; h.PID != 20 || h.Pages != int64(65*c.held) || h.UserPart != x.Held.UserLocked || x.Held.Unowned != 0 {
				t.Errorf("%+v, %s: %+v of %+v", c, x.Source, h, x.Held)
			}
		}
	}
}

// An assumption is called one, and says what was in the way; nothing is the kernel's fault
// by an assumption.
func TestAssumedAccounting(t *testing.T) {
	s := holding(rule.SchemeUnknown, 15, 16, snapshot.SourceIterators)
	s.Accounting = accounting.Assume("it takes CAP_SETUID")
	x, err := Explain(s, &snapshot.Facts{}, Ask{Pages: 65, PID: 21})
	if err != nil {
		t.Fatal(err)
	}
	if a := x.Accounting; a.Seen || a.Scheme != "split" || !strings.Contains(a.Basis, "assumed") || !strings.Contains(a.Basis, "it takes CAP_SETUID") || x.KernelFault {
		t.Errorf("%+v, %v", a, x.KernelFault)
	}
	// What the experiment could not see is said where it matters: above the allowance.
	s.Accounting = seenAs(rule.SchemeSplit)
	s.Accounting.Clamps, s.Users[0].PerfLocked = false, 600
	if x, _ = Explain(s, &snapshot.Facts{}, Ask{Pages: 65, PID: 21}); !strings.Contains(strings.Join(x.Unknown, " "), "above its allowance") {
		t.Errorf("%v", x.Unknown)
	}
	s.Users[0].PerfLocked = 516
	if x, _ = Explain(s, &snapshot.Facts{}, Ask{Pages: 65, PID: 21}); strings.Contains(strings.Join(x.Unknown, " "), "above its allowance") {
		t.Errorf("no user is above: %v", x.Unknown)
	}
}

// No mapping is promised that what cannot be seen may have used up.
func TestHidden(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*snapshot.Snapshot)
		certain bool
		atLeast int64
	}{
		"all is seen":             {func(*snapshot.Snapshot) {}, true, 8},
		"hidden processes":        {func(s *snapshot.Snapshot) { s.Users[0].Hidden = 1 }, false, 0},
		"a namespace":             {func(s *snapshot.Snapshot) { s.Enclosed = true }, false, 0},
		"but the limit is enough": {func(s *snapshot.Snapshot) { s.Enclosed, s.Processes[1].LockLimit = true, 65 }, true, 1},
		"not of a history": {func(s *snapshot.Snapshot) {
			s.Enclosed, s.Processes[1].LockLimit, s.Accounting = true, 4096, seenAs(rule.SchemeCumulative)
		}, false, 0},
		"exempt":         {func(s *snapshot.Snapshot) { s.Enclosed, s.Processes[1].CapIPCLock = true, true }, true, rule.NoLimit},
		"of other users": {func(s *snapshot.Snapshot) { s.Users = append(s.Users, snapshot.User{UID: 65535, Hidden: 3}) }, true, 8},
	} {
		s := holding(rule.SchemeSplit, 0, 10, snapshot.SourceProc)
		c.change(s)
		x, err := Explain(s, &snapshot.Facts{}, Ask{Pages: 65, PID: 21})
		if err != nil {
			t.Fatal(err)
		}
		if !x.Verdict.Allowed || x.Verdict.Certain != c.certain || x.AtLeast != c.atLeast {
			t.Errorf("%s: %+v, at least %d; want %d", name, x.Verdict, x.AtLeast, c.atLeast)
		}
	}
}
