package page

import (
	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// heldKey is what pages are charged for: an area of a perf buffer, a BPF object, or an
// instance of another charger.
type heldKey struct {
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

// hold enters what an entry's charge or refund does to the holders.
func (w *Writer) hold(e *ledger.Entry) {
	switch {
	case e.Object != nil && !e.Object.Rlimit:
	case e.Charger != ledger.NoCharger:
		w.holdOther(e)
	case e.Object != nil && e.Kind == ledger.Refund:
		w.release(e, heldKey{object: e.Object.Key}, true)
	case e.Object != nil:
		w.take(e, heldKey{object: e.Object.Key}, whatOf(e))
	case e.Kind == ledger.Refund:
		if e.Buffer.Mappings.After == 0 {
			w.release(e, heldKey{buffer: e.BufferID, area: rule.Data}, true)
		}
		w.release(e, heldKey{buffer: e.BufferID, area: rule.AUX}, false)
	default:
		w.take(e, heldKey{buffer: e.BufferID, area: e.Buffer.Area}, whatOf(e))
	}
}

// take enters a charge. One that charges nothing holds nothing, unless it is new.
func (w *Writer) take(e *ledger.Entry, key heldKey, what string) {
	isNew := e.Kind == ledger.Charge || e.Kind == ledger.Preexisting
	if !isNew && e.ChargedUser == 0 && e.ChargedPinned == 0 {
		return
	}
	if isNew && w.parts[key] != nil {
		if e.Kind == ledger.Preexisting {
			return // it is told of once for each process that maps it
		}
		w.release(e, key, true) // found by the snapshot, but charged after the trace had begun
	}
	p := part{w.holder(e, what), e.ChargedUser, e.ChargedPinned}
	w.parts[key] = append(w.parts[key], p)
	w.move(e.TimeNS, p, b2i(isNew && key.area == rule.Data))
}

// release enters that something is gone: what its first charge took goes with it. What its
// further mappings were charged goes where the kernel gave that back too.
func (w *Writer) release(e *ledger.Entry, key heldKey, counts bool) {
	left := -e.ChargedUser - e.ChargedPinned
	for i, p := range w.parts[key] {
		if left -= p.user + p.pinned; i > 0 && left < 0 {
			break
		}
		w.move(e.TimeNS, part{p.holder, -p.user, -p.pinned}, -b2i(i == 0 && counts))
	}
	delete(w.parts, key)
}

// holdOther enters what another charger charged. Workers of the kernel give back what a
// process was charged: the instance tells whose it is, where that is known.
func (w *Writer) holdOther(e *ledger.Entry) {
	key := heldKey{other: e.InstanceID}
	p := part{user: e.ChargedUser, pinned: e.ChargedPinned}
	if known := w.parts[key]; e.InstanceID != 0 && known != nil {
		p.holder = known[0].holder
	} else {
		p.holder = w.holder(e, whatOf(e))
		if e.InstanceID != 0 {
			w.parts[key] = []part{p}
		}
	}
	w.move(e.TimeNS, p, 0)
}

func (w *Writer) holder(e *ledger.Entry, what string) int {
	h := holder{e.Caller.PID, format.Printable(e.Caller.Comm), e.Payer(), e.SplitCounter, what}
	i, ok := w.holders[h]
	if !ok {
		i = len(w.data.Holders)
		w.holders[h] = i
		w.data.Holders = append(w.data.Holders, h)
	}
	return i
}

func (w *Writer) move(ns uint64, p part, count int64) {
	if count == 0 && p.user == 0 && p.pinned == 0 {
		return
	}
	m := &w.data.Moves
	at := int64(ns)
	if end := len(m.Time) - 1; end >= 0 {
		at = max(at, m.Time[end])
	}
	m.Time, m.Holder, m.Count = append(m.Time, at), append(m.Holder, p.holder), append(m.Count, count)
	m.User, m.Pinned = append(m.User, p.user), append(m.Pinned, p.pinned)
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
