package recording

import (
	"math"
	"time"

	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// Nearest is the sink that finds the refusal that is nearest to a time.
type Nearest struct {
	Filter *row.Filter
	At     time.Time
	found  uint64 // its time; 0: none
	before uint64 // time of the last event before that time; 0: none
	past   bool
}

// Enter keeps a refusal that is nearer than the last one.
func (n *Nearest) Enter(e *ledger.Entry) error {
	at := uint64(max(0, n.At.UnixNano()))
	if e.TimeNS < at && e.Kind != ledger.Preexisting {
		n.before = max(n.before, e.TimeNS)
	}
	if e.Kind != ledger.Refusal || !n.Filter.Shows(e) {
		return nil
	}
	if n.distance(e.TimeNS) < n.distance(n.found) {
		n.found = e.TimeNS
	}
	if n.past = e.TimeNS >= at; n.past {
		return pipeline.ErrEnough
	}
	return nil
}

func (n *Nearest) distance(ns uint64) time.Duration {
	if ns == 0 {
		return math.MaxInt64
	}
	return time.Unix(0, int64(ns)).Sub(n.At).Abs()
}

// Past reports whether what follows is further away.
func (n *Nearest) Past() bool { return n.past }

// Time is when it was; zero: there is none.
func (n *Nearest) Time() time.Time { return timeOf(n.found) }

// Before is when the last event before that time was; zero: there is none.
func (n *Nearest) Before() time.Time { return timeOf(n.before) }

func timeOf(ns uint64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(ns))
}

// Flush does nothing.
func (*Nearest) Flush(pipeline.View) error { return nil }

// Close does nothing.
func (*Nearest) Close(pipeline.View, uint64) error { return nil }
