package check

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/session"
)

// ownership tells a scene's events.
func (s *Scene) ownership() ownership {
	return ownership{first: uint32(s.uids[0]), last: uint32(s.uids[len(s.uids)-1])}
}

// own are a scene's events: those of its users.
func (s *Scene) own(events []ledger.Event) (list []ledger.Event) {
	users := s.ownership()
	for _, e := range events {
		if users.of(&e) {
			e.Lost = 0
			list = append(list, e)
		}
	}
	return list
}

// ownership tells the events of a range of users.
type ownership struct {
	first, last uint32
	objects     map[uint64]bool // theirs, by Object.Key
}

// of reports whether an event is theirs. The kernel frees BPF objects in workers of
// its own, as nobody's.
func (o *ownership) of(e *ledger.Event) bool {
	in := func(uid uint32) bool { return o.first <= uid && uid <= o.last }
	theirs := in(e.Caller.UID) || in(e.Payer())
	switch {
	case e.Object == nil:
	case e.Op == ledger.Create && e.Errno == 0:
		if o.objects == nil {
			o.objects = map[uint64]bool{}
		}
		o.objects[e.Object.Key] = theirs // the address may have been somebody else's
	case e.Op != ledger.Create:
		theirs = theirs || o.objects[e.Object.Key]
	}
	return theirs
}

// missed says what the scene did and the tracer did not see; "": nothing.
func (s *Scene) missed(own []ledger.Event) string {
	var mapped, unmapped, charged int64
	for i := range own {
		switch e := &own[i]; {
		case e.Errno != 0:
		case e.Op == ledger.Map:
			mapped++
		case e.Op == ledger.Unmap: // of a part, too
			unmapped++
		case e.Op == ledger.Create, e.Op == ledger.Account:
			charged++
		}
	}
	switch {
	case mapped != s.mappings:
		return fmt.Sprintf(", and saw %d mappings of %d", mapped, s.mappings)
	case unmapped < s.mappings:
		return fmt.Sprintf(", and saw %d unmappings of %d", unmapped, s.mappings)
	case charged < s.charged:
		return fmt.Sprintf(", and saw %d other charges of %d", charged, s.charged)
	}
	return ""
}

// watch opens the trace that stays open over all scenarios.
func (r *run) watch(ctx context.Context, k *Kernel) (*watch, error) {
	r.unwatch()
	began := time.Now()
	opts := r.opts.Tracer
	for _, e := range r.opts.Exercises {
		opts.BPF = opts.BPF || e.Charges == ChargesObjects || e.Charges == ChargesUsers && r.regime().rlimit
		opts.Others = opts.Others || e.Charges == ChargesOthers || e.Charges == ChargesUsers
		opts.Memcg = opts.Memcg || e.Charges == ChargesObjects && r.regime().memcg
	}
	s, err := session.Open(ctx, session.Options{Tracer: opts, NoSnapshot: true})
	k.TracerMS += time.Since(began).Milliseconds()
	if err != nil {
		return nil, err
	}
	r.session = s
	k.Tracer, k.TracerError = s.Attached(), ""
	w := &watch{tracer: s.Tracer, rlimit: r.regime().rlimit, mine: ownership{first: uint32(r.uid), last: uint32(r.uid + users*len(r.opts.Exercises) + 1)}, rest: ledger.New()}
	if w.marker, err = r.newMarker(); err != nil {
		return nil, err
	}
	sinks := []pipeline.Sink{w}
	if r.opts.Sink != nil {
		more, err := r.opts.Sink()
		if err != nil {
			return nil, err
		}
		sinks = append(sinks, more)
	}
	ctx, w.cancel = context.WithCancel(ctx)
	w.wait.Go(func() { w.err = s.Run(ctx, sinks...) })
	return w, nil
}

// unwatch takes the probes off, which takes seconds in an emulated guest.
func (r *run) unwatch() {
	if r.session != nil {
		r.session.Close()
		r.session = nil
	}
}

// watch collects the events of a trace.
type watch struct {
	tracer *tracer.Tracer
	rlimit bool // BPF objects are charged to users
	cancel context.CancelFunc
	wait   sync.WaitGroup
	mine   ownership // of all scenarios
	err    error
	marker *marker

	mu     sync.Mutex
	events []ledger.Event
	rest   *ledger.Ledger // what is still charged
	marks  int            // that the marker was seen to make
}

// marker is a process that maps and unmaps a page between scenarios, as a user that nobody
// else is: the tracer sees what was lost before and what after.
type marker struct {
	p     *process
	uid   uint32
	event int
}

func (r *run) newMarker() (m *marker, err error) {
	m = &marker{uid: uint32(r.uid)}
	r.uid++
	if m.p, err = r.start(r.actors, false, int(m.uid)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.p.end()
		}
	}()
	m.p.name = "marker"
	for _, step := range []request{{Op: "reserve", N: 1}, {Op: "become", UID: int(m.uid)}, {Op: "take"}} {
		taken, err := m.p.ask(step, -1)
		if err != nil {
			return nil, err
		}
		m.event = int(taken.Value)
	}
	return m, nil
}

// mark marks the end of a scenario. A mark that is missing costs no more than that a loss
// is counted to both of its neighbours.
func (w *watch) mark() {
	if w == nil {
		return
	}
	bytes := uintptr(page())
	got, err := w.marker.p.ask(request{Op: "mmap", FD: w.marker.event, Bytes: bytes, Prot: readWrite, Flags: unix.MAP_SHARED}, -1)
	if err == nil && got.Errno == 0 {
		w.marker.p.ask(request{Op: "munmap", Addr: uintptr(got.Value), Bytes: bytes}, -1)
	}
}

// marks are the places of scenes in a trace: where they begin and end. A scene is its
// number, in the order in which they ran.
type marks struct {
	scenes []*Scene
	marker uint32
}

// mark is the marker's number.
const mark = -1

// at is whose call an event is: a scene's, or the marker's. Others tell of no place: BPF
// objects are freed some time later.
func (m *marks) at(e *ledger.Event) (scene int, ok bool) {
	if e.Op != ledger.Map && e.Op != ledger.Unmap {
		return 0, false
	}
	if e.Caller.UID == m.marker {
		return mark, true
	}
	for i, s := range m.scenes {
		if users := s.ownership(); users.first <= e.Caller.UID && e.Caller.UID <= users.last {
			return i, true
		}
	}
	return 0, false
}

// next is the last scene that can be under way before some events.
func (m *marks) next(events []ledger.Event) int {
	ended := 0
	for i := range events {
		switch scene, ok := m.at(&events[i]); {
		case ok && scene == mark:
			ended = 1
		case ok:
			return scene - ended
		}
	}
	return len(m.scenes) - 1
}

// place counts what was lost to the scenes in which it was lost, as far as their places
// tell; between two of them, to both. What is in none of the places can be of any.
func (m *marks) place(events []ledger.Event, lost uint64) (placed map[*Scene]uint64, unplaced uint64) {
	placed = map[*Scene]uint64{}
	var known uint64
	first, marked := 0, true // the first scene that can be under way
	for i := range events {
		e := &events[i]
		if more := e.Lost; more > known {
			for scene := first; scene <= max(first, m.next(events[i:])) && scene < len(m.scenes); scene++ {
				placed[m.scenes[scene]] += more - known
			}
			known = more
		}
		switch scene, ok := m.at(e); {
		case ok && scene != mark:
			first, marked = scene, false
		case ok && !marked:
			first, marked = first+1, true
		}
	}
	return placed, lost - min(lost, known)
}

// place counts what was lost to the scenes in which it was lost.
func (w *watch) place(events []ledger.Event, lost uint64, scenes []*Scene, todo []int) (placed map[*Scene]uint64, unplaced uint64) {
	if w == nil {
		return nil, 0
	}
	m := marks{marker: w.marker.uid}
	for _, i := range todo {
		if scenes[i] != nil {
			m.scenes = append(m.scenes, scenes[i])
		}
	}
	return m.place(events, lost)
}

// watches reports whether a scenario's charges are watched.
func (w *watch) watches(c Charges) bool {
	objects, others := w.tracer.Watches()
	switch c {
	case ChargesObjects:
		return objects
	case ChargesOthers:
		return others
	case ChargesUsers:
		return others && (objects || !w.rlimit)
	}
	return true
}

// Enter takes an event, if it is one of a scenario's.
func (w *watch) Enter(e *ledger.Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Op == ledger.Unmap && e.Caller.UID == w.marker.uid {
		w.marks++
	}
	if w.mine.of(&e.Event) {
		w.events = append(w.events, e.Event)
		w.rest.Apply(e.Event)
	}
	return nil
}

// Flush does nothing: events are taken as they come.
func (*watch) Flush(pipeline.View) error { return nil }

// Close does nothing.
func (*watch) Close(pipeline.View, uint64) error { return nil }

// settle waits, not for long, until nothing is charged any more that the kernel
// gives back in a worker of its own.
func (w *watch) settle() {
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		s := w.rest.Summary()
		w.mu.Unlock()
		if len(atRest(&s)) == 0 {
			return
		}
	}
}

// stop ends the trace, and returns what it saw. It does nothing without one.
func (w *watch) stop() (events []ledger.Event, lost uint64, err error) {
	if w == nil {
		return nil, 0, nil
	}
	w.settle()
	w.mark()
	w.cancel()
	w.wait.Wait()
	w.marker.p.end()
	return w.events, w.tracer.Losses().Total(), w.err
}
