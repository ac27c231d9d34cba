package ledger

import "github.com/pinwatch/pinwatch/tracer/rule"

// Held is what a user's counter holds when a call is refused, as far as the trace knows.
// Amounts are pages.
type Held struct {
	Buffers int64 // for perf buffers and BPF objects, older ones that are known included
	Others  int64 // for io_uring, AF_XDP and the rest
	// PID is whose perf buffers hold the most of it, and PIDPages that part; 0: nobody is
	// known.
	PID      uint32
	PIDPages int64
	// Same is how many areas of the size that was asked for the same process has mapped
	// since the trace began, and SameUser and SamePinned what is charged for them.
	Same, SameUser, SamePinned int64
}

// mostSearched bounds what a refusal costs: whoever has so many buffers may be refused as
// often.
const mostSearched = 4096

// held is of a user, at a refusal.
func (l *Ledger) held(e *Entry, u *user) *Held {
	h := &Held{Buffers: u.live + u.older, Others: u.others}
	if len(l.buffers) > mostSearched {
		return h
	}
	pages := map[uint32]int64{}
	for _, b := range l.buffers {
		for area, c := range b.areas {
			if c == nil || b.own {
				continue
			}
			h.same(e, rule.Area(area), c)
			if c.payer != e.Payer() {
				continue
			}
			if p := l.processes[c.mm]; p != nil && p.id == c.process {
				pages[p.pid] += c.user
			}
		}
	}
	for pid, n := range pages {
		if n > h.PIDPages || n == h.PIDPages && n > 0 && pid < h.PID {
			h.PID, h.PIDPages = pid, n
		}
	}
	return h
}

// same counts a charge that is one of the caller's for an area like the one that was
// refused.
func (h *Held) same(e *Entry, area rule.Area, c *charge) {
	right := c.user + c.pinned - c.userOver - c.pinnedOver
	if c.holding != nil || c.process != e.ProcessID || area != e.Buffer.Area || right != e.Buffer.Pages {
		return
	}
	h.Same++
	h.SameUser += c.user
	h.SamePinned += c.pinned
}
