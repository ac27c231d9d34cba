package report

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/output/hostile"
	"github.com/pinwatch/pinwatch/tracer/check"
)

// spoiled is a report of which a text is everything: a guest's kernel, which may be anyone's,
// has a say in all of it.
func spoiled(text string) *check.Report {
	r := aKnownReport()
	r.Kernels = append(r.Kernels, aReport().Kernels[3:]...)
	for i := range r.Kernels {
		k := &r.Kernels[i]
		results := make([]string, len(k.Scenarios))
		for j := range k.Scenarios {
			results[j] = k.Scenarios[j].Result
		}
		alive, traced := k.Error == "", k.TracerError == ""
		hostile.Fill(k, text)
		for j := range k.Scenarios {
			k.Scenarios[j].Result = results[j]
		}
		if alive {
			k.Error = ""
		}
		if traced {
			k.TracerError = ""
		}
	}
	return r
}

// unfenced is what is markup in Markdown: no code, in a line or between fences.
func unfenced(text string) string {
	if i := strings.Index(text, "\n```"); i >= 0 {
		text = text[:i+4]
	}
	return regexp.MustCompile("`[^`\n]+`").ReplaceAllString(text, "")
}

// No text of a kernel's does more than be read, in any format: it is no escape sequence, and
// no line, element, test or command of its own.
func TestHostileReports(t *testing.T) {
	// What of a format must be there as often whatever the texts are.
	marks := map[string]*regexp.Regexp{
		FormatTable:    regexp.MustCompile(`(?m)^SCENARIO`),
		FormatKTAP:     regexp.MustCompile(`(?m)^ *(ok|not ok|1\.\.|KTAP|Bail out)`),
		FormatJUnit:    regexp.MustCompile(`<[a-z/!?]`),
		FormatGitHub:   regexp.MustCompile(`(?m)^::`),
		FormatMarkdown: regexp.MustCompile("(?m)^(#|\\||```)|[<[]|\\*\\*"),
	}
	for name, text := range hostile.Texts() {
		for _, f := range Formats() {
			got := render(t, f, spoiled(text))
			if err := hostile.Terminal(got); err != nil {
				t.Errorf("%s: %s: %v", f, name, err)
			}
			if m := marks[f]; m != nil {
				count := func(text string) int {
					if f == FormatMarkdown {
						text = unfenced(text)
					}
					return len(m.FindAllString(text, -1))
				}
				want := count(render(t, f, spoiled("x")))
				if n := count(got); n != want && name != "nothing" {
					t.Errorf("%s: %s: %d of %s; with a plain text %d", f, name, n, m, want)
				}
			}
			switch f {
			case FormatJSON, FormatKCIDB:
				if !json.Valid([]byte(got)) {
					t.Errorf("%s: %s: no JSON", f, name)
				}
			case FormatJUnit:
				d := xml.NewDecoder(strings.NewReader(got))
				for {
					if _, err := d.Token(); err == io.EOF {
						break
					} else if err != nil {
						t.Errorf("%s: %s: %v", f, name, err)
						break
					}
				}
			}
		}
	}
}

// Nor in what is explored. The image and the flags are the user's own.
func TestHostileExplored(t *testing.T) {
	for name, text := range hostile.Texts() {
		for _, f := range []string{FormatTable, FormatJSON} {
			write, err := ExploredWriter(f)
			if err != nil {
				t.Fatal(err)
			}
			r := anExplored()
			for i := range r.Kernels {
				hostile.Fill(&r.Kernels[i], text)
				r.Kernels[i].Image = "x"
			}
			var out strings.Builder
			if err := write(&out, r, nil); err != nil {
				t.Fatal(err)
			}
			if err := hostile.Terminal(out.String()); err != nil {
				t.Errorf("%s: %s: %v", f, name, err)
			}
			if f == FormatTable && regexp.MustCompile(`(?m)^(ok|not ok|b$|::error)`).MatchString(out.String()) {
				t.Errorf("%s: %s: a line of its own:\n%s", f, name, out.String())
			}
		}
	}
}
