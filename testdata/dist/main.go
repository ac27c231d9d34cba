// Dist makes what is handed out of the last commit: tarballs, packages, an image, and the sums
// of them.
//
//	dist ROOT OUT
//
// It builds a clone of ROOT, not ROOT: what is not committed stays out, and the version is the
// commit's. The same commit gives the same bytes.
package main

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// architectures are those that there is a binary for.
var architectures = []string{"amd64", "arm64"}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: dist ROOT OUT")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := dist(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "dist: %v\n", err)
		os.Exit(1)
	}
}

// release is what all files of one commit have in common.
type release struct {
	source  string    // a clone of the commit
	version string    // as pinwatch version prints it, v1.2.3 or a pseudo-version
	date    time.Time // of the commit; all that is packed has it
}

// dist makes the files of the last commit of root in out, which it empties first.
func dist(ctx context.Context, root, out string) error {
	tmp, err := os.MkdirTemp("", "pinwatch-dist-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	r, err := clone(ctx, root, filepath.Join(tmp, "source"))
	if err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	var binaries []string
	for _, arch := range architectures {
		tree := filepath.Join(tmp, arch)
		binary := filepath.Join(tree, "bin/pinwatch")
		if r.version, err = r.build(ctx, arch, binary); err != nil {
			return err
		}
		binaries = append(binaries, binary)
		if err := r.fill(ctx, tree); err != nil {
			return err
		}
		if err := r.tarball(tree, arch, out); err != nil {
			return err
		}
		for _, format := range []string{"deb", "rpm"} {
			if err := r.pack(tree, arch, format, out); err != nil {
				return fmt.Errorf("%s of %s: %w", format, arch, err)
			}
		}
	}
	if err := r.image(binaries, filepath.Join(tmp, "image"), out); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	return sums(out)
}

// clone makes a clone of a repository, in which go build finds the version, and tells what of
// the work tree is not in it.
func clone(ctx context.Context, root, dir string) (release, error) {
	changed, err := output(ctx, root, "git", "status", "--porcelain")
	if err != nil {
		return release{}, err
	}
	if changed != "" {
		fmt.Fprintf(os.Stderr, "dist: of the last commit; left out is what is not committed:\n%s\n", changed)
	}
	if _, err := output(ctx, root, "git", "clone", "--quiet", "--shared", ".", dir); err != nil {
		return release{}, err
	}
	seconds, err := output(ctx, dir, "git", "log", "-1", "--format=%ct")
	if err != nil {
		return release{}, err
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	return release{source: dir, date: time.Unix(n, 0).UTC()}, err
}

// build makes the binary, as make build does, and returns its version.
func (r release) build(ctx context.Context, arch, binary string) (string, error) {
	goBuild := []string{"env", "CGO_ENABLED=0", "GOFLAGS=", "GOARCH=" + arch, "GOAMD64=v1", "GOARM64=v8.0",
		"go", "build", "-buildvcs=true", "-trimpath", "-ldflags", "-s -w", "-o", binary, "."}
	if _, err := output(ctx, r.source, goBuild...); err != nil {
		return "", err
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(info.Main.Version, "v") {
		return "", fmt.Errorf("%s of %s has the version %q: want one of the commit", binary, arch, info.Main.Version)
	}
	return info.Main.Version, nil
}

// fill adds to a tree, which is what /usr gets, all but the binary.
func (r release) fill(ctx context.Context, tree string) error {
	if _, err := output(ctx, r.source, "env", "GOFLAGS=",
		"go", "run", "-trimpath", "./testdata/man", tree, r.version, r.date.Format(time.DateOnly)); err != nil {
		return err
	}
	doc := filepath.Join(tree, "share/doc/pinwatch")
	copies := map[string]string{
		"README.md":                            doc,
		"LICENSE":                              doc,
		"testdata/dist/pinwatch-agent.service": filepath.Join(tree, "lib/systemd/system"),
		"testdata/dist/daemonset.yaml":         doc,
		"bpf/LICENSE":                          filepath.Join(doc, "bpf"),
	}
	// The BPF programs are GPL-2.0, and in the binary: their source goes with it.
	sources, err := filepath.Glob(filepath.Join(r.source, "bpf/*.[ch]"))
	if err != nil {
		return err
	}
	for _, source := range sources {
		copies[filepath.Join("bpf", filepath.Base(source))] = filepath.Join(doc, "bpf")
	}
	for from, dir := range copies {
		content, err := os.ReadFile(filepath.Join(r.source, from))
		if err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(from)), content, 0o644); err != nil {
			return err
		}
	}
	if err := r.copyright(ctx, filepath.Join(tree, "bin/pinwatch"), filepath.Join(doc, "copyright")); err != nil {
		return err
	}
	return same(tree, r.date)
}

// same gives all files of a tree the time of the commit, and the modes that no umask changes.
func same(tree string, date time.Time) error {
	return filepath.WalkDir(tree, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if d.IsDir() || filepath.Base(filepath.Dir(name)) == "bin" {
			mode = 0o755
		}
		if err := os.Chmod(name, mode); err != nil {
			return err
		}
		return os.Chtimes(name, date, date)
	})
}

// sums writes SHA256SUMS, for sha256sum -c.
func sums(out string) error {
	entries, err := os.ReadDir(out)
	if err != nil {
		return err
	}
	var lines strings.Builder
	for _, entry := range entries {
		f, err := os.Open(filepath.Join(out, entry.Name()))
		if err != nil {
			return err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		f.Close()
		if err != nil {
			return err
		}
		fmt.Fprintf(&lines, "%x  %s\n", sum.Sum(nil), entry.Name())
	}
	return os.WriteFile(filepath.Join(out, "SHA256SUMS"), []byte(lines.String()), 0o644)
}

// output runs a command and returns what it says, without the end of the line.
func output(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	said, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimRight(string(said), "\n"), nil
}
