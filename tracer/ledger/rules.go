package ledger

import (
	"slices"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// The rules. Each function takes one kind of event, says what should have
// happened, what did, and names the difference.

// excess is how many pages were charged beyond the expected ones, over both
// counters. Too little on one is no credit for too much on the other.
func (e *Entry) excess() int64 {
	return max(0, e.ChargedUser-e.ExpectedUser) + max(0, e.ChargedPinned-e.ExpectedPinned)
}

// charge is a new buffer, or the AUX area of one. Of n pages exactly n are
// charged, split as intended: never more than n to either side, never history.
func (l *Ledger) charge(e *Entry, p *process, u *user) {
	e.Kind = Charge
	n, delta := e.Buffer.Pages, e.User.Delta()
	e.ExpectedUser, e.ExpectedPinned = rule.Split(n, e.User.Before, e.Buffer.Limits.Allowance)

	// The buffer itself records the process's part, and that is what will be
	// refunded. The user's part is recorded nowhere: only its counter tells.
	e.ChargedPinned, e.ChargedUser = e.Buffer.Extra, delta
	userKnown := e.User.Undisturbed()
	if !userKnown {
		e.ChargedUser = l.scheme.UserPart(n, e.Buffer.Extra)
	}
	e.Excess = e.excess()
	if e.Excess > 0 || e.ChargedUser+e.ChargedPinned != n {
		e.Verdict = Overcharge
	}

	switch {
	case e.Buffer.Extra > n:
		// More than all pages, by the buffer's own record: certain, whatever
		// else was under way. What the user paid on top is not.
	case !userKnown || !e.Process.Shared && e.Process.Delta() != e.Buffer.Extra:
		e.Uncertain = true
	case e.Verdict == OK:
	case delta != n && delta != n-e.Buffer.Extra || e.Buffer.Extra != e.ExpectedPinned:
		// No kernel is known to do this, but something that is not traced
		// (io_uring, AF_XDP, ...) may have moved the user's counter between
		// our reading and the kernel's.
		e.Uncertain = true
	}
	foreign := userKnown && delta != n && delta != n-e.Buffer.Extra
	if foreign && (e.Uncertain || e.Buffer.Extra > n) {
		// Whatever moved the counter, what the buffer will give back is known, and
		// the refund is held against that.
		e.ChargedUser = l.scheme.UserPart(n, e.Buffer.Extra)
		if e.Buffer.Extra > n {
			e.ChargedUser = n // as wherever history was seen to be charged, for all that is known
			if l.scheme == rule.SchemeUnclamped {
				e.ChargedUser = n - e.Buffer.Extra
			}
			e.Excess = e.excess()
		}
		u.base += delta - e.ChargedUser
		l.total(e, &l.summary.ForeignUser, delta-e.ChargedUser)
	}
	if (!userKnown || e.Buffer.Limits.Moved) && e.Buffer.Extra <= n && e.Verdict == Overcharge {
		// What was left of the allowance is unknown, so the split proves nothing.
		e.Uncertain = true
		e.Verdict, e.Excess = OK, 0
		e.ExpectedUser, e.ExpectedPinned = e.ChargedUser, e.ChargedPinned
	}
	if userKnown && !foreign && !e.Uncertain && !e.Buffer.Limits.Moved && !e.Caller.Self {
		if seen := rule.SchemeOf(n, e.User.Before, e.Buffer.Limits.Allowance, e.ChargedUser, e.ChargedPinned); seen != rule.SchemeUnknown {
			l.scheme = l.scheme.Seen(seen)
		}
	}
	l.open(e, p, u)
	if e.Verdict == Overcharge {
		p.overcharge += e.Excess
		l.total(e, &u.overcharge, e.Excess)
		l.total(e, &l.summary.Overcharged, e.Excess)
	}
}

// mapping is a further mapping of a buffer, by its own or a redirected event.
// One buffer, one charge: it charges nothing more, or what it charges comes back
// by the time that the buffer is gone. Until a kernel was seen to keep it, the
// verdict is uncertain.
func (l *Ledger) mapping(e *Entry, p *process, u *user) {
	e.Kind = Mapping
	l.nothing(e, DoubleCharge)
	if e.User.Shared && l.againStays {
		// What cannot be seen is taken to be what this kernel does.
		e.ChargedUser, e.Excess, e.Verdict = e.Buffer.Pages, e.Buffer.Pages, DoubleCharge
	}
	b := l.buffers[e.Buffer.Key]
	if b == nil {
		return
	}
	e.BufferID = b.id
	b.count(&e.Event, 1)
	if e.Verdict == DoubleCharge {
		if !l.againStays && !e.Uncertain {
			e.Uncertain = true
			l.againWaiting++
		}
		b.remaps.user += e.ChargedUser
		b.remaps.pinned += e.ChargedPinned
		u.over += e.ChargedUser
		p.over += e.ChargedPinned
	}
}

// nothing is the rule of calls that may not move a counter.
func (l *Ledger) nothing(e *Entry, broken Verdict) {
	e.Uncertain = !e.User.Undisturbed() || e.Process.Shared
	if e.User.Undisturbed() {
		e.ChargedUser = e.User.Delta()
	}
	if !e.Process.Shared {
		e.ChargedPinned = e.Process.Delta()
	}
	if e.ChargedUser == 0 && e.ChargedPinned == 0 {
		return
	}
	e.Verdict, e.Excess = broken, e.excess()
	// One counter alone may have been moved by what is not traced; by the pages
	// of this very mapping, that would be a coincidence.
	if e.ChargedUser+e.ChargedPinned != e.Buffer.Pages {
		e.Uncertain = true
	}
}

// refusal is a call that failed. Nothing may stay charged, and EPERM may come
// only from the rule: when pinned_vm and the right extra exceed lock_limit,
// perf_event_paranoid is above -1 and CAP_IPC_LOCK is missing.
func (l *Ledger) refusal(e *Entry, p *process, u *user) {
	e.Kind = Refusal
	if e.Errno == rule.EPERM {
		l.refused(e)
	}
	l.nothing(e, WrongRefusal)
	u.over += e.ChargedUser
	p.over += e.ChargedPinned
	if e.Verdict != OK || e.Errno != rule.EPERM {
		return
	}
	_, right := rule.Split(e.Buffer.Pages, e.User.Before-u.overIn(e), e.Buffer.Limits.Allowance)
	if e.Buffer.Existing {
		right = 0
	}
	if !l.scheme.Clamps() && e.Buffer.Limits.Allowance >= 0 {
		e.Buffer.Extra = max(0, e.Demand()-e.Buffer.Limits.Allowance)
	}
	e.Excess = max(0, e.Buffer.Extra-right)
	// What the counters hold wrongly does not make a refusal right.
	if e.mayExceed() || e.Process.Before-p.over+right <= e.Caller.LockLimit {
		e.Verdict = WrongRefusal
		e.Uncertain = e.Uncertain || e.Buffer.Limits.Moved
	}
}

// refused counts an EPERM, if not the tracer's own.
func (l *Ledger) refused(e *Entry) {
	if !e.Caller.Self {
		l.summary.Refused++
	}
}

// unmap is the end of a mapping. With the last one of an area the area's charge
// comes back: all of it, to the user and to the process that paid.
func (l *Ledger) unmap(e *Entry, p *process, u *user) {
	e.Kind = Unmapping
	b := l.buffers[e.Buffer.Key]
	if b != nil {
		e.BufferID = b.id
		b.count(&e.Event, -1)
	}
	var endedRoom [2]rule.Area // so that nothing is allocated for an event
	ended := e.ended(endedRoom[:0], b)
	if len(ended) == 0 {
		l.unmapOne(e, b, p, u)
		return
	}
	e.Kind = Refund
	var paidRoom [2]*charge
	paid := paidRoom[:0]
	known, entered := true, int64(0)
	for _, area := range ended {
		if c := l.paid(b, area, e); c != nil {
			paid = append(paid, c)
			entered += c.user
			continue
		}
		// Older than the trace: what it was charged is known from its own
		// record alone.
		known = false
		record := e.Buffer.Recorded[area]
		paid = append(paid, &charge{payer: e.Payer(), mm: e.Process.Owner, process: p.id, user: record.Pages - record.Extra, pinned: record.Extra})
	}
	l.olderRefund(e, paid)
	for _, c := range paid {
		e.ExpectedUser -= c.user
		e.ExpectedPinned -= c.pinned
	}
	e.ChargedUser, e.ChargedPinned = e.User.Delta(), e.Process.Delta()
	if !e.User.Undisturbed() {
		e.ChargedUser, e.Uncertain = e.ExpectedUser, true
	}
	if e.Process.Shared {
		e.ChargedPinned, e.Uncertain = e.ExpectedPinned, true
	}
	if known {
		l.judgeRefund(e, paid, b, p, u)
	} else {
		u.base += e.ChargedUser + entered // of what nothing was known
	}
	for _, c := range paid {
		if c.process != p.id && !e.Process.Shared && (c.holder == nil || e.certainlyMisdirected()) {
			// This process got what another one paid, which keeps its charge.
			p.over += e.ChargedPinned
			if payer := l.processes[c.mm]; payer != nil && payer.id == c.process {
				payer.over += c.pinned
			}
			break
		}
	}
	for _, area := range ended {
		l.close(e.Buffer.Key, area)
	}
}

// unmapOne is the end of one mapping of several. Nothing comes back, but what a
// further mapping was charged may.
func (l *Ledger) unmapOne(e *Entry, b *buffer, p *process, u *user) {
	l.nothing(e, Underflow)
	if b == nil || e.Verdict == OK || e.ChargedUser < -b.remaps.user || e.ChargedPinned < -b.remaps.pinned {
		return
	}
	e.Verdict, e.Excess, e.Uncertain = OK, 0, e.User.Shared || e.Process.Shared
	b.remaps.user += e.ChargedUser
	b.remaps.pinned += e.ChargedPinned
	u.over += e.ChargedUser
	p.over += e.ChargedPinned
}

// paid is the charge of a buffer's area, or nil where the ledger does not have
// it: after a loss the buffer may be another one at the same address.
func (l *Ledger) paid(b *buffer, area rule.Area, e *Entry) *charge {
	if b == nil || b.areas[area] == nil {
		return nil
	}
	if l.summary.Lost > 0 && e.Buffer.Recorded[area].Extra != b.areas[area].pinned {
		return nil
	}
	return b.areas[area]
}

// ended appends the areas of b whose last mapping this was. b is nil for a buffer
// that the ledger does not have.
func (e *Event) ended(areas []rule.Area, b *buffer) []rule.Area {
	if e.Buffer.Area == rule.AUX && e.Buffer.AUXMappings.Before > 0 && e.Buffer.AUXMappings.After == 0 {
		areas = append(areas, rule.AUX)
	}
	switch {
	case e.Buffer.Mappings.After > 0:
		return areas
	case e.Buffer.Mappings.Before > 1 && e.Buffer.Shared:
		// Other calls unmapped the same buffer at the same time, and only one of
		// them was the last. The refund tells; where there is none to see, the
		// count of the events does.
		last := b != nil && b.mapped <= 0
		if !e.Process.Shared && e.Buffer.Recorded[rule.Data].Extra != 0 {
			last = e.Process.Delta() != 0
		}
		if !last {
			return areas
		}
	}
	return append(areas, rule.Data)
}

// judgeRefund compares a refund with the charges that it belongs to.
func (l *Ledger) judgeRefund(e *Entry, paid []*charge, b *buffer, p *process, u *user) {
	remaps := b.remaps
	if e.Buffer.Mappings.After > 0 {
		remaps.user, remaps.pinned = 0, 0 // the buffer lives on
	}
	var misdirected int64
	older := false
	for _, c := range paid {
		older = older || c.holder != nil
		if c.mm != 0 && c.mm != e.Process.Owner {
			misdirected += c.pinned
		}
		if c.payer != e.Payer() {
			misdirected += c.user
		}
		e.PaidUID = c.payer
		if payer := l.processes[c.mm]; payer != nil && payer.id == c.process {
			e.PaidPID = payer.pid
		}
	}
	missing := (e.ChargedUser - e.ExpectedUser) + (e.ChargedPinned - e.ExpectedPinned)
	stays := remaps.user + remaps.pinned + min(0, missing)
	if missing < 0 && -missing <= remaps.user+remaps.pinned {
		// More came back than the buffer's first charge, as it should.
		missing = 0
		u.over += e.ChargedUser - e.ExpectedUser
		p.over += e.ChargedPinned - e.ExpectedPinned
	}
	if stays > 0 {
		l.keepsAgain(e, stays)
	}
	switch {
	case misdirected != 0:
		e.Verdict, e.Excess = MisdirectedRefund, misdirected
		// Who paid and who unmaps does not rest on a counter, where the payment was seen.
		e.Uncertain = older && !e.certainlyMisdirected()
		l.total(e, &l.summary.Misdirected, misdirected)
	case stays > 0:
		e.Verdict, e.Excess = DoubleCharge, stays
	case missing > 0:
		e.Verdict, e.Excess = Leak, missing
		l.total(e, &l.summary.Leaked, missing)
	case missing < 0:
		e.Verdict, e.Excess = Underflow, -missing
	}
	user, pinned := e.ChargedUser-e.ExpectedUser, e.ChargedPinned-e.ExpectedPinned
	switch {
	case missing == 0 || misdirected != 0:
	case explained(e, paid):
		u.over += user
		p.over += pinned
	default: // not traced: something else, or further mappings before the trace
		e.Uncertain = true
		u.base += user
		l.total(e, &l.summary.ForeignUser, user)
		l.total(e, &l.summary.ForeignPinned, pinned)
	}
}

// certainlyMisdirected says of the refund of an older buffer that this process
// cannot have paid what it was given back.
func (e *Entry) certainlyMisdirected() bool { return !e.Process.Shared && e.Process.After < 0 }

// keepsAgain is for a kernel that keeps what further mappings were charged. Once
// that is certain, so are the verdicts on them.
func (l *Ledger) keepsAgain(e *Entry, pages int64) {
	l.total(e, &l.summary.DoubleCharged, pages)
	if e.Uncertain || l.againStays {
		return
	}
	l.againStays = true
	l.summary.Doubtful[DoubleCharge] -= l.againWaiting
	l.summary.Verdicts[DoubleCharge] += l.againWaiting
}

// explained reports whether known mistakes give a refund: of an area its part, all pages, or none.
func explained(e *Entry, paid []*charge) bool {
	sums := [2][]int64{{0}, {0}} // to the user, to the process
	for _, c := range paid {
		for i, part := range [2]int64{c.user, c.pinned} {
			for _, sum := range slices.Clone(sums[i]) {
				sums[i] = append(sums[i], sum+part, sum+c.user+c.pinned)
			}
		}
	}
	return slices.Contains(sums[0], -e.ChargedUser) && slices.Contains(sums[1], -e.ChargedPinned)
}
