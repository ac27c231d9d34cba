package check

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A scenario of perf calls is a program; what makes other calls, or needs what no program
// has, is none, and says so.
func TestScenariosAsPrograms(t *testing.T) {
	none := map[string]bool{}
	for _, e := range Exercises() {
		p, err := e.Program()
		switch {
		case errors.Is(err, ErrNoProgram):
			none[e.Name] = true
		case err != nil:
			t.Errorf("%s: %v", e.Name, err)
		case len(p.Steps) < 3 || p.Steps[0].Call != CallStart:
			t.Errorf("%s: %v", e.Name, p.Steps)
		}
		for i := 0; p != nil && i < len(p.Steps); i++ {
			if o := p.Steps[i]; o.String() == o.Call {
				t.Errorf("%s: %q is not put into words", e.Name, o.Call)
			}
		}
	}
	want := map[string]bool{"cap-missing": true, "cap-user-namespace": true, "remap-resize": true, "wrong-geometry": true, "too-large": true, "aux-too-large": true}
	for _, e := range chargerExercises() {
		want[e.Name] = true
	}
	if diff := cmp.Diff(want, none); diff != "" {
		t.Errorf("scenarios that are no programs: %s", diff)
	}
}

// The steps are those that the scenario makes, in its order.
func TestScenarioWrittenDown(t *testing.T) {
	for name, want := range map[string][]Op{
		"two-processes-payer-first": {
			{Call: CallStart, Name: "payer", Limit: 64}, {Call: CallStart, Process: 1, Name: "sharer", Limit: 64}, {Call: CallFill},
			{Call: CallOpen}, {Call: CallMap, Pages: small}, {Call: CallGive, To: 1}, {Call: CallMap, Process: 1, Mapping: 1, Pages: small},
			{Call: CallRelease}, {Call: CallUnmap}, {Call: CallUnmap, Process: 1, Mapping: 1},
		},
		"paranoid-minus-one": {
			{Call: CallStart, Name: "mapper"}, {Call: CallFill}, {Call: CallOpen}, {Call: CallMap, Pages: 1}, {Call: CallParanoid, Value: -1},
			{Call: CallOpen, Event: 1}, {Call: CallMap, Event: 1, Mapping: 1, Pages: small}, {Call: CallRestore},
			{Call: CallOpen, Event: 2}, {Call: CallMap, Event: 2, Mapping: 2, Pages: 1}, {Call: CallRelease},
		},
		"partial-unmap": {
			{Call: CallStart, Name: "mapper", Limit: 64}, {Call: CallFill, Pages: 4}, {Call: CallOpen}, {Call: CallMap, Pages: small},
			{Call: CallUnmap, At: 8, Pages: 1}, {Call: CallUnmap, At: 5, Pages: 4}, {Call: CallRelease}, {Call: CallUnmap},
		},
		"mirror-map": {
			{Call: CallStart, Name: "mapper", Limit: 64}, {Call: CallFill, Pages: 4}, {Call: CallOpen}, {Call: CallMirror, To: 1, Pages: small},
			{Call: CallRelease}, {Call: CallUnmap, Mapping: 1}, {Call: CallUnmap},
		},
	} {
		chosen, err := Choose([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		p, err := chosen[0].Program()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, p.Steps); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A program is the program that it plays.
func TestProgramOfProgram(t *testing.T) {
	p := &Program{MlockPages: 2, Steps: []Op{{Call: CallStart}}}
	e := p.Exercise()
	if got, err := e.Program(); got != p || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}
