// Package trend keeps the history of amounts, as steps and bounded, and draws it with
// characters. All values are immutable: what adds to one returns another.
package trend

import (
	"math/bits"
	"slices"
	"time"
)

// Most is how many samples a series keeps, give or take the first and the last one.
const Most = 100

// Clock is the time that histories are of. It goes by the times of what is seen, which of a
// recording are its own.
type Clock struct {
	first, now uint64 // Unix time in nanoseconds; 0: nothing was seen yet
	window     uint64 // 0: all of it
}

// Over returns a clock whose histories end a while after what they are of; 0: never.
func Over(window time.Duration) Clock { return Clock{window: uint64(window)} }

// At is the clock after something was seen.
func (c Clock) At(ns uint64) Clock {
	if ns == 0 {
		return c
	}
	if c.first == 0 || ns < c.first {
		c.first = ns
	}
	c.now = max(c.now, ns)
	return c
}

// Now is the latest time that was seen.
func (c Clock) Now() uint64 { return c.now }

// From is where histories begin.
func (c Clock) From() uint64 {
	if c.window > 0 && c.now-c.first > c.window {
		return c.now - c.window
	}
	return c.first
}

// width is the time that one sample stands for: a power of two, so that a longer one holds
// whole shorter ones.
func (c Clock) width() uint64 { return 1 << bits.Len64((c.now-c.From())/Most) }

// Series is the history of one amount. It is a value until the next one comes.
type Series struct {
	past []sample // never changed
	last sample
	seen bool
}

// sample is what happened to an amount in a while.
type sample struct {
	at      uint64 // when it began to change
	value   int64  // in the end
	high    int64  // at most
	refused uint32
}

// Seen reports whether there is anything in a series.
func (s *Series) Seen() bool { return s.seen }

// Now is the latest value.
func (s *Series) Now() int64 { return s.last.value }

// Peak is the most that the amount was.
func (s *Series) Peak() int64 {
	peak := s.last.high
	for _, sample := range s.past {
		peak = max(peak, sample.high)
	}
	return max(0, peak)
}

// Growth is how much the amount has grown since its history begins.
func (s *Series) Growth() int64 {
	if len(s.past) == 0 {
		return 0
	}
	return s.last.value - s.past[0].value
}

// Add is the series after an amount was seen.
func (s Series) Add(c Clock, at uint64, value int64) Series {
	if s.seen && s.last.value == value {
		return s
	}
	s = s.step(c, at, value)
	s.last.value, s.last.high = value, max(s.last.high, value)
	return s
}

// Refuse is the series after something that would have added to it was refused.
func (s Series) Refuse(c Clock, at uint64) Series {
	s = s.step(c, at, s.last.value)
	s.last.refused++
	return s
}

// step goes on to the sample of a time. A series has no earlier one than its last.
func (s Series) step(c Clock, at uint64, value int64) Series {
	at = max(at, s.last.at)
	if width := c.width(); s.seen && at/width != s.last.at/width {
		s.past = thinned(s.past, s.last, c.From(), width)
	} else if s.seen {
		return s
	}
	s.last, s.seen = sample{at: at, value: value, high: value}, true
	return s
}

// thinned is a copy of past and one more: without what ended before a time, and with one
// sample for each width.
func thinned(past []sample, more sample, from, width uint64) []sample {
	kept := make([]sample, 0, len(past)+1)
	for _, next := range append(slices.Clip(past), more) {
		n := len(kept)
		switch {
		case n > 0 && next.at <= from: // all that is left of the one before is its end
			kept[n-1] = next
		case n > 0 && kept[n-1].at/width == next.at/width:
			last := &kept[n-1]
			last.value, last.high, last.refused = next.value, max(last.high, next.high), last.refused+next.refused
		default:
			kept = append(kept, next)
		}
	}
	return kept
}

// Cell is one of the equal parts of a time that are drawn.
type Cell struct {
	Seen    bool  // the amount was known by then
	High    int64 // the most that it changed to; where it did not change, what it was
	Refused uint32
}

// Cells cuts the time of a clock into n parts.
func (s *Series) Cells(c Clock, n int) []Cell {
	cells := make([]Cell, n)
	if !s.seen {
		return cells
	}
	samples := append(slices.Clip(s.past), s.last)
	from, span := c.From(), c.now-c.From()
	now := Cell{}
	for i := range cells {
		cells[i] = now
		changed := false
		end := from + span*uint64(i+1)/uint64(n)
		for len(samples) > 0 && (samples[0].at < end || i == n-1) {
			next := samples[0]
			samples = samples[1:]
			switch {
			case next.at < from: // it has but its end in here
				cells[i] = Cell{Seen: true, High: next.value}
			case changed:
				cells[i].High = max(cells[i].High, next.high)
				cells[i].Refused += next.refused
			default:
				cells[i] = Cell{Seen: true, High: next.high, Refused: next.refused}
				changed = true
			}
			now = Cell{Seen: true, High: next.value}
		}
	}
	return cells
}

// Peak is the most of some cells.
func Peak(cells []Cell) (peak int64) {
	for _, cell := range cells {
		peak = max(peak, cell.High)
	}
	return peak
}

// levels are the eight blocks: nothing is the lowest, to stand on.
var levels = []rune("▁▂▃▄▅▆▇█")

// Spark draws cells in one line, a character each. The highest stands for top.
func Spark(cells []Cell, top int64) string {
	line := make([]rune, len(cells))
	for i, cell := range cells {
		line[i] = ' '
		if cell.Seen {
			line[i] = levels[eighths(cell.High, top, len(levels)-1)]
		}
	}
	return string(line)
}

// eighths is an amount as steps of so many for top: none for nothing only, and all of them for
// no less than top.
func eighths(amount, top int64, steps int) int {
	if amount <= 0 || top <= 0 {
		return 0
	}
	return min(steps, max(1, int(float64(amount)/float64(top)*float64(steps))))
}

// Chart draws cells as steps, in rows from the top down. The highest row ends with top. Where
// limit is in a row, it is drawn there as a line, behind the steps; the row's number is
// returned, or -1.
func Chart(cells []Cell, top, limit int64, height int) (rows []string, limitRow int) {
	limitRow = -1
	if limit > 0 && limit <= top {
		limitRow = height - (eighths(limit, top, 8*height)+7)/8
	}
	for row := range height {
		line := make([]rune, len(cells))
		below := 8 * (height - 1 - row) // eighths that are in the rows below
		for i, cell := range cells {
			line[i] = ' '
			if row == limitRow {
				line[i] = '─'
			}
			if n := min(8, eighths(cell.High, top, 8*height)-below); cell.Seen && n > 0 {
				line[i] = levels[n-1]
			}
		}
		rows = append(rows, string(line))
	}
	return rows, limitRow
}

// Marks has a sign below the cells in which something was refused; "" if there are none.
func Marks(cells []Cell, sign rune) string {
	line := make([]rune, len(cells))
	any := false
	for i, cell := range cells {
		line[i] = ' '
		if cell.Refused > 0 {
			line[i], any = sign, true
		}
	}
	if !any {
		return ""
	}
	return string(line)
}
