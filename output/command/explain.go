package command

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/command/past"
	"github.com/pinwatch/pinwatch/output/command/tracing"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/session"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// explainOptions are those of explain.
type explainOptions struct {
	*Streams
	tracing   tracing.Flags
	source    string
	pid, uid  int
	dataPages int64  // 0: as buffer says
	buffer    string // size of the data, such as 512K
	perCPU    bool
	aux       bool
	request   requestFlags
	json      bool
	past      past.Question
	command   []string // whose refusals are explained; none: nobody's
}

func newExplain(s *Streams) *cobra.Command {
	o := explainOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "explain [flags] [-- COMMAND [ARG...]] | --at TIME FILE|DIR",
		Short: "Tell why locked memory is refused, who holds it, and what helps",
		Long: `Applies the kernel's rules to this machine's numbers: would this be refused to this
process, or to a new process of this user; by which limit, and by how much; how many
more fit; who holds the user's counter; and which smallest change would help.

  --buffer, --pages   a perf buffer (the default), by the rule of perf_mmap() as this
                      kernel was seen to have it, and as it is meant to be
  --io-uring SIZE     buffers that are registered with an io_uring
  --umem SIZE         an AF_XDP umem
  --zerocopy SIZE     a send with MSG_ZEROCOPY
  --bpf-map MAP       a BPF map: TYPE:KEY:VALUE:ENTRIES, such as hash:8:256:100000,
                      hash+no_prealloc:4:4000:4096 or array:4:8:1M

With a command, traces it and explains each of its refusals, whoever refused: perf
buffers, BPF maps, programs and updates, io_uring, AF_XDP, MSG_ZEROCOPY, secret memory,
and where their modules are loaded VFIO, RDMA, vDPA and iommufd. What is refused by
mlock(), MAP_LOCKED or shared memory is not seen, nor are errors that no memory causes,
but of perf buffers and BPF objects.

Without a process or a user, the question is about whoever asks. The size of a perf
buffer is that of its data; the control page is added.

With --at, explains what was refused around that time, by a recording, or by what
"pinwatch agent --dir" wrote: of each refusal the same, with who held what then. With
--pid or --uid, only what was refused to these.

The state of the host comes from BPF iterators (Linux 5.8; CAP_BPF and
CAP_PERFMON, or CAP_SYS_ADMIN), else from /proc. Then users' counters are
estimated, and what this user may not see is named.

Exit status: 0 if it is allowed; 1 if refused, if that cannot be known from here, or on
failure. With a command 1 if anything was refused to it, else the command's own. With
--at 1 if anything was refused in that time.`,
		Example: `  pinwatch explain --pid 4711 --buffer 512K --per-cpu
  pinwatch explain --uid 1000 --io-uring 64M
  pinwatch explain -- perf record -a sleep 1
  pinwatch explain --at 03:12 /var/lib/pinwatch`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.past.At.IsZero() {
				return commandAfterDash(cmd, args)
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !o.past.At.IsZero() {
				return explainPast(&o, cmd.Flags(), args[0])
			}
			o.command = args
			return runExplain(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.pid, "pid", 0, "the process that maps")
	f.IntVar(&o.uid, "uid", os.Getuid(), "the user of a new process that maps")
	f.Int64Var(&o.dataPages, "pages", 0, "data pages of a buffer")
	f.StringVar(&o.buffer, "buffer", "512K", "`size` of a buffer's data")
	f.BoolVar(&o.perCPU, "per-cpu", false, "one buffer for every CPU that is online")
	f.BoolVar(&o.aux, "aux", false, "AUX areas instead of data areas")
	f.BoolVar(&o.json, "json", false, "write JSON")
	o.request.add(f)
	o.past.Add(f)
	o.tracing.AddBTF(f)
	tracing.AddSource(f, &o.source)
	cmd.MarkFlagsMutuallyExclusive("pid", "uid")
	cmd.MarkFlagsMutuallyExclusive("pages", "buffer", "io-uring", "umem", "zerocopy", "bpf-map", "at")
	for _, of := range []string{"per-cpu", "aux", "btf", "source"} {
		cmd.MarkFlagsMutuallyExclusive(of, "at")
	}
	return cmd
}

func runExplain(ctx context.Context, o *explainOptions) error {
	if len(o.command) > 0 {
		return explainTraced(ctx, o)
	}
	size, err := advice.ParseSize(o.buffer)
	if err != nil {
		return usageError{fmt.Errorf("--buffer: %w", err)}
	}
	from := tracing.SnapshotFrom(ctx, o.source, o.tracing.BTF)
	s, err := snapshot.Take(ctx, from)
	if err != nil {
		return err
	}
	if o.request.kind != "" {
		return o.explainRequest(ctx, from, s)
	}
	ask := advice.NewAsk(s, uint32(o.pid), uint32(o.uid), cmp.Or(o.dataPages, s.PagesOf(size)), o.perCPU, o.aux)
	ask.Machine = kernel.MemoryBytes()
	facts := snapshot.Inspect(from, ask.PID)
	facts.BPF, _ = kernel.ProbeBPFAccounting(ctx) // if not known, the explanation says so
	x, err := advice.Explain(s, facts, ask)
	if err != nil {
		return err
	}
	if err := output.Advice(o.Out, x, o.json); err != nil {
		return err
	}
	return failure(!x.Verdict.Allowed || !x.Verdict.Certain)
}

// explainPast explains what a recording has of a time.
func explainPast(o *explainOptions, f *pflag.FlagSet, path string) error {
	o.past.Path, o.past.JSON = path, o.json
	if f.Changed("pid") {
		o.past.Filter.PIDs = []uint32{uint32(o.pid)}
	}
	if f.Changed("uid") {
		o.past.Filter.UIDs = []uint32{uint32(o.uid)}
	}
	refused, err := o.past.Answer(o.In, o.Out, o.Err)
	if err != nil {
		return err
	}
	return failure(refused)
}

// requestFlags ask about something else than perf buffers.
type requestFlags struct {
	kind  string // the flag's name; "": perf buffers
	bytes int64
	bpf   rule.Map
}

func (r *requestFlags) add(f *pflag.FlagSet) {
	size := func(name, usage string) {
		f.Func(name, "`size` of "+usage, func(text string) (err error) {
			r.kind = name
			r.bytes, err = advice.ParseSize(text)
			return err
		})
	}
	size("io-uring", "the buffers that are registered with an io_uring, instead of a perf buffer")
	size("umem", "an AF_XDP umem")
	size("zerocopy", "a send with MSG_ZEROCOPY")
	f.Func("bpf-map", "`TYPE:KEY:VALUE:ENTRIES` of a BPF map, such as hash:8:256:100000", func(text string) (err error) {
		r.kind = "bpf-map"
		r.bpf, err = charging.ParseMap(text)
		return err
	})
}

// explainRequest answers it.
func (o *explainOptions) explainRequest(ctx context.Context, from snapshot.Options, s *snapshot.Snapshot) error {
	facts := snapshot.Inspect(from, uint32(o.pid))
	r, err := charging.NewRequest(s, charging.Question{Kind: o.request.kind, Bytes: o.request.bytes, Map: o.request.bpf, PID: uint32(o.pid), UID: uint32(o.uid),
		BPF: func() kernel.BPFAccounting { facts.BPF, _ = kernel.ProbeBPFAccounting(ctx); return facts.BPF }})
	if err != nil {
		return err
	}
	x, err := charging.Explain(s, facts, r)
	if err != nil {
		return err
	}
	if err := output.RequestAdvice(o.Out, x, o.json); err != nil {
		return err
	}
	return failure(!x.Verdict.Allowed || !x.Verdict.Certain)
}

// explainTraced explains what is refused to a command.
func explainTraced(ctx context.Context, o *explainOptions) error {
	from := tracing.SnapshotFrom(ctx, o.source, o.tracing.BTF)
	opts := o.tracing.Options()
	opts.BPF, opts.Others = true, true
	accounting, _ := kernel.ProbeBPFAccounting(ctx) // if not known, the explanation says so
	opts.Memcg = accounting == kernel.BPFMemcg
	s, err := session.Open(ctx, session.Options{Tracer: opts, Snapshot: from, Command: o.program(o.command)})
	if err != nil {
		return err
	}
	defer s.Close()
	x := output.NewExplainer(o.Out, o.json, from, s.State, accounting)
	x.Unwatched = s.Degraded()
	ran := s.Run(ctx, x)
	if err := o.ended(s, ran); err != nil {
		return err
	}
	if x.Refused > 0 {
		return exitStatus(exitFailure)
	}
	return ownStatus(ran)
}
