package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/bpf"
)

// A return and its entry become one row, whose requirements are those of both; what is
// alone stays so, and trampolines stay what they are.
func TestSessions(t *testing.T) {
	rows := []Probe{
		{Program: "kretprobe_a", Symbol: "a", ret: true, Optional: true}, {Program: "kprobe_a", Symbol: "a", AtOnce: 5},
		{Program: "kretprobe_b", Symbol: "b", ret: true}, {Program: "kprobe_b_closed", Symbol: "b"}, {Program: "kprobe_b", Symbol: "b", Idle: true},
		{Program: "kretprobe_c", Symbol: "c", ret: true}, {Program: "kprobe_c_since_7", Symbol: "c", Optional: true},
		{Program: "kretprobe_d", Symbol: "d", ret: true, Optional: true},
		{Program: "fexit_e", Symbol: "e", ret: true, trampoline: true}, {Program: "kprobe_e", Symbol: "e"},
	}
	var got []string
	for _, p := range sessions(rows, false) {
		if p.session != (p.entry != "") {
			t.Errorf("%s is a session: %v", p.loaded(), p.session)
		}
		got = append(got, fmt.Sprintf("%s %s by %s, return %v, optional %v, idle %v", p.loaded(), p.Symbol, p.hook(), p.ret, p.Optional, p.Idle))
	}
	want := []string{
		"kprobe_a+kretprobe_a a by session, return true, optional false, idle false",
		"kprobe_b+kretprobe_b b by session, return true, optional false, idle true",
		"kprobe_b_closed b by session, return false, optional false, idle false",
		"kprobe_c_since_7+kretprobe_c c by session, return true, optional false, idle false",
		"kretprobe_d d by session, return true, optional true, idle false",
		"fexit_e@e e by fentry, return true, optional false, idle false",
		"kprobe_e e by session, return false, optional false, idle false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, p := range sessions(rows, true) {
		if p.session == p.trampoline {
			t.Errorf("%s is a session: %v", p.loaded(), p.session)
		}
	}
}

// Every pair of programs makes one that begins with the question and has both, whole: the
// jump leads to where the return's begins.
func TestSessionPrograms(t *testing.T) {
	const number = 4711
	slots := func(insns asm.Instructions) (n int) {
		for _, ins := range insns {
			n += int(ins.Size() / asm.InstructionSize)
		}
		return n
	}
	made := 0
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"perf": bpf.LoadPerf, "objects": bpf.LoadObjects, "chargers": bpf.LoadChargers,
		"perf, legacy": bpf.LoadPerfLegacy, "objects, legacy": bpf.LoadObjectsLegacy, "chargers, legacy": bpf.LoadChargersLegacy,
	} {
		source, err := load()
		if err != nil {
			t.Fatal(err)
		}
		var rows []Probe
		for program, spec := range source.Programs {
			rows = append(rows, Probe{Program: program}.fromELF(spec))
		}
		for _, p := range sessions(rows, false) {
			if p.entry == "" {
				continue
			}
			made++
			entry, ret := source.Programs[p.entry], source.Programs[p.Program]
			before := slices.Clone(entry.Instructions)
			program := session(*entry, *ret, number)
			if !slices.EqualFunc(before, entry.Instructions, func(a, b asm.Instruction) bool { return a == b }) {
				t.Errorf("%s: %s was changed", name, p.entry)
			}
			insns := program.Instructions
			const begin = 5
			if want := slots(entry.Instructions) + slots(ret.Instructions) + begin; slots(insns) != want {
				t.Errorf("%s: %s has %d slots; want %d", name, p.loaded(), slots(insns), want)
			}
			if call := insns[1]; !call.IsKfuncCall() || call.Constant != number {
				t.Errorf("%s: %s begins with %v", name, p.loaded(), insns[:begin])
			}
			if target := begin + len(entry.Instructions); insns[target].Symbol() != insns[begin-1].Reference() || insns[begin-1].Reference() == "" {
				t.Errorf("%s: %s jumps to %q", name, p.loaded(), insns[target].Symbol())
			}
			for i, ins := range insns {
				if f := btf.FuncMetadata(&ins); (f != nil) != (i == 0) || ins.IsFunctionCall() {
					t.Errorf("%s: %s: another function at instruction %d", name, p.loaded(), i)
				}
			}
			if insns[0].Source() == nil {
				t.Errorf("%s: %s: no line of source at its beginning", name, p.loaded())
			}
		}
	}
	if made < 80 {
		t.Errorf("%d sessions", made)
	}
	// As the kernel gets it.
	two := asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("f"), asm.Return()}
	program := session(ebpf.ProgramSpec{Name: "f", Instructions: two}, ebpf.ProgramSpec{Name: "g", Instructions: two}, number)
	var raw bytes.Buffer
	if err := program.Instructions.Marshal(&raw, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	if offset := binary.LittleEndian.Uint16(raw.Bytes()[4*asm.InstructionSize+2:]); offset != 2 {
		t.Errorf("the jump is %d slots wide; want 2", offset)
	}
}

// On a kernel that follows two returns for each CPU and place, a session is at enough
// places; elsewhere at one.
func TestPlaces(t *testing.T) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	old := attacher{}
	for _, c := range []struct {
		p     Probe
		least int
	}{{Probe{ret: true}, everyProcess}, {Probe{ret: true, AtOnce: many}, many}} {
		if n := old.places(c.p); n*2*cpus < c.least || (n-1)*2*cpus >= c.least {
			t.Errorf("%+v: %d places on %d CPUs", c.p, n, cpus)
		}
	}
	if n := old.places(Probe{}); n != 1 {
		t.Errorf("an entry is at %d places", n)
	}
}

// Without cookies to read, the kernel crashes where the link's fdinfo is (6.17).
func TestLinksHaveCookies(t *testing.T) {
	for _, a := range []attacher{{}, {addresses: map[string]uint64{"f": 4096}}, {addresses: map[string]uint64{"f": 4096}, everyReturn: true}} {
		options, err := a.options(Probe{Symbol: "f", ret: true, entry: "g"})
		if err != nil || len(options.Cookies) == 0 || len(options.Cookies) != len(options.Symbols)+len(options.Addresses) {
			t.Errorf("%+v: %+v, %v", a, options, err)
		}
	}
	if _, err := (attacher{addresses: map[string]uint64{"f": 0}}).options(Probe{Symbol: "f"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a function that there is not: %v", err)
	}
}
