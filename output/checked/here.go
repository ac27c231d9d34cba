package checked

import (
	"context"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// Here checks the running kernel, whose types may be in one of some files.
func Here(ctx context.Context, opts check.Options, btf []string) (check.Report, error) {
	types, err := check.TypesHere(btf)
	if err != nil {
		return check.Report{}, err
	}
	if types != "" {
		opts.Flags = append([]string{"--btf", types}, opts.Flags...)
	}
	opts.Tracer.BTF = types
	k, err := check.Run(ctx, opts)
	return check.ReportOf(k), err
}
