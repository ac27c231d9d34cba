package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/perf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

func perfArrayTransport() Transport {
	return Transport{
		Name:       PerfArray,
		What:       "perf event array",
		Perf:       bpf.LoadPerfLegacy,
		BPFObjects: bpf.LoadObjectsLegacy,
		Chargers:   bpf.LoadChargersLegacy,
		Resize: func(maps map[string]*ebpf.MapSpec, _ uint32) error {
			cpus, err := ebpf.PossibleCPU()
			maps[bpf.PerfLegacyMapRingsMap].MaxEntries = uint32(cpus)
			return err
		},
		Open: func(maps map[string]*ebpf.Map) (Reader, error) {
			r := &perfReader{events: maps[bpf.PerfLegacyMapEvents], index: maps[bpf.PerfLegacyMapRingsMap], sent: maps[bpf.PerfLegacyMapSeqMap]}
			// Enough for the self-test, and for the larger rings being mapped, all
			// perhaps on one CPU.
			var err error
			r.rings, err = r.newRings(16<<10 + 512*int(r.index.MaxEntries()))
			return r, err
		},
		Enlarge: func(r Reader, bytes uint32) error {
			if bytes == 0 {
				bytes = defaultRingBytes
			}
			return r.(*perfReader).enlarge(int(bytes))
		},
	}
}

// defaultRingBytes is the size of a CPU's ring in the perf array. The rings are
// charged to pinwatch's user like anybody's: that is half of what a user may have
// per CPU by default, and leaves the other half to others.
const defaultRingBytes = 256 << 10

// perfReader reads the perf event array: a ring for each CPU, of which it makes
// one stream in order.
type perfReader struct {
	events   *ebpf.Map
	index    *ebpf.Map // which of events is the ring of a CPU
	sent     *ebpf.Map // how many records the programs have sent
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
		seq := binary.NativeEndian.Uint64(raw[unsafe.Offsetof(bpf.PerfHeader{}.Seq):])
		r.queue.push(seq, raw, time.Now())
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

func (r *perfReader) LostInAll() uint64 {
	var sent uint64
	r.sent.Lookup(uint32(0), &sent) // cannot fail: an array, and its only key
	return sent - r.queue.came
}
