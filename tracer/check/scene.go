package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/rule"
	"golang.org/x/sys/unix"
)

// Scene is one run of a scenario: its processes, what the model says of them,
// and what the witnesses said instead. Every step that maps or unmaps compares
// VmPin of every process with the model.
type Scene struct {
	ctx  context.Context
	run  *run
	host *host
	uids []int
	subs []string // directories of its own cgroups

	model   model
	users   []*payer
	keepers []*process // one per user: keeps its counter alive, and measures it
	actors  []*process

	calls    []string // the calls made, in words
	mappings int64    // made in the kernel, by whatever call
	charged  int64    // times that something else was charged, at the least
	skip     string   // what is missing, once that was found
	Evidence Evidence

	written  *writing           // the scenario is only written down; nil: it is made
	off      map[*process]int64 // by how much VmPin was off the model at the last look
	charging bool               // the last call is one that charges
	pins     *bool              // io_uring charges the process as well; nil: not known yet
}

// stop ends a scenario's body from within a step.
type stop struct{ err error }

// check ends the scenario if something went wrong that may not: it could not be
// run then.
func (s *Scene) check(err error) {
	if err != nil {
		panic(stop{err})
	}
}

// Skip ends the scenario for want of something.
func (s *Scene) Skip(format string, args ...any) {
	s.skip = fmt.Sprintf(format, args...)
	panic(stop{})
}

// page is the size of a page in bytes.
func page() int64 { return int64(os.Getpagesize()) }

// actor starts a process and makes it what it is to be.
func (s *Scene) actor(w Who) *process {
	for len(s.users) <= w.User {
		s.newUser()
	}
	uid := s.uids[w.User]
	p, err := s.run.process(w, uid)
	s.check(err)
	p.s, p.name = s, w.Name
	p.by = caller{user: s.users[w.User], mm: &payer{}, limit: w.Limit, ipcLock: w.ipcLock()}
	s.actors = append(s.actors, p)
	s.check(p.limit(w.Limit))
	if w.UserNS {
		return p
	}
	_, err = p.ask(request{Op: "reserve", N: cmp.Or(w.Events, reserved)}, -1)
	s.check(err)
	if w.AUX != 0 {
		m, err := p.ask(request{Op: "open", Type: w.AUX}, -1)
		s.check(err)
		p.aux = int(m.Value)
	}
	_, err = p.ask(request{Op: "become", UID: uid, Caps: w.Caps}, -1)
	s.check(err)
	return p
}

// newUser adds a user that nobody else is. A process of it stays to the end: a
// user's counter goes with its last process.
func (s *Scene) newUser() {
	s.users = append(s.users, &payer{})
	keeper := s.actor(Who{Name: "keeper", User: len(s.users) - 1, Events: sizesOfRoom})
	s.actors = slices.DeleteFunc(s.actors, func(p *process) bool { return p == keeper })
	s.keepers = append(s.keepers, keeper)
	s.measure(len(s.users) - 1)
}

// Process starts a process of the scenario.
func (s *Scene) Process(w Who) *process {
	if s.written != nil {
		return s.written.process(s, w)
	}
	p := s.actor(w)
	s.say("%s starts", p.name)
	return p
}

func (s *Scene) say(format string, args ...any) {
	s.calls = append(s.calls, fmt.Sprintf(format, args...))
}

// when is the last call, for what is said about it.
func (s *Scene) when() string {
	if len(s.calls) == 0 {
		return "start"
	}
	return s.calls[len(s.calls)-1]
}

// broke notes that a witness saw what should not be.
func (s *Scene) broke(w Witness) {
	s.Evidence.right[w.Witness] = false
	w.When = s.when()
	s.Evidence.Broken = append(s.Evidence.Broken, w)
}

// ExpectRoom notes a witness's reading of how many pages fit. rest says that by the
// intent nothing is charged of what it depends on.
func (s *Scene) ExpectRoom(witness string, rest bool, expected, seen int64) {
	s.read(expected == seen, Witness{Witness: witness, ExpectedPages: expected, SeenPages: seen, reading: roomReading(expected, seen, rest)})
}

// read notes a reading.
func (s *Scene) read(right bool, w Witness) {
	s.Evidence.WitnessesRead++
	if !right {
		s.broke(w)
		return
	}
	s.Evidence.right[w.Witness] = true
}

// look compares VmPin of all processes with the model. What stays off by the
// same amount was said before.
func (s *Scene) look() {
	for _, p := range s.actors {
		if !p.alive {
			continue
		}
		pin, err := p.vmPin()
		s.check(err)
		off, before := pin-p.by.mm.pages, s.off[p]
		s.off[p] = off
		if off == before && off != 0 {
			s.Evidence.WitnessesRead++
			continue
		}
		s.read(off == 0, Witness{Witness: vmPinOf + p.name, ExpectedPages: p.by.mm.pages, SeenPages: pin, reading: chargeReading(pin, off, before, s.charging)})
	}
	s.charging = false
}

// maxRoom bounds the memory that a measurement maps: 128 MiB of 4 KiB pages.
const maxRoom = 32768

// sizesOfRoom is how many buffers it takes to map so much, or any less: of each size one.
const sizesOfRoom = 20

// beyond is how many pages past the allowance are measured: more room than it is
// an underflow.
const beyond = 512

// measure lets the kernel refuse: how many pages a user can still map at no
// process's expense is what its counter leaves of the allowance.
func (s *Scene) measure(user int) {
	if s.model.paranoid < 0 {
		return // nothing is refused
	}
	most := s.model.allowance + beyond
	if most > maxRoom {
		s.Skip("a user's allowance is %d pages here: too much memory to map for this; lower perf_event_mlock_kb", s.model.allowance)
	}
	s.ExpectRoom("pages of the allowance that fit before EPERM", s.users[user].areas == 0 && s.users[user].held == 0, s.model.room(s.users[user]), s.roomOf(user))
}

// roomOf maps what a user may have at no process's expense, and unmaps it.
func (s *Scene) roomOf(user int) int64 {
	m, err := s.keepers[user].ask(request{Op: "room", Pages: s.model.allowance + beyond}, -1)
	s.check(err)
	made, err := strconv.ParseInt(m.Notes[0], 10, 64)
	s.check(err)
	s.mappings += made
	return m.Value
}

// Measure measures the counters of all users.
func (s *Scene) Measure() {
	if s.writes(Op{Call: CallMeasure}) {
		return
	}
	for i := range s.users {
		s.measure(i)
	}
}

// finish ends all processes, and sees whether the counters of the users are
// back where they were.
func (s *Scene) finish() {
	for _, p := range s.actors {
		if p.alive {
			s.leave(p)
		}
	}
	s.Measure()
	for _, p := range s.keepers {
		s.leave(p)
	}
}

// leave lets a process go: to the next scenario, or by SIGKILL where it has
// anything left.
func (s *Scene) leave(p *process) {
	if !p.retire() {
		p.Kill()
		return
	}
	s.run.idle = append(s.run.idle, &process{cmd: p.cmd, conn: p.conn, pid: p.pid, alive: true})
	p.alive = false
}

// end leaves no process behind.
func (s *Scene) end() {
	for _, p := range slices.Concat(s.actors, s.keepers) {
		p.end()
	}
}

// Event is a perf event as one process has it.
type Event struct {
	p  *process
	fd int
	*perfEvent
}

// perfEvent is an event, whichever processes have it.
type perfEvent struct {
	number   int     // where it is written down
	buffer   *buffer // where its records go; nil: there is none
	mappings int     // of the buffer, through this event
}

// buffer is a perf buffer while it lives: as long as anything maps one of its areas.
type buffer struct {
	areas  [2]*area // data, which every mapping keeps, and AUX
	events []*perfEvent
}

// join gives an event the buffer.
func (e *perfEvent) join(b *buffer) {
	e.leave()
	e.buffer = b
	b.events = append(b.events, e)
}

// leave takes the event's buffer from it: its next mapping makes a new one.
func (e *perfEvent) leave() {
	if e.buffer != nil {
		e.buffer.events = slices.DeleteFunc(e.buffer.events, func(o *perfEvent) bool { return o == e })
		e.buffer = nil
	}
}

// Mapping is one mapping of an area, or what is left of it. A nil one is of a call that
// failed.
type Mapping struct {
	p      *process
	number int // where it is written down
	addr   uintptr
	pages  int64
	event  *perfEvent
	buffer *buffer
	which  int   // of the buffer's areas
	turn   int64 // among all mappings of the scene
}

// Open takes an event.
func (p *process) Open() *Event {
	if w := p.s.written; w != nil {
		return w.event(p, false)
	}
	m, err := p.ask(request{Op: "take"}, -1)
	p.s.check(err)
	return &Event{p: p, fd: int(m.Value), perfEvent: &perfEvent{}}
}

// OpenAUX takes the event of a PMU with an AUX area.
func (p *process) OpenAUX() *Event {
	if w := p.s.written; w != nil {
		return w.event(p, true)
	}
	return &Event{p: p, fd: p.aux, perfEvent: &perfEvent{}}
}

// Give passes an event to another process over a socket.
func (e *Event) Give(to *process) *Event {
	if e.p.s.writes(Op{Call: CallGive, Process: e.p.number, Event: e.number, To: to.number}) {
		return &Event{p: to, perfEvent: e.perfEvent}
	}
	m, err := e.p.ask(request{Op: "send", FD: e.fd}, -1)
	e.p.s.check(err)
	defer unix.Close(m.fd)
	got, err := to.ask(request{Op: "receive"}, m.fd)
	e.p.s.check(err)
	e.p.s.say("%s passes the event to the %s", e.p.name, to.name)
	return &Event{p: to, fd: int(got.Value), perfEvent: e.perfEvent}
}

// Redirect sends e's records to other's buffer.
func (e *Event) Redirect(other *Event) { e.p.s.check(e.redirect(other)) }

// redirect does so if the kernel does.
func (e *Event) redirect(other *Event) error {
	if e.p.s.writes(Op{Call: CallRedirect, Process: e.p.number, Event: e.number, To: other.number}) {
		return nil
	}
	e.p.s.say("an event is redirected into the buffer")
	if _, err := e.p.ask(request{Op: "redirect", FD: e.fd, Other: other.fd}, -1); err != nil {
		return err
	}
	if other.buffer == nil {
		return errors.New("the kernel redirected an event into a buffer that is not there")
	}
	e.join(other.buffer)
	return nil
}

// Map maps a buffer, or its existing one once more: pages count the control
// page. accept names errors that are as good as what the model expects.
func (e *Event) Map(pages int64, accept ...unix.Errno) *Mapping {
	if w := e.p.s.written; w != nil {
		return w.mapping(e, CallMap, pages)
	}
	return e.mapArea(0, pages, 0, 0, accept)
}

// Mirror maps the buffer twice, one mapping behind the other, so that what is written over its
// end can be read in one piece: the last page of the first one takes the place of the second
// one's control page. Kernels refuse that since CVE-2025-38563, and the first one is nil.
func (e *Event) Mirror(pages int64, accept ...unix.Errno) (first, second *Mapping) {
	if w := e.p.s.written; w != nil {
		return w.mirror(e, pages)
	}
	p, bytes := e.p, uintptr((2*pages-1)*page())
	space, err := p.ask(request{Op: "mmap", FD: -1, Bytes: bytes, Prot: unix.PROT_NONE, Flags: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS}, -1)
	p.s.check(err)
	p.s.check(errnoError("mmap of the space for two mappings", space))
	start := uintptr(space.Value)
	p.s.say("%s takes address space for two mappings side by side", p.name)
	second = e.mapArea(0, pages, start+uintptr((pages-1)*page()), 0, accept)
	if second == nil {
		return nil, nil
	}
	first = e.mapArea(0, pages, start, 0, []unix.Errno{unix.EINVAL, unix.ENOMEM}) // see unmapFrom
	if first != nil {
		second.without(0, 1)
	}
	return first, second
}

// MapAUX maps the AUX area behind the data area, which must be mapped.
func (e *Event) MapAUX(data *Mapping, pages int64, accept ...unix.Errno) *Mapping {
	if w := e.p.s.written; w != nil {
		return w.mapping(e, CallMapAUX, pages)
	}
	if data == nil {
		return nil
	}
	offset := uintptr(data.buffer.areas[0].pages * page())
	e.announce(data, pages)
	return e.mapArea(1, pages, 0, offset, accept)
}

// announce writes the AUX area's place into the control page.
func (e *Event) announce(data *Mapping, pages int64) {
	_, err := e.p.ask(request{Op: "announce-aux", Addr: data.addr, Offset: uintptr(data.buffer.areas[0].pages * page()), Bytes: uintptr(pages * page())}, -1)
	e.p.s.check(err)
}

// mapArea maps an area at an address; 0: anywhere.
func (e *Event) mapArea(which int, pages int64, addr, offset uintptr, accept []unix.Errno) *Mapping {
	p, s := e.p, e.p.s
	what := [2]string{"maps", "maps an AUX area of"}[which]
	s.say("%s %s %d pages", p.name, what, pages)
	var a *area
	if e.buffer != nil {
		a = e.buffer.areas[which]
	}
	again := a.live()
	flags := uintptr(unix.MAP_SHARED)
	if addr != 0 {
		flags |= unix.MAP_FIXED
	}
	got, err := p.ask(request{Op: "mmap", FD: e.fd, Addr: addr, Bytes: uintptr(pages * page()), Offset: offset, Prot: readWrite, Flags: flags}, -1)
	s.check(err)
	errno := unix.Errno(got.Errno)
	if errno == 0 {
		s.mappings++
	}
	var want unix.Errno
	if !again {
		if errno != 0 && errno != unix.EPERM {
			a, want = nil, 0 // the kernel came as far as any other error: nothing may be charged
		} else {
			a, want = s.model.charge(p.by, pages)
		}
	}
	s.charging = true
	defer s.look()
	switch {
	case errno != want && slices.Contains(accept, errno):
		if !again && a != nil { // the model charged it, and it did not happen
			a.unmap()
		}
		return nil
	case errno != want && errno != unix.EPERM && want != unix.EPERM:
		s.check(fmt.Errorf("%s: %w", s.when(), errno))
	case errno != want:
		s.refusal("mmap", p, pages, want, errno)
		if errno != 0 {
			if !again {
				a.unmap()
			}
			return nil
		}
	case errno != 0:
		s.Evidence.WitnessesRead++
		return nil
	default:
		s.Evidence.WitnessesRead++
	}
	m := &Mapping{p: p, addr: uintptr(got.Value), pages: pages, event: e.perfEvent, buffer: e.buffer, which: which, turn: s.mappings}
	if again {
		m.kept()
	} else {
		s.check(m.made(a))
	}
	return m
}

// made takes the first mapping of an area into the model. No area: the kernel mapped what
// it should have refused.
func (m *Mapping) made(a *area) error {
	if a == nil {
		a = &area{by: m.p.by, mappings: 1}
		a.by.user.areas++
	}
	switch {
	case m.which == 0:
		m.buffer = &buffer{}
		m.event.join(m.buffer)
	case m.buffer == nil:
		return errors.New("the kernel mapped the AUX area of a buffer that is not there")
	default:
		m.buffer.areas[0].again()
	}
	m.buffer.areas[m.which] = a
	m.event.mappings++
	m.p.maps = append(m.p.maps, m)
	return nil
}

// kept takes a further mapping of an area into the model.
func (m *Mapping) kept() {
	for _, a := range m.buffer.areas[:m.which+1] {
		a.again()
	}
	m.event.mappings++
	m.p.maps = append(m.p.maps, m)
}

// refusal notes that a call was refused which should not be, or the other way round.
func (s *Scene) refusal(call string, p *process, pages int64, want, got unix.Errno) {
	s.Evidence.WitnessesRead++
	w := Witness{Witness: call + " of the " + p.name + " says " + errnoName(got) + " instead of " + errnoName(want)}
	if want == 0 {
		w.ExpectedPages = pages
	} else {
		w.SeenPages = pages
	}
	s.broke(w)
}

func errnoName(e unix.Errno) string {
	if e == 0 {
		return "ok"
	}
	return rule.ErrnoName(e)
}

// Refused makes a call that must fail with one of some errors, and charge
// nothing.
func (e *Event) Refused(what string, r request, want ...unix.Errno) {
	s := e.p.s
	s.say("%s %s", e.p.name, what)
	r.Op, r.FD = "mmap", e.fd
	if r.Flags == 0 {
		r.Flags = unix.MAP_SHARED
	}
	if r.Prot == 0 {
		r.Prot = readWrite
	}
	got, err := e.p.ask(r, -1)
	s.check(err)
	errno := unix.Errno(got.Errno)
	s.Evidence.WitnessesRead++
	s.charging = true
	if !slices.Contains(want, errno) {
		names := make([]string, len(want))
		for i, w := range want {
			names[i] = errnoName(w)
		}
		s.broke(Witness{Witness: "mmap says " + errnoName(errno) + " instead of " + strings.Join(names, " or ")})
	}
	s.look()
}

// Unmap unmaps. A nil mapping is none.
func (m *Mapping) Unmap() {
	if m == nil || m.p.s.writes(m.part(CallUnmap, 0, m.pages)) {
		return
	}
	p, s := m.p, m.p.s
	s.say("%s unmaps %d pages", p.name, m.pages)
	got, err := p.ask(request{Op: "munmap", Addr: m.addr, Bytes: uintptr(m.pages * page())}, -1)
	s.check(err)
	s.check(errnoError("munmap", got))
	m.gone()
	s.look()
}

func errnoError(what string, m message) error {
	if m.Errno == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", what, unix.Errno(m.Errno))
}

// gone takes a mapping out of the model.
func (m *Mapping) gone() {
	m.p.maps = slices.DeleteFunc(m.p.maps, func(other *Mapping) bool { return other == m })
	for _, a := range m.buffer.areas[:m.which+1] {
		a.unmap()
	}
	if m.event.mappings--; m.event.mappings == 0 {
		m.event.leave()
	}
	for !m.buffer.areas[0].live() && len(m.buffer.events) > 0 {
		m.buffer.events[0].leave()
	}
}

// without takes some pages, from at on, out of a mapping: what is left may be two.
func (m *Mapping) without(at, pages int64) {
	rest := m.pages - at - pages
	switch {
	case at == 0 && rest == 0:
		m.gone()
	case at == 0:
		m.addr, m.pages = m.addr+uintptr(pages*page()), rest
	default:
		m.pages = at
		if rest > 0 {
			behind := *m
			behind.addr, behind.pages = m.addr+uintptr((at+pages)*page()), rest
			behind.kept()
		}
	}
}

// UnmapPart unmaps the last pages. Kernels refuse it since CVE-2025-38563, or
// keep the charge until the rest is gone.
func (m *Mapping) UnmapPart(pages int64) {
	if m != nil {
		m.unmapFrom("munmap", m.pages-pages, pages)
	}
}

// unmapFrom unmaps some pages, from at on: by munmap, or by a mapping that covers them.
func (m *Mapping) unmapFrom(how string, at, pages int64) {
	p, s := m.p, m.p.s
	if s.writes(m.part(CallUnmap, at, pages)) { // no scenario covers a part
		return
	}
	s.say("%s %s %d of %d pages", p.name, map[string]string{"munmap": "unmaps", "cover": "maps over"}[how], pages, m.pages)
	got, err := p.ask(request{Op: how, Addr: m.addr + uintptr(at*page()), Bytes: uintptr(pages * page())}, -1)
	s.check(err)
	switch unix.Errno(got.Errno) {
	case 0:
		m.without(at, pages)
	case unix.EINVAL, unix.ENOMEM: // what mmap says up to 6.11 where it may not unmap
	default:
		s.check(errnoError(how+" of a part", got))
	}
	s.look()
}

// Protect changes the protection of some of the first pages; a part may be
// refused.
func (m *Mapping) Protect(pages int64) {
	if m == nil {
		return
	}
	if errno := m.protect(0, pages); errno != unix.EINVAL || pages == m.pages {
		m.p.s.check(errnoError("mprotect", message{reply: reply{Errno: int(errno)}}))
	}
}

// protect makes some pages, from at on, read-only.
func (m *Mapping) protect(at, pages int64) unix.Errno {
	s := m.p.s
	if s.writes(m.part(CallProtect, at, pages)) {
		return 0
	}
	s.say("%s mprotects %d of %d pages", m.p.name, pages, m.pages)
	got, err := m.p.ask(request{Op: "mprotect", Addr: m.addr + uintptr(at*page()), Bytes: uintptr(pages * page()), Prot: unix.PROT_READ}, -1)
	s.check(err)
	s.look()
	return unix.Errno(got.Errno)
}

// Move moves the mapping by mremap.
func (m *Mapping) Move() {
	if m != nil {
		m.p.s.check(m.move(0, m.pages))
	}
}

// move moves some pages, from at on, by mremap.
func (m *Mapping) move(at, pages int64) error {
	s := m.p.s
	if s.writes(m.part(CallMove, at, pages)) {
		return nil
	}
	s.say("%s moves %d of %d pages", m.p.name, pages, m.pages)
	got, err := m.p.ask(request{Op: "move", Addr: m.addr + uintptr(at*page()), Bytes: uintptr(pages * page())}, -1)
	s.check(err)
	if err := errnoError("mremap", got); err != nil {
		return err
	}
	if pages == m.pages {
		m.addr = uintptr(got.Value)
	} else {
		moved := *m
		moved.addr, moved.pages = uintptr(got.Value), pages
		moved.kept()
		m.without(at, pages)
	}
	s.look()
	return nil
}

// Shrink gives up the last pages by mremap, which kernels refuse since CVE-2025-38563 like
// unmapping them.
func (m *Mapping) Shrink(pages int64) {
	if m != nil && m.resized("shrinks", pages, unix.EINVAL, unix.ENOMEM) == 0 {
		m.without(pages, m.pages-pages)
	}
}

// Grow asks for more pages by mremap, which no kernel gives.
func (m *Mapping) Grow(pages int64) {
	if m == nil {
		return
	}
	if errno := m.resized("grows", pages, unix.EFAULT, unix.EINVAL, unix.ENOMEM); errno == 0 {
		m.p.s.broke(Witness{Witness: "mremap says ok to a buffer that grows", SeenPages: pages - m.pages})
	}
}

// resized is what mremap to so many pages comes to: 0, or an errno of those it may have.
func (m *Mapping) resized(how string, pages int64, accept ...unix.Errno) unix.Errno {
	s := m.p.s
	s.say("%s %s %d pages to %d", m.p.name, how, m.pages, pages)
	got, err := m.p.ask(request{Op: "resize", Addr: m.addr, Bytes: uintptr(m.pages * page()), Pages: pages}, -1)
	s.check(err)
	errno := unix.Errno(got.Errno)
	if errno != 0 && !slices.Contains(accept, errno) {
		s.check(errnoError("mremap", got))
	}
	s.look()
	return errno
}

// MovePart moves some pages, from at on, by mremap, which kernels refuse since CVE-2025-38563.
func (m *Mapping) MovePart(at, pages int64) {
	if m == nil {
		return
	}
	if err := m.move(at, pages); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOMEM) {
		m.p.s.check(err)
	}
}

// Fill uses the user's allowance up, but for some pages.
func (p *process) Fill(leave int64) {
	if p.s.writes(Op{Call: CallFill, Process: p.number, Pages: leave}) {
		return
	}
	said := p.s.calls
	pages := p.s.model.room(p.by.user) - leave
	for _, size := range sizes(pages) {
		p.filled = append(p.filled, p.Open().Map(size))
	}
	p.s.calls = said
	p.s.say("%s maps %d pages", p.name, pages)
}

// Release unmaps what Fill mapped, and measures: while the allowance is full,
// what a user is charged beyond it cannot be seen.
func (p *process) Release() {
	if p.s.writes(Op{Call: CallRelease, Process: p.number}) {
		return
	}
	said := p.s.calls
	for _, m := range p.filled {
		m.Unmap()
	}
	p.filled = nil
	p.s.calls = said
	p.s.say("%s unmaps what it mapped first", p.name)
	p.s.Measure()
}

// limit sets RLIMIT_MEMLOCK; the hard limit stays away.
func (p *process) limit(pages int64) error {
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if pages < unlimited {
		limit.Cur = uint64(pages * page())
	}
	if err := unix.Prlimit(p.pid, unix.RLIMIT_MEMLOCK, &limit, nil); err != nil {
		return fmt.Errorf("set RLIMIT_MEMLOCK of the %s: %w", p.name, err)
	}
	return nil
}

// Limit sets RLIMIT_MEMLOCK in pages.
func (p *process) Limit(pages int64) {
	if p.s.writes(Op{Call: CallLimit, Process: p.number, Limit: written(pages)}) {
		return
	}
	p.s.check(p.limit(pages))
	p.by.limit = pages
	p.s.say("RLIMIT_MEMLOCK of the %s becomes %d pages", p.name, pages)
}

// Kill ends the process by SIGKILL, whatever it has mapped.
func (p *process) Kill() {
	if p.s.writes(Op{Call: CallKill, Process: p.number}) {
		return
	}
	p.s.say("%s is killed", p.name)
	p.end()
	p.unmapped()
}

// Exit lets the process end by itself.
func (p *process) Exit() {
	if p.s.writes(Op{Call: CallExit, Process: p.number}) {
		return
	}
	p.s.say("%s exits", p.name)
	p.s.check(p.send(request{Op: "exit"}, -1))
	p.alive = false
	p.s.check(p.cmd.Wait())
	p.conn.Close()
	p.unmapped()
}

// Exec replaces the process's program: its mappings go with the mm.
func (p *process) Exec() {
	if p.s.writes(Op{Call: CallExec, Process: p.number}) {
		return
	}
	p.s.say("%s calls exec", p.name)
	_, err := p.ask(request{Op: "exec"}, -1) // the new program says when it is ready
	p.s.check(err)
	p.single = true
	p.by.mm, p.by.ipcLock = &payer{}, false // what its mappings paid was the other one's
	delete(p.s.off, p)
	p.unmapped()
}

func (p *process) unmapped() {
	for len(p.maps) > 0 {
		p.maps[0].gone()
	}
	p.s.look()
}

// Fork makes a child of the process that ends at once: it has none of the
// mappings.
func (p *process) Fork() {
	if p.s.writes(Op{Call: CallFork, Process: p.number}) {
		return
	}
	p.s.say("%s forks", p.name)
	_, err := p.ask(request{Op: "fork"}, -1)
	p.s.check(err)
	p.s.look()
}

// Storm maps and unmaps in several threads at once: events of their own, or one
// and the same.
func (p *process) Storm(e *Event, threads, rounds int, pages int64) {
	o, fd := Op{Call: CallStorm, Process: p.number, Value: int64(threads), Pages: pages}, -1
	if e != nil {
		o.Call, o.Event, fd = CallTogether, e.number, e.fd
	}
	if p.s.writes(o) {
		return
	}
	p.s.say("%s maps and unmaps %d pages %d times in each of %d threads", p.name, pages, rounds, threads)
	m, err := p.ask(request{Op: "storm", FD: fd, Threads: threads, N: rounds, Pages: pages}, -1)
	p.s.check(err)
	p.s.mappings += m.Value
	p.s.look()
}

// race has several processes map and unmap an event of theirs, all of them at once, each in
// some threads: an event that each has, or one of its own in each thread.
func (s *Scene) race(events []*Event, processes []*process, threads, rounds int, pages int64, accept ...int) {
	for i, p := range processes {
		r := request{Op: "storm", FD: -1, Threads: threads, N: rounds, Pages: pages, Accept: accept}
		if events != nil {
			r.FD = events[i].fd
		}
		s.check(p.send(r, -1))
	}
	for _, p := range processes {
		m, err := p.answer(stepTime)
		s.check(err)
		if m.Error != "" {
			s.check(errors.New(m.Error))
		}
		s.mappings += m.Value
	}
	s.look()
}

// refresh takes the machine's settings into the model.
func (s *Scene) refresh() {
	m, err := readModel()
	s.check(err)
	s.model = m
}
