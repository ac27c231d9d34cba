package check

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Lab runs one scenario after the other under one trace, and says what came of each
// before the next one begins. Close it.
type Lab struct {
	Kernel Kernel // without scenarios

	run   *run
	watch *watch // nil: the witnesses alone decide
	lost  uint64 // before the next scenario
}

// anyUser is behind the uids of all throwaway users.
const anyUser = 1 << 31

// OpenLab makes a lab for scenarios such as those of the options. mlockPages, if there
// are any, become perf_event_mlock_kb as long as the lab is open.
func OpenLab(ctx context.Context, opts Options, mlockPages int64) (*Lab, error) {
	l := &Lab{Kernel: thisKernel()}
	var err error
	if l.run, err = newRun(ctx, opts); err != nil {
		return nil, err
	}
	if mlockPages > 0 {
		if err := l.run.host.set(mlockPath, fmt.Sprint(mlockPages*page()/1024)); err != nil {
			return nil, errors.Join(err, l.run.end())
		}
	}
	if l.watch, err = l.run.watch(ctx, &l.Kernel); err != nil {
		l.Kernel.TracerError, l.watch = err.Error(), nil
		l.run.unwatch()
		return l, nil
	}
	l.watch.mu.Lock()
	l.watch.mine.last = anyUser
	l.watch.mu.Unlock()
	return l, nil
}

// Close puts the machine back.
func (l *Lab) Close() error {
	_, _, err := l.watch.stop()
	return errors.Join(err, l.run.end())
}

// Try runs a scenario: once more, if events of it were lost.
func (l *Lab) Try(e Exercise) (sc Scenario, err error) {
	for attempt := 1; attempt <= 2; attempt++ {
		if sc, err = l.try(e); err != nil || !sc.CouldNotRun {
			break
		}
	}
	return sc, err
}

func (l *Lab) try(e Exercise) (Scenario, error) {
	ctx := l.run.ctx
	l.watch.fresh()
	sc, scene := l.run.one(ctx, e)
	if ctx.Err() != nil {
		return sc, context.Cause(ctx)
	}
	events, err := l.watch.all(ctx, e.Charges)
	if err != nil {
		return sc, err
	}
	if sc.Result == Skip {
		return sc, nil
	}
	traced := l.watch != nil && l.watch.watches(e.Charges)
	if traced {
		total := l.watch.tracer.Losses().Total()
		lost := total - l.lost
		l.lost = total
		own := scene.own(events)
		sc.Evidence.Tracer = judge(own, lost)
		if missed := scene.missed(own); lost > 0 || missed != "" {
			sc.Result, sc.CouldNotRun = Skip, true
			sc.Reason = fmt.Sprintf("could not run: the tracer lost %d events%s", lost, missed)
			return sc, nil
		}
	}
	sc.conclude(traced)
	return sc, nil
}

// fresh forgets the scenario before.
func (w *watch) fresh() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events, w.rest, w.marks, w.mine.objects = nil, ledger.New(), 0, nil
}

// all are the events since then, once a mark behind them was seen.
func (w *watch) all(ctx context.Context, charges Charges) ([]ledger.Event, error) {
	if w == nil {
		return nil, nil
	}
	if charges == ChargesObjects || charges == ChargesOthers {
		w.settle()
	} // A program has waited for its own.
	for end := time.Now().Add(stepTime); ; {
		w.mark()
		for wait := time.Now().Add(settleTime); time.Now().Before(wait); time.Sleep(time.Millisecond) {
			w.mu.Lock()
			events, marks := w.events, w.marks
			w.mu.Unlock()
			if marks > 0 {
				return events, nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case time.Now().After(end):
			return nil, errors.New("the tracer no longer sees what is mapped")
		}
	}
}
