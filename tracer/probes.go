package tracer

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// The ways to attach, as --attach names them.
const (
	AttachAuto   = "auto"
	AttachFentry = "fentry"
	AttachKprobe = "kprobe"
)

// AttachNames are what --attach takes.
func AttachNames() []string { return []string{AttachAuto, AttachFentry, AttachKprobe} }

// probe is one program on one function.
type probe struct {
	purpose string
	symbol  string
	program string
	ret     bool // at the function's return
	// optional probes sharpen what the others see. Without one a trace is
	// degraded, and says so.
	optional bool
	// idle ones are not reached by the self-test.
	idle bool
}

// way is one way to watch: all of its required probes, or none. A probe at a
// return comes before the one at the entry, so that no call is entered whose
// return goes unseen.
type way struct {
	name   string // as --attach names it
	where  string // what is probed, if it is not perf_mmap() itself
	probes []probe
	attach func(probe, *ebpf.Program) (link.Link, error)
}

func (w way) String() string {
	if w.where == "" {
		return w.name
	}
	return w.name + " on " + w.where
}

// because says why this way is used and none before it.
func (w way) because(err error) string {
	if w.where != "" && unsupported(err) {
		return kernel.ProbesOnPerfMmap().Missing()
	}
	return fmt.Sprintf("using %s, because %v", w, err)
}

// The purposes of the probes.
const (
	mapping   = "perf buffers mapped"
	unmapping = "perf buffers unmapped"
	reached   = "mappings that perf_mmap refuses with ENOMEM"
)

// ways says what is attached to see perf buffers mapped and unmapped, the one
// that loses least first. The first that this kernel and this user can use is
// taken.
func ways() []way {
	return []way{{
		// Refused before 5.16: kernel/events/core.c was built without ftrace
		// until 79df45731da6.
		name: AttachKprobe,
		probes: []probe{
			{purpose: mapping, symbol: "perf_mmap", program: bpf.PerfProgKretprobePerfMmap, ret: true},
			{purpose: mapping, symbol: "perf_mmap", program: bpf.PerfProgKprobePerfMmap},
			{purpose: unmapping, symbol: "perf_mmap_close", program: bpf.PerfProgKretprobePerfMmapClose, ret: true},
			{purpose: unmapping, symbol: "perf_mmap_close", program: bpf.PerfProgKprobePerfMmapClose},
		},
		attach: attachKprobe,
	}, {
		// Cheaper, and needs no kprobes. But these programs can be preempted,
		// and the kernel skips one that is under way on the CPU already: of 49,000
		// events on a busy preemptible 7.3 they lost 2,531, where kprobes, which
		// run with preemption off, lost none. All is counted.
		name: AttachFentry,
		probes: []probe{
			{purpose: mapping, symbol: "perf_mmap", program: bpf.PerfProgFexitPerfMmap, ret: true},
			{purpose: mapping, symbol: "perf_mmap", program: bpf.PerfProgFentryPerfMmap},
			{purpose: unmapping, symbol: "perf_mmap_close", program: bpf.PerfProgFexitPerfMmapClose, ret: true},
			{purpose: unmapping, symbol: "perf_mmap_close", program: bpf.PerfProgFentryPerfMmapClose},
		},
		attach: func(_ probe, program *ebpf.Program) (link.Link, error) {
			return link.AttachTracing(link.TracingOptions{Program: program})
		},
	}, {
		// Before 5.16: their callers. mmap_region() has mmap_lock already, so no
		// waiting for it comes between the reading and perf_mmap(), as it would with
		// vm_mmap_pgoff(). It is the same from 4.11 to 6.11. rb_alloc() and
		// rb_alloc_aux() are called by perf_mmap() alone.
		name:  AttachKprobe,
		where: "mmap_region and remove_vma",
		probes: []probe{
			{purpose: mapping, symbol: "mmap_region", program: bpf.PerfProgKretprobeMmapRegion, ret: true},
			{purpose: mapping, symbol: "mmap_region", program: bpf.PerfProgKprobeMmapRegion},
			{purpose: unmapping, symbol: "remove_vma", program: bpf.PerfProgKretprobeRemoveVma, ret: true},
			{purpose: unmapping, symbol: "remove_vma", program: bpf.PerfProgKprobeRemoveVma},
			{purpose: reached, symbol: "rb_alloc", program: bpf.PerfProgKprobeRbAlloc, optional: true},
			{purpose: reached, symbol: "rb_alloc_aux", program: bpf.PerfProgKprobeRbAllocAux, optional: true, idle: true},
		},
		attach: attachKprobe,
	}}
}

// callsAtOnce is how many calls of a function that every process uses may be under
// way at once without their returns going unseen. The kernel's own choice is one
// per CPU, or two with a floor of ten.
const callsAtOnce = 1024

func attachKprobe(p probe, program *ebpf.Program) (link.Link, error) {
	switch {
	case kernel.Kprobes().Lacks():
		return nil, fmt.Errorf("kprobes: %w", ebpf.ErrNotSupported)
	case !p.ret:
		return link.Kprobe(p.symbol, program, nil)
	}
	if p.program == bpf.PerfProgKretprobeMmapRegion || p.program == bpf.PerfProgKretprobeRemoveVma {
		// Only tracefs takes a number, and it may not be there.
		l, err := link.Kretprobe(p.symbol, program, &link.KprobeOptions{RetprobeMaxActive: callsAtOnce})
		if err == nil {
			return l, nil
		}
	}
	return link.Kretprobe(p.symbol, program, nil)
}

// chosen are the ways that --attach allows.
func chosen(attach string) ([]way, error) {
	switch attach {
	case "", AttachAuto:
		return ways(), nil
	case AttachFentry, AttachKprobe:
		return slices.DeleteFunc(ways(), func(w way) bool { return w.name != attach }), nil
	}
	return nil, fmt.Errorf("--attach %s: want %s, %s or %s", attach, AttachAuto, AttachFentry, AttachKprobe)
}

// programs leaves only the way's programs in a spec.
func (w way) programs(spec *ebpf.CollectionSpec) {
	keep := map[string]*ebpf.ProgramSpec{}
	for _, p := range w.probes {
		keep[p.program] = spec.Programs[p.program]
	}
	spec.Programs = keep
}

// attachAll attaches all probes of a way, or none. It says what a missing optional
// one means.
func (w way) attachAll(objects *ebpf.Collection) (links []link.Link, degraded []string, err error) {
	for _, p := range w.probes {
		l, err := w.attach(p, objects.Programs[p.program])
		switch {
		case err == nil:
			links = append(links, l)
		case p.optional && unsupported(err):
			degraded = append(degraded, fmt.Sprintf("%s: cannot attach to %s: %v", p.purpose, p.symbol, err))
		default:
			for _, l := range links {
				l.Close()
			}
			return nil, nil, fmt.Errorf("attach %s to %s: %w", w.name, p.symbol, err)
		}
	}
	return links, degraded, nil
}

// unsupported says that this kernel does not offer what was asked for, so that
// another way may do.
func unsupported(err error) bool {
	const enotsupp = unix.Errno(524) // the kernel's own, for trampolines that the architecture lacks
	for _, known := range []error{ebpf.ErrNotSupported, btf.ErrNotFound, os.ErrNotExist, unix.EINVAL, unix.EOPNOTSUPP, enotsupp} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
