package checked

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// flags are those of a command line.
func flags(t *testing.T, args ...string) *Known {
	t.Helper()
	var x Known
	cmd := &cobra.Command{}
	for _, other := range []string{"emit", "explore", "program", "program-number"} {
		cmd.Flags().String(other, "", "")
	}
	x.Add(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return &x
}

// A red kernel is green by the list that was written of it, by every convention of the exit
// status, and red again by what the list does not have.
func TestWrittenIsKnown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "list")
	fail := check.Scenario{Name: "map-twice", Result: check.Fail, Verdicts: []string{"double-charge"}}
	fail.Evidence.Tracer.Watched = true
	pass := check.Scenario{Name: "map-once", Result: check.Pass}
	report := func(list ...check.Scenario) *check.Report {
		return &check.Report{Kernels: []check.Kernel{{Release: "6.16.12", Scenarios: list}}}
	}
	var words bytes.Buffer
	write := flags(t, "--write-known", file)
	if err := write.Load(); err != nil {
		t.Fatal(err)
	}
	if err := write.Write(&words, report(pass, fail)); err != nil || words.Len() > 0 {
		t.Fatal(err, words.String())
	}
	list := flags(t, "--known", "stock", "--known", file)
	if err := list.Load(); err != nil {
		t.Fatal(err)
	}
	other := fail
	other.Verdicts = []string{"underflow"}
	for _, c := range []struct {
		name                       string
		report                     *check.Report
		normal, bisect, kselftests int
	}{
		{"known", report(pass, fail), 0, 0, 0},
		{"new", report(pass, other), 3, 1, 1},
		{"gone", report(pass, check.Scenario{Name: "map-twice", Result: check.Pass}), 0, 0, 0},
	} {
		list.Mark(c.report)
		for convention, want := range map[string]int{check.ExitDefault: c.normal, check.ExitBisect: c.bisect, check.ExitKselftest: c.kselftests} {
			if got, err := c.report.ExitCode(convention, true); err != nil || got != want {
				t.Errorf("%s, %s: %d, %v; want %d", c.name, convention, got, err, want)
			}
		}
	}
}

// A list that there cannot be leaves the old one as it is; one that cannot be written is an
// error.
func TestNotWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(file, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	var words bytes.Buffer
	dead := &check.Report{Kernels: []check.Kernel{{Release: "7.4", Error: "panicked"}}}
	if err := flags(t, "--write-known", file).Write(&words, dead); err != nil || !strings.Contains(words.String(), "is not written: 7.4 could not be checked") {
		t.Error(err, words.String())
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "old" {
		t.Errorf("%q, %v", raw, err)
	}
	if err := flags(t, "--write-known", filepath.Join(file, "below")).Write(&words, &check.Report{Kernels: []check.Kernel{{Release: "7.4"}}}); err == nil {
		t.Error("a file below a file was written")
	}
}
