package tracer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/perf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// The transports, as --transport names them.
const (
	TransportAuto    = "auto"
	TransportRingbuf = "ringbuf"
	TransportPerf    = "perf"
)

// transport is a way for records to come from the kernel, with the programs that
// are compiled for it.
type transport struct {
	name     string
	what     string // in words
	load     func() (*ebpf.CollectionSpec, error)
	objects  func() (*ebpf.CollectionSpec, error) // the same for BPF objects
	chargers func() (*ebpf.CollectionSpec, error) // and for the other chargers
	// inOrder says that the kernel keeps the order, and the programs count what does
	// not fit: what was lost is known while they still run.
	inOrder bool
	resize  func(maps map[string]*ebpf.MapSpec, bytes uint32) error
	open    func(maps map[string]*ebpf.Map) (reader, error)
	enlarge func(r reader, bytes uint32) error
}

// reader yields records in the order that the ledger wants.
type reader interface {
	// ReadInto waits for the next record and puts it into raw. Its errors are
	// those of the ringbuf package: ErrFlushed, ErrClosed, os.ErrDeadlineExceeded.
	ReadInto(raw *[]byte) error
	// SetDeadline ends waiting at a time; zero: never.
	SetDeadline(time.Time)
	// Flush makes ReadInto yield what is there, and then ErrFlushed.
	Flush() error
	Close() error
	// More says that the next record is there already, as far as the reader can tell.
	More() bool
	// Lost is how many records did not come, as far as the reader can tell.
	Lost() uint64
}

var ringbufTransport = transport{
	name:     TransportRingbuf,
	what:     "ring buffer",
	load:     bpf.LoadPerf,
	objects:  bpf.LoadObjects,
	chargers: bpf.LoadChargers,
	inOrder:  true,
	resize: func(maps map[string]*ebpf.MapSpec, bytes uint32) error {
		if bytes != 0 {
			maps[bpf.PerfMapEvents].MaxEntries = bytes
		}
		return nil
	},
	open: func(maps map[string]*ebpf.Map) (reader, error) {
		r, err := ringbuf.NewReader(maps[bpf.PerfMapEvents])
		return &ringReader{Reader: r, flushed: make(chan struct{})}, err
	},
	enlarge: func(reader, uint32) error { return nil },
}

var perfTransport = transport{
	name:     TransportPerf,
	what:     "perf event array",
	load:     bpf.LoadLegacy,
	objects:  bpf.LoadOldObjects,
	chargers: bpf.LoadOldChargers,
	resize: func(maps map[string]*ebpf.MapSpec, _ uint32) error {
		cpus, err := ebpf.PossibleCPU()
		maps[bpf.LegacyMapRingsMap].MaxEntries = uint32(cpus)
		return err
	},
	open: func(maps map[string]*ebpf.Map) (reader, error) {
		r := &perfReader{events: maps[bpf.LegacyMapEvents], index: maps[bpf.LegacyMapRingsMap]}
		// Enough for the self-test, and for the larger rings being mapped, all
		// perhaps on one CPU.
		var err error
		r.rings, err = r.newRings(16<<10 + 512*int(r.index.MaxEntries()))
		return r, err
	},
	enlarge: func(r reader, bytes uint32) error {
		if bytes == 0 {
			bytes = defaultRingBytes
		}
		return r.(*perfReader).enlarge(int(bytes))
	},
}

// defaultRingBytes is the size of a CPU's ring in the perf array. The rings are
// charged to pinwatch's user like anybody's: that is half of what a user may have
// per CPU by default, and leaves the other half to others.
const defaultRingBytes = 256 << 10

// chosenTransport is what --transport asks for, or the best that the kernel has.
// It says in words what the kernel lacks.
func chosenTransport(name string) (t transport, degraded []string, err error) {
	switch name {
	case "", TransportAuto:
		if errors.Is(features.HaveMapType(ebpf.RingBuf), ebpf.ErrNotSupported) {
			return perfTransport, []string{"ring buffer: requires Linux 5.8 (running " + kernel.Release() + "); using perf event array"}, nil
		}
		return ringbufTransport, nil, nil
	case TransportRingbuf:
		return ringbufTransport, nil, nil
	case TransportPerf:
		return perfTransport, nil, nil
	}
	return transport{}, nil, fmt.Errorf("--transport %s: want %s, %s or %s", name, TransportAuto, TransportRingbuf, TransportPerf)
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

// perfReader reads the perf event array: a ring for each CPU, of which it makes
// one stream in order.
type perfReader struct {
	events   *ebpf.Map
	index    *ebpf.Map // which of events is the ring of a CPU
	online   []int     // the CPUs that have one
	rings    *perf.Reader
	record   perf.Record
	queue    queue
	deadline time.Time
	ended    error // nothing more will come
}

// newRings maps a ring for each CPU that is online. The library leaves no gaps for
// those that are not, so the n-th ring is that of the n-th CPU online
// (cilium/ebpf#2100). Once it does, TestLossIsCounted fails, and the programs can
// go by BPF_F_CURRENT_CPU without an index.
func (r *perfReader) newRings(bytes int) (*perf.Reader, error) {
	online, err := kernel.CPUs("/sys")
	if err != nil {
		return nil, err
	}
	rings, err := perf.NewReader(r.events, bytes)
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("map %d KiB for each CPU: perf buffers are held against the user's allowance and RLIMIT_MEMLOCK: run with CAP_IPC_LOCK, or with a smaller --buffer-kib: %w", bytes>>10, err)
	}
	if err != nil {
		return nil, err
	}
	if slices.Equal(online, r.online) {
		return rings, nil
	}
	for n, cpu := range online {
		if err := r.index.Put(uint32(cpu), uint32(n)); err != nil {
			rings.Close()
			return nil, fmt.Errorf("name the ring of CPU %d: %w", cpu, err)
		}
	}
	r.online = online
	return rings, nil
}

// enlarge replaces the rings by those that tracing needs. The mapping of these is
// the first thing that is traced, so that the ledger knows what pinwatch itself is
// charged.
func (r *perfReader) enlarge(bytes int) error {
	larger, err := r.newRings(bytes)
	if err != nil {
		return err
	}
	// No program finds the old rings any more. One that had found them before
	// is done long before this.
	r.rings.SetDeadline(time.Now().Add(20 * time.Millisecond))
	for {
		if err := r.take(); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			larger.Close()
			return err
		}
	}
	old := r.rings
	r.rings = larger
	return old.Close()
}

// take moves one record from the rings to the queue.
func (r *perfReader) take() error {
	if err := r.rings.ReadInto(&r.record); err != nil {
		return err
	}
	// A notice of lost samples says nothing new: they are gaps in the order.
	if raw := r.record.RawSample; len(raw) >= int(unsafe.Sizeof(bpf.PerfHeader{})) {
		order := binary.NativeEndian.Uint64(raw[unsafe.Offsetof(bpf.PerfHeader{}.Order):])
		r.queue.push(order, raw, time.Now())
	}
	return nil
}

func (r *perfReader) ReadInto(raw *[]byte) error {
	for {
		next, ok := r.queue.pop(time.Now())
		if ok {
			*raw = next
			return nil
		}
		if r.ended != nil {
			return r.ended
		}
		until := r.queue.due()
		if until.IsZero() || !r.deadline.IsZero() && r.deadline.Before(until) {
			until = r.deadline
		}
		r.rings.SetDeadline(until)
		err := r.take()
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			r.queue.release()
			r.ended = err
		case !r.deadline.IsZero() && !time.Now().Before(r.deadline):
			return err
		}
	}
}

func (r *perfReader) SetDeadline(t time.Time) { r.deadline = t }

func (r *perfReader) Flush() error { return r.rings.Flush() }

func (r *perfReader) Close() error { return r.rings.Close() }

// More does not look ahead: what waits in the queue may have to wait long.
func (r *perfReader) More() bool { return false }

func (r *perfReader) Lost() uint64 { return r.queue.lost }
