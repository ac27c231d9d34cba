package tracer

import (
	"context"
	"time"

	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// ObjectID names a BPF object as the kernel does: maps and programs each have
// numbers of their own.
type ObjectID struct {
	ID      uint32
	Program bool
}

// WatchObjects traces for a time, and returns what was charged, in bytes, for the
// BPF objects that were made meanwhile and still exist.
func WatchObjects(ctx context.Context, d time.Duration) (map[ObjectID]int64, error) {
	t, err := Open(Options{BPF: true, Memcg: true})
	if err != nil {
		return nil, err
	}
	defer t.Close()
	watching, stop := context.WithTimeout(ctx, d)
	defer stop()
	l := ledger.New()
	var pageSize int64
	for event, err := range t.Events(watching) {
		if err != nil {
			return nil, err
		}
		pageSize = int64(event.PageSize)
		l.Apply(event)
	}
	charged := map[ObjectID]int64{}
	for _, o := range l.Objects() {
		charged[ObjectID{o.ID, o.Program}] = o.Bytes + o.Pages*pageSize
	}
	return charged, ctx.Err()
}
