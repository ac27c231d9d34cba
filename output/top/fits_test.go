package top

import (
	"testing"

	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// cumulative is a machine whose kernel charges the history, as /proc shows it: uid 65534
// holds so many buffers of 65 pages in process 20, and process 21 none.
func cumulative(buffers int64) *snapshot.Snapshot {
	s := &snapshot.Snapshot{TimeNS: 5e9, Source: snapshot.SourceProc, PageSize: 4096, OnlineCPUs: 4, MlockKiB: 516, Paranoid: 2,
		Accounting: accounting.Finding{By: accounting.ByExperiment, Accounting: rule.Accounting{Scheme: rule.SchemeCumulative}}}
	c := rule.Caller{LockLimit: rule.Unlimited}
	for i := range buffers {
		c = c.Charged(s.Settings().Limits().Map(c, rule.Data, 65))
		s.Buffers = append(s.Buffers, snapshot.Buffer{PID: 20, ID: uint64(i + 1), Pages: 65, PayerUID: 65534, Mappings: 1})
	}
	s.Processes = []snapshot.Process{
		{PID: 20, Comm: "holder", UID: 65534, PinnedVM: c.PinnedVM, LockLimit: 4096, Known: true, Buffers: int(buffers), BufferPages: 65 * buffers},
		{PID: 21, Comm: "other", UID: 65534, LockLimit: 4096, Known: true},
	}
	s.Users = []snapshot.User{{UID: 65534, Processes: 2, PerfLocked: 65 * buffers, LockedVM: 65 * buffers}}
	return s
}

// FITS is by the rule that this kernel goes by, and what explain says.
func TestFitsAsExplained(t *testing.T) {
	for held, want := range map[int64][2]int64{15: {3, 5}, 7: {11, 11}} {
		s := cumulative(held)
		m, _ := newModel(t, Options{All: true}, 120, 40).Update(Snapshot{Snapshot: s})
		m, _ = m.Update(Tick{NowNS: s.TimeNS})
		for _, p := range processRows(m.shown, true) {
			p.process.size = 65
			got := m.shown.fits(p.process, must(m.shown.lockedOf(p.uid, 0)))
			x, err := advice.Explain(s, &snapshot.Facts{}, advice.Ask{Pages: 65, PID: p.pid})
			if err != nil {
				t.Fatal(err)
			}
			if got != want[p.pid-20] || got != x.Fits {
				t.Errorf("%d held: process %d: %d fit; explain says %d, right is %d", held, p.pid, got, x.Fits, want[p.pid-20])
			}
		}
	}
}

func must(n int64, _ bool) int64 { return n }

// LOCKED is the same on every screen of one state, in whichever order a trace's readings and
// snapshots from /proc come: those have no counter to show, and take none away.
func TestLockedIsTheLatestReading(t *testing.T) {
	entry := func(seconds uint64, after int64) Entries {
		r := &row.Row{Entry: ledger.Entry{Event: ledger.Event{
			TimeNS: seconds * 1e9, Op: ledger.Map, PageSize: 4096, Caller: ledger.Caller{PID: 20, UID: 65534, LockLimit: 4096},
			User: ledger.Reading{Owner: 65534, Before: after - 65, After: after}, Buffer: ledger.Buffer{Pages: 65, Limits: ledger.Limits{Allowance: 516, OnlineCPUs: 4}},
		}}}
		return Entries{Rows: []*row.Row{r}}
	}
	old, late := entry(3, 1000), entry(4, 1065)
	for name, order := range map[string][]any{
		"the snapshot first": {Snapshot{Snapshot: cumulative(15)}, old, late},
		"in between":         {old, Snapshot{Snapshot: cumulative(15)}, late},
		"last":               {old, late, Snapshot{Snapshot: cumulative(15)}},
		"late readings":      {Snapshot{Snapshot: cumulative(15)}, late, old},
		"twice":              {Snapshot{Snapshot: cumulative(15)}, old, late, Snapshot{Snapshot: cumulative(15)}},
	} {
		m := newModel(t, Options{View: "users", All: true}, 120, 40)
		for _, msg := range append(order, Tick{NowNS: 6e9}) {
			m, _ = m.Update(msg)
		}
		rows := userRows(m.shown, true)
		if len(rows) != 1 || rows[0].locked != 1065 || !rows[0].known {
			t.Errorf("%s: %+v", name, rows)
		}
	}
	// Without a reading: what is known of it, and marked as that.
	m, _ := newModel(t, Options{View: "users", All: true}, 120, 40).Update(Snapshot{Snapshot: cumulative(15)})
	m, _ = m.Update(Tick{NowNS: 6e9})
	if rows := userRows(m.shown, true); rows[0].locked != 975 || rows[0].known {
		t.Errorf("%+v", rows[0])
	}
}
