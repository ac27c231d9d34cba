package known

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/check"
)

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		kernels, release string
		want             bool
	}{
		{"*", "6.12.107+deb13-cloud-amd64", true},
		{"*", "an unknown kernel", true},
		{"6.12", "6.12.107+deb13-cloud-amd64", true},
		{"6.1", "6.12.107", false},
		{"6.1", "6.1.0-50-cloud-amd64", true},
		{"6", "6.1.0", true},
		{"6.12.107", "6.12.107+deb13-cloud-amd64", true},
		{"6.12.10", "6.12.107", false},
		{"6.12.107", "6.12", false},
		{"6.16..7.3", "6.15.9", false},
		{"6.16..7.3", "6.16.0-rc1", true},
		{"6.16..7.3", "7.0.13", true},
		{"6.16..7.3", "7.3.4", true},
		{"6.16..7.3", "7.4.0", false},
		{"6.16..7.3.4", "7.3.5", false},
		{"7.3..6.16", "7.0.1", false},
		{"6.1.192-known-bad", "6.1.192-known-bad", true},
		{"6.1.192-known-bad", "6.1.192", false},
		{"5.10,6.1", "6.1.192", true},
		{"6.1", "an unknown kernel", false},
		{"5..7", "an unknown kernel", false},
	} {
		e := Entry{Kernels: strings.Split(c.kernels, ",")}
		if got := e.covers(c.release); got != c.want {
			t.Errorf("%s covers %s: %v", c.kernels, c.release, got)
		}
	}
}

// scenario is one that came to verdicts, by the tracer, or without one.
func scenario(name, result, verdicts string, traced bool) check.Scenario {
	sc := check.Scenario{Name: name, Result: result, Verdicts: strings.Fields(verdicts)}
	sc.Evidence.Tracer.Watched = traced
	return sc
}

func TestMark(t *testing.T) {
	const list = `
# a comment
6.16..7.3  map-twice      double-charge                     leak  # further mappings
6.16..7.3  map-twice      misdirected-refund,wrong-refusal
*          past-allowance overcharge
`
	l, err := Parse("list", list)
	if err != nil {
		t.Fatal(err)
	}
	fail, pass := check.Fail, check.Pass
	for _, c := range []struct {
		name    string
		release string
		sc      check.Scenario
		known   string
		gone    string // verdicts
	}{
		{"known", "6.16.1", scenario("map-twice", fail, "double-charge", true), "further mappings", "misdirected-refund wrong-refusal"},
		{"by two lines", "6.16.1", scenario("map-twice", fail, "double-charge misdirected-refund", true), "further mappings, list:4", "wrong-refusal"},
		{"another verdict", "6.16.1", scenario("map-twice", fail, "leak", true), "", "double-charge misdirected-refund wrong-refusal"},
		{"another verdict besides", "6.16.1", scenario("map-twice", fail, "double-charge underflow", true), "", "misdirected-refund wrong-refusal"},
		{"another kernel", "6.12.107", scenario("map-twice", fail, "double-charge", true), "", ""},
		{"another scenario", "6.16.1", scenario("map-once", fail, "double-charge", true), "", ""},
		{"any kernel", "nonsense", scenario("past-allowance", fail, "overcharge", true), "list:5", ""},
		{"no more", "6.16.1", scenario("map-twice", pass, "", true), "", "double-charge misdirected-refund wrong-refusal"},
		{"not run", "6.16.1", scenario("map-twice", check.Skip, "", true), "", ""},
		{"by the witnesses alone", "6.16.1", scenario("map-twice", fail, "leak", false), "further mappings", ""},
		{"another verdict of the witnesses", "6.16.1", scenario("map-twice", fail, "mischarge", false), "", ""},
		{"no more, by the witnesses that would have seen it", "6.16.1", scenario("map-twice", pass, "", false), "", "double-charge"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := check.Report{Kernels: []check.Kernel{{Release: c.release, Scenarios: []check.Scenario{c.sc}}}}
			l.Mark(&r)
			k := r.Kernels[0]
			var gone []string
			for _, g := range k.Gone {
				gone = append(gone, g.Verdicts...)
			}
			if k.Scenarios[0].Known != c.known || strings.Join(gone, " ") != c.gone {
				t.Errorf("known as %q, want %q; gone %v, want %s", k.Scenarios[0].Known, c.known, gone, c.gone)
			}
			if k.Gone == nil {
				t.Error("nil is null in JSON")
			}
		})
	}
}

// A verdict that the tracer saw, and that is not the fail's own, is not gone.
func TestSeenIsNotGone(t *testing.T) {
	sc := scenario("map-twice", check.Fail, "double-charge", true)
	sc.Evidence.Tracer.Broken = []check.Broken{{Verdict: "wrong-refusal", Certainty: "uncertain"}}
	r := check.Report{Kernels: []check.Kernel{{Release: "6.16", Scenarios: []check.Scenario{sc}}}}
	List{{Kernels: []string{"*"}, Scenario: "map-twice", Verdicts: []string{"double-charge", "wrong-refusal"}}}.Mark(&r)
	if gone := r.Kernels[0].Gone; len(gone) > 0 {
		t.Errorf("%+v", gone)
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"*":                                    "l:1: want kernels",
		"\n* map-twice":                        "l:2: want kernels",
		"* map-twice leak leak leak":           "l:1: want kernels",
		"* map-twise leak":                     `l:1: unknown scenario "map-twise"`,
		"* map-twice leek":                     `l:1: unknown verdict "leek"`,
		"* map-twice ok":                       `l:1: unknown verdict "ok"`,
		"* map-twice leak,":                    `l:1: unknown verdict ""`,
		"6.1.. map-twice leak":                 `l:1: "6.1..": want two versions`,
		"6.1..six map-twice leak":              `l:1: "6.1..six": want two versions`,
		"6.1, map-twice leak # a kernel short": "l:1: a kernel without a name",
	} {
		if _, err := Parse("l", text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v; want %s", text, err, want)
		}
	}
}

// What fails makes a list that knows it, keeps the names it had, and looks as in
// testdata/check. UPDATE_GOLDEN=1 writes that anew.
func TestWritten(t *testing.T) {
	kernel := func(release string, list ...check.Scenario) check.Kernel {
		for i := range list {
			if list[i].Result == check.Fail {
				list[i].Evidence.WitnessVerdicts = []string{"leak"}
			}
		}
		return check.Kernel{Release: release, Scenarios: list}
	}
	double, pass := scenario("map-twice", check.Fail, "double-charge", true), scenario("map-twice", check.Pass, "", true)
	r := check.Report{Kernels: []check.Kernel{
		kernel("6.12.10", pass, scenario("redirect", check.Fail, "leak mischarge", false)),
		kernel("6.16.12+deb13-cloud-amd64", double),
		kernel("7.3.3", pass),
		kernel("7.3.4", double),
		kernel("mine", double),
		kernel("7.2.1", double),
	}}
	names, err := Parse("old", "6.16 map-twice double-charge # further mappings\n7.2 map-twice double-charge")
	if err != nil {
		t.Fatal(err)
	}
	names.Mark(&r)
	l, err := Of(&r, names)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := l.Write(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "testdata", "check", "known.txt")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Error(diff)
	}
	back, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	back.Mark(&r)
	for _, k := range r.Kernels {
		if k.Failed() || len(k.Gone) > 0 {
			t.Errorf("%s: %+v", k.Release, k)
		}
	}
	r.Kernels[2].Scenarios[0] = double
	back.Mark(&r)
	if !r.Kernels[2].Failed() {
		t.Error("7.3.4 is listed, and 7.3.3 is known by it")
	}
}

// What could not be checked may fail as well.
func TestNoListOfWhatCouldNotRun(t *testing.T) {
	broken := check.Scenario{Name: "map-twice", Result: check.Skip, CouldNotRun: true}
	for name, r := range map[string]check.Report{
		"nothing": {},
		"a panic": {Kernels: []check.Kernel{{}, {Error: "panicked"}}},
		"a part":  {Kernels: []check.Kernel{{Scenarios: []check.Scenario{broken}}}},
	} {
		if l, err := Of(&r, nil); err == nil {
			t.Errorf("%s: %v", name, l)
		}
	}
}

// The list of stock kernels is one that could be in a file.
func TestStock(t *testing.T) {
	l, err := Load(Stock)
	if err != nil || len(l) == 0 {
		t.Fatal(l, err)
	}
	for _, e := range l {
		if err := e.valid(); err != nil || len(e.Witnesses) == 0 {
			t.Errorf("%+v: %v", e, err)
		}
	}
	for release, want := range map[string]string{
		"6.1.0-50-cloud-amd64": "", "6.16.12+deb13-cloud-amd64": "double-charge-of-further-mappings", "6.18.15": "", "7.4.0": "",
	} {
		r := check.Report{Kernels: []check.Kernel{{Release: release, Scenarios: []check.Scenario{scenario("redirect-mapped", check.Fail, "double-charge", true)}}}}
		l.Mark(&r)
		if got := r.Kernels[0].Scenarios[0].Known; got != want {
			t.Errorf("redirect-mapped on %s, which only 6.16 and 6.17 show: %q", release, got)
		}
	}
}
