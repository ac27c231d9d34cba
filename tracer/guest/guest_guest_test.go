//go:build guest

package guest_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// Output and exit code come back as they are, and apart from each other.
func TestOutputIntact(t *testing.T) {
	t.Parallel()
	k := guesttest.Kernels(t)[0]
	random := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, 300<<10)
	for i := range content {
		content[i] = byte(random.Uint32()) // every value: a terminal would change some
	}
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	shell := guesttest.Shell(t)
	out := guesttest.Run(t, k, func(c *guest.Config) {
		shell(c)
		c.Files = append(c.Files, file+":content")
	}, "workload", "run-as", "--", "sh", "-c", "busybox cat /content; busybox echo words >&2; busybox echo kernel says > /dev/kmsg; exit 3")
	if out.Stdout != string(content) {
		t.Errorf("stdout of %d bytes is not the %d written", len(out.Stdout), len(content))
	}
	if out.Stderr != "words\n" {
		t.Errorf("stderr: %q", out.Stderr)
	}
	if strings.Contains(out.Stdout+out.Stderr, "kernel says") {
		t.Error("the kernel's messages came along")
	}
	if out.Code != 3 {
		t.Errorf("exit %d, want 3", out.Code)
	}
	if out := guesttest.Run(t, k, nil, "trace", "--nonsense"); out.Code != 2 {
		t.Errorf("wrong usage: exit %d, want 2", out.Code)
	}
}

// Each way to have no exit code is told from the others.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	k := guesttest.Kernels(t)[0]
	shell := guesttest.Shell(t)
	run := func(change func(*guest.Config), args ...string) error {
		var discard bytes.Buffer
		c := guest.Config{Kernel: k.Image, Binary: guesttest.Binary(t), Args: args, Stdout: &discard, Stderr: &discard, Timeout: 2 * time.Minute}
		shell(&c)
		if change != nil {
			change(&c)
		}
		_, err := guest.Run(context.Background(), c)
		return err
	}
	for name, c := range map[string]struct {
		err    error
		change func(*guest.Config)
		args   []string
	}{
		"timeout": {guest.ErrTimeout, func(c *guest.Config) { c.Timeout = 10 * time.Second }, []string{"trace"}},
		"panic":   {guest.ErrPanic, nil, []string{"trace", "--only", "perf", "--", "sh", "-c", "echo c > /proc/sysrq-trigger; busybox sleep 60"}},
		"no init": {guest.ErrNoInit, func(c *guest.Config) { c.Memory = "nonsense" }, []string{"version"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run(c.change, c.args...)
			var failure *guest.Error
			if !errors.Is(err, c.err) || !errors.As(err, &failure) {
				t.Fatalf("got %v; want %v", err, c.err)
			}
			if name == "panic" && (failure.Booting || !strings.Contains(failure.Detail, "sysrq")) {
				t.Errorf("got %+v; want the panic's own words", failure)
			}
		})
	}
}
