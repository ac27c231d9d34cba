package value

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Duration adds a flag that takes what time.ParseDuration does, and days: 7d.
func Duration(f *pflag.FlagSet, d *time.Duration, name string, standard time.Duration, usage string) {
	*d = standard
	f.Var((*duration)(d), name, usage)
}

type duration time.Duration

func (d *duration) Set(text string) error {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return errors.New("want something like 90m, 12h or 7d")
		}
		*d = duration(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	parsed, err := time.ParseDuration(text)
	if err != nil || parsed < 0 {
		return errors.New("want something like 90m, 12h or 7d")
	}
	*d = duration(parsed)
	return nil
}

func (d *duration) String() string {
	const day = 24 * time.Hour
	if whole := time.Duration(*d); whole >= day && whole%day == 0 {
		return strconv.Itoa(int(whole/day)) + "d"
	}
	return time.Duration(*d).String()
}

func (d *duration) Type() string { return "duration" }

// Size adds a flag that takes an amount of memory.
func Size(f *pflag.FlagSet, bytes *int64, name string, standard int64, parse func(string) (int64, error), usage string) {
	*bytes = standard
	f.Var(&size{bytes, parse}, name, usage)
}

type size struct {
	bytes *int64
	parse func(string) (int64, error)
}

func (s *size) Set(text string) (err error) {
	*s.bytes, err = s.parse(text)
	return err
}

func (s *size) String() string {
	if n := *s.bytes; n%(1<<20) == 0 {
		return strconv.FormatInt(n>>20, 10) + "MB"
	}
	return strconv.FormatInt(*s.bytes, 10)
}

func (*size) Type() string { return "size" }

// Time adds a flag that takes a point in time, in the local zone where it names none, or how
// long ago it is.
func Time(f *pflag.FlagSet, t *time.Time, name, usage string) {
	f.Var(&moment{at: t, now: time.Now}, name, usage+", such as 2026-03-01T02:59:00Z, \"2026-03-01 02:59\", 02:59 (of today), or 90m (ago)")
}

// Past adds such a flag for a time that is over: one of day is the last such.
func Past(f *pflag.FlagSet, t *time.Time, name, usage string) {
	f.Var(&moment{t, time.Now, true}, name, usage+", such as 2026-03-01T02:59:00Z, \"2026-03-01 02:59\", 02:59 (the last one), or 90m (ago)")
}

// Span is from when to when; zero: from the first, to the last.
type Span struct{ From, To time.Time }

// Add adds the flags of a span.
func (s *Span) Add(f *pflag.FlagSet, from, to string) {
	Time(f, &s.From, "from", from)
	Time(f, &s.To, "to", to)
}

// FromNS is Unix time in nanoseconds; 0: from the first.
func (s *Span) FromNS() uint64 {
	if s.From.IsZero() {
		return 0
	}
	return uint64(max(0, s.From.UnixNano()))
}

type moment struct {
	at   *time.Time
	now  func() time.Time
	past bool
}

func (m *moment) Set(text string) error {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			*m.at = t
			return nil
		}
	}
	now := m.now()
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			*m.at = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.Local)
			if m.past && m.at.After(now) {
				*m.at = m.at.AddDate(0, 0, -1)
			}
			return nil
		}
	}
	var ago duration
	if err := ago.Set(text); err != nil {
		return errors.New("want a time such as 2026-03-01T02:59:00Z, \"2026-03-01 02:59\", 02:59, or 90m (ago)")
	}
	*m.at = now.Add(-time.Duration(ago))
	return nil
}

func (m *moment) String() string {
	if m.at.IsZero() {
		return ""
	}
	return m.at.Format(time.RFC3339)
}

func (m *moment) Type() string { return "time" }
