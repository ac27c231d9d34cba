package transport

import (
	"encoding/binary"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/self"
)

func perfArrayTransport() Transport {
	return Transport{
		Name:       PerfArray,
		What:       "perf event array",
		Perf:       bpf.Packed("perf_legacy"),
		BPFObjects: bpf.Packed("objects_legacy"),
		Chargers:   bpf.Packed("chargers_legacy"),
		Resize:     func(map[string]*ebpf.MapSpec, uint32) error { return nil },
		Open: func(maps map[string]*ebpf.Map, payer *self.User) (Reader, error) {
			r, err := newPerfReader(maps, payer)
			if err != nil {
				return nil, err
			}
			// Enough for the self-test, and for the larger rings being mapped, all
			// perhaps on one CPU.
			if err := r.enlarge(16<<10 + 512*len(r.rings)); err != nil {
				r.Close()
				return nil, err
			}
			return r, nil
		},
		Enlarge: func(r Reader, bytes uint32) error {
			if bytes == 0 {
				bytes = defaultRingBytes
			}
			return r.(*perfReader).enlarge(int(bytes))
		},
	}
}

// defaultRingBytes is the size of a CPU's ring in the perf array. Where pinwatch cannot be
// charged as a user of its own, it is half of what a user may have per CPU by default, and
// leaves the other half to others.
const defaultRingBytes = 256 << 10

// perfReader reads the perf event array: a ring for each CPU, of which it makes
// one stream in order.
type perfReader struct {
	events  *ebpf.Map
	sent    *ebpf.Map  // how many records the programs have sent
	payer   *self.User // is charged for the rings
	spill   spill      // what found no ring
	bytes   int        // of each ring
	rings   []*ring    // by CPU; nil: it has none
	looked  time.Time  // at which CPUs are online
	reading sync.Mutex
	wake    int // an eventfd, for these:
	flushed atomic.Bool
	closed  atomic.Bool

	queue    queue
	deadline time.Time
	ended    error // nothing more will come
}

func newPerfReader(maps map[string]*ebpf.Map, payer *self.User) (r *perfReader, err error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	r = &perfReader{
		events: maps[bpf.PerfLegacyMapEvents], sent: maps[bpf.PerfLegacyMapSeqMap], payer: payer,
		spill: spill{slots: maps[bpf.PerfLegacyMapSpillMap]}, rings: make([]*ring, cpus),
	}
	r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	return r, err
}

// push takes a record into the queue.
func (r *perfReader) push(raw []byte) {
	if len(raw) >= int(unsafe.Sizeof(bpf.PerfHeader{})) {
		r.queue.push(seqOf(raw), raw, time.Now())
	}
}

// seqOf is the number of a record, which stands in its header.
func seqOf(raw []byte) uint64 {
	return binary.NativeEndian.Uint64(raw[unsafe.Offsetof(bpf.PerfHeader{}.Seq):])
}

// take moves what is in the rings to the queue.
func (r *perfReader) take() {
	for _, ring := range r.rings {
		if ring != nil {
			ring.take(r.push)
		}
	}
}

func (r *perfReader) ReadInto(raw *[]byte) error {
	r.reading.Lock()
	defer r.reading.Unlock()
	for {
		next, ok := r.queue.pop(time.Now())
		switch {
		case ok:
			*raw = next
			return nil
		case r.ended != nil:
			return r.ended
		case r.closed.Load():
			return ringbuf.ErrClosed
		}
		flushed := r.flushed.Load()
		came := r.queue.came
		r.take()
		switch now := time.Now(); {
		case flushed:
			r.takeSpilled()
			r.queue.release()
			r.ended = ringbuf.ErrFlushed
		case r.queue.came > came:
		case !r.deadline.IsZero() && !now.Before(r.deadline):
			return os.ErrDeadlineExceeded
		case now.Sub(r.looked) >= lookInterval:
			r.follow()
		default:
			r.wait(now)
		}
	}
}

// wait waits for a record in a ring, a call that wakes it, or a time to act at.
func (r *perfReader) wait(now time.Time) {
	until := r.looked.Add(lookInterval)
	for _, at := range []time.Time{r.queue.due(), r.deadline} {
		if !at.IsZero() && at.Before(until) {
			until = at
		}
	}
	on := []unix.PollFd{{Fd: int32(r.wake), Events: unix.POLLIN}}
	for _, ring := range r.rings {
		if ring != nil {
			on = append(on, unix.PollFd{Fd: int32(ring.fd), Events: unix.POLLIN})
		}
	}
	const up = time.Millisecond - 1
	unix.Poll(on, int(max(0, until.Sub(now)+up)/time.Millisecond)) // what woke it, if not an error, is looked for
}

func (r *perfReader) SetDeadline(t time.Time) {
	r.reading.Lock()
	defer r.reading.Unlock()
	r.deadline = t
}

// interrupt ends waiting, now and from now on.
func (r *perfReader) interrupt() error {
	_, err := unix.Write(r.wake, binary.NativeEndian.AppendUint64(nil, 1))
	return err
}

func (r *perfReader) Flush() error {
	r.flushed.Store(true)
	return r.interrupt()
}

func (r *perfReader) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	r.interrupt()
	r.reading.Lock()
	defer r.reading.Unlock()
	for cpu := range r.rings {
		r.setRing(cpu, nil)
	}
	return unix.Close(r.wake)
}

// More does not look ahead: what waits in the queue may have to wait long.
func (r *perfReader) More() bool { return false }

func (r *perfReader) Lost() uint64 { return r.queue.lost }

func (r *perfReader) LostInAll() uint64 {
	var sent uint64
	r.sent.Lookup(uint32(0), &sent) // cannot fail: an array, and its only key
	return sent - r.queue.came
}

func (r *perfReader) Pages() (sum int) {
	for _, ring := range r.rings {
		if ring != nil {
			sum += ring.pages()
		}
	}
	return sum
}
