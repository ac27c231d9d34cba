package terminal

import (
	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// seek goes to a place of the recording. What lies ahead is played without waiting; for what
// lies behind it begins anew.
func (p *player) seek(to top.Seek) {
	p.send(top.Seeking{})
	p.to = to
	if to.By == top.SeekFraction {
		p.to.By = top.SeekTime
		first, last, err := p.times()
		if err != nil {
			p.fail(err)
			return
		}
		p.to.TimeNS = first + uint64(to.Fraction*float64(last-first))
	}
	ahead := p.to.By == top.SeekEvent && p.to.Event >= p.number || p.to.By == top.SeekTime && p.to.TimeNS >= p.atNS
	if ahead && !p.again {
		return
	}
	if err := p.Recorded.Again(); err != nil {
		p.fail(err)
		return
	}
	p.again = true
}

// fail says why there is no way to a place.
func (p *player) fail(err error) {
	p.to = top.Seek{}
	p.send(top.Sought{Failed: "no way back: " + err.Error()})
}

// times are those of the first and the last event. They are read from the recording itself,
// which then begins anew.
func (p *player) times() (first, last uint64, err error) {
	if err := p.Recorded.Again(); err != nil {
		return 0, 0, err
	}
	p.again = true
	for trace, _ := p.Recorded.Next(); trace != nil; trace, _ = p.Recorded.Next() {
		for event, err := range trace.Events() {
			if err != nil {
				return first, last, nil // it is told when it is played
			}
			if event.Op == ledger.AlreadyMapped {
				continue
			}
			if first == 0 {
				first = event.TimeNS
			}
			last = max(last, event.TimeNS)
		}
	}
	return first, last, nil
}

// skips reports whether an event of a time lies before the place that is wanted.
func (p *player) skips(timeNS uint64) bool {
	switch p.to.By {
	case top.SeekEvent:
		return p.number < p.to.Event
	case top.SeekTime:
		return timeNS <= p.to.TimeNS
	}
	return false
}

// arrive shows the place that was wanted.
func (p *player) arrive() {
	if p.to.By == top.SeekNone {
		return
	}
	p.to = top.Seek{}
	p.flush()
	p.send(top.Sought{})
}

// rewind forgets all that was played.
func (p *player) rewind() {
	p.rows, p.counts, p.lost = nil, ledger.Summary{}, 0
	p.atNS, p.tickNS, p.number, p.before, p.again = 0, 0, 0, 0, false
	p.gap, p.over = "", false
	p.send(top.Seeking{Back: true})
}
