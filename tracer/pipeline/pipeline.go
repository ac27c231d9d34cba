// Package pipeline runs a trace through a ledger and feeds sinks: one loop for a live kernel,
// a recording and a test.
package pipeline

import (
	"errors"
	"iter"

	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// ErrEnough is what a sink's Enter returns of the last entry that it wants: all sinks get
// that one, and then the trace ends well.
var ErrEnough = errors.New("enough")

// Sink takes what a ledger makes of a trace: a table, a recording, a view.
type Sink interface {
	// Enter takes an entry. It belongs to the ledger again when Enter returns.
	Enter(e *ledger.Entry) error
	// Flush shows what was entered: no further event is there at the moment.
	Flush(now View) error
	// Close ends the trace. lost is how many events it does not hold.
	Close(now View, lost uint64) error
}

// View is what a sink may ask of the ledger while it is called.
type View interface {
	// Counts are the counts up to now, without the users' balances.
	Counts() ledger.Summary
	// Summary is all of them. It takes time for every user.
	Summary() ledger.Summary
	// Objects are the BPF objects made during the trace that are still there.
	Objects() []ledger.Charged
	// Live are the perf buffers that are there, as a recording of what follows wants them.
	Live() []ledger.Entry
}

// Beginner is a sink that wants to ask while it takes an entry, too, which the View then holds
// already.
type Beginner interface {
	Sink
	Begin(now View)
}

// Run enters events into a new ledger and feeds the sinks, in their order, until the events end. An error
// of the events or of a sink ends it: what was entered is flushed, and no sink is closed.
func Run(events iter.Seq2[ledger.Event, error], lost func() uint64, sinks ...Sink) error {
	l := ledger.New()
	each := func(do func(Sink) error) (err error) {
		for _, s := range sinks {
			err = errors.Join(err, do(s))
		}
		return err
	}
	for _, s := range sinks {
		if b, ok := s.(Beginner); ok {
			b.Begin(l)
		}
	}
	flush := func(s Sink) error { return s.Flush(l) }
	var entry ledger.Entry
	enough := false
	enter := func(s Sink) error {
		err := s.Enter(&entry)
		if errors.Is(err, ErrEnough) {
			enough, err = true, nil
		}
		return err
	}
	for event, err := range events {
		if err != nil {
			return errors.Join(err, each(flush))
		}
		entry = ledger.Entry{Event: event}
		l.Enter(&entry)
		if err := each(enter); err != nil {
			return err
		}
		if enough {
			break
		}
		if event.Followed {
			continue // the output is live, but no faster than it is read
		}
		if err := each(flush); err != nil {
			return err
		}
	}
	return each(func(s Sink) error { return s.Close(l, lost()) })
}
