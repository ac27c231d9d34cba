package ledger

import (
	"cmp"
	"slices"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// What was mapped before the trace began comes as AlreadyMapped events, before all
// others. They are of a snapshot that was taken after the probes were attached,
// and their TimeNS is when it was complete: so the end of every such buffer is
// seen, and what happened while the snapshot was taken is known by its time.
//
// What such a buffer was charged is known from its own record, not from seeing it
// charged, and which process paid is what the snapshot takes it to be. Nothing is
// said about that charge, and of the refund only what follows from the record.

// Holder is what one process has mapped since before the trace began, by whom was
// charged for it. Pages are of buffers that are still mapped.
type Holder struct {
	PID     uint32 // one of those that have them mapped
	Comm    string
	UID     uint32 // whose counter was charged
	Buffers int
	// User and Pinned are the pages charged to the user, and to a process.
	User, Pinned int64
}

type holderKey struct{ pid, uid uint32 }

// alreadyMapped enters one area of an older buffer.
func (l *Ledger) alreadyMapped(ev Event) Entry {
	e := Entry{Event: ev, Kind: Preexisting, Fits: -1}
	record := ev.Buffer.Recorded[ev.Buffer.Area]
	e.ChargedUser, e.ChargedPinned = record.Pages-record.Extra, record.Extra
	e.ExpectedUser, e.ExpectedPinned = e.ChargedUser, e.ChargedPinned
	e.Uncertain = ev.Process.Owner == 0 && record.Extra != 0
	b := l.buffers[ev.Buffer.Key]
	if ev.Buffer.Key == 0 {
		return e // nothing would know it again
	}
	if b == nil {
		b = l.newBuffer(&e)
		b.preexisting = true
		l.buffers[ev.Buffer.Key] = b
	}
	e.BufferID = b.id
	if b.areas[ev.Buffer.Area] != nil {
		return e
	}
	c := &b.room[ev.Buffer.Area]
	*c = charge{payer: ev.Payer(), mm: ev.Process.Owner, user: e.ChargedUser, pinned: e.ChargedPinned, pages: record.Pages, atNS: ev.TimeNS, holder: l.holder(&ev)}
	if ev.Process.Owner != 0 {
		p := l.process(&ev)
		p.charges++
		c.process, e.ProcessID = p.id, p.id
		c.pinnedOver = max(0, record.Extra-record.Pages) // by its own record, whatever else is not known
		p.over += c.pinnedOver
	}
	b.areas[ev.Buffer.Area], b.mapped = c, ev.Buffer.Mappings.After
	if ev.Buffer.Area == rule.Data {
		c.holder.Buffers++
	}
	c.holder.Pinned += c.pinned
	l.hold(c, c.user)
	return e
}

func (l *Ledger) holder(ev *Event) *Holder {
	key := holderKey{ev.Caller.PID, ev.Payer()}
	h := l.holders[key]
	if h == nil {
		h = &Holder{PID: ev.Caller.PID, Comm: ev.Caller.Comm, UID: ev.Payer()}
		l.holders[key] = h
	}
	return h
}

// hold counts pages of an older charge as the user's, which were in its counter all
// the time.
func (l *Ledger) hold(c *charge, pages int64) {
	u := l.user(c.payer, false)
	c.holder.User += pages
	u.preexisting += pages
	if u.seen {
		u.base -= pages
	}
}

// release takes an area off that is gone.
func (h *Holder) release(c *charge, area rule.Area) {
	if area == rule.Data {
		h.Buffers--
	}
	h.User -= c.user
	h.Pinned -= c.pinned
}

// forgetMapped forgets an older buffer where an event shows that nothing is known about
// it: it came while the snapshot was taken, which may have the buffer as it was
// before or after, or even another one at the same address; or it is about another
// buffer. The entry keeps its number, so that a recording tells the same.
func (l *Ledger) forgetMapped(e *Entry) {
	b := l.buffers[e.Buffer.Key]
	if b == nil {
		return
	}
	for area, c := range b.areas {
		if c == nil || c.holder == nil {
			continue
		}
		another := e.Op == Map && !e.Buffer.Existing && e.Buffer.Area == rule.Area(area)
		if record := e.Buffer.Recorded[area]; e.Op == Unmap && record.Pages != 0 {
			another = record.Pages != c.user+c.pinned || record.Extra != c.pinned
		}
		if e.TimeNS <= c.atNS || another {
			l.hold(c, -c.user)
			c.user = 0
			l.close(e.Buffer.Key, rule.Area(area))
			e.BufferID = b.id
		}
	}
}

// olderRefund finds out what the users of older buffers were charged, at their
// refund. A buffer records the process's part alone. Kernels differ in whether the
// user pays for those pages as well; where it is not known yet which this one is,
// the refund tells.
func (l *Ledger) olderRefund(e *Entry, paid []*charge) {
	all := l.scheme.UserPaysAll()
	if !all && l.scheme == rule.SchemeUnknown && e.User.Undisturbed() {
		var pages int64
		for _, c := range paid {
			pages += c.user + c.pinned
		}
		all = e.User.Delta() == -pages
	}
	if !all {
		return
	}
	for _, c := range paid {
		if c.holder != nil {
			l.hold(c, c.pinned)
			c.user += c.pinned
		}
	}
}

// preexistingHolders are those of which something is left, the largest first.
func (l *Ledger) preexistingHolders() (list []Holder) {
	for _, h := range l.holders {
		if h.Buffers > 0 || h.User != 0 || h.Pinned != 0 {
			list = append(list, *h)
		}
	}
	slices.SortFunc(list, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(a.UID, b.UID), cmp.Compare(b.User, a.User), cmp.Compare(b.Pinned, a.Pinned), cmp.Compare(a.PID, b.PID))
	})
	return list
}

// Live are the perf buffers that are there, but for the tracer's own, as the entries with which a
// recording of what follows begins. The time of each is when it was charged.
func (l *Ledger) Live() (entries []Entry) {
	for key, b := range l.buffers {
		for area, c := range b.areas {
			if c != nil && !b.own {
				entries = append(entries, l.live(key, b, rule.Area(area), c))
			}
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.BufferID, b.BufferID), cmp.Compare(a.Buffer.Area, b.Buffer.Area))
	})
	return entries
}

func (l *Ledger) live(key uint64, b *buffer, area rule.Area, c *charge) Entry {
	e := Entry{Kind: Preexisting, Fits: -1, BufferID: b.id, Event: Event{
		Op: AlreadyMapped, TimeNS: c.atNS, Lost: l.summary.Lost, PageSize: b.pageSize, Caller: b.maker, User: Reading{Owner: uint64(c.payer)},
		Buffer: Buffer{Key: key, Area: area, Pages: c.pages, Extra: c.pinned, Mappings: Count{Before: b.mapped, After: b.mapped}, Limits: b.limits},
	}}
	e.Number, e.Refusals, e.Scheme = l.summary.Events, l.summary.Refused, l.scheme
	e.Buffer.Recorded[area] = Recorded{Pages: c.pages, Extra: c.pinned}
	e.ChargedUser, e.ChargedPinned = c.pages-c.pinned, c.pinned
	e.ExpectedUser, e.ExpectedPinned = e.ChargedUser, e.ChargedPinned
	e.User.After = l.user(c.payer, false).locked.Last
	e.User.Before = e.User.After
	p := l.processes[c.mm]
	known := c.mm != 0 && p != nil && p.id == c.process
	if e.Uncertain = !known && c.pinned != 0; !known {
		return e
	}
	e.ProcessID, e.Process = p.id, Reading{Owner: c.mm, Before: p.pinned.Last, After: p.pinned.Last}
	if p.pid != e.Caller.PID { // it mapped this area of another one's buffer
		e.Caller = Caller{PID: p.pid, TID: p.pid, UID: c.payer}
	}
	return e
}
