package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/output/command/tracing"
	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/output/objects"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/session"
)

// mapsOptions are those of maps.
type mapsOptions struct {
	*Streams
	tracing.Flags
	show  objects.Options
	watch time.Duration // 0: no trace
	since string        // file; "": none
}

func newMaps(s *Streams) *cobra.Command {
	o := mapsOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "maps",
		Short: "List BPF maps and programs: what they cost, who pays, who holds them",
		Long: `Lists all BPF maps and programs that exist. It traces nothing unless --watch says
so. What it cannot know is left empty, and explained on stderr. Who pays is read by a
BPF iterator (Linux 5.8), or by a kprobe that is attached for a moment.

  MEMLOCK  the kernel's own estimate (fdinfo): before Linux 5.11 what is charged
  CHARGED  what pinwatch saw the kernel charge, which takes a trace
  UID      of a map, who is charged (before 5.11); of a program, who loaded it
  CGROUP   the memory cgroup that a map is charged to (since 5.11); / is no limit.
           Of a container whose names are known: namespace/pod/container
  USES     the programs that use a map; the maps that a program uses
  PINNED   paths on the bpffs that are mounted here
  HOLDERS  processes that have it open, and links that hold a program

--orphans shows only what looks left behind, and says why in ORPHAN:
  a pin alone holds it      the kernel counts no reference but those of its pins
  payer's cgroup is gone    the cgroup that it was charged to was removed: its parent
                            pays, which CGROUP names
  payer does not hold it    processes have it open, but none of them is the user who
                            pays, or in the cgroup that pays or in one below
What cannot be known is not claimed, and said on stderr.

--by shows sums, the largest first: by the cgroup or the pod that pays, by the
directories of pins (in each of which an object counts), or by type. UNPAID is the
MEMLOCK of what no cgroup, or only the root, pays for.

--since compares with an earlier whole listing: what is not in the file is new, what is
there only is gone, and what has a larger MEMLOCK is grown. Filters choose from these.

Whether BPF memory is held against RLIMIT_MEMLOCK or charged to cgroups is found
out by an experiment: a child process creates one map.

Needs CAP_SYS_ADMIN, and CAP_SYS_PTRACE for the holders. Without them it shows what
is open in the processes that it may read.`,
		Example: `  pinwatch maps --sort memlock
  pinwatch maps --cgroup /system.slice --json
  pinwatch maps --type ringbuf --in-bytes
  pinwatch maps --orphans --by cgroup
  pinwatch maps --json >before.jsonl; sleep 1h; pinwatch maps --since before.jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runMaps(cmd.Context(), &o) },
	}
	f := cmd.Flags()
	o.AddBTF(f)
	f.DurationVar(&o.watch, "watch", 0, "trace for this time first, to know what is charged for the objects made meanwhile")
	value.Enum(f, &o.show.Sort, "sort", "id", objects.Sorts(), "order")
	types := slices.Compact(slices.Sorted(slices.Values(slices.Concat(bpfobj.MapTypes(), bpfobj.ProgramTypes()))))
	value.EnumsFunc(f, &o.show.Types, "type", nil, types, "show only these types, by the kernel's names, such as percpu_array", func(name string) error { return checkType(name, types) })
	f.StringSliceVar(&o.show.Names, "name", nil, "show only objects with these names")
	f.IntSliceVar(&o.show.PIDs, "pid", nil, "show only what these processes hold")
	f.StringVar(&o.show.Cgroup, "cgroup", "", "show only what is held in, or charged to, this cgroup or one below")
	tracing.AddContainers(f, &o.show.Containers)
	f.BoolVar(&o.show.Orphans, "orphans", false, "show only what looks left behind, and why (ORPHAN)")
	value.Enum(f, &o.show.By, "by", "", objects.Groupings(), "show sums instead")
	f.StringVar(&o.since, "since", "", "show only what is new, gone or grown since this `file`, a whole listing by --json, was written")
	f.BoolVar(&o.show.MapsOnly, "maps-only", false, "leave programs out")
	f.BoolVar(&o.show.ProgramsOnly, "progs-only", false, "leave maps out")
	f.BoolVar(&o.show.JSON, "json", false, "write JSON lines")
	f.BoolVar(&o.show.Bytes, "in-bytes", false, "write sizes as plain bytes")
	value.Renamed(f, "bytes", "in-bytes")
	cmd.MarkFlagsMutuallyExclusive("by", "since")
	return cmd
}

// checkType accepts the types that pinwatch has a name for, and what it calls those of
// newer kernels.
func checkType(name string, types []string) error {
	if slices.Contains(types, name) || strings.HasPrefix(name, "type ") {
		return nil
	}
	return errors.New("want " + value.Alternatives(types))
}

func runMaps(ctx context.Context, o *mapsOptions) (err error) {
	if err = o.show.Check(); err != nil {
		return usageError{err}
	}
	if o.since != "" {
		if o.show.Since, err = objects.ReadEarlierFile(o.since); err != nil {
			return err
		}
	}
	if o.show.Cgroup, err = cgroup.Named(o.show.Cgroup, cgroup.AnyHierarchy()); err != nil {
		return err
	}
	var charged map[bpfobj.ID]int64
	if o.watch > 0 {
		if charged, err = session.WatchObjects(ctx, o.watch, o.BTF); err != nil {
			return err
		}
	}
	listing, err := bpfobj.List(ctx, o.BTF)
	if err != nil {
		return err
	}
	listing.SetCharged(charged)
	for _, note := range objects.Notes(listing, o.show) {
		fmt.Fprintf(o.Err, "pinwatch: %s\n", note)
	}
	return objects.Write(o.Out, listing, o.show)
}
