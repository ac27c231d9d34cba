package row

import (
	"regexp"
	"slices"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Every column says what it means and who has it; a name is used once, and ends with the
// unit, if there is one.
func TestColumnsDescribeThemselves(t *testing.T) {
	unit := regexp.MustCompile(`(^|_)(pages|bytes|ns|calls|kib|ms|seconds)$`)
	names, headers := map[string]bool{}, map[string]bool{}
	for _, c := range Columns() {
		if names[c.Name] || names[c.Former] || c.Header != "" && headers[c.Header] {
			t.Errorf("%s or its heading %q stands there twice", c.Name, c.Header)
		}
		names[c.Name], headers[c.Header] = true, true
		want := ""
		if m := unit.FindStringSubmatch(c.Name); m != nil {
			want = m[2]
		}
		if c.Unit != want {
			t.Errorf("%s: unit %q; want %q", c.Name, c.Unit, want)
		}
		if len(c.Help) < 8 || c.Subsystems == 0 || c.Type == "" {
			t.Errorf("%s: %q, %s, %q", c.Name, c.Help, c.Subsystems, c.Type)
		}
		if (c.Header == "") != (c.Width == 0 && c.Least == 0) || (c.Least == 0) != (c.Rank == 0) {
			t.Errorf("%s: heading %q, but width %d, least %d and rank %d", c.Name, c.Header, c.Width, c.Least, c.Rank)
		}
	}
}

func TestFilterOnly(t *testing.T) {
	object := func(kind ledger.Kind, bytes int64) *ledger.Entry {
		return &ledger.Entry{Kind: kind, Event: ledger.Event{Object: &ledger.Object{FurtherBytes: bytes}}}
	}
	for name, c := range map[string]struct {
		entry *ledger.Entry
		want  []string
	}{
		"perf buffer":            {&ledger.Entry{}, []string{"perf"}},
		"BPF object":             {object(ledger.Charge, 0), []string{"bpf"}},
		"BPF object with a bill": {object(ledger.Charge, 9), []string{"bpf", "memcg"}},
		"growth":                 {object(ledger.Growth, 9), []string{"memcg"}},
		"io_uring":               {&ledger.Entry{Event: ledger.Event{Charger: "io_uring"}}, []string{"others"}},
	} {
		var shown []string
		for _, only := range Watchable() {
			if f := (Filter{Only: []string{only}}); f.Shows(c.entry) {
				shown = append(shown, only)
			}
		}
		if all := (Filter{}); !slices.Equal(shown, c.want) || !all.Shows(c.entry) {
			t.Errorf("%s: shown by --only %q; want %q", name, shown, c.want)
		}
	}
}
