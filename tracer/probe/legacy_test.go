package probe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

const bpfDir = "../../bpf"

// layout is the kernel's types of an old kernel, as far as they are read (see
// bpf/testdata/layouts.c). Up to 5.5, every type that leads to struct ring_buffer is there
// twice, for there are two of them.
func layout(t *testing.T, version string, twice bool) *btf.Spec {
	t.Helper()
	var all []btf.Type
	for _, ftrace := range []bool{false, true}[:1+count(twice)] {
		spec, err := btf.LoadSpec(filepath.Join(bpfDir, "testdata/layouts-"+version+".o"))
		if err != nil {
			t.Fatal(err)
		}
		structs := map[string]*btf.Struct{}
		for typ, err := range spec.All() {
			if err != nil {
				t.Fatal(err)
			}
			switch typ := typ.(type) {
			case *btf.Void, *btf.Var, *btf.Datasec:
				continue
			case *btf.Struct:
				structs[typ.Name] = typ
			}
			all = append(all, typ)
		}
		perf, other := structs["ring_buffer"], structs["ring_buffer___ftrace"]
		if perf == nil || other == nil {
			t.Fatalf("%s: no two ring buffers", version)
		}
		if ftrace {
			perf.Members, perf.Size = other.Members, other.Size
		}
		other.Name = "unused"
	}
	builder, err := btf.NewBuilder(all, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := builder.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "btf")
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	spec, err := btf.LoadSpec(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ring_buffer", "perf_event", "task_struct"} {
		if types, err := spec.AnyTypesByName(name); err != nil || len(types) != 1+count(twice) {
			t.Fatalf("struct %s: %v, %v", name, types, err)
		}
	}
	return spec
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// layouts are the versions at which a structure changed that a legacy program reads.
func layouts() []string { return []string{"4.19", "5.1", "5.3", "5.5"} }

// givenToOld are the legacy programs that kernels before 5.11 are given, of both
// architectures: kprobes read the same registers of the context, as far as x86's has them.
func givenToOld(t *testing.T) map[string]*ebpf.CollectionSpec {
	t.Helper()
	specs := map[string]*ebpf.CollectionSpec{}
	for source, least := range map[string]int{"perf_legacy": 9, "objects_legacy": 9, "chargers_legacy": 30, "payers": 1} {
		for _, arch := range []string{"x86", "arm64"} {
			name := source + "_" + arch
			spec, err := ebpf.LoadCollectionSpec(filepath.Join(bpfDir, name+"_bpfel.o"))
			if err != nil {
				t.Fatal(err)
			}
			specs[name] = spec
			for program, p := range spec.Programs {
				isMemcg := source == "objects_legacy" && !slices.ContainsFunc(objectProbes(true, false, false, Kernel{}), func(p Probe) bool { return p.Program == program })
				if p.Type == ebpf.Tracing || isMemcg {
					delete(spec.Programs, program)
				}
			}
			if len(spec.Programs) < least {
				t.Fatalf("%s: %d programs", name, len(spec.Programs))
			}
		}
	}
	return specs
}

// symbols are the kernel's variables that a version has; the verifier minds only whether
// they are there.
func symbols(version string) map[string]uint64 {
	list := map[string]uint64{}
	for _, name := range []string{"sysctl_perf_event_mlock", "sysctl_perf_event_paranoid", "__cpu_online_mask", "nr_cpu_ids",
		"bpf_map_fops", "bpf_prog_fops", "__per_cpu_offset", "__sched_text_start", "__sched_text_end"} {
		list[name] = 0xffffffff81000000
	}
	if !strings.HasPrefix(version, "4.") && version < "5.4" {
		return list
	}
	list["__num_online_cpus"] = 0xffffffff81000000
	return list
}

// load has the verifier read every program of a source, fitted to a kernel's types.
func load(source *ebpf.CollectionSpec, types *btf.Spec, symbols map[string]uint64) error {
	var probes []Probe
	source = source.Copy()
	for name, p := range source.Programs {
		setSymbols(p, symbols)
		probes = append(probes, Probe{Program: name})
	}
	set, err := Load(source, probes, Kernel{Types: kernel.Types{File: types}}, nil)
	set.Close()
	return err
}

// Before 5.11 BPF objects are charged to their users, and the types tell: whether their
// names are there once or twice.
func TestOldKernelsChargeUsers(t *testing.T) {
	for _, version := range layouts() {
		for _, twice := range []bool{false, true} {
			k := Kernel{Types: kernel.Types{File: layout(t, version, twice)}}
			if users, err := k.ChargesBPFToUsers(); err != nil || !users {
				t.Errorf("%s, twice %v: %v, %v", version, twice, users, err)
			}
		}
	}
}

// A ring's end is where the kernel gives back what it was charged.
func TestRingsEnd(t *testing.T) {
	chargers, err := bpf.LoadChargersLegacy()
	if err != nil {
		t.Fatal(err)
	}
	k := Kernel{Types: kernel.Types{File: layout(t, "5.3", true)}, Absent: map[string]bool{"io_buffer_unmap": true, "io_ring_exit_work": true}}
	ends := func() (symbols []string) {
		for _, p := range Chargers(chargers, k) {
			if strings.HasPrefix(p.Symbol, "io_") && !k.lacks(p) {
				symbols = append(symbols, State{Symbol: p.Symbol, Return: p.ret}.String())
			}
		}
		return symbols
	}
	if got := ends(); !slices.Contains(got, "io_uring_release") || !slices.Contains(got, "the return of io_uring_release") {
		t.Errorf("5.3: %q", got)
	}
	k.File = layout(t, "4.19", false) // no rings, and so none that knows whether it is charged
	if got := ends(); slices.Contains(got, "the return of io_uring_release") {
		t.Errorf("a kernel whose rings do not know it: %q", got)
	}
}

// Every program for old kernels is loaded against the structures of each. A relocation for
// which a kernel has no field is poisoned, and the verifier refuses what can come to it.
func TestLegacyProgramsLoad(t *testing.T) {
	defer kernel.LiftMemlock()()
	sources := givenToOld(t)
	for _, version := range layouts() {
		for _, twice := range []bool{false, true} {
			types := layout(t, version, twice)
			for name, source := range sources {
				t.Run(fmt.Sprintf("%s/%s/twice=%v", version, name, twice), func(t *testing.T) {
					err := load(source, types, symbols(version))
					if errors.Is(err, unix.EPERM) && !kernel.HasCapability(unix.CAP_SYS_ADMIN) {
						t.Skipf("needs CAP_SYS_ADMIN: %v", err)
					}
					if err != nil {
						t.Errorf("%+v", err)
					}
				})
			}
		}
	}
}
