// Package format writes single values for people: numbers, amounts of memory, and
// texts that others have chosen.
package format

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Fit shortens a text that is too wide for its column: a number to fewer
// digits, never by cutting some off.
func Fit(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		for precision := width; precision >= 0; precision-- {
			if short := strconv.FormatFloat(float64(n), 'e', precision, 64); len(short) <= width {
				return short
			}
		}
	}
	return string([]rune(s)[:width-1]) + "…"
}

// Printable makes a text safe for a terminal: a comm or a path may hold escape
// sequences.
func Printable(s string) string {
	unsafe := func(c rune) bool { return c == utf8.RuneError || !strconv.IsPrint(c) }
	if strings.IndexFunc(s, unsafe) < 0 {
		return s
	}
	// What prints stays as it is, so that a text can be part of one that is made safe again.
	var b strings.Builder
	for len(s) > 0 {
		c, size := utf8.DecodeRuneInString(s)
		if unsafe(c) {
			quoted := strconv.Quote(s[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}

// Errno is the name of an error number.
func Errno(errno int32) string { return rule.ErrnoName(unix.Errno(errno)) }

// Cause is why something failed, without where: the text of the errno, where there is one.
func Cause(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return Printable(err.Error())
}

// Bytes writes a number of bytes in the largest binary unit that fits.
func Bytes(n int64) string {
	value, unit := float64(n), 0
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	for (value >= 1024 || value <= -1024) && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	if value == float64(int64(value)) {
		return fmt.Sprintf("%d %s", int64(value), units[unit])
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

// Pages is a number of pages, in pages and bytes where the page size is known.
func Pages(pages int64, pageSize uint32) string {
	s := Count(pages, "page")
	if pageSize == 0 {
		return s
	}
	return fmt.Sprintf("%s (%s)", s, Bytes(pages*int64(pageSize)))
}

// Count is a number of things, whose name agrees with it.
func Count[N ~int | ~int64 | ~uint32 | ~uint64](n N, name string) string {
	if n == 1 {
		return "1 " + name
	}
	plural := name + "s"
	if stem, ok := strings.CutSuffix(name, "y"); ok {
		plural = stem + "ies"
	} else if strings.HasSuffix(name, "s") {
		plural = name + "es"
	}
	return fmt.Sprintf("%d %s", n, plural)
}

// WriteJSON writes a value as JSON of several lines, safe for a terminal.
func WriteJSON(w io.Writer, value any) error {
	raw, err := json.MarshalIndent(value, "", "  ")
	return writeEscaped(w, raw, err)
}

// WriteJSONLine writes a value as JSON of one line, safe for a terminal.
func WriteJSONLine(w io.Writer, value any) error {
	raw, err := json.Marshal(value)
	return writeEscaped(w, raw, err)
}

func writeEscaped(w io.Writer, raw []byte, err error) error {
	if err != nil {
		return err
	}
	_, err = w.Write(append(EscapeJSON(raw), '\n'))
	return err
}

// EscapeJSON makes JSON safe for a terminal: what does not print is escaped in its strings.
// The encoder escapes no more than JSON itself wants, and leaves, for one, the controls of C1
// and those of writing from right to left as they are.
func EscapeJSON(raw []byte) []byte {
	safe := func(c rune) bool { return c == '\n' || strconv.IsPrint(c) }
	if bytes.IndexFunc(raw, func(c rune) bool { return !safe(c) }) < 0 {
		return raw
	}
	escaped := make([]byte, 0, len(raw)+32)
	for _, c := range string(raw) {
		switch {
		case safe(c):
			escaped = utf8.AppendRune(escaped, c)
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, high, low)
		default:
			escaped = fmt.Appendf(escaped, `\u%04x`, c)
		}
	}
	return escaped
}
