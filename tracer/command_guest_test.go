//go:build guest

package tracer_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// The command line, from the flag to the kernel and back: each testdata/scripts/*.txtar is a
// script. What needs no kernel is tested beside the commands.
func TestScripts(t *testing.T) {
	kernels := guesttest.First
	if guesttest.All() {
		kernels = guesttest.Kernels
	}
	guests.Test(t, kernels, func(t *testing.T, k guesttest.Kernel) {
		testscript.RunT(oneByOne{t}, testscript.Params{
			Dir:                 filepath.Join("testdata", "scripts"),
			RequireExplicitExec: true,
			Cmds:                map[string]func(*testscript.TestScript, bool, []string){"rows": rowsOf},
			Condition: func(name string) (bool, error) {
				if name != "double-charge" {
					return false, fmt.Errorf("unknown condition %q", name)
				}
				return has(k.Upstream(), "double-charge-of-further-mappings"), nil
			},
		})
	})
}

// rowsOf writes what a recording has after its header into a file.
func rowsOf(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: rows RECORDING FILE")
	}
	header, rows, _ := strings.Cut(ts.ReadFile(args[0]), "\n")
	if !strings.HasPrefix(header, `{"v":2,"kind":"header",`) {
		ts.Fatalf("no header: %s", header)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(rows), 0o666))
}

// oneByOne is a test whose scripts wait for each other: they share a machine.
type oneByOne struct{ *testing.T }

func (oneByOne) Parallel() {}

// Verbose lets scripts tell what they did where they fail.
func (oneByOne) Verbose() bool { return false }

func (t oneByOne) Run(name string, script func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { script(oneByOne{t}) })
}
