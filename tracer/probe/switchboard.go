package probe

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// A switchboard is one program on many functions, by one link: for each link that is made or
// ends, the kernel goes through all functions that can be traced. It goes on, by a tail call,
// with the session for the function at hand. It counts these calls, for the kernel counts the
// runs of the first program alone.
type switchboard struct {
	rows      []Probe
	addresses []uintptr // of their functions
	program   *ebpf.Program
	sessions  *ebpf.Map // by the number of a row; the kernel empties it when it is closed
	calls     *ebpf.Map // likewise

	attach func() (link.Link, error) // to all of the functions; replaced by tests
}

// switchboard is what of some probes can be on one: each function once, for it tells them
// apart by nothing else. What hot ones miss is not counted, and could not be told apart from
// what others miss by the same link.
func (k Kernel) switchboard(probes []Probe) *switchboard {
	b := &switchboard{}
	b.attach = b.join
	for _, p := range probes {
		address := uintptr(k.addresses[p.Symbol])
		if p.session && !p.Hot && p.Outlined == "" && address != 0 && !slices.Contains(b.addresses, address) {
			b.rows, b.addresses = append(b.rows, p), append(b.addresses, address)
		}
	}
	return b
}

// has reports whether a probe is on the switchboard.
func (b *switchboard) has(p Probe) bool { return b != nil && slices.Contains(b.rows, p) }

// connect makes a switchboard where that saves a link.
func (s *Set) connect(k Kernel) error {
	isReturn, err := k.isReturn()
	if err != nil {
		return err
	}
	b := k.switchboard(s.probes)
	if len(b.rows) < 2 {
		return nil
	}
	s.board = b
	return b.load(s.collection.Programs, isReturn)
}

func (b *switchboard) load(programs map[string]*ebpf.Program, isReturn btf.TypeID) (err error) {
	size := uint32(len(b.rows))
	if b.sessions, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: size}); err != nil {
		return err
	}
	if b.calls, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: size}); err != nil {
		return err
	}
	b.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "switchboard", Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceKprobeSession, License: "GPL",
		Instructions: switches(b.addresses, b.sessions.FD(), b.calls.FD(), isReturn),
	})
	if err != nil {
		return err
	}
	for i, p := range b.rows {
		if err := b.sessions.Put(uint32(i), programs[p.loaded()]); err != nil {
			return fmt.Errorf("session on %s: %w", p.Symbol, err)
		}
	}
	return nil
}

// switches are the instructions of a switchboard. It calls what the sessions call: the kernel
// lets programs call each other that are of one kind.
func switches(addresses []uintptr, sessions, calls int, isReturn btf.TypeID) asm.Instructions {
	const index, found, call = -4, "found", "call"
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoKfuncCall, Constant: int64(isReturn)},
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetFuncIp.Call(),
	}
	for i, address := range addresses {
		code = append(code,
			asm.Mov.Imm(asm.R7, int32(i)),
			asm.LoadImm(asm.R1, int64(address), asm.DWord),
			asm.JEq.Reg(asm.R0, asm.R1, found))
	}
	return append(code,
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
		asm.StoreMem(asm.R10, index, asm.R7, asm.Word).WithSymbol(found),
		asm.LoadMapPtr(asm.R1, calls),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, index),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, call),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol(call),
		asm.LoadMapPtr(asm.R2, sessions),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return())
}

// join is a link on all of the functions.
func (b *switchboard) join() (link.Link, error) {
	// With cookies: see attacher.options.
	return link.KprobeMulti(b.program, link.KprobeMultiOptions{Addresses: b.addresses, Cookies: make([]uint64, len(b.addresses)), Session: true})
}

// runs is how often the session of a row was called.
func (b *switchboard) runs(row int) (sum uint64, err error) {
	var each []uint64
	if err := b.calls.Lookup(uint32(row), &each); err != nil {
		return 0, err
	}
	for _, n := range each {
		sum += n
	}
	return sum, nil
}

func (b *switchboard) close() {
	if b == nil {
		return
	}
	for _, c := range []interface{ Close() error }{b.program, b.sessions, b.calls} {
		c.Close() // of nothing, too
	}
}
