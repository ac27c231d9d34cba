package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// copyright writes whose code is in a binary, and under which licences: ours, and of each
// module that was linked all that it has, word for word.
func (r release) copyright(ctx context.Context, binary, file string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	b.WriteString("Pinwatch is Apache-2.0 (LICENSE); the BPF programs in it are GPL-2.0 (bpf/LICENSE, with\n" +
		"their source). What follows are the licences of the Go modules that are linked into it.\n")
	listed, err := output(ctx, r.source, "env", "GOFLAGS=", "go", "list", "-m", "-f", "{{.Path}}\t{{.Dir}}", "all")
	if err != nil {
		return err
	}
	dirs := map[string]string{}
	for line := range strings.Lines(listed) {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		dirs[path] = dir
	}
	for _, dep := range info.Deps {
		if err := licences(&b, dep.Path+" "+dep.Version, dirs[dep.Path]); err != nil {
			return err
		}
	}
	goroot, err := output(ctx, r.source, "go", "env", "GOROOT")
	if err != nil {
		return err
	}
	if err := licences(&b, "Go's runtime and standard library "+runtime.Version(), goroot); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// licences appends what a module says of its licence. One that says nothing is an error: it
// must not be handed out.
func licences(b *bytes.Buffer, title, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	found := false
	for _, entry := range entries {
		upper := strings.ToUpper(entry.Name())
		if entry.IsDir() || !slices.ContainsFunc([]string{"LICEN", "COPYING", "NOTICE", "LEGAL", "PATENTS"}, func(p string) bool { return strings.HasPrefix(upper, p) }) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return err
		}
		found = true
		fmt.Fprintf(b, "\n%s\n%s: %s\n\n%s\n", strings.Repeat("-", 80), title, entry.Name(), bytes.TrimSpace(text))
	}
	if !found {
		return fmt.Errorf("%s: no licence in %s", title, dir)
	}
	return nil
}
