package check

import (
	"errors"
	"fmt"
)

// ErrNoProgram says that a scenario does what no program has.
var ErrNoProgram = errors.New("is no program of perf calls alone")

// writing is a scenario that is written down as a program instead of being made.
type writing struct {
	program                     Program
	processes, events, mappings int
}

// What sizes are worked out from where a scenario is written down: the kernel's defaults,
// on a machine of four CPUs. The program is right on any other.
const (
	writtenKiB  = 516
	writtenCPUs = 4
)

// Program is what the scenario does, as plain data.
func (e *Exercise) Program() (p *Program, err error) {
	if e.program != nil {
		return e.program, nil
	}
	refused := fmt.Errorf("%s %w", e.Name, ErrNoProgram)
	if e.Charges != ChargesNothing {
		return nil, refused
	}
	defer func() {
		if caught := recover(); caught != nil {
			if _, stopped := caught.(stop); !stopped {
				panic(caught)
			}
			p, err = nil, refused
		}
	}()
	s := &Scene{run: &run{aux: 1}, written: &writing{}, model: model{allowance: writtenKiB * 1024 / page() * writtenCPUs, paranoid: 2}}
	e.Do(s)
	return &s.written.program, nil
}

// writes writes a step down, where that is all that is wanted.
func (s *Scene) writes(o Op) bool {
	if s.written == nil {
		return false
	}
	s.written.program.Steps = append(s.written.program.Steps, o)
	return true
}

// process writes down that one starts.
func (w *writing) process(s *Scene, who Who) *process {
	if who.UserNS || who.Cgroup != "" || len(who.Caps) > 1 || len(who.Caps) == 1 && !who.ipcLock() {
		panic(stop{ErrNoProgram})
	}
	p := &process{s: s, name: who.Name, number: w.processes, by: caller{user: &payer{}, mm: &payer{}}}
	w.processes++
	s.writes(Op{Call: CallStart, Process: p.number, Name: who.Name, User: who.User, Limit: written(who.Limit), IPCLock: who.ipcLock()})
	return p
}

// written is an RLIMIT_MEMLOCK as a program has it.
func written(limit int64) int64 {
	if limit == unlimited {
		return -1
	}
	return limit
}

// event writes down that one is opened.
func (w *writing) event(p *process, aux bool) *Event {
	e := &Event{p: p, perfEvent: &perfEvent{number: w.events}}
	w.events++
	p.s.writes(Op{Call: CallOpen, Process: p.number, Event: e.number, AUX: aux})
	return e
}

// mapping writes down that an area is mapped.
func (w *writing) mapping(e *Event, call string, pages int64) *Mapping {
	m := w.made(e, pages)
	e.p.s.writes(Op{Call: call, Process: e.p.number, Event: e.number, Mapping: m.number, Pages: pages})
	return m
}

// mirror writes down that a buffer is mapped twice side by side.
func (w *writing) mirror(e *Event, pages int64) (first, second *Mapping) {
	second, first = w.made(e, pages), w.made(e, pages)
	e.p.s.writes(Op{Call: CallMirror, Process: e.p.number, Event: e.number, Mapping: second.number, To: first.number, Pages: pages})
	return first, second
}

// made is a mapping that was not made.
func (w *writing) made(e *Event, pages int64) *Mapping {
	m := &Mapping{p: e.p, number: w.mappings, pages: pages, event: e.perfEvent, buffer: &buffer{areas: [2]*area{{pages: pages}}}}
	w.mappings++
	return m
}

// during writes down that a setting is another one for some steps.
func (w *writing) during(s *Scene, path, value string, do func()) {
	var n int64
	_, err := fmt.Sscan(value, &n)
	s.check(err)
	switch o := (Op{Call: CallCPU, Value: n}); path {
	case mlockPath:
		s.writes(Op{Call: CallMlock, Pages: n * 1024 / page()})
	case paranoidPath:
		s.writes(Op{Call: CallParanoid, Value: n})
	default:
		s.writes(o)
	}
	do()
	s.writes(Op{Call: CallRestore})
}

// part is what a step says of a part of a mapping: all of it is no part.
func (m *Mapping) part(call string, at, pages int64) Op {
	if at == 0 && pages == m.pages {
		pages = 0
	}
	return Op{Call: call, Process: m.p.number, Mapping: m.number, At: at, Pages: pages}
}
