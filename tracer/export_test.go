package tracer

import (
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Records makes events of records as Tracer.Events does, on a host with one cgroup.
type Records struct {
	decoder decoder
	names   *cgroupPaths
}

// NewRecords knows the path of one cgroup.
func NewRecords(cgroupID uint64, path string) *Records {
	n := &cgroupPaths{tree: &cgroup.Tree{}, callers: map[uint64]string{cgroupID: path}, payers: map[uint64]string{}}
	return &Records{decoder{pageSize: 4096, comms: texts{}}, n}
}

// Event is that of one record.
func (r *Records) Event(raw []byte) (ledger.Event, error) {
	event, err := r.decoder.decode(raw)
	r.names.add(&event)
	return event, err
}
