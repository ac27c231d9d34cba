package ledger

import (
	"os"
	"strings"
	"testing"
)

// Every verdict says which rule it is about and whom it hurts, and the README says the
// same.
func TestVerdictTable(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for v := OK; int(v) < Verdicts; v++ {
		if v.String() == "" || v.Rule() == "" || v.Impact() == "" {
			t.Errorf("verdict %d (%s): a name, a rule or whom it hurts is missing", v, v)
		}
		if back, ok := ParseVerdict(v.String()); !ok || back != v {
			t.Errorf("%s is read back as %s, %v", v, back, ok)
		}
		if row := "| `" + v.String() + "` | " + v.Rule() + " | " + v.Impact() + " |"; v != OK && !strings.Contains(string(readme), row) {
			t.Errorf("README.md lacks the row\n%s", row)
		}
	}
	if v, ok := ParseVerdict("fine"); ok {
		t.Errorf("fine is read as %s", v)
	}
}
