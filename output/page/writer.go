// Package page makes one HTML file of a trace, with its counters over time, who held what at
// any moment, and what was refused and why; or of a check, with its kernels and scenarios.
// The file loads nothing; it has the data once, as JSON, and a program that shows it. The
// charts are those of uPlot.
package page

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/held"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// mostTexts is how many notes have texts of their own whatever they say. Thousands of
// refusals say the same.
const mostTexts = 1000

// Writer collects the rows of a trace, or of several with gaps between them, and writes the page
// when it is finished.
type Writer struct {
	data     data
	from     uint64 // what came before is not shown, but what came of it
	all      span   // of calls
	trace    span   // of those since the last gap
	last     uint64 // time of all that was written
	accounts map[accountKey]*series
	order    []*series
	held     *held.Book
	like     map[likeness]int
	gaps     []string
	verdicts [2][]string // of traces in which the kernel broke a rule, and of the others
	schemes  []string    // how the kernel accounts, and bugs of that
	bugs     []string
}

// span is from one call to another one, in Unix time. The zero span has none.
type span struct{ begin, end uint64 }

func (s *span) add(ns uint64) {
	if s.begin == 0 || ns < s.begin {
		s.begin = ns
	}
	s.end = max(s.end, ns)
}

// likeness is what notes have in common that say the same but for some numbers.
type likeness struct {
	pid     uint32
	op      ledger.Op
	charger ledger.Charger
	errno   int32
	pages   int64
	verdict ledger.Verdict
}

// New returns a writer of a page with a title, that shows what came since a time; 0: all.
func New(title string, fromNS uint64) *Writer {
	w := &Writer{from: fromNS, data: data{Title: format.Printable(title), Holders: []holder{}, Notes: []note{}, Rules: []broken{}},
		accounts: map[accountKey]*series{}, held: held.New(), like: map[likeness]int{}}
	w.held.Moved = w.moved
	return w
}

// Write collects a row.
func (w *Writer) Write(r *row.Row) error {
	if r.Kind == ledger.Closing {
		return nil
	}
	w.last = max(w.last, r.TimeNS)
	if r.Kind != ledger.Preexisting {
		w.all.add(r.TimeNS)
		w.trace.add(r.TimeNS)
	}
	n := w.note(r)
	w.accountsOf(&r.Entry, n)
	w.held.Enter(&r.Entry)
	return nil
}

// Gap says what is missing between a trace and the next one, which is another ledger's: who holds
// what, and what an account should be, is not known in between.
func (w *Writer) Gap(what string) {
	w.gaps = append(w.gaps, format.Printable(what))
	w.held.Release(w.last)
	for _, s := range w.accounts {
		s.end = int64(w.last)
	}
	clear(w.accounts)
	w.trace = span{}
}

// note keeps what there is to say of a row, and returns its number; -1: nothing.
func (w *Writer) note(r *row.Row) int {
	if r.Caller.Self || r.TimeNS < w.from || r.Kind != ledger.Refusal && r.Verdict == ledger.OK {
		return -1
	}
	n := note{Time: int64(r.TimeNS), Event: r.Number, PID: r.Caller.PID, Comm: format.Printable(r.Caller.Comm), UID: r.Caller.UID,
		What: held.Of(&r.Entry), Pages: pagesOf(&r.Entry), Text: r.Note, Like: -1}
	if r.Kind == ledger.Refusal {
		n.Refused = format.Errno(r.Errno)
	}
	n.wrong = r.Verdict == ledger.WrongRefusal && !r.Uncertain && r.Kind == ledger.Refusal && r.ChargedUser == 0 && r.ChargedPinned == 0
	if r.Verdict != ledger.OK {
		n.Verdict = r.Verdict.String()
		if r.Uncertain {
			n.Verdict += "?"
		}
	}
	this := likeness{r.Caller.PID, r.Op, r.Charger, r.Errno, n.Pages, r.Verdict}
	number := len(w.data.Notes)
	if first, ok := w.like[this]; !ok {
		w.like[this] = number
	} else if number >= mostTexts {
		n.Text, n.Like = "", first
	}
	w.data.Notes = append(w.data.Notes, n)
	return number
}

// pagesOf is the size of what was asked for, or is given back; 0: not known.
func pagesOf(e *ledger.Entry) int64 {
	switch {
	case e.Object != nil && !e.Object.Rlimit:
		return 0
	case e.Object != nil:
		return e.Object.Pages
	case e.Failed != nil && e.Op != ledger.Map:
		return e.Failed.Asked
	case e.Op == ledger.Unmap:
		return e.Buffer.Recorded[e.Buffer.Area].Pages
	}
	return e.Buffer.Pages
}

// Flush does nothing: the page is written as a whole.
func (w *Writer) Flush() error { return nil }

// Close sums up a trace.
func (w *Writer) Close(summary *row.Row, s ledger.Summary) error {
	d := &w.data
	d.PageSize = max(d.PageSize, summary.PageSize)
	lines := strings.Split(strings.TrimSpace(output.Summarize(summary, s)), "\n")
	trace := counted{Counts: lines[0], Length: int64(w.trace.end-w.trace.begin) / 1000}
	if w.trace.begin > 0 {
		trace.Since = clockOf(w.trace.begin)
	}
	d.Traces = append(d.Traces, trace)
	if len(w.gaps) > 0 {
		d.Summary = append(d.Summary, w.gaps[len(w.gaps)-1])
	}
	d.Summary = append(d.Summary, lines...)
	for _, line := range lines {
		if text, ok := strings.CutPrefix(line, "verdict: "); ok {
			of := &w.verdicts[1]
			if s.Broken() {
				of = &w.verdicts[0]
			}
			*of = with(*of, text)
		}
		if text, ok := strings.CutPrefix(line, "accounting of this kernel: "); ok {
			w.schemes = with(w.schemes, text)
		}
	}
	for v := ledger.OK + 1; int(v) < ledger.Verdicts; v++ {
		if s.Verdicts[v]+s.Doubtful[v] > 0 {
			d.broke(broken{v.String(), s.Verdicts[v], s.Doubtful[v], v.Rule(), v.Impact()})
			d.Broken = d.Broken || s.Verdicts[v] > 0
		}
	}
	if bug := s.Scheme.Bug(); bug != "" {
		w.bugs = with(w.bugs, fmt.Sprintf("The kernel's bug: %s; fixed %s.", bug, s.Scheme.Fixed()))
	}
	return nil
}

// with is a list with a text, once.
func with(list []string, text string) []string {
	if slices.Contains(list, text) {
		return list
	}
	return append(list, text)
}

// broke adds how often a rule was broken in a trace.
func (d *data) broke(b broken) {
	for i := range d.Rules {
		if d.Rules[i].Verdict == b.Verdict {
			d.Rules[i].Count += b.Count
			d.Rules[i].Uncertain += b.Uncertain
			return
		}
	}
	d.Rules = append(d.Rules, b)
}

// clockOf writes a time.
func clockOf(ns uint64) string { return time.Unix(0, int64(ns)).UTC().Format(time.RFC3339Nano) }

// Finish writes the page.
func (w *Writer) Finish(out io.Writer) error {
	d := &w.data
	w.all.begin = max(w.all.begin, w.from)
	w.all.end = max(w.all.end, w.all.begin)
	if w.all.begin > 0 {
		d.Begin = clockOf(w.all.begin)
	}
	d.Verdict = strings.Join(w.verdicts[1], "; ")
	if d.Broken {
		d.Verdict = strings.Join(w.verdicts[0], "; ")
	}
	d.Accounting = strings.Join(w.schemes, "; ")
	d.Accounts = w.ranked()
	d.Story = slices.Concat(w.story(), w.bugs, w.gaps)
	w.relate()
	return write(out, frame, program, d)
}

// story says the most important in a few sentences.
func (w *Writer) story() []string {
	story := []string{}
	for _, a := range w.data.Accounts {
		if a.Process && a.Over > 0 {
			story = append(story, fmt.Sprintf("Process %d (%s) was charged %s, where %s would be right.", a.PID, a.Name,
				format.Pages(a.worst, w.data.PageSize), format.Pages(a.best, w.data.PageSize)))
			break
		}
	}
	first := slices.IndexFunc(w.data.Notes, func(n note) bool { return n.Refused != "" })
	if first < 0 {
		return append(story, "No call was refused.")
	}
	n := &w.data.Notes[first]
	s := fmt.Sprintf("The first refusal was call %d (%s): process %d (%s)", n.Event, n.What, n.PID, n.Comm)
	if n.Pages > 0 {
		s += fmt.Sprintf(" asked for %s and", format.Pages(n.Pages, w.data.PageSize))
	}
	s += " got " + n.Refused
	if n.wrong {
		s += ", although the rules allow it"
	}
	return append(story, s+".")
}

// relate makes all times microseconds since the first call.
func (w *Writer) relate() {
	since := func(ns int64) int64 { return (ns - int64(w.all.begin)) / 1000 }
	d := &w.data
	d.End = since(int64(w.all.end))
	for _, a := range d.Accounts {
		a.End = d.End
		if a.end != 0 {
			a.End = since(a.end)
		}
		if w.from > 0 {
			a.cut(int64(w.all.begin))
		}
		// The value before the first call is shown for as long as can be seen.
		lead := max(1, d.End/100)
		for i, ns := range a.Time {
			a.Time[i] = max(-lead, since(ns))
		}
		if len(a.Time) > 1 {
			a.Time[0] = max(-lead, a.Time[1]-lead)
		}
	}
	for i, ns := range d.Moves.Time {
		d.Moves.Time[i] = max(-1, since(ns))
	}
	for i := range d.Notes {
		d.Notes[i].Time = since(d.Notes[i].Time)
	}
}
