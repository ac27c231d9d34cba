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
	spec  *btf.Spec  // nil: the kernel's own
	note  []string   // what there is to say about where they come from
	cache *btf.Cache // of the kernel's own, which take long to read
	// lacks says of functions that not every kernel has whether this one is known to
	// have none.
	lacks map[string]bool
}

// kernel are the types themselves.
func (t types) kernel() (*btf.Spec, error) {
	if t.spec != nil {
		return t.spec, nil
	}
	return t.cache.Kernel()
}

// parameters are the names of a kernel function's; none where it is not known.
func (t types) parameters(name string) (names []string) {
	kernel, err := t.kernel()
	var f *btf.Func
	if err != nil || kernel.TypeByName(name, &f) != nil {
		return nil
	}
	for _, p := range f.Type.(*btf.FuncProto).Params {
		names = append(names, p.Name)
	}
	return names
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

// kernelTypes are those of --btf FILE, else of the kernel, else of a file beside
// the kernel's image. The cache is of the kernel's own; nil: a new one.
func kernelTypes(file string, cache *btf.Cache) (types, error) {
	if cache == nil {
		cache = btf.NewCache()
	}
	if file != "" {
		spec, err := btf.LoadSpec(file)
		if err != nil {
			return types{}, fmt.Errorf("read kernel types from --btf %s: %w", file, err)
		}
		return types{spec: spec, cache: cache}, nil
	}
	if _, err := os.Stat(kernelBTF); err == nil {
		return types{cache: cache}, nil
	}
	path, spec, err := findBTF("/", release())
	if err != nil {
		return types{}, fmt.Errorf("kernel types: requires BTF (running %s without %s): boot a kernel with CONFIG_DEBUG_INFO_BTF, or name its types with --btf FILE: %w", release(), kernelBTF, err)
	}
	return types{spec: spec, note: []string{"kernel types: no " + kernelBTF + "; using " + path}, cache: cache}, nil
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
