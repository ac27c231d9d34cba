package tracer

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// hideTypedReads makes programs do without the function. The library would look for
// a missing one in the types of every module, for every call.
func hideTypedReads(programs map[string]*ebpf.ProgramSpec) {
	for _, program := range programs {
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
}
