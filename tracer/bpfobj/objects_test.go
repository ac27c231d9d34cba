package bpfobj

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

func TestParseFdinfo(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want descriptor
		ok   bool
	}{
		"map": {"pos:\t0\nflags:\t02000002\nmnt_id:\t15\nmap_type:\t6\nkey_size:\t4\nvalue_size:\t8\nmax_entries:\t1024\nmap_flags:\t0x1\nmap_extra:\t0x0\nmemlock:\t24888\nmap_id:\t7\nfrozen:\t0\n",
			descriptor{object: Object{Kind: KindMap, ID: 7, Type: "percpu_array", KeySize: 4, ValueSize: 8, MaxEntries: 1024, Flags: 1, Memlock: 24888}}, true},
		"prog": {"pos:\t0\nprog_type:\t2\nprog_jited:\t1\nprog_tag:\t2f1c0b1f9b9e7a31\nmemlock:\t4096\nprog_id:\t12\nrun_time_ns:\t0\n",
			descriptor{object: Object{Kind: KindProgram, ID: 12, Type: "kprobe", Memlock: 4096}}, true},
		"BTF":      {"pos:\t0\nbtf_id:\t3\n", descriptor{}, false},
		"a file":   {"pos:\t0\nflags:\t0100000\n", descriptor{}, false},
		"nothing":  {"", descriptor{}, false},
		"nonsense": {"map_id:\tseven\n", descriptor{}, false},
	} {
		got, ok := parseFdinfo(c.text)
		if ok != c.ok {
			t.Errorf("%s: %v; want %v", name, ok, c.ok)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(descriptor{})); ok && diff != "" {
			t.Errorf("%s: want - got +\n%s", name, diff)
		}
	}
}

func TestBPFMounts(t *testing.T) {
	got := bpfMounts("22 1 0:20 / /proc rw - proc proc rw\n" +
		"35 24 0:30 / /sys/fs/bpf rw,nosuid shared:11 - bpf bpf rw,mode=700\n" +
		"36 24 0:31 / /run/my\\040pins rw - bpf none rw\n37 24 0:32 / /bpf rw - tmpfs bpf rw\n")
	if diff := cmp.Diff([]string{"/sys/fs/bpf", "/run/my pins"}, got); diff != "" {
		t.Error(diff)
	}
}

// The names are the kernel's: of its own types, where it has them.
func TestTypeNames(t *testing.T) {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		t.Skipf("this kernel does not tell its types: %v", err)
	}
	for _, c := range []struct {
		enum, prefix string
		name         func(uint32) string
	}{{"bpf_map_type", "BPF_MAP_TYPE_", MapType}, {"bpf_prog_type", "BPF_PROG_TYPE_", ProgramType}} {
		var enum *btf.Enum
		if err := types.TypeByName(c.enum, &enum); err != nil {
			t.Fatal(err)
		}
		named := map[uint64]string{}
		for _, v := range enum.Values {
			// A deprecated name may share its value with the current one.
			named[v.Value] += " " + strings.ToLower(strings.TrimPrefix(v.Name, c.prefix)) + " "
		}
		for value, names := range named {
			got := c.name(uint32(value))
			if !strings.Contains(names, " "+got+" ") && !strings.Contains(names, "__max") {
				t.Errorf("%s %d: %s; the kernel says%s", c.enum, value, got, names)
			}
		}
	}
	if got := MapType(4711); got != "type 4711" {
		t.Errorf("a type of the future: %q", got)
	}
}

// The payer is found by fields: these are the layouts of three eras, with
// unlike offsets.
func TestFindPayerPath(t *testing.T) {
	u32, u64 := &btf.Int{Name: "u32", Size: 4}, &btf.Int{Name: "u64", Size: 8}
	structure := func(name string, size uint32, members ...btf.Member) *btf.Struct {
		return &btf.Struct{Name: name, Size: size, Members: members}
	}
	at := func(bytes uint32, name string, t btf.Type) btf.Member {
		return btf.Member{Name: name, Offset: btf.Bits(bytes * 8), Type: t}
	}
	to := func(t btf.Type) btf.Type { return &btf.Pointer{Target: t} }
	ref := structure("percpu_ref", 16, at(0, "percpu_count_ptr", u64))
	node := structure("kernfs_node", 128, at(96, "id", u64))
	group := structure("cgroup", 256, at(200, "kn", to(node)))
	memcg := structure("mem_cgroup", 512, at(8, "css", structure("cgroup_subsys_state", 64, at(4, "refcnt", ref), at(16, "cgroup", to(group)))))
	objcg := structure("obj_cgroup", 64, at(0, "refcnt", ref), at(16, "memcg", to(memcg)))
	user := structure("user_struct", 64, at(24, "uid", &btf.Typedef{Name: "kuid_t", Type: structure("", 4, at(0, "val", u32))}))
	for name, c := range map[string]struct {
		bpfMap *btf.Struct
		want   payerPath
	}{
		"5.10": {structure("bpf_map", 256, at(48, "id", u32), at(64, "memory", structure("bpf_map_memory", 16, at(0, "pages", u32), at(8, "user", to(user))))),
			payerPath{kernel.BPFRlimit, chain{{72, 8}, {24, 4}}, nil}},
		"5.11": {structure("bpf_map", 256, at(48, "id", u32), at(80, "memcg", to(memcg))),
			payerPath{kernel.BPFMemcg, chain{{80, 8}, {24, 8}, {200, 8}, {96, 8}}, chain{{80, 8}, {12, 8}}}},
		"6.0, in an anonymous union": {structure("bpf_map", 256, at(48, "id", u32), at(104, "", &btf.Union{Size: 8, Members: []btf.Member{at(0, "objcg", to(objcg))}})),
			payerPath{kernel.BPFMemcg, chain{{104, 8}, {16, 8}, {24, 8}, {200, 8}, {96, 8}}, chain{{104, 8}, {0, 8}}}},
	} {
		builder, err := btf.NewBuilder([]btf.Type{c.bpfMap}, nil)
		if err != nil {
			t.Fatal(err)
		}
		spec, err := builder.Spec()
		if err != nil {
			t.Fatal(err)
		}
		got, err := findPayerPath(spec)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(payerPath{}, step{})); diff != "" {
			t.Errorf("%s: want - got +\n%s", name, diff)
		}
		if _, err := iterator("bpf_map", []chain{got.steps, got.state}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
