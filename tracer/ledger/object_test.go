package ledger

import "testing"

// made is a map that was created, in the rlimit era.
func made(key uint64, before, pages, after, limit int64) Event {
	return Event{
		Op: Create, PageSize: 4096,
		Caller: Caller{LockLimit: limit},
		User:   Reading{Owner: 7, Before: before, After: after},
		Object: &Object{Key: key, ID: uint32(key), Rlimit: true, Pages: pages},
	}
}

func freed(key uint64, before, pages, after int64) Event {
	return Event{
		Op: Free, PageSize: 4096,
		User:   Reading{Owner: 7, Before: before, After: after},
		Object: &Object{Key: key, Rlimit: true, Pages: pages},
	}
}

func refused(e Event, errno int32) Event {
	e.Errno = errno
	return e
}

func overlapped(e Event) Event {
	e.User.Shared = true
	return e
}

// memcg is an event of an object that a cgroup pays for, in bytes of pages.
func memcg(op Op, key uint64, bytes int64) Event {
	o := &Object{Key: key, Watched: true}
	o.Payers[0] = Payer{CgroupID: 5, Pages: bytes}
	return Event{Op: op, PageSize: 4096, Object: o}
}

func TestObjects(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		events    []Event
		kind      Kind // of the last one, as are all below
		verdict   Verdict
		uncertain bool
		excess    int64
	}{
		"charged what it records":              {[]Event{made(1, 0, 9, 9, 100)}, Charge, OK, false, 0},
		"charged more":                         {[]Event{made(1, 0, 9, 18, 100)}, Charge, Overcharge, true, 9},
		"charged while another call was":       {[]Event{overlapped(made(1, 0, 9, 18, 100))}, Charge, OK, true, 0},
		"given back":                           {[]Event{made(1, 0, 9, 9, 100), freed(1, 9, 9, 0)}, Refund, OK, false, 0},
		"given back nothing":                   {[]Event{made(1, 0, 9, 9, 100), freed(1, 9, 9, 9)}, Refund, Leak, false, 9},
		"given back a part":                    {[]Event{made(1, 0, 9, 9, 100), freed(1, 9, 9, 4)}, Refund, Leak, true, 4},
		"given back more":                      {[]Event{made(1, 3, 9, 12, 100), freed(1, 12, 9, 0)}, Refund, Underflow, true, 3},
		"older than the trace":                 {[]Event{freed(1, 9, 9, 0)}, Refund, OK, false, 0},
		"past the limit":                       {[]Event{refused(made(0, 95, 9, 95, 100), 1)}, Refusal, OK, false, 0},
		"refused within the limit":             {[]Event{refused(made(0, 90, 9, 90, 100), 1)}, Refusal, WrongRefusal, true, 0},
		"refused, and charged":                 {[]Event{refused(made(0, 95, 9, 104, 100), 1)}, Refusal, WrongRefusal, true, 9},
		"refused for want of CAP_BPF":          {[]Event{refused(made(0, 90, 0, 90, 100), 1)}, Refusal, OK, false, 0},
		"cgroup: charged":                      {[]Event{memcg(Create, 1, mib)}, Charge, OK, false, 0},
		"cgroup: grown":                        {[]Event{memcg(Create, 1, mib), memcg(Grow, 1, mib)}, Growth, OK, false, 0},
		"cgroup: given back":                   {[]Event{memcg(Create, 1, mib), memcg(Free, 1, -mib)}, Refund, OK, false, 0},
		"cgroup: given back a part":            {[]Event{memcg(Create, 1, mib), memcg(Free, 1, -mib/2)}, Refund, Leak, true, 128},
		"cgroup: little that is not seen":      {[]Event{memcg(Create, 1, mib), memcg(Free, 1, -mib+unseen)}, Refund, OK, false, 0},
		"cgroup: refused":                      {[]Event{refused(memcg(Create, 0, 0), errnoMemory)}, Refusal, OK, false, 0},
		"cgroup: refused, and not freed yet":   {[]Event{refused(memcg(Create, 0, mib), errnoMemory)}, Refusal, OK, true, 0},
		"cgroup: the address is used again":    {[]Event{memcg(Create, 1, mib), memcg(Create, 1, 2*mib), memcg(Free, 1, -2*mib)}, Refund, OK, false, 0},
		"cgroup: not watched when it was made": {[]Event{memcg(Free, 1, -mib)}, Refund, OK, false, 0},
	} {
		l := New()
		var e Entry
		for _, ev := range c.events {
			e = l.Apply(ev)
		}
		if e.Kind != c.kind || e.Verdict != c.verdict || e.Uncertain != c.uncertain || e.Excess != c.excess {
			t.Errorf("%s: %v %v, uncertain %v, excess %d; want %v %v, %v, %d", name,
				e.Kind, e.Verdict, e.Uncertain, e.Excess, c.kind, c.verdict, c.uncertain, c.excess)
		}
		for _, b := range l.Summary().Users {
			if b.Unexplained() != 0 {
				t.Errorf("%s: %d pages unexplained: %+v", name, b.Unexplained(), b)
			}
		}
	}
}

// charger is what another subsystem did to a user's counter.
func charger(before, after int64) Event {
	return Event{Op: Account, Charger: "io_uring", User: Reading{Owner: 7, Before: before, After: after}}
}

// A user's counter is explained whatever overlaps: what nobody can tell at once,
// the next undisturbed reading tells.
func TestOtherChargersAreExplained(t *testing.T) {
	for name, c := range map[string]struct {
		events             []Event
		live, others, base int64
	}{
		"alone":                     {[]Event{charger(0, 16)}, 0, 16, 0},
		"given back":                {[]Event{charger(0, 16), charger(16, 0)}, 0, 0, 0},
		"with a map":                {[]Event{charger(4, 20), made(1, 20, 9, 29, 100)}, 9, 16, 4},
		"overlapping at the end":    {[]Event{made(1, 4, 9, 13, 100), overlapped(charger(13, 29))}, 9, 16, 4},
		"overlapping a map":         {[]Event{made(1, 4, 9, 13, 100), overlapped(charger(13, 38)), overlapped(made(2, 13, 9, 38, 100)), freed(1, 38, 9, 29)}, 9, 16, 4},
		"the first of all overlaps": {[]Event{overlapped(charger(4, 20)), freed(3, 20, 2, 18)}, 0, 16, 2},
	} {
		l := New()
		for _, ev := range c.events {
			l.Apply(ev)
		}
		b := l.Summary().Users[0]
		if b.Live != c.live || b.Others != c.others || b.Base != c.base || b.Unexplained() != 0 {
			t.Errorf("%s: %+v, %d unexplained; want %d live, %d others, %d base", name, b, b.Unexplained(), c.live, c.others, c.base)
		}
	}
}

// What is not traced moves the user's counter while an object is made or freed, as the release
// of objects that are older does: the object is charged what it records, and the counter stays
// explained.
func TestObjectBesideForeign(t *testing.T) {
	l := New()
	charge := l.Apply(made(1, 1000, 9, 299, 5000))
	if b := l.Summary().Users[0]; charge.ChargedUser != 9 || charge.Verdict != OK || !charge.Uncertain || b.Live != 9 || b.Unexplained() != 0 {
		t.Errorf("made: %d charged, %v, uncertain %v; %+v", charge.ChargedUser, charge.Verdict, charge.Uncertain, b)
	}
	l.Apply(freed(1, 299, 9, 200))
	l.Apply(freed(2, 200, 7, 100)) // older than the trace
	if s := l.Summary(); s.LiveUser != 0 || s.Users[0].Live != 0 || s.Users[0].Over != 0 || s.Users[0].Unexplained() != 0 {
		t.Errorf("freed: %+v", s)
	}
}

// The end of an object can be missed, and its address be used again: what it had back then came
// back by what is not traced, for all that is known, and the counter stays explained.
func TestObjectEndIsMissed(t *testing.T) {
	for name, events := range map[string][]Event{
		"seen at the next reading":  {made(1, 10, 9, 19, 100), made(2, 10, 5, 15, 100), made(1, 15, 9, 24, 100)},
		"while another one is made": {made(1, 10, 9, 19, 100), overlapped(made(2, 19, 5, 15, 100)), made(1, 15, 9, 24, 100)},
		"seen at the same address":  {made(2, 10, 5, 15, 100), made(1, 15, 9, 24, 100), made(1, 15, 9, 24, 100)},
	} {
		l := New()
		for _, e := range events {
			l.Apply(e)
		}
		s := l.Summary()
		if b := s.Users[0]; s.Objects != 2 || b.Live != 14 || b.Base != 10 || b.Counter != 24 || b.Unexplained() != 0 {
			t.Errorf("%s: %d objects, %+v, unexplained %d", name, s.Objects, b, b.Unexplained())
		}
	}
}

// What the tracer itself does is accounted, and counted apart.
func TestOwnObjects(t *testing.T) {
	l := New()
	own := overlapped(made(1, 0, 9, 9, 100))
	own.Caller.Self = true
	l.Apply(own)
	free := l.Apply(freed(1, 9, 9, 0)) // by a worker of the kernel's
	if s := l.Summary(); !free.Caller.Self || s.Events != 0 || s.Own != 2 || s.Objects != 0 || s.Settled != 0 {
		t.Errorf("own %v, summary %+v", free.Caller.Self, s)
	}
}

// What overlaps is entered by the kernel's own arguments where these are known, so that what
// is not traced is told apart from it; else it is unknown.
func TestOverlappingChargers(t *testing.T) {
	moving := func(pages int64, ev Event) Event {
		ev.Moves = pages
		return overlapped(ev)
	}
	l := New()
	l.Apply(charger(0, 16))
	for _, c := range []struct {
		event   Event
		charged int64
		kind    Kind
		unknown bool
	}{
		{moving(16, charger(16, 43)), 16, Charge, false}, // 11 of them are of what is not traced
		{moving(-16, charger(43, 27)), -16, Refund, false},
		{overlapped(charger(27, 27)), 0, Charge, true},
	} {
		if e := l.Apply(c.event); e.ChargedUser != c.charged || e.Kind != c.kind || e.Unknown() != c.unknown || !e.Uncertain {
			t.Errorf("%d charged, %v, unknown %v, uncertain %v; want %+v", e.ChargedUser, e.Kind, e.Unknown(), e.Uncertain, c)
		}
	}
	gives := overlapped(charger(27, 27))
	gives.GivesBack = true
	if e := l.Apply(gives); e.Kind != Refund || !e.Unknown() {
		t.Errorf("%v, unknown %v", e.Kind, e.Unknown())
	}
}
