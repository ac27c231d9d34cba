// Package row is what pinwatch tells of a trace: a row for each entry of the ledger, and
// one list of columns that describe themselves. Tables, JSON lines, recordings, top and
// the reference of fields are all made of that list.
package row

import (
	"encoding/json"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Version is the version of the columns. It changes when one changes its name, type or
// meaning; new columns do not change it.
const Version = 2

// Row is one line of output: a ledger entry, or what sums them up.
type Row struct {
	ledger.Entry

	Summary bool   // the last row: only the counters mean something
	Note    string // what there is to say about the row, in words
}

// Of is the row of an entry, without the note.
func Of(e *ledger.Entry) Row { return Row{Entry: *e} }

// Subsystem is a set of those whose rows have a column.
type Subsystem uint8

// The subsystems. What memory cgroups are charged for BPF objects while these are there
// is one of its own, for it costs more to watch.
const (
	Perf Subsystem = 1 << iota
	BPF
	Memcg
	Others // io_uring, AF_XDP and the rest, whose rows have their own names
	Summary

	calls = Perf | BPF | Memcg | Others
	all   = calls | Summary
)

var subsystemNames = [...]string{"perf", "bpf", "memcg", "others", "summary"}

// Names are those of all subsystems in the set.
func (s Subsystem) Names() []string {
	var names []string
	for i, name := range subsystemNames {
		if s>>i&1 != 0 {
			names = append(names, name)
		}
	}
	return names
}

// String is the names of the subsystems in the set, or what they have in common.
func (s Subsystem) String() string {
	switch s {
	case all:
		return "all"
	case calls:
		return "all calls"
	}
	return strings.Join(s.Names(), " ")
}

// MarshalJSON writes the names of the subsystems in the set.
func (s Subsystem) MarshalJSON() ([]byte, error) { return json.Marshal(s.Names()) }

// Watchable are the names of the subsystems that can be watched.
func Watchable() []string { return calls.Names() }

// Subsystem is whose row it is.
func (r *Row) Subsystem() Subsystem {
	if r.Summary {
		return Summary
	}
	return subsystemOf(&r.Entry)
}

func subsystemOf(e *ledger.Entry) Subsystem {
	switch {
	case e.Charger != ledger.NoCharger:
		return Others
	case e.Object == nil:
		return Perf
	case e.Kind == ledger.Growth:
		return Memcg
	}
	return BPF
}

// SubsystemName is how a row of an entry names its subsystem: a charger has a name of its own.
func SubsystemName(e *ledger.Entry) string {
	switch subsystemOf(e) {
	case Others:
		return string(e.Charger)
	case Perf:
		return subsystemNames[0]
	case BPF:
		return subsystemNames[1]
	}
	return subsystemNames[2]
}

func subsystemName(r *Row) string {
	if r.Summary {
		return subsystemNames[4]
	}
	return SubsystemName(&r.Entry)
}

// Filter tells which rows are shown. The ledger sees all events whatever is shown: the
// counters are shared.
type Filter struct {
	PIDs       []uint32
	UIDs       []uint32
	Comms      []string
	Command    bool          // only what descends from the traced command
	Violations bool          // only what breaks a rule
	Self       bool          // what pinwatch itself maps as well
	NoCalls    bool          // what is no call: what was mapped before the trace, whoever maps it, and what is closed
	Only       []string      // some of Watchable
	Cgroup     string        // only what is in this cgroup, or charged to it, or to one below
	Containers cgroup.Wanted // only what is in these, or charged to them
	FromNS     uint64        // only what returned then or later, as time_ns; what is no call is shown at any time
}

// Shows reports whether a row passes. Kinds of conditions are and-ed, the values
// of one are or-ed.
func (f *Filter) Shows(e *ledger.Entry) bool {
	preexisting := e.Kind == ledger.Preexisting
	if noCall := preexisting || e.Kind == ledger.Closing; noCall && !f.NoCalls || !noCall && e.TimeNS < f.FromNS {
		return false
	}
	return matches(f.PIDs, e.Caller.PID) && matches(f.UIDs, e.Caller.UID) && matches(f.Comms, e.Caller.Comm) &&
		(!f.Command || e.Caller.Command || e.Caller.Self || preexisting) && (f.Self || !e.Caller.Self) &&
		f.subsystem(e) && f.cgroup(e) && f.container(e) && (!f.Violations || e.Verdict != ledger.OK)
}

func (f *Filter) cgroup(e *ledger.Entry) bool {
	if f.Cgroup == "" || cgroup.Matches(e.Caller.Cgroup, f.Cgroup) {
		return true
	}
	o := e.Object
	return o != nil && (cgroup.Matches(o.Payers[0].Cgroup, f.Cgroup) || cgroup.Matches(o.Payers[1].Cgroup, f.Cgroup) ||
		cgroup.Matches(o.MapCgroup, f.Cgroup) || cgroup.Matches(o.LimitCgroup, f.Cgroup))
}

func (f *Filter) container(e *ledger.Entry) bool {
	if !f.Containers.Any() || f.Containers.Has(e.Caller.Cgroup, e.Caller.Names) {
		return true
	}
	o := e.Object
	return o != nil && (f.Containers.Has(o.Payers[0].Cgroup, o.Payers[0].Names) || f.Containers.Has(o.Payers[1].Cgroup, o.Payers[1].Names) ||
		f.Containers.Has(o.MapCgroup, o.MapNames) || f.Containers.Has(o.LimitCgroup, o.LimitNames))
}

// subsystem reports whether a row is of a wanted one. What memory cgroups were
// charged is told in the rows of the objects.
func (f *Filter) subsystem(e *ledger.Entry) bool {
	if len(f.Only) == 0 {
		return true
	}
	has := subsystemOf(e)
	if e.Object != nil && e.Object.Charged() != 0 {
		has |= Memcg
	}
	for _, name := range has.Names() {
		if matches(f.Only, name) {
			return true
		}
	}
	return false
}

func matches[T comparable](wanted []T, have T) bool {
	if len(wanted) == 0 {
		return true
	}
	for _, w := range wanted {
		if w == have {
			return true
		}
	}
	return false
}
