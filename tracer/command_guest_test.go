//go:build guest

package tracer_test

import (
	"fmt"
	"path/filepath"
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
			Condition: func(name string) (bool, error) {
				if name != "double-charge" {
					return false, fmt.Errorf("unknown condition %q", name)
				}
				return has(k.Upstream(), "double-charge-of-further-mappings"), nil
			},
		})
	})
}

// oneByOne is a test whose scripts wait for each other: they share a machine.
type oneByOne struct{ *testing.T }

func (oneByOne) Parallel() {}

// Verbose lets scripts tell what they did where they fail.
func (oneByOne) Verbose() bool { return false }

func (t oneByOne) Run(name string, script func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { script(oneByOne{t}) })
}
