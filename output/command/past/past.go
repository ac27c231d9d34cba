// Package past answers what a recording knows of a time that is over.
package past

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// Question is what was refused around a time, and why.
type Question struct {
	At     time.Time // zero: it is not asked
	Within time.Duration
	Path   string // of a recording, or of an agent's directory; "-": the standard input
	Filter row.Filter
	JSON   bool
}

// Add adds its flags.
func (q *Question) Add(f *pflag.FlagSet) {
	value.Past(f, &q.At, "at", "explain what was refused around then, in the recording or the agent's directory that is named")
	value.Duration(f, &q.Within, "within", 5*time.Minute, "with --at: so long before and after it; if there is nothing, the nearest refusal")
}

// Answer answers it, and reports whether anything was refused in that time.
func (q *Question) Answer(in io.Reader, out, words io.Writer) (refused bool, err error) {
	from, to := q.At.Add(-q.Within), q.At.Add(q.Within)
	filter := q.Filter
	filter.FromNS = uint64(max(0, from.UnixNano()))
	there := output.NewPast(&filter, to)
	if err := q.run(in, words, from, to, there, never); err != nil && !errors.Is(err, recording.ErrNothing) {
		return false, err
	}
	span := fmt.Sprintf("from %s to %s", stamp(from), stamp(to))
	if there.Calls > 0 {
		return true, q.write(out, there, counted(there.Calls)+q.whom()+" "+span+lost(there.Lost))
	}
	none := "No call is recorded " + span + lost(there.Lost)
	if there.Events > 0 {
		none = fmt.Sprintf("Of %s recorded %s none was refused%s", format.Count(there.Events, "call"), span, q.whom()) + lost(there.Lost)
	}
	if q.Path == "-" { // it is read only once
		return false, q.write(out, there, none)
	}
	near, err := q.nearest(in)
	if err != nil {
		return false, err
	}
	if before := near.Before(); there.Events == 0 && !before.IsZero() {
		none += fmt.Sprintf(" The last one before was at %s.", stamp(before))
	}
	at := near.Time()
	if at.IsZero() {
		return false, q.write(out, there, none+" Nothing that is recorded was refused"+q.whom()+".")
	}
	filter.FromNS = uint64(at.UnixNano())
	nearest := output.NewPast(&filter, at)
	if err := q.run(in, io.Discard, at, at, nearest, never); err != nil {
		return false, err
	}
	return false, q.write(out, nearest, none+" This is the nearest refusal"+q.whom()+".")
}

// nearest finds the nearest refusal, in more and more of the recording, for all of it takes long.
func (q *Question) nearest(in io.Reader) (*recording.Nearest, error) {
	for _, within := range []time.Duration{16 * q.Within, 256 * q.Within} {
		near := &recording.Nearest{Filter: &q.Filter, At: q.At}
		err := q.run(in, io.Discard, q.At.Add(-within), q.At.Add(within), near, near.Past)
		if err == nil && q.At.Sub(near.Time()).Abs() <= within {
			return near, nil
		} else if err != nil && !errors.Is(err, recording.ErrNothing) {
			return nil, err
		}
	}
	near := &recording.Nearest{Filter: &q.Filter, At: q.At}
	return near, q.run(in, io.Discard, time.Time{}, time.Time{}, near, near.Past)
}

// whom is about the filter.
func (q *Question) whom() string {
	switch {
	case len(q.Filter.PIDs) > 0:
		return fmt.Sprintf(" to process %d", q.Filter.PIDs[0])
	case len(q.Filter.UIDs) > 0:
		return fmt.Sprintf(" to uid %d", q.Filter.UIDs[0])
	}
	return ""
}

func never() bool { return false }

// run feeds a sink with what is recorded from one time to another one, until it has enough.
func (q *Question) run(in io.Reader, words io.Writer, from, to time.Time, sink pipeline.Sink, enough func() bool) error {
	recorded, err := recording.Open(q.Path, in, from, to)
	if err != nil {
		return err
	}
	defer recorded.Close()
	defer recorded.Tell(words)
	for trace, _ := recorded.Next(); trace != nil && !enough(); trace, _ = recorded.Next() {
		recorded.Tell(words)
		if err := pipeline.Run(trace.Events(), trace.Lost, sink); err != nil {
			return err
		}
	}
	return nil
}

// write writes what was refused, and in text what it comes to.
func (q *Question) write(out io.Writer, p *output.Past, sentence string) error {
	if err := p.Write(out, q.JSON, q.At); err != nil || q.JSON {
		return err
	}
	_, err := fmt.Fprintln(out, sentence)
	return err
}

func counted(calls int) string {
	if calls == 1 {
		return "1 call was refused"
	}
	return fmt.Sprintf("%d calls were refused", calls)
}

// lost ends a sentence, and doubts it where events were lost.
func lost(events uint64) string {
	switch events {
	case 0:
		return "."
	case 1:
		return ". 1 event was lost: a refusal may be that."
	}
	return fmt.Sprintf(". %d events were lost: a refusal may be among them.", events)
}

func stamp(t time.Time) string { return t.Format(time.DateTime) }
