package command

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/output/agent"
	"github.com/pinwatch/pinwatch/output/command/tracing"
	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/session"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// agentOptions are those of agent.
type agentOptions struct {
	*Streams
	tracing tracing.Flags
	run     agent.Options
}

func newAgent(s *Streams) *cobra.Command {
	o := agentOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "agent [flags]",
		Short: "Watch this machine for as long as it runs: flight recorder, metrics and log",
		Long: `Traces until it is told to stop (SIGTERM), and writes to stderr a line for each
refusal and each broken rule.

With --dir it keeps the newest part of the trace on disk, in files of which each can
be replayed alone: "pinwatch replay DIR --from 02:50 --to 03:10" tells what happened
while nobody looked. What was seen is written each second: SIGKILL or a power cut
takes no more than the last one. The oldest files go when all together have
--max-size, or when they are older than --max-age. A disk that takes nothing is logged,
with why, and recording goes on when it does again.

With --listen it answers for /metrics (Prometheus, OpenMetrics) and /healthz. No label
is a process, and there are at most 100 users and cgroups; the rest is "other".

Once all is attached it gives up what it needs no more: capabilities, new privileges, and
by a seccomp filter all system calls but some eighty. With --seccomp log those others are made,
and the kernel's log tells of them: what a machine wants that was never seen here.

` + tracing.AboutOnly + `

Needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN. Exit status: 4 where this machine cannot
be traced, and starting again is of no use; 1 of any other failure.`,
		Example: `  pinwatch agent --dir /var/lib/pinwatch --listen 127.0.0.1:9435
  pinwatch replay /var/lib/pinwatch --from 10m`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAgent(cmd.Context(), &o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.run.Dir, "dir", "", "keep the newest part of the trace in this `directory`")
	value.Size(f, &o.run.MaxBytes, "max-size", 256<<20, advice.ParseSize, "`size` of all files in it together, 1MB at least")
	value.Duration(f, &o.run.MaxAge, "max-age", 7*24*time.Hour, "how old its events may get; 0: as old as there is room for")
	f.StringVar(&o.run.Listen, "listen", "", "answer for metrics and health at this `address`, such as 127.0.0.1:9435")
	f.BoolVar(&o.run.Anonymous, "anonymous", false, "leave the name of the host out of the files")
	value.Enum(f, &o.run.Seccomp, "seccomp", agent.SeccompRefuse, agent.SeccompModes(), "what becomes of system calls that tracing has no use for, once all is attached")
	value.Enum(f, &o.run.LogFormat, "log", agent.Logfmt, agent.LogFormats(), "what log lines are")
	o.tracing.AddBackend(f)
	o.tracing.AddBuffer(f)
	o.tracing.AddOnly(f)
	return cmd
}

func runAgent(ctx context.Context, o *agentOptions) error {
	if o.run.Dir != "" && o.run.MaxBytes < agent.LeastBytes {
		return usageError{errors.New("--max-size: want at least 1MB (see pinwatch agent --help)")}
	}
	o.run.Version = version()
	return agent.Run(ctx, session.Options{Tracer: o.tracing.Options(), Snapshot: snapshot.Options{BTF: o.tracing.BTF}}, &o.run, o.Err)
}
