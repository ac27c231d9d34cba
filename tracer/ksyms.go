package tracer

import (
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// The programs read some kernel variables by address. /proc/kallsyms, where the
// library looks them up, is rendered line by line for every symbol there is: most
// of what a start would cost. Since 5.16 a program can ask for a symbol instead,
// with the same privileges.

// isSymbol says whether an instruction loads the address of a kernel variable.
func isSymbol(ins asm.Instruction) bool {
	if !ins.OpCode.IsDWordLoad() {
		return false
	}
	switch ins.Reference() {
	case "sysctl_perf_event_mlock", "sysctl_perf_event_paranoid", "__num_online_cpus", "__cpu_online_mask", "nr_cpu_ids",
		"bpf_map_fops", "bpf_prog_fops", "__per_cpu_offset":
		return true
	}
	return false
}

// resolveSymbols puts the addresses of kernel variables into programs, and says which
// of some functions the kernel and its modules lack. Where the kernel cannot be asked,
// or does not tell, the variables are left to the library. Close the program that comes
// back after the trace, which would show its end.
func resolveSymbols(functions []string, programs ...map[string]*ebpf.ProgramSpec) (asked *ebpf.Program, absent map[string]bool) {
	var variables []string
	for _, some := range programs {
		for _, program := range some {
			for _, ins := range program.Instructions {
				if isSymbol(ins) && !slices.Contains(variables, ins.Reference()) {
					variables = append(variables, ins.Reference())
				}
			}
		}
	}
	asked, addresses, err := kernel.SymbolAddresses(slices.Concat(variables, functions))
	if err != nil {
		return asked, kernel.AbsentSymbols(functions)
	}
	for _, some := range programs {
		setSymbols(some, addresses)
	}
	absent = map[string]bool{}
	for _, name := range functions {
		absent[name] = addresses[name] == 0
	}
	return asked, absent
}

// setSymbols makes programs take kernel variables to be at these addresses, or to
// be absent.
func setSymbols(programs map[string]*ebpf.ProgramSpec, addresses map[string]uint64) {
	for _, program := range programs {
		for i, ins := range program.Instructions {
			if isSymbol(ins) {
				program.Instructions[i] = asm.LoadImm(ins.Dst, int64(addresses[ins.Reference()]), asm.DWord).
					WithSymbol(ins.Symbol()).WithSource(ins.Source())
			}
		}
	}
}
