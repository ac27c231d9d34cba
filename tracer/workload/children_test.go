package workload

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

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
