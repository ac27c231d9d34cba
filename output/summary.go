package output

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// SummaryRow carries the totals in the fields of a row.
func SummaryRow(last *row.Row, s ledger.Summary, lost uint64) *row.Row {
	r := &row.Row{Summary: true}
	r.Number, r.Refusals, r.Lost, r.Scheme = s.Events, s.Refused, lost, s.Scheme
	r.TimeNS, r.PageSize, r.Buffer.Limits.OnlineCPUs = last.TimeNS, last.PageSize, last.Buffer.Limits.OnlineCPUs
	r.ProcessOvercharge = s.Overcharged
	r.Uncertain = s.Uncertain() > 0 || unexplained(&s) != 0 || lost > 0
	for v := ledger.OK + 1; int(v) < ledger.Verdicts; v++ {
		if s.Verdicts[v] > s.Verdicts[r.Verdict] || r.Verdict == ledger.OK && s.Verdicts[v] > 0 {
			r.Verdict = v
		}
	}
	r.Note = strings.TrimSuffix(strings.ReplaceAll(Summarize(r, s), "\n", "; "), "; ")
	return r
}

// Summarize says in a few lines what a trace has seen.
func Summarize(r *row.Row, s ledger.Summary) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s; %d lost\n", summarizeKinds(&s), r.Lost)
	b.WriteString("refused: " + summarizeRefusals(&s))
	fmt.Fprintf(&b, "\novercharged: %s", format.Pages(s.Overcharged, r.PageSize))
	for _, more := range []struct {
		pages int64
		what  string
	}{{s.DoubleCharged, "charged twice and not given back"}, {s.Misdirected, "refunded to who did not pay"}, {s.Leaked, "leaked"}, {s.ForeignUser, "charged to users by what is not traced"},
		{s.ForeignPinned, "charged to processes by what is not traced"}} {
		if more.pages != 0 {
			fmt.Fprintf(&b, "\n%s: %s", more.what, format.Pages(more.pages, r.PageSize))
		}
	}
	if s.Live > 0 {
		fmt.Fprintf(&b, "\nstill mapped: %s, charged %s to users and %d to processes",
			format.Count(s.Live, "buffer"), format.Count(s.LiveUser, "page"), s.LivePinned)
	}
	if s.Objects > 0 {
		fmt.Fprintf(&b, "\nBPF objects made and still there: %d, for which cgroups were charged %s", s.Objects, format.Bytes(s.ObjectBytes))
	}
	summarizeSelf(&b, &s)
	for _, u := range s.Users {
		if u.Self {
			continue
		}
		which := ""
		if u.SplitCounter {
			which = " (locked_vm; perf has a counter of its own)"
		}
		others := ""
		if u.Others != 0 || u.SplitCounter {
			others = fmt.Sprintf(" %d by io_uring and others,", u.Others)
		}
		if u.Own != 0 {
			others += fmt.Sprintf(" %d for pinwatch itself,", u.Own)
		}
		fmt.Fprintf(&b, "\nuid %d%s: %s charged: %d for live buffers,%s %d that should not be, %d older or not traced, %d unexplained",
			u.UID, which, format.Count(u.Counter, "page"), u.Live, others, u.Over, u.Preexisting+u.Base, u.Unexplained())
		if !u.SplitCounter {
			summarizeOlder(&b, &u, s.Holders)
		}
	}
	fmt.Fprintf(&b, "\naccounting of this kernel: %s\nverdict: %s", scheme(s.Scheme), conclusion(&s))
	if r.Lost > 0 {
		fmt.Fprintf(&b, " (incomplete: %s lost)", format.Count(r.Lost, "event"))
	}
	b.WriteString("\n")
	return b.String()
}

// summarizeSelf says what pinwatch itself is charged, and whom that takes it from.
func summarizeSelf(b *strings.Builder, s *ledger.Summary) {
	if s.Own == 0 {
		return
	}
	user := "its user"
	if i := slices.IndexFunc(s.Users, func(u ledger.Balance) bool { return u.Self }); i >= 0 {
		user = fmt.Sprintf("uid %d, which no other process has,", s.Users[i].UID)
	}
	fmt.Fprintf(b, "\npinwatch itself: %s, not counted above; its own buffers and BPF objects are charged %s to %s and %d to its process",
		format.Count(s.Own, "event"), format.Count(s.OwnUser, "page"), user, s.OwnPinned)
}

// mostHoldings is how many processes the summary names for each user.
const mostHoldings = 5

// summarizeOlder says who has what a user was charged for before the trace.
func summarizeOlder(b *strings.Builder, u *ledger.Balance, holdings []ledger.Holder) {
	if u.Preexisting == 0 {
		return
	}
	said := 0
	rest := u.Preexisting
	for i := range holdings {
		h := &holdings[i]
		if h.UID != u.UID || h.User == 0 {
			continue
		}
		if said++; said > mostHoldings {
			continue
		}
		rest -= h.User
		fmt.Fprintf(b, "\n  older: %s for %s that process %d (%s) has mapped", format.Count(h.User, "page"), format.Count(h.Buffers, "buffer"), h.PID, format.Printable(h.Comm))
		if h.Pinned != 0 {
			fmt.Fprintf(b, ", and %d charged to a process", h.Pinned)
		}
	}
	if said > mostHoldings {
		fmt.Fprintf(b, "\n  older: %s for buffers of %s", format.Count(rest, "page"), format.Count(said-mostHoldings, "more process"))
	}
	if u.Base != 0 {
		fmt.Fprintf(b, "\n  not traced: %s", format.Count(u.Base, "page"))
	}
}

// summarizeKinds says how many events there were, of which kinds.
func summarizeKinds(s *ledger.Summary) string {
	kinds := []string{
		format.Count(s.Kinds[ledger.Charge], "charge"),
		format.Count(s.Kinds[ledger.Refund], "refund"),
		format.Count(s.Kinds[ledger.Mapping], "further mapping"),
		format.Count(s.Kinds[ledger.Unmapping], "unmapping") + " with other mappings left",
		format.Count(s.Kinds[ledger.Refusal], "call") + " failed",
	}
	if n := s.Kinds[ledger.Growth]; n > 0 {
		kinds = slices.Insert(kinds, 4, format.Count(n, "growth")+" of maps")
	}
	return format.Count(s.Events, "event") + ": " + strings.Join(kinds, ", ")
}

// summarizeRefusals says with which errors calls failed.
func summarizeRefusals(s *ledger.Summary) string {
	var errnos []string
	for _, f := range s.Failures {
		name := "others"
		if f.Errno != 0 {
			name = format.Errno(f.Errno)
		}
		if f.Calls != 0 {
			errnos = append(errnos, fmt.Sprintf("%d with %s, the first was call %d", f.Calls, name, f.First))
		}
	}
	if errnos == nil {
		return "none"
	}
	return strings.Join(errnos, "; ")
}

// scheme is a scheme's name and what it means.
func scheme(s rule.Scheme) string { return fmt.Sprintf("%s (%s)", s, s.Meaning()) }

// unexplained is how many pages no user's counter should be off by.
func unexplained(s *ledger.Summary) (pages int64) {
	for _, u := range s.Users {
		pages = max(pages, u.Unexplained(), -u.Unexplained())
	}
	return pages
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
	switch broken, off := verdicts(s.Verdicts), unexplained(s); {
	case broken != "":
		said = "this kernel accounts locked memory wrong: " + broken
	case s.Events == 0:
		said = "none, nothing was seen"
	case off != 0: // a charge that stays behind, what is not traced, or what was lost
		said = "not known: " + format.Count(off, "page") + " of a user's counter not explained"
	default:
		said = "ok"
	}
	if n := s.Uncertain(); n > 0 {
		said += "; " + format.Count(n, "entry") + " uncertain"
		if doubtful := verdicts(s.Doubtful); doubtful != "" {
			said += ": " + doubtful
		}
	}
	if s.Settled > 0 {
		said += "; " + format.Count(s.Settled, "uncertain one") + " settled as right since"
	}
	return said
}
