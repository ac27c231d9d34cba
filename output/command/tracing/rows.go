package tracing

import (
	"io"

	"github.com/spf13/pflag"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
)

// Rows tell which rows of a trace are written, and how.
type Rows struct {
	Filter row.Filter
	JSON   bool
	pids   []uint
	uids   []uint
}

// Add adds all of them.
func (r *Rows) Add(f *pflag.FlagSet) {
	f.BoolVar(&r.JSON, "json", false, "write JSON lines instead of a table")
	f.UintSliceVar(&r.pids, "pid", nil, "show only these processes")
	f.UintSliceVar(&r.uids, "uid", nil, "show only these users")
	f.StringSliceVar(&r.Filter.Comms, "comm", nil, "show only commands with these names")
	f.StringVar(&r.Filter.Cgroup, "cgroup", "", "show only what is in this cgroup or charged to it, or to one below")
	AddContainers(f, &r.Filter.Containers)
	f.BoolVar(&r.Filter.Violations, "violations", false, "show only what breaks a rule")
	f.BoolVar(&r.Filter.Self, "include-self", false, "include pinwatch's own buffers (with --transport perf)")
	value.Renamed(f, "broken", "violations")
	value.Renamed(f, "own", "include-self")
}

// AddContainers adds the choice of containers, by what people call them.
func AddContainers(f *pflag.FlagSet, w *cgroup.Wanted) {
	f.StringSliceVar(&w.Pods, "pod", nil, "show only what is in these pods or charged to them, by name or uid")
	f.StringSliceVar(&w.Namespaces, "namespace", nil, "show only what is in pods of these namespaces or charged to them")
	f.StringSliceVar(&w.Containers, "container", nil, "show only what is in these containers or charged to them, by name or id (12 digits or more)")
}

// Writer returns a writer of rows, and completes the filter.
func (r *Rows) Writer(w io.Writer) (output.Writer, error) {
	for _, pid := range r.pids {
		r.Filter.PIDs = append(r.Filter.PIDs, uint32(pid))
	}
	for _, uid := range r.uids {
		r.Filter.UIDs = append(r.Filter.UIDs, uint32(uid))
	}
	if r.JSON {
		recording.Replayable(&r.Filter)
		return recording.NewWriter(w), nil
	}
	return output.NewTable(w)
}
