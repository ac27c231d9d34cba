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

// hideTypedReads makes programs do without the function. The library would look for
// a missing one in the types of every module, for every call.
func hideTypedReads(programs map[string]*ebpf.ProgramSpec) {
	for _, program := range programs {
		for i, ins := range program.Instructions {
			if ins.Reference() != typedReads {
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

// typedReads says whether the function is there, and can be called: that wants the
// JIT, and the kernel's own numbers of types.
func (t types) typedReads() bool {
	if t.spec != nil || len(t.parameters(typedReads)) == 0 {
		return false
	}
	jit, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable")
	return err != nil || strings.TrimSpace(string(jit)) != "0" // not all may read it
}
