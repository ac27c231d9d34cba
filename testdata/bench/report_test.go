package main

import (
	"math"
	"testing"
)

func TestWorseThan(t *testing.T) {
	baseline := map[string]float64{"a": 1, "b": 2, "stop: c": 1}
	tests := []struct {
		name string
		now  map[string]float64
		want int
	}{
		{"the same", map[string]float64{"a": 1, "b": 2, "stop: c": 1}, 0},
		{"within the tolerance", map[string]float64{"a": 1.19, "b": 1, "stop: c": 1}, 0},
		{"one is slower", map[string]float64{"a": 1.21, "b": 2, "stop: c": 1}, 1},
		{"a stop, which varies", map[string]float64{"a": 1, "b": 2, "stop: c": 1.9}, 0},
		{"a slow stop", map[string]float64{"a": 1, "b": 2, "stop: c": 2.1}, 1},
		{"one was not measured", map[string]float64{"a": 1, "stop: c": 1}, 1},
		{"one is no number", map[string]float64{"a": math.NaN(), "b": 2, "stop: c": 1}, 1},
		{"one is not in the baseline", map[string]float64{"a": 1, "b": 2, "c": 1, "stop: c": 1}, 1},
	}
	for _, test := range tests {
		if got := worseThan(baseline, test.now); len(got) != test.want {
			t.Errorf("%s: %q, want %d", test.name, got, test.want)
		}
	}
}
