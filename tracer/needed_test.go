package tracer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
)

// layout is where the fields of a struct are, by name; an embedded one's too.
func layout(t btf.Type, at btf.Bits, in map[string]btf.Bits, path string) {
	s, ok := btf.UnderlyingType(t).(*btf.Struct)
	if !ok {
		if u, ok := btf.UnderlyingType(t).(*btf.Union); ok {
			for _, m := range u.Members {
				in[path+"."+m.Name] = at + m.Offset
				layout(m.Type, at+m.Offset, in, path+"."+m.Name)
			}
		}
		return
	}
	for _, m := range s.Members {
		in[path+"."+m.Name] = at + m.Offset
		layout(m.Type, at+m.Offset, in, path+"."+m.Name)
	}
}

func fields(t *testing.T, spec *btf.Spec, name string) (map[string]btf.Bits, btf.TypeID) {
	t.Helper()
	var s *btf.Struct
	if err := spec.TypeByName(name, &s); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	id, err := spec.TypeID(s)
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]btf.Bits{}
	layout(s, 0, in, "")
	return in, id
}

// What is asked for is there with its id, its fields and what is embedded in it;
// what it points to is not.
func TestNeededTypes(t *testing.T) {
	u32 := &btf.Int{Name: "unsigned int", Size: 4}
	count := &btf.Typedef{Name: "atomic_t", Type: &btf.Struct{Name: "atomic", Size: 4, Members: []btf.Member{{Name: "counter", Type: u32}}}}
	other := &btf.Struct{Name: "other", Size: 4, Members: []btf.Member{{Name: "n", Type: u32}}}
	wanted := &btf.Struct{Name: "wanted", Size: 32, Members: []btf.Member{
		{Name: "refs", Type: count, Offset: 32},
		{Name: "peer", Type: &btf.Pointer{Target: other}, Offset: 64},
		{Type: &btf.Union{Size: 8, Members: []btf.Member{{Name: "a", Type: u32}, {Name: "b", Type: &btf.Array{Index: u32, Type: count, Nelems: 2}}}}, Offset: 128},
	}}
	function := &btf.Func{Name: "perform", Type: &btf.FuncProto{Return: u32, Params: []btf.FuncParam{{Name: "first", Type: &btf.Pointer{Target: wanted}}, {Name: "second", Type: u32}}}}
	enum := &btf.Enum{Name: "choice", Size: 4, Values: []btf.EnumValue{{Name: "ONE", Value: 1}}}
	b, err := btf.NewBuilder([]btf.Type{other, wanted, function, enum, &btf.Struct{Name: "last", Size: 4}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "vmlinux")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	full, err := btf.LoadSpec(path)
	if err != nil {
		t.Fatal(err)
	}
	got, functions, err := needs{map[string]bool{"wanted": true, "perform": true, "choice": true, "last": true}, true}.read(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"wanted", "last"} {
		gotFields, gotID := fields(t, got, name)
		wantFields, wantID := fields(t, full, name)
		if gotID != wantID {
			t.Errorf("%s is type %d, want %d", name, gotID, wantID)
		}
		if diff := cmp.Diff(wantFields, gotFields); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff([]string{"first", "second"}, functions["perform"].parameters); diff != "" {
		t.Errorf("the parameters of perform (-want +got):\n%s", diff)
	}
	var e *btf.Enum
	if err := got.TypeByName("choice", &e); err != nil || len(e.Values) != 1 || e.Values[0].Name != "ONE" {
		t.Errorf("choice: %v, %v", e, err)
	}
	if _, err := got.AnyTypeByName("other"); err == nil {
		t.Error("other is there, which nobody asked for")
	}
	for n := range len(raw) {
		if err := os.WriteFile(path, raw[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			needs{map[string]bool{"wanted": true}, false}.read(dir) // an error, or not all of it; no panic
		}
	}
}

// The types of the kernel that runs the test, and of its modules, by the kernel's
// own files.
func TestNeededTypesOfThisKernel(t *testing.T) {
	full, err := btf.LoadKernelSpec()
	if err != nil {
		t.Skipf("no types of this kernel: %v", err)
	}
	names := []string{"task_struct", "mm_struct", "user_struct", "perf_event", "vm_area_struct", "bpf_map", "cred"}
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
	}
	got, _, err := needs{wanted, true}.read(filepath.Dir(kernelBTF))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		gotFields, gotID := fields(t, got, name)
		wantFields, wantID := fields(t, full, name)
		if gotID != wantID {
			t.Errorf("%s is type %d, want %d", name, gotID, wantID)
		}
		if diff := cmp.Diff(wantFields, gotFields); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
