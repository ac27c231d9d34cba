package ledger

// Held is what a user's counter holds when a call is refused, as far as the trace knows.
// Amounts are pages.
type Held struct {
	Buffers int64 // for perf buffers and BPF objects, older ones that are known included
	Others  int64 // for io_uring, AF_XDP and the rest
	// PID is whose perf buffers hold the most, and PIDPages that part; 0: nobody is known.
	PID      uint32
	PIDPages int64
}

// held is of a user, at a refusal. Many buffers are not searched: refusals are often as many.
func (l *Ledger) held(uid uint32, u *user) *Held {
	h := &Held{Buffers: u.live + u.older, Others: u.others}
	if len(l.buffers) > 4096 {
		return h
	}
	pages := map[uint32]int64{}
	for _, b := range l.buffers {
		for _, c := range b.areas {
			if c == nil || c.payer != uid || b.own {
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
