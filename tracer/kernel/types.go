package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// Types are the running kernel's types.
type Types struct {
	File  *btf.Spec  // read from a file; nil: they are the kernel's own
	Note  string     // where they come from, if from a file that nobody named
	Cache *btf.Cache // of the kernel's own, which take long to read
}

// Spec is the types themselves.
func (t Types) Spec() (*btf.Spec, error) {
	if t.File != nil {
		return t.File, nil
	}
	if t.Cache == nil {
		return nil, fmt.Errorf("kernel types: none were read: %w", btf.ErrNotFound)
	}
	return t.Cache.Kernel()
}

// Parameters are the names of a kernel function's parameters; none where the
// function is not known.
func (t Types) Parameters(name string) (names []string) {
	kernel, err := t.Spec()
	if err != nil {
		return nil
	}
	types, _ := kernel.AnyTypesByName(name) // none where it is not known
	for _, t := range types {
		if f, ok := t.(*btf.Func); ok {
			for _, p := range f.Type.(*btf.FuncProto).Params {
				names = append(names, p.Name)
			}
			return names
		}
	}
	return nil
}

// Member finds a field of a field of a structure, in anonymous members too: how many
// bytes from the structure's beginning it is, and its type. Old kernels have many
// structures twice, which differ in nothing but in what their pointers lead to; the first
// that has the field is taken.
func Member(types *btf.Spec, structure string, fields ...string) (offset uint32, t btf.Type, err error) {
	candidates, err := types.AnyTypesByName(structure)
	if err != nil {
		return 0, nil, fmt.Errorf("struct %s: %w", structure, err)
	}
	for _, c := range candidates {
		if s, ok := c.(*btf.Struct); ok {
			if offset, t, ok := follow(s, fields); ok {
				return offset, t, nil
			}
		}
	}
	return 0, nil, fmt.Errorf("struct %s has no %s: %w", structure, strings.Join(fields, "."), btf.ErrNotFound)
}

// HasMember reports whether a structure has a field.
func HasMember(types *btf.Spec, structure string, fields ...string) bool {
	_, _, err := Member(types, structure, fields...)
	return err == nil
}

func follow(t btf.Type, fields []string) (offset uint32, end btf.Type, ok bool) {
	for _, name := range fields {
		m, at, ok := findMember(t, name)
		if !ok {
			return 0, nil, false
		}
		offset += at
		t = btf.UnderlyingType(m.Type)
	}
	return offset, t, true
}

// findMember looks into anonymous members, too. The offset is in bytes.
func findMember(t btf.Type, name string) (found btf.Member, offset uint32, ok bool) {
	var members []btf.Member
	switch t := t.(type) {
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
	}
	for _, m := range members {
		if m.Name == name {
			return m, m.Offset.Bytes(), true
		}
		if m.Name == "" {
			if found, at, ok := findMember(btf.UnderlyingType(m.Type), name); ok {
				return found, m.Offset.Bytes() + at, true
			}
		}
	}
	return found, 0, false
}

const kernelBTF = "/sys/kernel/btf/vmlinux"

// detachedBTF are the files that may hold the types of a kernel that carries none,
// in the order of the search: raw BTF, or the uncompressed kernel with a .BTF
// section. %s is the kernel's release.
var detachedBTF = []string{
	"/boot/vmlinux-%s",
	"/boot/vmlinux-%s.btf",
	"/boot/%s.btf",
	"/lib/modules/%s/vmlinux",
	"/lib/modules/%s/vmlinux.btf",
	"/lib/modules/%s/build/vmlinux",
	"/usr/lib/debug/boot/vmlinux-%s",
	"/usr/lib/debug/boot/vmlinux-%s.debug",
	"/usr/lib/debug/boot/vmlinux-%s.btf",
	"/usr/lib/debug/lib/modules/%s/vmlinux",
}

// TypedReads is the kernel function without which BPF programs read the kernel's
// structures by a helper: see kernel_read() in bpf/kernel.h.
const TypedReads = "bpf_rdonly_cast"

// HaveTypedReads reports whether the function is there and can be called: that takes
// the JIT, and the kernel's own numbers of types.
func (t Types) HaveTypedReads() bool {
	return t.File == nil && len(t.Parameters(TypedReads)) > 0 && jit()
}

// jit reports whether programs are compiled, without which they call no kernel function.
func jit() bool {
	enabled, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable")
	return err != nil || strings.TrimSpace(string(enabled)) != "0" // not all may read it
}

// hasFunctions reports whether all of these are known.
func (t Types) hasFunctions(names ...string) bool {
	spec, err := t.Spec()
	if err != nil {
		return false
	}
	for _, name := range names {
		var f *btf.Func
		if spec.TypeByName(name, &f) != nil {
			return false
		}
	}
	return true
}

// HaveSessions reports whether kprobes can be sessions: see KprobeSessions. Programs ask the
// kernel which end of a function they are at, as they do for typed reads.
func (t Types) HaveSessions() bool {
	return t.File == nil && t.hasFunctions("bpf_session_is_return", "register_fprobe_ips") && jit()
}

// FollowsAllReturns reports whether a session follows any number of returns at once: since
// 6.14 (4346ba160409) the function graph tracer keeps them with the task.
func (t Types) FollowsAllReturns() bool {
	spec, err := t.Spec()
	return err == nil && HasMember(spec, "fprobe", "hlist_array")
}

// HasStaticFunctions reports whether the types describe static functions. Those of
// kernels before 5.16, or thereabouts, do not, and there perf_mmap() cannot be
// probed.
func (t Types) HasStaticFunctions() bool { return len(t.Parameters("perf_mmap")) > 0 }

// LoadTypes returns those of a file (--btf), else of the kernel, else of a file
// beside the kernel's image. The cache is of the kernel's own; nil: a new one.
func LoadTypes(file string, cache *btf.Cache) (Types, error) {
	if cache == nil {
		cache = btf.NewCache()
	}
	if file != "" {
		spec, err := btf.LoadSpec(file)
		if err != nil {
			return Types{}, fmt.Errorf("read kernel types from --btf %s: %w", file, err)
		}
		return Types{File: spec, Cache: cache}, nil
	}
	if _, err := os.Stat(kernelBTF); err == nil {
		return Types{Cache: cache}, nil
	}
	path, spec, err := findBTF("/", Release())
	if err != nil {
		return Types{}, fmt.Errorf("kernel types: requires BTF (running %s without %s): boot a kernel with CONFIG_DEBUG_INFO_BTF, or name its types with --btf FILE: %w", Release(), kernelBTF, err)
	}
	return Types{File: spec, Note: "kernel types: no " + kernelBTF + "; using " + path, Cache: cache}, nil
}

// findBTF looks for the types of a release below root. A file without types, such
// as a vmlinux without the section, is passed over, and named if there is no
// other.
func findBTF(root, release string) (path string, spec *btf.Spec, err error) {
	var tried []string
	for _, pattern := range detachedBTF {
		path := filepath.Join(root, fmt.Sprintf(pattern, release))
		spec, err := btf.LoadSpec(path)
		switch {
		case err == nil:
			return path, spec, nil
		case errors.Is(err, os.ErrNotExist):
			tried = append(tried, path)
		default:
			tried = append(tried, fmt.Sprintf("%s (%v)", path, err))
		}
	}
	return "", nil, fmt.Errorf("%w: tried %s", btf.ErrNotFound, strings.Join(tried, ", "))
}
