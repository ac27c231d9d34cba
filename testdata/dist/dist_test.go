package main

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// temporary is where the tests make what is handed out; TestMain takes it away. In it is a
// clone of the commit that they are about, whatever is committed meanwhile.
var temporary string

func commit() string { return filepath.Join(temporary, "commit") }

// made is what dist makes of the last commit, once for all tests.
var made = sync.OnceValues(func() (string, error) {
	out := filepath.Join(temporary, "made")
	return out, dist(context.Background(), commit(), out)
})

func TestMain(m *testing.M) {
	var err error
	if temporary, err = os.MkdirTemp("", "pinwatch-dist-test-"); err != nil {
		panic(err)
	}
	if os.Getenv("PINWATCH_AGAIN") == "" {
		if _, err := clone(context.Background(), "../..", commit()); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	os.RemoveAll(temporary)
	os.Exit(code)
}

// file is the one that was made whose name has this pattern.
func file(t *testing.T, pattern string) string {
	t.Helper()
	out, err := made()
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(out, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v (%v)", pattern, found, err)
	}
	return found[0]
}

// run runs a command and returns what it says.
func run(t *testing.T, args ...string) string {
	t.Helper()
	said, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, said)
	}
	return string(said)
}

// Two builds in other directories, at other times and with another umask give the same bytes.
func TestReproducible(t *testing.T) {
	sums := file(t, "SHA256SUMS")
	again := filepath.Join(t.TempDir(), "again")
	cmd := exec.Command("bash", "-c", `umask 077; exec "$@"`, "-", os.Args[0], "-test.run=^TestAgain$")
	cmd.Env = append(os.Environ(), "PINWATCH_AGAIN="+again, "PINWATCH_COMMIT="+commit(), "TMPDIR="+t.TempDir(), "TZ=Asia/Tokyo")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	first, second := read(t, sums), read(t, filepath.Join(again, "SHA256SUMS"))
	if first != second {
		t.Errorf("the first build:\n%sthe second:\n%s", first, second)
	}
	if n := strings.Count(first, "\n"); n != 7 {
		t.Errorf("%d files, want two each of .tar.gz, .deb and .rpm, and an image:\n%s", n, first)
	}
}

// TestAgain is the second build of TestReproducible.
func TestAgain(t *testing.T) {
	out := os.Getenv("PINWATCH_AGAIN")
	if out == "" {
		t.Skip("is a part of TestReproducible")
	}
	if err := dist(context.Background(), os.Getenv("PINWATCH_COMMIT"), out); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// dpkg is the witness of the order of versions.
func TestPackageVersion(t *testing.T) {
	inOrder := []string{
		"v0.0.0-20261126222616-e157b6c00000", "v0.0.0-20261126225005-54bd9545f3cb", "v0.1.0-rc.1", "v0.1.0-rc.2", "v0.1.0",
		"v0.1.1-0.20261127000000-0123456789ab", "v0.1.1", "v0.10.0",
	}
	for i, version := range inOrder {
		if got := packageVersion(version); strings.ContainsAny(got, "-v") {
			t.Errorf("%s: %s, which dpkg and rpm take for a version and a revision", version, got)
		}
		if i > 0 {
			run(t, "dpkg", "--compare-versions", packageVersion(inOrder[i-1]), "lt", packageVersion(version))
		}
	}
}

// list are the paths of a root, but for what a package manager keeps for itself.
func list(t *testing.T, root string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below := strings.TrimPrefix(name, root)
		if slices.Contains([]string{"/proc", "/run/systemd", "/var/lib/dpkg", "/var/lib/rpm", "/var/log/dpkg.log", "/var/cache/man"}, below) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		names = append(names, below)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// cleanRoot is a copy of a clean Debian.
func cleanRoot(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a root of its own takes root")
	}
	said, err := exec.Command("./root.sh").Output()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root")
	run(t, "cp", "-a", "--reflink=auto", strings.TrimSpace(string(said)), root)
	return root
}

// The .deb in a clean Debian: it runs, its pages and completions are found, its unit is valid,
// and nothing is left of it.
func TestDeb(t *testing.T) {
	root := cleanRoot(t)
	before := list(t, root)
	deb := file(t, "*_amd64.deb")
	if err := os.Link(deb, filepath.Join(root, "pinwatch.deb")); err != nil {
		run(t, "cp", deb, filepath.Join(root, "pinwatch.deb"))
	}
	in := func(line string) string { return run(t, "chroot", root, "bash", "-c", line) }
	in("dpkg -i /pinwatch.deb && rm /pinwatch.deb")

	version := strings.TrimSpace(in("pinwatch version"))
	if _, is := strings.CutPrefix(version, "pinwatch v"); !is {
		t.Errorf("the version is %q", version)
	}
	if got := in("dpkg-query -W -f '${Version}' pinwatch"); got != packageVersion(strings.TrimPrefix(version, "pinwatch ")) {
		t.Errorf("the package is %s, and the program %s", got, version)
	}
	for _, page := range []string{"pinwatch", "pinwatch-trace", "pinwatch-agent"} {
		if text := in("MANPAGER=cat man -P cat " + page); !strings.Contains(text, "SYNOPSIS") {
			t.Errorf("man %s:\n%s", page, text)
		}
	}
	if got := in(". /usr/share/bash-completion/bash_completion; _completion_loader pinwatch || complete -p pinwatch"); !strings.Contains(got, "__start_pinwatch") {
		t.Errorf("bash completes pinwatch by %q", got)
	}
	if got := in("pinwatch __complete tra 2>/dev/null"); !strings.HasPrefix(got, "trace\t") {
		t.Errorf("pinwatch tra<Tab>: %q", got)
	}
	if got := in("systemd-analyze verify --man=no pinwatch-agent.service 2>&1"); got != "" {
		t.Errorf("systemd-analyze verify: %s", got)
	}

	in("systemctl enable pinwatch-agent 2>&1 && mkdir -p /var/lib/pinwatch /run/pinwatch && touch /var/lib/pinwatch/recording")
	in("dpkg -r pinwatch && test -e /var/lib/pinwatch/recording && dpkg -P pinwatch")
	for _, name := range list(t, root) {
		if !slices.Contains(before, name) {
			t.Errorf("%s is left", name)
		}
	}
}

// The .rpm, by rpm, in the same clean root: recordings alone are left.
func TestRPM(t *testing.T) {
	root := cleanRoot(t)
	before := list(t, root)
	run(t, "rpm", "--root", root, "--dbpath", "/var/lib/rpm", "-i", "--nodeps", file(t, "*.x86_64.rpm"))
	if got := run(t, "chroot", root, "pinwatch", "version"); !strings.HasPrefix(got, "pinwatch v") {
		t.Errorf("the version is %q", got)
	}
	run(t, "rpm", "--root", root, "--dbpath", "/var/lib/rpm", "-e", "--nodeps", "pinwatch")
	for _, name := range list(t, root) {
		if !slices.Contains(before, name) {
			t.Errorf("%s is left", name)
		}
	}
}

// The image is a valid layout of both architectures, with the binary and nothing else, which
// starts where there is nothing else.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	run(t, "tar", "-C", dir, "-xf", file(t, "*-image.tar"))
	path, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(outer); err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	index, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if manifest, err = index.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	if len(manifest.Manifests) != len(machines) {
		t.Fatalf("images of %d architectures", len(manifest.Manifests))
	}
	for _, m := range manifest.Manifests {
		img, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(t.TempDir(), m.Platform.Architecture)
		content := onlyFile(t, mutate.Extract(img))
		binary, err := elf.NewFile(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		if binary.Machine != machines[m.Platform.Architecture] {
			t.Errorf("%s has a binary for %v", m.Platform.Architecture, binary.Machine)
		}
		if libraries, err := binary.ImportedLibraries(); err == nil && len(libraries) > 0 {
			t.Errorf("%s needs %v", m.Platform.Architecture, libraries)
		}
		if m.Platform.Architecture == "amd64" && os.Geteuid() == 0 {
			os.MkdirAll(root, 0o755)
			if err := os.WriteFile(filepath.Join(root, "pinwatch"), content, 0o755); err != nil {
				t.Fatal(err)
			}
			if got := run(t, "chroot", root, "/pinwatch", "version"); !strings.HasPrefix(got, "pinwatch v") {
				t.Errorf("the version is %q", got)
			}
		}
	}
}

func onlyFile(t *testing.T, r io.ReadCloser) []byte {
	t.Helper()
	defer r.Close()
	archive := tar.NewReader(r)
	h, err := archive.Next()
	if err != nil || h.Name != "pinwatch" || h.Mode != 0o755 {
		t.Fatalf("%+v (%v)", h, err)
	}
	content, err := io.ReadAll(archive)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := archive.Next(); err != io.EOF {
		t.Fatalf("there is more: %+v (%v)", h, err)
	}
	return content
}

// The unit is bounded to what tracing needs, as systemd scores it.
func TestUnitIsHardened(t *testing.T) {
	run(t, "systemd-analyze", "security", "--offline=yes", "--threshold=29", "./pinwatch-agent.service")
}

// The commands of the service and of the manifest are ones that the program knows.
func TestCommandLines(t *testing.T) {
	dir := t.TempDir()
	run(t, "dpkg-deb", "-x", file(t, "*_amd64.deb"), dir)
	help := run(t, filepath.Join(dir, "usr/bin/pinwatch"), "agent", "--help")
	for _, args := range [][]string{unitArgs(t), manifest(t).Spec.Template.Spec.Containers[0].Args} {
		if len(args) == 0 || args[0] != "agent" {
			t.Errorf("%q does not start the agent", args)
		}
		for _, arg := range args {
			if name, _, _ := strings.Cut(arg, "="); strings.HasPrefix(name, "--") && !strings.Contains(help, name+" ") {
				t.Errorf("pinwatch agent has no %s", name)
			}
		}
	}
}

func unitArgs(t *testing.T) []string {
	_, line, _ := strings.Cut(read(t, "pinwatch-agent.service"), "\nExecStart=pinwatch ")
	line, _, _ = strings.Cut(line, "\n")
	return strings.Fields(line)
}
