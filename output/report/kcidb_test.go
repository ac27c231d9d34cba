package report

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// rule says what is wrong with a value; "": nothing.
type rule func(value any) string

// text is a string that a pattern matches, of no more than so many characters; 0: of any number.
func text(pattern string, most int) rule {
	re := regexp.MustCompile(pattern)
	return func(value any) string {
		s, ok := value.(string)
		if !ok || !re.MatchString(s) || most > 0 && utf8.RuneCountInString(s) > most {
			return fmt.Sprintf("%.80q: want %s, at most %d", value, pattern, most)
		}
		return ""
	}
}

func number(value any) string {
	if _, ok := value.(float64); !ok {
		return fmt.Sprintf("%v is no number", value)
	}
	return ""
}

// object has no fields but some, and some of them always.
func object(required string, fields map[string]rule) rule {
	return func(value any) string {
		o, ok := value.(map[string]any)
		if !ok {
			return fmt.Sprintf("%v is no object", value)
		}
		for _, name := range strings.Fields(required) {
			if _, there := o[name]; !there {
				return "lacks " + name
			}
		}
		for name, value := range o {
			if fields[name] == nil {
				return "has a field that there is not: " + name
			}
			if wrong := fields[name](value); wrong != "" {
				return name + ": " + wrong
			}
		}
		return ""
	}
}

func list(of rule) rule {
	return func(value any) string {
		all, ok := value.([]any)
		if !ok {
			return fmt.Sprintf("%v is no list", value)
		}
		for i, one := range all {
			if wrong := of(one); wrong != "" {
				return fmt.Sprintf("%d: %s", i, wrong)
			}
		}
		return ""
	}
}

// kcidbRules are those of the schema, version 5.3, for the objects that are written and their fields that
// are used, as we read it (kcidb_io/schema/v05_03.py). make test-kcidb asks the schema itself.
func kcidbRules() rule {
	anyText := text(`^[^\x00]*$`, 0)
	excerpt := text(`^[^\x00]*$`, 16384)
	id := text(`^[a-z0-9_]+:[^\x00]*$`, 0)
	origin := text(`^[a-z0-9_]+$`, 0)
	misc := func(value any) string { // is what one wants
		if _, ok := value.(map[string]any); !ok {
			return fmt.Sprintf("%v is no object", value)
		}
		return ""
	}
	exactly := func(n float64) rule {
		return func(value any) string {
			if value != n {
				return fmt.Sprintf("%v: want %v", value, n)
			}
			return ""
		}
	}
	return object("version", map[string]rule{
		"version":   object("major minor", map[string]rule{"major": exactly(5), "minor": exactly(3)}),
		"checkouts": list(object("id origin", map[string]rule{"id": id, "origin": origin})),
		"builds":    list(object("checkout_id id origin", map[string]rule{"checkout_id": id, "id": id, "origin": origin, "architecture": text(`^[a-z0-9_]*$`, 0), "misc": misc})),
		"tests": list(object("build_id id origin", map[string]rule{
			"build_id": id, "id": id, "origin": origin, "path": text(`^([a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*)?$`, 0),
			"status": text(`^(FAIL|ERROR|MISS|PASS|DONE|SKIP)$`, 0), "duration": number, "comment": anyText, "log_excerpt": excerpt, "misc": misc,
		})),
	})
}

// kcidbReports are reports of every kind.
func kcidbReports() map[string]*check.Report {
	unprintable := aReport()
	unprintable.Kernels[0].Release, unprintable.Kernels[0].Error = "6\x00.\x1b12", strings.Repeat("a\x00\xff\n", 9000)
	return map[string]*check.Report{"every outcome": aReport(), "known": aKnownReport(), "none": {}, "unprintable": unprintable}
}

// kcidbWrong are changes of a good report by which the schema does not take it.
func kcidbWrong(good string) map[string]string {
	wrong := map[string]string{}
	for what, instead := range map[string]string{
		`"PASS"`: `"GOOD"`, `"build_id"`: `"build"`, `"origin": "pinwatch"`: `"origin": "Pin Watch"`, `"major": 5`: `"major": 6`,
		`"path": "pinwatch`: `"path": "pin watch`, `"id": "pinwatch:`: `"id": "Pinwatch:`, `"duration": 0`: `"duration": null`, `"x86_64"`: `"x86-64"`,
		`"log_excerpt": "`: `"log_excerpt": "` + strings.Repeat("a", 16384),
	} {
		wrong[instead] = strings.ReplaceAll(good, what, instead)
	}
	return wrong
}

// Every report keeps to the rules of the schema, and they are not kept by just anything.
func TestReportKCIDB(t *testing.T) {
	broken := func(text string) string {
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			return err.Error()
		}
		return kcidbRules()(value)
	}
	for name, r := range kcidbReports() {
		if wrong := broken(render(t, FormatKCIDB, r)); wrong != "" {
			t.Errorf("%s: %s", name, wrong)
		}
	}
	good := render(t, FormatKCIDB, aReport())
	for what, bad := range kcidbWrong(good) {
		if bad == good {
			t.Errorf("%.60s is nothing else", what)
		}
		if broken(bad) == "" {
			t.Errorf("the rules allow %.60s", what)
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
