// Package recording owns the format that traces are kept in: JSON lines, one for each
// row, and one at the end that sums them up.
//
// A line has the fields of its subsystem, all of them, each always of the same type and
// with its unit in its name; package row describes them. Version 2 is written. Version 1
// had the fields of all subsystems in every line, and some other names; it is still read.
//
// The file that record writes begins with a line of another kind (Header), which says what
// machine it is of, and may be compressed (Create). A file that ends in the middle of a line, or
// of a block, is read up to that (Reader.Torn).
//
// What a line says of verdicts and totals is for programs that read it: to replay it, the
// ledger finds out again.
package recording

import (
	"slices"

	"github.com/pinwatch/pinwatch/output/row"
)

// The versions that are read.
const (
	version1 = 1
	newest   = row.Version
)

// Everything is the filter of a recording: whatever happened, pinwatch's own buffers and
// what is no call among it.
func Everything() row.Filter { return row.Filter{Self: true, NoCalls: true} }

// Replayable has a filter pass what was mapped before the trace, and what is closed: without
// that, a replay would not know what a refund gives back, and what still counts.
func Replayable(f *row.Filter) { f.NoCalls = true }

// required are the fields without which a line is no event of its subsystem. Those of
// version 1 were the same for all.
func required(version int, s row.Subsystem) []string {
	every := []string{"v", "kind"}
	counters := []string{"user_extra_pages", "user_locked_pages", "lock_limit_pages"}
	perf := []string{"user_lock_limit_pages", "pinned_vm_pages"}
	switch {
	case version == version1 || s == row.Perf:
		return slices.Concat(every, counters, perf)
	case s == row.BPF:
		return slices.Concat(every, counters, []string{"object", "object_key", "regime"})
	case s == row.Memcg:
		return slices.Concat(every, []string{"object", "object_key"})
	case s == row.Others:
		return slices.Concat(every, counters)
	}
	return every
}
