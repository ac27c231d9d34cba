//go:build guest

// Package broken has tests that fail in a guest, each in a way of its own.
package broken

import (
	"os"
	"testing"
	"time"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

var guests guesttest.Guests

func TestMain(m *testing.M) { os.Exit(guests.Main(m)) }

func TestSubtest(t *testing.T) {
	guests.Test(t, guesttest.First, func(t *testing.T, _ guesttest.Kernel) {
		t.Run("good", func(t *testing.T) { t.Log("all is well") })
		t.Run("deep/er", func(t *testing.T) { t.Run("bad", func(t *testing.T) { t.Error("two words") }) })
		t.Run("before", func(t *testing.T) { guesttest.Missing(t, "99.1", "a feature", os.ErrNotExist) })
		t.Run("lacks", func(t *testing.T) { guesttest.Missing(t, "4.1", "a feature", os.ErrNotExist) })
	})
}

func TestTraces(t *testing.T) {
	guests.Test(t, guesttest.First, func(t *testing.T, _ guesttest.Kernel) {
		if err := os.WriteFile("/proc/sys/kernel/perf_event_mlock_kb", []byte("128"), 0o644); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPanic(t *testing.T) {
	guests.Test(t, guesttest.First, func(*testing.T, guesttest.Kernel) { panic("kernel!") })
}

func TestCrash(t *testing.T) {
	guests.Test(t, guesttest.First, func(*testing.T, guesttest.Kernel) {
		os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
		time.Sleep(time.Minute)
	})
}
