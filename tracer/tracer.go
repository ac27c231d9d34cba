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
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/probe"
	"github.com/pinwatch/pinwatch/tracer/self"
	"github.com/pinwatch/pinwatch/tracer/transport"
)

// Options say how to trace.
type Options struct {
	// BTF is a file with the kernel's types, for kernels that carry none.
	BTF string
	// Cache keeps what was read of the kernel's own types, for others that want them;
	// nil: there are none.
	Cache *btf.Cache
	// Attach is one of probe.AttachNames(); probe.AttachAuto is the default: the best that
	// the kernel has.
	Attach string
	// Transport is transport.Ringbuf, transport.PerfArray, or transport.Auto, the
	// default: the ring buffer where the kernel has it.
	Transport string
	// BufferBytes is the size of the ring buffer between the kernel and
	// pinwatch, or of each CPU's with the perf event array: a power of two and a
	// multiple of the page size. 0: the default.
	BufferBytes uint32
	// BPF reports whether BPF objects are watched too, and Memcg whether the charges
	// to memory cgroups are.
	BPF, Memcg bool
	// Others reports whether the other chargers of locked_vm and pinned_vm are watched:
	// io_uring, AF_XDP and more.
	Others bool
	// NotPerf reports whether perf buffers are not what is asked for: what else is must be
	// watched, then, or Open fails.
	NotPerf bool
	// CommandParent is the process whose descendants' events are marked; 0: none.
	CommandParent int
	// Payer is who is charged for what pinwatch makes; nil: a user of its own.
	Payer *self.User
}

// Tracer is an open trace. Close it.
type Tracer struct {
	backend   probe.Backend
	transport transport.Transport
	hook      string // see probe.Kernel.Hook
	notPerf   bool   // see Options
	// perf is on perf buffers, and its maps are shared by the others, which are nil
	// where they are not watched.
	perf, bpfObjects, chargers *probe.Set
	symbolProgram              *ebpf.Program // looked kernel symbols up; nil where that was impossible
	reader                     transport.Reader
	decoder                    decoder
	cgroups                    *cgroupPaths
	degraded                   []string
	states                     []probe.State  // what the self-test found of the probes
	early                      []ledger.Event // that came during it
	preexisting                []ledger.Event // what was mapped before
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
func Open(opts Options) (t *Tracer, err error) {
	if opts.Payer == nil {
		opts.Payer = self.New()
	}
	err = opts.Payer.Do(func() (err error) {
		t, err = openAny(opts)
		return err
	})
	return t, err
}

// openAny opens a trace by the first backend that works.
func openAny(opts Options) (_ *Tracer, err error) {
	defer kernel.LiftMemlock()()
	probe.RemoveLeftovers()
	via, note, err := transport.Choose(opts.Transport)
	if err != nil {
		return nil, err
	}
	specs, err := probe.ReadSpecs(via, opts.BPF, opts.Others)
	if err != nil {
		return nil, err
	}
	types, err := kernel.LoadTypes(opts.BTF, opts.Cache)
	if err != nil {
		return nil, err
	}
	running, symbolProgram := specs.Resolve(types)
	defer func() {
		if err != nil {
			symbolProgram.Close()
		}
	}()
	degraded := slices.DeleteFunc([]string{note, types.Note}, func(s string) bool { return s == "" })
	candidates, err := probe.Choose(opts.Attach, running)
	if err != nil {
		return nil, err
	}
	var failures []error
	for len(candidates) > 0 {
		b := candidates[0]
		t, err := open(opts, b, via, specs, running.By(b))
		if err == nil {
			t.symbolProgram = symbolProgram
			t.degraded = append(degraded, t.degraded...)
			t.degraded = append(t.degraded, t.ownCharge(opts.Payer, types)...)
			if users, err := types.ChargesBPFToUsers(); err == nil && users && !opts.BPF {
				t.degraded = append(t.degraded, SharedWithObjects)
			}
			if len(failures) > 0 {
				t.degraded = append(t.degraded, b.FallbackReason(failures[0]))
			}
			return t, nil
		}
		failures = append(failures, err)
		// The backends want different privileges: what one lacks, another one may not
		// need.
		candidates = candidates[1:]
		if isVerifier(err) {
			break
		} else if errors.Is(err, os.ErrPermission) {
			candidates = slices.DeleteFunc(candidates, func(other probe.Backend) bool { return other.Name == b.Name })
		} else if !probe.Unsupported(err) {
			break
		}
	}
	return nil, explainOpen(opts, types, failures)
}

// open opens a trace by one backend. Silent probes are attached once more: emulated
// machines lose some.
func open(opts Options, b probe.Backend, via transport.Transport, specs probe.Specs, running probe.Kernel) (_ *Tracer, err error) {
	t := &Tracer{backend: b, transport: via, hook: running.Hook(), notPerf: opts.NotPerf, cgroups: newCgroupPaths()}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if err := t.load(opts, specs, running); err != nil {
		return nil, err
	}
	if err := t.configure(opts); err != nil {
		return nil, err
	}
	if t.decoder, err = newDecoder(opts.Payer); err != nil {
		return nil, err
	}
	if err := t.openOthers(opts, specs, running); err != nil {
		return nil, err
	}
	// The ring is mapped twice, and is in memory from then on: not beside what the loads took.
	debug.FreeOSMemory()
	if t.reader, err = via.Open(t.perf.Maps(), opts.Payer); err != nil {
		t.reader = nil
		return nil, fmt.Errorf("open the %s: %w", via.What, err)
	}
	if err := t.attach(); err != nil {
		return nil, err
	}
	if t.bpfObjects != nil {
		if err := t.testObjects(); err != nil {
			return nil, err
		}
	}
	if err := via.Enlarge(t.reader, opts.BufferBytes); err != nil {
		return nil, fmt.Errorf("open the %s: %w", via.What, err)
	}
	return t, nil
}

// openOthers loads and attaches what is on the other chargers and on BPF objects.
func (t *Tracer) openOthers(opts Options, specs probe.Specs, running probe.Kernel) (err error) {
	if opts.Others {
		if t.chargers, err = probe.Open(specs.Chargers, probe.Chargers(specs.Chargers, running), running, t.perf.Maps()); err != nil {
			if opts.NotPerf {
				return fmt.Errorf("watch io_uring, AF_XDP and others that share locked_vm: %w", err)
			}
			t.degraded = append(t.degraded, fmt.Sprintf("%s: %v", ChargersNotWatched, err))
			t.chargers = nil
		}
		t.degraded = append(t.degraded, t.chargers.Notes()...)
		t.decoder.compared.ringsProbed = t.chargers.Watches(ringComparison)
		t.decoder.compared.cgroups = t.chargers.Watches(cgroupReclaim)
	}
	if opts.BPF {
		return t.watchObjects(opts, specs, running)
	}
	return nil
}

// begin begins the trace, once all probes on perf buffers are attached and were seen to
// work. What some of them saw before is not of it, nor are calls lost that were under
// way meanwhile: the self-test has given these the time to return.
func (t *Tracer) begin() error {
	// The ring cannot have been full yet.
	if err := t.perf.Maps()[bpf.PerfMapLossesMap].Update(uint32(0), bpf.PerfLosses{}, ebpf.UpdateExist); err != nil {
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
	drained := t.transport.InOrder && transport.AwaitPrograms()
	// Counted after the end: what is lost in between is one doubt too many, and never
	// one too few.
	lost := t.counted()
	t.lost.Store(&lost)
	if !drained {
		t.detach()
	}
	t.settled.Store(t.decoder.now())
}

// within reports whether an event is of the trace.
func (t *Tracer) within(event *ledger.Event) bool {
	ended := t.ended.Load()
	return event.TimeNS >= t.begun && (ended == 0 || event.TimeNS <= ended)
}

// watchObjects attaches to BPF objects as well. They want kprobes, and kernel
// symbols: where this user may not have these, perf buffers are still watched.
func (t *Tracer) watchObjects(opts Options, specs probe.Specs, running probe.Kernel) (err error) {
	var notes []string
	t.bpfObjects, t.decoder.memcg, notes, err = probe.OpenBPFObjects(specs.BPFObjects, t.perf.Maps(), opts.Memcg, running)
	switch {
	case err == nil:
		t.degraded = append(t.degraded, slices.Concat(notes, t.bpfObjects.Notes())...)
		t.decoder.compared.mapsProbed = slices.ContainsFunc(mapComparisons, t.bpfObjects.Watches)
		t.decoder.compared.objectCgroups = t.bpfObjects.Watches(cgroupReclaim)
		t.decoder.compared.verifier = t.bpfObjects.Watches("bpf_check")
		t.decoder.compared.programs = t.bpfObjects.Watches("bpf_prog_alloc")
		return nil
	case opts.Memcg || opts.NotPerf:
		return fmt.Errorf("watch BPF objects: %w", err)
	}
	t.bpfObjects, t.decoder.memcg = nil, false
	t.degraded = append(t.degraded, fmt.Sprintf("%s: %v", ObjectsNotWatched, err))
	return nil
}

// What Degraded begins with where these are not watched; the reason follows.
const (
	ObjectsNotWatched  = "BPF objects are not watched"
	ChargersNotWatched = "io_uring, AF_XDP and others that share locked_vm are not watched"
	// SharedWithObjects is said where they were not asked for.
	SharedWithObjects = "this kernel charges BPF objects to users, too, and they are not watched (--only with bpf): what they charge is by what is not traced"
)

// attach attaches the probes on perf buffers and has each show that it works.
func (t *Tracer) attach() (err error) {
	for attempt := 1; ; attempt++ {
		if err = t.perf.Attach(); err != nil {
			return err
		}
		t.states, err = t.selfTest()
		switch {
		case err == nil:
			t.degraded = append(t.degraded, t.perf.Notes()...)
			return t.begin()
		case errors.Is(err, errNoSelfTest):
			t.degraded = append(t.degraded, t.perf.Notes()...)
			t.degraded = append(t.degraded, "the probes were not tested: "+err.Error())
			return t.begin()
		case !errors.Is(err, errSilent) || attempt == 2:
			return fmt.Errorf("self-test on Linux %s: %w", kernel.Release(), err)
		}
		t.perf.Detach()
	}
}

// load loads the backend's programs and the maps.
func (t *Tracer) load(opts Options, specs probe.Specs, running probe.Kernel) (err error) {
	spec := specs.Perf.Copy()
	if err := t.transport.Resize(spec.Maps, opts.BufferBytes); err != nil {
		return err
	}
	t.perf, err = probe.Load(spec, t.backend.Probes, running, nil)
	if errors.Is(err, ebpf.ErrRestrictedKernel) {
		probe.HideSymbols(spec)
		kept := opts
		kept.Cache = nil // megabytes
		t.refresh = func() error { return t.configure(kept) }
		t.degraded = append(t.degraded, kernel.HiddenSymbols+": sysctls and CPUs are read every "+refreshInterval.String()+", not at every call")
		t.perf, err = probe.Load(spec, t.backend.Probes, running, nil)
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
	if err := t.perf.Maps()[bpf.PerfMapConfigMap].Put(uint32(0), config); err != nil {
		return fmt.Errorf("configure the BPF programs: %w", err)
	}
	return nil
}

// Attached says what is watched, and how.
func (t *Tracer) Attached() string {
	if t.notPerf { // probes on them all the same, for they charge the same counters
		var what []string
		if t.bpfObjects != nil {
			what = append(what, "BPF objects made and freed")
		}
		if t.chargers != nil {
			what = append(what, "others that charge locked_vm")
		}
		return strings.Join(what, ", ") + ": " + t.hook + ", " + t.transport.What
	}
	return "perf buffers mapped and unmapped: " + t.backend.String() + ", " + t.transport.What
}

// Attach is the backend in use: one of probe.AttachNames() but probe.AttachAuto.
func (t *Tracer) Attach() string { return t.backend.Name }

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
		if !t.replayPreexisting(yield) || !t.replayEarly(yield) {
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
			t.cgroups.add(&event)
			if !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// detach stops the flow of events.
func (t *Tracer) detach() {
	t.perf.Detach()
	t.bpfObjects.Detach()
	t.chargers.Detach()
}

// Close detaches and frees everything.
func (t *Tracer) Close() error {
	t.detach()
	t.bpfObjects.Close()
	t.chargers.Close()
	if t.reader != nil {
		t.reader.Close()
	}
	t.perf.Close()
	t.symbolProgram.Close()
	return nil
}

// Watches reports what a trace watches besides perf buffers, after what this kernel or
// this user does not allow was left out.
func (t *Tracer) Watches() (bpfObjects, chargers bool) {
	return t.bpfObjects != nil, t.chargers != nil
}

// StartWith has the events begin with what is mapped already, and which the probes, being
// attached by now, will see unmapped. The tracer's own buffers were mapped before the
// trace, too, but it has seen that.
func (t *Tracer) StartWith(preexisting []ledger.Event) {
	t.preexisting = slices.DeleteFunc(preexisting, func(e ledger.Event) bool { return e.Caller.PID == t.decoder.self })
	now := t.decoder.now()
	for i := range t.preexisting {
		t.preexisting[i].TimeNS = now
	}
}

// replayPreexisting yields what was mapped before.
func (t *Tracer) replayPreexisting(yield func(ledger.Event, error) bool) bool {
	for _, e := range t.preexisting {
		if !yield(e, nil) {
			return false
		}
	}
	t.preexisting = nil
	return true
}

func boolInt(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
