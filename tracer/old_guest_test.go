//go:build guest

package tracer_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// What the matrix runs, and the guest's limits.
const (
	memlockKiB, dataPages, cpus = 768, 32, 4
)

func tracedWorkload() string {
	return fmt.Sprintf("--json -- pinwatch workload perf-buffers --json --memlock-kib %d --pages %d", memlockKiB, dataPages)
}

// row holds the fields of a trace's JSON line that the tests compare.
type row struct {
	Kind          string `json:"kind"`
	PID           uint32 `json:"pid"`
	UID           uint32 `json:"uid"`
	Process       uint64 `json:"process"`
	Buffer        uint64 `json:"buffer"`
	Pages         int64  `json:"pages"`
	UserLimit     int64  `json:"user_lock_limit_pages"`
	PinnedVM      int64  `json:"pinned_vm_pages"`
	PinnedAfter   int64  `json:"pinned_vm_after_pages"`
	LockLimit     int64  `json:"lock_limit_pages"`
	ChargedUser   int64  `json:"charged_user_pages"`
	ChargedPinned int64  `json:"charged_pinned_pages"`
	Errno         int32  `json:"errno"`
	Verdict       string `json:"verdict"`
	Certainty     string `json:"certainty"`
	Fits          int64  `json:"fits_calls"`
	Era           string `json:"era"`
	Lost          uint64 `json:"lost"`
}

// split parts the lines of a trace from those of the workload that it ran.
func split(t *testing.T, stdout string) (rows []row, summary row, steps []workload.Step) {
	t.Helper()
	scanner := bufio.NewScanner(strings.NewReader(stdout))
	for scanner.Scan() {
		line := scanner.Bytes()
		var r row
		var s workload.Step
		if err := json.Unmarshal(line, &s); err == nil && s.Step != "" {
			steps = append(steps, s)
			continue
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if r.Kind == "summary" {
			summary = r
			continue
		}
		rows = append(rows, r)
	}
	return rows, summary, steps
}

// traceAgrees compares the trace of a process that maps until EPERM with witnesses
// that are not ours: VmPin after every step, the call that the kernel refuses, and
// how many buffers fit by the limits. It is called with what tracedWorkload
// printed.
func traceAgrees(t *testing.T, out guesttest.Result) {
	t.Helper()
	if out.Code != 0 {
		t.Fatalf("exit %d: %s", out.Code, out.Stderr)
	}
	rows, summary, steps := split(t, out.Stdout)
	if len(rows) != len(steps) || len(rows) == 0 {
		t.Fatalf("%d rows for %d steps of the workload:\n%s", len(rows), len(steps), out.Stdout)
	}
	var user, pinned, fit int64
	for i, step := range steps {
		r := rows[i]
		kind := map[string]string{"map": "charge", "refused": "refusal", "unmap": "refund"}[step.Step]
		if r.Kind != kind || r.Errno != int32(step.Errno) || r.Pages != int64(step.Pages) || r.UID != 65534 {
			t.Errorf("step %d: row %+v; the workload saw %+v", i+1, r, step)
		}
		if vmPin := step.VmPinKiB * 1024 / int64(step.PageBytes); r.PinnedAfter != vmPin {
			t.Errorf("step %d: pinned_vm %d after the call; VmPin says %d", i+1, r.PinnedAfter, vmPin)
		}
		if r.PinnedVM+r.ChargedPinned != r.PinnedAfter {
			t.Errorf("step %d: %d + %d is not %d", i+1, r.PinnedVM, r.ChargedPinned, r.PinnedAfter)
		}
		if r.Verdict != "ok" || r.Certainty != "exact" {
			t.Errorf("step %d: %s, %s on a kernel that accounts right", i+1, r.Verdict, r.Certainty)
		}
		if step.Step == "map" {
			fit++
			if r.ChargedUser+r.ChargedPinned != r.Pages {
				t.Errorf("step %d: charged %d and %d for %d pages", i+1, r.ChargedUser, r.ChargedPinned, r.Pages)
			}
		}
		user += r.ChargedUser
		pinned += r.ChargedPinned
	}
	if user != 0 || pinned != 0 {
		t.Errorf("charges and refunds leave %d and %d pages", user, pinned)
	}
	if summary.Verdict != "ok" || summary.Lost != 0 {
		t.Errorf("summary: %+v", summary)
	}

	// The limits, from what the guest was given: nothing of ours.
	page := int64(steps[0].PageBytes)
	allowance := (512<<10 + page) / page * cpus // perf_event_mlock_kb is 512 KiB and a page
	limit := memlockKiB * 1024 / page
	if want := (allowance + limit) / (dataPages + 1); fit != want {
		t.Errorf("%d buffers fit; the limits leave room for %d", fit, want)
	}
	if r := rows[0]; r.UserLimit != allowance || r.LockLimit != limit || r.Fits != fit-1 {
		t.Errorf("first row: allowance %d, limit %d, %d more fit; want %d, %d, %d", r.UserLimit, r.LockLimit, r.Fits, allowance, limit, fit-1)
	}
	refused := false
	for _, s := range steps {
		refused = refused || s.Errno == int(unix.EPERM)
	}
	if !refused {
		t.Error("the workload never met EPERM")
	}
}
