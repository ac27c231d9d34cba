package top

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
)

// Seek is a place in a recording. The zero Seek is none.
type Seek struct {
	By       SeekBy
	Event    uint64  // the last one that is entered; 0: only what was there before
	TimeNS   uint64  // all that came until then is entered
	Fraction float64 // of the recording's time
}

// SeekBy says which of its values a Seek goes by.
type SeekBy uint8

const (
	SeekNone SeekBy = iota
	SeekEvent
	SeekTime
	SeekFraction
)

// The messages around a Seek. What comes in between is not shown.
type (
	// Seeking begins one. Where it leads back, all that came is forgotten.
	Seeking struct{ Back bool }
	// Sought ends it; Failed says why it could not be done.
	Sought struct{ Failed string }
)

// targets are what can be typed.
const targets = "10:48:36, +5s, -5s, 50%, #12"

// parseSeek reads a place: a time of day, a time from here, a part of the recording's time, or an
// event's number.
func parseSeek(text string, nowNS uint64) (Seek, error) {
	text = strings.TrimSpace(text)
	if part, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(part, 64)
		if err == nil && percent >= 0 && percent <= 100 {
			return Seek{By: SeekFraction, Fraction: percent / 100}, nil
		}
	}
	if number, err := strconv.ParseUint(strings.TrimPrefix(text, "#"), 10, 64); err == nil && text[0] != '+' {
		return Seek{By: SeekEvent, Event: number}, nil
	}
	if away, err := time.ParseDuration(text); err == nil && strings.ContainsAny(text[:1], "+-") {
		return Seek{By: SeekTime, TimeNS: uint64(max(0, int64(nowNS)+int64(away)))}, nil
	}
	now := time.Unix(0, int64(nowNS))
	for _, layout := range []string{"15:04", "15:04:05", "2006-01-02 15:04", "2006-01-02 15:04:05"} {
		at, err := time.ParseInLocation(layout, text, time.Local)
		if err != nil {
			continue
		}
		if at.Year() == 0 { // a time of this day
			at = time.Date(now.Year(), now.Month(), now.Day(), at.Hour(), at.Minute(), at.Second(), at.Nanosecond(), time.Local)
		}
		const shown = time.Millisecond // an event is at the time that the screen shows of it
		return Seek{By: SeekTime, TimeNS: uint64(max(0, at.Add(shown-1).UnixNano()))}, nil
	}
	return Seek{}, fmt.Errorf("no place in a recording: %q (as in %s)", text, targets)
}

// back goes to the event before the last one.
func (m *Model) back() Action {
	rows := m.news.rows
	if len(rows) == 0 {
		return Action{}
	}
	m.opts.Paused = true
	seek := Seek{By: SeekEvent}
	if len(rows) > 1 {
		seek.Event = rows[len(rows)-2].Number
	}
	return Action{Pause: true, Seek: seek}
}

// typeTarget takes a key while a place is typed: no other key acts.
func (m *Model) typeTarget(k tea.KeyPressMsg) Action {
	switch key := k.String(); key {
	case "enter":
		m.asking = false
		seek, err := parseSeek(m.target, m.news.clock.Now())
		if err != nil {
			m.notice = err.Error()
			return Action{}
		}
		m.opts.Paused = true // whoever goes somewhere wants to look
		return Action{Pause: true, Seek: seek}
	case "esc":
		m.asking = false
	case "backspace":
		if m.target == "" {
			m.asking = false
		}
		m.target = withoutLast(m.target)
	case "ctrl+u":
		m.target = ""
	default:
		m.target += k.Text
	}
	return Action{}
}
