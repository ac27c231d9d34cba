package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring is the perf buffer of one CPU that bpf_perf_event_output() fills: a page of metadata,
// and data to a power of two of pages.
type ring struct {
	fd     int
	memory []byte
	meta   *unix.PerfEventMmapPage // in memory
	data   []byte                  // in memory
}

// openRing opens that of a CPU that is online (else ENODEV), of so many bytes at least. The
// library's reader cannot: it opens those of the CPUs that are online, once and for all.
func openRing(cpu, bytes int) (_ *ring, err error) {
	attr := unix.PerfEventAttr{
		Type:        unix.PERF_TYPE_SOFTWARE,
		Config:      unix.PERF_COUNT_SW_BPF_OUTPUT,
		Sample_type: unix.PERF_SAMPLE_RAW,
		Bits:        unix.PerfBitWatermark,
		Wakeup:      1, // byte
	}
	attr.Size = uint32(unsafe.Sizeof(attr))
	r := &ring{}
	if r.fd, err = unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("open the perf buffer of CPU %d: %w", cpu, err)
	}
	pages := 1 << bits.Len(uint(max(bytes, 1)-1)/uint(os.Getpagesize()))
	r.memory, err = unix.Mmap(r.fd, 0, (pages+1)*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(r.fd)
		if errors.Is(err, unix.EPERM) {
			return nil, Limited{fmt.Errorf("map %d KiB for each CPU: perf buffers are held against the user's allowance and RLIMIT_MEMLOCK: run with CAP_IPC_LOCK, or with a smaller --buffer-kib: %w", bytes>>10, err)}
		}
		return nil, fmt.Errorf("map the perf buffer of CPU %d: %w", cpu, err)
	}
	r.meta = (*unix.PerfEventMmapPage)(unsafe.Pointer(&r.memory[0]))
	r.data = r.memory[os.Getpagesize():]
	return r, nil
}

// Limited is an error because of a counter that others fill, too: it may pass.
type Limited struct{ Err error }

func (l Limited) Error() string { return l.Err.Error() }
func (l Limited) Unwrap() error { return l.Err }

func (r *ring) close() error { return errors.Join(unix.Munmap(r.memory), unix.Close(r.fd)) }

// pages are what it is charged.
func (r *ring) pages() int { return len(r.memory) / os.Getpagesize() }

// headerSize is that of struct perf_event_header: a type, flags, and a size in bytes.
const headerSize = 8

// take passes on all records that are there, and makes room for others. A record is used
// only until use returns. Notices of lost ones are left out: they say nothing new.
func (r *ring) take(use func(raw []byte)) {
	head, tail := atomic.LoadUint64(&r.meta.Data_head), atomic.LoadUint64(&r.meta.Data_tail)
	var record []byte
	for tail < head {
		record = r.copy(record[:0], tail, headerSize)
		size := uint64(binary.NativeEndian.Uint16(record[6:]))
		if binary.NativeEndian.Uint32(record) == unix.PERF_RECORD_SAMPLE {
			record = r.copy(record[:0], tail+headerSize, size-headerSize)
			raw := binary.NativeEndian.Uint32(record) // its size
			use(record[4 : 4+raw])
		}
		tail += size
	}
	atomic.StoreUint64(&r.meta.Data_tail, tail)
}

// copy appends what stands at a position, which may run over the end of the ring.
func (r *ring) copy(to []byte, from, size uint64) []byte {
	at := from & uint64(len(r.data)-1)
	first := min(size, uint64(len(r.data))-at)
	return append(append(to, r.data[at:at+first]...), r.data[:size-first]...)
}
