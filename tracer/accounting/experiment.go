package accounting

import (
	"errors"
	"fmt"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// user is what the experiment needs: a user that nobody else is, with nothing charged,
// whose one process does as it is told. Amounts are pages.
type user interface {
	// Map maps a new buffer, and says by how much pinned_vm grew.
	Map(pages int64) (buffer int, extra int64, err error)
	// Again maps a buffer once more, and unmaps that.
	Again(buffer int) error
	Unmap(buffer int) error
	// Pin has another charger charge the user. An error says that this cannot be here.
	Pin(pages int64) error
}

// trial is the experiment. All buffers but those that fill the allowance are of one page,
// the control page: what more of pinned_vm a mapping takes is history.
type trial struct {
	user
	err error // of the first call that went wrong; none is made after it
}

func (t *trial) one() (buffer int, extra int64) {
	if t.err == nil {
		buffer, extra, t.err = t.Map(1)
	}
	return buffer, extra
}

func (t *trial) do(call func(int) error, buffer int) {
	if t.err == nil {
		t.err = call(buffer)
	}
}

// leastAllowance is what the experiment fills.
const leastAllowance = 2

// observe makes the experiment.
func observe(u user, allowance int64) (f Finding, err error) {
	t := &trial{user: u}
	f.By = ByExperiment
	if allowance < leastAllowance {
		return f, fmt.Errorf("a user's allowance is %d pages here: too small to see what is charged past it", allowance)
	}
	first, err := t.fill(allowance)
	if err != nil {
		return f, err
	}
	f.Remaps = t.remaps(first)
	seen, last, extras := t.scheme(first)
	if t.err != nil {
		return f, t.err
	}
	if seen == rule.SchemeOther {
		return f, fmt.Errorf("buffers of one page past the allowance took %v pages of pinned_vm: no accounting that is known", extras)
	}
	if f.Scheme = seen; seen == rule.SchemeSplit {
		t.above(&f, last)
	}
	return f, t.err
}

// fill maps all of an allowance but one page, and returns a buffer of one page.
func (t *trial) fill(allowance int64) (first int, err error) {
	for _, size := range append(sizes(allowance-leastAllowance), 1) {
		buffer, extra, err := t.Map(size)
		if err != nil {
			return 0, err
		}
		if extra != 0 {
			return 0, errors.New("the throwaway user was charged for something before")
		}
		first = buffer
	}
	return first, nil
}

// remaps reports whether mapping a buffer again takes the last page of the allowance. It
// is gone after this in either case.
func (t *trial) remaps(first int) bool {
	t.do(t.Again, first)
	_, extra := t.one()
	return extra > 0
}

// scheme maps past the allowance, gives a page of it back that the user paid, and maps
// one more: the user has that page only where it does not pay for the process's, too.
func (t *trial) scheme(first int) (seen rule.Scheme, last int, extras [4]int64) {
	for i := range 3 {
		_, extras[i] = t.one()
	}
	t.do(t.Unmap, first)
	last, extras[3] = t.one()
	switch extras {
	case [4]int64{1, 1, 1, 0}:
		return rule.SchemeSplit, last, extras
	case [4]int64{1, 1, 1, 1}:
		return rule.SchemeTwice, last, extras
	}
	if extras[1] == extras[0]+1 && extras[2] == extras[0]+2 && extras[3] == extras[2] {
		return rule.SchemeCumulative, last, extras
	}
	return rule.SchemeOther, last, extras
}

// history is by how much a user is brought above its allowance.
const history = 4

// above brings the user above its allowance, where something here does that: another
// charger, or further mappings. What the next mapping takes of pinned_vm tells whether
// the kernel clamps, and whether the other charger has a part in the counter at all. last
// is the buffer that took the last page of the allowance.
func (t *trial) above(f *Finding, last int) {
	t.do(t.Unmap, last)
	pinned := t.err == nil && t.Pin(history) == nil
	buffer, extra := t.one()
	if f.Separate = pinned && extra == 0; extra > 0 {
		f.judge(extra)
		return
	}
	if !f.Remaps {
		return // nothing brings the user there
	}
	for range history {
		t.do(t.Again, buffer)
	}
	_, extra = t.one()
	f.judge(extra)
}

// judge takes what a mapping above the allowance took of pinned_vm.
func (f *Finding) judge(extra int64) {
	switch {
	case extra == 1:
		f.Clamps = true
	case extra > 1:
		f.Scheme = rule.SchemeUnclamped
	}
}

// sizes splits a number of pages into sizes that perf accepts, the largest first.
func sizes(pages int64) (list []int64) {
	for pages > 0 {
		size := max(1, rule.Largest(rule.Data, pages))
		list = append(list, size)
		pages -= size
	}
	return list
}
