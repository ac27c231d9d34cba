package tracer

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/self"
)

// ownCharge says what pinwatch takes from its user's other processes, and why: nothing where it
// is charged as a user of its own.
func (t *Tracer) ownCharge(payer *self.User, types kernel.Types) []string {
	if payer.Err() == nil {
		return nil
	}
	var what []string
	pages := t.reader.Pages()
	if pages > 0 {
		what = append(what, "perf buffers")
	}
	if users, err := types.ChargesBPFToUsers(); err == nil && users {
		pages += bpfBytes("/proc") / os.Getpagesize()
		what = append(what, "BPF objects")
	}
	if pages == 0 {
		return nil
	}
	return []string{fmt.Sprintf("pinwatch's own %s take %d pages of what uid %d may have: %v", strings.Join(what, " and "), pages, payer.UID(), payer.Err())}
}

// bpfBytes is what this process's BPF objects are charged, by the kernel's own account.
func bpfBytes(proc string) (sum int) {
	files, _ := filepath.Glob(filepath.Join(proc, "self/fdinfo/*")) // the pattern is well formed
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // closed meanwhile
		}
		for line := range strings.SplitSeq(string(raw), "\n") {
			if value, ok := strings.CutPrefix(line, "memlock:"); ok {
				n, _ := strconv.Atoi(strings.TrimSpace(value))
				sum += n
			}
		}
	}
	return sum
}
