package output

import (
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// No verdict is shown without a sentence, on a perf buffer or a BPF object.
func TestEveryVerdictIsExplained(t *testing.T) {
	for v := ledger.OK + 1; int(v) < ledger.Verdicts; v++ {
		for _, r := range []*row.Row{
			{Entry: ledger.Entry{Verdict: v, Kind: ledger.Charge}},
			{Entry: ledger.Entry{Verdict: v, Kind: ledger.Charge, Event: ledger.Event{Object: &ledger.Object{}}}},
		} {
			if note := Explain(r); !strings.Contains(note, v.String()+": ") {
				t.Errorf("%s is explained as %q", v, note)
			}
		}
	}
}

// A refusal that is wrong, and the first thing that a trace sees of a kernel, is called
// that; what the kernel asked for is not made up. Once it was seen, it is said.
func TestWrongRefusalBeforeAnyCharge(t *testing.T) {
	refused := ledger.Event{
		Errno: rule.EPERM, PageSize: 4096, Caller: ledger.Caller{PID: 21, UID: 65534, LockLimit: 128},
		User: ledger.Reading{Owner: 65534, Before: 975, After: 975}, Process: ledger.Reading{Owner: 1},
		Buffer: ledger.Buffer{Pages: 65, Extra: 65, Limits: ledger.Limits{Allowance: 516, Paranoid: 2, OnlineCPUs: 4}},
	}
	charged := refused
	charged.Errno, charged.Caller.LockLimit, charged.Buffer.Key, charged.Buffer.Extra = 0, 4096, 1, 524
	charged.User.After, charged.Process = 1040, ledger.Reading{Owner: 2, After: 524}
	after := refused
	after.User = ledger.Reading{Owner: 65534, Before: 1040, After: 1040}
	l := ledger.New()
	for i, want := range []string{
		"What this kernel asked for is not known",
		"overcharge: ",
		"the right extra is 65 (this kernel asks for 524 too many), and 0 of pinned_vm are earlier overcharges: without them the call fits. This kernel's bug, fixed in Linux 5.3.9 and 5.4",
	} {
		e := l.Apply([]ledger.Event{refused, charged, after}[i])
		if note := Explain(&row.Row{Entry: e}); !strings.Contains(note, want) || i != 1 && !strings.Contains(note, "wrong-refusal: ") {
			t.Errorf("%q; want %q", note, want)
		}
	}
}

// What is not known of another charger's call is not said to be nothing.
func TestUnknownAmount(t *testing.T) {
	shared := ledger.Reading{Owner: 7, Before: 30, After: 14, Shared: true}
	for name, c := range map[string]struct {
		event ledger.Event
		want  string
	}{
		"gives back": {ledger.Event{Op: ledger.Account, Charger: "xdp", User: shared, GivesBack: true}, "xdp: what this call gave back to uid 7, if anything, is not known: another call moved the user's counter meanwhile."},
		"charges":    {ledger.Event{Op: ledger.Account, Charger: "io_uring", User: shared, Process: ledger.Reading{Owner: 9, After: 16}}, "io_uring: 16 pages charged to the process; what this call did to uid 7, if anything, is not known: another call moved the user's counter meanwhile."},
		"known":      {ledger.Event{Op: ledger.Account, Charger: "xdp", User: shared, Moves: -16, GivesBack: true}, "xdp: 16 pages given back to uid 7; another call moved the user's counter meanwhile."},
	} {
		if got := explainAccount(&row.Row{Entry: ledger.New().Apply(c.event)}); got != c.want {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
	}
}
