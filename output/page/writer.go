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
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// mostTexts is how many notes have texts of their own whatever they say. Thousands of
// refusals say the same.
const mostTexts = 1000

// Writer collects the rows of a trace, and writes the page when it is closed.
type Writer struct {
	out      io.Writer
	data     data
	begin    uint64 // of the first call
	end      uint64
	accounts map[accountKey]*series
	order    []*series
	holders  map[holder]int
	parts    map[heldKey][]part
	like     map[likeness]int
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

// New returns a writer of a page with a title.
func New(out io.Writer, title string) *Writer {
	return &Writer{out: out, data: data{Title: format.Printable(title), Holders: []holder{}, Notes: []note{}},
		accounts: map[accountKey]*series{}, holders: map[holder]int{}, parts: map[heldKey][]part{}, like: map[likeness]int{}}
}

// Write collects a row.
func (w *Writer) Write(r *row.Row) error {
	if r.Kind == ledger.Closing {
		return nil
	}
	if r.Kind != ledger.Preexisting {
		if w.begin == 0 || r.TimeNS < w.begin {
			w.begin = r.TimeNS
		}
		w.end = max(w.end, r.TimeNS)
	}
	n := w.note(r)
	w.accountsOf(&r.Entry, n)
	w.hold(&r.Entry)
	return nil
}

// note keeps what there is to say of a row, and returns its number; -1: nothing.
func (w *Writer) note(r *row.Row) int {
	if r.Caller.Self || r.Kind != ledger.Refusal && r.Verdict == ledger.OK {
		return -1
	}
	n := note{Time: int64(r.TimeNS), Event: r.Number, PID: r.Caller.PID, Comm: format.Printable(r.Caller.Comm), UID: r.Caller.UID,
		What: whatOf(&r.Entry), Pages: pagesOf(&r.Entry), Text: r.Note, Like: -1}
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

func whatOf(e *ledger.Entry) string {
	switch {
	case e.Object != nil:
		return "BPF " + row.ObjectKind(e.Object)
	case e.Charger != ledger.NoCharger:
		return string(e.Charger)
	}
	return "perf buffer"
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

// Close writes the page.
func (w *Writer) Close(summary *row.Row, s ledger.Summary) error {
	d := &w.data
	d.PageSize = summary.PageSize
	d.Begin = time.Unix(0, int64(w.begin)).UTC().Format(time.RFC3339Nano)
	d.Summary = strings.Split(strings.TrimSpace(output.Summarize(summary, s)), "\n")
	for _, line := range d.Summary {
		if text, ok := strings.CutPrefix(line, "verdict: "); ok {
			d.Verdict = text
		}
		if text, ok := strings.CutPrefix(line, "accounting of this kernel: "); ok {
			d.Accounting = text
		}
	}
	d.Rules = []broken{}
	for v := ledger.OK + 1; int(v) < ledger.Verdicts; v++ {
		if s.Verdicts[v]+s.Doubtful[v] > 0 {
			d.Rules = append(d.Rules, broken{v.String(), s.Verdicts[v], s.Doubtful[v], v.Rule(), v.Impact()})
			d.Broken = d.Broken || s.Verdicts[v] > 0
		}
	}
	d.Accounts = w.ranked()
	d.Story = w.story()
	if bug := s.Scheme.Bug(); bug != "" {
		d.Story = append(d.Story, fmt.Sprintf("The kernel's bug: %s; fixed %s.", bug, s.Scheme.Fixed()))
	}
	w.relate()
	return write(w.out, frame, program, d)
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
	since := func(ns int64) int64 { return (ns - int64(w.begin)) / 1000 }
	d := &w.data
	d.End = since(int64(w.end))
	for _, a := range d.Accounts {
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
