package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// CPUs go and come. A ring can only be opened for a CPU that is online, and is dead once the
// CPU went. So the rings follow the CPUs, a moment late, and what a program sends from a CPU
// without a ring it puts into a map, the spill, from where it is taken when the CPU has one.
// The order is that of the records' numbers, like all records'.

// lookInterval is how often the CPUs are looked at. The spill holds what comes meanwhile.
const lookInterval = 100 * time.Millisecond

// enlarge gives all CPUs new rings. The mapping of those that tracing needs is
// the first thing that is traced, so that the ledger knows what pinwatch itself is
// charged.
func (r *perfReader) enlarge(bytes int) error {
	r.reading.Lock()
	defer r.reading.Unlock()
	r.bytes = bytes
	online, err := kernel.CPUs("/sys")
	if err != nil {
		return err
	}
	return r.renew(online)
}

// follow gives rings to the CPUs that came, and takes them from those that went. Where a
// record is missed, the ring of its CPU may be dead, for the CPU went and came in no time:
// then the record is in the spill.
func (r *perfReader) follow() {
	r.looked = time.Now()
	online, err := kernel.CPUs("/sys")
	if err != nil {
		return // the CPUs keep their rings
	}
	var came []int
	for cpu, ring := range r.rings {
		switch on := slices.Contains(online, cpu); {
		case on && ring == nil:
			came = append(came, cpu)
		case !on && ring != nil:
			r.setRing(cpu, nil)
		}
	}
	if len(came) == 0 && r.queue.stands() {
		for _, cpu := range r.takeSpilled() {
			if slices.Contains(online, cpu) && !slices.Contains(came, cpu) {
				came = append(came, cpu)
			}
		}
	}
	if len(came) > 0 {
		r.renew(came) // what fails is tried again the next time, and its records are counted as lost
	}
}

// renew gives CPUs a ring, or another one. A CPU that has just gone needs none.
func (r *perfReader) renew(cpus []int) error {
	err := r.payer.Do(func() error {
		for _, cpu := range cpus {
			fresh, err := openRing(cpu, r.bytes)
			if errors.Is(err, unix.ENODEV) {
				continue
			} else if err != nil {
				return err
			}
			if err := r.setRing(cpu, fresh); err != nil {
				return err
			}
		}
		return nil
	})
	r.takeSpilled()
	return err
}

// setRing gives a CPU a ring, or, being nil, takes it away. The old one is emptied.
func (r *perfReader) setRing(cpu int, fresh *ring) error {
	old := r.rings[cpu]
	if fresh == nil && old == nil {
		return nil
	}
	r.rings[cpu] = fresh
	var err error
	if fresh == nil {
		err = r.events.Delete(uint32(cpu))
	} else {
		err = r.events.Put(uint32(cpu), uint32(fresh.fd))
	}
	if old == nil {
		return err
	}
	// No program finds the old one any more. One that had found it before must be done.
	AwaitPrograms()
	old.take(r.push)
	return errors.Join(err, old.close())
}

// takeSpilled moves what is in the spill to the queue, once the programs that are putting
// something there are done. It returns the CPUs where that was sent.
func (r *perfReader) takeSpilled() (cpus []int) {
	AwaitPrograms()
	r.spill.take(func(raw []byte) {
		r.push(raw)
		cpu := binary.NativeEndian.Uint32(raw[unsafe.Offsetof(bpf.PerfHeader{}.Caller)+unsafe.Offsetof(bpf.PerfCaller{}.Cpu):])
		cpus = append(cpus, int(cpu))
	})
	return cpus
}

// AwaitPrograms waits until programs that run have sent what they saw, and reports whether
// they surely have. They are sections that RCU waits for, and MEMBARRIER_CMD_GLOBAL is
// synchronize_rcu, before 4.20 synchronize_sched (kernel/sched/membarrier.c). There is none
// with CPUs in nohz_full, nor where a filter of system calls forbids it.
func AwaitPrograms() bool {
	const global = 1
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		time.Sleep(20 * time.Millisecond) // far longer than they take
		return false
	}
	return true
}

// spill reads the map of that name in bpf/record.h.
type spill struct {
	slots *ebpf.Map
	seen  map[uint32]uint64 // numbers of the records that were taken, by slot
}

// take passes on the records that are new. The map is an array, so that nothing fails.
func (s *spill) take(use func(raw []byte)) {
	if s.seen == nil {
		s.seen = map[uint32]uint64{}
	}
	var slot, again []byte
	for key := range s.slots.MaxEntries() {
		s.slots.Lookup(key, &slot)
		s.slots.Lookup(key, &again)
		size := binary.NativeEndian.Uint64(slot)
		if size < uint64(unsafe.Sizeof(bpf.PerfHeader{})) || size > uint64(len(slot)-8) || !bytes.Equal(slot, again) {
			continue // empty, or being written: by a CPU that still has no ring
		}
		if raw := slot[8 : 8+size]; seqOf(raw) != s.seen[key] {
			s.seen[key] = seqOf(raw)
			use(raw)
		}
	}
}
