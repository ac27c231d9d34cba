//go:build guest

package tracer_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// The terminal view of a live kernel, as plain tables: while a process maps
// buffers until it is refused, and when nobody may trace.
func TestTop(t *testing.T) {
	kernels := guesttest.First
	if guesttest.All() {
		kernels = guesttest.Kernels
	}
	guests.Test(t, kernels, showsLive)
}

func showsLive(t *testing.T, k guesttest.Kernel) {
	kib := userPages(t, k)
	const views = "processes,users,events"
	top := guesttest.Command(t, "pinwatch", "top", "-b", "-d", "500ms", "--view", views).Start()
	top.WaitFor("pinwatch top")
	holdBuffers(t, "--uid", "2001", "--memlock-kib", kib(128), "--pages", "64").WaitFor(`"refused"`)
	// It shows one screen and one event after another: the last ones need not be here yet.
	top.WaitUntil("shown the refusal", func(stdout, _ string) bool {
		_, last := screens(stdout, k)
		return strings.Contains(last, "refused 1") && strings.Contains(last, "EPERM: ") && strings.HasSuffix(last, "\n")
	})
	r := top.Stop(os.Interrupt)
	count, last := screens(r.Stdout, k)
	if r.Code != 0 || count < 2 {
		t.Errorf("exit %d and %d screens: %s", r.Code, count, r.Stderr)
	}
	for _, want := range []string{
		fmt.Sprintf(`(?m)^allowance: perf_event_mlock_kb %s = 129 pages × 4 CPUs = 516 `, kib(129)),
		`refused 1`,
		`(?m)^ *\d+ pinwatch +2001 +69 +128 +54% +516 +9 +· +0 +1 .*refused`, // PINNED_VM, LOCK_LIMIT, USED, USER_SHARE, BUFS, OVERCHARGED, FITS, REFUSED
		`(?m)^ *2001 .*516 +516 +100%`,
		`(?m)refusal .* EPERM +EPERM: pinned_vm 69 \+ extra 65 = 134 pages`,
	} {
		if !regexp.MustCompile(want).MatchString(last) {
			t.Errorf("no %q in:\n%s", want, last)
		}
	}
	t.Run("so many screens", func(t *testing.T) {
		if count, _ := screens(run(t, "pinwatch", "top", "-b", "-n", "3", "-d", "100ms", "--view", views), k); count != 3 {
			t.Errorf("%d screens; want 3", count)
		}
	})
	t.Run("untraced", func(t *testing.T) {
		r := guesttest.Command(t, "pinwatch", "workload", "run-as", "--uid", "1000", "--", "pinwatch", "top", "-b", "-n", "1").Run()
		if !strings.Contains(r.Stdout+r.Stderr, "lacks CAP_BPF") {
			t.Errorf("nobody says why uid 1000 sees no events: %+v", r)
		}
	})
}

// screens counts those that top has shown, and returns the last one.
func screens(text string, k guesttest.Kernel) (count int, last string) {
	return strings.Count(text, "pinwatch top  Linux "+k.Release), text[max(0, strings.LastIndex(text, "pinwatch top")):]
}
