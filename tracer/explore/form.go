package explore

import (
	"encoding/json"
	"slices"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// What a step names. A call is of one of these kinds.
func usesEvent(call string) bool {
	return slices.Contains([]string{check.CallMap, check.CallMapAUX, check.CallMirror, check.CallRedirect, check.CallGive, check.CallRace, check.CallTogether, check.CallClose}, call)
}

func usesMapping(call string) bool {
	return slices.Contains([]string{check.CallUnmap, check.CallCover, check.CallMove, check.CallProtect}, call)
}

func maps(call string) bool {
	return call == check.CallMap || call == check.CallMapAUX || call == check.CallMirror
}

// makes reports whether a call makes an object that is charged beside perf buffers.
func makes(call string) bool {
	return slices.Contains([]string{check.CallRing, check.CallUmem, check.CallSend, check.CallBPFMap}, call)
}

func usesObject(call string) bool {
	return slices.Contains([]string{check.CallRegister, check.CallUnregister, check.CallDrop}, call)
}

// ofMachine reports whether a step is nobody's.
func ofMachine(call string) bool {
	return slices.Contains([]string{check.CallMeasure, check.CallMlock, check.CallParanoid, check.CallCPU, check.CallRestore}, call)
}

func ends(call string) bool {
	return slices.Contains([]string{check.CallExit, check.CallKill, check.CallExec}, call)
}

// has is an event or a mapping that a process has.
type has struct{ process, number int }

// clean leaves out the steps that cannot be made because what they name is not there.
func clean(p check.Program) check.Program {
	alive, opens, filled := map[int]bool{}, map[int]bool{}, map[int]bool{}
	events, mappings, objects, rings, filledRings := map[has]bool{}, map[has]bool{}, map[has]bool{}, map[has]bool{}, map[has]bool{}
	kept := p.Steps[:0:0]
	for _, o := range p.Steps {
		at := o.Process
		switch {
		case ofMachine(o.Call):
		case o.Call == check.CallStart:
			if _, before := alive[at]; before {
				continue
			}
			alive[at], opens[at] = true, true
		case !alive[at],
			(o.Call == check.CallOpen || o.Call == check.CallFill || o.Call == check.CallUmem || o.Call == check.CallBPFMap) && !opens[at],
			usesEvent(o.Call) && !events[has{at, o.Event}],
			usesMapping(o.Call) && !mappings[has{at, o.Mapping}],
			o.Call == check.CallRedirect && !events[has{at, o.To}],
			o.Call == check.CallRace && !events[has{o.To, o.Event}],
			o.Call == check.CallGive && (!alive[o.To] || events[has{o.To, o.Event}]),
			o.Call == check.CallRelease && !filled[at],
			usesObject(o.Call) && !objects[has{at, o.Object}],
			o.Call == check.CallRegister && !rings[has{at, o.Object}],
			o.Call == check.CallUnregister && !filledRings[has{at, o.Object}]:
			continue
		case o.Call == check.CallOpen:
			events[has{at, o.Event}] = true
		case o.Call == check.CallGive:
			events[has{o.To, o.Event}] = true
		case o.Call == check.CallClose:
			delete(events, has{at, o.Event})
		case maps(o.Call):
			mappings[has{at, o.Mapping}] = true
			if o.Call == check.CallMirror {
				mappings[has{at, o.To}] = true
			}
		case makes(o.Call):
			objects[has{at, o.Object}], rings[has{at, o.Object}] = true, o.Call == check.CallRing
		case o.Call == check.CallRegister:
			filledRings[has{at, o.Object}] = true
		case o.Call == check.CallUnregister:
			filledRings[has{at, o.Object}] = false
		case o.Call == check.CallDrop:
			delete(objects, has{at, o.Object})
		case o.Call == check.CallFill:
			filled[at] = true
		case ends(o.Call):
			alive[at], opens[at] = o.Call == check.CallExec, false
			for _, list := range []map[has]bool{events, mappings, objects, filledRings} {
				for h := range list {
					if h.process == at {
						delete(list, h)
					}
				}
			}
		}
		kept = append(kept, o)
	}
	p.Steps = kept
	return p
}

// renumber gives what a program names new numbers, from 0 in the order of their coming.
func renumber(p check.Program) check.Program {
	fresh := func() func(int) int {
		names := map[int]int{}
		return func(old int) int {
			if _, known := names[old]; !known {
				names[old] = len(names)
			}
			return names[old]
		}
	}
	process, event, mapping, user, object := fresh(), fresh(), fresh(), fresh(), fresh()
	p.Steps = slices.Clone(p.Steps)
	for i := range p.Steps {
		o := &p.Steps[i]
		if !ofMachine(o.Call) {
			o.Process = process(o.Process)
		}
		if o.Call == check.CallStart {
			o.User = user(o.User)
		}
		if o.Call == check.CallOpen || usesEvent(o.Call) {
			o.Event = event(o.Event)
		}
		if o.Call == check.CallRedirect {
			o.To = event(o.To)
		}
		if o.Call == check.CallGive || o.Call == check.CallRace {
			o.To = process(o.To)
		}
		if maps(o.Call) || usesMapping(o.Call) {
			o.Mapping = mapping(o.Mapping)
		}
		if o.Call == check.CallMirror {
			o.To = mapping(o.To)
		}
		if check.OfObject(o.Call) {
			o.Object = object(o.Object)
		}
	}
	return p
}

// text is a program as a key.
func text(p check.Program) string {
	raw, err := json.Marshal(p)
	if err != nil {
		panic(err) // numbers and words
	}
	return string(raw)
}

// Form is what a program does with buffers, apart from the sizes, and from how it came that
// an allowance was full: two programs of the same form that break the same invariant show
// the same bug.
type Form []check.Op

// FormOf makes a program's form. What ends a process unmaps what it has; that the end of
// the program unmaps all says nothing.
func FormOf(p check.Program) (f Form) {
	p = renumber(clean(p))
	var mapped, held []check.Op // live mappings, and objects
	end := func(live *[]check.Op, call string, gone func(check.Op) bool) {
		for _, m := range *live {
			if gone(m) {
				f = append(f, check.Op{Call: call, Process: m.Process, Mapping: m.Mapping, Object: m.Object})
			}
		}
		*live = slices.DeleteFunc(*live, gone)
	}
	for _, o := range p.Steps {
		whole := o.At == 0 && o.Pages == 0
		switch {
		case maps(o.Call):
			m := check.Op{Call: o.Call, Process: o.Process, Event: o.Event, Mapping: o.Mapping}
			if o.Call == check.CallMirror { // which maps twice
				m.Call = check.CallMap
				mapped, f = append(mapped, m), append(f, m)
				m.Mapping = o.To
			}
			mapped, f = append(mapped, m), append(f, m)
		case ends(o.Call):
			its := func(m check.Op) bool { return m.Process == o.Process }
			end(&mapped, check.CallUnmap, its)
			end(&held, check.CallDrop, its)
		case makes(o.Call):
			m := check.Op{Call: o.Call, Process: o.Process, Object: o.Object}
			held, f = append(held, m), append(f, m)
		case o.Call == check.CallDrop:
			end(&held, check.CallDrop, func(m check.Op) bool { return m.Process == o.Process && m.Object == o.Object })
		case o.Call == check.CallRegister, o.Call == check.CallUnregister:
			f = append(f, check.Op{Call: o.Call, Process: o.Process, Object: o.Object})
		case (o.Call == check.CallUnmap || o.Call == check.CallCover) && whole:
			end(&mapped, check.CallUnmap, func(m check.Op) bool { return m.Process == o.Process && m.Mapping == o.Mapping })
		case o.Call == check.CallRace:
			f = append(f, check.Op{Call: o.Call, Process: o.Process, Event: o.Event, To: o.To})
		case usesMapping(o.Call), o.Call == check.CallFork, o.Call == check.CallStorm, o.Call == check.CallTogether:
			f = append(f, check.Op{Call: o.Call, Process: o.Process, Mapping: o.Mapping})
		case o.Call == check.CallRedirect:
			f = append(f, check.Op{Call: o.Call, Process: o.Process, Event: o.Event, To: o.To})
		case o.Call == check.CallMlock, o.Call == check.CallParanoid, o.Call == check.CallCPU:
			f = append(f, check.Op{Call: o.Call})
		}
	}
	return f
}

// within reports whether one form is a part of another: its steps are there, in their
// order, between others.
func (f Form) within(other Form) bool {
	return f.at(other, map[has]int{}, map[has]int{})
}

// kinds of numbers.
const (
	aProcess = iota
	anEvent
	aMapping
	anObject
)

// at looks for the steps with the names as they are bound so far; taken is the other way
// round.
func (f Form) at(other Form, bound, taken map[has]int) bool {
	if len(f) == 0 {
		return true
	}
	for i, o := range other {
		if o.Call != f[0].Call || len(other)-i < len(f) {
			continue
		}
		b, t := cloned(bound), cloned(taken)
		if bind(f[0], o, b, t) && f[1:].at(other[i+1:], b, t) {
			return true
		}
	}
	return false
}

func cloned(m map[has]int) map[has]int {
	c := make(map[has]int, len(m)+3)
	for k, v := range m {
		c[k] = v
	}
	return c
}

// bind has one step stand for another one.
func bind(f, o check.Op, bound, taken map[has]int) bool {
	one := func(kind, name, to int) bool {
		if old, is := bound[has{kind, name}]; is {
			return old == to
		}
		if _, is := taken[has{kind, to}]; is {
			return false
		}
		bound[has{kind, name}], taken[has{kind, to}] = to, name
		return true
	}
	if ofMachine(f.Call) {
		return true
	}
	ok := one(aProcess, f.Process, o.Process)
	if maps(f.Call) || f.Call == check.CallRedirect || f.Call == check.CallRace {
		ok = ok && one(anEvent, f.Event, o.Event)
	}
	if f.Call == check.CallRedirect {
		ok = ok && one(anEvent, f.To, o.To)
	}
	if f.Call == check.CallRace {
		ok = ok && one(aProcess, f.To, o.To)
	}
	if maps(f.Call) || usesMapping(f.Call) {
		ok = ok && one(aMapping, f.Mapping, o.Mapping)
	}
	if check.OfObject(f.Call) {
		ok = ok && one(anObject, f.Object, o.Object)
	}
	return ok
}
