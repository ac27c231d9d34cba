package checked

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// reader is a stdout that fails, as one whose reader has gone does.
type reader struct{ err error }

func (r reader) Write([]byte) (int, error) { return 0, r.err }

// What becomes of one report is nothing to the others, and of a reader of stdout that has
// seen enough to none; what cannot be written is told.
func TestReports(t *testing.T) {
	r := &check.Report{Version: check.Version, Kernels: []check.Kernel{{Release: "6.12.1", Scenarios: []check.Scenario{{Name: "map-once", Result: check.Pass}}}}}
	for _, c := range []struct {
		name  string
		out   error // of stdout
		lost  string
		wrong string // in the error; "": none
	}{
		{"all is well", nil, "", ""},
		{"the reader has gone", unix.EPIPE, "", ""},
		{"stdout is full", unix.ENOSPC, "", "no space left"},
		{"a file cannot be", nil, "below/nothing/x.json", "below/nothing/x.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			t.Setenv(StepSummary, "summary")
			if err := os.WriteFile("summary", []byte("an earlier step\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			args := []string{"--output", "junit=b.xml,github=-", "--output", "ktap=a.ktap"}
			if c.lost != "" {
				args = append(args, "--output", "json="+c.lost)
			}
			var x Reports
			cmd := &cobra.Command{}
			cmd.Flags().String("explore", "", "")
			x.Add(cmd)
			if err := errors.Join(cmd.ParseFlags(args), x.Check()); err != nil {
				t.Fatal(err)
			}
			err := x.Write(reader{c.out}, r)
			if (err != nil) != (c.wrong != "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%v; want %q", err, c.wrong)
			}
			for file, want := range map[string]string{"b.xml": "map-once", "a.ktap": "ok 1 map-once"} {
				if raw, err := os.ReadFile(file); err != nil || !bytes.Contains(raw, []byte(want)) {
					t.Errorf("%s: %q, %v", file, raw, err)
				}
			}
			raw, err := os.ReadFile("summary")
			if err != nil || !bytes.HasPrefix(raw, []byte("an earlier step\n")) || c.out != unix.ENOSPC && !bytes.Contains(raw, []byte("## pinwatch check")) {
				t.Errorf("summary: %q, %v", raw, err)
			}
		})
	}
}
