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
	lost    uint64 // of them: those that never came
	came    uint64 // all records that ever came
	waiting []waiting
	ready   int // so many of the waiting can go
}

type waiting struct {
	order uint64
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
	q.waiting = slices.Insert(q.waiting, i, waiting{order, now, bytes.Clone(raw)})
	if order <= q.done {
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
	raw = q.waiting[0].raw
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
	// Two can have one number, so there may be more of them than places.
	if here := q.done + uint64(n-q.ready); last > here {
		q.lost += last - here
	}
	q.let(n, last)
}

func (q *queue) let(n int, done uint64) { q.ready, q.done = n, done }

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
