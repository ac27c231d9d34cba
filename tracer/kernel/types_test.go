package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// rawBTF is a file with one type.
func rawBTF(t *testing.T) []byte {
	t.Helper()
	b, err := btf.NewBuilder([]btf.Type{&btf.Int{Name: "int", Size: 4}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// The first file in the order of the search that has types is taken; one without
// is passed over.
func TestFindBTF(t *testing.T) {
	types := rawBTF(t)
	for name, c := range map[string]struct {
		files map[string][]byte
		want  string // below the root, or a part of the error
	}{
		"beside the image":  {map[string][]byte{"boot/4.19.1.btf": types}, "boot/4.19.1.btf"},
		"the order":         {map[string][]byte{"boot/4.19.1.btf": types, "boot/vmlinux-4.19.1": types}, "boot/vmlinux-4.19.1"},
		"the modules":       {map[string][]byte{"lib/modules/4.19.1/vmlinux": types}, "lib/modules/4.19.1/vmlinux"},
		"debug symbols":     {map[string][]byte{"usr/lib/debug/boot/vmlinux-4.19.1": types}, "usr/lib/debug/boot/vmlinux-4.19.1"},
		"a broken one":      {map[string][]byte{"boot/vmlinux-4.19.1": []byte("junk"), "boot/vmlinux-4.19.1.btf": types}, "boot/vmlinux-4.19.1.btf"},
		"of another kernel": {map[string][]byte{"boot/vmlinux-4.19.2": types}, "boot/vmlinux-4.19.1,"},
		"only broken":       {map[string][]byte{"boot/4.19.1.btf": []byte("junk")}, "boot/4.19.1.btf ("},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for path, raw := range c.files {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, raw, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			path, spec, err := findBTF(root, "4.19.1")
			if err != nil {
				if !errors.Is(err, btf.ErrNotFound) || !strings.Contains(err.Error(), filepath.Join(root, c.want)) {
					t.Errorf("%v; want %q in it", err, c.want)
				}
				return
			}
			if path != filepath.Join(root, c.want) || spec == nil {
				t.Errorf("got %s; want %s", path, c.want)
			}
		})
	}
}
