package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// What the legacy objects use, with the Linux version that brought it. Anything
// else fails the tests, until it is looked up and entered here. 4.19 is the oldest
// kernel that must load them.
var (
	helpersSince = map[asm.BuiltinFunc]string{
		asm.FnMapLookupElem:       "3.18",
		asm.FnMapUpdateElem:       "3.18",
		asm.FnMapDeleteElem:       "3.18",
		asm.FnProbeRead:           "4.1",
		asm.FnKtimeGetNs:          "4.1",
		asm.FnGetSmpProcessorId:   "4.1",
		asm.FnGetCurrentPidTgid:   "4.2",
		asm.FnGetCurrentUidGid:    "4.2",
		asm.FnGetCurrentComm:      "4.2",
		asm.FnPerfEventOutput:     "4.4",
		asm.FnGetCurrentTask:      "4.8",
		asm.FnGetCurrentCgroupId:  "4.18",
		asm.FnSkbAncestorCgroupId: "4.19", // the last one that 4.19 has: the numbers only grow
	}
	mapsSince = map[ebpf.MapType]string{
		ebpf.Array:          "3.19",
		ebpf.Hash:           "3.19",
		ebpf.PerfEventArray: "4.3",
		ebpf.LRUHash:        "4.10",
		ebpf.PerCPUArray:    "4.6",
	}
)

const (
	lastHelper = asm.FnSkbAncestorCgroupId
	maxInstrs  = 4096 // of a program, up to 5.1; in slots of 8 bytes
	maxStack   = 512
)

// in419 reports whether what a version brought is in 4.19.
func in419(version string) bool {
	var major, minor int
	fmt.Sscanf(version, "%d.%d", &major, &minor)
	return major < 4 || major == 4 && minor <= 19
}

// legacyObjects are the compiled objects of all sources and both architectures.
func legacyObjects(t *testing.T) map[string]*ebpf.CollectionSpec {
	t.Helper()
	specs := map[string]*ebpf.CollectionSpec{}
	for _, source := range []string{"perf_legacy", "objects_legacy", "chargers_legacy", "payers"} {
		for _, arch := range []string{"x86", "arm64"} {
			name := source + "_" + arch
			raw, err := os.ReadFile(name + "_bpfel.o")
			if err != nil {
				t.Fatal(err)
			}
			if specs[name], err = ebpf.LoadCollectionSpecFromReader(bytes.NewReader(raw)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return specs
}

// memcgPrograms are on the functions by which memory cgroups pay for kernel memory. They
// are attached to kernels that charge BPF objects to these: 5.11 and newer.
var memcgPrograms = regexp.MustCompile(`^k(ret)?probe_(charge_page|uncharge_page|obj_(un)?charge(_account)?|slab_hook(_flags)?|map_alloc(_percpu)?|bpf_mem_refill)$`)

// kprobes are the programs that a kernel of that age is given: it has no fentry.
func kprobes(spec *ebpf.CollectionSpec) []*ebpf.ProgramSpec {
	var list []*ebpf.ProgramSpec
	for _, p := range spec.Programs {
		if p.Type != ebpf.Tracing && !memcgPrograms.MatchString(p.Name) {
			list = append(list, p)
		}
	}
	return list
}

// The legacy objects must load on 4.19, and no such kernel is at hand: so nothing
// newer may be in them.
func TestLegacyMaps(t *testing.T) {
	for object, spec := range legacyObjects(t) {
		for name, m := range spec.Maps {
			since, known := mapsSince[m.Type]
			if !known || !in419(since) {
				t.Errorf("%s: map %s: type %s (since %q)", object, name, m.Type, since)
			}
			if m.Flags != 0 {
				t.Errorf("%s: map %s: flags %#x: look up since when", object, name, m.Flags)
			}
			if m.InnerMap != nil || m.Pinning != ebpf.PinNone || len(m.Contents) > 0 {
				t.Errorf("%s: map %s: inner maps, pinning and contents are not what it should need", object, name)
			}
		}
		if len(spec.Variables) > 0 {
			t.Errorf("%s: global data: requires 5.2", object)
		}
	}
}

func TestLegacyPrograms(t *testing.T) {
	for object, spec := range legacyObjects(t) {
		list := kprobes(spec)
		if len(list) < 9 && !strings.HasPrefix(object, "payers") {
			t.Fatalf("%s: %d kprobe programs", object, len(list))
		}
		for _, p := range list {
			if p.Type != ebpf.Kprobe || p.License != "GPL" {
				t.Errorf("%s: %s: type %s, license %s", object, p.Name, p.Type, p.License)
			}
			for _, problem := range tooNew(p.Instructions) {
				t.Errorf("%s: %s: %s", object, p.Name, problem)
			}
		}
	}
}

// tooNew names what 4.19 does not know in a program.
func tooNew(insns asm.Instructions) (problems []string) {
	report := func(ins *asm.Instruction, format string, args ...any) {
		problems = append(problems, fmt.Sprintf("%v: ", ins)+fmt.Sprintf(format, args...))
	}
	slots := asm.RawInstructionOffset(0)
	iter := insns.Iterate()
	for iter.Next() {
		slots = iter.Offset + asm.RawInstructionOffset(iter.Ins.Size()/asm.InstructionSize)
	}
	if slots > maxInstrs {
		problems = append(problems, fmt.Sprintf("%d instructions: more than %d requires 5.2", slots, maxInstrs))
	}
	if at := loop(insns); at >= 0 {
		report(&insns[at], "a loop requires 5.3")
	}
	stackBase := map[asm.Register]bool{} // registers that hold a copy of the frame pointer
	iter = insns.Iterate()
	for iter.Next() {
		ins := iter.Ins
		op := ins.OpCode
		switch class := op.Class(); {
		case class == asm.Jump32Class:
			report(ins, "32-bit jumps require 5.1")
		case ins.IsFunctionCall() || ins.IsKfuncCall() || ins.IsLoadOfFunctionPointer():
			report(ins, "calls between BPF functions are not meant to be here")
		case ins.IsBuiltinCall():
			id := asm.BuiltinFunc(ins.Constant)
			since, known := helpersSince[id]
			if id > lastHelper || !known || !in419(since) {
				report(ins, "helper %s (since %q)", id, since)
			}
		case class.IsStore() && op.Mode() == asm.AtomicMode && op.AtomicOp() != asm.AddAtomic:
			report(ins, "an atomic operation other than adding requires 5.12")
		case class.IsLoad() && (op.Mode() == asm.MemSXMode):
			report(ins, "a sign-extending load requires 6.6")
		case class.IsALU() && ins.Offset != 0:
			report(ins, "a sign-extending move or division requires 6.6")
		case op.IsDWordLoad() && ins.Src != asm.R0 && ins.Src != asm.PseudoMapFD:
			report(ins, "a constant of kind %d", ins.Src)
		}
		if class := op.Class(); (class.IsStore() && ins.Dst == asm.RFP || class.IsLoad() && ins.Src == asm.RFP) && ins.Offset < -maxStack {
			report(ins, "beyond the stack")
		}
		if op.Class() == asm.ALU64Class && op.ALUOp() == asm.Mov {
			stackBase[ins.Dst] = op.Source() == asm.RegSource && ins.Src == asm.RFP
		}
		if op.Class() == asm.ALU64Class && op.ALUOp() == asm.Add && op.Source() == asm.ImmSource && stackBase[ins.Dst] {
			if ins.Constant < -maxStack {
				report(ins, "beyond the stack")
			}
			stackBase[ins.Dst] = false
		}
	}
	return problems
}

// successors returns a function that tells which instructions may follow one: the next
// one, and then that which it jumps to.
func successors(insns asm.Instructions) func(i int) []int {
	bySlot, bySymbol := map[int]int{}, map[string]int{}
	slots := make([]int, len(insns))
	iter := insns.Iterate()
	for iter.Next() {
		bySlot[int(iter.Offset)], slots[iter.Index] = iter.Index, int(iter.Offset)
		if s := iter.Ins.Symbol(); s != "" {
			bySymbol[s] = iter.Index
		}
	}
	return func(i int) (list []int) {
		op := insns[i].OpCode
		jumps := op.Class().IsJump() && op.JumpOp() != asm.Call
		if (!jumps || op.JumpOp() != asm.Exit && op.JumpOp() != asm.Ja) && i+1 < len(insns) {
			list = append(list, i+1)
		}
		if jumps && op.JumpOp() != asm.Exit {
			if to, ok := bySymbol[insns[i].Reference()]; ok {
				return append(list, to)
			}
			return append(list, bySlot[slots[i]+1+int(insns[i].Offset)])
		}
		return list
	}
}

// loop returns the index of an instruction that leads back to one on the way to
// it, or -1. That is what the verifier of 4.19 looks for: jumping back to what is
// not on the way is fine.
func loop(insns asm.Instructions) int {
	next := successors(insns)
	const onTheWay, done = 1, 2
	state := make([]int, len(insns))
	var visit func(i int) int
	visit = func(i int) int {
		state[i] = onTheWay
		for _, to := range next(i) {
			if state[to] == onTheWay {
				return i
			}
			if state[to] == 0 {
				if at := visit(to); at >= 0 {
					return at
				}
			}
		}
		state[i] = done
		return -1
	}
	return visit(0)
}

// The inspection finds what it looks for.
func TestTooNew(t *testing.T) {
	top := asm.Mov.Imm(asm.R0, 0).WithSymbol("top")
	for want, ins := range map[string]asm.Instructions{
		"32-bit jumps":     {asm.JEq.Imm32(asm.R0, 0, "top")},
		"a loop":           {asm.Ja.Label("top")},
		"helper":           {asm.FnRingbufReserve.Call()},
		"helper FnGetCgr":  {asm.FnGetCgroupClassid.Call()}, // old, and in no table
		"an atomic":        {asm.FetchAdd.Mem(asm.R1, asm.R2, asm.DWord, 0)},
		"calls between":    {asm.Call.Label("top")},
		"sign-extending":   {asm.LoadMemSX(asm.R1, asm.R2, 0, asm.Word)},
		"beyond the stack": {asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -520)},
		"beyond":           {asm.StoreMem(asm.RFP, -520, asm.R1, asm.DWord)},
		"a constant":       {asm.LoadMapValue(asm.R1, 0, 0)},
	} {
		if got := strings.Join(tooNew(append(asm.Instructions{top}, ins...)), "\n"); !strings.Contains(got, want) {
			t.Errorf("%v: got %q; want %q", ins, got, want)
		}
	}
	if got := tooNew(make(asm.Instructions, maxInstrs+1)); !strings.Contains(strings.Join(got, "\n"), "4097 instructions") {
		t.Errorf("a long program: %q", got)
	}
	if got := tooNew(asm.Instructions{top, asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0), asm.JEq.Imm(asm.R0, 0, "end"), asm.Return().WithSymbol("end")}); got != nil {
		t.Errorf("what 4.19 knows: %q", got)
	}
}

// layouts are the kernel's types of old kernels, as far as they are read, by the version
// at which they changed: see testdata/layouts.c.
func layouts(t *testing.T) map[string]*btf.Spec {
	t.Helper()
	specs := map[string]*btf.Spec{}
	for _, version := range []string{"4.19", "5.1", "5.3", "5.5"} {
		spec, err := btf.LoadSpec("testdata/layouts-" + version + ".o")
		if err != nil {
			t.Fatal(err)
		}
		specs[version] = spec
	}
	return specs
}

// relocate fits a program to a kernel's types. What that has no field for is poisoned.
func relocate(t *testing.T, program asm.Instructions, types *btf.Spec) (fitted asm.Instructions, poisoned map[int]*btf.CORERelocation) {
	t.Helper()
	var relocations []*btf.CORERelocation
	var at []int
	fitted = slices.Clone(program)
	for i := range fitted {
		if r := btf.CORERelocationMetadata(&fitted[i]); r != nil {
			relocations, at = append(relocations, r), append(at, i)
		}
	}
	fixups, err := btf.CORERelocate(relocations, []*btf.Spec{types}, binary.LittleEndian, func(btf.Type) (btf.TypeID, error) { return 0, nil })
	if err != nil {
		t.Fatal(err)
	}
	poisoned = map[int]*btf.CORERelocation{}
	for i, f := range fixups {
		if err := f.Apply(&fitted[at[i]]); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f.String(), "=poison") {
			poisoned[at[i]] = relocations[i]
		}
	}
	return fitted, poisoned
}

// reached are the instructions that the verifier of 4.19 comes to. Of two ways it leaves
// one out only where a register is compared with a constant, for equality, that is known
// to hold one. Here only constants count that a relocation put there, for others depend on
// no kernel; and those that are kept on the stack are forgotten, as they are up to 5.2.
func reached(insns asm.Instructions) map[int]bool {
	type facts [asm.R9 + 1]struct {
		known bool
		value int64
	}
	type state struct {
		at    int
		facts facts
	}
	next := successors(insns)
	seen, come := map[state]bool{}, map[int]bool{}
	for todo := []state{{}}; len(todo) > 0; {
		now := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[now] {
			continue
		}
		seen[now], come[now.at] = true, true
		ins, facts, ways := &insns[now.at], now.facts, next(now.at)
		switch op := ins.OpCode; {
		case op.JumpOp() == asm.Call && op.Class().IsJump():
			for r := asm.R0; r <= asm.R5; r++ {
				facts[r].known = false
			}
		case op.Class() == asm.JumpClass && (op.JumpOp() == asm.JEq || op.JumpOp() == asm.JNE) && op.Source() == asm.ImmSource && facts[ins.Dst].known:
			// The way on is the first one, the jump the second.
			jumps := (facts[ins.Dst].value == ins.Constant) == (op.JumpOp() == asm.JEq)
			ways = ways[count(jumps):][:1]
		case op.Class().IsALU() || op.Class().IsLoad():
			if ins.Dst > asm.R9 {
				break
			}
			switch moved := op.Class() == asm.ALU64Class && op.ALUOp() == asm.Mov; {
			case moved && op.Source() == asm.RegSource && ins.Src <= asm.R9:
				facts[ins.Dst] = facts[ins.Src]
			case moved && op.Source() == asm.ImmSource && btf.CORERelocationMetadata(ins) != nil:
				facts[ins.Dst].known, facts[ins.Dst].value = true, ins.Constant
			default:
				facts[ins.Dst].known = false
			}
		}
		for _, to := range ways {
			todo = append(todo, state{to, facts})
		}
	}
	return come
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// unreadable are the relocations of a program for which a kernel has no field, and which
// its verifier comes to: it refuses the program.
func unreadable(t *testing.T, program asm.Instructions, types *btf.Spec) (list []*btf.CORERelocation) {
	t.Helper()
	fitted, poisoned := relocate(t, program, types)
	come := reached(fitted)
	for i, r := range poisoned {
		if come[i] {
			list = append(list, r)
		}
	}
	return list
}

// Whatever an old kernel's verifier comes to reads what that kernel has.
func TestLegacyReads(t *testing.T) {
	seen := map[string]bool{}
	for version, types := range layouts(t) {
		for object, spec := range legacyObjects(t) {
			for _, p := range kprobes(spec) {
				for _, r := range unreadable(t, p.Instructions, types) {
					t.Errorf("%s: %s: %v is not in %s", object, p.Name, r, version)
				}
				for i := range p.Instructions {
					if r := btf.CORERelocationMetadata(&p.Instructions[i]); r != nil {
						seen[strings.Split(fmt.Sprint(r), `"`)[1]] = true // CORERelocation(byte_off, Struct:"perf_event"[0:0], local_id=1)
					}
				}
			}
		}
	}
	for _, name := range []string{"ring_buffer", "mm_struct___plain", "cred___words", "bpf_map___pages", "bpf_map___memory", "bpf_prog_aux___user",
		"kernfs_node___parts", "xdp_umem", "ubuf_info", "io_ring_ctx"} {
		if !seen[name] {
			t.Errorf("nothing reads struct %s", name)
		}
	}
}

// The check finds a read that no flavour stands in for, and one whose guard is lost on the
// stack, and accepts one behind a guard.
func TestUnreadable(t *testing.T) {
	types := layouts(t)["5.3"]
	var read, asked *asm.Instruction
	for _, spec := range legacyObjects(t) {
		for _, p := range kprobes(spec) {
			for i := range p.Instructions {
				ins := &p.Instructions[i]
				switch text := fmt.Sprint(btf.CORERelocationMetadata(ins)); {
				case !strings.Contains(text, `"kernfs_node"[0:0]`) && !strings.Contains(text, `"kernfs_node___parts"[0:0:0]`):
				case strings.Contains(text, `(byte_off, Struct:"kernfs_node"`):
					read = ins
				case strings.Contains(text, "(field_exists"):
					asked = ins
				}
			}
		}
	}
	if read == nil || asked == nil {
		t.Fatal("no program asks for kernfs_node.id, and reads it")
	}
	guard, skipped := *asked, asm.Mov.Imm(asm.R0, 0).WithSymbol("end")
	guard.Dst = asm.R1
	for name, c := range map[string]struct {
		program asm.Instructions
		reached int
	}{
		"unguarded":     {asm.Instructions{*read, skipped, asm.Return()}, 1},
		"guarded":       {asm.Instructions{guard, asm.JNE.Imm(asm.R1, 0, "end"), *read, skipped, asm.Return()}, 0},
		"moved":         {asm.Instructions{guard, asm.Mov.Reg(asm.R6, asm.R1), asm.FnKtimeGetNs.Call(), asm.JNE.Imm(asm.R6, 0, "end"), *read, skipped, asm.Return()}, 0},
		"called":        {asm.Instructions{guard, asm.FnKtimeGetNs.Call(), asm.JNE.Imm(asm.R1, 0, "end"), *read, skipped, asm.Return()}, 1},
		"the wrong way": {asm.Instructions{guard, asm.JEq.Imm(asm.R1, 0, "end"), *read, skipped, asm.Return()}, 1},
		"spilled": {asm.Instructions{guard, asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord), asm.LoadMem(asm.R1, asm.RFP, -8, asm.DWord),
			asm.JNE.Imm(asm.R1, 0, "end"), *read, skipped, asm.Return()}, 1},
	} {
		if got := unreadable(t, c.program, types); len(got) != c.reached {
			t.Errorf("%s: %v; want %d", name, got, c.reached)
		}
	}
}
