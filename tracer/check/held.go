package check

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// What a program has charged besides perf buffers: io_uring's rings and buffers, umems,
// sends with MSG_ZEROCOPY, and BPF maps where those are charged to users. They all count in
// user->locked_vm, which is held against RLIMIT_MEMLOCK; perf_mmap() charges the same
// counter on most kernels. The kernel gives them back in workers.

// OfObject reports whether a call is one with such an object.
func OfObject(call string) bool {
	return slices.Contains([]string{CallRing, CallRegister, CallUnregister, CallUmem, CallSend, CallBPFMap, CallDrop}, call)
}

// habits are how this kernel charges them, as it was seen to. What was not seen is in no
// program.
type habits struct {
	ring       int64 // pages of a ring of a few entries that its user is charged; below 0: there are no rings
	apart      bool  // perf buffers have a counter of their own
	pins       bool  // buffers are charged to the process as well (io_uring since 5.9)
	umem, send bool  // they can be made
	free       bool  // a send without a limit is not charged (mm_account_pinned_pages(), some time after 6.1)
	rlimit     bool  // BPF maps are charged to users
}

func (h habits) String() string {
	if h.ring < 0 {
		return "what else is charged is left out: there is no io_uring, or the allowance of perf buffers tells nothing"
	}
	return fmt.Sprintf("seen: a ring takes %d pages; its buffers are charged to the process as well: %v; perf buffers have a counter of their own: %v; umems: %v; zerocopy: %v, free without a limit: %v; BPF maps are charged to users: %v",
		h.ring, h.pins, h.apart, h.umem, h.send, h.free, h.rlimit)
}

// habitPages is what is registered to see who is charged.
const habitPages = 4

// findHabits tries them as a user that nobody is.
func (s *Scene) findHabits() (h habits, err error) {
	r, uid := s.run, s.run.uid
	if s.model.paranoid < 0 || s.model.allowance < habitPages || s.model.allowance+beyond > maxRoom {
		return habits{ring: -1}, nil
	}
	r.uid++
	p, err := r.start(r.actors, false, uid)
	if err != nil {
		return h, err
	}
	defer p.end()
	p.name, p.s = "first one to try", s
	for _, step := range []request{{Op: "reserve", N: sizesOfRoom}, {Op: "become", UID: uid, Caps: []string{"cap_net_raw"}}} {
		if _, err := p.ask(step, -1); err != nil {
			return h, err
		}
	}
	if err := p.limit(gaugeLimit); err != nil {
		return h, err
	}
	ring, err := p.ask(request{Op: "uring"}, -1)
	if err != nil || ring.Errno != 0 {
		return habits{ring: -1}, nil // without a witness
	}
	h.ring = gaugeLimit - p.uringFits(ring.Value, gaugeLimit, gaugeLimit)
	room := func() int64 {
		m, err := p.ask(request{Op: "room", Pages: s.model.allowance + beyond}, -1)
		s.check(err)
		return m.Value
	}
	s.check(p.limit(0))
	before := room()
	s.check(p.limit(gaugeLimit))
	m, err := p.ask(request{Op: "register", FD: int(ring.Value), Pages: habitPages}, -1)
	if err == nil {
		err = errnoError("register io_uring buffers", m)
	}
	if err != nil {
		return h, err
	}
	pin, err := p.vmPin()
	if err != nil {
		return h, err
	}
	if pin != 0 && pin != habitPages {
		return h, fmt.Errorf("an io_uring buffer of %d pages makes VmPin %d: whom it is charged to is not known", habitPages, pin)
	}
	h.pins = pin != 0
	s.check(p.limit(pin)) // which perf_mmap() holds against it, too
	switch taken := before - room(); taken {
	case habitPages:
	case 0:
		h.apart = true
	default:
		return h, fmt.Errorf("an io_uring buffer of %d pages takes %d of what perf buffers may have: whom it is charged to is not known", habitPages, taken)
	}
	// What these take goes when the kernel finds the time.
	made := func(op string) bool {
		m, _ := p.ask(request{Op: op, Pages: 1}, -1)
		if m.Errno == 0 {
			p.ask(request{Op: "close", FD: int(m.Value)}, -1)
		}
		return m.Errno == 0
	}
	if _, err := p.ask(request{Op: "unregister", FD: int(ring.Value)}, -1); err != nil {
		return h, err
	}
	s.check(p.limit(unlimited))
	sent, err := p.ask(request{Op: "send-more", Pages: 1}, -1)
	s.check(p.limit(gaugeLimit))
	if err == nil && sent.Errno == 0 {
		none := gaugeLimit - h.ring
		h.free = none == s.settle(func(fits int64) bool { return fits == none || fits == none-sendPages(1) }, func() int64 {
			return p.uringFits(ring.Value, gaugeLimit, none)
		})
	}
	h.umem, h.send, h.rlimit = made("umem"), made("send-more"), r.regime().rlimit
	return h, nil
}

// gaugeLimit is the RLIMIT_MEMLOCK of those who measure user->locked_vm.
const gaugeLimit = 128

// object is one that is charged while it lives.
type object struct {
	p      *process
	number int    // of the process
	made   string // the call that made it
	fd     int
	pays   charged
	buffer *charged // of a ring; nil: there is none
	counts bool     // a ring's buffers are charged to its user
}

// charged is what somebody was charged.
type charged struct {
	user, mm     *payer
	toUser, toMM int64
}

// others is a player's side of it.
type others struct {
	habits  habits
	objects map[int]*object
	gauges  map[int]*gauge // by user
}

// gauge is a process that measures a user's counter: by what it can register with its ring.
type gauge struct {
	p    *process
	ring int64
	pays charged
	off  int64 // by how much it was off the model at the last look
}

// beginOthers finds out what there is.
func (pl *player) beginOthers() {
	pl.others = others{objects: map[int]*object{}, gauges: map[int]*gauge{}}
	if pl.s.run.habits == nil {
		h, err := pl.s.findHabits()
		pl.s.check(err)
		pl.s.run.habits = &h
	}
	pl.others.habits = *pl.s.run.habits
	pl.s.say("%s", pl.others.habits)
}

// charge charges a user and a process some pages.
func (o *others) charge(by caller, toUser, toMM int64) charged {
	c := charged{by.user, by.mm, toUser, toMM}
	c.add(o, 1)
	return c
}

func (c charged) add(o *others, times int64) {
	c.user.locked += times * c.toUser
	if !o.habits.apart {
		c.user.shared += times * c.toUser
	}
	c.mm.pages += times * c.toMM
}

// used is what the kernel holds against the limit.
func (o *others) used(user *payer) int64 {
	if o.habits.apart {
		return user.locked
	}
	return user.locked + user.pages
}

// beginGauge has a user measured, while little is charged to it.
func (pl *player) beginGauge(user *payer) {
	s := pl.s
	n := slices.Index(s.users, user)
	if pl.others.habits.ring < 0 || pl.others.gauges[n] != nil {
		return
	}
	g := &gauge{p: s.actor(Who{Name: "gauge", User: n, Limit: gaugeLimit, Events: 1})}
	m, err := g.p.ask(request{Op: "uring"}, -1)
	s.check(err)
	s.check(errnoError("io_uring_setup", m))
	g.ring = m.Value
	g.pays = pl.others.charge(g.p.by, pl.others.habits.ring, 0)
	pl.others.gauges[n] = g
}

const gaugeWitness = "pages that another process of the user can register with an io_uring before ENOMEM"

// settled waits until the kernel has given back what it does later, and looks.
func (pl *player) settled(user *payer) {
	s := pl.s
	s.settle(func(off int64) bool { return off == 0 }, func() (off int64) {
		for _, p := range s.actors {
			if !p.alive {
				continue
			}
			pin, err := p.vmPin()
			s.check(err)
			if now := pin - p.by.mm.pages; now != s.off[p] {
				off += max(now, -now)
			}
		}
		return off
	})
	s.look()
	g, expected := pl.gauge(user)
	pl.measured(user, s.settle(func(v int64) bool { return v == expected || v == expected+g.off }, func() int64 {
		return g.p.uringFits(g.ring, gaugeLimit, expected)
	}))
}

// gauge is a user's, and what it is to measure.
func (pl *player) gauge(user *payer) (g *gauge, expected int64) {
	return pl.others.gauges[slices.Index(pl.s.users, user)], max(0, gaugeLimit-pl.others.used(user))
}

// measured notes what was measured, unless it is off as it was.
func (pl *player) measured(user *payer, seen int64) {
	g, expected := pl.gauge(user)
	if off := seen - expected; off == 0 || off != g.off {
		pl.s.ExpectRoom(gaugeWitness, user.areas == 0 && user.held == 0, expected, seen)
		g.off = off
	}
}

// glance measures at once: nothing is given back just now. So it is known how much a user is
// off before a step that one waits for.
func (pl *player) glance(user *payer) {
	if g, expected := pl.gauge(user); g != nil {
		pl.measured(user, g.p.uringFits(g.ring, gaugeLimit, expected))
	}
}

// object makes a step with an object.
func (pl *player) object(p *process, o Op) {
	of, h := pl.others.objects[o.Object], &pl.others.habits
	if h.ring < 0 {
		return // no witness
	}
	switch o.Call {
	case CallRing:
		pl.make(p, o, request{Op: "uring"}, h.ring, unix.ENOMEM, !p.by.ipcLock)
	case CallUmem:
		if h.umem && !p.single { // who called exec has no capabilities left
			pl.make(p, o, request{Op: "umem", Pages: o.Pages}, o.Pages, unix.ENOBUFS, !p.by.ipcLock)
		}
	case CallSend:
		if h.send {
			pl.make(p, o, request{Op: "send-more", Pages: o.Pages}, sendPages(o.Pages), unix.ENOBUFS, !p.by.ipcLock && !(h.free && p.by.limit == unlimited))
		}
	case CallBPFMap:
		if p.single {
			break
		}
		pl.make(p, o, request{Op: "map-of", Pages: o.Pages}, o.Pages, unix.EPERM, h.rlimit)
	case CallRegister:
		if of != nil && of.p == p && of.made == CallRing && of.buffer == nil {
			var toMM int64
			if h.pins {
				toMM = o.Pages
			}
			if c, _, ok := pl.charged(p, o, request{Op: "register", FD: of.fd, Pages: o.Pages}, o.Pages, toMM, unix.ENOMEM, of.counts); ok {
				of.buffer = &c
			}
			pl.settled(p.by.user)
		}
	case CallUnregister:
		if of != nil && of.p == p && of.buffer != nil {
			pl.ask(p, o, request{Op: "unregister", FD: of.fd})
			of.buffer.add(&pl.others, -1)
			of.buffer = nil
			pl.settled(p.by.user)
		}
	case CallDrop:
		if of != nil && of.p == p {
			pl.drop(o.Object)
		}
	}
}

// sendPages are those that mm_account_pinned_pages() charges for some: two more, for what is
// not aligned.
func sendPages(pages int64) int64 { return pages + 2 }

// ask makes a call that must not fail.
func (pl *player) ask(p *process, o Op, r request) {
	m, err := p.ask(r, -1)
	pl.s.check(err)
	pl.s.check(errnoError(o.Call, m))
	pl.s.say("%s", o)
}

// make makes an object, which its user is charged for unless it is not to count.
func (pl *player) make(p *process, o Op, r request, toUser int64, refusal unix.Errno, counts bool) {
	if pl.others.objects[o.Object] != nil {
		return
	}
	c, fd, ok := pl.charged(p, o, r, toUser, 0, refusal, counts)
	if ok {
		pl.others.objects[o.Object] = &object{p: p, number: o.Process, made: o.Call, fd: fd, pays: c, counts: counts}
		p.by.user.held++
	}
	pl.settled(p.by.user)
}

// charged makes a call by which somebody is charged, or which is refused where the user's
// counter would exceed the limit. ok: the kernel made it.
func (pl *player) charged(p *process, o Op, r request, toUser, toMM int64, refusal unix.Errno, counts bool) (c charged, fd int, ok bool) {
	s := pl.s
	if !counts {
		toUser = 0
	}
	var want unix.Errno
	if counts && toUser > 0 && pl.others.used(p.by.user)+toUser > p.by.limit {
		want = refusal
	}
	m, err := p.ask(r, -1)
	s.check(err)
	s.say("%s", o)
	s.charging = true
	switch errno := unix.Errno(m.Errno); {
	case errno != 0 && errno != refusal:
		s.check(fmt.Errorf("%s: %w", o, errno))
	case errno != want:
		s.refusal(o.Call, p, toUser, want, errno)
		if errno == 0 {
			return pl.others.charge(p.by, 0, 0), int(m.Value), true
		}
	case errno == 0:
		s.Evidence.WitnessesRead++
		if toUser > 0 {
			s.charged++
		}
		return pl.others.charge(p.by, toUser, toMM), int(m.Value), true
	default:
		s.Evidence.WitnessesRead++
	}
	return c, -1, false
}

// drop closes an object.
func (pl *player) drop(number int) {
	of := pl.others.objects[number]
	pl.ask(of.p, Op{Call: CallDrop, Process: of.number, Object: number}, request{Op: "close", FD: of.fd})
	pl.others.freed(number)
	pl.settled(of.p.by.user)
}

// freed takes an object out of the model.
func (o *others) freed(number int) {
	of := o.objects[number]
	of.pays.add(o, -1)
	if of.buffer != nil {
		of.buffer.add(o, -1)
	}
	of.pays.user.held--
	delete(o.objects, number)
}

// gone frees what a process had that has ended.
func (o *others) gone(pl *player, p *process) {
	had := false
	for number, of := range o.objects {
		if of.p == p {
			o.freed(number)
			had = true
		}
	}
	if had {
		pl.settled(p.by.user)
	}
}

// dropAll closes what is left, and those that measured.
func (pl *player) dropAll() {
	for _, number := range slices.Sorted(maps.Keys(pl.others.objects)) {
		pl.glance(pl.others.objects[number].p.by.user)
		pl.drop(number)
	}
	for _, n := range slices.Sorted(maps.Keys(pl.others.gauges)) {
		g, s := pl.others.gauges[n], pl.s
		room := func() int64 { return s.roomOf(n) - s.model.room(s.users[n]) }
		wait, off := pl.others.habits.ring > 0 && s.model.paranoid >= 0, int64(0)
		if wait {
			off = room()
		}
		_, err := g.p.ask(request{Op: "close", FD: int(g.ring)}, -1)
		s.check(err)
		g.pays.add(&pl.others, -1)
		if wait {
			s.settle(func(now int64) bool { return now == off }, room)
		}
	}
}
