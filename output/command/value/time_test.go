package value

import (
	"testing"
	"time"
)

// A time of day is one of today; where a time that is over is asked for, it is the last such.
func TestMoment(t *testing.T) {
	zone := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = zone })
	now := time.Date(2026, 3, 1, 0, 30, 0, 0, time.UTC)
	for text, want := range map[string][2]string{
		"00:12":                {"2026-03-01T00:12:00Z", "2026-03-01T00:12:00Z"},
		"23:50":                {"2026-03-01T23:50:00Z", "2026-02-28T23:50:00Z"},
		"23:50:01.5":           {"2026-03-01T23:50:01.5Z", "2026-02-28T23:50:01.5Z"},
		"90m":                  {"2026-02-28T23:00:00Z", "2026-02-28T23:00:00Z"},
		"1d":                   {"2026-02-28T00:30:00Z", "2026-02-28T00:30:00Z"},
		"2026-03-05 03:12":     {"2026-03-05T03:12:00Z", "2026-03-05T03:12:00Z"}, // as it was said
		"2026-01-05T03:12:00Z": {"2026-01-05T03:12:00Z", "2026-01-05T03:12:00Z"},
	} {
		for i, past := range []bool{false, true} {
			var got time.Time
			m := moment{at: &got, now: func() time.Time { return now }, past: past}
			if err := m.Set(text); err != nil || got.Format(time.RFC3339Nano) != want[i] {
				t.Errorf("%s: %s, %v; want %s", text, got.Format(time.RFC3339Nano), err, want[i])
			}
		}
	}
	for _, text := range []string{"", "noon", "-5m", "25:00"} {
		var got time.Time
		if m := (moment{at: &got, now: time.Now}); m.Set(text) == nil {
			t.Errorf("%q: %s", text, got)
		}
	}
}
