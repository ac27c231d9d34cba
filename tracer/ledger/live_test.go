package ledger_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

func eventsOf(t *testing.T, path string) (events []ledger.Event) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for e, err := range recording.NewReader(file).Events() {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

// A ledger that begins anywhere in a trace, with what another one has there, says the same of
// all that follows.
func TestLiveContinues(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/recordings/*.jsonl")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	live := 0
	for _, path := range paths {
		events := eventsOf(t, path)
		for cut := range events {
			whole, rest := ledger.New(), ledger.New()
			for _, e := range events[:cut] {
				whole.Apply(e)
			}
			for _, e := range whole.Live() {
				live++
				if again := rest.Apply(e.Event); again.Kind != ledger.Preexisting || e.Kind != again.Kind || e.ChargedUser != again.ChargedUser || e.Uncertain != again.Uncertain {
					t.Fatalf("%s, event %d: %+v, and with that %+v", path, cut, e, again)
				}
			}
			for i, e := range events[cut:] {
				a, b := whole.Apply(e), rest.Apply(e)
				if a.Verdict != b.Verdict || a.ChargedUser != b.ChargedUser || a.ChargedPinned != b.ChargedPinned {
					t.Fatalf("%s, from event %d, event %d: %s of %d + %d, and from there %s of %d + %d", path, cut, cut+i, a.Verdict, a.ChargedUser, a.ChargedPinned, b.Verdict, b.ChargedUser, b.ChargedPinned)
				}
			}
			for _, l := range []*ledger.Ledger{whole, rest} {
				for _, u := range l.Summary().Users {
					if u.Unexplained() != 0 {
						t.Errorf("%s, from event %d: %+v", path, cut, u)
					}
				}
			}
		}
	}
	if live == 0 {
		t.Error("nothing was live anywhere")
	}
}
