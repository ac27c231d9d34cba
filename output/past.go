package output

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/held"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// Past is the sink that explains what was refused in a part of a recording, as the Explainer does
// while a command runs: by the readings of the call, and by who held what then, as far as the
// recording tells. The same one again, of the same process, is only counted. It takes several
// traces, one after the other.
type Past struct {
	Events int    // of anybody, in that time
	Calls  int    // that were refused
	Lost   uint64 // events, since that time began

	filter *row.Filter
	toNS   uint64
	view   pipeline.View
	before uint64 // events that were lost before that time
	book   *held.Book
	seen   map[refusalKey]*RefusedThen
	list   []*RefusedThen
}

// RefusedThen is a call that was refused, and how often the same was. Times are Unix time in
// nanoseconds.
type RefusedThen struct {
	Version     int    `json:"v"`
	TimeNS      uint64 `json:"time_ns"`
	LastNS      uint64 `json:"last_time_ns"`
	Calls       int    `json:"calls"`
	Explanation any    `json:"explanation"` // as of explain -- COMMAND
	text        string
}

// NewPast explains what passes the filter, until a time.
func NewPast(filter *row.Filter, until time.Time) *Past {
	return &Past{filter: filter, toNS: uint64(until.UnixNano())}
}

// Begin begins a trace: nothing that was known of another one holds.
func (p *Past) Begin(now pipeline.View) {
	p.before = 0
	p.view, p.book, p.seen = now, held.New(), map[refusalKey]*RefusedThen{}
}

// Enter explains an entry, if it is a new refusal.
func (p *Past) Enter(e *ledger.Entry) error {
	if !e.Caller.Self {
		p.book.Enter(e)
	}
	if e.TimeNS < p.filter.FromNS {
		p.before = e.Lost
	}
	if e.TimeNS < p.filter.FromNS || e.TimeNS > p.toNS || e.Kind == ledger.Preexisting || e.Kind == ledger.Closing {
		return nil
	}
	p.Events++
	if e.Kind != ledger.Refusal || !p.filter.Shows(e) {
		return nil
	}
	p.Calls++
	refused := charging.OfRefusal(e)
	this := keyOf(e, refused)
	if again := p.seen[this]; again != nil {
		again.Calls++
		again.LastNS = e.TimeNS
		return nil
	}
	r := &RefusedThen{Version: 1, TimeNS: e.TimeNS, LastNS: e.TimeNS, Calls: 1}
	r.Explanation, r.text = explanationOf(e, refused, accounting.Assume("the recording has not seen it"), p)
	p.seen[this] = r
	p.list = append(p.list, r)
	return nil
}

// buffers completes an explanation by who held the allowance.
func (p *Past) buffers(of *advice.Explanation, e *ledger.Entry) {
	of.AddRecorded(p.view.Live(), e)
	for _, h := range p.holders(e) {
		if h.What != charging.HolderPerf {
			of.Held.Others = true
			of.Notes = append(of.Notes, fmt.Sprintf("Of the user's counter %s were of process %d (%s): %s", format.Pages(h.Pages, e.PageSize), h.PID, format.Printable(h.Comm), h.What))
		}
	}
}

// counter is who held the user's counter.
func (p *Past) counter(e *ledger.Entry) (then *charging.Answer, when string) {
	then = &charging.Answer{Subject: advice.Subject{UID: e.Payer(), OutsideUID: -1}, Page: e.PageSize, Source: advice.SourceRecording,
		Held: e.User.Before, Unowned: e.User.Before, Holders: p.holders(e)}
	for _, h := range then.Holders {
		then.Unowned -= h.Pages
	}
	return then, "at that time"
}

// holders are those of the counter that an entry has read, the largest first.
func (p *Past) holders(e *ledger.Entry) []charging.UserHolder {
	list := []charging.UserHolder{}
	for _, s := range p.book.Sums {
		if s.UID != e.Payer() || s.Split != e.SplitCounter || s.User == 0 {
			continue
		}
		if s.What == held.PerfBuffer {
			s.What = charging.HolderPerf
		}
		list = append(list, charging.UserHolder{PID: s.PID, Comm: s.Comm, What: s.What, Pages: s.User})
	}
	slices.SortStableFunc(list, func(a, b charging.UserHolder) int { return cmp.Compare(b.Pages, a.Pages) })
	return list
}

// Flush does nothing.
func (*Past) Flush(pipeline.View) error { return nil }

// Close counts what was lost.
func (p *Past) Close(_ pipeline.View, lost uint64) error {
	p.Lost += lost - min(lost, p.before)
	return nil
}

// Write writes what was refused, with how far it was from a time.
func (p *Past) Write(w io.Writer, asJSON bool, at time.Time) error {
	for _, r := range p.list {
		if asJSON {
			if err := format.WriteJSON(w, r); err != nil {
				return err
			}
			continue
		}
		again := ""
		if r.Calls > 1 {
			again = fmt.Sprintf("\nThe same was refused %s, the last time at %s.\n", format.Count(int64(r.Calls-1), "more time"), stamp(r.LastNS))
		}
		if _, err := fmt.Fprintf(w, "%s (%s):\n%s\n%s\n", stamp(r.TimeNS), away(r.TimeNS, at), strings.TrimRight(r.text, "\n"), again); err != nil {
			return err
		}
	}
	return nil
}

// stamp is a time as a local clock shows it.
func stamp(ns uint64) string { return time.Unix(0, int64(ns)).Format("2006-01-02 15:04:05.000") }

// away is how far something was from a time.
func away(ns uint64, from time.Time) string {
	switch d := time.Unix(0, int64(ns)).Sub(from).Round(time.Millisecond); {
	case d < 0:
		return (-d).String() + " before"
	case d > 0:
		return d.String() + " after"
	}
	return "then"
}
