package top

import (
	"testing"
	"time"
)

func TestParseSeek(t *testing.T) {
	time.Local = time.UTC
	now := time.Date(2026, 11, 26, 10, 48, 36, 5e8, time.UTC)
	at := func(hour, minute, second, ns int) Seek {
		return Seek{By: SeekTime, TimeNS: uint64(time.Date(2026, 11, 26, hour, minute, second, ns, time.UTC).UnixNano())}
	}
	for text, want := range map[string]Seek{
		"50%":                 {By: SeekFraction, Fraction: 0.5},
		" 0% ":                {By: SeekFraction},
		"#12":                 {By: SeekEvent, Event: 12},
		"0":                   {By: SeekEvent},
		"+1.5s":               at(10, 48, 38, 0),
		"-500ms":              at(10, 48, 36, 0),
		"10:48":               at(10, 48, 0, 999_999),
		"10:48:36.25":         at(10, 48, 36, 250_999_999),
		"2026-11-26 09:00:01": at(9, 0, 1, 999_999),
	} {
		got, err := parseSeek(text, uint64(now.UnixNano()))
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "101%", "-1%", "5s", "+7", "noon", "25:00", "%", "#"} {
		if got, err := parseSeek(text, uint64(now.UnixNano())); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
