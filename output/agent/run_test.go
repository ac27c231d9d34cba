package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/transport"
)

// An agent that a machine can never trace says so, and is not started again; what others may
// give back, or a limit that they share, does not keep it from another try.
func TestCannotTrace(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	for name, c := range map[string]struct {
		ctx   context.Context
		err   error
		never bool
	}{
		"not permitted":     {t.Context(), fmt.Errorf("attach: %w", unix.EPERM), true},
		"no such function":  {t.Context(), errors.New("no perf_mmap"), true},
		"no memory":         {t.Context(), fmt.Errorf("load: %w", unix.ENOMEM), false},
		"a full counter":    {t.Context(), fmt.Errorf("watch: %w", transport.Limited{Err: unix.EPERM}), false},
		"told to end first": {ended, unix.EPERM, false},
	} {
		var never *CannotTrace
		if got := cannotTrace(c.ctx, c.err); errors.As(got, &never) != c.never || !errors.Is(got, c.err) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
