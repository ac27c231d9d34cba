package tracer

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// StartFrom has the events begin with what is mapped already. The probes are
// attached by now, so nothing is missed between the snapshot and them. Without a
// snapshot a trace begins with nothing, and says so.
func (t *Tracer) StartFrom(ctx context.Context, source *snapshot.Source) {
	s, err := source.Take(ctx)
	if err != nil {
		t.degraded = append(t.degraded, fmt.Sprintf("what was mapped before is not known: %v", err))
		return
	}
	// The tracer's own buffers were mapped before the trace, too, but it has seen that.
	self := uint32(os.Getpid())
	t.older = slices.DeleteFunc(s.Older(), func(e ledger.Event) bool { return e.Caller.PID == self })
	if len(t.older) == 0 && slices.ContainsFunc(s.Buffers, func(b snapshot.Buffer) bool { return b.PID != self }) {
		t.degraded = append(t.degraded, fmt.Sprintf("%d mappings that are older than the trace are not known well enough for a verdict (that takes BPF iterators: Linux %s)", len(s.Buffers), kernel.Iterators().Since))
	}
	now := t.decoder.now()
	for i := range t.older {
		t.older[i].TimeNS = now
	}
}

// replayOlder yields what was mapped before.
func (t *Tracer) replayOlder(yield func(ledger.Event, error) bool) bool {
	for _, e := range t.older {
		if !yield(e, nil) {
			return false
		}
	}
	t.older = nil
	return true
}
