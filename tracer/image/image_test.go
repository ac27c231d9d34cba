package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/blakesmith/ar"
	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// kernel is as much of a bzImage as tells that it is one, with something that is its own.
func kernel(own string) []byte {
	return append(padded(append(make([]byte, 0x202), "HdrS"...)), own...)
}

func padded(image []byte) []byte { return append(image, make([]byte, 1024-len(image))...) }

// arm64 is the same of an Image.
func arm64(own string) []byte {
	image := padded([]byte("MZ"))
	copy(image[0x38:], "ARM\x64")
	return append(image, own...)
}

// whole is a vmlinux, with or without the note by which QEMU starts it.
func whole(note uint32) []byte {
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Ehsize: 64, Phoff: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	var notes, b bytes.Buffer
	for _, part := range []any{[3]uint32{4, 3, 6}, "Xen\x00abc\x00", [3]uint32{4, 4, note}, "Xen\x00entr"} {
		if text, ok := part.(string); ok {
			notes.WriteString(text)
		} else {
			binary.Write(&notes, binary.LittleEndian, part)
		}
	}
	binary.Write(&b, binary.LittleEndian, header)
	binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: 120, Filesz: uint64(notes.Len())})
	b.Write(notes.Bytes())
	return padded(b.Bytes())
}

// zbootOf is an EFI zboot image with something packed in it.
func zbootOf(method string, packed []byte) []byte {
	head := make([]byte, 4096)
	copy(head, "MZ\x00\x00zimg")
	binary.LittleEndian.PutUint32(head[8:], uint32(len(head)))
	binary.LittleEndian.PutUint32(head[12:], uint32(len(packed)))
	copy(head[24:], method)
	return append(append(head, packed...), "what follows"...)
}

// file is one in a package. Without a content it is a link.
type file struct {
	name    string
	content []byte
}

// pack packs in a way that a package may be packed.
func pack(t *testing.T, way string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := io.WriteCloser(nil)
	var err error
	switch way {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "xz":
		w, err = xz.NewWriter(&b)
	case "zstd":
		w, err = zstd.NewWriter(&b)
	default:
		return content
	}
	if err == nil {
		_, err = w.Write(content)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tarOf(t *testing.T, files []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		header := tar.Header{Name: f.name, Typeflag: tar.TypeReg, Size: int64(len(f.content)), Mode: 0o644}
		if f.content == nil {
			header.Typeflag, header.Linkname = tar.TypeSymlink, "nowhere"
		}
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		w.Write(f.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// debOf is a package of Debian's.
func debOf(t *testing.T, way string, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := ar.NewWriter(&b)
	w.WriteGlobalHeader()
	for _, member := range []file{{"debian-binary", []byte("2.0\n")}, {"control.tar.xz", []byte("odd")}, {"data.tar." + way, pack(t, way, tarOf(t, files))}} {
		if err := w.WriteHeader(&ar.Header{Name: member.name, Size: int64(len(member.content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(member.content); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// rpmOf is a package of RPM's: its headers say nothing.
func rpmOf(t *testing.T, way string, files ...file) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	for _, f := range files {
		mode := cpio.FileMode(cpio.TypeReg | 0o644)
		if f.content == nil {
			mode, f.content = cpio.TypeSymlink|0o777, []byte("nowhere")
		}
		if err := w.WriteHeader(&cpio.Header{Name: f.name, Mode: mode, Size: int64(len(f.content))}); err != nil {
			t.Fatal(err)
		}
		w.Write(f.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b := append([]byte("\xed\xab\xee\xdb"), make([]byte, 92)...)
	for _, data := range []int{3, 3} {
		head := append([]byte("\x8e\xad\xe8\x01"), make([]byte, 12)...)
		binary.BigEndian.PutUint32(head[8:], 1)
		binary.BigEndian.PutUint32(head[12:], uint32(data))
		b = append(append(b, head...), make([]byte, 16+data)...)
		if len(b)%8 != 0 && len(b) < 96+40 {
			b = append(b, make([]byte, 8-len(b)%8)...)
		}
	}
	return append(b, pack(t, way, archive.Bytes())...)
}

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, content, 0o644)); err != nil {
		t.Fatal(err)
	}
	return name
}

// store is one with an empty cache, and what it says.
func store(t *testing.T) (s Store, said *[]string) {
	said = new([]string)
	return Store{Dir: filepath.Join(t.TempDir(), "cache"), Done: func(_, state string) { *said = append(*said, state) }}, said
}

// left are the files of a cache that were begun.
func left(t *testing.T, s Store) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.Dir, ".part-*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// forms are files with a kernel in them, with its name and its content; "": the file is
// booted as it is.
func forms(t *testing.T) map[string]struct {
	content []byte
	name    string
	kernel  []byte
} {
	x86, own := kernel("6.1"), arm64("6.12")
	return map[string]struct {
		content []byte
		name    string
		kernel  []byte
	}{
		"bzImage":          {x86, "", x86},
		"Image":            {own, "", own},
		"vmlinux":          {whole(18), "", whole(18)},
		"Image.gz":         {pack(t, "gzip", own), "Image", own},
		"vmlinuz.efi":      {zbootOf("gzip", append(pack(t, "gzip", own), 1, 2, 3, 4)), "vmlinuz", own},
		"vmlinuz-zstd.efi": {zbootOf("zstd22", append(pack(t, "zstd", own), 1, 2, 3, 4)), "vmlinuz-zstd", own},
		"xz.deb":           {debOf(t, "xz", file{"./boot/config-6.1", []byte("y")}, file{"./boot/vmlinuz-6.1", x86}), "vmlinuz-6.1", x86},
		"zstd.deb":         {debOf(t, "zstd", file{"usr/lib/modules/6.1.0-cloud/vmlinuz.unsigned", x86}), "vmlinuz-6.1.0-cloud", x86},
		"gzip.deb":         {debOf(t, "gzip", file{"boot/vmlinuz", nil}, file{"boot/vmlinuz-6.1", x86}), "vmlinuz-6.1", x86},
		"plain.deb":        {debOf(t, "", file{"boot/vmlinux-6.1", whole(6)}, file{"boot/vmlinuz-6.1", x86}), "vmlinuz-6.1", x86},
		"arm64.deb":        {debOf(t, "xz", file{"boot/vmlinuz-6.12", zbootOf("gzip", pack(t, "gzip", own))}), "vmlinuz-6.12", own},
		"zstd.rpm":         {rpmOf(t, "zstd", file{"./lib/modules/6.1.fc40/vmlinuz", x86}), "vmlinuz-6.1.fc40", x86},
		"xz.rpm":           {rpmOf(t, "xz", file{"./boot/vmlinuz", nil}, file{"./boot/vmlinuz-6.1", x86}), "vmlinuz-6.1", x86},
		"whole.rpm":        {rpmOf(t, "gzip", file{"./boot/vmlinux-6.1", whole(18)}), "vmlinux-6.1", whole(18)},
	}
}

// Every file that holds a kernel comes to that, on this machine and by HTTP.
func TestFiles(t *testing.T) {
	t.Parallel()
	all := forms(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(all[filepath.Base(r.URL.Path)].content) }))
	defer server.Close()
	for name, form := range all {
		dir := t.TempDir()
		for _, ref := range []string{write(t, filepath.Join(dir, name), form.content), server.URL + "/kernels/" + name} {
			t.Run(ref, func(t *testing.T) {
				s, _ := store(t)
				got, err := s.Get(t.Context(), ref)
				if err != nil {
					t.Fatal(err)
				}
				want := form.name
				if want == "" {
					want = name
				}
				if raw, err := os.ReadFile(got); err != nil || !bytes.Equal(raw, form.kernel) || filepath.Base(got) != want {
					t.Errorf("%s with %d bytes, %v; want %s with %d", got, len(raw), err, want, len(form.kernel))
				}
				if asIs := got == ref; asIs != (form.name == "" && !strings.HasPrefix(ref, "http")) {
					t.Errorf("%s for %s", got, ref)
				}
				if parts := left(t, s); len(parts) > 0 {
					t.Error(parts)
				}
			})
		}
	}
}

// What QEMU cannot boot is told by its name, with what is wrong and what to do, and leaves
// nothing.
func TestBroken(t *testing.T) {
	t.Parallel()
	x86, own := kernel("6.1"), arm64("6.12")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/short") {
			w.Header().Set("Content-Length", "999999")
			w.Write(x86)
			return
		}
		http.NotFound(w, r)
	}))
	defer server.Close()
	cut := func(raw []byte) []byte { return raw[:len(raw)*2/3] }
	big := bytes.Repeat(x86, 100)
	for name, c := range map[string]struct {
		content []byte
		ref     string // "": a file with the content
		words   string
	}{
		"nothing":     {nil, "nowhere/at/all", "no such file: want a file, a tree in which a kernel was built, a .deb or .rpm, an http:// or https:// URL, or oci://HOST/NAME:TAG"},
		"text":        {padded([]byte("text")), "", "neither an x86 bzImage or vmlinux nor an arm64 Image, and no .deb or .rpm"},
		"short":       {[]byte("text"), "", "too short for a kernel"},
		"noPVH":       {whole(17), "", "a vmlinux without PVH (CONFIG_PVH), which QEMU cannot start: name its bzImage"},
		"gone":        {nil, server.URL + "/gone", "answers 404 Not Found: want a kernel or a package there"},
		"half":        {nil, server.URL + "/short", "damaged: it ends early"},
		"refused":     {nil, "http://127.0.0.1:1/vmlinuz", "http://127.0.0.1:1/vmlinuz: dial tcp 127.0.0.1:1: connect: connection refused"},
		"scheme":      {nil, "ftp://127.0.0.1/vmlinuz", "no way to fetch from ftp://: want a file"},
		"headers.deb": {debOf(t, "xz", file{"usr/src/linux/Makefile", []byte("all:")}), "", "no kernel in it: looked for boot/vmlinuz*, modules/*/vmlinuz* and boot/vmlinux*; packages that have one are called linux-image-*"},
		"debug.deb":   {debOf(t, "xz", file{"boot/vmlinux-6.1", whole(17)}), "", "boot/vmlinux-6.1 in it: a vmlinux without PVH"},
		"odd.deb":     {debOf(t, "xz", file{"boot/vmlinuz-6.1", padded([]byte("odd"))}), "", "boot/vmlinuz-6.1 in it: neither an x86 bzImage"},
		"cut.deb":     {cut(debOf(t, "xz", file{"boot/vmlinuz-6.1", big})), "", "damaged: "},
		"cut.rpm":     {cut(rpmOf(t, "gzip", file{"boot/vmlinuz-6.1", big})), "", "damaged: "},
		"empty.rpm":   {rpmOf(t, "gzip")[:100], "", "damaged: it ends early"},
		"lz4.efi":     {zbootOf("lz4", own), "", `an EFI zboot image packed by "lz4": want gzip or zstd; or name the Image it was made of`},
		"cut.efi":     {zbootOf("gzip", cut(pack(t, "gzip", big))), "", "damaged: it ends early"},
		"odd.gz":      {pack(t, "gzip", padded([]byte("odd"))), "", "neither an x86 bzImage"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := store(t)
			ref := c.ref
			if ref == "" {
				ref = write(t, filepath.Join(t.TempDir(), name), c.content)
			}
			got, err := s.Get(t.Context(), ref)
			var own *Error
			if got != "" || !errors.As(err, &own) || !strings.HasPrefix(err.Error(), "kernel image "+ref+": ") || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%q, %v; want %q", got, err, c.words)
			}
			if files, _ := filepath.Glob(filepath.Join(s.Dir, "*")); len(files)+len(left(t, s)) > 0 {
				t.Errorf("left in the cache: %v %v", files, left(t, s))
			}
		})
	}
}

// Of a build tree the image that was built last is booted. An old bzImage beside a new vmlinux is
// not what was built.
func TestTree(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		name  string
		files []string // from the oldest to the newest
		want  string
		words string
	}{
		{"x86", []string{"vmlinux", "arch/x86/boot/bzImage"}, "arch/x86/boot/bzImage", ""},
		{"both", []string{"arch/x86/boot/bzImage", "vmlinux", "arch/arm64/boot/Image"}, "arch/arm64/boot/Image", ""},
		{"vmlinux alone", []string{"vmlinux"}, "vmlinux", ""},
		{"packed", []string{"vmlinux", "arch/arm64/boot/vmlinuz.efi"}, "vmlinuz", ""},
		{"stale", []string{"arch/x86/boot/bzImage", "vmlinux"}, "", "arch/x86/boot/bzImage is older than vmlinux, which it is made of: make it, or name one of them"},
		{"not built", []string{"Makefile"}, "", "a directory with none of arch/x86/boot/bzImage, arch/arm64/boot/Image, arch/arm64/boot/Image.gz, arch/arm64/boot/vmlinuz.efi and vmlinux: build the kernel first"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := t.TempDir()
			for i, name := range c.files {
				content := map[string][]byte{"vmlinux": whole(18), "bzImage": kernel(""), "Image": arm64(""), "vmlinuz.efi": zbootOf("gzip", pack(t, "gzip", arm64("")))}[filepath.Base(name)]
				file := write(t, filepath.Join(tree, name), content)
				if err := os.Chtimes(file, now, now.Add(time.Duration(i)*time.Second)); err != nil {
					t.Fatal(err)
				}
			}
			s, _ := store(t)
			got, err := s.Get(t.Context(), tree)
			if c.words != "" {
				if err == nil || !strings.Contains(err.Error(), c.words) {
					t.Errorf("%q, %v; want %q", got, err, c.words)
				}
			} else if err != nil || !strings.HasSuffix(got, c.want) {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
}

// What was fetched is taken from the cache as long as it is what it was, and fetched anew
// when that is asked for.
func TestCache(t *testing.T) {
	t.Parallel()
	asked, now := 0, kernel("6.1")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.Write(now)
	}))
	defer server.Close()
	s, said := store(t)
	get := func(refresh bool, want string, fetched int, words string) {
		t.Helper()
		*said = nil
		s.Refresh = refresh
		got, err := s.Get(t.Context(), server.URL+"/vmlinuz-6.1")
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(got); err != nil || !bytes.HasSuffix(raw, []byte(want)) {
			t.Errorf("want %s: %v", want, err)
		}
		if asked != fetched || !strings.Contains(strings.Join(*said, "\n"), words) {
			t.Errorf("fetched %d times, want %d; said %q, want %q", asked, fetched, *said, words)
		}
	}
	get(false, "6.1", 1, "vmlinuz-6.1, 0.0 MiB")
	now = kernel("6.2")
	get(false, "6.1", 1, "vmlinuz-6.1, from the cache of "+time.Now().Format(time.DateOnly))
	get(true, "6.2", 2, "vmlinuz-6.1, 0.0 MiB")
	files, _ := filepath.Glob(filepath.Join(s.Dir, "*", "vmlinuz-6.1"))
	if len(files) != 2 {
		t.Fatalf("%q; want two of them", files)
	}
	for _, file := range files {
		write(t, file, kernel("bad"))
	}
	get(false, "6.2", 3, "fetched anew: its checksum in the cache is wrong")
	for _, file := range files {
		os.Remove(file)
	}
	get(false, "6.2", 4, "fetched anew: the cache has lost it")
	entries, _ := filepath.Glob(filepath.Join(s.Dir, "*.json"))
	write(t, entries[0], []byte("{"))
	get(false, "6.2", 5, "fetched anew: the cache cannot be read")
}

// A package that was written anew is unpacked anew.
func TestPackageChanges(t *testing.T) {
	t.Parallel()
	s, _ := store(t)
	name := filepath.Join(t.TempDir(), "linux.deb")
	for _, own := range []string{"6.1", "6.1", "6.10"} {
		write(t, name, debOf(t, "zstd", file{"boot/vmlinuz", kernel(own)}))
		got, err := s.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(got); err != nil || !bytes.HasSuffix(raw, []byte(own)) {
			t.Errorf("want %s: %v", own, err)
		}
	}
}

// An end that the user asks for leaves no half file, wherever it comes.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	half := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "99999999")
		w.Write(bytes.Repeat(kernel(""), 100))
		w.(http.Flusher).Flush()
		close(half)
		<-r.Context().Done()
	}))
	defer server.Close()
	s, _ := store(t)
	go func() {
		<-half
		for len(left(t, s)) == 0 { // until it is being written
			time.Sleep(time.Millisecond)
		}
		interrupt()
	}()
	got, err := s.Get(ctx, server.URL+"/vmlinuz")
	if got != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("%q, %v; want that it was interrupted", got, err)
	}
	if files, _ := filepath.Glob(filepath.Join(s.Dir, "*")); len(files)+len(left(t, s)) > 0 {
		t.Errorf("left in the cache: %v %v", files, left(t, s))
	}
}

// push makes an image of layers, from the lowest up, in a registry on loopback.
func push(t *testing.T, ref name.Reference, layers ...[]file) v1.Image {
	t.Helper()
	img := empty.Image
	for _, files := range layers {
		raw := tarOf(t, files)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil })
		if err == nil {
			img, err = mutate.AppendLayers(img, layer)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if ref != nil {
		if err := remote.Write(ref, img); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// The kernel of an OCI image is that of its topmost layer, of the architecture that fits.
func TestOCI(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	tagged := func(tag string) name.Reference {
		ref, err := name.ParseReference(host + "/ci-kernels:" + tag)
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	old, x86, own := file{"boot/vmlinuz-6.1", kernel("old")}, file{"boot/vmlinuz-6.1", kernel("6.1")}, file{"boot/vmlinuz", arm64("6.12")}
	push(t, tagged("6.1"), []file{old, {"etc/os-release", []byte("x")}}, []file{x86})
	push(t, tagged("moved"), []file{old}, []file{{"boot/.wh.vmlinuz-6.1", []byte{}}}, []file{{"data/kernels/6.1/boot/vmlinuz-6.1.5", kernel("6.1.5")}})
	push(t, tagged("none"), []file{{"etc/os-release", []byte("x")}})
	push(t, tagged("vmlinux"), []file{{"boot/vmlinux", whole(18)}})
	for tag, platforms := range map[string][]string{"both": {"arm64", "amd64"}, "arm64": {"riscv64", "arm64"}, "foreign": {"riscv64"}} {
		index := v1.ImageIndex(empty.Index)
		for _, arch := range platforms {
			content := map[string]file{"amd64": x86, "arm64": own, "riscv64": {"boot/vmlinuz", []byte("odd")}}[arch]
			index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: push(t, nil, []file{content}), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
		}
		if err := remote.WriteIndex(tagged(tag), index); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := store(t)
	got := map[string]string{}
	want := map[string]string{
		"6.1": "vmlinuz-6.1 6.1", "moved": "vmlinuz-6.1.5 6.1.5", "vmlinux": "vmlinux ", "both": "vmlinuz-6.1 6.1", "arm64": "vmlinuz 6.12",
		"none": "no kernel in it: looked for boot/vmlinuz*", "foreign": "an image for neither linux/amd64 nor linux/arm64", "absent": "MANIFEST_UNKNOWN",
	}
	for tag := range want {
		file, err := s.Get(t.Context(), "oci://"+host+"/ci-kernels:"+tag)
		switch {
		case err != nil && strings.Contains(err.Error(), want[tag]):
			got[tag] = want[tag]
		case err != nil:
			got[tag] = err.Error()
		default:
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got[tag] = fmt.Sprintf("%s %s", filepath.Base(file), bytes.TrimRight(raw[1024:], "\x00"))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Get(t.Context(), "oci://"); err == nil || !strings.Contains(err.Error(), "want oci://HOST/NAME:TAG") {
		t.Error(err)
	}
	server.Close() // what is in the cache needs no registry
	if _, err := s.Get(t.Context(), "oci://"+host+"/ci-kernels:6.1"); err != nil {
		t.Error(err)
	}
}
