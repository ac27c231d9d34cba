package ledger

import (
	"errors"
	"iter"
)

// Sink takes what a ledger makes of a trace: a table, a recording, a view.
type Sink interface {
	// Enter takes an entry. It belongs to the ledger again when Enter returns.
	Enter(e *Entry) error
	// Flush shows what was entered: no further event is there at the moment.
	Flush(now View) error
	// Close ends the trace. lost is how many events it does not hold.
	Close(now View, lost uint64) error
}

// View is what a sink may ask of the ledger while it is called.
type View interface {
	// Counts are the counts up to now, without the users' balances.
	Counts() Summary
	// Summary is all of them. It takes time for every user.
	Summary() Summary
	// Objects are the BPF objects made during the trace that are still there.
	Objects() []Charged
}

// Run enters events and feeds the sinks, in their order, until the events end. An error
// of the events or of a sink ends it: what was entered is flushed, and no sink is closed.
func (l *Ledger) Run(events iter.Seq2[Event, error], lost func() uint64, sinks ...Sink) error {
	each := func(do func(Sink) error) (err error) {
		for _, s := range sinks {
			err = errors.Join(err, do(s))
		}
		return err
	}
	flush := func(s Sink) error { return s.Flush(l) }
	var entry Entry
	enter := func(s Sink) error { return s.Enter(&entry) }
	for event, err := range events {
		if err != nil {
			return errors.Join(err, each(flush))
		}
		entry = Entry{Event: event}
		l.enter(&entry)
		if err := each(enter); err != nil {
			return err
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
