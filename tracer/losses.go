package tracer

import (
	"fmt"
	"time"

	"github.com/pinwatch/pinwatch/bpf"
)

// missedInterval is how often the kernel's own count of missed probes is read
// while there are events.
const missedInterval = 100 * time.Millisecond

// Losses are the calls that the trace does not hold.
type Losses struct {
	RingFull     uint64 // records that found the ring buffer full
	InFlightFull uint64 // calls not followed: too many under way at once
	MissedReturn uint64 // calls whose return was not seen
	MissedEntry  uint64 // calls whose entry was not seen
	MissedProbe  uint64 // hits that the kernel's kprobes did not pass on, by its own count (6.7+)
}

// Total is the sum of all losses.
func (l Losses) Total() uint64 {
	return l.RingFull + l.InFlightFull + l.MissedReturn + l.MissedEntry + l.MissedProbe
}

// String says what was lost and what helps.
func (l Losses) String() string {
	return fmt.Sprintf("%d found the buffer full or without one on their CPU (a larger one: --buffer-kib), %d calls were too many at once, %d returns and %d entries were not seen, %d hits were missed by the kernel's kprobes",
		l.RingFull, l.InFlightFull, l.MissedReturn, l.MissedEntry, l.MissedProbe)
}

// Losses reads the loss counters. They only grow, until the trace ends.
func (t *Tracer) Losses() Losses {
	losses := t.lost.Load()
	if losses == nil {
		now := t.counted()
		losses = &now
	}
	total := *losses
	total.RingFull += t.lostInTransit()
	return total
}

// counted is what the kernel counts, and its programs.
func (t *Tracer) counted() Losses {
	var counted bpf.PerfLosses
	t.perf.Maps()[bpf.PerfMapLossesMap].Lookup(uint32(0), &counted) // cannot fail: an array, and its only key
	return Losses{
		MissedProbe:  t.missedProbes(),
		RingFull:     counted.RingFull,
		InFlightFull: counted.InFlightFull,
		MissedReturn: counted.MissedReturn,
		MissedEntry:  counted.MissedEntry,
	}
}

// lostInTransit is how many records were sent and did not come. Once detached it
// is exact.
func (t *Tracer) lostInTransit() uint64 {
	if t.perf.Attached() {
		return t.reader.Lost()
	}
	return t.reader.LostInAll()
}

// missedProbes asks the kernel how often a probe was hit and its program not run.
func (t *Tracer) missedProbes() uint64 {
	return t.perf.Missed() + t.bpfObjects.Missed() + t.chargers.Missed()
}
