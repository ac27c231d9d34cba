package command_test

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pinwatch/pinwatch/output/command"
	"github.com/pinwatch/pinwatch/tracer/child"
)

// TestMain makes the test binary what main makes of pinwatch: its scripts run it by
// that name.
func TestMain(m *testing.M) {
	child.Init(command.Children()...)
	testscript.Main(m, map[string]func(){"pinwatch": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		os.Exit(command.Main(ctx, os.Args[1:], command.Standard()))
	}})
}

// The command line tests: every testdata/scripts/*.txtar is a script. They need no
// privileges and attach nothing. UPDATE_SCRIPTS=1 writes what is compared anew.
func TestScripts(t *testing.T) {
	recordings, err := filepath.Abs(filepath.Join("..", "..", "testdata", "recordings"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "scripts"),
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("RECORDINGS", recordings)
			env.Setenv("TZ", "UTC")
			return nil
		},
	})
}
