package command

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/session"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// explainOptions are those of explain.
type explainOptions struct {
	*Streams
	tracing   tracingFlags
	source    string
	pid, uid  int
	dataPages int64  // 0: as buffer says
	buffer    string // size of the data, such as 512K
	perCPU    bool
	aux       bool
	json      bool
	command   []string // whose refusals are explained; none: nobody's
}

func newExplain(s *Streams) *cobra.Command {
	o := explainOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "explain [flags] [-- COMMAND [ARG...]]",
		Short: "Tell why a perf buffer is refused, who holds the allowance, and what helps",
		Long: `Applies the rule of perf_mmap(), as this kernel was seen to have it and as it is
meant to be, to this machine's numbers: would a perf buffer of this size be refused to
this process, or to a new process of this user; by which limit, and by how much; how
many more fit; who holds the user's allowance; and which smallest change would help.
With a command, traces it and explains its refusals.

Without a process or a user, the question is about whoever asks. Sizes are of the
data area; the control page is added.

The state of the host comes from BPF iterators (Linux 5.8; CAP_BPF and
CAP_PERFMON, or CAP_SYS_ADMIN), else from /proc. Then users' counters are
estimated, and what this user may not see is named.

Exit status: 0 if the buffers are allowed, or nothing was refused to the command;
1 if refused, if that cannot be known from here, or on failure.`,
		Example: `  pinwatch explain --pid 4711 --buffer 512K --per-cpu
  pinwatch explain --uid 1000
  pinwatch explain -- perf record -a sleep 1`,
		Args: commandAfterDash,
		RunE: func(cmd *cobra.Command, command []string) error {
			o.command = command
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
	o.tracing.addBTF(f)
	addSource(f, &o.source)
	cmd.MarkFlagsMutuallyExclusive("pid", "uid")
	cmd.MarkFlagsMutuallyExclusive("pages", "buffer")
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
	from := snapshotFrom(ctx, o.source, o.tracing.btf)
	s, err := snapshot.Take(ctx, from)
	if err != nil {
		return err
	}
	ask := advice.NewAsk(s, uint32(o.pid), uint32(o.uid), cmp.Or(o.dataPages, s.PagesOf(size)), o.perCPU, o.aux)
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

// explainTraced explains what is refused to a command.
func explainTraced(ctx context.Context, o *explainOptions) error {
	from := snapshotFrom(ctx, o.source, o.tracing.btf)
	s, err := session.Open(ctx, session.Options{Tracer: o.tracing.options(), Snapshot: from, Command: o.program(o.command)})
	if err != nil {
		return err
	}
	defer s.Close()
	accounting, _ := kernel.ProbeBPFAccounting(ctx) // if not known, the explanation says so
	x := output.NewExplainer(o.Out, o.json, from, s.State, accounting)
	if err := o.ended(s, s.Run(ctx, x)); err != nil {
		return err
	}
	return failure(x.Refused > 0)
}
