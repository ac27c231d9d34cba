// Package transport brings the records of the BPF programs to user space, in the
// order that the ledger relies on.
package transport

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/self"
)

// The transports, as --transport names them.
const (
	Auto      = "auto"
	Ringbuf   = "ringbuf"
	PerfArray = "perf"
)

// Transport is a way for records to come from the kernel, with the programs that
// are compiled for it.
type Transport struct {
	Name string // as --transport names it
	What string // in words
	// Perf, BPFObjects and Chargers load the programs on perf buffers, on BPF objects
	// and on the other chargers.
	Perf, BPFObjects, Chargers func() (*ebpf.CollectionSpec, error)
	// InOrder reports that the kernel keeps the order, and the programs count what
	// does not fit: what was lost is known while they still run.
	InOrder bool
	// Resize sets the size of what records pass through, in bytes; 0: the default.
	Resize func(maps map[string]*ebpf.MapSpec, bytes uint32) error
	// Open opens a reader that is large enough for the self-test, and Enlarge makes it
	// as large as tracing needs, in bytes; 0: the default.
	// A payer is charged for what that maps.
	Open    func(maps map[string]*ebpf.Map, payer *self.User) (Reader, error)
	Enlarge func(r Reader, bytes uint32) error
}

// Reader yields records in the order that the ledger wants.
type Reader interface {
	// ReadInto waits for the next record and puts it into raw. Its errors are
	// those of the ringbuf package: ErrFlushed, ErrClosed, os.ErrDeadlineExceeded.
	ReadInto(raw *[]byte) error
	// SetDeadline ends waiting at a time; zero: never.
	SetDeadline(time.Time)
	// Flush makes ReadInto yield what is there, and then ErrFlushed.
	Flush() error
	Close() error
	// More reports whether the next record is there already, as far as the reader can tell.
	More() bool
	// Lost is how many records did not come before the last one that was read, as far as
	// the reader can tell.
	Lost() uint64
	// LostInAll is the exact number. No program may send any more: the count of what
	// they sent must not be looked up while they do.
	LostInAll() uint64
	// Pages are what it has mapped that a user is charged for.
	Pages() int
}

// Names are what --transport takes.
func Names() []string { return []string{Auto, Ringbuf, PerfArray} }

// Choose is what --transport asks for, or the best that the kernel has. The note says
// in words what the kernel lacks.
func Choose(name string) (t Transport, note string, err error) {
	switch name {
	case "", Auto:
		if ring := kernel.RingBuffer(); ring.Lacks() {
			return perfArrayTransport(), ring.Missing(), nil
		}
		return ringbufTransport(), "", nil
	case Ringbuf:
		return ringbufTransport(), "", nil
	case PerfArray:
		return perfArrayTransport(), "", nil
	}
	return Transport{}, "", fmt.Errorf("--transport %s: want %s, %s or %s", name, Auto, Ringbuf, PerfArray)
}
