package session

import (
	"sync"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// A summary can be read from another goroutine while the trace goes on: the counts only
// grow, and the last one is whole.
func TestPublisher(t *testing.T) {
	const count = 2000
	p := NewPublisher(0)
	if p.Latest() != nil {
		t.Errorf("before the trace: %+v", p.Latest())
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		for last := uint64(0); ; {
			now := p.Latest()
			if now == nil {
				continue
			}
			if now.Events < last {
				t.Errorf("%d events after %d", now.Events, last)
			}
			last = now.Events
			if now.Ended {
				return
			}
		}
	})
	err := pipeline.Run(func(yield func(ledger.Event, error) bool) {
		for i := range int64(count) {
			yield(ledger.Event{
				User:    ledger.Reading{Before: i, After: i + 1},
				Process: ledger.Reading{Owner: 1},
				Buffer: ledger.Buffer{Key: uint64(i + 1), Pages: 1, Mappings: ledger.Count{After: 1},
					Limits: ledger.Limits{Allowance: count}},
			}, nil)
		}
	}, func() uint64 { return 3 }, p)
	reader.Wait()
	if last := p.Latest(); err != nil || !last.Ended || last.Events != count || last.Lost != 3 || last.LiveUser != count {
		t.Errorf("%v; %+v", err, last)
	}
}
