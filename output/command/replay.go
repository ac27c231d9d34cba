package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/command/tracing"
	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// replayOptions are those of replay.
type replayOptions struct {
	*Streams
	rows tracing.Rows
	span value.Span
	path string // "-": the standard input; a directory: of an agent
}

func newReplay(s *Streams) *cobra.Command {
	o := replayOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "replay [flags] FILE|DIR",
		Short: "Run a recording through the ledger again",
		Long: `Reads what "pinwatch record" or "pinwatch trace --json" wrote, and runs it through
the same ledger and the same outputs, on any machine and without privileges. FILE
may be - for the standard input. Where it was cut off, as by a power cut, all that is
whole is replayed, and the rest is said.

DIR is what "pinwatch agent --dir" wrote. Its files are one trace, with a summary at
the end; after a gap, as where the agent or the machine was started again, another
one begins, and that is said. With --from it begins with the file that the time is
in. The summary counts all since then, and is as of --to.`,
		Example: `  pinwatch record trace.jsonl
  pinwatch replay trace.jsonl
  pinwatch replay /var/lib/pinwatch --from 02:50 --to 03:10`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.path = args[0]
			if err := runReplay(&o); err != nil {
				return fmt.Errorf("replay %s: %w", o.path, err)
			}
			return nil
		},
	}
	o.rows.Add(cmd.Flags())
	o.span.Add(cmd.Flags(), "show only what happened since then", "end there")
	return cmd
}

func runReplay(o *replayOptions) error {
	o.rows.Filter.FromNS = o.span.FromNS()
	recorded, err := recording.Open(o.path, o.In, o.span.From, o.span.To)
	if err != nil {
		return err
	}
	defer recorded.Close()
	defer recorded.Tell(o.Err)
	for trace, _ := recorded.Next(); trace != nil; trace, _ = recorded.Next() {
		recorded.Tell(o.Err)
		w, err := o.rows.Writer(o.Out)
		if err != nil {
			return err
		}
		if err := pipeline.Run(trace.Events(), trace.Lost, output.NewStream(w, &o.rows.Filter)); err != nil {
			return err
		}
	}
	return nil
}
