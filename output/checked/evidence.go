package checked

import (
	"errors"
	"fmt"

	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/evidence"
)

// EvidenceHelp is what check says of it.
const EvidenceHelp = `With --evidence every kernel leaves a directory in a new one: console.log, qemu.sh (how
QEMU was started), report.json, and trace.jsonl.zst, the recording of the trace, for
pinwatch replay; trace-2 is of what was run once more. They are written as it
goes, and so are there after a crash, a hang or Ctrl-C too.`

// Evidence makes the directory, of kernels that are booted.
func Evidence(path string, g *check.Guests) (*evidence.Dir, error) {
	if len(g.Kernels) == 0 {
		return nil, errors.New("--evidence is of kernels that are booted: name one by --kernel")
	}
	dir, err := evidence.New(path)
	if err != nil {
		return nil, fmt.Errorf("--evidence: %w", err)
	}
	return dir, nil
}
