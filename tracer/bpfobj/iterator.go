package bpfobj

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/self"
)

// step is one read: of so many bytes at an offset from the last pointer.
type step struct{ offset, size uint32 }

// chain is how to get from a structure to a number: pointers, and at the end the number.
// An empty one leads nowhere.
type chain []step

// findChain looks the steps up: a structure and its field for each.
func findChain(types *btf.Spec, fields ...[]string) (chain, error) {
	var c chain
	for _, field := range fields {
		offset, t, err := kernel.Member(types, field[0], field[1:]...)
		if err != nil {
			return nil, err
		}
		size, err := btf.Sizeof(t)
		if err != nil {
			return nil, err
		}
		c = append(c, step{offset, uint32(size)})
	}
	return c, nil
}

// value is what a chain led to.
type value struct {
	found uint32 // chainNone, chainFound or chainUnread
	n     uint64
}

const (
	chainNone   = 0 // the first pointer, or number, is 0
	chainFound  = 1
	chainUnread = 2
)

const valueSize = 16

// iterator is a program for an iterator over structures: for each, it follows the chains
// and writes a value for each of them.
func iterator(target string, chains []chain) (asm.Instructions, error) {
	size := valueSize * int32(len(chains))
	next := -size - 8 // on the stack, below the values: what was read last
	code := asm.Instructions{
		// struct bpf_iter__bpf_map { struct bpf_iter_meta *meta; struct bpf_map *map; }
		asm.LoadMem(asm.R6, asm.R1, 8, asm.DWord),
		asm.JEq.Imm(asm.R6, 0, "end"), // the call after the last one
		asm.LoadMem(asm.R7, asm.R1, 0, asm.DWord),
		asm.LoadMem(asm.R7, asm.R7, 0, asm.DWord), // meta->seq
		asm.Mov.Imm(asm.R9, 0),
	}
	for i, c := range chains {
		found, done := -size+valueSize*int32(i), fmt.Sprint("done", i)
		code = append(code,
			asm.Mov.Reg(asm.R8, asm.R6),
			asm.StoreMem(asm.RFP, int16(found), asm.R9, asm.DWord),
			asm.StoreMem(asm.RFP, int16(found+8), asm.R9, asm.DWord),
			asm.StoreImm(asm.RFP, int16(found), chainUnread, asm.Word),
		)
		for j, s := range c {
			if s.size > 8 || j < len(c)-1 && s.size != 8 {
				return nil, fmt.Errorf("struct %s: a field of %d bytes where a pointer or a number should be", target, s.size)
			}
			code = append(code,
				asm.StoreMem(asm.RFP, int16(next), asm.R9, asm.DWord),
				asm.Mov.Reg(asm.R1, asm.RFP),
				asm.Add.Imm(asm.R1, next),
				asm.Mov.Imm(asm.R2, int32(s.size)),
				asm.Mov.Reg(asm.R3, asm.R8),
				asm.Add.Imm(asm.R3, int32(s.offset)),
				asm.FnProbeReadKernel.Call(),
				asm.JNE.Imm(asm.R0, 0, done),
				asm.LoadMem(asm.R8, asm.RFP, int16(next), asm.DWord),
			)
			if j == 0 {
				code = append(code, asm.StoreImm(asm.RFP, int16(found), chainNone, asm.Word))
			}
			if j < len(c)-1 {
				code = append(code, asm.JEq.Imm(asm.R8, 0, done), asm.StoreImm(asm.RFP, int16(found), chainUnread, asm.Word))
			} else {
				code = append(code, asm.StoreImm(asm.RFP, int16(found), chainFound, asm.Word),
					asm.StoreMem(asm.RFP, int16(found+8), asm.R8, asm.DWord))
			}
		}
		code = append(code, asm.Mov.Reg(asm.R1, asm.R7).WithSymbol(done))
	}
	return append(code,
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -size),
		asm.Mov.Imm(asm.R3, size),
		asm.FnSeqWrite.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
		asm.Return(),
	), nil
}

// iteratedTypes are the running kernel's types, without which it takes no iterator.
func iteratedTypes() (*btf.Spec, error) {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("requires a kernel with CONFIG_DEBUG_INFO_BTF: %w", err)
	}
	return types, nil
}

// iterate runs an iterator, and returns the values of each structure.
func iterate(target string, chains []chain) ([][]value, error) {
	code, err := iterator(target, chains)
	if err != nil {
		return nil, err
	}
	program, err := loadIterator(target, code)
	if err != nil {
		return nil, fmt.Errorf("load an iterator over %s (needs CAP_BPF and CAP_PERFMON): %w", target, err)
	}
	defer program.Close()
	iter, err := link.AttachIter(link.IterOptions{Program: program})
	if err != nil {
		return nil, fmt.Errorf("attach an iterator over %s: %w", target, err)
	}
	defer iter.Close()
	in, err := iter.Open()
	if err != nil {
		return nil, fmt.Errorf("open an iterator over %s: %w", target, err)
	}
	defer in.Close()
	raw, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("read an iterator over %s: %w", target, err)
	}
	var read [][]value
	for len(raw) >= valueSize*len(chains) {
		values := make([]value, len(chains))
		for i := range values {
			values[i] = value{binary.NativeEndian.Uint32(raw), binary.NativeEndian.Uint64(raw[8:])}
			raw = raw[valueSize:]
		}
		read = append(read, values)
	}
	return read, nil
}

// loadIterator loads the program. Where RLIMIT_MEMLOCK holds BPF memory and
// leaves too little, the limit is lifted meanwhile.
func loadIterator(target string, code asm.Instructions) (*ebpf.Program, error) {
	spec := &ebpf.ProgramSpec{
		Name: "pinwatch_payers", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: target,
		License: "GPL", Instructions: code,
	}
	defer kernel.LiftMemlock()()
	var program *ebpf.Program
	err := self.New().Do(func() (err error) {
		program, err = ebpf.NewProgram(spec)
		return kernel.WithoutGuess(err)
	})
	return program, err
}

// iterated is a count of references without that of the iterator, which holds what it is at.
func iterated(refs value) value {
	if refs.found != chainFound || refs.n == 0 {
		return value{found: chainUnread}
	}
	return value{chainFound, refs.n - 1}
}
