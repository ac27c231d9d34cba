package probe

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// Set is the programs of one C source: loaded, and, once Attach was called, attached. A
// nil one is empty.
type Set struct {
	collection *ebpf.Collection
	probes     []Probe
	board      *switchboard    // of some of the probes; nil: each has a link of its own
	absent     map[string]bool // see Kernel
	links      []attached      // in the order of attaching
	notes      []string

	// Replaced by tests.
	attach  func(Probe, *ebpf.Program) (link.Link, error)
	skipped func(*ebpf.Program) uint64
	missed  func(link.Link) uint64
}

// attacher is what of a Kernel attaching takes: the types are megabytes, and a Set that kept
// them would for as long as the trace.
type attacher struct {
	addresses   map[string]uint64 // see Kernel
	text        text
	everyReturn bool // sessions follow any number of returns
}

func (k Kernel) attacher() attacher {
	return attacher{k.addresses, k.text, k.followsAllReturns()}
}

// attached is a link, and the probes that it is for: with a switchboard, several.
type attached struct {
	link.Link
	probes  []Probe
	program *ebpf.Program
	board   *switchboard // nil: the program is that of the only probe
}

// runs is how often the program of one of the probes has run.
func (l attached) runs(probe int) (uint64, error) {
	if l.board != nil {
		return l.board.runs(probe)
	}
	stats, err := l.program.Stats()
	if err != nil {
		return 0, err
	}
	return stats.RunCount, nil
}

// Load loads the programs of probes from a source. Those for functions that this kernel
// is known to lack are left out: to try all the same costs the time of the program's
// verification, and before 6.2 (60443c88f3a8) a walk through all kernel symbols, several
// times. Of the maps that the source marks as shared, those given are used.
func Load(source *ebpf.CollectionSpec, probes []Probe, k Kernel, shared map[string]*ebpf.Map) (*Set, error) {
	s := &Set{absent: k.Absent, attach: k.attacher().attach, skipped: recursionMisses, missed: missedByKprobe}
	for _, p := range probes {
		program, ok := source.Programs[p.Program]
		if !ok {
			return nil, fmt.Errorf("no program %s is built in", p.Program)
		}
		p = p.fromELF(program)
		if p.Optional && (k.lacks(p) || p.trampoline && len(k.Parameters(p.Symbol)) == 0) {
			continue
		}
		s.probes = append(s.probes, p)
	}
	spec := *source
	var err error
	if spec.Programs, err = s.programs(source.Programs, k); err != nil {
		return nil, err
	}
	options := ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{}, Cache: k.Cache}
	options.Programs.KernelTypes = k.File
	spec.Maps = maps.Clone(source.Maps)
	for name, m := range shared {
		if mine, ok := spec.Maps[name]; ok && slices.Contains(mine.Tags, "shared") { // see bpf/record.h
			mine = mine.Copy()
			mine.MaxEntries = m.MaxEntries()
			spec.Maps[name], options.MapReplacements[name] = mine, m
		}
	}
	if s.collection, err = ebpf.NewCollectionWithOptions(&spec, options); err != nil {
		return nil, kernel.WithoutGuess(err)
	}
	return s, nil
}

// programs are those to load, by the names that the probes have for them.
func (s *Set) programs(built map[string]*ebpf.ProgramSpec, k Kernel) (map[string]*ebpf.ProgramSpec, error) {
	var isReturn btf.TypeID
	if k.sessions {
		var err error
		if isReturn, err = k.isReturn(); err != nil {
			return nil, fmt.Errorf("%w (%w)", ebpf.ErrNotSupported, err)
		}
		s.probes = sessions(s.probes, k.followsAllReturns())
	}
	programs := map[string]*ebpf.ProgramSpec{}
	for _, p := range s.probes {
		program := *built[p.Program] // the instructions are not touched: the library works on a copy
		switch {
		case p.trampoline:
			program.AttachTo = p.Symbol
		case p.entry != "":
			program = session(*built[p.entry], program, isReturn)
		case p.session && p.ret:
			program = session(half(program), program, isReturn)
		case p.session:
			program = session(program, half(program), isReturn)
		case p.multi:
			program.AttachType = ebpf.AttachTraceKprobeMulti
		}
		programs[p.loaded()] = &program
	}
	return programs, nil
}

// Maps are those that the programs use, by name.
func (s *Set) Maps() map[string]*ebpf.Map { return s.collection.Maps }

// Programs are the loaded programs, by name.
func (s *Set) Programs() map[string]*ebpf.Program {
	if s == nil {
		return nil
	}
	return s.collection.Programs
}

// Attach attaches all probes, in the order of the table, in which a return comes before
// its entry: no call is seen entering but not returning. Those of the switchboard, which has
// both at once, are the last. Without one that is not optional, or without any, it fails, and
// nothing stays attached.
func (s *Set) Attach() error {
	s.notes = nil
	var first error
	for _, p := range s.probes {
		if s.board.has(p) {
			continue
		}
		l, err := s.attachOne(p)
		switch {
		case err == nil:
			s.links = append(s.links, attached{l, []Probe{p}, s.collection.Programs[p.loaded()], nil})
		case p.Optional:
			first = cmp.Or(first, err)
			s.forgo(p, err)
		default:
			s.Detach()
			return fmt.Errorf("attach %s to %s: %w", p.hook(), p.Symbol, err)
		}
	}
	if s.board != nil {
		l, err := s.board.attach()
		if err != nil { // one of its functions takes no probe: each for itself
			s.Detach()
			s.disconnect()
			return s.Attach()
		}
		s.links = append(s.links, attached{l, s.board.rows, s.board.program, s.board})
	}
	if len(s.links) == 0 {
		return first
	}
	return nil
}

// disconnect does without the switchboard.
func (s *Set) disconnect() {
	s.board.close()
	s.board = nil
}

// forgo does without an optional probe, and without the other one on its function: a
// return without its entry, or the reverse, would be taken for a loss.
func (s *Set) forgo(p Probe, err error) {
	s.links = slices.DeleteFunc(s.links, func(l attached) bool {
		twin := l.probes[0].Optional && l.probes[0].Symbol == p.Symbol
		if twin {
			l.Close()
		}
		return twin
	})
	absent, known := s.absent[p.Symbol]
	known = known && !absent && !errors.Is(err, os.ErrNotExist)
	switch {
	case p.Without != "":
		s.notes = append(s.notes, fmt.Sprintf("%s: cannot attach to %s: %v", p.Without, p.Symbol, err))
	case known || !Unsupported(err):
		s.notes = append(s.notes, fmt.Sprintf("%s is not watched: %v", p.state(0), err))
	}
}

func (s *Set) attachOne(p Probe) (link.Link, error) {
	program := s.collection.Programs[p.loaded()]
	if p.Outlined != "" && !s.absent[p.Outlined] {
		part := p
		part.Symbol = p.Outlined
		if l, err := s.attach(part, program); err == nil {
			return l, nil
		}
	}
	return s.attach(p, program)
}

func (a attacher) attach(p Probe, program *ebpf.Program) (link.Link, error) {
	switch {
	case p.trampoline:
		return link.AttachTracing(link.TracingOptions{Program: program})
	case p.multi:
		return a.attachMulti(p, program)
	}
	if kernel.Kprobes().Lacks() {
		return nil, fmt.Errorf("kprobes: %w", ebpf.ErrNotSupported)
	}
	symbol, offset := a.place(p.Symbol)
	options := link.KprobeOptions{Offset: offset}
	if !p.ret {
		return link.Kprobe(symbol, program, &options)
	}
	if p.AtOnce > 0 {
		// Only tracefs takes a number, and it may not be there.
		options := options
		options.RetprobeMaxActive = p.AtOnce
		if self, err := thisMaker(); err == nil {
			options.TraceFSPrefix = self.group()
		}
		if l, err := link.Kretprobe(symbol, program, &options); err == nil {
			return l, nil
		}
	}
	return link.Kretprobe(symbol, program, &options)
}

// place is where a kprobe on a function is to be. Up to 6.1 the kernel goes through all of
// its symbols for a name, from the first one on and twice for each probe: two fifths of a
// start on 5.10. So it is told one of the first, and how far behind that the function is.
func (a attacher) place(function string) (symbol string, offset uint64) {
	if address := a.addresses[function]; a.text.begin != 0 && address > a.text.begin && address < a.text.end {
		return kernelText[0], address - a.text.begin
	}
	return function, 0
}

// Notes say what a trace lacks for want of optional probes.
func (s *Set) Notes() []string {
	if s == nil {
		return nil
	}
	return s.notes
}

// Fired says of every attached probe whether it has run, by the kernel's own count, which
// must have been switched on, and names those that should have and have not.
func (s *Set) Fired() (states []State, silent []string, err error) {
	for _, l := range s.links {
		for i, p := range l.probes {
			runs, err := l.runs(i)
			if err != nil {
				return nil, nil, err
			}
			state := p.state(runs)
			if !state.Fired && p.mustFire() {
				silent = append(silent, state.String())
			}
			states = append(states, state)
		}
	}
	return states, silent, nil
}

// mustFire reports whether the self-test reaches the probe.
func (p Probe) mustFire() bool { return !p.Optional && !p.Idle && !p.Hot }

// Assumed says of every attached probe that it has run, if all calls of the self-test were
// reported: for kernels that do not count the runs of programs.
func (s *Set) Assumed(reported bool) (states []State) {
	for _, l := range s.links {
		for _, p := range l.probes {
			state := p.state(0)
			state.Fired = reported && !p.Idle
			states = append(states, state)
		}
	}
	return states
}

// Missed is how often a probe was hit and its program not run, by the kernel's own counts:
// of programs, because another one was under way on the CPU (5.12), and of kprobes (6.7).
func (s *Set) Missed() (sum uint64) {
	if s == nil {
		return 0
	}
	counted := map[*ebpf.Program]bool{}
	for _, l := range s.links {
		if l.probes[0].Hot {
			continue
		}
		if !counted[l.program] {
			counted[l.program] = true
			sum += s.skipped(l.program)
		}
		sum += s.missed(l.Link)
	}
	return sum
}

func recursionMisses(program *ebpf.Program) uint64 {
	stats, err := program.Stats()
	if err != nil {
		return 0 // not known before 5.12
	}
	return stats.RecursionMisses
}

func missedByKprobe(l link.Link) uint64 {
	info, err := l.Info()
	if err != nil {
		return 0 // not known before 6.7
	}
	if event := info.PerfEvent(); event != nil && event.Kprobe() != nil {
		return event.Kprobe().Missed
	}
	if multi := info.KprobeMulti(); multi != nil {
		return multi.Missed
	}
	return 0
}

// Watches reports whether a function's return is probed.
func (s *Set) Watches(symbol string) bool {
	return s != nil && slices.ContainsFunc(s.links, func(l attached) bool {
		return slices.ContainsFunc(l.probes, func(p Probe) bool { return p.ret && p.Symbol == symbol })
	})
}

// Attached reports whether any probe is.
func (s *Set) Attached() bool { return s != nil && len(s.links) > 0 }

// Detach takes the probes off, the entries first.
func (s *Set) Detach() {
	if s == nil {
		return
	}
	for _, l := range slices.Backward(s.links) {
		l.Close()
	}
	s.links = nil
}

// Close detaches and frees everything.
func (s *Set) Close() {
	if s == nil {
		return
	}
	s.Detach()
	s.disconnect()
	s.collection.Close()
}
