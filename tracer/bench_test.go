package tracer_test

import (
	"fmt"
	"io"
	"iter"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// calls makes the records of programs that hold a number of perf buffers and
// replace them, the oldest first: an unmapping, a mapping, and so on. As on a
// kernel without faults, all within a large allowance.
type calls struct {
	record bpf.PerfRecord
	live   int     // buffers
	made   int     // records
	users  []int64 // pages of each
}

// A machine with many buffers has many processes, and many users.
const (
	benchProcesses, benchUsers = 10_000, 1_000

	benchPages  = 3 // of every buffer
	benchCgroup = 4711
)

func newCalls(live int) *calls {
	c := &calls{live: live, users: make([]int64, min(live, benchUsers))}
	c.record = bpf.PerfRecord{
		Header:        bpf.PerfHeader{Kind: bpf.PerfRecordKindRECORD_PERF, Caller: bpf.PerfCaller{CgroupId: benchCgroup, LockLimit: 2048}},
		UserLockLimit: 1 << 30, DataPages: benchPages, Paranoid: 2, OnlineCpus: 4,
	}
	copy(c.record.Header.Caller.Comm[:], "profiler")
	return c
}

// fill yields the records that make the buffers.
func (c *calls) fill() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for n := range c.live {
			if !yield(c.mapping(n)) {
				return
			}
		}
	}
}

// next is the record of one more call. It is overwritten by the one after it.
func (c *calls) next() []byte {
	n := c.made / 2 % c.live
	c.made++
	if c.made%2 == 1 {
		return c.unmapping(n)
	}
	return c.mapping(n)
}

func (c *calls) mapping(n int) []byte {
	r := c.call(n)
	r.Op, r.Mappings, r.MappingsAfter = bpf.PerfOpOP_MAP, 0, 1
	c.charge(n, benchPages)
	return c.bytes()
}

func (c *calls) unmapping(n int) []byte {
	r := c.call(n)
	r.Op, r.Mappings, r.MappingsAfter = bpf.PerfOpOP_UNMAP, 1, 0
	c.charge(n, -benchPages)
	return c.bytes()
}

// charge moves the counter of a buffer's user.
func (c *calls) charge(n int, pages int64) {
	user := &c.users[n%len(c.users)]
	c.record.UserExtra, c.record.User.Before, c.record.User.After = benchPages, *user, *user+pages
	*user += pages
}

func (c *calls) call(n int) *bpf.PerfRecord {
	r := &c.record
	process, uid := uint32(n%min(c.live, benchProcesses)), uint32(1000+n%len(c.users))
	r.Header.Caller.Uid, r.User.Owner = uid, uint64(uid)
	r.Header.TimeNs += 1000
	r.Header.Caller.Pid, r.Header.Caller.Tid, r.Header.Caller.Cpu = 5000+process, 5000+process, process%4
	r.Process.Owner, r.Buffer = 1<<47+uint64(process)<<10, 1<<46+uint64(n)<<10
	return r
}

func (c *calls) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&c.record)), unsafe.Sizeof(c.record))
}

const benchCgroupPath = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod01234567_89ab_cdef_0123_456789abcdef.slice/cri-containerd-"

func newRecords() *tracer.Records {
	return tracer.NewRecords(benchCgroup, benchCgroupPath+strings.Repeat("0123456789abcdef", 4)+".scope")
}

// discard is for what comes before the output.
type discard struct{}

func (discard) Write(*row.Row) error { return nil }

func (discard) Flush() error { return nil }

func (discard) Close(*row.Row, ledger.Summary) error { return nil }

// BenchmarkEvents takes records all the way: decoded, through the ledger, to a
// writer. One op is one event.
func BenchmarkEvents(b *testing.B) {
	writers := []struct {
		name string
		make func() (output.Writer, error)
	}{
		{"ledger", func() (output.Writer, error) { return discard{}, nil }},
		{"json", func() (output.Writer, error) { return recording.NewWriter(io.Discard), nil }},
		{"table", func() (output.Writer, error) { return output.NewTable(io.Discard) }},
	}
	for _, writer := range writers {
		for _, live := range []int{1, 1_000, 100_000} {
			b.Run(fmt.Sprintf("%s/live=%d", writer.name, live), func(b *testing.B) {
				w, err := writer.make()
				if err != nil {
					b.Fatal(err)
				}
				benchmarkEvents(b, live, w)
			})
		}
	}
}

func benchmarkEvents(b *testing.B, live int, w output.Writer) {
	c, records := newCalls(live), newRecords()
	var took time.Duration
	events := func(yield func(ledger.Event, error) bool) {
		for raw := range c.fill() {
			if event, err := records.Event(raw); !yield(event, err) {
				return
			}
		}
		runtime.GC() // of what filling it left
		began := cpuTime(b)
		for b.Loop() {
			if event, err := records.Event(c.next()); !yield(event, err) {
				return
			}
		}
		took = cpuTime(b) - began
	}
	filter := &row.Filter{}
	b.ReportAllocs()
	stream := output.NewStream(w, filter)
	if err := pipeline.Run(events, func() uint64 { return 0 }, stream); err != nil {
		b.Fatal(err)
	}
	summary := stream.Summary()
	if summary.Verdicts[ledger.OK] != summary.Events || summary.Uncertain() != 0 || summary.Live < live-1 {
		b.Fatalf("not the events that were meant: %+v", summary)
	}
	b.ReportMetric(float64(b.N)/took.Seconds(), "events/cpu-s")
}

// BenchmarkHeap says what the heap holds after a tenth of the events and after all of
// them, through the ledger to the table: it must not grow with what has passed.
func BenchmarkHeap(b *testing.B) {
	for _, live := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) { benchmarkHeap(b, live) })
	}
}

func benchmarkHeap(b *testing.B, live int) {
	w, err := output.NewTable(io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	c, records := newCalls(live), newRecords()
	use := func(of string) {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc), "B-heap-after-"+of)
	}
	events := func(yield func(ledger.Event, error) bool) {
		for raw := range c.fill() {
			if event, err := records.Event(raw); !yield(event, err) {
				return
			}
		}
		for n := range b.N {
			if event, err := records.Event(c.next()); !yield(event, err) {
				return
			}
			if n == b.N/10 {
				use("a-tenth")
			}
		}
		use("all")
	}
	if err := pipeline.Run(events, func() uint64 { return 0 }, output.NewStream(w, &row.Filter{})); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkYardstick is work of the standard library alone, for the ratios that hold
// on any machine. One op stands for one event.
func BenchmarkYardstick(b *testing.B) {
	known, line := map[uint64]int64{}, []byte{}
	began, n := cpuTime(b), uint64(0)
	for b.Loop() {
		for range 10 {
			n++
			known[n%1000]++
			line = strconv.AppendUint(line[:0], n<<20, 10)
		}
	}
	b.ReportMetric(float64(b.N)/(cpuTime(b)-began).Seconds(), "events/cpu-s")
}

// cpuTime is that of this process, garbage collection included. Unlike the time on
// the wall it means something on a machine that does other things too.
func cpuTime(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
