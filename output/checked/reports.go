package checked

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/output/report"
	"github.com/pinwatch/pinwatch/tracer/check"
)

// Reports are the flags of check that say how the report is written, and where.
type Reports struct {
	Format  string   // on stdout
	outputs []string // FORMAT=FILE, instead
}

const stdout = "-"

// StepSummary is the variable that names the file of which GitHub shows what is appended.
const StepSummary = "GITHUB_STEP_SUMMARY"

// Add adds them.
func (x *Reports) Add(cmd *cobra.Command) {
	f := cmd.Flags()
	value.Enum(f, &x.Format, "format", report.FormatTable, report.Formats(), "how the report is written")
	var complete []string
	for _, format := range report.Formats() {
		complete = append(complete, format+"="+stdout)
	}
	value.EnumsFunc(f, &x.outputs, "output", nil, complete, "several reports, each as `FORMAT=FILE`, with - for stdout", valid)
	cmd.MarkFlagsMutuallyExclusive("format", "output")
	cmd.MarkFlagsMutuallyExclusive("explore", "output")
}

// valid says what is wrong with an output.
func valid(output string) error {
	format, file, named := strings.Cut(output, "=")
	if !named || file == "" || !slices.Contains(report.Formats(), format) {
		return errors.New("want FORMAT=FILE, and as FORMAT " + value.Alternatives(report.Formats()))
	}
	return nil
}

// Check says what is wrong with all of them together.
func (x *Reports) Check() error {
	var files []string
	for _, output := range x.outputs {
		_, file, _ := strings.Cut(output, "=")
		if file != stdout && slices.Contains(files, file) {
			return fmt.Errorf("--output: two reports to %s", file)
		}
		files = append(files, file)
	}
	return nil
}

// Write writes a report in all ways that were asked for. What goes to stdout is written
// first; a reader of it that has seen enough is no error.
func (x *Reports) Write(out io.Writer, r *check.Report) (err error) {
	outputs := slices.Clone(x.outputs)
	if len(outputs) == 0 {
		outputs = []string{x.Format + "=" + stdout}
	}
	slices.SortStableFunc(outputs, func(a, b string) int { return rank(a) - rank(b) })
	for _, output := range outputs {
		format, file, _ := strings.Cut(output, "=")
		err = errors.Join(err, write(out, format, file, r))
	}
	return err
}

// rank sorts stdout to the front.
func rank(output string) int {
	if strings.HasSuffix(output, "="+stdout) {
		return 0
	}
	return 1
}

func write(out io.Writer, format, file string, r *check.Report) error {
	text, err := render(format, r)
	if err != nil {
		return err
	}
	if file != stdout {
		err = os.WriteFile(file, text, 0o644)
	} else if _, err = out.Write(text); errors.Is(err, unix.EPIPE) {
		err = nil
	}
	if summary := os.Getenv(StepSummary); err == nil && format == report.FormatGitHub && summary != "" {
		return appendTo(summary, r)
	}
	return err
}

func render(format string, r *check.Report) ([]byte, error) {
	write, err := report.Writer(format)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	err = write(&text, r)
	return text.Bytes(), err
}

// appendTo appends the step summary to a file, which earlier steps may have written to.
func appendTo(file string, r *check.Report) error {
	text, err := render(report.FormatMarkdown, r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("%s: %w", StepSummary, err)
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
