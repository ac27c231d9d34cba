// Pinwatch shows how Linux charges locked memory, says who is refused and why,
// and whether this kernel accounts it right.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/output/top/terminal"
	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/doctor"
	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/session"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
	"github.com/pinwatch/pinwatch/tracer/transport"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// The exit codes. A command that has others documents them.
const (
	exitFailure = 1
	exitUsage   = 2
)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

// exitCode is a command's own exit code; there is nothing more to say.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit %d", int(e)) }

func main() {
	if guest.IsInit() {
		guest.Init()
	}
	// Go sets GOMAXPROCS from the cgroup by itself, but no memory limit.
	memlimit.Set(memlimit.WithProvider(memlimit.FromCgroup))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	err := root().ExecuteContext(ctx)
	var code exitCode
	var usage usageError
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	case errors.Is(err, unix.EPIPE): // the reader has seen enough
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "pinwatch: %v\n", err)
		os.Exit(exitUsage)
	default:
		fmt.Fprintf(os.Stderr, "pinwatch: %v\n", err)
		os.Exit(exitFailure)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pinwatch",
		Short: "Watch Linux charge locked memory",
		Long: `Pinwatch watches the kernel charge pages to user_struct.locked_vm and
mm_struct.pinned_vm, compares every charge with what the accounting is meant to
be, and says who was charged, who was refused and why, and whether this kernel
gets it wrong. It changes nothing. Amounts are pages.

Exit status: 0 fine, 1 failure, 2 wrong usage.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
	})
	cmd.AddCommand(topCommand(), traceCommand(), recordCommand(), replayCommand(), mapsCommand(), explainCommand(), checkCommand(), checkActorCommand(), checkWatchdogCommand(), doctorCommand(), guestCommand(), workloadCommand(), versionCommand())
	wrapArgs(cmd)
	return cmd
}

// wrapArgs makes wrong arguments usage errors.
func wrapArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		wrapArgs(sub)
	}
}

// outputFlags are what trace and replay share.
type outputFlags struct {
	path   string   // "": the standard output
	file   *os.File // what is written to, once there is a writer
	json   bool
	filter output.Filter
	pids   []uint
	uids   []uint
}

func (o *outputFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.json, "json", false, "write JSON lines instead of a table")
	f.UintSliceVar(&o.pids, "pid", nil, "show only these processes")
	f.UintSliceVar(&o.uids, "uid", nil, "show only these users")
	f.StringSliceVar(&o.filter.Comms, "comm", nil, "show only commands with these names")
	f.BoolVar(&o.filter.Own, "own", false, "show what pinwatch itself maps, too (with --transport perf)")
	f.StringVar(&o.filter.Cgroup, "cgroup", "", "show only what is in this cgroup or charged to it, or to one below")
	f.BoolVar(&o.filter.Broken, "broken", false, "show only what breaks a rule")
}

func (o *outputFlags) writer() (output.Writer, error) {
	for _, pid := range o.pids {
		o.filter.PIDs = append(o.filter.PIDs, uint32(pid))
	}
	for _, uid := range o.uids {
		o.filter.UIDs = append(o.filter.UIDs, uint32(uid))
	}
	o.file = os.Stdout
	if o.path != "" {
		file, err := os.Create(o.path)
		if err != nil {
			return nil, err
		}
		o.file = file
	}
	if o.json {
		o.filter.Older = true
		return output.NewJSON(o.file), nil
	}
	return output.NewTable(o.file)
}

// kernelFlags say how to trace a kernel.
func kernelFlags(cmd *cobra.Command, opts *tracer.Options) {
	f := cmd.Flags()
	f.StringVar(&opts.BTF, "btf", "", "file with the kernel's types, for a kernel without BTF")
	f.StringVar(&opts.Attach, "attach", tracer.AttachAuto, "how to attach: auto, fentry or kprobe")
	f.StringVar(&opts.Transport, "transport", transport.Auto, "how events come from the kernel: auto, ringbuf or perf")
}

// addOnly adds the flag that says what to watch.
func addOnly(cmd *cobra.Command, only *[]string) {
	cmd.Flags().StringSliceVar(only, "only", []string{"perf", "bpf", "others"}, "what to watch: perf, bpf (maps and programs), memcg (what memory cgroups are charged for them), others (io_uring, AF_XDP and more)")
}

func watchOnly(opts *tracer.Options, only []string) error {
	for _, name := range only {
		if !slices.Contains(output.Subsystems(), name) {
			return usageError{fmt.Errorf("--only %s: want %s", name, strings.Join(output.Subsystems(), ", "))}
		}
		opts.Memcg = opts.Memcg || name == "memcg"
		opts.BPF = opts.BPF || name == "bpf" || opts.Memcg
		opts.Others = opts.Others || name == "others"
	}
	return nil
}

func traceCommand() *cobra.Command {
	var opts tracer.Options
	var out outputFlags
	var duration time.Duration
	var bufferKiB uint32
	cmd := &cobra.Command{
		Use:   "trace [flags] [-- COMMAND [ARG...]]",
		Short: "Show every charge, refund and refusal as it happens",
		Long: `Shows one row per charge, refund or refusal of a perf buffer, with the values that
perf_mmap() decides on, and a verdict; and what BPF objects, io_uring, AF_XDP and
others charge. Ends with Ctrl-C, after --duration, or with COMMAND, and then
prints a summary. What was mapped before is known from a snapshot: it gets its
verdict when it is unmapped, and the summary says whose the rest is.

  USER_LOCKED  pages charged to the user, and this mapping's
  EXTRA        the part beyond the user's allowance, charged to the process
  PINNED_VM    pages charged to the process before the call
  LOCK_LIMIT   RLIMIT_MEMLOCK in pages
  VERDICT      ok, or the rule that the kernel broke; a "?" marks a verdict that
               rests on a counter which something else moved meanwhile

Needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN.`,
		Example: `  pinwatch trace
  pinwatch trace --uid 1000 --json > trace.jsonl
  pinwatch trace --only bpf,memcg --cgroup /web.slice
  pinwatch trace -- perf record -a sleep 1`,
		Args: commandAfterDash,
		RunE: func(cmd *cobra.Command, command []string) error {
			opts.BufferBytes = bufferKiB << 10
			if err := watchOnly(&opts, out.filter.Only); err != nil {
				return err
			}
			return trace(cmd.Context(), opts, &out, duration, command)
		},
	}
	out.add(cmd)
	f := cmd.Flags()
	f.DurationVar(&duration, "duration", 0, "stop after this time, such as 30s; 0: when told to")
	kernelFlags(cmd, &opts)
	addOnly(cmd, &out.filter.Only)
	f.Uint32Var(&bufferKiB, "buffer-kib", 0, "buffer between kernel and pinwatch, a power of two; 0: 4096 for the ring buffer, 256 per CPU for the perf array")
	return cmd
}

// trace shows what happens from when the trace is open, for a time; 0: until it is
// told to stop.
func trace(ctx context.Context, opts tracer.Options, out *outputFlags, duration time.Duration, command []string) error {
	out.filter.Command = len(command) > 0
	s, err := session.Open(ctx, opts, snapshot.Options{BTF: opts.BTF}, command)
	if err != nil {
		return err
	}
	defer s.Close()
	w, err := out.writer()
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "pinwatch: watching %s\n", s.Attached())
	for _, what := range s.Degraded() {
		fmt.Fprintf(os.Stderr, "pinwatch: %s\n", what)
	}
	if duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, duration)
		defer cancel()
	}
	return s.Run(ctx, func(events iter.Seq2[ledger.Event, error]) error {
		_, err := output.Stream(events, func() uint64 { return s.Losses().Total() }, &out.filter, w)
		return err
	})
}

func replayCommand() *cobra.Command {
	var out outputFlags
	cmd := &cobra.Command{
		Use:   "replay [flags] FILE",
		Short: "Run a recording through the ledger again",
		Long: `Reads what "pinwatch trace --json" wrote, and runs it through the same ledger and
the same outputs, on any machine and without privileges. FILE may be - for the
standard input.`,
		Example: `  pinwatch trace --json > trace.jsonl
  pinwatch replay trace.jsonl`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			in := os.Stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			w, err := out.writer()
			if err != nil {
				return err
			}
			recording := output.NewRecording(in)
			if _, err := output.Stream(recording.Events(), recording.Lost, &out.filter, w); err != nil {
				return fmt.Errorf("replay %s: %w", args[0], err)
			}
			return nil
		},
	}
	out.add(cmd)
	return cmd
}

func mapsCommand() *cobra.Command {
	var opts output.MapsOptions
	var watch time.Duration
	cmd := &cobra.Command{
		Use:   "maps",
		Short: "List BPF maps and programs: what they cost, who pays, who holds them",
		Long: `Lists all BPF maps and programs that exist. It traces nothing but with --watch. What
it cannot know is left empty, and explained on stderr.

  MEMLOCK  the kernel's own estimate (fdinfo): before Linux 5.11 what is charged
  CHARGED  what pinwatch saw the kernel charge, which takes a trace
  UID      of a map, who is charged (before 5.11); of a program, who loaded it
  CGROUP   the memory cgroup that a map is charged to (since 5.11); / is no limit
  USES     the programs that use a map; the maps that a program uses
  PINNED   paths on the bpffs that are mounted here
  HOLDERS  processes that have it open, and links that hold a program

Whether BPF memory is held against RLIMIT_MEMLOCK or charged to cgroups is
tried out with one map in a child process.

Needs CAP_SYS_ADMIN, and CAP_SYS_PTRACE for the holders; without, it shows what
the processes that it may read have open.`,
		Example: `  pinwatch maps --sort memlock
  pinwatch maps --cgroup /system.slice --json
  pinwatch maps --type ringbuf --bytes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.Check(); err != nil {
				return usageError{err}
			}
			var charged map[tracer.ObjectID]int64
			if watch > 0 {
				var err error
				if charged, err = tracer.WatchObjects(cmd.Context(), watch); err != nil {
					return err
				}
			}
			listing, err := bpfobj.List(cmd.Context())
			if err != nil {
				return err
			}
			for i := range listing.Objects {
				o := &listing.Objects[i]
				o.Charged, o.ChargedKnown = charged[tracer.ObjectID{ID: o.ID, Program: o.Kind == bpfobj.KindProgram}]
			}
			for _, note := range output.MapsNotes(listing) {
				fmt.Fprintf(os.Stderr, "pinwatch: %s\n", note)
			}
			return output.Maps(os.Stdout, listing, opts)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&watch, "watch", 0, "trace for this time first, to know what is charged for the objects made meanwhile")
	f.StringVar(&opts.Sort, "sort", "id", "order: "+strings.Join(output.MapsSorts(), ", "))
	f.StringSliceVar(&opts.Types, "type", nil, "show only these types, by the kernel's names, such as percpu_array")
	f.StringSliceVar(&opts.Names, "name", nil, "show only objects with these names")
	f.IntSliceVar(&opts.PIDs, "pid", nil, "show only what these processes hold")
	f.StringVar(&opts.Cgroup, "cgroup", "", "show only what is held in, or charged to, this cgroup or one below")
	f.BoolVar(&opts.MapsOnly, "maps-only", false, "leave programs out")
	f.BoolVar(&opts.ProgramsOnly, "progs-only", false, "leave maps out")
	f.BoolVar(&opts.JSON, "json", false, "write JSON lines")
	f.BoolVar(&opts.Bytes, "bytes", false, "write sizes as plain bytes")
	cmd.AddCommand(&cobra.Command{
		Use:    "probe-rlimit",
		Short:  "Try whether RLIMIT_MEMLOCK holds BPF maps",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return bpfobj.ProbeRlimit(os.Stdout) },
	})
	return cmd
}

// explainFlags are the options of explain.
type explainFlags struct {
	pid, uid     int
	dataPages    int64
	bytes        string
	perCPU, aux  bool
	json         bool
	source       string
	trace        tracer.Options
	snapshotOpts snapshot.Options
}

func explainCommand() *cobra.Command {
	var e explainFlags
	cmd := &cobra.Command{
		Use:   "explain [flags] [-- COMMAND [ARG...]]",
		Short: "Say why a perf buffer is refused, who holds the allowance, and what helps",
		Long: `Applies the rule of perf_mmap() to this machine's numbers: would a perf buffer of
this size be refused to this process, or to a new process of this user, by which
limit, and by how much; how many still fit; who holds the user's allowance; and
which smallest change would help, as the exact setting for a shell, systemd,
Docker and Kubernetes. With a command, traces it and explains its refusals.

Without a process or a user it is about the user who asks. Sizes are of the data
area; the control page is added.

The state of the host comes from BPF iterators (Linux 5.8; CAP_BPF and
CAP_PERFMON, or CAP_SYS_ADMIN), else from /proc: then users' counters are
estimated, and what this user may not see is named.

Exit status: 0 if the buffers are allowed, or nothing was refused to the command;
1 if refused, or on failure.`,
		Example: `  pinwatch explain --pid 4711 --buffer 512K --per-cpu
  pinwatch explain --uid 1000
  pinwatch explain -- perf record -a sleep 1`,
		Args: commandAfterDash,
		RunE: func(cmd *cobra.Command, command []string) error {
			if err := chooseSource(&e.snapshotOpts, e.source); err != nil {
				return err
			}
			e.snapshotOpts.BTF = e.trace.BTF
			if len(command) > 0 {
				return explainTraced(cmd.Context(), &e, command)
			}
			return explain(cmd.Context(), &e)
		},
	}
	f := cmd.Flags()
	f.IntVar(&e.pid, "pid", 0, "the process that maps")
	f.IntVar(&e.uid, "uid", os.Getuid(), "the user of a new process that maps")
	f.Int64Var(&e.dataPages, "pages", 0, "data pages of a buffer")
	f.StringVar(&e.bytes, "buffer", "512K", "size of a buffer's data")
	f.BoolVar(&e.perCPU, "per-cpu", false, "one buffer for every CPU that is online")
	f.BoolVar(&e.aux, "aux", false, "AUX areas instead of data areas")
	f.BoolVar(&e.json, "json", false, "write JSON")
	f.StringVar(&e.trace.BTF, "btf", "", "file with the kernel's types, for a kernel without BTF")
	addSource(cmd, &e.source)
	cmd.MarkFlagsMutuallyExclusive("pid", "uid")
	cmd.MarkFlagsMutuallyExclusive("pages", "buffer")
	return cmd
}

func (e *explainFlags) ask(s *snapshot.Snapshot) (advice.Ask, error) {
	size, err := advice.ParseSize(e.bytes)
	if err != nil {
		return advice.Ask{}, usageError{fmt.Errorf("--buffer: %w", err)}
	}
	if e.dataPages == 0 {
		e.dataPages = (size + int64(s.PageSize) - 1) / int64(s.PageSize)
	}
	return advice.NewAsk(s, uint32(e.pid), uint32(e.uid), e.dataPages, e.perCPU, e.aux), nil
}

func explain(ctx context.Context, e *explainFlags) error {
	s, err := snapshot.Take(ctx, e.snapshotOpts)
	if err != nil {
		return err
	}
	ask, err := e.ask(s)
	if err != nil {
		return err
	}
	x, err := advice.Explain(s, snapshot.Inspect(e.snapshotOpts, ask.PID), ask)
	if err != nil {
		return err
	}
	if err := output.Advice(os.Stdout, x, e.json); err != nil {
		return err
	}
	if !x.Verdict.Allowed {
		return exitCode(exitFailure)
	}
	return nil
}

func explainTraced(ctx context.Context, e *explainFlags, command []string) error {
	s, err := session.Open(ctx, e.trace, e.snapshotOpts, command)
	if err != nil {
		return err
	}
	defer s.Close()
	refused := 0
	err = s.Run(ctx, func(events iter.Seq2[ledger.Event, error]) (err error) {
		refused, err = output.ExplainRefusals(os.Stdout, events,
			func() (*snapshot.Snapshot, error) { return s.State.Take(context.Background()) },
			func(pid uint32) *snapshot.Facts { return snapshot.Inspect(e.snapshotOpts, pid) }, e.json)
		return err
	})
	if err == nil && refused > 0 {
		return exitCode(exitFailure)
	}
	return err
}

// commandAfterDash allows arguments only as a command behind --.
func commandAfterDash(cmd *cobra.Command, args []string) error {
	if err := cmd.ValidateFlagGroups(); err != nil {
		return err
	}
	if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
		return fmt.Errorf("unexpected %q: a command to trace comes after --", args[0])
	}
	return nil
}

func recordCommand() *cobra.Command {
	var opts tracer.Options
	var duration time.Duration
	var bufferKiB uint32
	var only []string
	cmd := &cobra.Command{
		Use:   "record [flags] FILE [-- COMMAND [ARG...]]",
		Short: "Keep a trace in a file, for replay and top --replay",
		Long: `Writes what "pinwatch trace --json" writes to FILE, until Ctrl-C, for --duration,
or until COMMAND ends, and what pinwatch itself maps. FILE is only written once
tracing has begun; one that is there is replaced.

Needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN. Nobody needs anything to read
the recording.`,
		Example: `  pinwatch record trace.jsonl --duration 30s
  pinwatch record trace.jsonl -- perf record -a sleep 1
  pinwatch top --replay trace.jsonl
  pinwatch replay trace.jsonl`,
		Args: func(cmd *cobra.Command, args []string) error {
			if named := cmd.ArgsLenAtDash(); len(args) == 0 || named != 1 && (named != -1 || len(args) != 1) {
				return errors.New("want one FILE to write, and a command to trace only after --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.BufferBytes = bufferKiB << 10
			if err := watchOnly(&opts, only); err != nil {
				return err
			}
			return record(cmd.Context(), opts, args[0], duration, args[1:])
		},
	}
	f := cmd.Flags()
	f.DurationVar(&duration, "duration", 0, "stop after this time, such as 30s; 0: when told to")
	kernelFlags(cmd, &opts)
	addOnly(cmd, &only)
	f.Uint32Var(&bufferKiB, "buffer-kib", 0, "buffer between kernel and pinwatch, a power of two; 0: what suits the transport")
	return cmd
}

// record is a trace to a file.
func record(ctx context.Context, opts tracer.Options, path string, duration time.Duration, command []string) error {
	out := outputFlags{json: true, path: path, filter: output.Filter{Own: true}}
	if err := trace(ctx, opts, &out, duration, command); err != nil {
		return err
	}
	if err := out.file.Close(); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "pinwatch: recorded in %s; look at it with: pinwatch top --replay %[1]s\n", path)
	return nil
}

// topFlags are those of top, besides what the view itself takes.
type topFlags struct {
	view      top.Options
	views     []string
	trace     tracer.Options
	bufferKiB uint32
	replay    string
	batch     bool
	count     int
}

func topCommand() *cobra.Command {
	var t topFlags
	cmd := &cobra.Command{
		Use:   "top [flags]",
		Short: "Watch who holds locked memory, and who is refused",
		Long: `Shows who holds locked memory, now and as it changes: processes, users, cgroups,
BPF objects and live events. What existed before pinwatch started is there too.
With --replay it shows a recording, without privileges, anywhere. Where the
standard output is no terminal, it writes plain tables (--batch).

Keys:
` + indent(top.Keys) + `

Tracing needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN. Without them top shows
what /proc tells, and says so.`,
		Example: `  pinwatch top
  pinwatch top -b -n 3 -d 5s --view processes,users
  pinwatch record trace.jsonl; pinwatch top --replay trace.jsonl --speed 0.5`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if err := t.check(); err != nil {
				return usageError{fmt.Errorf("%w (see pinwatch top --help)", err)}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if t.replay != "" {
				return t.runReplay(cmd.Context())
			}
			return t.runLive(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&t.replay, "replay", "", "show this recording of trace --json or record; - for the standard input")
	f.Float64Var(&t.view.Speed, "speed", 1, "of --replay: 1 as recorded, 2 twice as fast; 0: as fast as it goes")
	f.BoolVar(&t.view.Paused, "paused", false, "of --replay: begin paused; n steps")
	f.BoolVarP(&t.batch, "batch", "b", false, "write plain tables, also to a terminal")
	f.IntVarP(&t.count, "count", "n", 0, "of --batch: so many screens; 0: until stopped, or the last one of a recording")
	f.DurationVarP(&t.view.Interval, "interval", "d", 2*time.Second, "between two refreshes; of a recording, in its own time")
	f.StringSliceVar(&t.views, "view", []string{"processes"}, "what to show first, and in a batch all of: "+strings.Join(top.ViewNames(), ","))
	f.StringVar(&t.view.Sort, "sort", "", "column to sort by")
	f.StringVar(&t.view.Filter, "filter", "", "only rows that hold this in a name, a pid, a uid or a verdict")
	f.BoolVar(&t.view.All, "all", false, "idle processes and users too")
	f.BoolVar(&t.view.Bytes, "bytes", false, "amounts in bytes, not pages")
	f.StringVar(&t.trace.BTF, "btf", "", "file with the kernel's types, for a kernel without BTF")
	f.StringVar(&t.trace.Attach, "attach", tracer.AttachAuto, "how to attach: auto, fentry or kprobe")
	f.Uint32Var(&t.bufferKiB, "buffer-kib", 4096, "ring buffer between kernel and pinwatch, a power of two")
	return cmd
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

// check finds wrong usage before anything is opened.
func (t *topFlags) check() error {
	switch {
	case t.view.Interval < 10*time.Millisecond:
		return fmt.Errorf("--interval %s: want at least 10ms", t.view.Interval)
	case t.view.Paused && t.replay == "":
		return errors.New("--paused goes with --replay")
	case t.view.Speed < 0 || t.count < 0 || len(t.views) == 0:
		return errors.New("--speed and --count cannot be negative, nor --view empty")
	}
	for _, name := range t.views {
		if _, err := top.New(top.Options{View: name}); err != nil {
			return err
		}
	}
	t.view.View = t.views[0]
	_, err := top.New(t.view)
	return err
}

func (t *topFlags) runReplay(ctx context.Context) error {
	in := os.Stdin
	if t.replay != "-" {
		f, err := os.Open(t.replay)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	t.view.Replay, t.view.Title = true, filepath.Base(t.replay)
	if err := t.show(ctx, &terminal.Replay{In: in, Speed: t.view.Speed, Paused: t.view.Paused, Interval: t.view.Interval}); err != nil {
		return fmt.Errorf("replay %s: %w", t.replay, err)
	}
	return nil
}

func (t *topFlags) runLive(ctx context.Context) error {
	t.trace.BufferBytes = t.bufferKiB << 10
	source := &terminal.Live{Interval: t.view.Interval, Objects: terminal.Objects(bpfobj.ListHeld),
		Container: func(path string) string { return cgroup.Identify(path).ContainerID }}
	s, err := session.Open(ctx, t.trace, snapshot.Options{BTF: t.trace.BTF}, nil)
	if err == nil {
		defer s.Close()
		source.Tracer, source.Snapshot = s.Tracer, s.State.Take
		t.view.Attach = s.Attach() + ", " + s.Transport()
	} else {
		source.Untraced = err
		state, err := snapshot.Open(snapshot.Options{BTF: t.trace.BTF})
		if err != nil {
			return err
		}
		defer state.Close()
		source.Snapshot = state.Take
	}
	t.view.Title = "Linux " + kernel.Release()
	return t.show(ctx, source)
}

// show shows a source on the terminal, or as plain tables where there is none.
func (t *topFlags) show(ctx context.Context, source terminal.Source) error {
	if t.batch || !terminal.Is(os.Stdout) {
		if replay, ok := source.(*terminal.Replay); ok {
			replay.Speed, replay.Paused, t.view.Paused = 0, false, false
		}
		return terminal.Batch(ctx, t.view, source, t.views, t.count, os.Stdout)
	}
	return terminal.Run(ctx, t.view, source, os.Stdout)
}

func doctorCommand() *cobra.Command {
	var opts tracer.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this kernel and this user offer, and what is missing",
		Long: `Examines what tracing needs, opens a trace and drives one call of each kind through
its probes, and lets a throwaway user map a few buffers past its allowance to see
how this kernel accounts them.

Exit status: 0 if pinwatch can trace here, 1 if not.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := doctor.Examine(opts)
			able := true
			for _, c := range checks {
				able = able && c.State != doctor.StateMissing
			}
			if able {
				checks = append(checks, output.Accounting(check.PastAllowance(cmd.Context(), opts)))
			}
			if err := output.Doctor(os.Stdout, checks, asJSON); err != nil {
				return err
			}
			if !able {
				return exitCode(exitFailure)
			}
			return nil
		},
	}
	kernelFlags(cmd, &opts)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

func guestCommand() *cobra.Command {
	var c guest.Config
	var showConsole bool
	cmd := &cobra.Command{
		Use:   "guest --kernel IMAGE [flags] {-- COMMAND | --exec FILE --} [ARG...]",
		Short: "Boot a kernel in QEMU and run a command in it: pinwatch, or any static program",
		Long: `Boots a kernel image in QEMU with this very binary as init, and runs a pinwatch
command in it: no disk, no network, no modules. What the command prints and its
exit status come back as its own; the kernel's messages stay apart. An emulated
kernel starts without its certificates and the self-tests of its cryptography, with
timers of a jiffy (highres=off), zeroes no page twice (init_on_alloc=0), and does
not wait for a quiet moment in synchronize_rcu() (rcupdate.rcu_expedited=1).

With --exec it runs any static program instead, such as a Go package's test binary:
as root, in /, with pinwatch in its PATH.

Exit status: that of the command, or 125 if the guest timed out or panicked, or
never ran the command.`,
		Example: `  pinwatch guest --kernel /boot/vmlinuz -- trace -- pinwatch workload perf-buffers
  CGO_ENABLED=0 go test -c -o some.test ./some && pinwatch guest --kernel /boot/vmlinuz --exec some.test -- -test.v`,
		Args: func(cmd *cobra.Command, args []string) error {
			if c.Exec != "" {
				return nil
			}
			return cobra.MinimumNArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.Kernel == "" {
				return usageError{errors.New("no --kernel IMAGE to boot (see pinwatch guest --help)")}
			}
			c.Args, c.Stdout, c.Stderr = args, os.Stdout, os.Stderr
			if showConsole {
				c.Console = os.Stderr
			}
			code, err := guest.Run(cmd.Context(), c)
			var failure *guest.Error
			if errors.As(err, &failure) {
				fmt.Fprintf(os.Stderr, "pinwatch: %v\n", err)
				return exitCode(125)
			}
			if err == nil && code != 0 {
				return exitCode(code)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Kernel, "kernel", "", "kernel image to boot: bzImage, Image, or a vmlinux with PVH, which need not unpack itself")
	f.StringVar(&c.Exec, "exec", "", "static program to run instead of pinwatch, with the arguments after --")
	f.StringVar(&c.Binary, "binary", "", "static pinwatch for the guest (default: this program, or pinwatch-ARCH beside it)")
	addMachine(cmd, &c)
	f.StringArrayVar(&c.Files, "file", nil, "one more file for the guest, as HOSTPATH:GUESTPATH")
	f.StringVar(&c.ICount, "icount", "", "let the guest's time count its instructions: what QEMU's -icount takes, such as shift=0,sleep=off (with --cpus 1 --accel tcg)")
	f.DurationVar(&c.Timeout, "timeout", 2*time.Minute, "give up after this time")
	f.BoolVar(&showConsole, "console", false, "show the kernel's messages on stderr")
	return cmd
}

// addMachine adds the flags of a guest's machine.
func addMachine(cmd *cobra.Command, c *guest.Config) {
	f := cmd.Flags()
	f.IntVar(&c.CPUs, "cpus", 4, "CPUs of the guest")
	f.StringVar(&c.Memory, "memory", "1G", "memory of the guest")
	f.StringVar(&c.Append, "append", "", "more kernel parameters")
	f.StringVar(&c.Accel, "accel", "", "QEMU accelerator (default: KVM if a trial shows that it works, else emulation)")
}

// checkFlags are what check is told.
type checkFlags struct {
	guests         check.Guests
	scenarios      []string
	format, exit   string
	btf, arm64     string
	list, invasive bool
	inGuest        bool
}

func checkCommand() *cobra.Command {
	var c checkFlags
	cmd := &cobra.Command{
		Use:   "check [flags]",
		Short: "Say whether this kernel, or any given one, accounts locked memory right",
		Long: `Runs scenarios that map, share, refuse and unmap locked memory, and says which
invariants of the accounting hold. The tracer watches, and witnesses that are not
pinwatch's are read as well: VmPin, the number of pages that fit before EPERM, and
the files of a cgroup. With --kernel it boots that kernel in QEMU, several side by
side.

Scenarios run as throwaway users in a cgroup of their own, with little memory.
Those that change settings of the whole machine run only with --invasive, and
always in a guest; a watchdog puts all settings back, whatever happens.

Exit status, by --exit:
  default    0 all hold, 3 an invariant is broken, 1 could not run, 2 wrong usage
  bisect     0 good, 1 bad, 125 cannot be tested (panic, hang, missing feature)
  kselftest  0 pass, 1 fail or could not run, 4 skip`,
		Example: `  pinwatch check
  pinwatch check --kernel bzImage --scenario map-twice,past-allowance
  pinwatch check --kernel old/bzImage --kernel new/bzImage --format junit
  git bisect run pinwatch check --exit bisect --kernel arch/x86/boot/bzImage --scenario map-twice`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runCheck(cmd.Context(), &c) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&c.guests.Kernels, "kernel", nil, "kernel image to boot and check (see: pinwatch guest --help); may be given several times")
	f.StringVar(&c.btf, "btf", "", "file with the kernel's types, for a kernel without BTF")
	f.StringSliceVar(&c.scenarios, "scenario", nil, "only these scenarios")
	f.BoolVar(&c.list, "list", false, "list the scenarios")
	f.StringVar(&c.format, "format", output.FormatTable, "table, json, ktap or junit")
	f.StringVar(&c.exit, "exit", check.ExitDefault, "exit status for whom: default, bisect or kselftest")
	f.BoolVar(&c.invasive, "invasive", false, "also run scenarios that change settings of the whole machine")
	f.DurationVar(&c.guests.Timeout, "timeout", 2*time.Minute, "give a kernel up after this time")
	f.BoolVar(&c.guests.KeepLog, "keep-log", false, "keep the kernel's messages where something fails")
	f.StringVar(&c.arm64, "binary-arm64", "", "static pinwatch for arm64 guests (default: pinwatch-arm64 beside this program)")
	f.IntVar(&c.guests.Parallel, "parallel", 0, "guests at a time (default: as many as the machine has cores)")
	f.BoolVar(&c.inGuest, "in-guest", false, "say on stderr what runs, and on stdout the report, in one line of JSON")
	f.MarkHidden("in-guest")
	addMachine(cmd, &c.guests.Base)
	return cmd
}

func runCheck(ctx context.Context, c *checkFlags) error {
	write, err := output.ReportWriter(c.format)
	if err != nil {
		return usageError{err}
	}
	if _, err := new(check.Report).ExitCode(c.exit, false); err != nil {
		return usageError{err}
	}
	exercises, err := check.Choose(c.scenarios)
	if err != nil {
		return usageError{err}
	}
	if c.list {
		return output.CheckList(os.Stdout, exercises)
	}
	report, err := checkReport(ctx, c, exercises)
	if c.inGuest {
		return err
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "pinwatch: %v\n", err)
		report = check.Report{} // nothing to rest a result on
	} else if err := write(os.Stdout, &report); err != nil {
		return err
	}
	code, err := report.ExitCode(c.exit, len(c.scenarios) > 0)
	if err == nil && code != 0 {
		return exitCode(code)
	}
	return err
}

// checkReport checks the given kernels, or the running one.
func checkReport(ctx context.Context, c *checkFlags, exercises []check.Exercise) (check.Report, error) {
	if len(c.guests.Kernels) == 0 {
		opts := check.Options{Tracer: tracer.Options{BTF: c.btf}, Exercises: exercises, Invasive: c.invasive}
		if c.inGuest {
			opts.Apart = true
			debug.SetGCPercent(400) // the guest has memory, and nothing else to do with it
			opts.Progress = func(name string, n, of int) { fmt.Fprintf(os.Stderr, "progress: %d/%d %s\n", n, of, name) }
			opts.Judged = func(k check.Kernel) { json.NewEncoder(os.Stdout).Encode(reportOf(k)) }
		}
		k, err := check.Run(ctx, opts)
		return reportOf(k), err
	}
	progress := output.NewProgress(os.Stderr, len(c.guests.Kernels))
	defer progress.Clear()
	c.guests.Progress, c.guests.Done = progress.Say, progress.Done
	c.guests.Scenarios, c.guests.BTF = c.scenarios, c.btf
	c.guests.Binaries = map[string]string{"arm64": c.arm64}
	return c.guests.Run(ctx)
}

// reportOf is a report on one kernel.
func reportOf(k check.Kernel) check.Report {
	return check.Report{Version: check.Version, Kernels: []check.Kernel{k}}
}

func checkActorCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "check-actor",
		Short:  "One process of a check's scenario",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return check.Actor() },
	}
}

func checkWatchdogCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "check-watchdog",
		Short:  "Puts back what a check changed",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return check.Watchdog(os.Stdin) },
	}
}

func workloadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "workload",
		Short: "Make processes that use locked memory, to see the tool work",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var p workload.PerfBuffers
	perf := &cobra.Command{
		Use:   "perf-buffers",
		Short: "Map perf buffers past the allowance until EPERM, then unmap them",
		Long: `Maps one perf buffer after the other, as an unprivileged user with the given
RLIMIT_MEMLOCK, until the kernel refuses, and unmaps them again. Run it as root:
it opens the events first and then becomes --uid.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return p.Run(os.Stdout) },
	}
	f := perf.Flags()
	f.IntVar(&p.UID, "uid", 65534, "user to become; -1: stay who you are")
	addMemlock(f, &p.Memlock, 512)
	f.IntVar(&p.Pages, "pages", 64, "data pages of a buffer, a power of two")
	f.IntVar(&p.Max, "max", 0, "buffers at the most; 0: until refused")
	f.IntVar(&p.Again, "again", 0, "map every buffer so many more times, and unmap those at once")
	f.DurationVar(&p.Hold, "hold", 0, "time between the last mapping and the first unmapping")
	f.DurationVar(&p.Pause, "pause", 0, "time between two steps")
	f.BoolVar(&p.JSON, "json", false, "write JSON lines")
	f.BoolVar(&p.Quiet, "quiet", false, "write nothing")
	simple := []*cobra.Command{perf, twoProcessesCommand(), crowdCommand(), edgesCommand(), auxCommand(), bpfMapsCommand(), chargersCommand()}
	for _, c := range simple {
		// They end by the signal, in the middle of it all: the kernel takes back what
		// they hold.
		c.PreRun = func(*cobra.Command, []string) { signal.Reset() }
	}
	cmd.AddCommand(simple...)
	cmd.AddCommand(sharerCommand(), soakCommand(), soakWorkerCommand(), runAsCommand(), trialsCommand(), mapperCommand())
	return cmd
}

// addMemlock adds the flag of a process's limit, which is kept in bytes.
func addMemlock(f *pflag.FlagSet, bytes *int64, kib int64) {
	*bytes = fromKiB(kib)
	f.Var((*kibibytes)(bytes), "memlock-kib", "RLIMIT_MEMLOCK; -1: leave it alone")
}

// kibibytes are bytes that a flag gives in KiB, or a negative number that stands for
// something else.
type kibibytes int64

func fromKiB(kib int64) int64 {
	if kib < 0 {
		return kib
	}
	return kib << 10
}

func (k *kibibytes) Set(text string) error {
	kib, err := strconv.ParseInt(text, 0, 54) // as many as are an int64 in bytes
	if err == nil {
		*k = kibibytes(fromKiB(kib))
	}
	return err
}

func (k *kibibytes) String() string {
	if *k < 0 {
		return strconv.FormatInt(int64(*k), 10)
	}
	return strconv.FormatInt(int64(*k)>>10, 10)
}

func (k *kibibytes) Type() string { return "int" }

func twoProcessesCommand() *cobra.Command {
	var t workload.TwoProcesses
	cmd := &cobra.Command{
		Use:   "two-processes",
		Short: "Map one buffer in two processes, and unmap in a given order",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return t.Run(os.Stdout) },
	}
	f := cmd.Flags()
	f.IntVar(&t.UID, "uid", 65534, "user to become; -1: stay who you are")
	addMemlock(f, &t.Memlock, 16384)
	f.IntVar(&t.Pages, "pages", 1024, "data pages of the buffer, a power of two")
	f.BoolVar(&t.PayerFirst, "payer-first", false, "the process that paid unmaps first")
	return cmd
}

func sharerCommand() *cobra.Command {
	var pages int
	cmd := &cobra.Command{
		Use:    "sharer",
		Short:  "The other one of two-processes",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return workload.Sharer(pages, os.Stdin, os.Stdout) },
	}
	cmd.Flags().IntVar(&pages, "pages", 1024, "data pages of the buffer")
	return cmd
}

func crowdCommand() *cobra.Command {
	var c workload.Crowd
	cmd := &cobra.Command{
		Use:   "crowd",
		Short: "Have many processes map one buffer at once",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return c.Run() },
	}
	f := cmd.Flags()
	f.IntVar(&c.Processes, "processes", 24, "how many")
	f.IntVar(&c.Pages, "pages", 8192, "data pages of the buffer, a power of two")
	f.BoolVar(&c.AtOnce, "at-once", false, "let each unmap it at once. Linux 6.19 to 7.1 oops then: only where that does no harm")
	return cmd
}

func edgesCommand() *cobra.Command {
	var e workload.Edges
	cmd := &cobra.Command{
		Use:   "edges",
		Short: "Map over a buffer, move it, unmap it in parts, and fail in two ways",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return e.Run(os.Stdout) },
	}
	f := cmd.Flags()
	f.IntVar(&e.UID, "uid", 65534, "user to become; -1: stay who you are")
	addMemlock(f, &e.Memlock, 16384)
	f.IntVar(&e.Pages, "pages", 1024, "data pages of a buffer, a power of two")
	return cmd
}

func auxCommand() *cobra.Command {
	var a workload.AUX
	cmd := &cobra.Command{
		Use:   "aux",
		Short: "Map a buffer with an AUX area",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return a.Run(os.Stdout) },
	}
	f := cmd.Flags()
	f.StringVar(&a.PMU, "pmu", "intel_pt", "PMU with an AUX area")
	f.IntVar(&a.UID, "uid", 65534, "user to become; -1: stay who you are")
	addMemlock(f, &a.Memlock, 16384)
	f.IntVar(&a.Pages, "pages", 8, "data pages, a power of two")
	f.IntVar(&a.AUXPages, "aux-pages", 1024, "AUX pages, a power of two")
	f.BoolVar(&a.DataFirst, "data-first", false, "unmap the data area first")
	return cmd
}

func soakCommand() *cobra.Command {
	var s workload.Soak
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "Map, unmap, share, exit and die at random, as several users",
		Long: `Runs processes of several users that map, unmap, share, redirect, exit and are
killed at random, while sysctls and limits change. Needs root, and changes
perf_event_mlock_kb and perf_event_paranoid, which it puts back: for guests and
test machines.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.Run(cmd.Context(), os.Stderr) },
	}
	f := cmd.Flags()
	f.Uint64Var(&s.Seed, "seed", 1, "of all randomness")
	f.DurationVar(&s.Duration, "duration", time.Minute, "how long")
	f.DurationVar(&s.Life, "life", 3*time.Second, "about how long a process lives")
	f.IntVar(&s.Processes, "processes", 2, "processes per user at a time")
	f.IntSliceVar(&s.UIDs, "uids", []int{2001, 2002}, "users")
	f.BoolVar(&s.Share, "share", false, "pass buffers between processes")
	f.BoolVar(&s.Sysctls, "sysctls", false, "change sysctls meanwhile")
	return cmd
}

func soakWorkerCommand() *cobra.Command {
	var w workload.SoakWorker
	cmd := &cobra.Command{
		Use:    "soak-worker",
		Short:  "One process of soak",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return w.Run() },
	}
	f := cmd.Flags()
	f.IntVar(&w.UID, "uid", -1, "user to become")
	f.Uint64Var(&w.Seed, "seed", 1, "of all randomness")
	f.DurationVar(&w.Life, "life", 0, "how long; 0: until killed")
	f.BoolVar(&w.Idle, "idle", false, "do nothing until killed")
	f.BoolVar(&w.Share, "share", false, "pass buffers between processes")
	return cmd
}

func chargersCommand() *cobra.Command {
	var c workload.Chargers
	cmd := &cobra.Command{
		Use:   "chargers",
		Short: "Keep all that charges locked_vm busy: io_uring, AF_XDP, MSG_ZEROCOPY, BPF, perf",
		Long: `Makes and releases at random, as one user, what is charged as locked memory. Needs
root, and switches the loopback interface on: for guests and test machines.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return c.Run(os.Stderr) },
	}
	f := cmd.Flags()
	f.IntVar(&c.UID, "uid", 2003, "user to become")
	f.Uint64Var(&c.Seed, "seed", 1, "of all randomness")
	f.DurationVar(&c.Duration, "duration", 3*time.Second, "how long")
	f.IntVar(&c.Pages, "pages", 16, "of each thing, a power of two")
	return cmd
}

func bpfMapsCommand() *cobra.Command {
	var b workload.BPFMaps
	cmd := &cobra.Command{
		Use:   "bpf-maps",
		Short: "Create BPF maps, and fill them",
		Long: `Creates BPF maps of a type until there are --count of them or the kernel refuses,
sets elements in them, and closes them. Each costs exactly one BPF_MAP_CREATE.
Run it as root: it moves to --cgroup and sets the limit first, and then becomes
--uid with just --caps. With --from it fills a map that exists.`,
		Example: `  pinwatch workload bpf-maps --type array --entries 4096 --uid 2000 --memlock-kib 512 --count 0
  pinwatch workload bpf-maps --type hash-noprealloc --cgroup /sys/fs/cgroup/a --pin /sys/fs/bpf/m --hold 10s
  pinwatch workload bpf-maps --from /sys/fs/bpf/m --update 1000 --cgroup /sys/fs/cgroup/b`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return b.Run(os.Stdout) },
	}
	f := cmd.Flags()
	f.StringVar(&b.Type, "type", "array", "type of the maps: "+strings.Join(workload.BPFMapTypes(), ", "))
	f.StringVar(&b.Name, "name", "pinwatch_load", "name of the maps")
	f.Uint32Var(&b.Entries, "entries", 0, "max_entries, or a ring buffer's bytes; 0: what suits the type")
	f.Uint32Var(&b.KeySize, "key-size", 0, "bytes of a key; 0: what suits the type")
	f.Uint32Var(&b.ValueSize, "value-size", 0, "bytes of a value; 0: what suits the type")
	f.IntVar(&b.Count, "count", 1, "maps; 0: until refused")
	f.IntVar(&b.Update, "update", 0, "elements to set in every map")
	f.IntVar(&b.First, "first", 0, "number of the first element to set")
	f.StringVar(&b.From, "from", "", "update this map, an id or a pinned path, and create none")
	f.IntVar(&b.UID, "uid", -1, "user to become; -1: stay who you are")
	f.StringSliceVar(&b.Caps, "caps", []string{"cap_bpf", "cap_perfmon"}, "capabilities to keep as --uid")
	addMemlock(f, &b.Memlock, -1)
	f.StringVar(&b.Cgroup, "cgroup", "", "directory of a v2 cgroup to move to first; made where it is missing")
	f.Int64Var(&b.MemoryMax, "memory-max-bytes", -1, "memory.max to set for --cgroup; -1: leave it alone")
	f.StringVar(&b.Pin, "pin", "", "pin the map at this path; the second one at PATH-2, and so on")
	f.DurationVar(&b.Hold, "hold", 0, "time between the last creation and closing")
	f.DurationVar(&b.Pause, "pause", 0, "time between two maps")
	f.BoolVar(&b.Close, "close", false, "close each map before creating the next")
	f.BoolVar(&b.JSON, "json", false, "write JSON lines")
	f.BoolVar(&b.Quiet, "quiet", false, "write nothing")
	return cmd
}

func trialsCommand() *cobra.Command {
	var t workload.Trials
	var source string
	cmd := &cobra.Command{
		Use:   "trials",
		Short: "Predict random mappings under random settings, and try them",
		Long: `Predicts, by the rule that explain uses, what the kernel will say to random
mappings of several processes, under random limits, sysctls, CPUs and
capabilities, and tries each. Needs root, and changes perf_event_mlock_kb,
perf_event_paranoid and the online CPUs, which it puts back: for guests and
test machines.

Exit status: 0 if all predictions came true, 1 if not.`,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var opts snapshot.Options
			if err := chooseSource(&opts, source); err != nil {
				return err
			}
			var err error
			if t.Source, err = snapshot.Open(opts); err != nil {
				return err
			}
			defer t.Source.Close()
			return t.Run(cmd.Context(), os.Stdout)
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&t.Seed, "seed", 1, "of all randomness")
	f.IntVar(&t.Count, "count", 200, "how many")
	f.BoolVar(&t.NoCPUs, "no-cpus", false, "leave the CPUs online")
	f.StringVar(&t.PMU, "pmu", "", "PMU with an AUX area, to map these as well")
	addSource(cmd, &source)
	return cmd
}

func mapperCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "mapper",
		Short:  "One process of trials",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(*cobra.Command, []string) error { return workload.Mapper(os.Stdin, os.Stdout) },
	}
}

// addSource adds the flag that says where a snapshot comes from.
func addSource(cmd *cobra.Command, source *string) {
	cmd.Flags().StringVar(source, "source", "auto", "where the state of the host is read: auto (BPF iterators, else /proc) or proc")
}

func chooseSource(opts *snapshot.Options, source string) error {
	switch source {
	case "auto":
	case "proc":
		opts.NoIterators = true
	default:
		return usageError{fmt.Errorf("--source %s: want auto or proc", source)}
	}
	return nil
}

func runAsCommand() *cobra.Command {
	var r workload.RunAs
	cmd := &cobra.Command{
		Use:     "run-as [flags] -- COMMAND [ARG...]",
		Short:   "Run a command as another user with just the named capabilities",
		Example: `  pinwatch workload run-as --uid 1000 --caps cap_bpf,cap_perfmon -- pinwatch trace`,
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(_ *cobra.Command, command []string) error { return r.Exec(command) },
	}
	cmd.Flags().IntVar(&r.UID, "uid", -1, "user to become; -1: stay who you are")
	cmd.Flags().StringSliceVar(&r.Caps, "caps", nil, "capabilities to keep")
	return cmd
}

func versionCommand() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			version := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				version = info.Main.Version
			}
			if !quiet {
				fmt.Println("pinwatch", version)
			}
		},
	}
	cmd.Flags().BoolVar(&quiet, "quiet", false, "only succeed")
	return cmd
}
