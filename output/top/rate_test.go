package top

import "testing"

func TestRate(t *testing.T) {
	const second = uint64(1e9)
	type reading struct{ count, atNS uint64 }
	for _, c := range []struct {
		name     string
		readings []reading
		want     float64
	}{
		{"one reading is no rate", []reading{{7, second}}, 0},
		{"two", []reading{{7, second}, {17, 3 * second}}, 5},
		{"nothing more", []reading{{7, second}, {17, 2 * second}, {17, 3 * second}}, 0},
		{"no time in between keeps it", []reading{{0, second}, {10, 2 * second}, {99, 2 * second}}, 10},
		{"but not what came", []reading{{0, second}, {10, 2 * second}, {99, 2 * second}, {100, 3 * second}}, 90},
		{"clock went back", []reading{{0, 2 * second}, {10, second}}, 0},
		{"counter went back", []reading{{10, second}, {3, 2 * second}, {5, 3 * second}}, 2},
	} {
		var r rate
		for _, next := range c.readings {
			r = r.next(next.count, next.atNS)
		}
		if r.perSecond != c.want {
			t.Errorf("%s: %v per second; want %v", c.name, r.perSecond, c.want)
		}
	}
}

func TestPerSecond(t *testing.T) {
	for r, want := range map[float64]string{0: "·", 0.04: "0.0", 7.55: "7.5", 10: "10", 99999.6: "100000", 1e9: "1e+09"} {
		if got := perSecond(r); got != want {
			t.Errorf("perSecond(%v) = %q; want %q", r, got, want)
		}
	}
}

func TestMeter(t *testing.T) {
	for _, c := range []struct {
		share              float64
		width              int
		full, rest, number string
	}{
		{0.5, 11, "███", "░░░", "  50%"},
		{0, 11, "", "░░░░░░", "   0%"},
		{7.08, 11, "██████", "", " 708%"},
		{0.5, 4, "", "", " 50%"},
	} {
		full, rest, label := meter(c.share, c.width)
		if full != c.full || rest != c.rest || label != c.number {
			t.Errorf("meter(%v, %d) = %q %q %q", c.share, c.width, full, rest, label)
		}
	}
}
