package command

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/page"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// reportOptions are those of report.
type reportOptions struct {
	*Streams
	path string // of a recording; "-": the standard input
	to   string // "-": the standard output
}

func newReport(s *Streams) *cobra.Command {
	o := reportOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "report [flags] FILE",
		Short: "Make a page for the browser of a recording",
		Long: `Reads what "pinwatch record" or "pinwatch trace --json" wrote, and makes one HTML
file of it, which loads nothing: over time each user's counter against its
allowance and each process's pinned_vm against its limit, beside what they should
be; every refusal and broken rule, with the explanation; who held what at any
moment; and the summary. FILE may be - for the standard input.`,
		Example: `  pinwatch record trace.jsonl -- perf record -a sleep 1
  pinwatch report trace.jsonl -o report.html`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.path = args[0]
			return runReport(&o)
		},
	}
	cmd.Flags().StringVarP(&o.to, "output", "o", "-", "`file` to write; -: the standard output")
	return cmd
}

func runReport(o *reportOptions) error {
	if o.to == "-" && o.Terminal() != nil {
		return usageError{errors.New("a page is not for a terminal: name a file with -o (see pinwatch report --help)")}
	}
	in, err := o.open(o.path)
	if err != nil {
		return err
	}
	defer in.Close()
	var made bytes.Buffer
	everything := recording.Everything()
	recorded := recording.NewReader(in)
	sink := output.NewStream(page.New(&made, filepath.Base(o.path)), &everything)
	if err := pipeline.Run(recorded.Events(), recorded.Lost, sink); err != nil {
		return fmt.Errorf("report %s: %w", o.path, err)
	}
	if o.to != "-" {
		return os.WriteFile(o.to, made.Bytes(), 0o666)
	}
	_, err = made.WriteTo(o.Out)
	return err
}
