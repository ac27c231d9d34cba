// Package kernels tests fetch.sh on an apt of its own.
package kernels

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// apt stands in for apt and dpkg: a mirror with two series, where each package is a tar
// file. A download of 6.1 waits for that of 7.3 to begin.
var apt = map[string]string{
	"apt-get": `
for last; do :; done
case "$*" in
*indextargets*) echo "Debian http://mirror.invalid/debian" ;;
*update*) ;;
*download*linux-image-6.1.0-50*)
	for i in $(seq 100); do [ -e "$FAKE/begun" ] && break; sleep 0.1; done
	[ -e "$FAKE/begun" ] || { echo "7.3 was never begun" >&2; exit 1; }
	mkdir -p deb/boot deb/lib/modules && echo 6.1 >deb/boot/vmlinuz-6.1 && echo >deb/lib/modules/a.ko
	tar -cf "$last.deb" -C deb . ;;
*download*linux-binary-7.3.4+deb13-amd64)
	mkdir -p deb/usr/lib/modules/7.3.4 && echo 7.3 generic >deb/usr/lib/modules/7.3.4/vmlinuz
	tar -cf "$last.deb" -C deb . ;;
*download*linux-modules-7.3.4+deb13-amd64)
	mkdir -p mod/usr/lib/modules/7.3.4/kernel && echo >mod/usr/lib/modules/7.3.4/kernel/b.ko.xz
	tar -cf "$last.deb" -C mod . ;;
*download*linux-image-6.1.0-55-amd64)
	mkdir -p deb/boot deb/lib/modules && echo 6.1 generic >deb/boot/vmlinuz-6.1 && echo >deb/lib/modules/a.ko
	tar -cf "$last.deb" -C deb . ;;
*download*linux-binary-7.3.4*)
	touch "$FAKE/begun"
	mkdir -p deb/usr/lib/modules/7.3.4 && echo 7.3 >deb/usr/lib/modules/7.3.4/vmlinuz
	tar -cf "$last.deb" -C deb . ;;
*) echo "unexpected: apt-get $*" >&2; exit 1 ;;
esac`,
	"apt-cache": `
for last; do :; done
case "$*" in
*pkgnames*) printf '%s\n' linux-image-6.1.0-9-cloud-amd64-unsigned linux-image-6.1.0-50-cloud-amd64{,-unsigned,-dbg} \
	linux-image-6.1.0-60-rt-amd64 linux-image-6.1.0-55-amd64 linux-binary-7.3.4+deb13-amd64 linux-binary-7.3.4+deb13-cloud-amd64 linux-headers-7.9-cloud-amd64 ;;
*policy*-6.1.0-50-cloud-amd64) echo "  Candidate: (none)" ;;
*policy*) printf '%s:\n  Candidate: 1.0\n' "$last" ;;
esac`,
	"dpkg": `cat "$2"`,
}

// fetch runs fetch.sh with an empty cache.
func fetch(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range apt {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/bash\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var out, words bytes.Buffer
	cmd := exec.Command("./fetch.sh", args...)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "FAKE="+dir, "PINWATCH_CACHE="+filepath.Join(dir, "cache"))
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), words.String(), cmd.ProcessState.ExitCode()
}

// A series that does not exist is named, with those that do, and takes nothing from
// the others. What is no series fetches nothing.
func TestUnknownSeries(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args  []string
		had   int
		words string
	}{
		{[]string{"9.9"}, 0, "series 9.9 of amd64: there is none on this mirror, which has: 6.1 7.3\n"},
		{[]string{"9.9", "7.3"}, 1, "series 9.9 of amd64: there is none on this mirror, which has: 6.1 7.3\n"},
		{[]string{"9.9-generic"}, 0, "series 9.9-generic of amd64: there is none on this mirror, which has: 6.1-generic 7.3-generic\n"},
		{[]string{"7.3", "6.1-fast"}, 0, `series "6.1-fast": want one such as 6.1, 6.12-16k or 6.12-generic, or newest (see fetch.sh --help)`},
		{[]string{""}, 0, `series "": want one such as`},
		{[]string{"v6.1"}, 0, `series "v6.1": want one such as`},
		{[]string{"6.12-16k"}, 0, "series 6.12-16k: pages of 16K are arm64's: fetch.sh --arch arm64 6.12-16k"},
		{[]string{"--arch"}, 0, "--arch: want amd64 or arm64"},
		{[]string{"--arch", "riscv64"}, 0, "--arch riscv64: want amd64 or arm64"},
		{[]string{"--serie", "7.3"}, 0, "unknown option --serie"},
	} {
		stdout, stderr, code := fetch(t, c.args...)
		if code != 2 || strings.Count(stdout, "\n") != c.had || !strings.Contains(stderr, c.words) {
			t.Errorf("%q: exit %d, %q, %s\nwant 2, %d kernels and %q", c.args, code, stdout, stderr, c.had, c.words)
		}
	}
}

// A generic kernel is fetched with its modules, from whichever package has them.
func TestGeneric(t *testing.T) {
	t.Parallel()
	stdout, stderr, code := fetch(t, "6.1-generic", "7.3-generic")
	var got []string
	for line := range strings.Lines(stdout) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		release := filepath.Join(fields[2][:strings.Index(fields[2], fields[1])], fields[1])
		modules, _ := filepath.Glob(filepath.Join(release, "lib/modules/*.ko"))
		more, _ := filepath.Glob(filepath.Join(release, "usr/lib/modules/*/kernel/*.ko.xz"))
		for _, file := range append(modules, more...) {
			got = append(got, fields[0]+" "+fields[1]+" "+filepath.Base(file))
		}
	}
	want := "6.1-generic 6.1.0-55-amd64 a.ko, 7.3-generic 7.3.4+deb13-amd64 b.ko.xz"
	if strings.Join(got, ", ") != want || code != 0 {
		t.Errorf("exit %d, %q; want %q\n%s", code, got, want, stderr)
	}
}

// Several are fetched beside each other, and printed in the order asked for.
func TestSeveralSeries(t *testing.T) {
	t.Parallel()
	stdout, stderr, code := fetch(t, "6.1", "newest")
	var images []string
	for line := range strings.Lines(stdout) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		image := fields[len(fields)-1]
		raw, err := os.ReadFile(image)
		if err != nil {
			t.Error(err)
		}
		images = append(images, strings.Join(fields[:len(fields)-1], " ")+" "+string(raw))
		if modules, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(image)), "lib/modules/*")); len(modules) > 0 {
			t.Errorf("modules were kept: %v", modules)
		}
	}
	if got, want := strings.Join(images, ""), "6.1 6.1.0-50-cloud-amd64 6.1\n7.3 7.3.4+deb13-cloud-amd64 7.3\n"; got != want || code != 0 {
		t.Errorf("exit %d, %.300q; want %q\n%s", code, got, want, stderr)
	}
}
