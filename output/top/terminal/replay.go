package terminal

import (
	"context"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// Replay is a recording as a source. It needs no privileges.
type Replay struct {
	Recorded *recording.Recorded
	FromNS   uint64  // what came before is not played; 0: nothing did
	Speed    float64 // 1 is as recorded; 0: as fast as it can be read
	Paused   bool    // until told otherwise
	Interval time.Duration
}

const (
	// longestWait is how long a gap in a recording may take.
	longestWait = 2 * time.Second
	// flushAfter is how long entries wait for more of them.
	flushAfter = 50 * time.Millisecond
	// flushCount is how many entries wait at the most.
	flushCount = 1024
)

// Run plays the recording to its end, and then waits for ctx, or for somebody who wants to see
// some of it again.
func (r *Replay) Run(ctx context.Context, orders <-chan top.Action, send func(tea.Msg)) error {
	p := player{Replay: *r, orders: orders, send: send, usage: newUsage()}
	if r.FromNS > 0 {
		p.seek(top.Seek{By: top.SeekTime, TimeNS: r.FromNS - 1})
	}
	for {
		if err := p.play(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		if !p.again {
			p.send(top.Tick{NowNS: p.atNS, Usage: p.usage.read()})
			p.arrive()
			p.send(top.Ended{})
		}
		for !p.again {
			select {
			case <-ctx.Done():
				return nil
			case order := <-orders:
				if p.obey(order); !p.again && p.to.By != top.SeekNone { // nothing lies ahead
					p.arrive()
					p.send(top.Ended{})
				}
			}
		}
		p.rewind()
	}
}

// play plays to the end, or until it has to begin anew. Each trace is one for a ledger of its own,
// and what is known at its end holds no more after a gap.
func (p *player) play(ctx context.Context) error {
	for !p.again && ctx.Err() == nil {
		trace, gap := p.Recorded.Next()
		p.cross()
		if trace == nil {
			return nil
		}
		p.before, p.gap = p.number, gap
		if err := p.playOne(ctx, trace); err != nil {
			return err
		}
	}
	return nil
}

func (p *player) playOne(ctx context.Context, trace recording.Source) error {
	paced := func(yield func(ledger.Event, error) bool) {
		for event, err := range trace.Events() {
			if err == nil && !p.await(ctx, &event) {
				return
			}
			p.lost = trace.Lost()
			if !yield(event, err) {
				return
			}
		}
	}
	return pipeline.Run(paced, trace.Lost, p)
}

// player is the sink of a replay, and keeps its time.
type player struct {
	Replay
	orders  <-chan top.Action
	send    func(tea.Msg)
	usage   *usage
	rows    []*row.Row
	counts  ledger.Summary // after the last of the rows
	lost    uint64
	flushed time.Time

	atNS   uint64 // of the last event
	tickNS uint64 // when the next interval ends
	number uint64 // of the last event, in all traces together
	before uint64 // of the last one of the traces before
	gap    string // that lies ahead; "": none
	step   bool
	over   bool     // a gap, and the event after it is not there yet
	to     top.Seek // where it goes, if it goes anywhere
	again  bool     // it has to begin anew
}

// wait waits until the event of a time is due. It reports whether to go on.
func (p *player) wait(ctx context.Context, timeNS uint64) bool {
	p.step = false
	if p.skips(timeNS) {
		return true
	}
	p.arrive()
	var gap time.Duration
	if p.atNS != 0 && timeNS > p.atNS {
		gap = time.Duration(timeNS - p.atNS)
	}
	began := time.Now()
	for ctx.Err() == nil {
		var due <-chan time.Time
		if !p.Paused {
			left := p.paced(gap) - time.Since(began)
			if left <= 0 && len(p.orders) == 0 {
				return true
			}
			due = time.After(max(0, left))
		}
		if p.Paused || p.paced(gap)-time.Since(began) > flushAfter {
			p.flush()
		}
		select {
		case <-ctx.Done():
		case order := <-p.orders:
			p.obey(order)
			switch {
			case p.again:
				return false
			case p.step || p.skips(timeNS):
				return true
			}
			p.arrive()
		case <-due:
			return true
		}
	}
	return false
}

// paced is how long a gap takes at this speed.
func (p *player) paced(gap time.Duration) time.Duration {
	if p.Speed == 0 {
		return 0
	}
	return min(longestWait, time.Duration(float64(gap)/p.Speed))
}

func (p *player) obey(order top.Action) {
	switch {
	case order.Seek.By != top.SeekNone:
		p.Paused = p.Paused || order.Pause
		p.seek(order.Seek)
	case order.Step:
		p.step, p.Paused = true, true
	case order.Pause:
		p.Paused = true
	case order.Resume:
		p.Paused = false
	case order.Speed > 0:
		p.Speed = order.Speed
	case order.Interval > 0:
		p.Interval = order.Interval
	}
}

// await waits until an event is due, and ends the intervals that lie before it. It
// reports whether to go on.
func (p *player) await(ctx context.Context, event *ledger.Event) bool {
	older := event.Op == ledger.AlreadyMapped // what was there before has happened already
	switch {
	case p.gap != "":
		at := event.TimeNS
		if older {
			at = p.atNS
		}
		if !p.wait(ctx, at) {
			return false
		}
		p.cross()
		p.over = older
	case older:
	case p.over && p.step: // it was the step to this one
		p.over = false
	default:
		if p.over = false; !p.wait(ctx, event.TimeNS) {
			return false
		}
	}
	if p.tickNS == 0 {
		p.tickNS = event.TimeNS + uint64(p.Interval)
		p.send(top.Tick{NowNS: event.TimeNS, Usage: p.usage.read()})
	}
	if event.TimeNS >= p.tickNS {
		p.flush()
		p.send(top.Tick{NowNS: p.tickNS, Usage: p.usage.read()})
		p.tickNS = event.TimeNS - (event.TimeNS-p.tickNS)%uint64(p.Interval) + uint64(p.Interval)
	}
	return true
}

// cross gets over a gap, if there is one ahead.
func (p *player) cross() {
	if p.gap != "" {
		p.flush()
		p.send(top.Gap(p.gap))
	}
	p.gap = ""
}

// Enter keeps an entry until the next flush.
func (p *player) Enter(e *ledger.Entry) error {
	r := row.Of(e)
	r.Number += p.before
	p.rows = append(p.rows, &r)
	p.atNS, p.number = max(p.atNS, e.TimeNS), r.Number
	return nil
}

// Flush shows what was entered, if it is much, or a while since the last time.
func (p *player) Flush(now pipeline.View) error {
	p.counts = now.Counts()
	if p.step || len(p.rows) >= flushCount || p.to.By == top.SeekNone && time.Since(p.flushed) > flushAfter {
		p.flush()
	}
	return nil
}

// Close shows the rest.
func (p *player) Close(pipeline.View, uint64) error {
	p.flush()
	return nil
}

// flush shows what was entered.
func (p *player) flush() {
	if len(p.rows) > 0 {
		p.send(top.Entries{Rows: p.rows, Counts: p.counts, Lost: p.lost})
	}
	p.rows, p.flushed = nil, time.Now()
}
