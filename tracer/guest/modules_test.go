package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A module and what it depends on are loaded in the kernel's order, each once, packed or
// not; and what cannot be had is named.
func TestModules(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, content []byte) string {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	packed := func(content []byte, packer string) []byte {
		cmd := exec.Command(packer, "-c")
		cmd.Stdin = strings.NewReader(string(content))
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	tree := filepath.Join(dir, "6.1")
	core := put("6.1/kernel/core.ko", ModuleImage("license=GPL", "depends="))
	put("6.1/kernel/a/vfio-pci.ko.xz", packed(ModuleImage("depends=mid-dle,core"), "xz"))
	middle := put("6.1/kernel/b/mid_dle.ko.zst", packed(ModuleImage("depends=core"), "zstd"))
	put("6.1/kernel/lost.ko", ModuleImage("depends=nowhere"))
	put("6.1/kernel/none.ko", []byte("not a module"))
	own := put("own.ko", ModuleImage("depends="))
	wants := put("wants.ko", ModuleImage("depends=own,core"))
	broken := put("6.1/kernel/broken.ko.xz", []byte("not xz"))
	for name, c := range map[string]struct {
		dir   string
		asked []string
		want  []string // modules
		fails string
	}{
		"none":                  {tree, nil, nil, ""},
		"a name":                {tree, []string{"vfio_pci"}, []string{"core", "mid_dle", "vfio_pci"}, ""},
		"a name with a dash":    {tree, []string{"vfio-pci", "core"}, []string{"core", "mid_dle", "vfio_pci"}, ""},
		"a file in a directory": {tree, []string{middle}, []string{"core", "mid_dle"}, ""},
		"files":                 {"", []string{core, middle}, []string{"core", "mid_dle"}, ""},
		"files, in this order":  {"", []string{middle, core}, []string{"mid_dle", "core"}, ""},
		"files from elsewhere":  {tree, []string{own, wants}, []string{"own", "core", "wants"}, ""},
		"a name without one":    {"", []string{"core"}, nil, "module core: a name wants a directory of modules"},
		"an unknown name":       {tree, []string{"floppy"}, nil, "module floppy: none of that name below " + tree},
		"no such file":          {tree, []string{"/nowhere/a.ko"}, nil, "module: open /nowhere/a.ko: no such file"},
		"no such directory":     {"/nowhere", []string{"a"}, nil, "lstat /nowhere: no such file"},
		"an empty directory":    {t.TempDir(), []string{"a"}, nil, "no modules below it"},
		"a dependency is lost":  {tree, []string{"lost"}, nil, "module lost, which depends on nowhere: none of that name"},
		"another file":          {tree, []string{"/bin/sh"}, nil, "module /bin/sh: want a .ko, .ko.xz or .ko.zst"},
		"no module":             {tree, []string{"none"}, nil, "not a kernel module"},
		"not packed":            {tree, []string{broken}, nil, "unpack " + broken},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := Config{Modules: c.asked, ModuleDir: c.dir}.modules()
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("got %v; want %q", err, c.fails)
				}
				return
			}
			var names []string
			for _, m := range list {
				names = append(names, m.name)
			}
			if err != nil || !slices.Equal(names, c.want) {
				t.Errorf("%v, %v; want %v", names, err, c.want)
			}
		})
	}
}

// A module's parameters are those that the kernel's command line has for it, as modprobe
// reads it: by either spelling of its name.
func TestParameters(t *testing.T) {
	const line = "console=ttyS0 vfio-pci.ids=1234:11e8 vfio_pci.disable_idle_d3 known_bad.accounting=twice vfio.noiommu=1 vfio_pci\n"
	for module, want := range map[string]string{
		"vfio_pci": "ids=1234:11e8 disable_idle_d3", "known_bad": "accounting=twice", "core": "",
	} {
		if got := parametersOf(module, line); got != want {
			t.Errorf("%s: %q; want %q", module, got, want)
		}
	}
}
