package command

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/command/tracing"
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/doctor"
)

// doctorOptions are those of doctor.
type doctorOptions struct {
	*Streams
	tracing tracing.Flags
	json    bool
}

func newDoctor(s *Streams) *cobra.Command {
	o := doctorOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Tell what this kernel and this user offer, and what is missing",
		Long: `Examines what tracing needs, opens a trace and drives one call of each kind through
its probes, and lets a throwaway user map a few buffers past its allowance to see
how this kernel accounts for them.

Exit status: 0 if pinwatch can trace here, 1 if not.`,
		Example: `  pinwatch doctor
  pinwatch doctor --attach kprobe --transport perf --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd.Context(), &o) },
	}
	f := cmd.Flags()
	o.tracing.AddBackend(f)
	f.BoolVar(&o.json, "json", false, "write JSON")
	return cmd
}

func runDoctor(ctx context.Context, o *doctorOptions) error {
	opts := o.tracing.Options()
	checks := doctor.Examine(opts)
	able := true
	for _, c := range checks {
		able = able && c.State != doctor.StateMissing
	}
	seen := accounting.Again(ctx)
	checks = append(checks, output.Accounting(seen))
	if able {
		traced, err := check.PastAllowance(ctx, opts)
		checks = append(checks, output.Traced(seen, traced, err))
	}
	if err := output.Doctor(o.Out, checks, o.json); err != nil {
		return err
	}
	return failure(!able)
}
