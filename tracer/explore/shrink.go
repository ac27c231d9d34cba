package explore

import (
	"slices"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// shrinker looks for the shortest program that still fails.
type shrinker struct {
	fails func(check.Program) bool
	tries int             // how often it may ask
	asked map[string]bool // what came of it
}

// Shrink drops steps of a program that fails, and then makes those that are left simpler,
// as long as it still fails. It asks at most some times. short is the program when nothing
// could be dropped any more, and simple is that with simpler steps.
func Shrink(p check.Program, tries int, fails func(check.Program) bool) (short, simple check.Program) {
	s := shrinker{fails: fails, tries: tries, asked: map[string]bool{}}
	short = s.drop(clean(p))
	simple = short
	for {
		next, changed := s.simpler(simple)
		if !changed {
			return renumber(short), renumber(simple)
		}
		simple = s.drop(next)
	}
}

// still asks whether a program fails; not twice of the same.
func (s *shrinker) still(p check.Program) bool {
	key := text(renumber(p))
	if came, known := s.asked[key]; known {
		return came
	}
	if s.tries == 0 {
		return false
	}
	s.tries--
	s.asked[key] = s.fails(p)
	return s.asked[key]
}

// drop drops steps (Zeller's delta debugging): halves first, then ever smaller pieces, down
// to single steps, until none of those can go. What names what is gone goes with it.
func (s *shrinker) drop(p check.Program) check.Program {
	for size := (len(p.Steps) + 1) / 2; size > 0; {
		smaller := false
		for at := len(p.Steps) - size; at > -size; at -= size { // what comes last matters least
			from := max(0, at)
			if from >= len(p.Steps) {
				continue
			}
			q := p
			q.Steps = slices.Delete(slices.Clone(p.Steps), from, min(from+size, len(p.Steps)))
			q = clean(q)
			if len(q.Steps) > 0 && s.still(q) {
				p, smaller = q, true
			}
		}
		if !smaller || size > 1 {
			size /= 2
		}
	}
	return p
}

// simpler makes one change for the simpler that leaves the program failing.
func (s *shrinker) simpler(p check.Program) (check.Program, bool) {
	for _, change := range changes() {
		for i := range p.Steps {
			for _, q := range change(p, i) {
				q = clean(q)
				if text(renumber(q)) != text(renumber(p)) && s.still(q) {
					return q, true
				}
			}
		}
	}
	return p, false
}

// changes are the ways to make a step of a program simpler, those that change most first.
func changes() []func(p check.Program, i int) []check.Program {
	return []func(check.Program, int) []check.Program{oneProcess, oneUser, oneEvent, unmapped, plain, filled, numbers}
}

// with is a program with one step changed.
func with(p check.Program, i int, change func(*check.Op)) check.Program {
	p.Steps = slices.Clone(p.Steps)
	change(&p.Steps[i])
	return p
}

// withAll is a program with all steps changed.
func withAll(p check.Program, change func(*check.Op)) check.Program {
	p.Steps = slices.Clone(p.Steps)
	for i := range p.Steps {
		change(&p.Steps[i])
	}
	return p
}

// oneProcess has an earlier process do what this one does.
func oneProcess(p check.Program, i int) (list []check.Program) {
	if p.Steps[i].Call != check.CallStart {
		return nil
	}
	for _, o := range p.Steps[:i] {
		if o.Call != check.CallStart {
			continue
		}
		list = append(list, withAll(p, func(step *check.Op) {
			if !ofMachine(step.Call) && step.Process == p.Steps[i].Process {
				step.Process = o.Process
			}
			if (step.Call == check.CallGive || step.Call == check.CallRace) && step.To == p.Steps[i].Process {
				step.To = o.Process
			}
		}))
	}
	return list
}

func oneUser(p check.Program, i int) []check.Program {
	if o := p.Steps[i]; o.Call != check.CallStart || o.User == 0 {
		return nil
	}
	return []check.Program{with(p, i, func(o *check.Op) { o.User = 0 })}
}

// oneEvent has an event that was opened before take the place of this one.
func oneEvent(p check.Program, i int) (list []check.Program) {
	if p.Steps[i].Call != check.CallOpen {
		return nil
	}
	for _, o := range p.Steps[:i] {
		if o.Call != check.CallOpen {
			continue
		}
		q := withAll(p, func(step *check.Op) {
			if (step.Call == check.CallOpen || usesEvent(step.Call)) && step.Event == p.Steps[i].Event {
				step.Event = o.Event
			}
			if step.Call == check.CallRedirect && step.To == p.Steps[i].Event {
				step.To = o.Event
			}
		})
		q.Steps = slices.Delete(q.Steps, i, i+1)
		list = append(list, q)
	}
	return list
}

// unmapped has a process unmap what it has, instead of ending.
func unmapped(p check.Program, i int) []check.Program {
	end := p.Steps[i]
	if !ends(end.Call) {
		return nil
	}
	var steps []check.Op
	for _, o := range p.Steps[:i] {
		if maps(o.Call) && o.Process == end.Process {
			steps = append(steps, check.Op{Call: check.CallUnmap, Process: o.Process, Mapping: o.Mapping})
		}
	}
	q := p
	q.Steps = slices.Concat(p.Steps[:i], steps, p.Steps[i+1:])
	return []check.Program{q}
}

// plain has the plainest call of its kind.
func plain(p check.Program, i int) (list []check.Program) {
	to := func(change func(*check.Op)) { list = append(list, with(p, i, change)) }
	switch o := p.Steps[i]; {
	case ends(o.Call) && o.Call != check.CallExit:
		to(func(o *check.Op) { o.Call = check.CallExit })
	case o.Call == check.CallCover || o.Call == check.CallMove:
		to(func(o *check.Op) { o.Call = check.CallUnmap })
	case o.Call == check.CallMapAUX || o.Call == check.CallMirror:
		to(func(o *check.Op) { o.Call, o.To = check.CallMap, 0 })
	case o.AUX:
		to(func(o *check.Op) { o.AUX = false })
	case o.IPCLock:
		to(func(o *check.Op) { o.IPCLock = false })
	}
	if o := p.Steps[i]; usesMapping(o.Call) && (o.At > 0 || o.Pages > 0) {
		to(func(o *check.Op) { o.At, o.Pages = 0, 0 })
	}
	return list
}

// filled has the allowance filled instead of changed.
func filled(p check.Program, i int) (list []check.Program) {
	if o := p.Steps[i]; o.Call != check.CallMlock && o.Call != check.CallCPU {
		return nil
	}
	for _, o := range p.Steps[:i] {
		if o.Call == check.CallStart {
			list = append(list, with(p, i, func(s *check.Op) { *s = check.Op{Call: check.CallFill, Process: o.Process} }))
		}
	}
	return list
}

// numbers has smaller numbers.
func numbers(p check.Program, i int) (list []check.Program) {
	to := func(change func(*check.Op)) { list = append(list, with(p, i, change)) }
	o := p.Steps[i]
	switch {
	case maps(o.Call):
		for _, pages := range []int64{1, 2, 3, 5, 9} {
			if pages < o.Pages {
				// Mappings of one buffer have one size.
				list = append(list, withAll(p, func(s *check.Op) {
					if s.Call == o.Call && s.Event == o.Event && s.Pages == o.Pages {
						s.Pages = pages
					}
				}))
			}
		}
	case (o.Call == check.CallStorm || o.Call == check.CallRace) && o.Pages > 1:
		to(func(o *check.Op) { o.Pages = 1 })
	case (makes(o.Call) || o.Call == check.CallRegister) && o.Pages > 1:
		to(func(o *check.Op) { o.Pages = 1 })
	case o.Call == check.CallFill && o.Pages > 0:
		to(func(o *check.Op) { o.Pages = 0 })
	case o.Call == check.CallStart && o.Limit != 64:
		to(func(o *check.Op) { o.Limit = 64 })
	case usesMapping(o.Call):
		if o.At > 1 {
			to(func(o *check.Op) { o.At = 1 })
		}
		if o.Pages > 1 {
			to(func(o *check.Op) { o.Pages = 1 })
		}
	}
	return list
}
