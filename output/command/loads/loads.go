// Package loads is the command line of the workloads: pinwatch workload.
package loads

import (
	"context"
	"io"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// load is one of the workloads.
type load struct {
	use     string
	short   string
	long    string
	example string
	hidden  bool
	// abrupt says that a signal ends it in the middle of it all: the kernel takes back
	// what it holds. The others stop by themselves, and put back what they changed.
	abrupt bool
	args   cobra.PositionalArgs // nil: none
	flags  func(f *pflag.FlagSet)
	run    func(ctx context.Context, to streams, args []string) error
}

// streams are what a workload writes: data and words.
type streams struct{ out, err io.Writer }

// Snapshots are how a workload comes to the state of the host: as other commands do.
type Snapshots struct {
	Flag func(f *pflag.FlagSet, source *string)
	Open func(ctx context.Context, source string) (*snapshot.Source, error)
}

// loads are all workloads. The flags of each fill a struct of its own, which it runs.
func loads(snapshots Snapshots) []load {
	return []load{
		perfBuffers(), twoProcesses(), crowd(), edges(), auxArea(), bpfMaps(), chargers(), soak(), trials(snapshots), refuse(), oneCall(), runAs(),
	}
}

// New makes the command, whose workloads write data to out and words to err.
func New(out, err io.Writer, snapshots Snapshots) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workload",
		Short: "Make processes that use locked memory, to see pinwatch work",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, l := range loads(snapshots) {
		cmd.AddCommand(l.command(streams{out, err}))
	}
	return cmd
}

func (l *load) command(to streams) *cobra.Command {
	cmd := &cobra.Command{Use: l.use, Short: l.short, Long: l.long, Example: l.example, Hidden: l.hidden, Args: l.args}
	if cmd.Args == nil {
		cmd.Args = cobra.NoArgs
	}
	abrupt, run := l.abrupt, l.run
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if abrupt {
			signal.Reset()
		}
		return run(cmd.Context(), to, args)
	}
	l.flags(cmd.Flags())
	return cmd
}

// addUser adds the flags of who maps, and with which limit.
func addUser(f *pflag.FlagSet, uid *int, memlock *int64, kib int64) {
	f.IntVar(uid, "uid", 65534, "user to become; -1: stay who you are")
	addMemlock(f, memlock, kib)
}

// addMemlock adds the flag of a process's limit.
func addMemlock(f *pflag.FlagSet, bytes *int64, kib int64) {
	*bytes = value.FromKiB(kib)
	value.KiB(f, bytes, "memlock-kib", "RLIMIT_MEMLOCK; -1: leave it alone", func(int64) error { return nil })
}

func perfBuffers() load {
	var p workload.PerfBuffers
	return load{
		use:   "perf-buffers",
		short: "Map perf buffers past the allowance until EPERM, then unmap them",
		long: `Maps one perf buffer after another, as an unprivileged user with the given
RLIMIT_MEMLOCK, until the kernel refuses, and unmaps them again. Run it as root:
it opens the events first and then becomes --uid.`,
		abrupt: true,
		flags: func(f *pflag.FlagSet) {
			addUser(f, &p.UID, &p.Memlock, 512)
			f.IntVar(&p.Pages, "pages", 64, "data pages of a buffer, a power of two")
			f.IntVar(&p.Max, "max", 0, "maximum number of buffers; 0: until refused")
			f.IntVar(&p.Again, "remaps", 0, "how many more times to map every buffer, and unmap it at once")
			f.DurationVar(&p.Hold, "hold", 0, "time between the last mapping and the first unmapping")
			f.DurationVar(&p.Pause, "pause", 0, "time between two steps")
			f.BoolVar(&p.JSON, "json", false, "write JSON lines")
			f.BoolVar(&p.Quiet, "quiet", false, "write nothing")
			value.Renamed(f, "again", "remaps")
		},
		run: func(_ context.Context, to streams, _ []string) error { return p.Run(to.out) },
	}
}

func oneCall() load {
	return load{
		use:   "call NAME [NAME=VALUE...]",
		short: "Make a system call, which may be refused, and write its errno as JSON",
		args:  cobra.MinimumNArgs(1), hidden: true,
		flags: func(*pflag.FlagSet) {},
		run:   func(_ context.Context, to streams, args []string) error { return workload.MakeCall(args, to.out) },
	}
}

func twoProcesses() load {
	var t workload.TwoProcesses
	return load{
		use:    "two-processes",
		short:  "Map one buffer in two processes, and unmap in a given order",
		abrupt: true,
		flags: func(f *pflag.FlagSet) {
			addUser(f, &t.UID, &t.Memlock, 16384)
			f.IntVar(&t.Pages, "pages", 1024, "data pages of the buffer, a power of two")
			f.BoolVar(&t.PayerFirst, "payer-first", false, "the process that paid unmaps first")
		},
		run: func(_ context.Context, to streams, _ []string) error { return t.Run(to.out) },
	}
}

func crowd() load {
	var c workload.Crowd
	return load{
		use:    "crowd",
		short:  "Have many processes map one buffer at once",
		abrupt: true,
		flags: func(f *pflag.FlagSet) {
			f.IntVar(&c.Processes, "processes", 24, "how many")
			f.IntVar(&c.Pages, "pages", 8192, "data pages of the buffer, a power of two")
			f.BoolVar(&c.AtOnce, "at-once", false, "let each unmap it at once. Linux 6.19 to 7.1 oops then: only where that does no harm")
		},
		run: func(context.Context, streams, []string) error { return c.Run() },
	}
}

func edges() load {
	var e workload.Edges
	return load{
		use:    "edges",
		short:  "Map over a buffer, move it, unmap it in parts, and fail in two ways",
		abrupt: true,
		flags: func(f *pflag.FlagSet) {
			addUser(f, &e.UID, &e.Memlock, 16384)
			f.IntVar(&e.Pages, "pages", 1024, "data pages of a buffer, a power of two")
		},
		run: func(_ context.Context, to streams, _ []string) error { return e.Run(to.out) },
	}
}

func auxArea() load {
	var a workload.AUX
	return load{
		use:    "aux",
		short:  "Map a buffer with an AUX area",
		abrupt: true,
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&a.PMU, "pmu", "intel_pt", "PMU with an AUX area")
			addUser(f, &a.UID, &a.Memlock, 16384)
			f.IntVar(&a.Pages, "pages", 8, "data pages, a power of two")
			f.IntVar(&a.AUXPages, "aux-pages", 1024, "AUX pages, a power of two")
			f.BoolVar(&a.DataFirst, "data-first", false, "unmap the data area first")
		},
		run: func(_ context.Context, to streams, _ []string) error { return a.Run(to.out) },
	}
}

func bpfMaps() load {
	var b workload.BPFMaps
	return load{
		use:   "bpf-maps",
		short: "Create BPF maps, and fill them",
		long: `Creates BPF maps of a type until there are --count of them or the kernel refuses,
sets elements in them, and closes them. Each costs exactly one BPF_MAP_CREATE.
Run it as root: it moves to --cgroup and sets the limit first, and then becomes
--uid with just --caps. With --from it fills a map that exists.`,
		example: `  pinwatch workload bpf-maps --type array --entries 4096 --uid 2000 --memlock-kib 512 --count 0
  pinwatch workload bpf-maps --type hash-noprealloc --cgroup /sys/fs/cgroup/a --pin /sys/fs/bpf/m --hold 10s
  pinwatch workload bpf-maps --from /sys/fs/bpf/m --update 1000 --cgroup /sys/fs/cgroup/b`,
		abrupt: true,
		flags: func(f *pflag.FlagSet) {
			value.Enum(f, &b.Type, "type", "array", workload.BPFMapTypes(), "type of the maps")
			f.StringVar(&b.Name, "name", "pinwatch_load", "name of the maps")
			f.Uint32Var(&b.Entries, "entries", 0, "max_entries, or a ring buffer's bytes; 0: what suits the type")
			f.Uint32Var(&b.KeySize, "key-size", 0, "bytes of a key; 0: what suits the type")
			f.Uint32Var(&b.ValueSize, "value-size", 0, "bytes of a value; 0: what suits the type")
			f.IntVar(&b.Count, "count", 1, "number of maps; 0: until refused")
			f.IntVar(&b.Update, "update", 0, "elements to set in every map")
			f.IntVar(&b.First, "first", 0, "number of the first element to set")
			f.StringVar(&b.From, "from", "", "update this map, an id or a pinned path, and create none")
			f.IntVar(&b.UID, "uid", -1, "user to become; -1: stay who you are")
			f.StringSliceVar(&b.Caps, "caps", []string{"cap_bpf", "cap_perfmon"}, "capabilities to keep as --uid")
			addMemlock(f, &b.Memlock, -1)
			f.StringVar(&b.Cgroup, "cgroup", "", "directory of a v2 cgroup to move to first; created if missing")
			f.Int64Var(&b.MemoryMax, "memory-max-bytes", -1, "memory.max to set for --cgroup; -1: leave it alone")
			f.StringVar(&b.Pin, "pin", "", "pin the map at this path; the second one at PATH-2, and so on")
			f.DurationVar(&b.Hold, "hold", 0, "time between the last creation and closing")
			f.DurationVar(&b.Pause, "pause", 0, "time between two maps")
			f.BoolVar(&b.Close, "close", false, "close each map before creating the next")
			f.BoolVar(&b.JSON, "json", false, "write JSON lines")
			f.BoolVar(&b.Quiet, "quiet", false, "write nothing")
		},
		run: func(_ context.Context, to streams, _ []string) error { return b.Run(to.out) },
	}
}

func chargers() load {
	var c workload.Chargers
	return load{
		use:   "chargers",
		short: "Keep all that charges locked_vm busy: io_uring, AF_XDP, MSG_ZEROCOPY, BPF, perf",
		long: `Makes and releases at random, as one user, what is charged as locked memory. Needs
root, and switches the loopback interface on: for guests and test machines.`,
		abrupt: true,
		flags: func(f *pflag.FlagSet) {
			f.IntVar(&c.UID, "uid", 2003, "user to become")
			addSeed(f, &c.Seed)
			f.DurationVar(&c.Duration, "duration", 3*time.Second, "how long")
			f.IntVar(&c.Pages, "pages", 16, "pages of each thing, a power of two")
		},
		run: func(_ context.Context, to streams, _ []string) error { return c.Run(to.err) },
	}
}

func addSeed(f *pflag.FlagSet, seed *uint64) { f.Uint64Var(seed, "seed", 1, "seed of all randomness") }

func soak() load {
	var w workload.Soak
	return load{
		use:   "soak",
		short: "Map, unmap, share, exit and die at random, as several users",
		long: `Runs processes of several users that map, unmap, share, redirect, exit and are
killed at random, while sysctls and limits change. Needs root, and changes
perf_event_mlock_kb and perf_event_paranoid, which it puts back: for guests and
test machines.`,
		flags: func(f *pflag.FlagSet) {
			addSeed(f, &w.Seed)
			f.DurationVar(&w.Duration, "duration", time.Minute, "how long")
			f.DurationVar(&w.Life, "life", 3*time.Second, "about how long a process lives")
			f.IntVar(&w.Processes, "processes", 2, "processes per user at a time")
			f.IntSliceVar(&w.UIDs, "uids", []int{2001, 2002}, "users")
			f.BoolVar(&w.Share, "share", false, "pass buffers between processes")
			f.BoolVar(&w.Sysctls, "sysctls", false, "change sysctls meanwhile")
		},
		run: func(ctx context.Context, to streams, _ []string) error { return w.Run(ctx, to.err) },
	}
}

func trials(snapshots Snapshots) load {
	var t workload.Trials
	var source string
	return load{
		use:   "trials",
		short: "Predict random mappings under random settings, and try them",
		long: `Predicts, by the rule that explain uses, what the kernel will say to random
mappings of several processes, under random limits, sysctls, CPUs and
capabilities, and tries each. Needs root, and changes perf_event_mlock_kb,
perf_event_paranoid and the online CPUs, which it puts back: for guests and
test machines.

Exit status: 0 if all predictions came true, 1 if not.`,
		hidden: true,
		flags: func(f *pflag.FlagSet) {
			addSeed(f, &t.Seed)
			f.IntVar(&t.Count, "count", 200, "how many")
			f.BoolVar(&t.NoCPUs, "no-cpus", false, "leave the CPUs online")
			f.StringVar(&t.PMU, "pmu", "", "PMU with an AUX area, to map these as well")
			snapshots.Flag(f, &source)
		},
		run: func(ctx context.Context, to streams, _ []string) (err error) {
			if t.Source, err = snapshots.Open(ctx, source); err != nil {
				return err
			}
			defer t.Source.Close()
			return t.Run(ctx, to.out)
		},
	}
}

func refuse() load {
	var r workload.Refuse
	return load{use: "refuse NAME", short: "Have the kernel refuse something, in each way that it knows", long: workload.RefuseHelp, hidden: true, args: cobra.MaximumNArgs(1), flags: r.Flags,
		run: func(ctx context.Context, to streams, args []string) error { return r.Main(ctx, to.out, args) }}
}

func runAs() load {
	var r workload.RunAs
	return load{
		use:     "run-as [flags] -- COMMAND [ARG...]",
		short:   "Run a command as another user with just the named capabilities",
		example: `  pinwatch workload run-as --uid 1000 --caps cap_bpf,cap_perfmon -- pinwatch trace`,
		args:    cobra.MinimumNArgs(1),
		flags: func(f *pflag.FlagSet) {
			f.IntVar(&r.UID, "uid", -1, "user to become; -1: stay who you are")
			f.StringSliceVar(&r.Caps, "caps", nil, "capabilities to keep")
		},
		run: func(_ context.Context, _ streams, command []string) error { return r.Exec(command) },
	}
}
