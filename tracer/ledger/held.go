package ledger

import (
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Held is what a user's counter holds when a call is refused, as far as the trace knows.
// Amounts are pages.
type Held struct {
	Buffers int64 // for perf buffers and BPF objects, older ones that are known included
	Others  int64 // for io_uring, AF_XDP and the rest
	// PID is whose perf buffers hold the most, and PIDPages that part; 0: nobody is known.
	// Maker and MakerPages are who made the BPF objects that do.
	PID, Maker           uint32
	PIDPages, MakerPages int64
	// Closed is what of it is held for what was closed before the call and is not released;
	// ClosedObjects of that is in Buffers, but not in MakerPages, and ClosedOthers in Others.
	Closed                      []object.Closed
	ClosedOthers, ClosedObjects int64
	// Same areas, of the size that was asked for, the process has mapped itself, and for
	// them SameUser and SamePinned are charged.
	Same, SameUser, SamePinned int64
}

// held is of a user, at a refusal. Many buffers are not searched: refusals are often as many.
func (l *Ledger) held(e *Entry, u *user) *Held {
	h := &Held{Buffers: u.live + u.preexisting, Others: u.others}
	l.closedOf(e, h)
	if len(l.buffers)+len(l.objects) > 4096 {
		return h
	}
	pages := map[uint32]int64{}
	for _, b := range l.buffers {
		for area, c := range b.areas {
			if c == nil || b.own {
				continue
			}
			p := l.processes[c.mm]
			if p == nil || p.id != c.process {
				continue
			}
			if c.payer == e.Payer() {
				pages[p.pid] += c.user
			}
			right := c.user - c.userOver + c.pinned - c.pinnedOver
			if p.id == e.ProcessID && rule.Area(area) == e.Buffer.Area && right == e.Buffer.Pages {
				h.Same, h.SameUser, h.SamePinned = h.Same+1, h.SameUser+c.user, h.SamePinned+c.pinned
			}
		}
	}
	h.PID, h.PIDPages = most(pages)
	made := map[uint32]int64{}
	for key, a := range l.objects {
		if a.payer == e.Payer() && a.pages > 0 && !a.own && (h.Closed == nil || !l.closed.IsClosed(key)) {
			made[a.pid] += a.pages
		}
	}
	h.Maker, h.MakerPages = most(made)
	return h
}

// closedOf finds what is closed. Nothing is claimed unless the counter stood still during the
// call, so that the kernel compared with all of that.
func (l *Ledger) closedOf(e *Entry, h *Held) {
	still := e.User.Undisturbed() && e.User.Delta() == 0
	if f := e.Failed; f != nil && f.LastAsked > 0 {
		still = still && f.LastHeld-(f.Asked-f.LastAsked) == e.User.Before
	}
	if !still {
		return
	}
	closed, others, objects := l.closed.Of(e.counter(), e.TimeNS)
	if max(object.Pages(closed), h.Buffers+h.Others) <= e.User.Before {
		h.Closed, h.ClosedOthers, h.ClosedObjects = closed, others, objects
	}
}

// most is who has the most, the first of several.
func most(pages map[uint32]int64) (pid uint32, has int64) {
	for p, n := range pages {
		if n > has || n == has && n > 0 && p < pid {
			pid, has = p, n
		}
	}
	return pid, has
}
