// Package hostile has texts as an attacker may choose them, for the tests of whatever shows
// what others have named: a process, a map, a cgroup, a container, a kernel.
package hostile

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Texts are such texts, by what they try.
func Texts() map[string]string {
	return map[string]string{
		"an escape sequence":     "a\x1b[2J\x1b]0;title\x07b",
		"one of a single rune":   "a\u009b31mb", // CSI of C1, which terminals of UTF-8 take
		"one of a single byte":   "a\x9b31mb",
		"lines":                  "a\nb\r\nok 1 b\rc",
		"other lines":            "a\u2028b\u2029c\u0085d\vd\fe",
		"tabs and backspaces":    "a\tb\b\b\bc\x7f",
		"NUL":                    "a\x00b",
		"bidi controls":          "a\u202eb\u2066c\u200fd\u061ce",
		"what has no width":      "a\u200bb\ufeffc\u00add\U000e0041e",
		"invalid UTF-8":          "a\xff\xfe\xc3(b\xed\xa0\x80c\xf8\x88",
		"size":                   strings.Repeat("0123456789abcdef", 1024),
		"wide runes":             strings.Repeat("界", 300),
		"HTML":                   "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>&lt;",
		"Markdown":               "a`b``c| [x](javascript:alert(1)) **d** <b>\n# e",
		"a workflow command":     "a\n::error title=x::y%0A::set-output name=z::%25",
		"KTAP":                   "a # SKIP b\nnot ok 1 c\n1..9\nBail out!",
		"CDATA":                  "a]]>b<!DOCTYPE c [<!ENTITY d \"e\">]>&d;",
		"quotes and backslashes": `a"b\"c\u001b[2Jd\x1be'f`,
		"formats":                "%s%d%!(NOVERB){{program}}${a}$(b)",
		"nothing":                "",
		"spaces":                 "   ",
	}
}

// Terminal reports what of a text a terminal would act on, or hide, beside the ends of lines.
func Terminal(text string) error {
	for i, c := range text {
		if c == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(text[i:]); size == 1 {
				return fmt.Errorf("byte %#x at %d is no UTF-8: %.80q", text[i], i, text[max(0, i-20):])
			}
		}
		if c != '\n' && !strconv.IsPrint(c) {
			return fmt.Errorf("%U at %d: %.80q", c, i, text[max(0, i-20):])
		}
	}
	return nil
}

// JSON reports what of JSON lines a terminal would act on, and what is none.
func JSON(lines string) error {
	for line := range strings.Lines(lines) {
		if !json.Valid([]byte(line)) {
			return fmt.Errorf("no JSON: %.200q", line)
		}
	}
	return Terminal(lines)
}

// Fill sets every text in a value to one: the fields of structures, and what is in slices and
// behind pointers.
func Fill(value any, text string) { fill(reflect.ValueOf(value), text) }

func fill(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.Pointer:
		fill(v.Elem(), text)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), text)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), text)
		}
	case reflect.String:
		if v.CanSet() {
			v.SetString(text)
		}
	}
}
