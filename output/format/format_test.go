package format

import (
	"testing"
	"unicode/utf8"
)

func TestFit(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"123", 3, "123"},
		{"-4611686018427387904", 9, "-4.61e+18"},
		{"18446744073709551615", 9, "18446744…"}, // not an int64: text
		{"a-very-long-comm", 8, "a-very-…"},
	} {
		if got := Fit(c.text, c.width); got != c.want || utf8.RuneCountInString(got) > c.width {
			t.Errorf("Fit(%q, %d) = %q; want %q", c.text, c.width, got, c.want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"perf":           "perf",
		"jalapeño":       "jalapeño",
		"\x1b[2Jroot":    `\x1b[2Jroot`,
		"a\xffb":         `a\xffb`,
		"tab\tnewline\n": `tab\tnewline\n`,
		`"a\b"` + "\x1b": `"a\b"\x1b`,
	} {
		if got := Printable(in); got != want {
			t.Errorf("Printable(%q) = %q; want %q", in, got, want)
		}
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 4 << 20: "4 MiB", -3 << 30: "-3 GiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q; want %q", n, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for want, got := range map[string]string{
		"0 events":        Count(0, "event"),
		"1 event":         Count(1, "event"),
		"2 processes":     Count(2, "process"),
		"2 entries":       Count(uint64(2), "entry"),
		"1 entry":         Count(uint32(1), "entry"),
		"-1 pages":        Count(int64(-1), "page"),
		"1 page":          Pages(1, 0),
		"2 pages (8 KiB)": Pages(2, 4096),
	} {
		if got != want {
			t.Errorf("%q; want %q", got, want)
		}
	}
}
