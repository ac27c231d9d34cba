package check

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// writeTypes writes a file with types.
func writeTypes(t *testing.T, path string, types ...btf.Type) {
	t.Helper()
	b, err := btf.NewBuilder(append(types, &btf.Int{Name: "int", Size: 4}), nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, raw)
}

func write(t *testing.T, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// bzImage is as much of one as is read before it is booted: the release, and a payload,
// which is a vmlinux without types.
func bzImage(t *testing.T, release string) []byte {
	t.Helper()
	const sectors = 1
	raw := make([]byte, (sectors+1)*512)
	raw[setupSectors] = sectors
	copy(raw[bootMagic:], "HdrS")
	binary.LittleEndian.PutUint16(raw[kernelVersion:], 0x100)
	copy(raw[0x300:], release+" (root@host) #1 SMP\x00")
	var payload bytes.Buffer
	z := gzip.NewWriter(&payload)
	z.Write(emptyELF())
	z.Close()
	binary.LittleEndian.PutUint32(raw[payloadOffset:], 16)
	binary.LittleEndian.PutUint32(raw[payloadLength:], uint32(payload.Len()+4))
	raw = append(raw, make([]byte, 16)...)
	raw = append(raw, payload.Bytes()...)
	return append(raw, 1, 2, 3, 4)
}

// emptyELF is one without sections.
func emptyELF() []byte {
	raw := make([]byte, 64)
	copy(raw, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(raw[16:], 2)
	binary.LittleEndian.PutUint16(raw[18:], 62)
	binary.LittleEndian.PutUint32(raw[20:], 1)
	binary.LittleEndian.PutUint16(raw[52:], 64)
	return raw
}

// vmlinux is as much of one: the release in its banner, and no types.
func vmlinux(release string) []byte {
	const names = "\x00.rodata\x00.shstrtab\x00"
	banner := "Linux version " + release + " (root@host) #1 SMP\n\x00"
	raw := append(append(emptyELF(), banner...), names...)
	binary.LittleEndian.PutUint64(raw[40:], uint64(len(raw)))
	binary.LittleEndian.PutUint16(raw[58:], 64)
	binary.LittleEndian.PutUint16(raw[60:], 3)
	binary.LittleEndian.PutUint16(raw[62:], 2)
	section := func(name, kind uint32, at, size int) {
		header := make([]byte, 64)
		binary.LittleEndian.PutUint32(header, name)
		binary.LittleEndian.PutUint32(header[4:], kind)
		binary.LittleEndian.PutUint64(header[24:], uint64(at))
		binary.LittleEndian.PutUint64(header[32:], uint64(size))
		raw = append(raw, header...)
	}
	section(0, 0, 0, 0)
	section(1, 1, 64, len(banner))
	section(9, 3, 64+len(banner), len(names))
	return raw
}

// Each kernel gets its own types: by its image's name or its release, in a directory or
// by KERNEL=FILE. What cannot be found is an error where the image shows that it is
// needed, and before anything is booted.
func TestTypesOf(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"types", "old", "new"} {
		if err := os.Mkdir(in(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, in("old/bzImage"), bzImage(t, "4.19.72"))
	write(t, in("new/bzImage-5.3"), bzImage(t, "5.3.1-custom"))
	write(t, in("new/bzImage-6.1"), bzImage(t, "6.1.1"))
	write(t, in("new/vmlinux"), vmlinux("5.3.2"))
	writeTypes(t, in("types/5.3.2.btf"))
	write(t, in("vmlinuz-5.10"), append(bzImage(t, "5.10.1")[:1024], "not compressed by gzip"...))
	writeTypes(t, in("types/vmlinux-4.19.72"))
	writeTypes(t, in("types/5.3.btf"))
	write(t, in("types/6.1.1.btf"), []byte("none"))
	writeTypes(t, in("one"))
	for _, c := range []struct {
		name  string
		given []string
		image string
		file  string
		words string // in the note or the error
		fails bool
	}{
		{"by the release", []string{in("types")}, "old/bzImage", "types/vmlinux-4.19.72", "", false},
		{"by the release in a vmlinux", []string{in("types")}, "new/vmlinux", "types/5.3.2.btf", "", false},
		{"by the name", []string{in("types")}, "new/bzImage-5.3", "types/5.3.btf", "", false},
		{"none, and the image has none", []string{in("types")}, "new/bzImage-6.1", "", "6.1.1.btf (no types)", true},
		{"none, and whether the image has some is not known", []string{in("types")}, "vmlinuz-5.10", "", "tried " + in("types/5.10.1.btf"), false},
		{"one file", []string{in("one")}, "old/bzImage", "one", "", false},
		{"named by the image", []string{in("old/bzImage") + "=" + in("one")}, "old/bzImage", "one", "", false},
		{"named by the release", []string{"4.19.72=" + in("one")}, "old/bzImage", "one", "", false},
		{"named, before the directory", []string{in("types"), "5.3=" + in("one")}, "new/bzImage-5.3", "one", "", false},
		{"another is named", []string{"5.3=" + in("one")}, "old/bzImage", "", "no file of --btf is for it: add one", true},
		{"a file without types", []string{in("types/6.1.1.btf")}, "new/bzImage-6.1", "", "6.1.1.btf", true},
		{"no such file", []string{in("nowhere")}, "new/bzImage-6.1", "", "nowhere", true},
		{"none given", nil, "new/bzImage-6.1", "", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := Guests{BTF: c.given}
			file, note, err := g.types(in(c.image))
			if want := c.file; want != "" && file != in(want) || want == "" && file != "" {
				t.Errorf("got %q; want %q", file, want)
			}
			if (err != nil) != c.fails {
				t.Errorf("error %v", err)
			}
			if err != nil {
				note = err.Error()
			}
			if !strings.Contains(note, c.words) || c.words == "" && note != "" {
				t.Errorf("no %q in %q", c.words, note)
			}
		})
	}
	images := []string{in("old/bzImage"), in("new/bzImage-5.3")}
	for _, c := range []struct {
		given []string
		wrong string
	}{
		{[]string{in("types")}, ""},
		{[]string{"4.19.72=" + in("one"), in("new/bzImage-5.3") + "=" + in("one")}, ""},
		{[]string{in("one")}, "one file is not for several kernels"},
		{[]string{"4.18=" + in("one")}, "no kernel of that name"},
	} {
		err := (&Guests{BTF: c.given, Kernels: images}).CheckTypes()
		if (err != nil) != (c.wrong != "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%q: %v; want %q", c.given, err, c.wrong)
		}
	}
	if err := (&Guests{BTF: []string{in("one")}, Kernels: images[:1]}).CheckTypes(); err != nil {
		t.Errorf("one file for one kernel: %v", err)
	}
}

// The last line of a reproduction has all that it takes, and a shell makes of it what it
// was made of.
func TestAgain(t *testing.T) {
	g := Guests{Flags: []string{"--append", "known_bad.accounting=cumulative quiet", "--cpus", "2", "--binary-arm64", "it's"}}
	k := Kernel{Image: "my kernels/bzImage", Scenarios: []Scenario{{Name: "map-twice", Evidence: Evidence{Reproduce: []string{"calls", ""}}}, {Name: "fine"}}}
	g.again(&k, "types/4.19.btf")
	line := k.Scenarios[0].Evidence.Reproduce[1]
	out, err := exec.Command("sh", "-c", `pinwatch() { printf '%s\n' "$@"; }; `+line).Output()
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	want := slices.Concat([]string{"check", "--kernel", "my kernels/bzImage", "--btf", "types/4.19.btf"}, g.Flags, []string{"--scenario", "map-twice"})
	if got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n"); !slices.Equal(got, want) {
		t.Errorf("%s\ngot  %q\nwant %q", line, got, want)
	}
	if len(k.Scenarios[1].Evidence.Reproduce) != 0 {
		t.Error("what passes needs no reproduction")
	}
}
