package ledger

import "testing"

// olderBuffer is a buffer of 65 pages that process 10 of uid 1000 has mapped, 4 of
// them at its own charge.
func olderBuffer() Older {
	return Older{Buffer: 0xb, Pages: 65, Extra: 4, Payer: 1000, MM: 0xa, PID: 10, PinnedVM: 4, Mappings: 1}
}

// unmapping is the end of that buffer, in a process and with the counters after
// it.
func unmapping(mm uint64, pid uint32, pinnedBefore, pinnedAfter, userAfter int64) Event {
	return Event{
		Op: Unmap, PID: pid, UID: 1000, MM: mm, Buffer: 0xb, Payer: 1000, Mappings: 1,
		UserLocked: 516, UserAfter: userAfter, PinnedVM: pinnedBefore, Locked: pinnedBefore, PinnedAfter: pinnedAfter,
		DataPages: 65, DataExtra: 4, Extra: 4, LockLimit: 128, UserLockLimit: 516,
	}
}

func TestOlderIsJudged(t *testing.T) {
	for name, c := range map[string]struct {
		event   Event
		verdict Verdict
		excess  int64
		paidPID uint32
	}{
		"right":               {unmapping(0xa, 10, 4, 0, 455), OK, 0, 10},
		"all of it forgotten": {unmapping(0xa, 10, 4, 4, 516), Leak, 65, 10},
		"too much":            {unmapping(0xa, 10, 4, 0, 451), Underflow, 4, 10},
		"to another process":  {unmapping(0xc, 20, 0, -4, 455), MisdirectedRefund, 4, 10},
	} {
		l := New()
		if n := l.AddOlder([]Older{olderBuffer()}); n != 1 {
			t.Fatalf("%s: %d entered", name, n)
		}
		if s := l.Summary(); s.Live != 1 || s.LiveUser != 61 || s.LivePinned != 4 || s.Events != 0 {
			t.Errorf("%s: at the start: %+v", name, s)
		}
		e := l.Apply(c.event)
		if e.Kind != Refund || e.Verdict != c.verdict || e.Excess != c.excess || e.PaidPID != c.paidPID || e.PaidUID != 1000 || e.Uncertain {
			t.Errorf("%s: %v, %v %d, paid by %d of %d, uncertain %v", name, e.Kind, e.Verdict, e.Excess, e.PaidPID, e.PaidUID, e.Uncertain)
		}
		s := l.Summary()
		if s.Live != 0 || s.LiveUser != 0 || s.LivePinned != 0 {
			t.Errorf("%s: at the end: %+v", name, s)
		}
		if u := s.Users[0].Unexplained(); u != 0 {
			t.Errorf("%s: %d pages of the user are unexplained: %+v", name, u, s.Users[0])
		}
	}
}

// Without the snapshot the same refund to another process goes unnoticed.
func TestNotOlder(t *testing.T) {
	if e := New().Apply(unmapping(0xc, 20, 0, -4, 455)); e.Verdict != OK {
		t.Errorf("%v", e.Verdict)
	}
}

// A buffer whose payer is not known is left out, and one is not entered twice.
func TestOlderUnknown(t *testing.T) {
	l := New()
	shared := olderBuffer()
	shared.MM = 0
	if n := l.AddOlder([]Older{shared, olderBuffer(), olderBuffer()}); n != 1 {
		t.Errorf("%d entered; want 1", n)
	}
}

// A further mapping of an older buffer may charge nothing.
func TestOlderMappedAgain(t *testing.T) {
	l := New()
	l.AddOlder([]Older{olderBuffer()})
	e := l.Apply(Event{
		Op: Map, Existing: true, PID: 10, UID: 1000, MM: 0xa, Buffer: 0xb, Payer: 1000, Mappings: 1, MappingsAfter: 2,
		UserExtra: 65, UserLocked: 516 + 65, UserAfter: 516, PinnedVM: 4, PinnedAfter: 69, LockLimit: 128, UserLockLimit: 516,
	})
	if e.Kind != Mapping || e.Verdict != DoubleCharge || e.BufferID != 1 {
		t.Errorf("%v %v of buffer %d", e.Kind, e.Verdict, e.BufferID)
	}
}

// The snapshot may have a buffer whose charge is still on its way, and an event
// that makes it is no further mapping.
func TestOlderSeenTwice(t *testing.T) {
	l := New()
	l.AddOlder([]Older{olderBuffer()})
	e := l.Apply(Event{
		Op: Map, PID: 10, UID: 1000, MM: 0xa, Buffer: 0xb, Payer: 1000, MappingsAfter: 1,
		UserExtra: 65, UserLocked: 455 + 65, UserAfter: 516, Extra: 4, PinnedVM: 0, PinnedAfter: 4, LockLimit: 128, UserLockLimit: 516,
	})
	if e.Kind != Charge || e.Verdict != OK {
		t.Errorf("%v %v", e.Kind, e.Verdict)
	}
	if s := l.Summary(); s.Live != 1 || s.LiveUser != 61 || s.LivePinned != 4 {
		t.Errorf("%+v", s)
	}
	if e := l.Apply(unmapping(0xa, 10, 4, 0, 455)); e.Kind != Refund || e.Verdict != OK {
		t.Errorf("%v %v", e.Kind, e.Verdict)
	}
}
