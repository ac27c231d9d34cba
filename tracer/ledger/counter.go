package ledger

// counter follows a kernel counter, a user's or a process's, from event to
// event. Between two undisturbed readings it must move by exactly what the
// events between them did.
//
// A call that overlaps others on the counter cannot be told apart from them by
// its own two readings: what it did is assumed, and its verdict waits. The next
// undisturbed reading is the evidence: if it equals what the assumptions add up
// to, they were right.
type counter struct {
	known   bool
	value   int64
	last    int64 // the last reading, disturbed or not
	waiting uint64
	// unknown: an overlapping call changed the counter by an amount that its record does
	// not give. The next undisturbed reading reveals it.
	unknown bool
}

// settlement is what an undisturbed reading says of the entries before it.
type settlement struct {
	right   uint64 // waiting entries that it shows to be right
	foreign int64  // by how much something untraced moved the counter
	others  int64  // and by how much the calls that are traced but say nothing of it
}

// before takes the reading at a call's entry.
func (c *counter) before(r *Reading) (s settlement) {
	if r.Shared {
		return s
	}
	switch {
	case !c.known:
	case c.unknown:
		s.others = r.Before - c.value
	case r.Before == c.value:
		s.right = c.waiting
	case c.waiting == 0:
		s.foreign = r.Before - c.value
	}
	c.waiting, c.unknown = 0, false
	return s
}

// after takes the reading at a call's return, and what the call is taken to
// have done. waits says that the verdict on it waits for the next reading.
func (c *counter) after(r *Reading, did int64, waits bool) {
	c.last = r.After
	switch {
	case r.Gone:
		c.known = false
	case r.Shared:
		c.value += did
	default:
		c.value, c.known = r.After, true
	}
	if waits {
		c.waiting++
	}
}

// forget is for events that were lost: no counter is known any more, and what
// waits will not be settled.
func (l *Ledger) forget(lost uint64) {
	l.summary.Lost = lost
	for _, u := range l.users {
		u.locked = counter{}
	}
	for _, p := range l.processes {
		p.pinned = counter{}
	}
}
