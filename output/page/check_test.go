package page_test

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/output/page"
	"github.com/pinwatch/pinwatch/tracer/check"
)

// checked is the page of a check's report, after some change to that.
func checked(t testing.TB, change func(*check.Report)) []byte {
	t.Helper()
	raw, err := os.ReadFile("../../testdata/check/report.json")
	if err != nil {
		t.Fatal(err)
	}
	var r check.Report
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	change(&r)
	var out bytes.Buffer
	if err := page.Check(&out, "report.json", &r); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func asFound(*check.Report) {}

// matrix is what the tests read of the page of a check.
type matrix struct {
	Broken             bool
	Verdict            string
	Kernels            []struct{ Name string }
	Scenarios, Changes []string
	Cells              [][]struct {
		Result                        string
		Verdicts, Evidence, Reproduce []string
		Changed                       bool
	}
}

func matrixOf(t testing.TB, html []byte) *matrix {
	t.Helper()
	m := &matrix{}
	if err := json.Unmarshal(script.FindSubmatch(html)[1], m); err != nil {
		t.Fatal(err)
	}
	return m
}

// Each cell of the matrix is what the report has, with its evidence; a kernel that differs
// from the one before is marked, also where only the witnesses looked on at both.
func TestCheck(t *testing.T) {
	m := matrixOf(t, checked(t, asFound))
	if want := "2 of 5 kernels account locked memory wrong: 6.16.12, 7.3.4; not everything could be checked on 7.4.0-rc1, 6.12.107 arm64 16K"; !m.Broken || m.Verdict != want || len(m.Changes) == 0 {
		t.Errorf("%q, changes %q", m.Verdict, m.Changes)
	}
	row := m.Cells[slices.Index(m.Scenarios, "map-twice")]
	if row[0].Result != "pass" || row[0].Changed {
		t.Errorf("the first kernel: %+v", row[0])
	}
	if c := row[1]; c.Result != "FAIL" || !c.Changed || !slices.Equal(c.Verdicts, []string{"double-charge"}) || len(c.Reproduce) != 2 || !strings.HasPrefix(c.Evidence[1], "witness: ") && !strings.HasPrefix(c.Evidence[2], "witness: ") {
		t.Errorf("the second kernel: %+v", c)
	}
	for s, row := range m.Cells {
		if len(row) != len(m.Kernels) {
			t.Errorf("%s has %d cells", m.Scenarios[s], len(row))
		}
	}
	quiet := matrixOf(t, checked(t, func(r *check.Report) { r.Kernels = r.Kernels[:1] }))
	if quiet.Broken || quiet.Verdict != "no broken rule was found on 1 kernel" {
		t.Errorf("%q", quiet.Verdict)
	}
}

// The page's program has a word and, where there is one, evidence for all that a cell can be. A
// failure that is known is still one of the kernel's.
func TestKnownFailures(t *testing.T) {
	html := checked(t, func(r *check.Report) {
		for i := range r.Kernels {
			for j := range r.Kernels[i].Scenarios {
				if sc := &r.Kernels[i].Scenarios[j]; sc.Result == check.Fail {
					sc.Known = "stock finding"
				}
			}
		}
	})
	m := matrixOf(t, html)
	c := m.Cells[slices.Index(m.Scenarios, "map-twice")][1]
	if c.Result != "known" || !m.Broken || !slices.Contains(c.Evidence, "known as stock finding") {
		t.Errorf("broken: %v; %+v", m.Broken, c)
	}
	words := regexp.MustCompile(`const words = \{(.*)\};`).FindSubmatch(html)
	if words == nil {
		t.Fatal("the program has no words")
	}
	for _, row := range m.Cells {
		for _, c := range row {
			if !regexp.MustCompile(`(^| )"?` + regexp.QuoteMeta(c.Result) + `"?: "`).Match(words[1]) {
				t.Errorf("no word for %q in %s", c.Result, words[1])
			}
		}
	}
}

// spoil has hostile names wherever a report has a text.
func spoil(r *check.Report) {
	k := &r.Kernels[0]
	k.Release, k.Error, k.TracerError, k.Image = names[0], names[1], names[4], names[3]
	sc := &k.Scenarios[0]
	sc.Name, sc.Reason, sc.Result, sc.Verdicts = names[2], names[5], check.Fail, []string{names[2]}
	sc.Evidence.Notes, sc.Evidence.Reproduce, sc.Evidence.Hurts = names, names[:2], names[3]
}

// Texts of a report cannot be anything but text.
func TestHostileCheck(t *testing.T) {
	html, plain := checked(t, spoil), checked(t, asFound)
	for _, tag := range []string{"<script", "</script", "<!--", "\u2028", "\u202e", "\x1b", "<img"} {
		if got, want := bytes.Count(html, []byte(tag)), bytes.Count(plain, []byte(tag)); got != want {
			t.Errorf("%q is in the page %d times, not %d", tag, got, want)
		}
	}
	matrixOf(t, html)
}
