//go:build guest

package tracer_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// The terminal view of a live kernel, as plain tables: while a process maps
// buffers until it is refused, and when nobody may trace.
func TestTop(t *testing.T) {
	t.Parallel()
	kernels := guesttest.Kernels(t)
	if !guesttest.All() {
		kernels = kernels[:1]
	}
	for _, k := range kernels {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			showsLive(t, k)
		})
	}
}

func showsLive(t *testing.T, k guesttest.Kernel) {
	t.Helper()
	const script = `
(until busybox test -s /top; do busybox sleep 0.2; done; pinwatch workload perf-buffers --quiet --uid 2001 --memlock-kib $((128 * kib)) --pages 64 --hold 60s) &
pinwatch top -b -n 5 -d 2s --view processes,users,events > /top
echo "exit $?"
busybox cat /top
echo "untraced:"
pinwatch workload run-as --uid 1000 -- pinwatch top -b -n 1 2>&1
`
	out := guesttest.Run(t, k, guesttest.Shell(t), "workload", "run-as", "--", "sh", "-c", k.Limits()+script)
	live, untraced, _ := strings.Cut(out.Stdout, "untraced:")
	if !strings.Contains(live, "exit 0") || strings.Count(live, "pinwatch top  Linux "+k.Release) != 5 {
		t.Errorf("exit and 5 screens: %s%s", live, out.Stderr)
	}
	last := live[max(0, strings.LastIndex(live, "pinwatch top")):]
	for _, want := range []string{
		fmt.Sprintf(`(?m)^allowance: perf_event_mlock_kb %d = 129 pages × 4 CPUs = 516 `, 129*k.PageKiB()),
		`refused 1`,
		`(?m)^ *\d+ pinwatch +2001 +69 +128 +54% +516 +9 +· +0 +1 .*refused`, // PINNED_VM, LOCK_LIMIT, USED, USER_SHARE, BUFS, OVERCHARGED, FITS, REFUSED
		`(?m)^ *2001 .*516 +516 +100%`,
		`(?m)refusal .* EPERM +EPERM: pinned_vm 69 \+ extra 65 = 134 pages`,
	} {
		if !regexp.MustCompile(want).MatchString(last) {
			t.Errorf("no %q in:\n%s", want, last)
		}
	}
	if !strings.Contains(untraced, "lacks CAP_BPF") {
		t.Errorf("nobody says why uid 1000 sees no events: %s", untraced)
	}
}
