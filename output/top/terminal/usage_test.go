package terminal

import (
	"testing"
	"time"
)

// The share of a CPU is that of the last interval: what starting took is not in it, and an
// interval of no length has none.
func TestUsage(t *testing.T) {
	start := time.Unix(1000, 0)
	u := &usage{cpu: 400 * time.Millisecond, at: start, share: -1}
	for _, reading := range []struct {
		cpu, at time.Duration
		want    float64
	}{
		{500 * time.Millisecond, 100 * time.Millisecond, -1},
		{700 * time.Millisecond, 1500 * time.Millisecond, 0.2},
		{900 * time.Millisecond, 1600 * time.Millisecond, 0.2},
		{1700 * time.Millisecond, 3500 * time.Millisecond, 0.5},
		{1700 * time.Millisecond, 5500 * time.Millisecond, 0},
	} {
		if got := u.of(reading.cpu, start.Add(reading.at)); got != reading.want {
			t.Errorf("after %s: %v; want %v", reading.at, got, reading.want)
		}
	}
}
