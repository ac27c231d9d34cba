package tracer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// types are the running kernel's types.
type types struct {
	spec  *btf.Spec           // those that are needed; nil: all of the kernel's own
	found map[string]function // of the functions that were asked about; nil: look in the types
	note  []string            // what there is to say about where they come from
	cache *btf.Cache          // of the kernel's own, which take long to read
}

// kernel are the types themselves.
func (t types) kernel() (*btf.Spec, error) {
	if t.spec != nil {
		return t.spec, nil
	}
	return t.cache.Kernel()
}

// function is one of the kernel's; an empty one where it is not known.
func (t types) function(name string) (f function) {
	if t.found != nil {
		return t.found[name]
	}
	kernel, err := t.kernel()
	var known *btf.Func
	if err != nil || kernel.TypeByName(name, &known) != nil {
		return f
	}
	if id, err := kernel.TypeID(known); err == nil {
		f.id = uint32(id)
	}
	for _, p := range known.Type.(*btf.FuncProto).Params {
		f.parameters = append(f.parameters, p.Name)
	}
	return f
}

// parameters are the names of a kernel function's; none where it is not known.
func (t types) parameters(name string) []string { return t.function(name).parameters }

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

// kernelTypes are those of --btf FILE, else of the kernel, else of a file beside
// the kernel's image. Of the kernel's own, only what is needed is read.
func kernelTypes(file string, need needs) (types, error) {
	if file != "" {
		spec, err := btf.LoadSpec(file)
		if err != nil {
			return types{}, fmt.Errorf("read kernel types from --btf %s: %w", file, err)
		}
		return types{spec: spec, cache: btf.NewCache()}, nil
	}
	_, err := os.Stat(kernelBTF)
	if err == nil {
		// What is not understood is left to the library, which reads all.
		spec, found, err := need.read(filepath.Dir(kernelBTF))
		if err != nil {
			spec, found = nil, nil
		}
		return types{spec: spec, found: found, cache: btf.NewCache()}, nil
	}
	path, spec, err := findBTF("/", release())
	if err != nil {
		return types{}, fmt.Errorf("kernel types: requires BTF (running %s without %s): boot a kernel with CONFIG_DEBUG_INFO_BTF, or name its types with --btf FILE: %w", release(), kernelBTF, err)
	}
	return types{spec: spec, note: []string{"kernel types: no " + kernelBTF + "; using " + path}, cache: btf.NewCache()}, nil
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
