package session

import (
	"context"
	"os"
	"time"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// WatchObjects traces for a time, and returns what was charged, in bytes, for the BPF
// objects that were made meanwhile and still exist. btf is a file with the kernel's types;
// "": there is none.
func WatchObjects(ctx context.Context, d time.Duration, btf string) (map[bpfobj.ID]int64, error) {
	s, err := Open(ctx, Options{Tracer: tracer.Options{BTF: btf, BPF: true, Memcg: true}, NoSnapshot: true})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	watching, stop := context.WithTimeout(ctx, d)
	defer stop()
	charged := objectCharges{}
	if err := s.Run(watching, charged); err != nil {
		return nil, err
	}
	return charged, ctx.Err()
}

// objectCharges is a sink that keeps what objects are charged at the end, in bytes.
type objectCharges map[bpfobj.ID]int64

func (objectCharges) Enter(*ledger.Entry) error { return nil }
func (objectCharges) Flush(pipeline.View) error { return nil }

func (c objectCharges) Close(now pipeline.View, _ uint64) error {
	for _, o := range now.Objects() {
		c[bpfobj.ID{Number: o.ID, Program: o.Program}] = o.Bytes + o.Pages*int64(os.Getpagesize())
	}
	return nil
}
