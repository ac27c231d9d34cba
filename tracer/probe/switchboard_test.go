package probe

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// On a switchboard is what it can tell apart, and count.
func TestSwitchboardRows(t *testing.T) {
	k := Kernel{addresses: map[string]uint64{"a": 1, "b": 2, "c": 3, "hot": 4, "split": 5, "absent": 0, "none": 6}}
	rows := []Probe{
		{Program: "kretprobe_a", Symbol: "a", session: true, ret: true, entry: "kprobe_a"},
		{Program: "kprobe_a_closed", Symbol: "a", session: true}, // the same function
		{Program: "kprobe_b", Symbol: "b", session: true},
		{Program: "kretprobe_c", Symbol: "c", session: true, ret: true},
		{Program: "kprobe_hot", Symbol: "hot", session: true, Hot: true},
		{Program: "kprobe_split", Symbol: "split", Outlined: "split.part.0", session: true},
		{Program: "kprobe_absent", Symbol: "absent", session: true},
		{Program: "kprobe_unknown", Symbol: "unknown", session: true},
		{Program: "fexit_none", Symbol: "none", trampoline: true},
	}
	b := k.switchboard(rows)
	var got []string
	for _, p := range b.rows {
		got = append(got, p.Program)
	}
	if diff := cmp.Diff([]string{"kretprobe_a", "kprobe_b", "kretprobe_c"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]uintptr{1, 2, 3}, b.addresses); diff != "" {
		t.Error(diff)
	}
	for i, p := range rows {
		if want := i == 0 || i == 2 || i == 3; b.has(p) != want {
			t.Errorf("has %s: %v", p.Program, !want)
		}
	}
	var none *switchboard
	if none.has(rows[0]) {
		t.Error("none has a probe")
	}
}

// It compares with each address, and goes to one place from all of them, with the number of
// the row; what is none of them ends.
func TestSwitches(t *testing.T) {
	addresses := []uintptr{0xffffffff81000000, 0xffffffff81000040, 0xffffffffc0000000}
	code := switches(addresses, 7, 8, 4711)
	const compares, each = 4, 3
	for i, address := range addresses {
		at := code[compares+each*i:]
		if at[0].Dst != asm.R7 || at[0].Constant != int64(i) || at[1].Constant != int64(address) || at[2].Reference() == "" {
			t.Errorf("row %d: %v", i, at[:each])
		}
	}
	var raw bytes.Buffer
	if err := code.Marshal(&raw, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	slot := func(i int) (n int) { // of an instruction: an address takes two
		for _, ins := range code[:i] {
			n += int(ins.Size() / asm.InstructionSize)
		}
		return n
	}
	target := func(i int) int {
		return slot(i) + 1 + int(int16(binary.LittleEndian.Uint16(raw.Bytes()[slot(i)*asm.InstructionSize+2:])))
	}
	end := compares + each*len(addresses)
	for i := range addresses {
		if jump := compares + each*i + 2; target(jump) != slot(end+2) {
			t.Errorf("row %d: goes to slot %d; want %d", i, target(jump), slot(end+2))
		}
	}
	if code[end].Constant != 0 || code[end+1].OpCode.JumpOp() != asm.Exit {
		t.Errorf("what is on no row: %v", code[end:end+2])
	}
}

// Where the one link cannot be made, each probe has its own, as without a switchboard.
func TestWithoutSwitchboard(t *testing.T) {
	s, open := fake([]Probe{{Program: "1", Symbol: "a", session: true}, {Program: "2", Symbol: "b"}, {Program: "3", Symbol: "c", session: true}}, nil, func(Probe) error { return nil })
	s.board = &switchboard{rows: []Probe{s.probes[0], s.probes[2]}, attach: func() (link.Link, error) { return nil, unix.EINVAL }}
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, *open); diff != "" {
		t.Error(diff)
	}
}

// What is on it is attached last, counts as attached, and each for itself.
func TestWithSwitchboard(t *testing.T) {
	s, open := fake([]Probe{{Program: "1", Symbol: "a", session: true, ret: true}, {Program: "2", Symbol: "b"}, {Program: "3", Symbol: "c", session: true, Idle: true}}, nil, func(Probe) error { return nil })
	s.board = &switchboard{rows: []Probe{s.probes[0], s.probes[2]}, program: new(ebpf.Program), attach: func() (link.Link, error) {
		*open = append(*open, "switchboard")
		return &fakeLink{open: open, name: "switchboard"}, nil
	}}
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"b", "switchboard"}, *open); diff != "" {
		t.Error(diff)
	}
	if !s.Watches("a") || s.Watches("c") || s.Missed() != 22 {
		t.Errorf("the return of a is watched: %v, of c: %v; %d missed", s.Watches("a"), s.Watches("c"), s.Missed())
	}
	var got []string
	for _, state := range s.Assumed(true) {
		if got = append(got, state.String()); state.Fired == (state.Symbol == "c") {
			t.Errorf("%+v", state)
		}
	}
	if diff := cmp.Diff([]string{"b", "the return of a", "c"}, got); diff != "" {
		t.Error(diff)
	}
	s.Detach()
	if len(*open) != 0 {
		t.Errorf("still attached: %v", *open)
	}
}
