package transport

import (
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/self"
)

func ringbufTransport() Transport {
	return Transport{
		Name:       Ringbuf,
		What:       "ring buffer",
		Perf:       bpf.Packed("perf"),
		BPFObjects: bpf.Packed("objects"),
		Chargers:   bpf.Packed("chargers"),
		InOrder:    true,
		Resize: func(maps map[string]*ebpf.MapSpec, bytes uint32) error {
			if bytes != 0 {
				maps[bpf.PerfMapEvents].MaxEntries = bytes
			}
			return nil
		},
		Open: func(maps map[string]*ebpf.Map, _ *self.User) (Reader, error) {
			r, err := ringbuf.NewReader(maps[bpf.PerfMapEvents])
			return &ringReader{Reader: r, flushed: make(chan struct{})}, err
		},
		Enlarge: func(Reader, uint32) error { return nil },
	}
}

// ringReader reads the BPF ring buffer. The kernel keeps the order in it, and the
// programs count what does not fit.
type ringReader struct {
	*ringbuf.Reader
	record  ringbuf.Record
	batch   int           // bytes read since the ring was empty
	flushed chan struct{} // closed by Flush
}

// batchInterval is how long the reader stays away from a ring that it has emptied.
// To be woken for every record costs the traced call, which does the waking, and
// the reader more than the record itself.
const batchInterval = 5 * time.Millisecond

func (r *ringReader) ReadInto(raw *[]byte) error {
	if r.batch > 0 && r.AvailableBytes() == 0 {
		// Not in a flood: the ring must not fill up meanwhile.
		if r.batch < r.BufferSize()/16 {
			select {
			case <-time.After(batchInterval):
			case <-r.flushed:
			}
		}
		r.batch = 0
	}
	err := r.Reader.ReadInto(&r.record)
	*raw = r.record.RawSample
	r.batch += len(*raw)
	return err
}

func (r *ringReader) Flush() error {
	close(r.flushed)
	return r.Reader.Flush()
}

func (r *ringReader) More() bool { return r.record.Remaining > 0 }

func (r *ringReader) Lost() uint64 { return 0 }

func (r *ringReader) LostInAll() uint64 { return 0 }

func (r *ringReader) Pages() int { return 0 }
