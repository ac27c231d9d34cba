package session

import (
	"sync/atomic"
	"time"

	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// Publisher is a sink that other goroutines read: the summary as it was not long ago.
type Publisher struct {
	interval time.Duration
	at       time.Time
	latest   atomic.Pointer[Published]
}

// Published is a summary and how many events were lost by then. It does not change.
type Published struct {
	ledger.Summary
	Ended bool // nothing follows
}

// NewPublisher publishes at most once in an interval, for a summary takes time for every
// user; 0: whenever no further event waits.
func NewPublisher(interval time.Duration) *Publisher { return &Publisher{interval: interval} }

// Latest is the newest summary; nil before there was an event.
func (p *Publisher) Latest() *Published { return p.latest.Load() }

// Enter does nothing: the ledger has the entry.
func (p *Publisher) Enter(*ledger.Entry) error { return nil }

// Flush publishes, if it is time.
func (p *Publisher) Flush(now pipeline.View) error {
	if t := time.Now(); t.Sub(p.at) >= p.interval {
		p.at = t
		p.latest.Store(&Published{Summary: now.Summary()})
	}
	return nil
}

// Close publishes the last summary.
func (p *Publisher) Close(now pipeline.View, lost uint64) error {
	s := now.Summary()
	s.Lost = lost
	p.latest.Store(&Published{Summary: s, Ended: true})
	return nil
}
