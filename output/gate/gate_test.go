package gate

import (
	"errors"
	"fmt"
	"iter"
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/session"
)

// gate is one by its flags, for what passes a filter.
func gate(t *testing.T, filter *row.Filter, args ...string) *Gate {
	t.Helper()
	g := &Gate{}
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	g.Add(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	g.Begin(filter)
	return g
}

// refusal is a buffer of some pages that did not fit.
func refusal(errno int32, limit int64) ledger.Event {
	return ledger.Event{
		Errno:  errno,
		Caller: ledger.Caller{UID: 1001, LockLimit: limit},
		Buffer: ledger.Buffer{Key: 1, Pages: 9, Extra: 9, Limits: ledger.Limits{}},
	}
}

// charge is one of 9 pages to the user; what is more goes to the process.
func charge(uid uint32, charged int64) ledger.Event {
	return ledger.Event{
		Caller: ledger.Caller{UID: uid, LockLimit: 100},
		User:   ledger.Reading{Owner: uint64(uid), After: 9}, Process: ledger.Reading{Owner: 1, After: charged - 9},
		Buffer: ledger.Buffer{Key: 1, Pages: 9, Extra: charged - 9, Mappings: ledger.Count{After: 1}, Limits: ledger.Limits{Allowance: 516}},
	}
}

func events(list ...ledger.Event) iter.Seq2[ledger.Event, error] {
	return func(yield func(ledger.Event, error) bool) {
		for _, ev := range list {
			if !yield(ev, nil) {
				return
			}
		}
	}
}

func TestFailOn(t *testing.T) {
	const all = "refused,broken,lost"
	own := charge(1001, 27)
	own.Caller.Self = true
	uncertain := charge(1001, 12)
	uncertain.User.Shared = true
	older := charge(1001, 27)
	older.Op = ledger.AlreadyMapped
	for _, c := range []struct {
		name   string
		events []ledger.Event
		lost   uint64
		failOn string
		filter row.Filter
		want   string
	}{
		{"nothing happens", nil, 0, all, row.Filter{}, ""},
		{"all is well", []ledger.Event{charge(1001, 9)}, 0, all, row.Filter{}, ""},
		{"a limit refuses", []ledger.Event{refusal(int32(rule.EPERM), 4)}, 0, all, row.Filter{}, "1 refused"},
		{"that was not asked for", []ledger.Event{refusal(int32(rule.EPERM), 4)}, 0, "broken,lost", row.Filter{}, ""},
		{"not where only what is broken is shown", []ledger.Event{refusal(int32(rule.EPERM), 4)}, 0, all, row.Filter{Violations: true}, "1 refused"},
		{"another user's", []ledger.Event{refusal(int32(rule.EPERM), 4)}, 0, all, row.Filter{UIDs: []uint32{7}}, ""},
		{"another reason", []ledger.Event{refusal(22, 4)}, 0, all, row.Filter{}, ""},
		{"a rule is broken", []ledger.Event{charge(1001, 27)}, 0, all, row.Filter{}, "1 broken"},
		{"perhaps", []ledger.Event{uncertain}, 0, all, row.Filter{}, ""},
		{"by pinwatch", []ledger.Event{own}, 0, all, row.Filter{Self: true}, ""},
		{"before the trace", []ledger.Event{older}, 0, all, row.Filter{NoCalls: true}, ""},
		{"events are lost", []ledger.Event{charge(1001, 9)}, 3, all, row.Filter{}, "3 lost"},
		{"that was not asked for either", nil, 3, "refused,broken", row.Filter{}, ""},
		{"nothing was", []ledger.Event{charge(1001, 27)}, 3, "", row.Filter{}, ""},
		{"two of them", []ledger.Event{refusal(int32(rule.EPERM), 4), charge(1001, 27)}, 0, all, row.Filter{}, "1 refused, 1 broken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var args []string
			if c.failOn != "" {
				args = []string{"--fail-on", c.failOn}
			}
			g := gate(t, &c.filter, args...)
			if err := pipeline.Run(events(c.events...), func() uint64 { return c.lost }, g); err != nil {
				t.Fatal(err)
			}
			if got := g.Verdict(); got != c.want {
				t.Errorf("%q; want %q", got, c.want)
			}
		})
	}
}

// A trace ends with the last event wanted, of those that are shown.
func TestCount(t *testing.T) {
	var list []ledger.Event
	for i := range uint64(20) {
		ev := charge(uint32(1001+i%2), 9)
		ev.Buffer.Key = i + 1
		list = append(list, ev)
	}
	for _, c := range []struct {
		args   string
		filter row.Filter
		rows   uint64
		events uint64
	}{
		{"", row.Filter{}, 20, 20},
		{"--count 0", row.Filter{}, 20, 20},
		{"--count 3", row.Filter{}, 3, 3},
		{"--count 3", row.Filter{UIDs: []uint32{1002}}, 3, 6},
		{"--count 30", row.Filter{}, 20, 20},
	} {
		g := gate(t, &c.filter, strings.Fields(c.args)...)
		sum := &summary{}
		if err := pipeline.Run(events(list...), func() uint64 { return 0 }, sum, g); err != nil {
			t.Fatal(err)
		}
		if g.rows != c.rows || sum.Events != c.events {
			t.Errorf("%q, %+v: %d rows of %d events; want %d of %d", c.args, c.filter, g.rows, sum.Events, c.rows, c.events)
		}
	}
}

// summary is a sink that keeps the summary.
type summary struct{ ledger.Summary }

func (*summary) Enter(*ledger.Entry) error { return nil }
func (*summary) Flush(pipeline.View) error { return nil }
func (s *summary) Close(now pipeline.View, _ uint64) error {
	s.Summary = now.Summary()
	return nil
}

func TestStatusOf(t *testing.T) {
	run := func(script string, stopped bool) error {
		if err := exec.Command("sh", "-c", script).Run(); err != nil {
			return &session.CommandError{Name: "sh", Err: err, Stopped: stopped}
		}
		return nil
	}
	for _, c := range []struct {
		name string
		err  error
		want int
	}{
		{"well", run("exit 0", false), 0},
		{"its own", run("exit 7", false), 7},
		{"a signal", run("kill -9 $$", false), 137},
		{"ended with the trace", run("kill -15 $$", true), 0},
		{"that it does not say", fmt.Errorf("trace: %w", run("exit 7", true)), 0},
		{"wrapped", fmt.Errorf("trace: %w", run("exit 7", false)), 7},
		{"no command's", errors.New("no such file"), 0},
	} {
		if got := StatusOf(c.err); got != c.want {
			t.Errorf("%s: %v: %d; want %d", c.name, c.err, got, c.want)
		}
	}
}
