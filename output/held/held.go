// Package held keeps who holds locked memory, by what a trace saw them charged and give back.
package held

import (
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Holder is a process that locked memory is charged for, and what for.
type Holder struct {
	PID   uint32
	Comm  string
	UID   uint32 // the user that pays
	Split bool   // the counter is locked_vm, where perf has one of its own
	What  string
}

// Sum is what a holder holds: how many buffers or objects, and pages charged to the user and to the
// process.
type Sum struct {
	Holder
	Count, User, Pinned int64
}

// Book keeps the holders.
type Book struct {
	Sums []Sum // in the order in which they came
	// Moved is told of each change of one of them; nil: nobody is.
	Moved   func(ns uint64, sum int, count, user, pinned int64)
	holders map[Holder]int
	parts   map[key][]part
}

// New returns an empty book.
func New() *Book { return &Book{holders: map[Holder]int{}, parts: map[key][]part{}} }

// Release takes away all that is held.
func (b *Book) Release(ns uint64) {
	for i, s := range b.Sums {
		b.move(ns, part{i, -s.User, -s.Pinned}, -s.Count)
	}
	clear(b.parts)
}

// PerfBuffer is what a perf buffer is called.
const PerfBuffer = "perf buffer"

// Of names what an entry is about.
func Of(e *ledger.Entry) string {
	switch {
	case e.Object != nil:
		return "BPF " + row.ObjectKind(e.Object)
	case e.Charger != ledger.NoCharger:
		return string(e.Charger)
	}
	return PerfBuffer
}

// key is what pages are charged for: an area of a perf buffer, a BPF object, or an
// instance of another charger.
type key struct {
	buffer uint64
	area   rule.Area
	object uint64
	other  uint64
}

// part is what a call was charged for what it holds. A buffer has several, if its further
// mappings are charged too.
type part struct {
	holder       int
	user, pinned int64
}

// Enter enters what an entry's charge or refund does to the holders.
func (b *Book) Enter(e *ledger.Entry) {
	switch {
	case e.Object != nil && !e.Object.Rlimit:
	case e.Charger != ledger.NoCharger:
		b.holdOther(e)
	case e.Object != nil && e.Kind == ledger.Refund:
		b.release(e, key{object: e.Object.Key}, true)
	case e.Object != nil:
		b.take(e, key{object: e.Object.Key}, Of(e))
	case e.Kind == ledger.Refund:
		if e.Buffer.Mappings.After == 0 {
			b.release(e, key{buffer: e.BufferID, area: rule.Data}, true)
		}
		b.release(e, key{buffer: e.BufferID, area: rule.AUX}, false)
	default:
		b.take(e, key{buffer: e.BufferID, area: e.Buffer.Area}, Of(e))
	}
}

// take enters a charge. One that charges nothing holds nothing, unless it is new.
func (b *Book) take(e *ledger.Entry, k key, what string) {
	isNew := e.Kind == ledger.Charge || e.Kind == ledger.Preexisting
	if !isNew && e.ChargedUser == 0 && e.ChargedPinned == 0 {
		return
	}
	if isNew && b.parts[k] != nil {
		if e.Kind == ledger.Preexisting {
			return // it is told of once for each process that maps it
		}
		b.release(e, k, true) // found by the snapshot, but charged after the trace had begun
	}
	p := part{b.holder(e, what), e.ChargedUser, e.ChargedPinned}
	b.parts[k] = append(b.parts[k], p)
	count := int64(0)
	if isNew && k.area == rule.Data {
		count = 1
	}
	b.move(e.TimeNS, p, count)
}

// release enters that something is gone: what its first charge took goes with it. What its
// further mappings were charged goes where the kernel gave that back too.
func (b *Book) release(e *ledger.Entry, k key, counts bool) {
	left := -e.ChargedUser - e.ChargedPinned
	for i, p := range b.parts[k] {
		if left -= p.user + p.pinned; i > 0 && left < 0 {
			break
		}
		count := int64(0)
		if i == 0 && counts {
			count = -1
		}
		b.move(e.TimeNS, part{p.holder, -p.user, -p.pinned}, count)
	}
	delete(b.parts, k)
}

// holdOther enters what another charger charged. Workers of the kernel give back what a
// process was charged: the instance tells whose it is, where that is known.
func (b *Book) holdOther(e *ledger.Entry) {
	k := key{other: e.InstanceID}
	p := part{user: e.ChargedUser, pinned: e.ChargedPinned}
	if known := b.parts[k]; e.InstanceID != 0 && known != nil {
		p.holder = known[0].holder
	} else {
		p.holder = b.holder(e, Of(e))
		if e.InstanceID != 0 {
			b.parts[k] = []part{p}
		}
	}
	b.move(e.TimeNS, p, 0)
}

func (b *Book) holder(e *ledger.Entry, what string) int {
	h := Holder{e.Caller.PID, e.Caller.Comm, e.Payer(), e.SplitCounter, what}
	i, ok := b.holders[h]
	if !ok {
		i = len(b.Sums)
		b.holders[h] = i
		b.Sums = append(b.Sums, Sum{Holder: h})
	}
	return i
}

func (b *Book) move(ns uint64, p part, count int64) {
	if count == 0 && p.user == 0 && p.pinned == 0 {
		return
	}
	s := &b.Sums[p.holder]
	s.Count, s.User, s.Pinned = s.Count+count, s.User+p.user, s.Pinned+p.pinned
	if b.Moved != nil {
		b.Moved(ns, p.holder, count, p.user, p.pinned)
	}
}
