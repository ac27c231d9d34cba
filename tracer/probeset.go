package tracer

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// setProbe is a program on a function: by a kprobe or, where it has a program
// for that and the kernel can, by a trampoline.
type setProbe struct {
	symbol   string
	outlined string // tried first: the part of the function that a compiler split off
	kprobe   string
	fentry   string // "": always a kprobe
	ret      bool
	required bool
	hot      bool // run for everyone, and nearly always for nothing
}

// byTrampoline says which probes go by trampolines: those with a program for it
// on functions that the kernel's types know. A charge path's second kprobe is not
// needed then.
func byTrampoline(probes []setProbe, types types) (list []setProbe) {
	taken := map[string]bool{}
	for _, p := range probes {
		if p.fentry != "" && len(types.Parameters(p.symbol)) == 0 {
			p.fentry = ""
		}
		if p.fentry == "" && taken[p.symbol] {
			continue
		}
		taken[p.symbol] = taken[p.symbol] || p.fentry != ""
		list = append(list, p)
	}
	return list
}

// byKprobe makes all probes kprobes.
func byKprobe(probes []setProbe) (list []setProbe) {
	for _, p := range probes {
		p.fentry = ""
		list = append(list, p)
	}
	return list
}

// syscallPrefix is what this architecture has before the name of a system call's
// function, since 4.17.
func syscallPrefix() string {
	return map[string]string{"amd64": "__x64_", "arm64": "__arm64_"}[runtime.GOARCH]
}

// program names the probe's program in the collection. A trampoline's is bound to
// its function, so it may be there several times.
func (p setProbe) program() string {
	if p.fentry != "" {
		return p.fentry + "@" + p.symbol
	}
	return p.kprobe
}

// spec is the probe's program.
func (p setProbe) spec(all map[string]*ebpf.ProgramSpec) *ebpf.ProgramSpec {
	if p.fentry == "" {
		return all[p.kprobe]
	}
	bound := all[p.fentry].Copy()
	bound.AttachTo = p.symbol
	return bound
}

// probeSet is the programs of one C source, attached. A nil one is empty.
type probeSet struct {
	collection *ebpf.Collection
	links      []link.Link
	probes     []setProbe // those attached
	degraded   []string
}

// without says that this kernel is known to have nothing that the probe could be on.
// To try all the same costs the time of the program's verification, and before 6.2
// (60443c88f3a8) a walk through all kernel symbols, several times.
func (t types) without(p setProbe) bool {
	return !p.required && t.absent[p.symbol] && (p.outlined == "" || t.absent[p.outlined])
}

// open loads and attaches probes. The maps that the programs for perf buffers have
// too are shared.
func (s *probeSet) open(source *ebpf.CollectionSpec, shared map[string]*ebpf.Map, types types, probes []setProbe) (err error) {
	probes = slices.DeleteFunc(slices.Clone(probes), types.without)
	spec := source.Copy()
	wanted := map[string]*ebpf.ProgramSpec{}
	for _, p := range probes {
		wanted[p.program()] = p.spec(spec.Programs)
	}
	spec.Programs = wanted
	options := ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{}, Cache: types.Cache}
	options.Programs.KernelTypes = types.File
	for name, m := range shared {
		if mine, ok := spec.Maps[name]; ok {
			mine.MaxEntries = m.MaxEntries()
			options.MapReplacements[name] = m
		}
	}
	if s.collection, err = ebpf.NewCollectionWithOptions(spec, options); err != nil {
		return err
	}
	for _, p := range probes {
		if types.absent[p.outlined] {
			p.outlined = ""
		}
		l, err := s.attach(p)
		if err != nil && !p.required && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("attach to %s: %w", p.symbol, err)
		}
		s.links = append(s.links, l)
		s.probes = append(s.probes, p)
	}
	return nil
}

func (s *probeSet) attach(p setProbe) (link.Link, error) {
	if p.outlined != "" {
		part := p
		part.symbol, part.outlined = p.outlined, ""
		if l, err := s.attach(part); err == nil {
			return l, nil
		}
	}
	program := s.collection.Programs[p.program()]
	switch {
	case p.fentry != "":
		return link.AttachTracing(link.TracingOptions{Program: program})
	case p.ret:
		// Many calls can be under way at once, in bpf(2) or waiting for RCU: more
		// than the kernel follows by itself. That is only to be had with tracefs.
		if l, err := link.Kretprobe(p.symbol, program, &link.KprobeOptions{RetprobeMaxActive: 512}); err == nil {
			return l, nil
		}
		return link.Kretprobe(p.symbol, program, nil)
	}
	return link.Kprobe(p.symbol, program, nil)
}

// fired says of every probe on what must happen whether it has run.
func (s *probeSet) fired() (states []ProbeState, silent []string) {
	for _, p := range s.probes {
		if !p.required {
			continue
		}
		stats, err := s.collection.Programs[p.program()].Stats()
		state := ProbeState{Symbol: p.symbol, Return: p.ret, Fired: err == nil && stats.RunCount > 0}
		if !state.Fired && !p.hot {
			silent = append(silent, state.String())
		}
		states = append(states, state)
	}
	return states, silent
}

// missed is how often the kernel skipped one of the programs. The hot ones are
// left out: what they miss was nearly always nobody's.
func (s *probeSet) missed() (sum uint64) {
	if s == nil {
		return 0
	}
	for _, p := range s.probes {
		if p.hot {
			continue
		}
		if stats, err := s.collection.Programs[p.program()].Stats(); err == nil {
			sum += stats.RecursionMisses
		}
	}
	return sum
}

func (s *probeSet) detach() {
	if s == nil {
		return
	}
	for _, l := range slices.Backward(s.links) {
		l.Close()
	}
	s.links = nil
}

func (s *probeSet) close() {
	if s == nil {
		return
	}
	s.detach()
	s.probes = nil
	if s.collection != nil {
		s.collection.Close()
	}
}
