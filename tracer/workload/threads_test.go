package workload

import (
	"os"
	"testing"
)

// Threads that were started are still there when nothing runs on them.
func TestSpareThreads(t *testing.T) {
	if err := SpareThreads(20); err != nil {
		t.Fatal(err)
	}
	if threads, err := os.ReadDir("/proc/self/task"); err != nil || len(threads) < 20 {
		t.Errorf("%d threads: %v", len(threads), err)
	}
}
