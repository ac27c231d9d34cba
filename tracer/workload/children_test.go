package workload

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/child"
)

func TestMain(m *testing.M) {
	child.Init(Children())
	os.Exit(m.Run())
}

// A user's counter lives as long as an idle process of the user does. Without cgo, as
// pinwatch is built, Go ends a process whose goroutines all wait for nothing.
func TestIdleWorkerStays(t *testing.T) {
	var said bytes.Buffer
	idle := child.Command(context.Background(), soakWorkerChild, soakWorker{UID: os.Getuid(), Idle: true})
	idle.Stderr = &said
	if err := idle.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- idle.Wait() }()
	select {
	case err := <-ended:
		t.Errorf("it ended: %v\n%s", err, said.String())
	case <-time.After(500 * time.Millisecond):
		idle.Process.Kill()
		<-ended
	}
}

// The process gets the workload as it is, and its errors are seen.
func TestPerfBuffersInAProcess(t *testing.T) {
	var said bytes.Buffer
	cmd := (&PerfBuffers{UID: -1, Memlock: -1, Pages: 3, Max: 1}).Command(context.Background())
	cmd.Stderr = &said
	if err := cmd.Run(); err == nil || !strings.Contains(said.String(), "--pages 3: want a power of two") {
		t.Errorf("%v: %s", err, said.String())
	}
}

// A limit is lifted by another process: when it is told to, and when nobody is there any more
// who could.
func TestLimitIsLifted(t *testing.T) {
	for name, lift := range map[string]func(*lifter) error{
		"told": (*lifter).lift,
		"left": func(l *lifter) error { return unix.Close(l.tell) },
	} {
		t.Run(name, func(t *testing.T) {
			limit := filepath.Join(t.TempDir(), "memory.max")
			if err := os.WriteFile(limit, []byte("0"), 0o644); err != nil {
				t.Fatal(err)
			}
			l, err := newLifter(limit)
			if err != nil {
				t.Fatal(err)
			}
			if err := lift(l); err != nil {
				t.Error(err)
			}
			l.tell = -1
			l.end()
			if text, err := os.ReadFile(limit); string(text) != "max" {
				t.Errorf("%q, %v; want max", text, err)
			}
		})
	}
}

// Lifting takes no memory: a process whose cgroup has none left must come so far.
func TestLiftingAllocatesNothing(t *testing.T) {
	limit := filepath.Join(t.TempDir(), "memory.max")
	l, err := newLifter(limit)
	if err != nil {
		t.Fatal(err)
	}
	defer l.end()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err = l.lift()
	runtime.ReadMemStats(&after)
	if err != nil || after.Mallocs != before.Mallocs {
		t.Errorf("%d allocations, %v", after.Mallocs-before.Mallocs, err)
	}
}
