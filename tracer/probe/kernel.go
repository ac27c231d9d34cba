package probe

import (
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/transport"
)

// Kernel is the running one, as far as probes depend on it.
type Kernel struct {
	kernel.Types
	// Absent holds, for functions that only some kernels have, whether this one is
	// known to lack them. nil: nothing is known.
	Absent map[string]bool

	addresses map[string]uint64 // of functions that probes are on; 0: there is none. nil: nothing is known
	text      text              // where that was read in /proc/kallsyms
	sessions  bool              // kprobes are to be sessions
}

// By is the kernel for all programs of a trace whose backend for perf buffers is b.
func (k Kernel) By(b Backend) Kernel {
	k.sessions = b.Name == AttachSession || b.Name == AttachFentry && k.prefersSessions()
	return k
}

// prefersSessions reports whether sessions are better than kprobes: where they follow all
// returns. Before that the end of each is dear: that of a trace of perf buffers alone takes six
// times the instructions (testdata/bench).
func (k Kernel) prefersSessions() bool { return k.HaveSessions() && k.FollowsAllReturns() }

// followsAllReturns reports whether kprobes are to be sessions that follow any number of returns.
func (k Kernel) followsAllReturns() bool { return k.sessions && k.FollowsAllReturns() }

// Hook is what is on functions that have no trampoline, as --attach names it.
func (k Kernel) Hook() string { return Probe{multi: k.sessions}.hook() }

// lacks reports whether this kernel is known to have nothing that a probe could be on.
func (k Kernel) lacks(p Probe) bool {
	return k.Absent[p.Symbol] && (p.Outlined == "" || k.Absent[p.Outlined])
}

// Specs are the built-in programs, as they are before they fit a kernel; nil are those
// that are not asked for.
type Specs struct {
	Perf, BPFObjects, Chargers *ebpf.CollectionSpec
}

// ReadSpecs reads those that are made for a transport.
func ReadSpecs(via transport.Transport, bpfObjects, chargers bool) (s Specs, err error) {
	if s.Perf, err = via.Perf(); err == nil && bpfObjects {
		s.BPFObjects, err = via.BPFObjects()
	}
	if err == nil && chargers {
		s.Chargers, err = via.Chargers()
	}
	if err != nil {
		return s, fmt.Errorf("read the built-in BPF programs: %w", err)
	}
	return s, nil
}

// Resolve looks up the kernel variables that the programs read, puts their addresses in,
// and finds out which optional functions this kernel lacks. Where the kernel cannot be
// asked, or does not tell, the variables are left to the library. Close the program that
// comes back after the trace, which would show its end; it may be nil.
//
// /proc/kallsyms, where the library looks symbols up for each source, is rendered line by
// line for every symbol there is: most of what a start would cost. Since 5.16 a program can
// ask for a symbol instead, with the same privileges; before, it is read once.
func (s Specs) Resolve(types kernel.Types) (Kernel, *ebpf.Program) {
	k := Kernel{Types: types}
	if !types.HaveTypedReads() {
		s.eachProgram(hideTypedReads)
	}
	functions := s.functions(k, false)
	var variables []string
	s.eachProgram(func(program *ebpf.ProgramSpec) {
		for _, ins := range program.Instructions {
			if isSymbol(ins) && !slices.Contains(variables, ins.Reference()) {
				variables = append(variables, ins.Reference())
			}
		}
	})
	names := slices.Concat(variables, functions)
	if k.HaveSessions() {
		names = slices.Concat(variables, s.functions(k, true))
	}
	asked, addresses, err := kernel.SymbolAddresses(names)
	if err == nil {
		k.Absent = map[string]bool{}
		for _, name := range functions {
			k.Absent[name] = addresses[name] == 0
		}
	} else {
		k.Absent, addresses = readSymbols(slices.Concat(variables, s.functions(k, true), kernelText[:]))
		k.text = text{addresses[kernelText[0]], addresses[kernelText[1]]}
	}
	if addresses != nil {
		s.eachProgram(func(program *ebpf.ProgramSpec) { setSymbols(program, addresses) })
		k.addresses = addresses
	}
	return k, asked
}

// readSymbols reads which of some symbols there are not, and where the others are; 0: nowhere.
// nil: that cannot be read, and attaching will tell; or the kernel hides it, and the library
// will.
func readSymbols(names []string) (absent map[string]bool, addresses map[string]uint64) {
	f, err := os.Open(kernel.SymbolsFile)
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	found, err := kernel.ReadSymbols(f, names)
	if err != nil {
		return nil, nil
	}
	absent, addresses = map[string]bool{}, map[string]uint64{}
	hidden := true
	for _, name := range names {
		address, there := found[name]
		absent[name], addresses[name] = !there, address
		hidden = hidden && address == 0
	}
	if hidden {
		return absent, nil
	}
	return absent, addresses
}

// kernelText are the symbols at the beginning and at the end of the kernel's own functions.
var kernelText = [...]string{"_text", "_etext"}

// text is where the kernel's own functions lie.
type text struct{ begin, end uint64 }

func (s Specs) eachProgram(do func(*ebpf.ProgramSpec)) {
	for _, spec := range []*ebpf.CollectionSpec{s.Perf, s.BPFObjects, s.Chargers} {
		if spec == nil {
			continue
		}
		for _, program := range spec.Programs {
			do(program)
		}
	}
}

// functions are those that probes may be on: all of them, or those that not every kernel has.
func (s Specs) functions(k Kernel, all bool) (functions []string) {
	var probes []Probe
	for _, b := range backends() {
		for _, p := range b.Probes {
			if spec := s.Perf.Programs[p.Program]; spec != nil {
				probes = append(probes, p.fromELF(spec))
			}
		}
	}
	if s.BPFObjects != nil {
		for _, p := range slices.Concat(objectProbes(true, true, false, k), chosen(growthProbes(), false, k)) {
			probes = append(probes, p.fromELF(s.BPFObjects.Programs[p.Program]))
		}
	}
	if s.Chargers != nil {
		probes = append(probes, Chargers(s.Chargers, k)...)
	}
	for _, p := range probes {
		for _, name := range []string{p.Symbol, p.Outlined} {
			if (all || p.Optional) && name != "" && !slices.Contains(functions, name) {
				functions = append(functions, name)
			}
		}
	}
	return functions
}

// HideSymbols makes programs take all kernel variables to be absent: for a user to whom
// the kernel does not show its symbols.
func HideSymbols(spec *ebpf.CollectionSpec) {
	for _, program := range spec.Programs {
		setSymbols(program, nil)
	}
}

// isSymbol reports whether an instruction loads the address of a kernel variable.
func isSymbol(ins asm.Instruction) bool {
	if !ins.OpCode.IsDWordLoad() {
		return false
	}
	switch ins.Reference() {
	case "sysctl_perf_event_mlock", "sysctl_perf_event_paranoid", "__num_online_cpus", "__cpu_online_mask", "nr_cpu_ids",
		"bpf_map_fops", "bpf_prog_fops", "__per_cpu_offset", "__sched_text_start", "__sched_text_end":
		return true
	}
	return false
}

// setSymbols makes a program take kernel variables to be at these addresses, or to be
// absent.
func setSymbols(program *ebpf.ProgramSpec, addresses map[string]uint64) {
	for i, ins := range program.Instructions {
		if isSymbol(ins) {
			program.Instructions[i] = asm.LoadImm(ins.Dst, int64(addresses[ins.Reference()]), asm.DWord).
				WithSymbol(ins.Symbol()).WithSource(ins.Source())
		}
	}
}

// hideTypedReads makes a program do without the kernel function for typed reads. The
// library would look for a missing one in the types of every module, for every call.
func hideTypedReads(program *ebpf.ProgramSpec) {
	for i, ins := range program.Instructions {
		if ins.Reference() != kernel.TypedReads {
			continue
		}
		absent := asm.LoadImm(ins.Dst, 0, asm.DWord)
		if ins.IsKfuncCall() { // not come to any more
			absent = asm.Mov.Imm(asm.R0, 0)
		}
		program.Instructions[i] = absent.WithSymbol(ins.Symbol()).WithSource(ins.Source())
	}
}
