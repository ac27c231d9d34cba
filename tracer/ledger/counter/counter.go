// Package counter follows the kernel's counters of locked memory through the readings that
// calls take of them.
package counter

// Reading is one of the kernel's counters at a call's entry and at its return, in
// pages.
type Reading struct {
	Owner         uint64
	Before, After int64
	// Shared reports whether another call was under way on the same counter, so that
	// the difference may not be this call's alone.
	Shared bool
	// Gone reports whether the counter's owner went with this call, so that After
	// could not be read.
	Gone bool
}

// Delta is what the call did to the counter, as far as can be seen.
func (r *Reading) Delta() int64 { return r.After - r.Before }

// Undisturbed reports whether Delta is this call's alone.
func (r *Reading) Undisturbed() bool { return !r.Shared && !r.Gone }

// Counter follows a kernel counter, a user's or a process's, from event to
// event. Between two undisturbed readings it must move by exactly what the
// events between them did.
//
// A call that overlaps others on the counter cannot be told apart from them by
// its own two readings: what it did is assumed, and its verdict waits. The next
// undisturbed reading is the evidence: if it equals what the assumptions add up
// to, they were right.
type Counter struct {
	Known   bool
	Value   int64
	Last    int64 // the last reading, disturbed or not
	waiting uint64
	// Unknown: an overlapping call changed the counter by an amount that its record does
	// not give. The next undisturbed reading reveals it.
	Unknown bool
}

// Settlement is what an undisturbed reading says of the entries before it.
type Settlement struct {
	Right   uint64 // waiting entries that it shows to be right
	Foreign int64  // by how much something untraced moved the counter
	Others  int64  // and by how much the calls that are traced but say nothing of it
}

// Before takes the reading at a call's entry.
func (c *Counter) Before(r *Reading) (s Settlement) {
	if r.Shared {
		return s
	}
	switch {
	case !c.Known:
	case c.Unknown:
		s.Others = r.Before - c.Value
	case r.Before == c.Value:
		s.Right = c.waiting
	case c.waiting == 0:
		s.Foreign = r.Before - c.Value
	}
	c.waiting, c.Unknown = 0, false
	return s
}

// After takes the reading at a call's return, and what the call is taken to
// have done. waits says that the verdict on it waits for the next reading.
func (c *Counter) After(r *Reading, did int64, waits bool) {
	c.Last = r.After
	switch {
	case r.Gone:
		c.Known = false
	case r.Shared:
		c.Value += did
	default:
		c.Value, c.Known = r.After, true
	}
	if waits {
		c.waiting++
	}
}
