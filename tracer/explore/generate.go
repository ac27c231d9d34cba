// Package explore looks for bugs of the accounting that nobody thought of: random
// programs of calls, each held against the model and the witnesses of package check, and
// what breaks an invariant shrunk to the shortest program that still does.
package explore

import (
	"math/rand/v2"
	"slices"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// MlockPages is perf_event_mlock_kb in pages where programs are explored and the machine's
// settings may be changed: small, so that programs cross the end of the allowance without
// mapping megabytes.
const MlockPages = 2

// Generate makes a program: of the same seed and number always the same one, on any
// machine.
func Generate(seed, number uint64) check.Program {
	g := generator{Rand: rand.New(rand.NewPCG(seed, number))}
	g.others = g.IntN(3) == 0
	g.start()
	if g.IntN(3) == 0 {
		g.fill(g.processes[0])
	}
	for range 3 + g.IntN(14) {
		g.step()
	}
	if g.IntN(2) == 0 {
		g.unmapAll()
	}
	return check.Program{MlockPages: MlockPages, Steps: g.steps}
}

// generator knows what the program has so far, as far as that is sure without running it.
type generator struct {
	*rand.Rand
	steps     []check.Op
	processes []*process
	events    int // numbers given so far
	mappings  int
	objects   int
	others    bool // what else is charged is in it, too
}

// process is a process of the program.
type process struct {
	number   int
	events   []int
	mappings []int
	objects  []int
	rings    []int // of those
	opened   bool  // no more events can be opened: it called exec
	ipcLock  bool
	filled   bool
}

func (g *generator) add(o check.Op) { g.steps = append(g.steps, o) }

// oneOf is one of some, each as likely.
func oneOf[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

// Most programs are about one or two processes of one user.
const (
	mostProcesses = 3
	mostEvents    = 6 // of a program
)

// start starts a process.
func (g *generator) start() {
	p := &process{number: g.count(check.CallStart), ipcLock: g.IntN(6) == 0}
	user := 0
	if g.IntN(4) == 0 {
		user = 1
	}
	g.processes = append(g.processes, p)
	g.add(check.Op{Call: check.CallStart, Process: p.number, User: user, Limit: g.limit(), IPCLock: p.ipcLock})
}

func (g *generator) count(call string) (n int) {
	for _, o := range g.steps {
		if o.Call == call {
			n++
		}
	}
	return n
}

func (g *generator) limit() int64 { return oneOf[int64](g, 0, 9, 64, 64, 64, 4096, -1) }

// size is a buffer's number of pages: the control page and a power of two, mostly.
func (g *generator) size() int64 { return oneOf[int64](g, 1, 2, 3, 3, 5, 5, 9, 9, 17, 4) }

// choice is a kind of step, as likely as its weight.
type choice struct {
	weight int
	make   func(*process)
}

// step adds one step. A process that has ended has none.
func (g *generator) step() {
	if len(g.processes) == 0 {
		g.start()
		return
	}
	p := oneOf(g, g.processes...)
	choices := []choice{
		{8, g.mapOne},
		{10, g.mapSome},
		{6, g.unmap},
		{4, g.measure},
		{3, g.give},
		{3, g.fill},
		{2, func(*process) {
			if g.count(check.CallStart) < mostProcesses {
				g.start()
			}
		}},
		{3, g.mapAUX},
		{2, g.redirect},
		{2, g.part},
		{2, g.move},
		{1, g.protect},
		{1, g.close},
		{2, func(p *process) {
			g.add(check.Op{Call: check.CallLimit, Process: p.number, Limit: g.limit()})
		}},
		{2, g.capability},
		{3, g.setting},
		{1, func(p *process) { g.add(check.Op{Call: check.CallFork, Process: p.number}) }},
		{1, g.end},
		{1, func(p *process) {
			if !p.opened {
				g.add(check.Op{Call: check.CallStorm, Process: p.number, Value: 2 + g.Int64N(2), Pages: g.size()})
			}
		}},
		{1, g.race},
		{1, g.mirror},
	}
	if g.others {
		choices = append(choices, choice{8, g.object}, choice{6, g.register}, choice{3, g.unregister}, choice{4, g.drop})
	}
	sum := 0
	for _, c := range choices {
		sum += c.weight
	}
	at := g.IntN(sum)
	for _, c := range choices {
		if at -= c.weight; at < 0 {
			c.make(p)
			return
		}
	}
}

// open opens an event and returns its number; below 0: it cannot.
func (g *generator) open(p *process, aux bool) int {
	if p.opened || g.events == mostEvents {
		return -1
	}
	e := g.events
	g.events++
	p.events = append(p.events, e)
	g.add(check.Op{Call: check.CallOpen, Process: p.number, Event: e, AUX: aux})
	return e
}

func (g *generator) mapping(p *process, call string, event int, pages int64) {
	g.add(check.Op{Call: call, Process: p.number, Event: event, Mapping: g.mappings, Pages: pages})
	p.mappings = append(p.mappings, g.mappings)
	g.mappings++
}

// mapOne maps a buffer of a new event.
func (g *generator) mapOne(p *process) {
	if e := g.open(p, false); e >= 0 {
		g.mapping(p, check.CallMap, e, g.size())
	}
}

// mapSome maps an event that the process has; mostly with the size that it was mapped with.
func (g *generator) mapSome(p *process) {
	if len(p.events) == 0 {
		g.mapOne(p)
		return
	}
	e := oneOf(g, p.events...)
	pages := g.size()
	for _, o := range g.steps {
		if o.Call == check.CallMap && o.Event == e && g.IntN(8) > 0 {
			pages = o.Pages
		}
	}
	g.mapping(p, check.CallMap, e, pages)
}

// mirror maps a buffer twice side by side.
func (g *generator) mirror(p *process) {
	if e := g.open(p, false); e >= 0 {
		g.add(check.Op{Call: check.CallMirror, Process: p.number, Event: e, Mapping: g.mappings, To: g.mappings + 1, Pages: g.size()})
		p.mappings = append(p.mappings, g.mappings, g.mappings+1)
		g.mappings += 2
	}
}

// object makes one of those that are charged beside perf buffers.
func (g *generator) object(p *process) {
	call := oneOf(g, check.CallRing, check.CallRing, check.CallUmem, check.CallUmem, check.CallSend, check.CallBPFMap)
	if p.opened { // the others want capabilities
		call = oneOf(g, check.CallRing, check.CallSend)
	}
	o := check.Op{Call: call, Process: p.number, Object: g.objects}
	if call == check.CallRing {
		p.rings = append(p.rings, g.objects)
	} else {
		o.Pages = oneOf[int64](g, 1, 2, 4, 7, 8, 13)
	}
	p.objects = append(p.objects, g.objects)
	g.objects++
	g.add(o)
}

func (g *generator) register(p *process) {
	if len(p.rings) == 0 {
		g.object(p)
		return
	}
	g.add(check.Op{Call: check.CallRegister, Process: p.number, Object: oneOf(g, p.rings...), Pages: oneOf[int64](g, 1, 3, 8, 16)})
}

func (g *generator) unregister(p *process) {
	if len(p.rings) > 0 {
		g.add(check.Op{Call: check.CallUnregister, Process: p.number, Object: oneOf(g, p.rings...)})
	}
}

func (g *generator) drop(p *process) {
	if len(p.objects) == 0 {
		return
	}
	o := oneOf(g, p.objects...)
	is := func(other int) bool { return other == o }
	p.objects, p.rings = slices.DeleteFunc(p.objects, is), slices.DeleteFunc(p.rings, is)
	g.add(check.Op{Call: check.CallDrop, Process: p.number, Object: o})
}

// mapAUX maps an AUX area, behind a data area that is mapped first if there is none.
func (g *generator) mapAUX(p *process) {
	e := -1
	for _, o := range g.steps {
		if o.Call == check.CallOpen && o.AUX && o.Process == p.number {
			e = o.Event
		}
	}
	switch {
	case e < 0 && g.IntN(4) > 0:
		if e = g.open(p, true); e < 0 {
			return
		}
		g.mapping(p, check.CallMap, e, oneOf[int64](g, 1, 2, 3, 5))
		if g.IntN(2) == 0 {
			g.fill(p)
		}
	case e < 0 && len(p.events) > 0:
		e = oneOf(g, p.events...)
	case e < 0:
		return
	}
	g.mapping(p, check.CallMapAUX, e, oneOf[int64](g, 1, 2, 4, 8, 16))
}

func (g *generator) redirect(p *process) {
	if len(p.events) < 2 {
		if len(p.events) == 1 {
			g.open(p, false)
		}
		return
	}
	e, to := oneOf(g, p.events...), oneOf(g, p.events...)
	if e != to {
		g.add(check.Op{Call: check.CallRedirect, Process: p.number, Event: e, To: to})
	}
}

// give passes an event to another process, which maps it, mostly.
func (g *generator) give(p *process) {
	if len(p.events) == 0 {
		g.mapOne(p)
		return
	}
	if len(g.processes) < 2 {
		g.start()
	}
	to, e := oneOf(g, g.processes...), oneOf(g, p.events...)
	for to == p {
		to = oneOf(g, g.processes...)
	}
	g.add(check.Op{Call: check.CallGive, Process: p.number, Event: e, To: to.number})
	to.events = append(to.events, e)
	if g.IntN(4) > 0 {
		g.mapSome(to)
	}
}

// race has two processes map an event at once that nobody has mapped.
func (g *generator) race(p *process) {
	e := g.open(p, false)
	if e < 0 {
		return
	}
	if len(g.processes) < 2 {
		g.start()
	}
	to := p
	for to == p {
		to = oneOf(g, g.processes...)
	}
	g.add(check.Op{Call: check.CallGive, Process: p.number, Event: e, To: to.number})
	to.events = append(to.events, e)
	g.add(check.Op{Call: check.CallRace, Process: p.number, Event: e, To: to.number, Pages: g.size()})
}

func (g *generator) close(p *process) {
	if len(p.events) > 0 {
		at := g.IntN(len(p.events))
		g.add(check.Op{Call: check.CallClose, Process: p.number, Event: p.events[at]})
		p.events = append(p.events[:at:at], p.events[at+1:]...)
	}
}

func (g *generator) unmap(p *process) {
	if len(p.mappings) > 0 {
		at := g.IntN(len(p.mappings))
		g.add(check.Op{Call: oneOf(g, check.CallUnmap, check.CallUnmap, check.CallUnmap, check.CallCover), Process: p.number, Mapping: p.mappings[at]})
		p.mappings = append(p.mappings[:at:at], p.mappings[at+1:]...)
	}
}

// unmapAll unmaps all, in any order.
func (g *generator) unmapAll() {
	var left []check.Op
	for _, p := range g.processes {
		for _, m := range p.mappings {
			left = append(left, check.Op{Call: check.CallUnmap, Process: p.number, Mapping: m})
		}
		p.mappings = nil
	}
	g.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
	g.steps = append(g.steps, left...)
}

func (g *generator) some(p *process, call string, at, pages int64) {
	if len(p.mappings) > 0 {
		g.add(check.Op{Call: call, Process: p.number, Mapping: oneOf(g, p.mappings...), At: at, Pages: pages})
	}
}

// part unmaps a part.
func (g *generator) part(p *process) {
	g.some(p, oneOf(g, check.CallUnmap, check.CallCover), g.Int64N(4), g.Int64N(4))
}

// move moves the whole, mostly.
func (g *generator) move(p *process) {
	if g.IntN(3) > 0 {
		g.some(p, check.CallMove, 0, 0)
	} else {
		g.some(p, check.CallMove, g.Int64N(3), g.Int64N(3))
	}
}

func (g *generator) protect(p *process) {
	g.some(p, check.CallProtect, g.Int64N(2), g.Int64N(3))
}

func (g *generator) fill(p *process) {
	switch {
	case p.opened:
	case p.filled:
		g.add(check.Op{Call: check.CallRelease, Process: p.number})
	default:
		g.add(check.Op{Call: check.CallFill, Process: p.number, Pages: oneOf[int64](g, 0, 0, 1, 2, 4)})
	}
	p.filled = !p.filled && !p.opened
}

func (g *generator) capability(p *process) {
	if p.ipcLock {
		g.add(check.Op{Call: check.CallIPCLock, Process: p.number, IPCLock: g.IntN(2) == 0})
	}
}

func (g *generator) measure(*process) { g.add(check.Op{Call: check.CallMeasure}) }

// setting changes what the whole machine has. A CPU takes a tenth of a second to go.
func (g *generator) setting(*process) {
	switch g.IntN(8) {
	case 0:
		g.add(check.Op{Call: check.CallParanoid, Value: oneOf[int64](g, -1, 2)})
	case 1:
		g.add(check.Op{Call: check.CallCPU, Value: int64(g.count(check.CallCPU) % 2)})
	default:
		g.add(check.Op{Call: check.CallMlock, Pages: oneOf[int64](g, 0, 1, 2, 4, 4, 8)})
	}
}

// end ends a process, or its program.
func (g *generator) end(p *process) {
	call := oneOf(g, check.CallExit, check.CallKill, check.CallKill, check.CallExec)
	g.add(check.Op{Call: call, Process: p.number})
	p.events, p.mappings, p.objects, p.rings, p.opened, p.ipcLock = nil, nil, nil, nil, true, false
	if call == check.CallExec {
		return
	}
	for i, other := range g.processes {
		if other == p {
			g.processes = append(g.processes[:i:i], g.processes[i+1:]...)
			break
		}
	}
}
