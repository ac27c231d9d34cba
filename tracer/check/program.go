package check

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/remedy"
	"golang.org/x/sys/unix"
)

// A Program is a scenario that is plain data: JSON of it can be kept, played again, and made
// into something else. Its steps name processes, events and mappings by numbers of their
// own. A step that cannot be made, because what it names is not there (any more) or the
// machine lacks it, is left out: every part of a program is a program.
type Program struct {
	// MlockPages is perf_event_mlock_kb in pages, as it was when the program was found;
	// 0: as the machine has it.
	MlockPages int64 `json:"mlock_pages"`
	Steps      []Op  `json:"steps"`
}

// Op is one step. Each call uses the fields that it needs; what is 0 is left out of JSON.
type Op struct {
	Call    string `json:"call"`
	Process int    `json:"process,omitempty"`
	Event   int    `json:"event,omitempty"`
	To      int    `json:"to,omitempty"` // the other process, mapping, or event into whose buffer it is redirected
	Mapping int    `json:"mapping,omitempty"`
	At      int64  `json:"at,omitempty"`    // the first page of a part
	Pages   int64  `json:"pages,omitempty"` // control page included; of a part, 0: all that follows
	User    int    `json:"user,omitempty"`
	Limit   int64  `json:"limit,omitempty"`   // RLIMIT_MEMLOCK in pages; below 0: none
	IPCLock bool   `json:"ipclock,omitempty"` // CAP_IPC_LOCK
	AUX     bool   `json:"aux,omitempty"`     // of a PMU with an AUX area
	Value   int64  `json:"value,omitempty"`   // of a setting
	Name    string `json:"name,omitempty"`    // of the process that starts
	Object  int    `json:"object,omitempty"`  // a ring, a umem, a send or a BPF map
}

// The calls. What is a process's is made by Op.Process.
const (
	CallStart    = "start"      // User, Limit, IPCLock: the process begins
	CallOpen     = "open"       // Event, AUX
	CallMap      = "map"        // Event, Mapping, Pages
	CallMapAUX   = "map-aux"    // the same, of the AUX area
	CallMirror   = "mirror"     // Event, Mapping, Pages: the same twice, side by side; To: the mapping before the other one
	CallRedirect = "redirect"   // Event, To
	CallGive     = "give"       // Event, To
	CallClose    = "close"      // Event
	CallUnmap    = "unmap"      // Mapping, At, Pages
	CallCover    = "cover"      // the same, by mmap with MAP_FIXED
	CallMove     = "move"       // the same, by mremap to another address
	CallProtect  = "protect"    // the same, by mprotect to read-only
	CallStorm    = "storm"      // Value, Pages: so many threads map and unmap an event of their own
	CallTogether = "together"   // Value, Event, Pages: so many threads map and unmap one event
	CallRace     = "race"       // Event, To, Pages: two processes map and unmap one event at once
	CallFork     = "fork"       // a child that ends at once
	CallExec     = "exec"       //
	CallExit     = "exit"       //
	CallKill     = "kill"       //
	CallLimit    = "limit"      // Limit
	CallIPCLock  = "capability" // IPCLock: made effective, or not
	CallFill     = "fill"       // Pages: maps all that the user's allowance has, but for so many
	CallRelease  = "release"    // unmaps what fill mapped
	CallMeasure  = "measure"    // by EPERM: what is left of the allowances
	CallMlock    = "mlock"      // Pages: perf_event_mlock_kb becomes so many
	CallParanoid = "paranoid"   // Value: of perf_event_paranoid
	CallCPU      = "cpu"        // Value: the last CPU goes offline (0) or comes back
	CallRestore  = "restore"    // the settings are as they were before the program

	CallRing       = "ring"       // Object: an io_uring of a few entries
	CallRegister   = "register"   // Object, Pages: a buffer with the ring
	CallUnregister = "unregister" // Object
	CallUmem       = "umem"       // Object, Pages: of AF_XDP
	CallSend       = "send"       // Object, Pages: with MSG_ZEROCOPY, and not under way before it is dropped
	CallBPFMap     = "bpf-map"    // Object, Pages
	CallDrop       = "drop"       // Object: it is closed
)

func (o Op) String() string {
	p, e, m, object := fmt.Sprintf("p%d", o.Process), fmt.Sprintf("e%d", o.Event), fmt.Sprintf("m%d", o.Mapping), fmt.Sprintf("o%d", o.Object)
	part := m
	if o.At > 0 || o.Pages > 0 {
		part = fmt.Sprintf("of %s from page %d on %s", m, o.At, remedy.Count(o.Pages, "page"))
		if o.Pages == 0 {
			part = fmt.Sprintf("of %s all from page %d on", m, o.At)
		}
	}
	limit, effective := fmt.Sprintf("RLIMIT_MEMLOCK %s", remedy.Count(o.Limit, "page")), " gives CAP_IPC_LOCK up"
	if o.Limit < 0 {
		limit = "no RLIMIT_MEMLOCK"
	}
	if o.IPCLock {
		effective = " takes CAP_IPC_LOCK again"
	}
	switch o.Call {
	case CallStart:
		s := fmt.Sprintf("%s starts: user u%d, %s", p, o.User, limit)
		if o.IPCLock {
			s += ", CAP_IPC_LOCK"
		}
		return s
	case CallOpen:
		s := p + " opens " + e
		if o.AUX {
			s += ", of a PMU with an AUX area"
		}
		return s
	case CallMap:
		return fmt.Sprintf("%s maps %s of %s: %s", p, remedy.Count(o.Pages, "page"), e, m)
	case CallMapAUX:
		return fmt.Sprintf("%s maps an AUX area of %s of %s: %s", p, remedy.Count(o.Pages, "page"), e, m)
	case CallMirror:
		return fmt.Sprintf("%s maps %s of %s twice side by side: m%d and, behind its last page, the rest of %s", p, remedy.Count(o.Pages, "page"), e, o.To, m)
	case CallRedirect:
		return fmt.Sprintf("%s redirects %s into the buffer of e%d", p, e, o.To)
	case CallGive:
		return fmt.Sprintf("%s passes %s to p%d", p, e, o.To)
	case CallClose:
		return p + " closes " + e
	case CallUnmap:
		return p + " unmaps " + part
	case CallCover:
		return p + " maps anonymous memory over " + strings.TrimPrefix(part, "of ") + " (MAP_FIXED), and unmaps that"
	case CallMove:
		return p + " moves " + part + " by mremap"
	case CallProtect:
		return p + " makes read-only " + strings.TrimPrefix(part, "of ")
	case CallStorm:
		return fmt.Sprintf("%s maps and unmaps %s in %d threads at once, each of an event of its own", p, remedy.Count(o.Pages, "page"), o.Value)
	case CallTogether:
		return fmt.Sprintf("%s maps and unmaps %s of %s in %d threads at once", p, remedy.Count(o.Pages, "page"), e, o.Value)
	case CallRestore:
		return "the settings are as they were"
	case CallRace:
		return fmt.Sprintf("%s and p%d map and unmap %s of %s at once", p, o.To, remedy.Count(o.Pages, "page"), e)
	case CallFork:
		return p + " forks a child that ends"
	case CallExec:
		return p + " calls exec"
	case CallExit:
		return p + " exits"
	case CallKill:
		return p + " is killed"
	case CallLimit:
		return p + " gets " + limit
	case CallIPCLock:
		return p + effective
	case CallFill:
		return fmt.Sprintf("%s maps what its user's allowance has, but for %s", p, remedy.Count(o.Pages, "page"))
	case CallRelease:
		return p + " unmaps what filled the allowance"
	case CallMeasure:
		return "measure: what is left of each allowance fits, and no page more"
	case CallMlock:
		return fmt.Sprintf("perf_event_mlock_kb becomes %s", remedy.Count(o.Pages, "page"))
	case CallParanoid:
		return fmt.Sprintf("perf_event_paranoid becomes %d", o.Value)
	case CallCPU:
		return fmt.Sprintf("the last CPU: online becomes %d", o.Value)
	case CallRing:
		return fmt.Sprintf("%s makes an io_uring: %s", p, object)
	case CallRegister:
		return fmt.Sprintf("%s registers a buffer of %s with the ring %s", p, remedy.Count(o.Pages, "page"), object)
	case CallUnregister:
		return fmt.Sprintf("%s unregisters the buffer of the ring %s", p, object)
	case CallUmem:
		return fmt.Sprintf("%s registers an AF_XDP umem of %s: %s", p, remedy.Count(o.Pages, "page"), object)
	case CallSend:
		return fmt.Sprintf("%s sends %s with MSG_ZEROCOPY, of a datagram that is not complete: %s", p, remedy.Count(o.Pages, "page"), object)
	case CallBPFMap:
		return fmt.Sprintf("%s creates a BPF map of %s: %s", p, remedy.Count(o.Pages, "page"), object)
	case CallDrop:
		return fmt.Sprintf("%s closes %s", p, object)
	}
	return o.Call
}

// programName is the name of any program as a scenario.
const programName = "program"

// Exercise is the program as a scenario.
func (p *Program) Exercise() Exercise {
	return Exercise{Name: programName, program: p, Charges: p.charges(), Do: func(s *Scene) {
		pl := player{s: s, program: p, processes: map[int]*process{}, handles: map[handle]*Event{}, mappings: map[int]*Mapping{}, events: map[int]int{}, may: map[int]bool{}, settings: map[string]string{}}
		pl.play()
	}}
}

// charges are what the program has charged besides perf buffers.
func (p *Program) charges() Charges {
	if slices.ContainsFunc(p.Steps, func(o Op) bool { return OfObject(o.Call) }) {
		return ChargesUsers
	}
	return ChargesNothing
}

// player plays a program.
type player struct {
	s         *Scene
	program   *Program
	processes map[int]*process
	handles   map[handle]*Event
	mappings  map[int]*Mapping
	events    map[int]int       // that a process can open yet
	may       map[int]bool      // processes that may have CAP_IPC_LOCK
	settings  map[string]string // what files held before, by their names
	cpu       string            // the file of the CPU that went offline
	others    others
}

// handle is an event as a process has it.
type handle struct{ process, event int }

// fillEvents is how many events it takes to fill an allowance, or less.
const fillEvents = 16

// play makes the steps, and unmaps what is left.
func (pl *player) play() {
	defer pl.restore()
	if pages := pl.program.MlockPages; pages > 0 {
		pl.set(mlockPath, fmt.Sprint(pages*page()/1024))
	}
	if pl.program.charges() != ChargesNothing {
		pl.beginOthers()
	}
	for _, o := range pl.program.Steps {
		pl.step(o)
	}
	// What came last goes first: another order is a step's affair.
	for {
		var last *Mapping
		for _, p := range pl.s.actors {
			p.filled = nil
			for _, m := range p.maps {
				if last == nil || m.turn >= last.turn {
					last = m
				}
			}
		}
		if last == nil {
			break
		}
		last.Unmap()
	}
	pl.dropAll()
}

// step makes one step, if what it names is there.
func (pl *player) step(o Op) {
	p := pl.processes[o.Process]
	switch o.Call {
	case CallStart:
		if p == nil {
			pl.start(o)
		}
		return
	case CallMeasure:
		pl.s.Measure()
		return
	case CallMlock:
		pl.set(mlockPath, fmt.Sprint(o.Pages*page()/1024))
		return
	case CallParanoid:
		pl.set(paranoidPath, fmt.Sprint(o.Value))
		return
	case CallCPU:
		pl.online(o.Value != 0)
		return
	case CallRestore:
		pl.restore()
		return
	}
	if p == nil || !p.alive {
		return
	}
	if OfObject(o.Call) || p.by.user.held > 0 && slices.Contains([]string{CallExit, CallKill, CallExec}, o.Call) {
		pl.glance(p.by.user)
	}
	switch o.Call {
	case CallOpen, CallMap, CallMapAUX, CallMirror, CallRedirect, CallGive, CallRace, CallTogether, CallClose:
		pl.event(p, o)
	case CallUnmap, CallCover, CallMove, CallProtect:
		pl.part(o)
	case CallRing, CallRegister, CallUnregister, CallUmem, CallSend, CallBPFMap, CallDrop:
		pl.object(p, o)
	default:
		pl.itself(p, o)
	}
}

// limit is an RLIMIT_MEMLOCK as the model has it.
func (o *Op) limit() int64 {
	if o.Limit < 0 {
		return unlimited
	}
	return o.Limit
}

// start starts a process with the events that it will open.
func (pl *player) start(o Op) {
	w := Who{Name: fmt.Sprintf("p%d", o.Process), User: o.User % users, Limit: o.limit()}
	if o.IPCLock {
		w.Caps = []string{"cap_ipc_lock"}
	}
	for _, step := range pl.program.Steps {
		switch {
		case step.Process != o.Process:
		case step.Call == CallUmem && !slices.Contains(w.Caps, "cap_net_raw"):
			w.Caps = append(w.Caps, "cap_net_raw")
		case step.Call == CallBPFMap && !slices.Contains(w.Caps, bpfCaps()[0]):
			w.Caps = append(w.Caps, bpfCaps()...)
		case step.Call == CallOpen && step.AUX && pl.s.run.aux != 0 && w.AUX == 0:
			w.AUX = pl.s.run.aux
		case step.Call == CallOpen:
			w.Events++
		case step.Call == CallFill:
			w.Events += fillEvents
		case step.Call == CallStorm:
			w.Events += int(step.Value)
		}
	}
	p := pl.s.Process(w)
	if pl.others.gauges != nil {
		pl.beginGauge(p.by.user)
	}
	pl.processes[o.Process], pl.events[o.Process], pl.may[o.Process] = p, w.Events, o.IPCLock
}

// event makes a step with an event.
func (pl *player) event(p *process, o Op) {
	e := pl.handles[handle{o.Process, o.Event}]
	if o.Call == CallOpen {
		if e == nil {
			pl.open(p, o)
		}
		return
	}
	if e == nil {
		return
	}
	// Of the errors a mapping may have, the model judges EPERM alone.
	others := []unix.Errno{unix.EINVAL, unix.EBUSY, unix.EAGAIN, unix.ENOMEM, unix.ENODEV, unix.EOPNOTSUPP, unix.EACCES}
	switch o.Call {
	case CallMap:
		pl.mapped(o, e.Map(o.Pages, others...))
	case CallMapAUX:
		for _, data := range p.maps {
			if data.buffer == e.buffer && data.which == 0 {
				pl.mapped(o, e.MapAUX(data, o.Pages, others...))
				break
			}
		}
	case CallMirror:
		if e.buffer == nil {
			first, second := e.Mirror(o.Pages, others...)
			pl.mapped(o, second)
			pl.mapped(Op{Mapping: o.To}, first)
		}
	case CallRedirect:
		if other := pl.handles[handle{o.Process, o.To}]; other != nil && other != e {
			e.redirect(other) // the kernel has its reasons, and they are not of accounting
		}
	case CallGive:
		to := pl.processes[o.To]
		if to != nil && to.alive && to != p && pl.handles[handle{o.To, o.Event}] == nil {
			pl.handles[handle{o.To, o.Event}] = e.Give(to)
		}
	case CallRace:
		other := pl.handles[handle{o.To, o.Event}]
		if other != nil && other != e && e.buffer == nil {
			pl.s.say("%s", o)
			pl.s.race([]*Event{e, other}, []*process{p, other.p}, 1, raceRounds, o.Pages, raceErrors()...)
		}
	case CallTogether:
		if e.buffer == nil && o.Value > 0 {
			p.Storm(e, int(o.Value), raceRounds, o.Pages)
		}
	case CallClose:
		_, err := p.ask(request{Op: "close", FD: e.fd}, -1)
		pl.s.check(err)
		pl.s.say("%s closes an event", p.name)
		delete(pl.handles, handle{o.Process, o.Event})
		pl.s.look()
	}
}

func (pl *player) open(p *process, o Op) {
	switch {
	case o.AUX && p.aux != 0:
		pl.handles[handle{o.Process, o.Event}] = p.OpenAUX()
		p.aux = 0
	case pl.events[o.Process] > 0:
		pl.events[o.Process]--
		pl.handles[handle{o.Process, o.Event}] = p.Open()
	}
}

func (pl *player) mapped(o Op, m *Mapping) {
	if m != nil {
		pl.mappings[o.Mapping] = m
	}
}

// part makes a step with a part of a mapping, or with the whole.
func (pl *player) part(o Op) {
	m := pl.mappings[o.Mapping]
	if m == nil || !slices.Contains(m.p.maps, m) || o.At >= m.pages {
		return
	}
	pages := m.pages - o.At
	if o.Pages > 0 {
		pages = min(o.Pages, pages)
	}
	switch o.Call {
	case CallUnmap:
		m.unmapFrom("munmap", o.At, pages)
	case CallCover:
		m.unmapFrom("cover", o.At, pages)
	case CallMove:
		m.move(o.At, pages) // or not: of a part it may be refused, like unmapping it
	case CallProtect:
		m.protect(o.At, pages)
	}
}

// itself makes a step of a process that is about nothing else.
func (pl *player) itself(p *process, o Op) {
	switch o.Call {
	case CallStorm:
		if n := int(o.Value); pl.events[o.Process] >= n && n > 0 {
			pl.events[o.Process] -= n
			pl.s.say("%s", o)
			pl.s.race(nil, []*process{p}, n, raceRounds, o.Pages, raceErrors()...)
		}
	case CallFork:
		p.Fork()
	case CallExec:
		p.Exec()
		pl.gone(o.Process)
	case CallExit:
		p.Exit()
		pl.gone(o.Process)
	case CallKill:
		p.Kill()
		pl.gone(o.Process)
	case CallLimit:
		p.Limit(o.limit())
	case CallIPCLock:
		if pl.may[o.Process] {
			n := map[bool]int{true: 1}[o.IPCLock]
			_, err := p.ask(request{Op: "capability", Caps: []string{"cap_ipc_lock"}, N: n}, -1)
			pl.s.check(err)
			p.by.ipcLock = o.IPCLock
			pl.s.say("%s", strings.TrimSpace(o.String()))
		}
	case CallFill:
		pages := pl.s.model.room(p.by.user) - o.Pages
		if pages > 0 && pl.events[o.Process] >= fillEvents && len(p.filled) == 0 && len(sizes(pages)) <= fillEvents {
			pl.events[o.Process] -= fillEvents
			p.Fill(o.Pages)
		}
	case CallRelease:
		if len(p.filled) > 0 {
			p.Release()
		}
	}
}

// raceRounds is how often each thread of a race maps.
const raceRounds = 6

// raceErrors are what mapping may come to while others map: how much is charged at the
// moment, nobody can say.
func raceErrors() []int { return []int{int(unix.EPERM), int(unix.ENODEV), int(unix.EACCES)} }

// gone notes that a process has lost its descriptors, and what it could do.
func (pl *player) gone(process int) {
	for h := range pl.handles {
		if h.process == process {
			delete(pl.handles, h)
		}
	}
	delete(pl.events, process)
	delete(pl.may, process)
	p := pl.processes[process]
	p.aux, p.filled = 0, nil
	pl.others.gone(pl, p)
}

// set changes a setting of the machine, where that may be done.
func (pl *player) set(path, value string) {
	s := pl.s
	if !s.run.opts.Invasive {
		return
	}
	old := s.setting(path)
	if old == value {
		return
	}
	if _, changed := pl.settings[path]; !changed {
		pl.settings[path] = old
	}
	s.check(s.host.set(path, value))
	s.refresh()
	s.say("%s becomes %s", filepath.Base(path), value)
}

// online takes the last CPU offline, or has it back.
func (pl *player) online(back bool) {
	switch {
	case back && pl.cpu != "":
		pl.set(pl.cpu, "1")
		pl.cpu = ""
	case !back && pl.cpu == "" && pl.s.host.hotplug() != "":
		pl.cpu = pl.s.host.hotplug()
		pl.set(pl.cpu, "0")
	}
}

// restore puts the settings back, however the program ended.
func (pl *player) restore() {
	for path, value := range pl.settings {
		pl.s.check(pl.s.host.set(path, value))
	}
	pl.settings, pl.cpu = map[string]string{}, ""
	pl.s.refresh()
}
