package output

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Filter says which rows are shown. The ledger sees all events whatever is
// shown: the counters are shared.
type Filter struct {
	PIDs    []uint32
	UIDs    []uint32
	Comms   []string
	Command bool     // only what descends from the traced command
	Broken  bool     // only what breaks a rule
	Own     bool     // what pinwatch itself maps as well
	Older   bool     // what was mapped before the trace, whoever maps it
	Only    []string // Subsystems
	Cgroup  string   // only what is in this cgroup, or charged to it, or to one below
}

// Shows says whether a row passes. Kinds of conditions are and-ed, the values
// of one are or-ed.
func (f *Filter) Shows(e *ledger.Entry) bool {
	if e.Kind == ledger.Older && !f.Older {
		return false
	}
	return matches(f.PIDs, e.Caller.PID) && matches(f.UIDs, e.Caller.UID) && matches(f.Comms, e.Caller.Comm) &&
		(!f.Command || e.Caller.Command || e.Caller.Self || e.Kind == ledger.Older) && (f.Own || !e.Caller.Self) && f.subsystem(e) && f.cgroup(e) && (!f.Broken || e.Verdict != ledger.OK)
}

func (f *Filter) cgroup(e *ledger.Entry) bool {
	if f.Cgroup == "" || cgroup.Matches(e.Caller.Cgroup, f.Cgroup) {
		return true
	}
	o := e.Object
	return o != nil && (cgroup.Matches(o.Payers[0].Cgroup, f.Cgroup) || cgroup.Matches(o.Payers[1].Cgroup, f.Cgroup) ||
		cgroup.Matches(o.MapCgroup, f.Cgroup) || cgroup.Matches(o.LimitCgroup, f.Cgroup))
}

// subsystem says whether a row is of a wanted one. What memory cgroups were
// charged is told in the rows of the objects.
func (f *Filter) subsystem(e *ledger.Entry) bool {
	if matches(f.Only, subsystemOf(e)) || e.Charger != ledger.NoCharger && matches(f.Only, subsystemOthers) {
		return true
	}
	return e.Object != nil && e.Object.Charged() != 0 && matches(f.Only, subsystemMemcg)
}

func matches[T comparable](wanted []T, have T) bool {
	if len(wanted) == 0 {
		return true
	}
	for _, w := range wanted {
		if w == have {
			return true
		}
	}
	return false
}

// Stream is the sink that shows a trace through a writer, and ends it with a summary.
type Stream struct {
	writer  Writer
	filter  *Filter
	row     Row
	last    Row // what the summary says of the last row
	summary ledger.Summary
}

// NewStream shows what passes the filter.
func NewStream(w Writer, filter *Filter) *Stream { return &Stream{writer: w, filter: filter} }

// Enter writes an entry, if it is one to show.
func (s *Stream) Enter(e *ledger.Entry) error {
	if !s.filter.Shows(e) {
		return nil
	}
	s.row = RowOf(e)
	s.row.Note = Explain(&s.row)
	s.last.TimeNS, s.last.PageSize, s.last.Buffer.Limits.OnlineCPUs = e.TimeNS, e.PageSize, e.Buffer.Limits.OnlineCPUs
	return s.writer.Write(&s.row)
}

// Flush has the writer show what it was given.
func (s *Stream) Flush(ledger.View) error { return s.writer.Flush() }

// Close writes the summary.
func (s *Stream) Close(now ledger.View, lost uint64) error {
	s.summary = now.Summary()
	return s.writer.Close(summaryRow(&s.last, s.summary, lost), s.summary)
}

// Summary is that of the trace, once it is closed.
func (s *Stream) Summary() ledger.Summary { return s.summary }

// RowOf is the row of an entry, without the note.
func RowOf(e *ledger.Entry) Row { return Row{Entry: *e, Subsystem: subsystemOf(e)} }

// summaryRow carries the totals in the fields of a row.
func summaryRow(last *Row, s ledger.Summary, lost uint64) *Row {
	r := &Row{Summary: true, Subsystem: subsystemPerf}
	r.Number, r.Refusals, r.Lost, r.Era = s.Events, s.Refused, lost, s.Era
	r.TimeNS, r.PageSize, r.Buffer.Limits.OnlineCPUs = last.TimeNS, last.PageSize, last.Buffer.Limits.OnlineCPUs
	r.ProcessOvercharge = s.Overcharged
	r.Uncertain = s.Uncertain() > 0 || lost > 0
	for v := ledger.OK + 1; int(v) < ledger.Verdicts; v++ {
		if s.Verdicts[v] > s.Verdicts[r.Verdict] || r.Verdict == ledger.OK && s.Verdicts[v] > 0 {
			r.Verdict = v
		}
	}
	r.Note = strings.TrimSuffix(strings.ReplaceAll(Summarize(r, s), "\n", "; "), "; ")
	return r
}

// Summarize says in a few lines what a trace has seen.
func Summarize(r *Row, s ledger.Summary) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d events: %d charges, %d refunds, %d further mappings, %d of several unmapped, %s%d calls failed; %d lost\n",
		s.Events, s.Kinds[ledger.Charge], s.Kinds[ledger.Refund], s.Kinds[ledger.Mapping], s.Kinds[ledger.Unmapping],
		growths(s.Kinds[ledger.Growth]), s.Kinds[ledger.Refusal], r.Lost)
	fmt.Fprintf(&b, "refused: %d with EPERM", s.Refused)
	if s.FirstRefusal != 0 {
		fmt.Fprintf(&b, ", the first was call %d", s.FirstRefusal)
	}
	if s.RefusedByCgroup != 0 {
		fmt.Fprintf(&b, "; %d with ENOMEM", s.RefusedByCgroup)
	}
	fmt.Fprintf(&b, "\novercharged: %s", amount(s.Overcharged, r.PageSize))
	for _, more := range []struct {
		pages int64
		what  string
	}{{s.DoubleCharged, "charged twice and not given back"}, {s.Misdirected, "refunded to who did not pay"}, {s.Leaked, "leaked"}, {s.ForeignUser, "charged to users by what is not traced"},
		{s.ForeignPinned, "charged to processes by what is not traced"}} {
		if more.pages != 0 {
			fmt.Fprintf(&b, "\n%s: %s", more.what, amount(more.pages, r.PageSize))
		}
	}
	if s.Live > 0 {
		fmt.Fprintf(&b, "\nstill mapped: %d buffers, charged %d pages to users and %d to processes", s.Live, s.LiveUser, s.LivePinned)
	}
	if s.Objects > 0 {
		fmt.Fprintf(&b, "\nBPF objects made and still there: %d, for which cgroups were charged %s", s.Objects, Bytes(s.ObjectBytes))
	}
	if s.Own > 0 {
		fmt.Fprintf(&b, "\npinwatch itself: %d events, not counted above; its own buffers are charged %d pages to its user and %d to its process", s.Own, s.OwnUser, s.OwnPinned)
	}
	for _, u := range s.Users {
		which := ""
		if u.SplitCounter {
			which = " (locked_vm; perf has a counter of its own)"
		}
		others := ""
		if u.Others != 0 || u.SplitCounter {
			others = fmt.Sprintf(" %d by io_uring and others,", u.Others)
		}
		fmt.Fprintf(&b, "\nuid %d%s: %d pages charged: %d for live buffers,%s %d that should not be, %d older or not traced, %d unexplained",
			u.UID, which, u.Counter, u.Live, others, u.Over, u.Older+u.Base, u.Unexplained())
		if !u.SplitCounter {
			summarizeOlder(&b, &u, s.Holdings)
		}
	}
	fmt.Fprintf(&b, "\naccounting of this kernel: %s\nverdict: %s", era(s.Era), conclusion(&s))
	if r.Lost > 0 {
		fmt.Fprintf(&b, " (incomplete: %d events were lost)", r.Lost)
	}
	b.WriteString("\n")
	return b.String()
}

// mostHoldings is how many processes the summary names for each user.
const mostHoldings = 5

// summarizeOlder says who has what a user was charged for before the trace.
func summarizeOlder(b *strings.Builder, u *ledger.Balance, holdings []ledger.Holding) {
	if u.Older == 0 {
		return
	}
	said := 0
	rest := u.Older
	for i := range holdings {
		h := &holdings[i]
		if h.UID != u.UID || h.User == 0 {
			continue
		}
		if said++; said > mostHoldings {
			continue
		}
		rest -= h.User
		fmt.Fprintf(b, "\n  older: %d pages for %s that process %d (%s) has mapped", h.User, buffers(h.Buffers), h.PID, Printable(h.Comm))
		if h.Pinned != 0 {
			fmt.Fprintf(b, ", and %d charged to a process", h.Pinned)
		}
	}
	if said > mostHoldings {
		fmt.Fprintf(b, "\n  older: %d pages for buffers of %d more processes", rest, said-mostHoldings)
	}
	if u.Base != 0 {
		fmt.Fprintf(b, "\n  not traced: %d pages", u.Base)
	}
}

func buffers(n int) string {
	if n == 1 {
		return "1 buffer"
	}
	return fmt.Sprintf("%d buffers", n)
}

func growths(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d growths of maps, ", n)
}

// era says what an era's name means.
func era(name string) string {
	meaning := map[string]string{
		"unknown":    "nothing was charged past the allowance yet",
		"split":      "to the user what fits its allowance, the rest to the process",
		"cumulative": "all to the user, and the user's whole history to the process, as up to Linux 5.3",
		"twice":      "all to the user, and what does not fit to the process as well, as in Linux 4.19.103",
		"unclamped":  "history to the process once the sysctl was lowered, as in Linux 5.5.0",
		"other":      "none that is known",
	}[name]
	return name + " (" + meaning + ")"
}

func conclusion(s *ledger.Summary) string {
	verdicts := func(counts [ledger.Verdicts]uint64) string {
		var list []string
		for v := ledger.OK + 1; int(v) < ledger.Verdicts; v++ {
			if n := counts[v]; n > 0 {
				list = append(list, fmt.Sprintf("%s %d", v, n))
			}
		}
		return strings.Join(list, ", ")
	}
	var said string
	switch broken := verdicts(s.Verdicts); {
	case broken != "":
		said = "this kernel accounts locked memory wrong: " + broken
	case s.Events == 0:
		said = "none, nothing was seen"
	default:
		said = "ok"
	}
	if n := s.Uncertain(); n > 0 {
		said += fmt.Sprintf("; %d entries uncertain", n)
		if doubtful := verdicts(s.Doubtful); doubtful != "" {
			said += ": " + doubtful
		}
	}
	if s.Settled > 0 {
		said += fmt.Sprintf("; %d uncertain ones settled as right since", s.Settled)
	}
	return said
}

// Recording reads back what Stream wrote as JSON lines. What the lines say of
// verdicts and totals is left alone: the ledger finds out again.
type Recording struct {
	in   io.Reader
	lost uint64
}

// NewRecording returns a recording that is read from in.
func NewRecording(in io.Reader) *Recording { return &Recording{in: in} }

// Lost is how many events the recording had lost, as far as it was read.
func (rec *Recording) Lost() uint64 { return rec.lost }

// Events yields the recorded events. An error names the line.
func (rec *Recording) Events() iter.Seq2[ledger.Event, error] {
	return func(yield func(ledger.Event, error) bool) {
		columns := Columns()
		scanner := bufio.NewScanner(rec.in)
		scanner.Buffer(make([]byte, 0, 64<<10), 1<<20)
		for n := 1; scanner.Scan(); n++ {
			line := bytes.TrimSpace(scanner.Bytes())
			if len(line) == 0 {
				continue
			}
			row, err := parse(columns, line)
			if err != nil {
				yield(ledger.Event{}, fmt.Errorf("line %d: %w", n, err))
				return
			}
			rec.lost = row.Lost
			if row.Summary {
				continue
			}
			if !yield(row.Entry.Event, nil) {
				return
			}
		}
		if err := scanner.Err(); err != nil {
			yield(ledger.Event{}, err)
		}
	}
}

// required are the fields without which a line is no event.
var required = [...]string{"v", "kind", "user_extra_pages", "user_locked_pages", "user_lock_limit_pages", "pinned_vm_pages", "lock_limit_pages"}

func parse(columns []Column, line []byte) (*Row, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	for _, name := range required {
		if _, ok := fields[name]; !ok {
			return nil, fmt.Errorf("no field %q: not a recording of pinwatch", name)
		}
	}
	row := &Row{}
	for i := range columns {
		c := &columns[i]
		value, ok := fields[c.Name]
		if !ok || c.parse == nil {
			continue
		}
		if err := c.parse(row, value); err != nil {
			return nil, fmt.Errorf("field %q: %w", c.Name, err)
		}
	}
	if row.Buffer.Pages < 0 {
		return nil, errors.New(`field "user_extra_pages": negative`)
	}
	row.place()
	return row, nil
}

// place puts the amounts of a line where an event has them: the columns have others
// for some, as the kernel's local variables do.
func (r *Row) place() {
	if r.Object != nil {
		r.Object.Pages, r.Buffer.Pages = r.Buffer.Pages, 0
	}
	r.User.Before -= demand(r) - r.User.Before
}
