package command

import (
	"fmt"
	"os"
	"time"

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
	rows     tracing.Rows
	path     string // "-": the standard input; a directory: of an agent
	from, to time.Time
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
	value.Time(cmd.Flags(), &o.from, "from", "show only what happened since then")
	value.Time(cmd.Flags(), &o.to, "to", "end there")
	return cmd
}

func runReplay(o *replayOptions) error {
	if !o.from.IsZero() {
		o.rows.Filter.FromNS = uint64(max(0, o.from.UnixNano()))
	}
	if info, err := os.Stat(o.path); err == nil && info.IsDir() {
		return replayDirectory(o)
	}
	in, err := o.open(o.path)
	if err != nil {
		return err
	}
	defer in.Close()
	recorded := recording.NewReader(in)
	recorded.EndAt(o.to)
	return replayOne(o, recorded)
}

func replayDirectory(o *replayOptions) error {
	dir, err := recording.OpenDirectory(o.path, o.from, o.to)
	if err != nil {
		return err
	}
	for trace := dir.Next(o.Err); trace != nil; trace = dir.Next(o.Err) {
		if err := replayOne(o, trace); err != nil {
			return err
		}
	}
	return nil
}

func replayOne(o *replayOptions, trace recording.Source) error {
	w, err := o.rows.Writer(o.Out)
	if err != nil {
		return err
	}
	defer trace.Tell(o.Err)
	return pipeline.Run(trace.Events(), trace.Lost, output.NewStream(w, &o.rows.Filter))
}
