// Package probe attaches the BPF programs to the kernel: one engine, and a table for each
// subsystem. A row takes what it can from the compiled programs: what function they are
// for, and whether they are for its entry or its return.
package probe

import (
	"errors"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// Probe is one program on one function.
type Probe struct {
	// Program is the program's name in the collection. It may be on several functions.
	Program string
	// Symbol is the function; "": the one that the program's section names.
	Symbol string
	// Outlined is tried first: the part of the function that a compiler split off.
	Outlined string
	// Optional probes sharpen what the others see, or are for functions that only some
	// kernels have. One that cannot be attached takes nothing else with it.
	Optional bool
	// Without says what a trace lacks without the probe, which is then said; "": its
	// absence is nothing to speak of.
	Without string
	// Idle ones are not reached by the self-test.
	Idle bool
	// Hot ones run for everyone, and nearly always for nothing: what they miss was
	// nearly always nobody's, and is not counted.
	Hot bool
	// AtOnce is how many calls may be under way without their returns going unseen. 0:
	// the kernel's own choice, one per CPU or two with a floor of ten. Another number
	// takes tracefs, unless it is a session.
	AtOnce int

	ret        bool   // at the function's return
	trampoline bool   // by fentry or fexit, else by a kprobe
	multi      bool   // by kprobe.multi
	session    bool   // by one link for entry and return
	entry      string // the program for the function's entry, if it is for both; Program is for the return
}

// State is what became of a probe.
type State struct {
	Symbol string `json:"symbol"`
	Return bool   `json:"return"` // on the function's return
	Entry  bool   `json:"entry"`  // on its entry
	Fired  bool   `json:"fired"`
}

func (s State) String() string {
	switch {
	case s.Return && s.Entry:
		return s.Symbol + " and its return"
	case s.Return:
		return "the return of " + s.Symbol
	}
	return s.Symbol
}

// state is what became of the probe, whose program has run so often.
func (p Probe) state(runs uint64) State {
	s := State{Symbol: p.Symbol, Return: p.ret, Entry: !p.ret || p.entry != "", Fired: runs > 0}
	if p.entry != "" {
		s.Fired = runs > 1
	}
	return s
}

// fromELF completes a row by its program: the function, and entry or return.
func (p Probe) fromELF(spec *ebpf.ProgramSpec) Probe {
	p.trampoline = spec.Type == ebpf.Tracing
	p.ret = strings.HasPrefix(spec.SectionName, "kretprobe/") || spec.AttachType == ebpf.AttachTraceFExit
	if p.Symbol == "" {
		p.Symbol = spec.AttachTo
	}
	p.Symbol = kernel.SyscallSymbol(p.Symbol)
	return p
}

// hook is what a probe is attached by, as --attach names it.
func (p Probe) hook() string {
	switch {
	case p.trampoline:
		return AttachFentry
	case p.multi:
		return AttachSession
	}
	return AttachKprobe
}

// loaded names the probe's program as it is loaded. A trampoline's is bound to its
// function, so it may be there several times.
func (p Probe) loaded() string {
	switch {
	case p.trampoline:
		return p.Program + "@" + p.Symbol
	case p.entry != "":
		return p.entry + "+" + p.Program
	}
	return p.Program
}

// Unsupported reports whether an error says that this kernel does not offer what was
// asked for, so that another way may do.
func Unsupported(err error) bool {
	const enotsupp = unix.Errno(524) // the kernel's own, for trampolines that the architecture lacks
	for _, known := range []error{ebpf.ErrNotSupported, btf.ErrNotFound, os.ErrNotExist, unix.EINVAL, unix.EOPNOTSUPP, enotsupp} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
