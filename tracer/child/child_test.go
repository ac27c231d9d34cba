package child_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/child"
)

type greeting struct {
	Name  string
	Times int
}

func TestMain(m *testing.M) {
	child.Init(child.Table{
		"greet": child.Of(func(g greeting) error {
			fmt.Print(strings.Repeat("hello "+g.Name+"\n", g.Times))
			return nil
		}),
		"fail": func(string) error { return errors.New("as told") },
	}, child.Table{
		"again": child.Of(func(g greeting) error { return child.Exec("greet", g) }),
		"names": func(string) error {
			comm, err := os.ReadFile("/proc/thread-self/comm")
			fmt.Print(os.Args[0], " ", string(comm))
			return err
		},
		"grandchild": func(string) error {
			// An ordinary program that a child starts is no child.
			out, err := exec.Command("/proc/self/exe", "-test.run", "^$").Output()
			fmt.Print(string(out))
			return err
		},
	})
	os.Exit(m.Run())
}

func TestCommand(t *testing.T) {
	for _, test := range []struct {
		name     string
		argument any
		stdout   string
		stderr   string
	}{
		{"greet", greeting{"you", 2}, "hello you\nhello you\n", ""},
		{"again", greeting{"me", 1}, "hello me\n", ""},
		{"names", nil, "pinwatch:names pinwatch\n", ""},
		{"grandchild", nil, "PASS\n", ""},
		{"fail", nil, "", "pinwatch: fail: as told\n"},
		{"greet", "not a greeting", "", "json: cannot unmarshal"},
		{"nobody", nil, "", "pinwatch: nobody: there is no such child\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			cmd := child.Command(context.Background(), test.name, test.argument)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			if (err != nil) != (test.stderr != "") {
				t.Errorf("Run: %v", err)
			}
			if stdout.String() != test.stdout {
				t.Errorf("stdout %q, want %q", stdout.String(), test.stdout)
			}
			if !strings.Contains(stderr.String(), test.stderr) || test.stderr == "" && stderr.String() != "" {
				t.Errorf("stderr %q, want %q", stderr.String(), test.stderr)
			}
		})
	}
}

func TestArgumentThatCannotBeCarried(t *testing.T) {
	if err := child.Command(context.Background(), "greet", func() {}).Start(); err == nil || !strings.Contains(err.Error(), "greet") {
		t.Errorf("Start: %v", err)
	}
}
