package ledger

import "github.com/pinwatch/pinwatch/tracer/rule"

// Held is what a user's counter holds when a call is refused, as far as the trace knows.
// Amounts are pages.
type Held struct {
	Buffers int64 // for perf buffers and BPF objects, older ones that are known included
	Others  int64 // for io_uring, AF_XDP and the rest
	// PID is whose perf buffers hold the most, and PIDPages that part; 0: nobody is known.
	PID      uint32
	PIDPages int64
	// Same areas, of the size that was asked for, the process has mapped itself, and for
	// them SameUser and SamePinned are charged.
	Same, SameUser, SamePinned int64
}

// held is of a user, at a refusal. Many buffers are not searched: refusals are often as many.
func (l *Ledger) held(e *Entry, u *user) *Held {
	h := &Held{Buffers: u.live + u.older, Others: u.others}
	if len(l.buffers) > 4096 {
		return h
	}
	pages := map[uint32]int64{}
	for _, b := range l.buffers {
		for area, c := range b.areas {
			p := l.payer(b, c)
			if p == nil {
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
	for pid, n := range pages {
		if n > h.PIDPages || n == h.PIDPages && n > 0 && pid < h.PID {
			h.PID, h.PIDPages = pid, n
		}
	}
	return h
}

// payer is the process that a charge is of; nil: there is none but the tracer's.
func (l *Ledger) payer(b *buffer, c *charge) *process {
	if c == nil || b.own {
		return nil
	}
	if p := l.processes[c.mm]; p != nil && p.id == c.process {
		return p
	}
	return nil
}
