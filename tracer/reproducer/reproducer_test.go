package reproducer_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/explore"
	"github.com/pinwatch/pinwatch/tracer/reproducer"
)

// written is a C file.
func written(t *testing.T, e *check.Exercise, form string) string {
	t.Helper()
	s, err := reproducer.Of(e)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.Write(&b, form); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func scenario(t *testing.T, name string) *check.Exercise {
	t.Helper()
	list, err := check.Choose([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	return &list[0]
}

func program(number uint64) *check.Exercise {
	p := explore.Generate(1, number)
	e := p.Exercise()
	return &e
}

// What the files look like stands in testdata. UPDATE_GOLDEN=1 writes it anew.
func TestGolden(t *testing.T) {
	for name, got := range map[string]string{
		"two-processes-payer-first.c": written(t, scenario(t, "two-processes-payer-first"), reproducer.C),
		"past-allowance-kselftest.c":  written(t, scenario(t, "past-allowance"), reproducer.Kselftest),
		"program-15.c":                written(t, program(15), reproducer.C),
	} {
		path := filepath.Join("testdata", name)
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Every scenario that is a program, and programs with every call, are C without a warning.
func TestCompiles(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the compiler a hundred times")
	}
	var exercises []*check.Exercise
	for _, e := range check.Exercises() {
		if _, err := e.Program(); !errors.Is(err, check.ErrNoProgram) {
			exercises = append(exercises, &e)
		}
	}
	for number := range uint64(20) {
		exercises = append(exercises, program(number))
	}
	for i, e := range exercises {
		for _, form := range []string{reproducer.C, reproducer.Kselftest}[:1+i%2] {
			cc := exec.Command("gcc", "-x", "c", "-fsyntax-only", "-pthread", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Werror", "-")
			cc.Stdin = strings.NewReader(written(t, e, form))
			if out, err := cc.CombinedOutput(); err != nil {
				t.Errorf("%s, %s: %v\n%s", e.Name, form, err, out)
			}
		}
	}
}

// The comment says which kernels are known for it, and which fix a bug of the past had.
func TestHead(t *testing.T) {
	for _, c := range []struct{ scenario, want string }{
		{"redirect-mapped", "Known on Linux 6.16, 6.17 as double-charge"},
		{"past-allowance", "d44248a41337"},
		{"sysctl-lowered", "It changes settings of the whole machine"},
	} {
		head, _, _ := strings.Cut(written(t, scenario(t, c.scenario), reproducer.C), "*/")
		if text := strings.Join(strings.Fields(strings.ReplaceAll(head, "\n *", " ")), " "); !strings.Contains(text, c.want) {
			t.Errorf("%s: no %q in\n%s", c.scenario, c.want, head)
		}
	}
}

// A program that somebody wrote is refused where it cannot be put into C.
func TestRefused(t *testing.T) {
	for name, p := range map[string]check.Program{
		"no steps":     {},
		"unknown call": {Steps: []check.Op{{Call: check.CallStart}, {Call: "system(\"rm\")"}}},
		"number":       {Steps: []check.Op{{Call: check.CallStart, Process: -1}}},
		"large number": {Steps: []check.Op{{Call: check.CallMap, Mapping: 1 << 30}}},
	} {
		e := p.Exercise()
		s, err := reproducer.Of(&e)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Write(&bytes.Buffer{}, reproducer.C); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
