package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/pinwatch/pinwatch/output/report"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/reproducer"
)

// runEmit writes what reproduces the one scenario, or the program, that was chosen. Only a
// report is of a run.
func runEmit(ctx context.Context, o *checkOptions, exercises []check.Exercise) error {
	if len(exercises) != 1 {
		return usageError{errors.New("--emit: choose one scenario by --scenario, or a program by --program or --program-number")}
	}
	source, err := reproducer.Of(&exercises[0])
	if err != nil {
		return usageError{fmt.Errorf("--emit: %w", err)}
	}
	if o.emit != reproducer.Report {
		if len(o.guests.Kernels) > 0 {
			return usageError{fmt.Errorf("--emit %s runs nothing: it takes no --kernel", o.emit)}
		}
		return source.Write(o.Out, o.emit)
	}
	found, err := checkAll(ctx, o, exercises)
	if err != nil {
		return err
	}
	if err := report.WriteMail(o.Out, source, &found); err != nil {
		return err
	}
	return o.exitStatus(&found)
}
