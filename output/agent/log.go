package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// How much is logged: of one process and one kind not more than a few lines in a while, nor of
// all together more than some. What is left out is counted.
const (
	logWindow = 10 * time.Second
	linesEach = 3
	linesAll  = 30
)

// Log is the sink that writes a line for each refusal and each broken rule.
type Log struct {
	to  *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	since time.Time      // when the window began
	lines map[logged]int // of the window
	all   int
	left  [2]uint64 // refusals, and broken rules, that were left out of the window
	ever  uint64
}

// logged is what a limit is for.
type logged struct {
	pid       uint32
	subsystem string
	errno     int32
	verdict   ledger.Verdict
}

// NewLog logs there.
func NewLog(to *slog.Logger, now func() time.Time) *Log {
	return &Log{to: to, now: now, lines: map[logged]int{}}
}

// Enter logs an entry, if it is one of those. What pinwatch itself does is nobody's trouble.
func (l *Log) Enter(e *ledger.Entry) error {
	refused := e.Kind == ledger.Refusal
	if e.Caller.Self || !refused && e.Verdict == ledger.OK {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.roll()
	this := logged{e.Caller.PID, row.SubsystemName(e), e.Errno, e.Verdict}
	if l.lines[this] >= linesEach || l.all >= linesAll {
		l.ever++
		if e.Verdict != ledger.OK {
			l.left[1]++
		} else {
			l.left[0]++
		}
		return nil
	}
	l.lines[this]++
	l.all++
	r := row.Of(e)
	what, level := "refused", slog.LevelWarn
	attrs := []slog.Attr{slog.String("subsystem", this.subsystem)}
	if refused {
		attrs = append(attrs, slog.String("errno", format.Errno(e.Errno)), slog.String("outcome", charging.OfRefusal(e).Outcome.String()))
	}
	if e.Verdict != ledger.OK {
		what, level = "rule broken", slog.LevelError
		certainty := "exact"
		if e.Uncertain {
			certainty, level = "uncertain", slog.LevelWarn
		}
		attrs = append(attrs, slog.String("verdict", e.Verdict.String()), slog.String("certainty", certainty))
	}
	attrs = append(attrs, slog.Uint64("event", e.Number), slog.Uint64("pid", uint64(e.Caller.PID)), slog.String("comm", format.Printable(e.Caller.Comm)),
		slog.Uint64("uid", uint64(e.Caller.UID)), slog.String("cgroup", format.Printable(e.Caller.Cgroup)), slog.String("note", format.Printable(output.Explain(&r))))
	l.to.LogAttrs(context.Background(), level, what, attrs...)
	return nil
}

// roll begins another window when one is over, and tells what was left out of it.
func (l *Log) roll() {
	now := l.now()
	if now.Sub(l.since) < logWindow {
		return
	}
	if l.left != [2]uint64{} {
		l.to.Warn("left out", "refusals", l.left[0], "broken_rules", l.left[1], "since", l.since.UTC().Format(time.RFC3339))
	}
	l.since, l.all, l.left = now, 0, [2]uint64{}
	clear(l.lines)
}

// Tick is called every second, so that what was left out is told even if nothing follows.
func (l *Log) Tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.roll()
}

// LeftOut is how many lines were left out ever.
func (l *Log) LeftOut() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ever
}

// Flush does nothing: a line is out when it is written.
func (*Log) Flush(pipeline.View) error { return nil }

// Close tells what was left out.
func (l *Log) Close(pipeline.View, uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Time{}
	l.roll()
	return nil
}
