package tracer

import (
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// typedReads is the kernel function without which the programs read the kernel's
// structures by a helper: see kernel_read() in bpf/kernel.h.
const typedReads = "bpf_rdonly_cast"

// bindTypedReads makes programs call the kernel's function, whose type is given; 0:
// do without it. The library would read all the kernel's types to find it, and those
// of every module where it is missing.
func bindTypedReads(programs map[string]*ebpf.ProgramSpec, id uint32) {
	for _, program := range programs {
		for i, ins := range program.Instructions {
			bound := ins
			switch {
			case ins.IsKfuncCall() && ins.Reference() == typedReads && id != 0:
				bound = asm.Instruction{OpCode: ins.OpCode, Src: ins.Src, Constant: int64(id)}
			case ins.IsKfuncCall() && ins.Reference() == typedReads:
				bound = asm.Mov.Imm(asm.R0, 0) // not come to any more
			case ins.Reference() == typedReads: // its address, 0 if it is absent
				bound = asm.LoadImm(ins.Dst, min(1, int64(id)), asm.DWord)
			default:
				continue
			}
			program.Instructions[i] = bound.WithSymbol(ins.Symbol()).WithSource(ins.Source())
		}
	}
}

// typedReads is the type of the function where it is there and can be called: that
// wants the JIT, and the kernel's own numbers of types. Else 0.
func (t types) typedReads() (id uint32) {
	if t.spec != nil && t.found == nil { // types from a file, which count otherwise
		return 0
	}
	// Not everybody may read it.
	if jit, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable"); err == nil && strings.TrimSpace(string(jit)) == "0" {
		return 0
	}
	return t.function(typedReads).id
}
