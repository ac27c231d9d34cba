// Package tracer opens the kernel side: it loads the BPF programs, attaches
// them, and yields what they report as ledger events.
package tracer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/transport"
)

// Options say how to trace.
type Options struct {
	// BTF is a file with the kernel's types, for kernels that carry none.
	BTF string
	// Cache keeps what was read of the kernel's own types, for others that want them;
	// nil: there are none.
	Cache *btf.Cache
	// Attach is AttachFentry, AttachKprobe, or AttachAuto, the default: the best
	// that the kernel has.
	Attach string
	// Transport is transport.Ringbuf, transport.PerfArray, or transport.Auto, the
	// default: the ring buffer where the kernel has it.
	Transport string
	// BufferBytes is the size of the ring buffer between the kernel and
	// pinwatch, or of each CPU's with the perf event array: a power of two and a
	// multiple of the page size. 0: the default.
	BufferBytes uint32
	// BPF says whether BPF objects are watched too, and Memcg whether the charges
	// to memory cgroups are.
	BPF, Memcg bool
	// Others says whether the other chargers of locked_vm and pinned_vm are watched:
	// io_uring, AF_XDP and more.
	Others bool
	// CommandParent is the process whose descendants' events are marked; 0: none.
	CommandParent int
}

// Tracer is an open trace. Close it.
type Tracer struct {
	objects   *ebpf.Collection
	links     []link.Link
	reader    transport.Reader
	decoder   decoder
	names     *names
	asked     *ebpf.Program // for kernel symbols; nil where that was not to be had
	bpf       *probeSet     // of BPF objects; nil where they are not watched
	others    *probeSet     // of the other chargers
	way       way
	transport transport.Transport
	degraded  []string
	states    []ProbeState // what the self-test found of them
	early     []ledger.Event
	older     []ledger.Event // what was mapped before
	// begun and ended are when the trace began, and ended, in Unix ns; 0: not yet. lost
	// is what was lost until its end.
	begun uint64
	ended atomic.Uint64
	// settled is when all that the programs saw of the trace had been sent; 0: not yet.
	settled atomic.Uint64
	lost    atomic.Pointer[Losses]
	// refresh is set where the programs cannot read the settings themselves.
	refresh func() error
}

// Open loads and attaches. An error says what is needed, what this machine has
// and what to do.
func Open(opts Options) (_ *Tracer, err error) {
	candidates, err := chosen(opts.Attach)
	if err != nil {
		return nil, err
	}
	defer kernel.LiftMemlock()()
	via, note, err := transport.Choose(opts.Transport)
	if err != nil {
		return nil, err
	}
	var degraded []string
	if note != "" {
		degraded = append(degraded, note)
	}
	sources, err := readSources(opts, via)
	if err != nil {
		return nil, err
	}
	found, err := kernel.LoadTypes(opts.BTF, opts.Cache)
	if err != nil {
		return nil, err
	}
	types := types{Types: found}
	asked, absent := sources.resolve(types)
	defer func() {
		if err != nil {
			asked.Close()
		}
	}()
	types.absent = absent
	if types.Note != "" {
		degraded = append(degraded, types.Note)
	}
	var failures []error
	for len(candidates) > 0 {
		w := candidates[0]
		t, err := open(opts, w, via, sources, types)
		if err == nil {
			t.asked = asked
			t.degraded = append(degraded, t.degraded...)
			t.degraded = append(t.degraded, t.ownCharge(types)...)
			if len(failures) > 0 {
				t.degraded = append(t.degraded, w.because(failures[0]))
			}
			return t, nil
		}
		failures = append(failures, err)
		// The ways want different privileges: what one lacks, another one may not
		// need.
		candidates = candidates[1:]
		if isVerifier(err) {
			break
		} else if errors.Is(err, os.ErrPermission) {
			candidates = slices.DeleteFunc(candidates, func(other way) bool { return other.name == w.name })
		} else if !unsupported(err) {
			break
		}
	}
	return nil, explainOpen(failures)
}

// open opens a trace in one way. Silent probes are attached once more: emulated
// machines lose some.
func open(opts Options, w way, via transport.Transport, sources sources, types types) (_ *Tracer, err error) {
	t := &Tracer{way: w, transport: via, names: newNames()}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if err := t.load(opts, sources, types); err != nil {
		return nil, err
	}
	if err := t.configure(opts); err != nil {
		return nil, err
	}
	if t.reader, err = via.Open(t.objects.Maps); err != nil {
		t.reader = nil
		return nil, fmt.Errorf("open the %s: %w", via.What, err)
	}
	if t.decoder, err = newDecoder(); err != nil {
		return nil, err
	}
	if err := t.attach(); err != nil {
		return nil, err
	}
	if opts.Others {
		if t.others, err = openChargers(sources.chargers, t.objects.Maps, types); err != nil {
			t.degraded = append(t.degraded, fmt.Sprintf("io_uring, AF_XDP and others that share locked_vm are not watched: %v", err))
			err = nil
		}
	}
	if opts.BPF {
		if err := t.watchObjects(opts, sources, types); err != nil {
			return nil, err
		}
	}
	if err := via.Enlarge(t.reader, opts.BufferBytes); err != nil {
		return nil, fmt.Errorf("open the %s: %w", via.What, err)
	}
	return t, nil
}

// begin begins the trace, once all probes on perf buffers are attached and were seen to
// work. What some of them saw before is not of it, nor are calls lost that were under
// way meanwhile: the self-test has given these the time to return.
func (t *Tracer) begin() error {
	// The ring cannot have been full yet.
	if err := t.objects.Maps[bpf.PerfMapLossesMap].Update(uint32(0), bpf.PerfLosses{}, ebpf.UpdateExist); err != nil {
		return fmt.Errorf("begin to count losses: %w", err)
	}
	t.begun = t.decoder.now()
	return nil
}

// end ends the trace, before the first probe is taken off: that takes long, and what
// the others still see is not of the trace.
func (t *Tracer) end() {
	if !t.ended.CompareAndSwap(0, t.decoder.now()) {
		return
	}
	drained := t.transport.InOrder && awaitPrograms() == nil
	// Counted after the end: what is lost in between is one doubt too many, and never
	// one too few.
	lost := t.counted()
	t.lost.Store(&lost)
	if !drained {
		t.detach()
	}
	t.settled.Store(t.decoder.now())
}

// awaitPrograms waits until programs that run have sent what they saw. They are sections that
// RCU waits for, and MEMBARRIER_CMD_GLOBAL is synchronize_rcu, before 4.20
// synchronize_sched (kernel/sched/membarrier.c). There is none with CPUs in nohz_full,
// nor where a filter of system calls forbids it.
func awaitPrograms() error {
	const global = 1
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// within says whether an event is of the trace.
func (t *Tracer) within(event *ledger.Event) bool {
	ended := t.ended.Load()
	return event.TimeNS >= t.begun && (ended == 0 || event.TimeNS <= ended)
}

// watchObjects attaches to BPF objects as well. They want kprobes, and kernel
// symbols: where this user may not have these, perf buffers are still watched.
func (t *Tracer) watchObjects(opts Options, sources sources, types types) (err error) {
	var memcg bool
	t.bpf, memcg, err = openObjects(sources.objects, t.objects.Maps, opts, types)
	switch {
	case err == nil:
		t.decoder.memcg = memcg
		t.degraded = append(t.degraded, t.bpf.degraded...)
		return t.testObjects()
	case opts.Memcg:
		return fmt.Errorf("watch BPF objects: %w", err)
	default:
		t.degraded = append(t.degraded, fmt.Sprintf("BPF objects are not watched: %v", err))
	}
	return nil
}

// ownCharge says what pinwatch's BPF objects are charged to its user, where the
// kernel does so. They are charged before the trace begins, and so are part of
// what the user's counter held before it.
func (t *Tracer) ownCharge(types types) []string {
	if users, err := types.ChargesBPFToUsers(); err != nil || !users {
		return nil
	}
	var bytes uint64
	for _, m := range t.objects.Maps {
		if info, err := m.Info(); err == nil {
			n, _ := info.Memlock()
			bytes += n
		}
	}
	for _, p := range t.objects.Programs {
		if info, err := p.Info(); err == nil {
			n, _ := info.Memlock()
			bytes += n
		}
	}
	return []string{fmt.Sprintf("this kernel charges BPF objects to their user: pinwatch's own are %d pages of uid %d's locked_vm, charged before the trace begins", bytes/uint64(os.Getpagesize()), os.Getuid())}
}

// attach attaches the probes and has each show that it works.
func (t *Tracer) attach() (err error) {
	for attempt := 1; ; attempt++ {
		var degraded []string
		if t.links, degraded, err = t.way.attachAll(t.objects); err != nil {
			return err
		}
		t.states, err = t.selfTest()
		switch {
		case err == nil:
			t.degraded = append(t.degraded, degraded...)
			return t.begin()
		case errors.Is(err, errNoSelfTest):
			t.degraded = append(t.degraded, degraded...)
			t.degraded = append(t.degraded, "the probes were not tested: "+err.Error())
			return t.begin()
		case !errors.Is(err, errSilent) || attempt == 2:
			return fmt.Errorf("self-test on Linux %s: %w", kernel.Release(), err)
		}
		t.detachWay()
	}
}

// load loads the way's programs and the maps.
func (t *Tracer) load(opts Options, sources sources, types types) (err error) {
	spec := sources.perf.Copy()
	t.way.programs(spec)
	if err := t.transport.Resize(spec.Maps, opts.BufferBytes); err != nil {
		return err
	}
	if !types.HaveTypedReads() {
		hideTypedReads(spec.Programs)
	}
	collection := ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: types.File}, Cache: types.Cache}
	t.objects, err = ebpf.NewCollectionWithOptions(spec, collection)
	if errors.Is(err, ebpf.ErrRestrictedKernel) {
		setSymbols(spec.Programs, nil)
		t.refresh = func() error { return t.configure(opts) }
		t.degraded = append(t.degraded, "kernel symbols are hidden (no CAP_SYSLOG, or kernel.kptr_restrict is 2): sysctls and CPUs are read every "+refreshInterval.String()+", not at every call")
		t.objects, err = ebpf.NewCollectionWithOptions(spec, collection)
	}
	return err
}

// refreshInterval is how old a setting can be where it is not read live.
const refreshInterval = 100 * time.Millisecond

func (t *Tracer) configure(opts Options) error {
	s, err := kernel.ReadSettings()
	if err != nil {
		return err
	}
	possible, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	config := bpf.PerfConfig{
		PageShift:         uint32(bits.TrailingZeros32(s.PageSize)),
		PerfEventMlockKb:  int32(s.MlockKiB),
		PerfEventParanoid: int32(s.Paranoid),
		OnlineCpus:        uint32(s.OnlineCPUs),
		CommandParent:     uint32(opts.CommandParent),
		WatchMemcg:        boolInt(opts.Memcg),
		PossibleCpus:      uint32(possible),
	}
	if err := t.objects.Maps[bpf.PerfMapConfigMap].Put(uint32(0), config); err != nil {
		return fmt.Errorf("configure the BPF programs: %w", err)
	}
	return nil
}

// Attached says what is watched, and how.
func (t *Tracer) Attached() string {
	return "perf buffers mapped and unmapped: " + t.way.String() + ", " + t.transport.What
}

// Attach is the way that is in use: AttachFentry or AttachKprobe.
func (t *Tracer) Attach() string { return t.way.name }

// Transport is how events come from the kernel.
func (t *Tracer) Transport() string { return t.transport.What }

// Degraded says what this kernel or this user does not allow, and what that
// means.
func (t *Tracer) Degraded() []string { return t.degraded }

// keepFresh hands the settings to the programs again and again.
func (t *Tracer) keepFresh(ctx context.Context) {
	tick := time.NewTicker(refreshInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.refresh() // an error leaves the last settings in force
		}
	}
}

// Events yields events until ctx ends, then what is still in the ring buffer.
// It can be ranged over once.
func (t *Tracer) Events(ctx context.Context) iter.Seq2[ledger.Event, error] {
	return func(yield func(ledger.Event, error) bool) {
		stop := context.AfterFunc(ctx, func() {
			t.end()
			t.reader.Flush()
		})
		defer stop()

		if t.refresh != nil {
			fresh, cancel := context.WithCancel(ctx)
			defer cancel()
			go t.keepFresh(fresh)
		}
		if !t.replayOlder(yield) || !t.replayEarly(yield) {
			return
		}
		var record []byte
		var missed uint64
		checked := time.Now()
		for {
			if err := t.reader.ReadInto(&record); err != nil {
				if !errors.Is(err, ringbuf.ErrFlushed) && !errors.Is(err, ringbuf.ErrClosed) {
					yield(ledger.Event{}, fmt.Errorf("read the %s: %w", t.transport.What, err))
				}
				return
			}
			if now := time.Now(); now.Sub(checked) > missedInterval {
				missed, checked = t.missedProbes(), now
			}
			event, err := t.decoder.decode(record)
			if err == nil && !t.within(&event) {
				if settled := t.settled.Load(); settled != 0 && event.TimeNS > settled {
					return // nothing that was sent later is of the trace
				}
				continue
			}
			event.Lost += missed + t.reader.Lost()
			event.Followed = t.reader.More()
			t.names.add(&event)
			if !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// missedInterval is how often the kernel's own count of missed probes is read
// while there are events.
const missedInterval = 100 * time.Millisecond

// Losses are the calls that the trace does not hold.
type Losses struct {
	RingFull     uint64 // records that found the ring buffer full
	InFlightFull uint64 // calls not followed: too many under way at once
	MissedReturn uint64 // calls whose return was not seen
	MissedEntry  uint64 // calls whose entry was not seen
	MissedProbe  uint64 // hits that the kernel's kprobes did not pass on, by its own count (6.7+)
}

// Total is the sum of all losses.
func (l Losses) Total() uint64 {
	return l.RingFull + l.InFlightFull + l.MissedReturn + l.MissedEntry + l.MissedProbe
}

// String says what was lost and what helps.
func (l Losses) String() string {
	return fmt.Sprintf("%d found the buffer full or without one on their CPU (a larger one: --buffer-kib), %d calls were too many at once, %d returns and %d entries were not seen, %d hits were missed by the kernel's kprobes",
		l.RingFull, l.InFlightFull, l.MissedReturn, l.MissedEntry, l.MissedProbe)
}

// Losses reads the loss counters. They only grow, until the trace ends.
func (t *Tracer) Losses() Losses {
	losses := t.lost.Load()
	if losses == nil {
		now := t.counted()
		losses = &now
	}
	total := *losses
	total.RingFull += t.lostInTransit()
	return total
}

// counted is what the kernel counts, and its programs.
func (t *Tracer) counted() Losses {
	var counted bpf.PerfLosses
	t.objects.Maps[bpf.PerfMapLossesMap].Lookup(uint32(0), &counted) // cannot fail: an array, and its only key
	return Losses{
		MissedProbe:  t.missedProbes(),
		RingFull:     counted.RingFull,
		InFlightFull: counted.InFlightFull,
		MissedReturn: counted.MissedReturn,
		MissedEntry:  counted.MissedEntry,
	}
}

// lostInTransit is how many records were sent and did not come. Once detached it
// is exact.
func (t *Tracer) lostInTransit() uint64 {
	if t.links != nil {
		return t.reader.Lost()
	}
	return t.reader.LostInAll()
}

// missedProbes asks the kernel how often a probe was hit and its program not run,
// because another one was under way on the CPU.
func (t *Tracer) missedProbes() (sum uint64) {
	for _, program := range t.objects.Programs {
		if stats, err := program.Stats(); err == nil {
			sum += stats.RecursionMisses
		}
	}
	return sum + t.bpf.missed() + t.others.missed() + missedByLinks(t.links)
}

func missedByLinks(links []link.Link) (sum uint64) {
	for _, l := range links {
		info, err := l.Info()
		if err != nil {
			continue // not known before 6.7
		}
		if event := info.PerfEvent(); event != nil && event.Kprobe() != nil {
			sum += event.Kprobe().Missed
		}
	}
	return sum
}

// detach stops the flow of events.
func (t *Tracer) detach() {
	t.detachWay()
	t.bpf.detach()
	t.others.detach()
}

// detachWay takes the probes on perf buffers off, the entries first.
func (t *Tracer) detachWay() {
	for _, l := range slices.Backward(t.links) {
		l.Close()
	}
	t.links = nil
}

// Close detaches and frees everything.
func (t *Tracer) Close() error {
	t.detach()
	t.bpf.close()
	t.others.close()
	if t.reader != nil {
		t.reader.Close()
	}
	if t.objects != nil {
		t.objects.Close()
	}
	t.asked.Close()
	return nil
}

func boolInt(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
