package command

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/page"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// reportOptions are those of report.
type reportOptions struct {
	*Streams
	path string // of a recording or a check's report; "-": the standard input
	to   string // "-": the standard output
}

func newReport(s *Streams) *cobra.Command {
	o := reportOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "report [flags] FILE",
		Short: "Make a page for the browser of a recording, or of what a check found",
		Long: `Reads what "pinwatch record" or "pinwatch trace --json" wrote, and makes one HTML
file of it, which loads nothing: over time each user's counter against its
allowance and each process's pinned_vm against its limit, beside what they should
be; every refusal and broken rule, with the explanation; who held what at any
moment; and the summary. Of what "pinwatch check --format json" wrote it makes the
matrix of kernels and scenarios, with the evidence, and what changed from kernel
to kernel. FILE may be - for the standard input.`,
		Example: `  pinwatch record trace.jsonl -- perf record -a sleep 1
  pinwatch report trace.jsonl -o report.html
  pinwatch check --kernel old/bzImage --kernel new/bzImage --format json > check.json
  pinwatch report check.json -o check.html`,
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
	if err := makePage(&made, o.Err, bufio.NewReaderSize(in, 4096), filepath.Base(o.path)); err != nil {
		return fmt.Errorf("report %s: %w", o.path, err)
	}
	if o.to != "-" {
		return os.WriteFile(o.to, made.Bytes(), 0o666)
	}
	_, err = made.WriteTo(o.Out)
	return err
}

// ofCheck is how the report of a check begins. A recording is of lines with other fields.
var ofCheck = regexp.MustCompile(`^\s*\{\s*"v"\s*:\s*\d+\s*,\s*"kernels"`)

// makePage makes the page of whatever it is given, and says the rest in words.
func makePage(to, words io.Writer, from *bufio.Reader, title string) error {
	beginning, err := from.Peek(64)
	if err != nil && err != io.EOF {
		return err
	}
	if ofCheck.Match(beginning) {
		var found check.Report
		if err := json.NewDecoder(from).Decode(&found); err != nil {
			return err
		}
		if found.Version != check.Version {
			return fmt.Errorf("version %d of a check's report: this pinwatch reads version %d", found.Version, check.Version)
		}
		return page.Check(to, title, &found)
	}
	everything := recording.Everything()
	recorded := recording.NewReader(from)
	defer recorded.Tell(words)
	return pipeline.Run(recorded.Events(), recorded.Lost, output.NewStream(page.New(to, title), &everything))
}
