package explore

import (
	"context"
	"errors"
	"time"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// Here explores the running kernel for some time. The options' exercises do not matter.
func (e *Explorer) Here(ctx context.Context, opts check.Options, duration time.Duration) (out Explored, err error) {
	opts.Exercises = []check.Exercise{{Charges: check.ChargesUsers}}
	pages := int64(MlockPages)
	if e.AsItIs = !opts.Invasive; e.AsItIs {
		pages = 0
	}
	// What is under way when the time is over is finished.
	lab, err := check.OpenLab(context.WithoutCancel(ctx), opts, pages)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	e.Try = func(p *check.Program) (check.Scenario, error) { return lab.Try(p.Exercise()) }
	e.out.Kernel, e.Known = lab.Kernel, KnownOf(lab.Kernel.Release)
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	out, err = e.Run(ctx)
	if err == nil && e.Ended != nil {
		e.Ended(&out)
	}
	return out, err
}
