package probe

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// A session is one program on a function's entry and on its return, by one link of the
// kind kprobe.multi. It is made of the two programs that kprobes have for these: it asks
// the kernel which of both it is at, and goes on with that one.

// sessions makes rows for kprobes rows for sessions. Where there is nothing to pair they are
// for kprobe.multi, or, if alone, sessions of which the other half does nothing. The order of
// what is left stays.
func sessions(rows []Probe, alone bool) (list []Probe) {
	paired := map[int]bool{}
	for i, p := range rows {
		if paired[i] {
			continue
		}
		if p.trampoline {
			list = append(list, p)
			continue
		}
		p.multi, p.session = true, alone
		if p.ret {
			if j := entryOf(rows, p); j >= 0 {
				paired[j] = true
				p = pairUp(p, rows[j])
			}
		}
		list = append(list, p)
	}
	return list
}

// entryOf finds the other row on a return's function, -1: there is none. Where there are
// several the program's name tells.
func entryOf(rows []Probe, ret Probe) int {
	found := -1
	for i, p := range rows {
		if p.ret || p.trampoline || p.Symbol != ret.Symbol {
			continue
		}
		if p.Program == strings.Replace(ret.Program, "kretprobe_", "kprobe_", 1) {
			return i
		}
		found = i
	}
	return found
}

func pairUp(ret, entry Probe) Probe {
	ret.entry, ret.session = entry.Program, true
	ret.Optional = ret.Optional && entry.Optional
	ret.Idle = ret.Idle || entry.Idle
	ret.Hot = ret.Hot || entry.Hot
	if ret.Outlined == "" {
		ret.Outlined = entry.Outlined
	}
	if ret.Without == "" {
		ret.Without = entry.Without
	}
	return ret
}

// atReturn is the place in a session's program where that of the return begins.
const atReturn = "at_return"

// session makes one program of two. isReturn is the kernel's number of the type of its
// function bpf_session_is_return(). That takes no argument before 7.0, and then the
// context, which is where it is looked for either way.
func session(entry, ret ebpf.ProgramSpec, isReturn btf.TypeID) ebpf.ProgramSpec {
	first, second := slices.Clone(entry.Instructions), slices.Clone(ret.Instructions)
	function := btf.FuncMetadata(&first[0])
	source := first[0].Source()
	first[0] = btf.WithFuncMetadata(first[0].WithSymbol(""), nil)
	second[0] = btf.WithFuncMetadata(second[0].WithSymbol(atReturn), nil)
	begin := asm.Instructions{
		btf.WithFuncMetadata(asm.Mov.Reg(asm.R6, asm.R1).WithSymbol(entry.Name).WithSource(source), function),
		{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoKfuncCall, Constant: int64(isReturn)},
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.And.Imm(asm.R0, 1), // a bool's other bits say nothing
		asm.JNE.Imm(asm.R0, 0, atReturn),
	}
	entry.Instructions = slices.Concat(begin, first, second)
	entry.AttachType = ebpf.AttachTraceKprobeSession
	return entry
}

// isReturn is what session() takes.
func (k Kernel) isReturn() (btf.TypeID, error) {
	spec, err := k.Spec()
	if err != nil {
		return 0, err
	}
	t, err := spec.AnyTypeByName("bpf_session_is_return")
	if err != nil {
		return 0, err
	}
	return spec.TypeID(t)
}

// half is a program that does nothing in place of another one.
func half(of ebpf.ProgramSpec) ebpf.ProgramSpec {
	first := of.Instructions[0]
	nothing := asm.Mov.Imm(asm.R0, 0).WithSymbol(first.Symbol()).WithSource(first.Source())
	of.Instructions = asm.Instructions{btf.WithFuncMetadata(nothing, btf.FuncMetadata(&first)), asm.Return()}
	return of
}

// attachMulti attaches by kprobe.multi.
func (a attacher) attachMulti(p Probe, program *ebpf.Program) (link.Link, error) {
	options, err := a.options(p)
	if err != nil {
		return nil, err
	}
	if p.ret && !p.session {
		return link.KretprobeMulti(program, options)
	}
	return link.KprobeMulti(program, options)
}

// options are those of a link on a probe's function. By the function's address: the kernel
// walks through all its symbols for a name. With cookies, which nobody asks for: from 6.17
// on (da7e9c0a7fbc) the kernel follows their null pointer when somebody reads the link's
// /proc/PID/fdinfo, as lsof does.
func (a attacher) options(p Probe) (link.KprobeMultiOptions, error) {
	options := link.KprobeMultiOptions{Symbols: []string{p.Symbol}, Cookies: make([]uint64, 1), Session: p.session}
	if address, known := a.addresses[p.Symbol]; known {
		if address == 0 {
			return options, fmt.Errorf("%s: %w", p.Symbol, os.ErrNotExist)
		}
		places := a.places(p)
		options.Symbols, options.Addresses = nil, slices.Repeat([]uintptr{uintptr(address)}, places)
		options.Cookies = make([]uint64, places)
	}
	return options, nil
}

// places is how often a session is to be on a function. Before 6.14 (4346ba160409) the
// kernel follows two returns for each CPU and each place that it is told, the same
// one too.
func (a attacher) places(p Probe) int {
	if !p.ret || a.everyReturn {
		return 1
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return 1
	}
	return (cmp.Or(p.AtOnce, everyProcess) + 2*cpus - 1) / (2 * cpus)
}
