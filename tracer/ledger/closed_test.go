package ledger

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/refusal"
)

// on has an account be of an io_uring.
func on(ring uint64, e Event) Event {
	e.Instance.Key = ring
	return e
}

// closes is the end of the last reference, in process 42.
func closes(charger Charger, key uint64, pages int64) Event {
	return Event{Op: Close, Charger: charger, TimeNS: 1000, Caller: Caller{PID: 42}, User: Reading{Owner: 7}, Instance: object.Instance{Key: key, Pages: pages}}
}

func closesMap(key uint64, pages int64) Event {
	e := closes(NoCharger, 0, 0)
	e.Object = &Object{Key: key, Rlimit: true, Pages: pages}
	return e
}

// ringRefused is refused while the counter holds so much, and pages of its own before.
func ringRefused(held, own int64) Event {
	e := refused(charger(held, held), 12)
	e.TimeNS = 4000
	e.Failed = &refusal.Call{Asked: own + 2, LastAsked: 2, LastHeld: held + own}
	return e
}

// What is closed and not released is known for as long as it is certain.
func TestClosed(t *testing.T) {
	ring := []object.Closed{{What: object.Ring, PID: 42, Count: 1, Pages: 9, AgeNS: 3000}}
	for name, c := range map[string]struct {
		events                            []Event
		want                              []object.Closed
		others, objects, buffers, allRest int64 // ClosedOthers, ClosedObjects, Buffers, Others
	}{
		"an open ring":             {[]Event{on(1, charger(0, 9)), ringRefused(9, 0)}, nil, 0, 0, 0, 9},
		"a closed ring":            {[]Event{on(1, charger(0, 9)), closes("io_uring", 1, 0), ringRefused(9, 0)}, ring, 9, 0, 0, 9},
		"beside the call's own":    {[]Event{on(1, charger(0, 9)), closes("io_uring", 1, 0), ringRefused(9, 4)}, ring, 9, 0, 0, 9},
		"closed twice":             {[]Event{on(1, charger(0, 9)), closes("io_uring", 1, 0), closes("io_uring", 1, 0), ringRefused(9, 0)}, ring, 9, 0, 0, 9},
		"buffers come and go":      {[]Event{on(1, charger(0, 5)), on(1, charger(5, 20)), on(1, charger(20, 9)), closes("io_uring", 1, 0), ringRefused(9, 0)}, ring, 9, 0, 0, 9},
		"released":                 {[]Event{on(1, charger(0, 9)), closes("io_uring", 1, 0), on(1, charger(9, 0)), ringRefused(0, 0)}, nil, 0, 0, 0, 0},
		"released in part":         {[]Event{on(1, charger(0, 12)), closes("io_uring", 1, 0), on(1, charger(12, 9)), ringRefused(9, 0)}, ring, 9, 0, 0, 9},
		"released meanwhile":       {[]Event{on(1, charger(0, 9)), closes("io_uring", 1, 0), overlapped(on(1, charger(9, 9))), ringRefused(9, 0)}, nil, 0, 0, 0, 9},
		"the release was not seen": {[]Event{on(1, charger(0, 9)), closes("io_uring", 1, 0), on(2, charger(0, 9)), ringRefused(9, 0)}, nil, 0, 0, 0, 18},
		"the counter moved during the call": {[]Event{on(1, charger(0, 9)), closes("io_uring", 1, 0), overlapped(ringRefused(9, 0))},
			nil, 0, 0, 0, 9},
		"it moved before the comparison": {[]Event{on(1, charger(0, 9)), closes("io_uring", 1, 0), func() Event {
			e := ringRefused(9, 0)
			e.Failed.LastHeld = 3
			return e
		}()}, nil, 0, 0, 0, 9},
		"charged while another call was": {[]Event{overlapped(on(1, charger(0, 9))), closes("io_uring", 1, 0), ringRefused(9, 0)}, nil, 0, 0, 0, 9},
		"a ring that charged nobody":     {[]Event{on(2, charger(0, 9)), closes("io_uring", 1, 0), ringRefused(9, 0)}, nil, 0, 0, 0, 9},
		"a release of nobody knows what": {[]Event{on(1, charger(0, 9)), closes("io_uring", 1, 0), on(2, charger(9, 20)), charger(20, 11), ringRefused(11, 0)}, nil, 0, 0, 0, 11},
		"a send's end":                   {[]Event{on(1, charger(0, 9)), closes("io_uring", 1, 0), sent(9, 20), sent(20, 9), ringRefused(9, 0)}, ring, 9, 0, 0, 9},
		"buffers that two rings have":    {[]Event{on(1, charger(0, 9)), closes("io_uring", 0, 0), closes("io_uring", 1, 0), ringRefused(9, 0)}, nil, 0, 0, 0, 9},
		"another one at its address":     {[]Event{on(1, charger(0, 9)), closes("io_uring", 1, 0), on(1, charger(9, 18)), ringRefused(18, 0)}, nil, 0, 0, 0, 18},
		"after a loss": {[]Event{on(1, charger(0, 9)), closes("io_uring", 1, 0), func() Event {
			e := ringRefused(9, 0)
			e.Lost = 1
			return e
		}()}, nil, 0, 0, 0, 9},
		"a umem, by its own record": {[]Event{charger(9, 9), closes("xdp", 3, 9), ringRefused(9, 0)}, []object.Closed{{What: object.Umem, PID: 42, Count: 1, Pages: 9, AgeNS: 3000}}, 0, 0, 0, 0},
		"two maps, one of them older": {[]Event{made(1, 8, 9, 17, 100), closesMap(1, 9), closesMap(2, 8), ringRefused(17, 0)},
			[]object.Closed{{What: object.Map, PID: 42, Count: 2, Pages: 17, AgeNS: 3000}}, 0, 9, 9, 0},
		"a map that is freed":         {[]Event{made(1, 0, 9, 9, 100), closesMap(1, 9), freed(1, 9, 9, 0), ringRefused(0, 0)}, nil, 0, 0, 0, 0},
		"an older map that is freed":  {[]Event{charger(9, 9), closesMap(2, 9), freed(2, 9, 9, 0), ringRefused(0, 0)}, nil, 0, 0, 0, 0},
		"more than the counter holds": {[]Event{charger(5, 5), closesMap(2, 9), ringRefused(5, 0)}, nil, 0, 0, 0, 0},
		"of another user":             {[]Event{on(1, charger(0, 9)), elsewhere(closes("io_uring", 1, 0)), ringRefused(9, 0)}, nil, 0, 0, 0, 9},
		"a map, and another at its place": {[]Event{made(1, 0, 9, 9, 100), closesMap(1, 9), made(1, 9, 9, 18, 100), ringRefused(18, 0)},
			nil, 0, 0, 9, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l := New()
			var e Entry
			for _, event := range c.events {
				e = l.Apply(event)
			}
			if e.Kind != Refusal || e.Held == nil {
				t.Fatalf("%v: %+v", e.Kind, e.Held)
			}
			if diff := cmp.Diff(c.want, e.Held.Closed); diff != "" {
				t.Error(diff)
			}
			got := [...]int64{e.Held.ClosedOthers, e.Held.ClosedObjects, e.Held.Buffers, e.Held.Others}
			if want := [...]int64{c.others, c.objects, c.buffers, c.allRest}; got != want {
				t.Errorf("closed others and objects, all buffers and others: %d; want %d", got, want)
			}
		})
	}
}

func sent(before, after int64) Event {
	e := charger(before, after)
	e.Charger = "zerocopy"
	return e
}

func elsewhere(e Event) Event {
	e.User.Owner = 8
	return e
}

// A closing is no call: it is not counted, and breaks no rule.
func TestClosingIsNoCall(t *testing.T) {
	l := New()
	l.Apply(on(1, charger(0, 9)))
	e := l.Apply(closes("io_uring", 1, 0))
	if s := l.Summary(); e.Kind != Closing || e.Verdict != OK || e.Fits != -1 || e.InstanceID != 1 || s.Events != 1 || s.Kinds[Closing] != 0 || s.Broken() {
		t.Errorf("%+v; %+v", e, s)
	}
}

// Who made the maps that hold the most is said of those that are open.
func TestMakersOfOpenMaps(t *testing.T) {
	l := New()
	for key, e := range []Event{made(1, 0, 9, 9, 100), made(2, 9, 3, 12, 100), closesMap(1, 9)} {
		e.Caller.PID = uint32(50 + key)
		l.Apply(e)
	}
	e := l.Apply(refused(made(0, 12, 99, 12, 100), 1))
	if h := e.Held; h.Maker != 51 || h.MakerPages != 3 || !slices.Equal(h.Closed, []object.Closed{{What: object.Map, PID: 52, Count: 1, Pages: 9}}) {
		t.Errorf("%+v", h)
	}
}

// cgroupPays makes a BPF map that a memory cgroup pays for.
func cgroupPays(key uint64, path string, bytes int64) Event {
	return Event{Op: Create, TimeNS: 500, Object: &Object{Key: key, Watched: true, Payers: [2]Payer{{CgroupID: 5, Cgroup: path, Pages: bytes - 96, Objects: 96}}}}
}

func closesPaid(key uint64) Event {
	return Event{Op: Close, TimeNS: 1000, Caller: Caller{PID: 42}, Object: &Object{Key: key, Watched: true}}
}

// What a memory cgroup is charged for what is closed is known to those above it, too, until it
// is released.
func TestUnreleased(t *testing.T) {
	gone := Event{Op: Free, TimeNS: 2000, Object: &Object{Key: 1, Watched: true}}
	grown := cgroupPays(1, "/a/b", 4096)
	grown.Op = Grow
	one := []object.Closed{{What: object.Map, PID: 42, Count: 1, Bytes: 8192, AgeNS: 2000}}
	for name, c := range map[string]struct {
		events []Event
		want   []object.Closed
	}{
		"open":             {[]Event{cgroupPays(1, "/a/b", 8192)}, nil},
		"closed":           {[]Event{cgroupPays(1, "/a/b", 8192), closesPaid(1)}, one},
		"closed twice":     {[]Event{cgroupPays(1, "/a/b", 8192), closesPaid(1), closesPaid(1)}, one},
		"of the same":      {[]Event{cgroupPays(1, "/a", 8192), closesPaid(1)}, one},
		"grown":            {[]Event{cgroupPays(1, "/a/b", 4096), grown, closesPaid(1)}, one},
		"of another":       {[]Event{cgroupPays(1, "/ab", 8192), closesPaid(1)}, nil},
		"of one above":     {[]Event{cgroupPays(1, "/", 8192), closesPaid(1)}, nil},
		"released":         {[]Event{cgroupPays(1, "/a/b", 8192), closesPaid(1), gone}, nil},
		"the address anew": {[]Event{cgroupPays(1, "/a/b", 8192), closesPaid(1), cgroupPays(1, "/a/b", 4096)}, nil},
		"older":            {[]Event{closesPaid(1)}, nil},
		"not known where":  {[]Event{cgroupPays(1, "", 8192), closesPaid(1)}, nil},
		"more than it has": {[]Event{cgroupPays(1, "/a/b", 8192), cgroupPays(2, "/a/b", 1024), closesPaid(1), closesPaid(2)}, nil},
		"two":              {[]Event{cgroupPays(1, "/a/b", 4096), cgroupPays(2, "/a", 4096), closesPaid(1), closesPaid(2)}, []object.Closed{{What: object.Map, PID: 42, Count: 2, Bytes: 8192, AgeNS: 2000}}},
	} {
		l := New()
		for _, e := range c.events {
			l.Apply(e)
		}
		refused := l.Apply(Event{Op: Create, Errno: 12, TimeNS: 3000, Object: &Object{Watched: true, Refused: true, LimitCgroup: "/a", UsageBytes: 9000, LimitBytes: 10000}})
		if diff := cmp.Diff(c.want, refused.Unreleased); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}
