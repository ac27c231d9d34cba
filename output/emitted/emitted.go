// Package emitted is what check writes instead of its report: what reproduces a scenario or
// a program without pinwatch.
package emitted

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/output/report"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/reproducer"
)

// Help is what check says of it.
const Help = `With --emit a scenario of perf calls, or a program, becomes one C file that makes the
same calls and needs nothing but a compiler and root: it prints VmPin and how many
pages fit before EPERM, and exits with 1 where they are wrong, 0 where they are right
and 4 where that cannot be told. kselftest is the same with lines of KTAP. Both run
nothing; report runs it as without --emit, and writes a text for a mailing list.`

// Flags are those of check that are about it.
type Flags struct {
	Form string // "": nothing is written instead
}

// Add adds them.
func (x *Flags) Add(cmd *cobra.Command) {
	value.Enum(cmd.Flags(), &x.Form, "emit", "", reproducer.Forms(), "write what reproduces the scenario or the program")
	for _, other := range []string{"explore", "list", "format", "output"} {
		cmd.MarkFlagsMutuallyExclusive("emit", other)
	}
}

// Source is the one scenario or program that was chosen. Errors are of wrong usage.
func (x *Flags) Source(exercises []check.Exercise, kernels []string) (*reproducer.Source, error) {
	if len(exercises) != 1 {
		return nil, errors.New("--emit: choose one scenario by --scenario, or a program by --program or --program-number")
	}
	if x.Form != reproducer.Report && len(kernels) > 0 {
		return nil, fmt.Errorf("--emit %s runs nothing: it takes no --kernel", x.Form)
	}
	s, err := reproducer.Of(&exercises[0])
	if err == nil {
		err = s.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("--emit: %w", err)
	}
	return s, nil
}

// Write writes it. A report is of a run, which comes back; nil: nothing ran.
func (x *Flags) Write(w io.Writer, s *reproducer.Source, run func() (check.Report, error)) (*check.Report, error) {
	if x.Form != reproducer.Report {
		return nil, s.Write(w, x.Form)
	}
	found, err := run()
	if err != nil {
		return nil, err
	}
	return &found, report.WriteMail(w, s, &found)
}
