package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/command/tracing"
	"github.com/pinwatch/pinwatch/output/gate"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/session"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// traceOptions are those of trace, and of record, which is a trace to a file.
type traceOptions struct {
	*Streams
	tracing  tracing.Flags
	rows     tracing.Rows
	duration time.Duration // 0: until told to stop
	command  []string      // to trace; none: everything
	gate     gate.Gate
	path     string            // of the file to write; "": Out
	header   *recording.Header // what is to be said first in it; nil: nothing
}

func (o *traceOptions) addTracing(f *pflag.FlagSet) {
	f.DurationVar(&o.duration, "duration", 0, "stop after this time, such as 30s; 0: when told to")
	o.tracing.AddBackend(f)
	o.tracing.AddBuffer(f)
	o.tracing.AddOnly(f)
	o.gate.Add(f)
}

func newTrace(s *Streams) *cobra.Command {
	o := traceOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "trace [flags] [-- COMMAND [ARG...]]",
		Short: "Show every charge, refund and refusal as it happens",
		Long: `Shows one row per charge, refund or refusal of a perf buffer, with the values that
perf_mmap() decides on, and a verdict; and what BPF objects, io_uring, AF_XDP and
others charge. Ends with Ctrl-C, after --duration, or with COMMAND, and then
prints a summary. What was mapped before the trace is known from a snapshot: it gets
its verdict when it is unmapped, and the summary tells whose the rest is.

  USER_LOCKED  pages charged to the user, including this mapping's
  EXTRA        the part beyond the user's allowance, charged to the process
  PINNED_VM    pages charged to the process before the call
  LOCK_LIMIT   RLIMIT_MEMLOCK in pages
  VERDICT      ok, or the rule that the kernel broke; a "?" marks a verdict that
               rests on a counter which something else moved meanwhile

` + tracing.AboutOnly + `

` + gate.About + `

Needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN.`,
		Example: `  pinwatch trace
  pinwatch trace --uid 1000 --json > trace.jsonl
  pinwatch trace --only bpf,memcg --cgroup /web.slice
  pinwatch trace -- perf record -a sleep 1
  pinwatch trace --fail-on refused,broken --output trace.txt -- ./run-tests`,
		Args: commandAfterDash,
		RunE: func(cmd *cobra.Command, command []string) error {
			o.command = command
			return runTrace(cmd.Context(), &o)
		},
	}
	o.addTracing(cmd.Flags())
	cmd.Flags().StringVar(&o.path, "output", "", "write to this `file`, compressed if it is named .zst or .gz, and leave stdout to the command")
	o.rows.Add(cmd.Flags())
	return cmd
}

func runTrace(ctx context.Context, o *traceOptions) error {
	o.rows.Filter.Only = o.tracing.Only
	return trace(ctx, o)
}

// trace writes what happens, to a file that is opened once the trace is.
func trace(ctx context.Context, o *traceOptions) (err error) {
	o.rows.Filter.Command = len(o.command) > 0
	tracer := o.tracing.Options()
	if o.rows.Filter.Cgroup, err = cgroup.Named(o.rows.Filter.Cgroup, cgroup.OfCallers(tracer.Memcg)); err != nil {
		return err
	}
	s, err := session.Open(ctx, session.Options{Tracer: tracer, Snapshot: snapshot.Options{BTF: o.tracing.BTF}, Command: o.program(o.command)})
	if err != nil {
		return err
	}
	defer s.Close()
	to := o.Out
	if o.path != "" {
		file, failed := recording.Create(o.path)
		if failed != nil {
			return failed
		}
		defer func() {
			if closing := file.Close(); closing != nil {
				err = closing // whatever the exit status: what was traced is not kept
			}
		}()
		if o.header != nil {
			if err := o.header.Write(file); err != nil {
				return err
			}
		}
		to = file
	}
	fmt.Fprintf(o.Err, "pinwatch: watching %s\n", s.Attached())
	for _, what := range s.Degraded() {
		fmt.Fprintf(o.Err, "pinwatch: %s\n", what)
	}
	w, err := o.rows.Writer(to)
	if err != nil {
		return err
	}
	if o.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.duration)
		defer cancel()
	}
	o.gate.Begin(&o.rows.Filter)
	ran := s.Run(ctx, output.NewStream(w, &o.rows.Filter), &o.gate)
	if err := o.ended(s, ran); err != nil {
		return err
	}
	if why := o.gate.Verdict(); why != "" {
		fmt.Fprintf(o.Err, "pinwatch: --fail-on: %s\n", why)
		return exitStatus(gate.Failed)
	}
	return ownStatus(ran)
}

func newRecord(s *Streams) *cobra.Command {
	o := traceOptions{Streams: s}
	anonymous := false
	cmd := &cobra.Command{
		Use:   "record [flags] FILE [-- COMMAND [ARG...]]",
		Short: "Keep a trace in a file, for replay and top --replay",
		Long: `Writes to FILE what "pinwatch trace --json --include-self" would write, until
Ctrl-C, for --duration, or until COMMAND ends. FILE is not touched before tracing
has begun, and then replaced. It is compressed if its name ends with .zst or .gz. Its
first line says which machine and kernel it is of, and by which pinwatch.

` + tracing.AboutOnly + `

` + gate.About + `

Needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN. Reading the recording needs no
privileges.`,
		Example: `  pinwatch record trace.jsonl.zst --duration 30s
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
			var err error
			if o.header, err = recording.NewHeader(version(), anonymous); err != nil {
				return err
			}
			o.path, o.command = args[0], args[1:]
			return runRecord(cmd.Context(), &o)
		},
	}
	o.addTracing(cmd.Flags())
	cmd.Flags().BoolVar(&anonymous, "anonymous", false, "leave out the name of the host")
	return cmd
}

func runRecord(ctx context.Context, o *traceOptions) error {
	o.rows = tracing.Rows{JSON: true, Filter: recording.Everything()}
	err := trace(ctx, o)
	var own exitStatus
	if err == nil || errors.As(err, &own) {
		fmt.Fprintf(o.Err, "pinwatch: recorded in %s; look at it with: pinwatch top --replay %[1]s\n", o.path)
	}
	return err
}
