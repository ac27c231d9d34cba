package page

import (
	"cmp"
	"slices"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// accountKey names a counter: of a process by its number in the trace, or of a user.
type accountKey struct {
	process uint64
	uid     uint32
	split   bool
}

// series is an account while it is followed.
type series struct {
	account
	limit   *int64 // the last one seen
	last    int64  // the last reading
	steady  bool   // nothing was under way at that
	foreign int64  // moved between calls, up to now
	live    bool   // somebody else's than pinwatch's
}

// accountsOf enters an entry's readings.
// note is that of a call to mark; -1: none.
func (w *Writer) accountsOf(e *ledger.Entry, note int) {
	if e.Kind == ledger.Growth || e.Object != nil && !e.Object.Rlimit {
		return
	}
	if e.Kind != ledger.Preexisting || e.User.After != 0 {
		s := w.series(accountKey{uid: e.Payer(), split: e.SplitCounter})
		s.UID, s.Split = e.Payer(), e.SplitCounter
		if e.Buffer.Limits.Allowance > 0 || e.Op == ledger.Map {
			s.limit = pointer(e.Buffer.Limits.Allowance)
		}
		over := e.UserOver
		if e.Kind == ledger.Charge { // which counts no more than the counter had before
			over = max(over, e.ChargedUser-e.ExpectedUser)
		}
		s.enter(e, e.User, over)
		s.mark(e, note, s.last)
	}
	if e.Object != nil || e.ProcessID == 0 {
		return
	}
	s := w.series(accountKey{process: e.ProcessID})
	if !s.Process || e.Op == ledger.Map {
		s.PID, s.Name, s.UID = e.Caller.PID, format.Printable(e.Caller.Comm), e.Caller.UID
		s.Process = true
	}
	if e.Op == ledger.Map || e.Op == ledger.AlreadyMapped || s.limit == nil {
		s.Exempt = e.Caller.CapIPCLock
		s.limit = nil
		if e.Caller.LockLimit < rule.Unlimited {
			s.limit = pointer(e.Caller.LockLimit)
		}
	}
	s.enter(e, e.Process, e.PinnedOver)
	if e.Kind == ledger.Refusal && e.Op == ledger.Map && e.Errno == rule.EPERM {
		s.mark(e, note, e.Locked())
	} else {
		s.mark(e, note, s.last)
	}
}

func (w *Writer) series(key accountKey) *series {
	s := w.accounts[key]
	if s == nil {
		s = &series{}
		w.accounts[key] = s
		w.order = append(w.order, s)
	}
	return s
}

// enter adds a reading. over is what the counter has after it and should not.
func (s *series) enter(e *ledger.Entry, r ledger.Reading, over int64) {
	steady := r.Undisturbed()
	now := r.After
	if r.Gone {
		now = 0 // the counter went with its user
	}
	s.live = s.live || !e.Caller.Self
	s.Unclear = s.Unclear || r.Shared
	at := int64(e.TimeNS)
	switch {
	case e.Kind == ledger.Preexisting:
		over = 0
		if len(s.Time) == 0 {
			s.add(at, now, now)
		}
	case len(s.Time) == 0:
		s.add(at-1, r.Before, r.Before)
	case s.steady && steady:
		s.foreign += r.Before - s.last
	}
	right := now - over - s.foreign
	s.last, s.steady = now, steady
	if off := max(over, -over); off > s.Over {
		s.Over, s.worst, s.best = off, now, now-over
	}
	end := len(s.Time) - 1
	if s.Actual[end] != now || s.Right[end] != right || !same(s.Limit[end], s.limit) {
		s.add(max(at, s.Time[end]), now, right)
	}
	if s.Limit[0] == nil {
		s.Limit[0] = s.limit
	}
}

// mark marks a call, at a height. It has a point of its own.
func (s *series) mark(e *ledger.Entry, note int, at int64) {
	if note < 0 {
		return
	}
	end := len(s.Time) - 1
	if now := max(int64(e.TimeNS), s.Time[end]); now != s.Time[end] {
		s.add(now, s.Actual[end], s.Right[end])
		end++
	}
	if e.Kind == ledger.Refusal {
		s.Refused++
	}
	s.Marks.Point, s.Marks.At, s.Marks.Note = append(s.Marks.Point, end), append(s.Marks.At, at), append(s.Marks.Note, note)
}

func (s *series) add(at, actual, right int64) {
	s.Time, s.Actual, s.Right, s.Limit = append(s.Time, at), append(s.Actual, actual), append(s.Right, right), append(s.Limit, s.limit)
}

// cut takes away what was before a time, but for what the account was then.
func (a *account) cut(ns int64) {
	first, _ := slices.BinarySearch(a.Time, ns)
	gone := max(0, first-1)
	a.Time, a.Actual, a.Right, a.Limit = a.Time[gone:], a.Actual[gone:], a.Right[gone:], a.Limit[gone:]
	for i := range a.Marks.Point {
		a.Marks.Point[i] -= gone
	}
}

// over reports whether there is nothing of an account to show since a time.
func (a *account) over(ns uint64) bool {
	last := len(a.Time) - 1
	return a.Time[last] < int64(ns) && len(a.Marks.Note) == 0 && (a.Actual[last] == 0 || a.end != 0 && a.end < int64(ns))
}

// ranked are the accounts, those first that there is the most to see of.
func (w *Writer) ranked() []*account {
	ranked := []*account{}
	for _, s := range w.order {
		if s.live && !s.over(w.from) {
			s.Foreign = s.foreign
			ranked = append(ranked, &s.account)
		}
	}
	interest := func(a *account) [3]int64 {
		return [3]int64{a.Over, int64(len(a.Marks.Note)), slices.Max(a.Actual)}
	}
	slices.SortStableFunc(ranked, func(a, b *account) int {
		x, y := interest(a), interest(b)
		return cmp.Or(slices.Compare(y[:], x[:]), cmp.Compare(a.UID, b.UID), cmp.Compare(a.PID, b.PID))
	})
	return ranked
}

func pointer(v int64) *int64 { return &v }

func same(a, b *int64) bool { return a == b || a != nil && b != nil && *a == *b }
