package terminal

import (
	"context"
	"io"
	"iter"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Replay is a recording as a source. It needs no privileges.
type Replay struct {
	In       io.Reader
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

// Run plays the recording to its end, and then waits for ctx.
func (r *Replay) Run(ctx context.Context, orders <-chan top.Action, send func(tea.Msg)) error {
	recording := output.NewRecording(r.In)
	next, stop := iter.Pull2(recording.Events())
	defer stop()
	p := player{Replay: *r, orders: orders, ledger: ledger.New(), send: send, usage: newUsage()}
	for {
		event, err, ok := next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		// What was there before has happened already.
		if event.Op != ledger.Found && !p.wait(ctx, event.TimeNS) {
			return nil
		}
		p.enter(event, recording.Lost())
	}
	p.flush()
	send(top.Tick{NowNS: p.atNS, Usage: p.usage.read()})
	send(top.Ended{})
	<-ctx.Done()
	return nil
}

// player keeps the time of a replay.
type player struct {
	Replay
	orders  <-chan top.Action
	ledger  *ledger.Ledger
	send    func(tea.Msg)
	usage   *usage
	rows    []*output.Row
	lost    uint64
	flushed time.Time

	atNS   uint64 // of the last event
	tickNS uint64 // when the next interval ends
	step   bool
}

// wait waits until the event of a time is due. It says whether to go on.
func (p *player) wait(ctx context.Context, timeNS uint64) bool {
	p.step = false
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
			if p.step {
				return true
			}
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

// enter enters an event, and ends the intervals that lie before it.
func (p *player) enter(event ledger.Event, lost uint64) {
	if p.tickNS == 0 {
		p.tickNS = event.TimeNS + uint64(p.Interval)
		p.send(top.Tick{NowNS: event.TimeNS, Usage: p.usage.read()})
	}
	if event.TimeNS >= p.tickNS {
		p.flush()
		p.send(top.Tick{NowNS: p.tickNS, Usage: p.usage.read()})
		p.tickNS = event.TimeNS - (event.TimeNS-p.tickNS)%uint64(p.Interval) + uint64(p.Interval)
	}
	row := output.Enter(p.ledger, event)
	p.rows = append(p.rows, &row)
	p.atNS, p.lost = max(p.atNS, event.TimeNS), lost
	if p.step || len(p.rows) >= flushCount || time.Since(p.flushed) > flushAfter {
		p.flush()
	}
}

// flush shows what was entered.
func (p *player) flush() {
	if len(p.rows) > 0 {
		p.send(top.Entries{Rows: p.rows, Counts: p.ledger.Counts(), Lost: p.lost})
	}
	p.rows, p.flushed = nil, time.Now()
}
