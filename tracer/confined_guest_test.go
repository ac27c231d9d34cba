//go:build guest

package tracer_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// confinedTo is the list, in the guest.
const confinedTo = "testdata/syscalls.txt"

// What the agent calls once it is confined is in its list, by strace: from its first event to
// its end, with a reader of its metrics, and CPUs that go and come.
func TestAgentSystemCalls(t *testing.T) {
	clients.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) {
		list, err := os.ReadFile(confinedTo)
		if err != nil {
			t.Fatal(err)
		}
		allowed := strings.Fields(regexp.MustCompile(`(?m)^#.*$`).ReplaceAllString(string(list), ""))
		kib, calls := userPages(t, k), filepath.Join(t.TempDir(), "calls")
		confined := guesttest.Command(t, "pinwatch", "agent", "--dir", filepath.Join(t.TempDir(), "ring"), "--max-size", "1MB", "--listen", metricsAddress).Start()
		confined.WaitFor("msg=\"system calls are confined\"")
		strace := guesttest.Command(t, guesttest.LookPath(t, "strace"), "-f", "-o", calls, "-p", fmt.Sprint(confined.Process.Pid)).Start()
		strace.WaitFor("attached")
		held := holdBuffers(t, "--uid", "2001", "--memlock-kib", kib(128), "--pages", "64")
		held.WaitFor(`"refused"`)
		confined.WaitFor("msg=refused subsystem=perf errno=EPERM outcome=limit")
		get(t, "/metrics")
		get(t, "/healthz")
		for _, online := range []string{"0", "1"} {
			if err := os.WriteFile("/sys/devices/system/cpu/cpu1/online", []byte(online), 0); err != nil {
				t.Fatal(err)
			}
		}
		held.Stop(os.Interrupt)
		if r := confined.Stop(unix.SIGTERM); !strings.Contains(r.Stderr, "msg=refused") {
			t.Errorf("exit %d: %s", r.Code, r.Stderr)
		}
		strace.Wait() // it ends with whom it traces
		raw, err := os.ReadFile(calls)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, call := range regexp.MustCompile(`(?m)^\d+ +(?:<\.\.\. )?(\w+)[( ].*$`).FindAllStringSubmatch(string(raw), -1) {
			if name := call[1]; !seen[name] {
				seen[name] = true
				if !slices.Contains(allowed, name) {
					t.Errorf("not in the list: %s", call[0])
				}
			}
		}
		t.Logf("%d of %d: %v", len(seen), len(allowed), seen)
		if len(seen) < 10 {
			t.Error("that is too few")
		}
	})
}
