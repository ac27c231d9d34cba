//go:build kcidb

package report

import (
	"os/exec"
	"strings"
	"testing"
)

// validate has kcidb-io, which is the schema, say whether it takes a report.
const validate = `import sys, json, kcidb_io
kcidb_io.schema.V5_3.validate(json.load(sys.stdin))`

// The schema itself takes every report, and not what breaks the rules of TestReportKCIDB. It is
// under the GPL, and for that not a part of pinwatch: make test-kcidb installs it.
func TestSchemaKCIDB(t *testing.T) {
	ask := func(text string) (string, error) {
		cmd := exec.Command("python3", "-c", validate)
		cmd.Stdin = strings.NewReader(text)
		said, err := cmd.CombinedOutput()
		return string(said), err
	}
	if said, err := exec.Command("python3", "-c", "import kcidb_io").CombinedOutput(); err != nil {
		t.Fatalf("requires Python's kcidb-io (pip install kcidb-io): %v\n%s", err, said)
	}
	for name, r := range kcidbReports() {
		if said, err := ask(render(t, FormatKCIDB, r)); err != nil {
			t.Errorf("%s: %v\n%s", name, err, said)
		}
	}
	for what, bad := range kcidbWrong(render(t, FormatKCIDB, aReport())) {
		if _, err := ask(bad); err == nil {
			t.Errorf("the schema takes %.60s", what)
		}
	}
}
