package bpf

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
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
	for _, source := range []string{"perf", "objects", "chargers"} {
		for _, arch := range []string{"x86", "arm64"} {
			name := source + "_legacy_" + arch
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
		if len(list) < 9 {
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

// loop returns the index of an instruction that leads back to one on the way to
// it, or -1. That is what the verifier of 4.19 looks for: jumping back to what is
// not on the way is fine.
func loop(insns asm.Instructions) int {
	bySlot, bySymbol := map[int]int{}, map[string]int{}
	slots := make([]int, len(insns))
	iter := insns.Iterate()
	for iter.Next() {
		bySlot[int(iter.Offset)], slots[iter.Index] = iter.Index, int(iter.Offset)
		if s := iter.Ins.Symbol(); s != "" {
			bySymbol[s] = iter.Index
		}
	}
	next := func(i int) (list []int) {
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

// linux419 are the kernel's structures as 4.19 has them: pinned_vm a plain integer,
// perf's buffer a struct ring_buffer, a BPF map with a place for its user, a cgroup's id
// of two parts. The offsets mean nothing.
func linux419(t *testing.T) *btf.Spec {
	t.Helper()
	number := &btf.Int{Name: "long unsigned int", Size: 8}
	word := &btf.Int{Name: "unsigned int", Size: 4}
	signed := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	structs := map[string]*btf.Struct{}
	var all []btf.Type
	member := func(name string, t btf.Type) btf.Member { return btf.Member{Name: name, Type: t} }
	pointer := func(t btf.Type) btf.Type { return &btf.Pointer{Target: t} }
	define := func(name string, members ...btf.Member) *btf.Struct {
		s := &btf.Struct{Name: name}
		for _, m := range members {
			size, err := btf.Sizeof(m.Type)
			if err != nil {
				t.Fatal(err)
			}
			m.Offset = btf.Bits(s.Size * 8)
			s.Size += uint32(size+7) / 8 * 8
			s.Members = append(s.Members, m)
		}
		structs[name] = s
		all = append(all, s)
		return s
	}
	void := pointer(&btf.Void{})
	atomic := &btf.Typedef{Name: "atomic_t", Type: define("", member("counter", signed))}
	atomicLong := &btf.Typedef{Name: "atomic_long_t", Type: define("", member("counter", number))}
	refcount := &btf.Typedef{Name: "refcount_t", Type: define("refcount_struct", member("refs", atomic))}
	kuid := &btf.Typedef{Name: "kuid_t", Type: define("", member("val", word))}
	user := define("user_struct", member("__count", refcount), member("uid", kuid), member("locked_vm", atomicLong))
	namespace := define("user_namespace", member("level", signed))
	caps := &btf.Typedef{Name: "kernel_cap_t", Type: define("kernel_cap_struct", member("cap", &btf.Array{Index: word, Type: word, Nelems: 2}))}
	cred := define("cred", member("uid", kuid), member("cap_effective", caps), member("user", pointer(user)), member("user_ns", pointer(namespace)))
	rlimit := define("rlimit", member("rlim_cur", number), member("rlim_max", number))
	signal := define("signal_struct", member("rlim", &btf.Array{Index: word, Type: rlimit, Nelems: 16}))
	mm := define("mm_struct", member("pinned_vm", number))
	files := define("files_struct", member("fdt", pointer(define("fdtable", member("max_fds", word), member("fd", void)))))
	task := define("task_struct", member("mm", pointer(mm)), member("tgid", signed), member("cred", pointer(cred)), member("signal", pointer(signal)), member("files", pointer(files)), member("stack", void))
	define("pt_regs", member("syscallno", signed)) // of arm64
	task.Members = append(task.Members, btf.Member{Name: "real_parent", Type: pointer(task), Offset: btf.Bits(task.Size * 8)})
	task.Size += 8
	superBlock := define("super_block", member("s_magic", number))
	inode := define("inode", member("i_sb", pointer(superBlock)))
	name := define("qstr", member("name", void))
	dentry := define("dentry", member("d_name", name))
	path := define("path", member("dentry", pointer(dentry)))
	file := define("file", member("f_path", path), member("f_inode", pointer(inode)), member("f_op", void), member("private_data", void))
	define("vm_area_struct", member("vm_start", number), member("vm_end", number), member("vm_flags", number), member("vm_pgoff", number), member("vm_mm", pointer(mm)), member("vm_file", pointer(file)))
	buffer := define("ring_buffer", member("nr_pages", signed), member("mmap_count", atomic), member("mmap_locked", number), member("mmap_user", pointer(user)),
		member("aux_pgoff", number), member("aux_nr_pages", signed), member("aux_mmap_count", atomic), member("aux_mmap_locked", number), member("user_page", void))
	state := &btf.Enum{Name: "perf_event_state", Size: 4, Signed: true, Values: []btf.EnumValue{{Name: "PERF_EVENT_STATE_ACTIVE", Value: 1}}}
	define("perf_event", member("rb", pointer(buffer)), member("pmu", pointer(define("pmu", member("setup_aux", void)))), member("state", state),
		member("attr", define("perf_event_attr", member("type", word))), member("cpu", signed))

	text := &btf.Array{Index: word, Type: word, Nelems: 4}
	work := define("work_struct", member("data", number))
	kind := func(name string) btf.Type { return &btf.Enum{Name: name, Size: 4} }
	define("bpf_map", member("map_type", kind("bpf_map_type")), member("key_size", word), member("value_size", word), member("max_entries", word), member("map_flags", word),
		member("pages", word), member("id", word), member("user", pointer(user)), member("work", work), member("name", text))
	define("bpf_htab", member("buckets", void))
	define("lpm_trie", member("root", void))
	aux := define("bpf_prog_aux", member("id", word), member("prog", void), member("user", pointer(user)), member("name", text), member("rcu", define("callback_head", member("next", void))))
	define("bpf_prog", member("pages", word), member("type", kind("bpf_prog_type")), member("aux", pointer(aux)))
	id := &btf.Union{Name: "kernfs_node_id", Size: 8, Members: []btf.Member{member("id", number)}}
	group := define("cgroup", member("kn", pointer(define("kernfs_node", member("id", id)))))
	css := define("cgroup_subsys_state", member("cgroup", pointer(group)), member("parent", void))
	define("mem_cgroup", member("css", css), member("memory", define("page_counter", member("usage", atomicLong), member("max", number))))

	define("xdp_umem", member("user", pointer(user)), member("work", work))
	define("ubuf_info", member("mmp", define("mmpin", member("user", pointer(user)))))

	builder, err := btf.NewBuilder(all, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := builder.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// newer are the structures of kernels after 4.19, and their fields, that have an older
// form too or no use there: they are asked for, and not read then.
var newer = regexp.MustCompile(`^"(` + strings.Join([]string{
	"user_struct___(atomic|perf_mlock)", "perf_buffer(___refcount)?",
	`mm_struct"\[0:0:0\]`, // pinned_vm.counter
	`cred"\[0:2:0\]`,      // cap_effective.val
	`kernfs_node"\[0:0\]`, // id, a number
	"bpf_map___mem(ory|cg)", "obj_cgroup",
	`bpf_map"\[0:8\]`, // objcg
	`(bpf_htab|lpm_trie|bpf_local_storage_map)"\[0:\d:0\]`, // the allocators of elements
	"perf_event_state", // the value for a PMU that is gone
	"io_ring_ctx(___rsrc)?", "ubuf_info_msgzc",
}, "|") + `)"?`)

// Every field that is read is found in 4.19's structures, but for those that are newer.
func TestLegacyTypes(t *testing.T) {
	target := linux419(t)
	for object, spec := range legacyObjects(t) {
		seen := map[string]bool{}
		for _, p := range kprobes(spec) {
			var relocations []*btf.CORERelocation
			iter := p.Instructions.Iterate()
			for iter.Next() {
				if r := btf.CORERelocationMetadata(iter.Ins); r != nil {
					relocations = append(relocations, r)
				}
			}
			fixups, err := btf.CORERelocate(relocations, []*btf.Spec{target}, spec.ByteOrder, func(btf.Type) (btf.TypeID, error) { return 0, nil })
			if err != nil {
				t.Fatalf("%s: %s: %v", object, p.Name, err)
			}
			for i, f := range fixups {
				text := fmt.Sprint(relocations[i]) // CORERelocation(byte_off, Struct:"perf_event"[0:0], local_id=1)
				field := text[strings.Index(text, `"`):]
				poisoned := strings.Contains(fmt.Sprintf("%+v", f), "poison:true")
				seen[strings.Split(field, `"`)[1]] = true
				if poisoned && !newer.MatchString(field) {
					t.Errorf("%s: %s: %v is not in 4.19", object, p.Name, relocations[i])
				}
			}
		}
		source, _, _ := strings.Cut(object, "_")
		for _, name := range map[string][]string{
			"perf":     {"ring_buffer", "mm_struct___plain", "cred___words"},
			"objects":  {"bpf_map___pages", "bpf_prog_aux___user", "kernfs_node___parts", "cred___words"},
			"chargers": {"xdp_umem", "ubuf_info", "mm_struct___plain", "cred___words"},
		}[source] {
			if !seen[name] {
				t.Errorf("%s: nothing reads struct %s", object, name)
			}
		}
	}
}
