package pipeline

import (
	"errors"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// sink counts what it is given, and fails where it is told to.
type sink struct {
	entered, flushed int
	lost             uint64
	closed           bool
	summary          ledger.Summary
	fail             error
}

func (s *sink) Enter(*ledger.Entry) error { s.entered++; return s.fail }
func (s *sink) Flush(View) error          { s.flushed++; return nil }
func (s *sink) Close(now View, lost uint64) error {
	s.closed, s.lost, s.summary = true, lost, now.Summary()
	return nil
}

// events yields n mappings, all but the last of which are followed by another one, and
// then an error, if there is one.
func events(n int, failed error) func(func(ledger.Event, error) bool) {
	return func(yield func(ledger.Event, error) bool) {
		for i := range n {
			mapping := ledger.Event{
				Followed: i < n-1,
				User:     ledger.Reading{Before: int64(9 * i), After: int64(9 * (i + 1))},
				Process:  ledger.Reading{Owner: 1},
				Buffer:   ledger.Buffer{Key: uint64(i + 1), Pages: 9, Mappings: ledger.Count{After: 1}, Limits: ledger.Limits{Allowance: 516}},
			}
			if !yield(mapping, nil) {
				return
			}
		}
		if failed != nil {
			yield(ledger.Event{}, failed)
		}
	}
}

// One ledger feeds any number of sinks, each entry once, and they agree.
func TestRunFeedsAllSinks(t *testing.T) {
	a, b := &sink{}, &sink{}
	if err := Run(events(3, nil), func() uint64 { return 7 }, a, b); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*sink{a, b} {
		if s.entered != 3 || s.flushed != 1 || !s.closed || s.lost != 7 || s.summary.Events != 3 || s.summary.LiveUser != 27 {
			t.Errorf("%+v", s)
		}
	}
}

// A sink that has enough ends the trace well, for all sinks and with the same entry.
func TestRunEndsWhereASinkHasEnough(t *testing.T) {
	a, b := &sink{fail: ErrEnough}, &sink{}
	if err := Run(events(3, nil), func() uint64 { return 7 }, a, b); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*sink{a, b} {
		if s.entered != 1 || !s.closed || s.lost != 7 || s.summary.Events != 1 {
			t.Errorf("%+v", s)
		}
	}
	failed := errors.New("broken off")
	if err := Run(events(3, nil), func() uint64 { return 0 }, &sink{fail: ErrEnough}, &sink{fail: failed}); !errors.Is(err, failed) {
		t.Errorf("another sink's error: %v", err)
	}
}

// What breaks off is flushed and has no summary.
func TestRunEndsWithAnError(t *testing.T) {
	failed := errors.New("broken off")
	s := &sink{}
	if err := Run(events(2, failed), func() uint64 { return 0 }, s); !errors.Is(err, failed) || s.entered != 2 || s.flushed != 2 || s.closed {
		t.Errorf("%v; %+v", err, s)
	}
	s = &sink{fail: failed}
	if err := Run(events(2, nil), func() uint64 { return 0 }, s); !errors.Is(err, failed) || s.entered != 1 || s.closed {
		t.Errorf("%v; %+v", err, s)
	}
}
