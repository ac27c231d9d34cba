package ledger

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// The snapshot was complete at foundAt; what happens at later is after it.
const (
	foundAt = 100
	later   = 200
)

// olderBuffer is a buffer of 65 pages that process 10 of uid 1000 has mapped, 4 of
// them at its own charge.
func olderBuffer() Event {
	return Event{
		Op: AlreadyMapped, TimeNS: foundAt,
		Caller:  Caller{PID: 10, Comm: "holder"},
		User:    Reading{Owner: 1000},
		Process: Reading{Owner: 0xa, Before: 4},
		Buffer:  Buffer{Key: 0xb, Mappings: Count{After: 1}, Recorded: [2]Recorded{rule.Data: {Pages: 65, Extra: 4}}},
	}
}

// unmapping is the end of that buffer, in a process and with the counters after
// it.
func unmapping(mm uint64, pid uint32, pinnedBefore, pinnedAfter, userAfter int64) Event {
	return Event{
		Op: Unmap, TimeNS: later,
		Caller:  Caller{PID: pid, UID: 1000, LockLimit: 128},
		User:    Reading{Owner: 1000, Before: 516, After: userAfter},
		Process: Reading{Owner: mm, Before: pinnedBefore, After: pinnedAfter},
		Buffer: Buffer{Key: 0xb, Extra: 4, Mappings: Count{Before: 1}, Limits: Limits{Allowance: 516},
			Recorded: [2]Recorded{rule.Data: {Pages: 65, Extra: 4}}},
	}
}

// explainedAll wants every user's counter explained, and none of it twice.
func explainedAll(t *testing.T, name string, s Summary) {
	t.Helper()
	for _, u := range s.Users {
		if u.Unexplained() != 0 || u.Preexisting < 0 || u.Base < 0 {
			t.Errorf("%s: uid %d: %d pages are unexplained: %+v", name, u.UID, u.Unexplained(), u)
		}
	}
}

func TestOlderIsJudged(t *testing.T) {
	for name, c := range map[string]struct {
		scheme    rule.Scheme
		event     Event
		verdict   Verdict
		excess    int64
		uncertain bool
	}{
		"right":               {rule.SchemeUnknown, unmapping(0xa, 10, 4, 0, 455), OK, 0, false},
		"all of it forgotten": {rule.SchemeUnknown, unmapping(0xa, 10, 4, 4, 516), Leak, 65, false},
		// Kernels that charge the user for all pages give them all back.
		"the user paid all, it seems": {rule.SchemeUnknown, unmapping(0xa, 10, 4, 0, 451), OK, 0, false},
		"the user paid all":           {rule.SchemeCumulative, unmapping(0xa, 10, 4, 0, 451), OK, 0, false},
		"the user did not pay all":    {rule.SchemeSplit, unmapping(0xa, 10, 4, 0, 451), Underflow, 4, false},
		// Further mappings may have been charged before the trace.
		"more than all": {rule.SchemeUnknown, unmapping(0xa, 10, 4, 0, 390), Underflow, 65, true},
		// Who paid is what the snapshot took it to be.
		"to another process": {rule.SchemeUnknown, unmapping(0xc, 20, 9, 5, 455), MisdirectedRefund, 4, true},
		// It paid nothing: that is certain.
		"to one that cannot have paid": {rule.SchemeUnknown, unmapping(0xc, 20, 0, -4, 455), MisdirectedRefund, 4, false},
	} {
		l := New()
		l.scheme = c.scheme
		if e := l.Apply(olderBuffer()); e.Kind != Preexisting || e.BufferID != 1 || e.ProcessID != 1 || e.ChargedUser != 61 || e.ChargedPinned != 4 || e.Uncertain {
			t.Fatalf("%s: found %+v", name, e)
		}
		want := []Holder{{PID: 10, Comm: "holder", UID: 1000, Buffers: 1, User: 61, Pinned: 4}}
		if diff := cmp.Diff(want, l.Summary().Holders); diff != "" {
			t.Errorf("%s: holders: %s", name, diff)
		}
		if s := l.Summary(); s.Live != 0 || s.LiveUser != 0 || s.LivePinned != 0 || s.Events != 0 {
			t.Errorf("%s: at the start: %+v", name, s)
		}
		e := l.Apply(c.event)
		if e.Kind != Refund || e.Verdict != c.verdict || e.Excess != c.excess || e.PaidPID != 10 || e.PaidUID != 1000 || e.Uncertain != c.uncertain || e.BufferID != 1 {
			t.Errorf("%s: %v, %v %d, paid by %d of %d, uncertain %v", name, e.Kind, e.Verdict, e.Excess, e.PaidPID, e.PaidUID, e.Uncertain)
		}
		s := l.Summary()
		if s.Live != 0 || s.LiveUser != 0 || s.LivePinned != 0 || len(s.Holders) != 0 {
			t.Errorf("%s: at the end: %+v", name, s)
		}
		if u := s.Users[0]; u.Unexplained() != 0 || u.Preexisting != 0 {
			t.Errorf("%s: %d pages of the user are unexplained: %+v", name, u.Unexplained(), u)
		}
	}
}

// Without the snapshot the same refund to another process goes unnoticed.
func TestNotOlder(t *testing.T) {
	if e := New().Apply(unmapping(0xc, 20, 0, -4, 455)); e.Verdict != OK {
		t.Errorf("%v", e.Verdict)
	}
}

// Where it is not known which process paid, nothing is said about that, and the
// amount is judged all the same.
func TestOlderOfUnknownPayer(t *testing.T) {
	for name, c := range map[string]struct {
		event   Event
		verdict Verdict
	}{
		"to this one":    {unmapping(0xa, 10, 4, 0, 455), OK},
		"to another one": {unmapping(0xc, 20, 4, 0, 455), OK},
		"not at all":     {unmapping(0xc, 20, 4, 4, 516), Leak},
	} {
		l := New()
		shared := olderBuffer()
		shared.Process.Owner = 0
		if e := l.Apply(shared); !e.Uncertain || e.ProcessID != 0 {
			t.Errorf("%s: found %+v", name, e)
		}
		if e := l.Apply(c.event); e.Verdict != c.verdict || e.PaidPID != 0 || e.PinnedOver != 0 && c.verdict == OK {
			t.Errorf("%s: %v, paid by %d, %d too many", name, e.Verdict, e.PaidPID, e.PinnedOver)
		}
		explainedAll(t, name, l.Summary())
	}
}

// A further mapping of an older buffer may charge nothing.
func TestOlderMappedAgain(t *testing.T) {
	l := New()
	l.Apply(olderBuffer())
	e := l.Apply(Event{
		Op: Map, TimeNS: later,
		Caller:  Caller{PID: 10, UID: 1000, LockLimit: 128},
		User:    Reading{Owner: 1000, Before: 516, After: 516},
		Process: Reading{Owner: 0xa, Before: 4, After: 69},
		Buffer:  Buffer{Key: 0xb, Existing: true, Pages: 65, Mappings: Count{Before: 1, After: 2}, Limits: Limits{Allowance: 516}},
	})
	if e.Kind != Mapping || e.Verdict != DoubleCharge || e.BufferID != 1 {
		t.Errorf("%v %v of buffer %d", e.Kind, e.Verdict, e.BufferID)
	}
}

// charging is the event of process 10 mapping a buffer of 65 pages.
func charging(timeNS, buffer uint64, before int64) Event {
	return Event{
		Op: Map, TimeNS: timeNS,
		Caller:  Caller{PID: 10, UID: 1000, LockLimit: 128},
		User:    Reading{Owner: 1000, Before: before, After: before + 65},
		Process: Reading{Owner: 0xa},
		Buffer:  Buffer{Key: buffer, Pages: 65, Mappings: Count{After: 1}, Limits: Limits{Allowance: 516}},
	}
}

func foundOf(buffer uint64, pages int64) Event {
	return Event{
		Op: AlreadyMapped, TimeNS: foundAt,
		Caller:  Caller{PID: 10, Comm: "holder"},
		User:    Reading{Owner: 1000},
		Process: Reading{Owner: 0xa},
		Buffer:  Buffer{Key: buffer, Mappings: Count{After: 1}, Recorded: [2]Recorded{rule.Data: {Pages: pages}}},
	}
}

// unmapOf is the refund of a buffer without extra.
func unmapOf(timeNS, buffer uint64, pages, before int64) Event {
	return Event{
		Op: Unmap, TimeNS: timeNS,
		Caller:  Caller{PID: 10, UID: 1000},
		User:    Reading{Owner: 1000, Before: before, After: before - pages},
		Process: Reading{Owner: 0xa},
		Buffer:  Buffer{Key: buffer, Mappings: Count{Before: 1}, Limits: Limits{Allowance: 516}, Recorded: [2]Recorded{rule.Data: {Pages: pages}}},
	}
}

// auxCharging and auxUnmapOf are the same of an AUX area of 65 pages.
func auxCharging(timeNS, buffer uint64, before int64) Event {
	e := charging(timeNS, buffer, before)
	e.Buffer.Area = rule.AUX
	return e
}

func auxUnmapOf(timeNS, buffer uint64, before int64) Event {
	e := unmapOf(timeNS, buffer, 65, before)
	e.Buffer.Area, e.Buffer.Recorded = rule.AUX, [2]Recorded{rule.AUX: {Pages: 65}}
	e.Buffer.Mappings, e.Buffer.AUXMappings = Count{Before: 2, After: 1}, Count{Before: 1}
	return e
}

// While the snapshot is taken things move on. Whatever it saw of that, nothing
// is said of the kernel that is not so, and all is explained.
func TestOlderRaces(t *testing.T) {
	for name, c := range map[string]struct {
		found, events []Event
	}{
		"mapped while it is taken": {
			[]Event{foundOf(1, 33), foundOf(2, 65), foundOf(3, 65)},
			[]Event{charging(50, 2, 33), charging(60, 3, 98), unmapOf(later, 2, 65, 163), unmapOf(later, 1, 33, 98), unmapOf(later, 3, 65, 65)},
		},
		"unmapped after it was seen": {
			[]Event{foundOf(1, 33), foundOf(2, 65)},
			[]Event{unmapOf(50, 2, 65, 98), unmapOf(later, 1, 33, 33)},
		},
		"another one at the same address": {
			[]Event{foundOf(1, 65)}, // what was mapped after the unmapping
			[]Event{unmapOf(50, 1, 33, 33), charging(60, 1, 0), unmapOf(later, 1, 65, 65)},
		},
		"gone without an event, and another one at its address": {
			[]Event{foundOf(1, 33), foundOf(2, 33)},
			[]Event{charging(later, 1, 33), unmapOf(later, 2, 33, 98), unmapOf(later, 1, 65, 65)},
		},
		"gone without an event, and another one that was not seen mapped": {
			[]Event{foundOf(1, 33)},
			[]Event{unmapOf(later, 1, 65, 65)},
		},
		"an AUX area comes": {
			[]Event{foundOf(1, 33)},
			[]Event{auxCharging(later, 1, 33), auxUnmapOf(later, 1, 98), unmapOf(later, 1, 33, 33)},
		},
	} {
		l, again := New(), New()
		for _, ev := range append(c.found, c.events...) {
			e := l.Apply(ev)
			if e.Verdict != OK || e.Uncertain {
				t.Errorf("%s: %v of buffer %d: %v %d, uncertain %v", name, e.Kind, e.BufferID, e.Verdict, e.Excess, e.Uncertain)
			}
			// A recording has the ledger's numbers, and must tell the same.
			ev.Buffer.Key, ev.Process.Owner = e.BufferID, e.ProcessID
			again.Apply(ev)
		}
		s := l.Summary()
		explainedAll(t, name, s)
		if diff := cmp.Diff(s, again.Summary()); diff != "" {
			t.Errorf("%s: replayed: %s", name, diff)
		}
		if s.Live != 0 || s.LiveUser != 0 || len(s.Holders) != 0 || s.Users[0].Counter != 0 {
			t.Errorf("%s: at the end: %+v", name, s)
		}
	}
}

// A buffer that nothing is known of is unmapped while an object of the same user is freed, whose
// pages are in the difference of both readings: they went once.
func TestUnknownBufferBesideObject(t *testing.T) {
	unmapped := overlapped(unmapOf(0, 3, 0, 19))
	unmapped.User = Reading{Owner: 7, Before: 19, After: 10, Shared: true}
	l := New()
	for _, e := range []Event{made(1, 10, 9, 19, 100), overlapped(freed(1, 19, 9, 10)), unmapped, made(2, 10, 5, 15, 100)} {
		l.Apply(e)
	}
	if b := l.Summary().Users[0]; b.Live != 5 || b.Base != 10 || b.Counter != 15 || b.Unexplained() != 0 {
		t.Errorf("%+v, unexplained %d", b, b.Unexplained())
	}
}
