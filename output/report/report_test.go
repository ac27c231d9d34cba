package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// aReport has every kind of outcome, and text that wants care.
func aReport() *check.Report {
	none := check.Evidence{Broken: []check.Witness{}, WitnessVerdicts: []string{}, Agree: true, Reproduce: []string{}, Notes: []string{}, Tracer: check.Watched{Watched: true, Scheme: "split", Broken: []check.Broken{}}}
	pass := func(name string) check.Scenario {
		return check.Scenario{Name: name, Result: check.Pass, Verdicts: []string{}, Evidence: none}
	}
	skip := func(name, why string, broken bool) check.Scenario {
		return check.Scenario{Name: name, Result: check.Skip, CouldNotRun: broken, Verdicts: []string{}, Evidence: none, Reason: why}
	}
	fail := check.Scenario{Name: "map-twice", Result: check.Fail, Verdicts: []string{"double-charge"}, Reason: "witness: <9> pages", Evidence: check.Evidence{
		AllowancePages: 516, WitnessesRead: 7, WitnessVerdicts: []string{"leak"}, Agree: true, Hurts: "all processes of the user",
		Broken:    []check.Witness{{Witness: "pages of the allowance that fit before EPERM", When: "mapper maps 9 pages", ExpectedPages: 507, SeenPages: 498}},
		Reproduce: []string{"mapper maps 9 pages; mapper maps 9 pages", "pinwatch check --kernel x --scenario map-twice"}, Notes: []string{},
		Tracer: check.Watched{Watched: true, Events: 40, Scheme: "split", Broken: []check.Broken{{Verdict: "double-charge", Count: 1, Kind: "refund", UserExtraPages: 9, ExpectedUserPages: -9, ChargedUserPages: -9, ExcessPages: 9}}},
	}}
	kernel := func(release, arch string, scenarios ...check.Scenario) check.Kernel {
		return check.Kernel{Image: "vmlinuz-" + release, Release: release, Arch: arch, PageBytes: 4096, Tracer: "kprobe", DurationMS: 12005, Scenarios: scenarios, Gone: []check.Gone{}}
	}
	fail.DurationMS = 1034
	dead := kernel("7.4.0-rc1", "amd64")
	dead.Error, dead.Log, dead.Scenarios = "guest kernel panicked: Kernel panic - not syncing: \x1b[31m<#1>\n--- more", "/tmp/pinwatch-7.4.log", []check.Scenario{}
	arm := kernel("6.12.107+deb13-arm64-16k", "arm64", pass("map-once"), pass("map-twice"), skip("cpu-offline", "could not run: mapper: mmap: no answer in time (20s)", true))
	for i := range arm.Scenarios {
		arm.Scenarios[i].Evidence.Tracer.Watched = false
	}
	arm.PageBytes, arm.TracerError, arm.Tracer = 16384, "requires BTF", ""
	return &check.Report{Version: check.Version, Kernels: []check.Kernel{
		kernel("6.12.107+deb13-cloud-amd64", "amd64", pass("map-once"), pass("map-twice"), skip("cpu-offline", "requires a second CPU # that can go offline", false)),
		kernel("6.16.12+deb13-cloud-amd64", "amd64", pass("map-once"), fail, pass("cpu-offline")),
		kernel("7.3.4+deb13-cloud-amd64", "amd64", pass("map-once"), fail, pass("cpu-offline")),
		dead, arm,
	}}
}

// aKnownReport has fails that are known, beside one that is new, and one that did not come.
func aKnownReport() *check.Report {
	r := aReport()
	r.Kernels = r.Kernels[:3]
	r.Kernels[0].Gone = []check.Gone{{Scenario: "map-twice", Verdicts: []string{"double-charge", "leak"}, Known: "further \x1b[31mmappings"}}
	r.Kernels[1].Scenarios[1].Known = "further \x1b[31mmappings"
	twice := r.Kernels[1]
	twice.Release, twice.Scenarios = "7.3.4-rc2", append(slices.Clone(twice.Scenarios), r.Kernels[2].Scenarios[1])
	twice.Scenarios[3].Name = "redirect-mapped"
	r.Kernels = append(r.Kernels, twice)
	return r
}

func render(t *testing.T, format string, r *check.Report) string {
	t.Helper()
	write, err := Writer(format)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What the formats look like stands in testdata/check. UPDATE_GOLDEN=1 writes it
// anew.
func TestReportFormats(t *testing.T) {
	reports := map[string]*check.Report{"report": aReport(), "known": aKnownReport()}
	for _, name := range []string{"report.table", "report.json", "report.ktap", "report.junit", "known.table", "known.ktap", "known.junit", "report.markdown", "known.markdown", "report.github", "known.github", "report.kcidb"} {
		t.Run(name, func(t *testing.T) {
			about, format, _ := strings.Cut(name, ".")
			got := render(t, format, reports[about])
			path := filepath.Join("..", "..", "testdata", "check", name)
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
			if strings.ContainsRune(got, 0x1b) {
				t.Error("an escape sequence of the kernel's came through")
			}
		})
	}
	if _, err := Writer("yaml"); err == nil {
		t.Error("an unknown format is an error")
	}
}

// Kernels are compared by what looked on at both: the name that the tracer has for what a
// witness saw as well is no change, and where the tracer was missing, that is said.
func TestChanges(t *testing.T) {
	type kernel struct {
		release             string
		traced              bool
		verdicts, witnesses string
	}
	for _, c := range []struct {
		name    string
		kernels []kernel
		want    string
	}{
		{"the same", []kernel{{"5.3", true, "overcharge", "overcharge"}, {"5.4", true, "overcharge", "overcharge"}}, ""},
		{"a change", []kernel{{"5.3", true, "overcharge", "overcharge"}, {"5.4", true, "", ""}}, "overcharge on 5.3, pass on 5.4."},
		{"only the tracer is missing", []kernel{{"5.3", false, "leak", "leak"}, {"5.4", true, "double-charge", "leak"}}, ""},
		{"the witnesses see a change", []kernel{{"5.3", false, "overcharge", "overcharge"}, {"5.4", true, "", ""}}, "overcharge on 5.3, pass on 5.4 (no tracer on 5.3: compared by the witnesses there)."},
		{"only the tracer saw it", []kernel{{"5.3", false, "", ""}, {"5.4", true, "leak", ""}}, ""},
		{"a change between others", []kernel{{"5.3", false, "leak", "leak"}, {"5.4", true, "double-charge", "leak"}, {"5.5", true, "", ""}},
			"leak, by the tracer double-charge, from 5.3 to 5.4, pass on 5.5 (no tracer on 5.3: compared by the witnesses there)."},
		{"a change that only the tracer sees, beside one without", []kernel{{"5.3", false, "leak", "leak"}, {"5.4", true, "double-charge", "leak"}, {"5.5", true, "misdirected-refund", "leak"}},
			"leak, by the tracer double-charge, from 5.3 to 5.4, misdirected-refund on 5.5 (no tracer on 5.3: compared by the witnesses there)."},
		{"a change that only the tracer sees, around one without", []kernel{{"5.3", true, "double-charge", "leak"}, {"5.4", false, "leak", "leak"}, {"5.5", true, "misdirected-refund", "leak"}},
			"leak, by the tracer double-charge, from 5.3 to 5.4, misdirected-refund on 5.5 (no tracer on 5.4: compared by the witnesses there)."},
		{"the same, around one without", []kernel{{"5.3", true, "leak", "leak"}, {"5.4", false, "leak", "leak"}, {"5.5", true, "leak", "leak"}}, ""},
		{"no tracer at all", []kernel{{"5.3", false, "leak", "leak"}, {"5.4", false, "", ""}}, "leak on 5.3, pass on 5.4."},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := check.Report{}
			for _, k := range c.kernels {
				sc := check.Scenario{Name: "map-twice", Result: check.Pass, Verdicts: strings.Fields(k.verdicts)}
				if k.verdicts != "" {
					sc.Result = check.Fail
				}
				sc.Evidence.WitnessVerdicts, sc.Evidence.Tracer.Watched = strings.Fields(k.witnesses), k.traced
				r.Kernels = append(r.Kernels, check.Kernel{Release: k.release, Scenarios: []check.Scenario{sc}})
			}
			if c.want != "" {
				c.want = "behaviour changed in map-twice: " + c.want
			}
			if got := strings.Join(Changes(&r, KernelNames(&r)), "\n"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Every field is there, whatever the outcome, with one type.
func TestReportJSON(t *testing.T) {
	var report struct {
		V       int              `json:"v"`
		Kernels []map[string]any `json:"kernels"`
	}
	if err := json.Unmarshal([]byte(render(t, FormatJSON, aReport())), &report); err != nil {
		t.Fatal(err)
	}
	if report.V != 1 || len(report.Kernels) != 5 {
		t.Fatalf("v %d, %d kernels", report.V, len(report.Kernels))
	}
	results := map[string]bool{"pass": true, "fail": true, "skip": true}
	for _, k := range report.Kernels {
		for _, field := range []string{"release", "arch"} {
			if _, ok := k[field].(string); !ok {
				t.Errorf("kernel field %s: %v", field, k[field])
			}
		}
		for _, sc := range k["scenarios"].([]any) {
			sc := sc.(map[string]any)
			if !results[sc["result"].(string)] {
				t.Errorf("result %v", sc["result"])
			}
			if _, ok := sc["verdicts"].([]any); !ok {
				t.Errorf("verdicts %v", sc["verdicts"])
			}
			if e, ok := sc["evidence"].(map[string]any); !ok || e["witnesses"] == nil || e["tracer"] == nil {
				t.Errorf("evidence %v", sc["evidence"])
			}
			if _, ok := sc["reason"].(string); !ok {
				t.Errorf("reason %v", sc["reason"])
			}
		}
	}
}

func TestReportJUnit(t *testing.T) {
	text := render(t, FormatJUnit, aReport())
	decoder := xml.NewDecoder(strings.NewReader(text))
	counts := map[string]int{}
	var suite, cases int
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		counts[start.Name.Local]++
		if start.Name.Local == "testcase" {
			cases++
		}
		for _, a := range start.Attr {
			if start.Name.Local == "testsuite" && a.Name.Local == "tests" {
				n, err := strconv.Atoi(a.Value)
				if err != nil {
					t.Fatal(err)
				}
				suite += n
			}
		}
	}
	want := map[string]int{"testsuites": 1, "testsuite": 5, "failure": 2, "error": 2, "skipped": 1, "testcase": 13}
	for name, n := range want {
		if counts[name] != n {
			t.Errorf("%d elements %s; want %d", counts[name], name, n)
		}
	}
	if suite != cases {
		t.Errorf("the suites announce %d tests, and there are %d", suite, cases)
	}
}

// ktapTests reads KTAP version 1 strictly, as the kernel's documentation has it
// (Documentation/dev-tools/ktap.rst): version line, plan, then numbered results
// with diagnostics and nested tests before them. It returns what is left.
func ktapTests(lines []string, indent string) (results []string, rest []string, err error) {
	next := func() (string, bool) {
		if len(lines) == 0 || !strings.HasPrefix(lines[0], indent) {
			return "", false
		}
		return strings.TrimPrefix(lines[0], indent), true
	}
	line, _ := next()
	if line != "KTAP version 1" {
		return nil, nil, fmt.Errorf("%q: want a version line", line)
	}
	lines = lines[1:]
	line, _ = next()
	plan := regexp.MustCompile(`^1\.\.(\d+)$`).FindStringSubmatch(line)
	if plan == nil {
		return nil, nil, fmt.Errorf("%q: want a plan", line)
	}
	lines = lines[1:]
	result := regexp.MustCompile(`^(ok|not ok) (\d+)(?: (?:- )?([^#]*?))?(?: # (SKIP|TODO|XFAIL|TIMEOUT|ERROR)?(.*))?$`)
	for {
		line, ok := next()
		switch {
		case !ok || line == "":
			if want := plan[1]; want != fmt.Sprint(len(results)) {
				return nil, nil, fmt.Errorf("plan of %s, %d results", want, len(results))
			}
			return results, lines, nil
		case strings.HasPrefix(line, "# "):
			lines = lines[1:]
		case line == "  KTAP version 1":
			_, left, err := ktapTests(lines, indent+"  ")
			if err != nil {
				return nil, nil, err
			}
			lines = left
		default:
			m := result.FindStringSubmatch(line)
			if m == nil {
				return nil, nil, fmt.Errorf("%q: no result", line)
			}
			if m[2] != fmt.Sprint(len(results)+1) {
				return nil, nil, fmt.Errorf("%q: out of order", line)
			}
			results = append(results, m[1]+" "+m[3]+" "+m[4])
			lines = lines[1:]
		}
	}
}

func TestReportKTAP(t *testing.T) {
	read := func(r *check.Report) []string {
		t.Helper()
		text := render(t, FormatKTAP, r)
		results, rest, err := ktapTests(strings.Split(strings.TrimSuffix(text, "\n"), "\n"), "")
		if err != nil || len(rest) > 0 {
			t.Fatalf("%v, left over: %q\n%s", err, rest, text)
		}
		return results
	}
	several := aReport()
	want := []string{"ok 6.12.107 ", "not ok 6.16.12 ", "not ok 7.3.4 ", "not ok 7.4.0-rc1 ERROR", "not ok 6.12.107-arm64-16K ERROR"}
	if diff := cmp.Diff(want, read(several)); diff != "" {
		t.Error(diff)
	}
	one := &check.Report{Version: 1, Kernels: several.Kernels[:1]}
	if diff := cmp.Diff([]string{"ok map-once ", "ok map-twice ", "ok cpu-offline SKIP"}, read(one)); diff != "" {
		t.Error(diff)
	}
	one.Kernels = aKnownReport().Kernels[1:2]
	if diff := cmp.Diff([]string{"ok map-once ", "ok map-twice XFAIL", "ok cpu-offline "}, read(one)); diff != "" {
		t.Error(diff)
	}
	one.Kernels = several.Kernels[4:]
	if diff := cmp.Diff([]string{"ok map-once ", "ok map-twice ", "not ok cpu-offline ERROR"}, read(one)); diff != "" {
		t.Error(diff)
	}
	for _, wrong := range []string{"1..1\nok 1 x", "KTAP version 1\n1..2\nok 1 x", "KTAP version 1\n1..1\nok 2 x", "KTAP version 1\n1..1\nfine 1 x"} {
		if _, _, err := ktapTests(strings.Split(wrong, "\n"), ""); err == nil {
			t.Errorf("the parser takes %q", wrong)
		}
	}
}

// Progress is plain lines where there is no terminal.
func TestProgress(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "err"))
	if err != nil {
		t.Fatal(err)
	}
	p := NewProgress(f, 2)
	p.Say("6.1", "booting")
	p.Done("6.1", "47 pass")
	p.Clear()
	raw, _ := os.ReadFile(f.Name())
	if string(raw) != "pinwatch: 6.1: 47 pass\n" {
		t.Errorf("got %q", raw)
	}
}
