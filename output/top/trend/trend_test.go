package trend

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// made is a series of values, one a second, the first of them at second 1.
func made(c Clock, values ...int64) (Series, Clock) {
	var s Series
	for i, v := range values {
		at := uint64(i+1) * uint64(time.Second)
		c = c.At(at)
		s = s.Add(c, at, v)
	}
	return s, c
}

func TestSpark(t *testing.T) {
	for name, c := range map[string]struct {
		values []int64
		width  int
		want   string
	}{
		"steps stay until the next":    {[]int64{0, 4, 4, 4, 8, 8, 8, 8, 0}, 8, "▁▄▄▄███▁"},
		"a peak is seen":               {[]int64{0, 0, 0, 9, 0, 0, 0, 0, 0}, 4, "▁█▁▁"},
		"little is more than nothing":  {[]int64{0, 1, 1000}, 2, "▁█"},
		"no less than all is the top":  {[]int64{999, 1000, 1000}, 2, "▇█"},
		"nothing at all":               {[]int64{0, 0}, 3, "▁▁▁"},
		"below nothing is as nothing":  {[]int64{-5, 7, 7}, 2, "▁█"},
		"one value is one moment":      {[]int64{7}, 3, "  █"},
		"no value":                     {nil, 3, "   "},
		"more characters than samples": {[]int64{1, 2, 2}, 6, "▄▄▄███"},
	} {
		s, clock := made(Over(0), c.values...)
		cells := s.Cells(clock, c.width)
		if got := Spark(cells, Peak(cells)); got != c.want {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
	}
}

// What was not seen from the start is blank until then.
func TestSeenLater(t *testing.T) {
	c := Over(0).At(1e9).At(9e9)
	s := Series{}.Add(c, 5e9, 3)
	if got := Spark(s.Cells(c, 4), 3); got != "  ██" {
		t.Errorf("%q", got)
	}
	s = s.Add(c, 7e9, 3)
	if len(s.past) != 0 {
		t.Errorf("the same again is no step: %+v", s)
	}
}

// A window shows what was in it, and the value with which it began.
func TestWindow(t *testing.T) {
	s, c := made(Over(4*time.Second), 9, 2, 2, 2, 2, 2, 2, 5)
	if got := Spark(s.Cells(c, 4), 9); got != "▂▂▂▄" {
		t.Errorf("%q", got)
	}
	s, c = made(Over(4*time.Second), 9, 9, 9, 9, 9, 9, 9, 9)
	if c = c.At(100e9); Spark(s.Cells(c, 4), 9) != "████" {
		t.Error("what did not change is not seen")
	}
}

// However much happens, in however long a time, there are no more samples than that; the
// peak, the refusals and the latest value are kept.
func TestBounded(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, window := range []time.Duration{0, time.Minute} {
		c, s := Over(window), Series{}
		var at uint64 = 1e18
		var refused uint32
		var value int64
		for range 20_000 {
			at += random.Uint64N(uint64(time.Second))
			c = c.At(at)
			if value = random.Int64N(1000); value < 10 {
				s = s.Refuse(c, at)
				refused++
			}
			s = s.Add(c, at, value)
			if len(s.past) > Most+2 {
				t.Fatalf("%s: %d samples", window, len(s.past))
			}
		}
		cells := s.Cells(c, 50)
		if s.Now() != value || window == 0 && Peak(cells) != 999 {
			t.Errorf("%s: now %d, peak %d; want %d and 999", window, s.Now(), Peak(cells), value)
		}
		var marked uint32
		for _, cell := range cells {
			marked += cell.Refused
		}
		if window == 0 && marked != refused || window > 0 && (marked == 0 || marked >= refused) {
			t.Errorf("%s: %d refusals; want %d", window, marked, refused)
		}
	}
}

// Adding leaves the series as it was, whatever is made of it.
func TestImmutable(t *testing.T) {
	s, c := made(Over(0), 1, 2, 3, 4)
	before := Spark(s.Cells(c, 8), 9)
	for value := range int64(9) {
		for at := uint64(4); at < 9; at++ {
			s.Add(c.At(at*1e9), at*1e9, value).Refuse(c, at*1e9)
		}
	}
	if got := Spark(s.Cells(c, 8), 9); got != before {
		t.Errorf("%q; before %q", got, before)
	}
}

// A time before the last sample is as that of the sample: late readings put nothing in disorder.
func TestLate(t *testing.T) {
	s, c := made(Over(0), 1, 2, 3)
	s = s.Add(c, 1e9, 5)
	if s.Now() != 5 || s.Growth() != 4 || Peak(s.Cells(c, 3)) != 5 {
		t.Errorf("%+v", s)
	}
}

// A chart has steps, the limit behind them, and what was refused below.
func TestChart(t *testing.T) {
	s, c := made(Over(0), 0, 4, 4, 8, 8, 8, 2, 2, 2)
	s = s.Refuse(c, 6e9+1)
	cells := s.Cells(c, 8)
	for _, limit := range []struct {
		is   int64
		row  int
		want string
	}{
		{6, 1, strings.Join([]string{"   ███  ", "───███──", " █████  ", " ███████"}, "|")},
		{0, -1, strings.Join([]string{"   ███  ", "   ███  ", " █████  ", " ███████"}, "|")},
		{9, -1, strings.Join([]string{"   ███  ", "   ███  ", " █████  ", " ███████"}, "|")},
		{8, 0, strings.Join([]string{"───███──", "   ███  ", " █████  ", " ███████"}, "|")},
	} {
		rows, row := Chart(cells, 8, limit.is, 4)
		if got := strings.Join(rows, "|"); got != limit.want || row != limit.row {
			t.Errorf("limit %d: row %d\n%s\nwant %d\n%s", limit.is, row, strings.Join(rows, "\n"), limit.row, limit.want)
		}
	}
	if got := Marks(cells, '✗'); got != "      ✗ " {
		t.Errorf("%q", got)
	}
	if rows, _ := Chart(cells, 64, 0, 2); rows[1] != " ▁▁▂▂▂▁▁" {
		t.Errorf("%q", rows)
	}
	quiet, c := made(Over(0), 1, 2)
	if got := Marks(quiet.Cells(c, 3), '✗'); got != "" {
		t.Errorf("%q", got)
	}
}
