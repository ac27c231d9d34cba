package report

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// validate has kcidb-io, which is the schema, say whether it takes a report.
const validate = `import sys, json, kcidb_io
kcidb_io.schema.V5_3.validate(json.load(sys.stdin))`

// The schema takes every report, and not just anything. It is asked where Python has
// kcidb-io, which is under the GPL, and for that not a part of pinwatch.
func TestReportKCIDB(t *testing.T) {
	if exec.Command("python3", "-c", "import kcidb_io").Run() != nil {
		t.Skip("requires Python's kcidb-io: pip install kcidb-io")
	}
	ask := func(text string) (string, error) {
		cmd := exec.Command("python3", "-c", validate)
		cmd.Stdin = strings.NewReader(text)
		said, err := cmd.CombinedOutput()
		return string(said), err
	}
	unprintable := aReport()
	unprintable.Kernels[0].Release, unprintable.Kernels[0].Error = "6\x00.\x1b12", strings.Repeat("a\x00\xff\n", 9000)
	for name, r := range map[string]*check.Report{"every outcome": aReport(), "known": aKnownReport(), "none": {}, "unprintable": unprintable} {
		if said, err := ask(render(t, FormatKCIDB, r)); err != nil {
			t.Errorf("%s: %v\n%s", name, err, said)
		}
	}
	good := render(t, FormatKCIDB, aReport())
	for what, instead := range map[string]string{`"PASS"`: `"GOOD"`, `"build_id"`: `"build"`, `"origin": "pinwatch"`: `"origin": "Pin Watch"`, `"major": 5`: `"major": 6`} {
		if _, err := ask(strings.ReplaceAll(good, what, instead)); err == nil {
			t.Errorf("the schema takes %s", instead)
		}
	}
}

// Every outcome has the status that the database means by it, every test a build that is
// there, and no identifier is used twice, in this run or in another one.
func TestKCIDBStatus(t *testing.T) {
	var all kcidbReport
	text := render(t, FormatKCIDB, aReport())
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatal(err)
	}
	var ids, builds, got []string
	for _, b := range all.Builds {
		builds = append(builds, b.ID)
		if !slices.Contains([]string{"x86_64", "arm64"}, b.Architecture) {
			t.Errorf("architecture %s", b.Architecture)
		}
	}
	for _, test := range all.Tests {
		if slices.Contains(ids, test.ID) || !slices.Contains(builds, test.BuildID) {
			t.Errorf("%+v", test)
		}
		ids = append(ids, test.ID)
		if test.Status != "PASS" {
			got = append(got, test.Path+" "+test.Status)
		}
	}
	want := []string{"pinwatch.cpu-offline SKIP", "pinwatch.map-twice FAIL", "pinwatch.map-twice FAIL", "pinwatch ERROR", "pinwatch.cpu-offline ERROR"}
	if !slices.Equal(got, want) {
		t.Errorf("%q; want %q", got, want)
	}
	other := aReport()
	other.Kernels[0].DurationMS++
	if strings.Contains(render(t, FormatKCIDB, other), ids[0]) {
		t.Error("two runs with one identifier")
	}
	if render(t, FormatKCIDB, aReport()) != text {
		t.Error("one run with two identifiers")
	}
}
