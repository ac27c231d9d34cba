package bpfobj

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/self"
)

// A map knows who pays for it, but no system call says so. A BPF iterator over
// all maps (Linux 5.8) reads it: no probe is attached, nothing is traced. Without, a
// kprobe on a system call is attached for as long as pinwatch asks (see asking.go).

// step is one read: of so many bytes at an offset from the last pointer.
type step struct{ offset, size uint32 }

// payerPath is how to get from a struct bpf_map to who pays: pointers, and at
// the end a uid or the id of a cgroup.
type payerPath struct {
	accounting kernel.BPFAccounting
	steps      []step
}

// findPayerPath looks up where this kernel keeps the payer, by its fields.
func findPayerPath(types *btf.Spec) (payerPath, error) {
	for _, candidate := range []struct {
		accounting kernel.BPFAccounting
		fields     [][]string
	}{
		// Linux 6.0: 4201d9ab3e42
		{kernel.BPFMemcg, [][]string{{"bpf_map", "objcg"}, {"obj_cgroup", "memcg"}, {"mem_cgroup", "css", "cgroup"}, {"cgroup", "kn"}, {"kernfs_node", "id"}}},
		// Linux 5.11: 80ee81e0403c
		{kernel.BPFMemcg, [][]string{{"bpf_map", "memcg"}, {"mem_cgroup", "css", "cgroup"}, {"cgroup", "kn"}, {"kernfs_node", "id"}}},
		{kernel.BPFRlimit, [][]string{{"bpf_map", "memory", "user"}, {"user_struct", "uid", "val"}}},
	} {
		path := payerPath{accounting: candidate.accounting}
		for _, field := range candidate.fields {
			s, err := member(types, field[0], field[1:])
			if err != nil {
				path.steps = nil
				break
			}
			path.steps = append(path.steps, s)
		}
		if path.steps != nil {
			return path, nil
		}
	}
	return payerPath{}, errors.New("struct bpf_map names no payer that is known here")
}

// member is where a field of a field of a structure is.
func member(types *btf.Spec, structure string, fields []string) (step, error) {
	offset, t, err := kernel.Member(types, structure, fields...)
	if err != nil {
		return step{}, err
	}
	size, err := btf.Sizeof(t)
	return step{offset, uint32(size)}, err
}

// record is what the iterator writes for a map: its id, how far the pointers
// led, and the uid or the cgroup's id.
type record struct {
	ID    uint32
	Found uint32 // payerNone, payerFound or payerUnread
	Value uint64
}

const (
	payerNone   = 0 // the map's own pointer is NULL
	payerFound  = 1
	payerUnread = 2
)

const recordSize = 16

// iterator is the program: for each map, follow the path and write a record.
func iterator(types *btf.Spec, path payerPath) (asm.Instructions, error) {
	id, err := member(types, "bpf_map", []string{"id"})
	if err != nil {
		return nil, err
	}
	const (
		buffer = -recordSize     // the record, on the stack
		next   = -recordSize - 8 // what was read last
	)
	read := func(to int32, size uint32, offset uint32) asm.Instructions {
		return asm.Instructions{ // from r8
			asm.Mov.Reg(asm.R1, asm.RFP),
			asm.Add.Imm(asm.R1, to),
			asm.Mov.Imm(asm.R2, int32(size)),
			asm.Mov.Reg(asm.R3, asm.R8),
			asm.Add.Imm(asm.R3, int32(offset)),
			asm.FnProbeReadKernel.Call(),
		}
	}
	code := asm.Instructions{
		// struct bpf_iter__bpf_map { struct bpf_iter_meta *meta; struct bpf_map *map; }
		asm.LoadMem(asm.R8, asm.R1, 8, asm.DWord),
		asm.JEq.Imm(asm.R8, 0, "end"), // the call after the last map
		asm.LoadMem(asm.R7, asm.R1, 0, asm.DWord),
		asm.LoadMem(asm.R7, asm.R7, 0, asm.DWord), // meta->seq
		asm.Mov.Imm(asm.R9, 0),
		asm.StoreMem(asm.RFP, buffer, asm.R9, asm.DWord),
		asm.StoreMem(asm.RFP, buffer+8, asm.R9, asm.DWord),
	}
	code = append(code, read(buffer, id.size, id.offset)...)
	code = append(code, asm.StoreImm(asm.RFP, buffer+4, payerUnread, asm.Word))
	for i, s := range path.steps {
		if s.size > 8 || i < len(path.steps)-1 && s.size != 8 {
			return nil, fmt.Errorf("a field of %d bytes where a pointer or a number should be", s.size)
		}
		code = append(code, asm.StoreMem(asm.RFP, next, asm.R9, asm.DWord))
		code = append(code, read(next, s.size, s.offset)...)
		code = append(code, asm.JNE.Imm(asm.R0, 0, "write"), asm.LoadMem(asm.R8, asm.RFP, next, asm.DWord))
		if i == 0 {
			code = append(code, asm.StoreImm(asm.RFP, buffer+4, payerNone, asm.Word))
		}
		if i < len(path.steps)-1 {
			code = append(code, asm.JEq.Imm(asm.R8, 0, "write"), asm.StoreImm(asm.RFP, buffer+4, payerUnread, asm.Word))
		}
	}
	return append(code,
		asm.StoreImm(asm.RFP, buffer+4, payerFound, asm.Word),
		asm.StoreMem(asm.RFP, buffer+8, asm.R8, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R7).WithSymbol("write"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, buffer),
		asm.Mov.Imm(asm.R3, recordSize),
		asm.FnSeqWrite.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
		asm.Return(),
	), nil
}

// iteratePayers runs the iterator.
func iteratePayers() (kernel.BPFAccounting, []record, error) {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		return kernel.BPFUnknown, nil, fmt.Errorf("requires a kernel with CONFIG_DEBUG_INFO_BTF: %w", err)
	}
	path, err := findPayerPath(types)
	if err != nil {
		return kernel.BPFUnknown, nil, err
	}
	code, err := iterator(types, path)
	if err != nil {
		return kernel.BPFUnknown, nil, err
	}
	program, err := loadIterator(code)
	if err != nil {
		return kernel.BPFUnknown, nil, fmt.Errorf("load an iterator over maps (needs CAP_BPF and CAP_PERFMON): %w", err)
	}
	defer program.Close()
	records, err := iterate(program)
	return path.accounting, records, err
}

// loadIterator loads the program. Where RLIMIT_MEMLOCK holds BPF memory and
// leaves too little, the limit is lifted meanwhile.
func loadIterator(code asm.Instructions) (*ebpf.Program, error) {
	spec := &ebpf.ProgramSpec{
		Name: "pinwatch_payers", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "bpf_map",
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

func iterate(program *ebpf.Program) ([]record, error) {
	iter, err := link.AttachIter(link.IterOptions{Program: program})
	if err != nil {
		return nil, fmt.Errorf("attach an iterator over maps: %w", err)
	}
	defer iter.Close()
	in, err := iter.Open()
	if err != nil {
		return nil, fmt.Errorf("open an iterator over maps: %w", err)
	}
	defer in.Close()
	raw, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("read an iterator over maps: %w", err)
	}
	records := make([]record, len(raw)/recordSize)
	for i := range records {
		b := raw[i*recordSize:]
		records[i] = record{binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint64(b[8:])}
	}
	return records, nil
}

// addPayers notes who pays for the maps. Programs do not remember their cgroup.
func (l *lister) addPayers(tree *cgroup.Tree, btf string) {
	if l.Accounting != kernel.BPFMemcg && l.Accounting != kernel.BPFRlimit {
		return
	}
	accounting, records, err := iteratePayers()
	if err != nil {
		var second error
		if accounting, records, second = askPayers(l.mapIDs(), btf); second != nil {
			l.note("who pays for maps is not known without a trace of their creation: by a kprobe: %v; by an iterator over maps (Linux 5.8): %v", second, err)
			return
		}
	}
	if accounting != l.Accounting {
		l.note("who pays for maps is not known: struct bpf_map says %s, the probe says %s", accounting, l.Accounting)
		return
	}
	for _, r := range records {
		if o := l.find(KindMap, r.ID); o != nil {
			o.setPayer(accounting, r, tree)
		}
	}
	if accounting == kernel.BPFMemcg {
		l.note("which cgroup pays for a program is known only from a trace of its loading: the kernel does not keep it")
	}
}

func (o *Object) setPayer(accounting kernel.BPFAccounting, r record, tree *cgroup.Tree) {
	switch {
	case accounting == kernel.BPFRlimit:
		o.UID, o.UIDKnown = uint32(r.Value), r.Found == payerFound
	case r.Found == payerNone: // up to 7.0 the root cgroup, which has no limit, is not charged
		o.Cgroup, o.CgroupKnown = "/", true
	case r.Found == payerFound:
		o.CgroupID = r.Value
		if tree != nil {
			o.Cgroup, o.CgroupKnown = tree.MemoryPath(r.Value)
		}
	}
}
