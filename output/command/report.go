package command

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/output/command/past"
	"github.com/pinwatch/pinwatch/output/command/value"
)

// reportOptions are those of report.
type reportOptions struct {
	*Streams
	span value.Span
	path string // of a recording, of a directory of them or of a check's report; "-": the standard input
	to   string // "-": the standard output
}

func newReport(s *Streams) *cobra.Command {
	o := reportOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "report [flags] FILE|DIR",
		Short: "Make a page for the browser of a recording, or of what a check found",
		Long: `Reads what "pinwatch record" or "pinwatch trace --json" wrote, and makes one HTML
file of it, which loads nothing: over time each user's counter against its
allowance and each process's pinned_vm against its limit, beside what they should
be; every refusal and broken rule, with the explanation; who held what at any
moment; and the summary. Of what "pinwatch check --format json" wrote it makes the
matrix of kernels and scenarios, with the evidence, and what changed from kernel
to kernel. FILE may be - for the standard input.

DIR is what "pinwatch agent --dir" wrote: a page of all of it, or of the time from --from
to --to, with the gaps where nothing is recorded. The summary counts from the beginning of
the file that --from is in.`,
		Example: `  pinwatch record trace.jsonl -- perf record -a sleep 1
  pinwatch report trace.jsonl -o report.html
  pinwatch report /var/lib/pinwatch --from 02:50 --to 03:30 -o night.html
  pinwatch check --kernel old/bzImage --kernel new/bzImage --format json > check.json
  pinwatch report check.json -o check.html`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.path = args[0]
			return runReport(&o)
		},
	}
	o.span.Add(cmd.Flags(), "show only what happened since then", "end there")
	cmd.Flags().StringVarP(&o.to, "output", "o", "-", "`file` to write; -: the standard output")
	return cmd
}

func runReport(o *reportOptions) error {
	if o.to == "-" && o.Terminal() != nil {
		return usageError{errors.New("a page is not for a terminal: name a file with -o (see pinwatch report --help)")}
	}
	var made bytes.Buffer
	in, err := o.open(o.path)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := past.Page(&made, o.Err, o.path, in, o.span); err != nil {
		return fmt.Errorf("report %s: %w", o.path, err)
	}
	if o.to != "-" {
		return os.WriteFile(o.to, made.Bytes(), 0o666)
	}
	_, err = made.WriteTo(o.Out)
	return err
}
