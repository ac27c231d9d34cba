// Package gate makes a trace a step of a pipeline: it ends one after a number of rows, and
// tells whether it holds what must not be.
package gate

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/reason"
	"github.com/pinwatch/pinwatch/tracer/session"
)

// What must not be, as --fail-on names it.
const (
	Refused = "refused" // a limit refused a call
	Broken  = "broken"  // a rule was broken, for certain
	Lost    = "lost"    // events
)

// Causes are their names.
func Causes() []string { return []string{Refused, Broken, Lost} }

// Failed is the exit status where there was something of it.
const Failed = 3

// Gate is a sink, behind the one that shows the rows.
type Gate struct {
	failOn []string
	most   uint64 // rows; 0: no end
	filter *row.Filter
	all    row.Filter // without --violations
	rows   uint64
	found  map[string]uint64
}

// Add adds the flags.
func (g *Gate) Add(f *pflag.FlagSet) {
	value.Enums(f, &g.failOn, "fail-on", nil, Causes(), fmt.Sprintf("exit with %d if any of these was seen", Failed))
	f.Uint64Var(&g.most, "count", 0, "end after this `number` of events that are shown; 0: not for that")
}

// About explains the flags and the exit status.
const About = `With a COMMAND its exit status is passed on, 128 and the signal's number where one ended
it. That of a command that is ended with the trace, by --duration, --count or a signal, is
not. --fail-on makes it 3, whatever the command's, if there was among what is shown
(--violations left aside):
  refused  a call that a limit refused: RLIMIT_MEMLOCK or a memory cgroup's. One that
           failed for another reason, or an unknown one, is none
  broken   a verdict that is certain, and not ok
  lost     an event that the kernel could not hand over: the others may be incomplete
Status 1 is also that of a trace that could not be.`

// Begin has the gate count what passes a filter.
func (g *Gate) Begin(filter *row.Filter) {
	g.filter, g.all, g.found = filter, *filter, map[string]uint64{}
	g.all.Violations = false
}

// Enter counts an entry, and ends the trace with the last one wanted. What is no call, and
// what pinwatch itself does, does not count.
func (g *Gate) Enter(e *ledger.Entry) error {
	if e.Caller.Self || e.Kind == ledger.Preexisting || e.Kind == ledger.Closing || !g.all.Shows(e) {
		return nil
	}
	if e.Kind == ledger.Refusal && slices.Contains(g.failOn, Refused) && charging.OfRefusal(e).Outcome == reason.Limit {
		g.found[Refused]++
	}
	if e.Verdict != ledger.OK && !e.Uncertain {
		g.found[Broken]++
	}
	if g.filter.Shows(e) {
		g.rows++
	}
	if g.most > 0 && g.rows == g.most {
		return pipeline.ErrEnough
	}
	return nil
}

// Flush does nothing.
func (g *Gate) Flush(pipeline.View) error { return nil }

// Close takes what was lost.
func (g *Gate) Close(_ pipeline.View, lost uint64) error {
	g.found[Lost] = lost
	return nil
}

// Verdict says what there was of what must not be; "": nothing.
func (g *Gate) Verdict() string {
	var list []string
	for _, cause := range Causes() {
		if n := g.found[cause]; n > 0 && slices.Contains(g.failOn, cause) {
			list = append(list, fmt.Sprintf("%d %s", n, cause))
		}
	}
	return strings.Join(list, ", ")
}

// StatusOf is the exit status of a traced command, by the error of its trace: its own, or 128
// and the number of the signal that ended it, as shells have it. 0: it ended well, or
// with the trace.
func StatusOf(err error) int {
	var command *session.CommandError
	var exit *exec.ExitError
	if !errors.As(err, &exit) || errors.As(err, &command) && command.Stopped {
		return 0
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}
