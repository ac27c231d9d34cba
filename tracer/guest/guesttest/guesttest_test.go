package guesttest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOlder(t *testing.T) {
	for _, c := range []struct {
		release, version string
		want             bool
	}{
		{"5.10.0-32-cloud-amd64", "5.11", true},
		{"5.10.0-32-cloud-amd64", "5.8", false},
		{"5.10.0-32-cloud-amd64", "5.10", false},
		{"6.12.117+deb13-cloud-amd64", "6.12", false},
		{"6.9.7", "6.12", true},
		{"7.3-rc1", "7.3", false},
		{"7.3-rc1", "7.4", true},
	} {
		if got := older(c.release, c.version); got != c.want {
			t.Errorf("%s older than %s: %v", c.release, c.version, got)
		}
	}
}

func TestPattern(t *testing.T) {
	usual, arm64 := Kernel{Series: "6.12", Arch: "amd64"}, Kernel{Series: "6.12", Arch: "arm64"}
	for _, c := range []struct {
		asked string
		k     Kernel
		want  string
	}{
		{"", usual, "^(TestA|TestB)$"},
		{"TestA", usual, "^(TestA|TestB)$"},
		{"TestA/6.12", usual, "^(TestA|TestB)$"},
		{"TestA/6.12/^kprobe$/ringbuf", usual, "^(TestA|TestB)$/^kprobe$/ringbuf"},
		{"TestA/arm64/6.12/kprobe", arm64, "^(TestA|TestB)$/kprobe"},
		{"TestA/6.12/kprobe|TestB", usual, "^(TestA|TestB)$"}, // the host chooses
	} {
		if got := pattern(c.asked, c.k, []string{"TestA", "TestB"}); got != c.want {
			t.Errorf("-run %q: got %q; want %q", c.asked, got, c.want)
		}
	}
}

// Subtests whose names hold slashes are below the test that ran them; output that ends
// in no newline is its test's own; a test that did not end has no outcome.
func TestParseResults(t *testing.T) {
	const stdout = "\x16=== RUN   TestA\n" +
		"    a_test.go:1: hello\n" +
		"no newline\x16=== RUN   TestA/kprobe/ringbuf\n" +
		"    a_test.go:2: why\n" +
		"\x16--- SKIP: TestA/kprobe/ringbuf (0.25s)\n" +
		"\x16=== NAME  TestA\n" +
		"--- FAIL: a line of the test's own\n" +
		"\x16--- PASS: TestA (0.50s)\n" +
		"\x16=== NAME  \n" +
		"\x16=== RUN   TestB\n" +
		"\x16=== RUN   TestB/deep\n" +
		"last words\n"
	tests, err := parseResults([]byte(stdout))
	if err != nil {
		t.Fatal(err)
	}
	want := []*result{
		{name: "TestA", outcome: "pass", seconds: 0.5, output: []string{"    a_test.go:1: hello\n", "no newline", "--- FAIL: a line of the test's own\n"}, subs: []*result{
			{name: "TestA/kprobe/ringbuf", outcome: "skip", seconds: 0.25, output: []string{"    a_test.go:2: why\n"}},
		}},
		{name: "TestB", subs: []*result{
			{name: "TestB/deep", output: []string{"last words\n"}},
		}},
	}
	if diff := cmp.Diff(want, tests, cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("want - got +\n%s", diff)
	}

	k := Kernel{Series: "6.12", Arch: "amd64"}
	outcomes := []Outcome{
		{k, "", "pass", "--- FAIL: a line of the test's own"},
		{k, "kprobe/ringbuf", "skip", "why"},
	}
	if diff := cmp.Diff(outcomes, tests[0].outcomes(k)); diff != "" {
		t.Errorf("outcomes: want - got +\n%s", diff)
	}
}

func TestKernelName(t *testing.T) {
	k := Kernel{Series: "6.12-16k", Arch: "arm64"}
	for want, got := range map[string]string{
		"arm64/6.12-16k":       k.String(),
		"arm64/6.12-16k/lower": k.With("lower", "a=b").String(),
		"6.12":                 k.Upstream(),
	} {
		if got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

// As many guests run as there are files, and one more when one of them has ended.
func TestSlots(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(SlotsVariable, dir)
	for _, name := range []string{"1", "2"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	taken := make(chan func())
	for range 3 {
		go func() { taken <- TakeSlot() }()
	}
	first, second := <-taken, <-taken
	for _, name := range []string{"1", "2"} {
		if file := lock(filepath.Join(dir, name)); file != nil {
			t.Errorf("%s is free while two guests run", name)
			file.Close()
		}
	}
	select {
	case <-taken:
		t.Error("a third guest runs")
	default:
	}
	first()
	third := <-taken
	second()
	third()
}
