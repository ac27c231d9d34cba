package output

import (
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// No verdict is shown without a sentence, on a perf buffer or a BPF object.
func TestEveryVerdictIsExplained(t *testing.T) {
	for v := ledger.OK + 1; int(v) < ledger.Verdicts; v++ {
		for _, r := range []*row.Row{
			{Entry: ledger.Entry{Verdict: v, Kind: ledger.Charge}},
			{Entry: ledger.Entry{Verdict: v, Kind: ledger.Charge, Event: ledger.Event{Object: &ledger.Object{}}}},
		} {
			if note := Explain(r); !strings.Contains(note, v.String()+": ") {
				t.Errorf("%s is explained as %q", v, note)
			}
		}
	}
}
