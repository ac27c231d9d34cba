package terminal

import (
	"context"
	"fmt"
	"time"

	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
)

// objectsInterval is how often BPF objects are listed: finding out who holds them
// reads the descriptors of all processes.
const objectsInterval = 10 * time.Second

// Objects lists BPF objects for the view, by a function that lists them all.
func Objects(list func(context.Context) (*bpfobj.Listing, error)) func(context.Context) ([]top.Object, error) {
	var last []top.Object
	var err error
	var at time.Time
	return func(ctx context.Context) ([]top.Object, error) {
		if !at.IsZero() && time.Since(at) < objectsInterval {
			return last, err
		}
		var all *bpfobj.Listing
		all, err = list(ctx)
		at, last = time.Now(), nil
		if err != nil {
			return nil, err
		}
		for i := range all.Objects {
			last = append(last, object(&all.Objects[i]))
		}
		return last, nil
	}
}

func object(o *bpfobj.Object) top.Object {
	shown := top.Object{ID: o.ID, Kind: o.Kind, Type: o.Type, Name: o.Name, Memlock: o.Memlock, Charged: -1}
	if o.ChargedKnown {
		shown.Charged = o.Charged
	}
	for _, h := range o.Holders {
		shown.Holders = append(shown.Holders, fmt.Sprintf("%s(%d)", h.Comm, h.PID))
	}
	return shown
}
