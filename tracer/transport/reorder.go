package transport

import (
	"bytes"
	"slices"
	"time"
)

// holdBack is how long a record waits for one before it that has not come: then
// that one was lost. A program sends its record microseconds after it took its
// place, but its CPU may be a virtual one, and stand still in between: where those
// of an emulated machine take turns, for a second on a busy host. Nothing waits
// where nothing is lost, nor when the trace ends.
const holdBack = 5 * time.Second

// queue puts the records of all CPUs back into the order of their places, which
// is what the ledger relies on (see record_reserve in bpf/record.h).
//
// Numbers start at 1; the n-th one handed out is at least n, and later ones are larger.
// So once n records numbered up to n have arrived, no smaller one can follow, and they are
// released in order. A gap left by a lost record is skipped after holdBack.
//
// The zero value is ready to use, and starts with the first place.
type queue struct {
	done    uint64 // all places up to this one went out, or are missing
	gaps    uint64 // of them: those that never came
	lost    uint64 // those that never came before the last one that was popped
	came    uint64 // all records that ever came
	waiting []waiting
	ready   int // so many of the waiting can go
}

type waiting struct {
	order uint64
	lost  uint64 // that never came before it, once it is ready
	came  time.Time
	raw   []byte
}

// push takes a record; raw may be used again after it.
func (q *queue) push(order uint64, raw []byte, now time.Time) {
	q.came++
	i, _ := slices.BinarySearchFunc(q.waiting, order+1, func(w waiting, order uint64) int {
		if w.order < order {
			return -1
		}
		return 1
	})
	q.waiting = slices.Insert(q.waiting, i, waiting{order: order, came: now, raw: bytes.Clone(raw)})
	if order <= q.done {
		q.waiting[i].lost = q.gaps
		q.ready++ // later than holdBack, or the same number as one that went out
		return
	}
	for n := len(q.waiting); n > q.ready; n-- {
		if q.waiting[n-1].order == q.done+uint64(n-q.ready) {
			q.let(n, q.waiting[n-1].order)
			return
		}
	}
}

// pop returns the next record, if it is known which one that is.
func (q *queue) pop(now time.Time) (raw []byte, ok bool) {
	if q.ready == 0 && len(q.waiting) > 0 {
		for n := len(q.waiting); n > 0; n-- {
			if now.Sub(q.waiting[n-1].came) >= holdBack {
				q.skip(n)
				break
			}
		}
	}
	if q.ready == 0 {
		return nil, false
	}
	raw, q.lost = q.waiting[0].raw, q.waiting[0].lost
	q.waiting[0].raw = nil
	q.waiting = q.waiting[1:]
	q.ready--
	return raw, true
}

// release lets everything go: nothing more will come.
func (q *queue) release() {
	if len(q.waiting) > q.ready {
		q.skip(len(q.waiting))
	}
}

// skip lets the first n go although some before them are missing.
func (q *queue) skip(n int) {
	last := q.waiting[n-1].order
	for n < len(q.waiting) && q.waiting[n].order == last {
		n++
	}
	q.let(n, last)
}

// let lets the first n go. Places that none of them has are missing.
func (q *queue) let(n int, done uint64) {
	here := q.done + uint64(n-q.ready)
	gaps := max(done, here) - here
	q.gaps += gaps
	// Two can have one number, which is then that of the later one: so no more are missing
	// before a record than before those after it.
	for i, missing := n-1, gaps; i >= q.ready; i, here = i-1, here-1 {
		missing = min(missing, max(q.waiting[i].order, here)-here)
		q.waiting[i].lost = q.gaps - gaps + missing
	}
	q.ready, q.done = n, done
}

// stands reports whether records wait for others.
func (q *queue) stands() bool { return len(q.waiting) > q.ready }

// due is when the next record goes out for having waited too long; zero if none
// waits.
func (q *queue) due() (t time.Time) {
	for _, w := range q.waiting {
		if at := w.came.Add(holdBack); t.IsZero() || at.Before(t) {
			t = at
		}
	}
	return t
}
