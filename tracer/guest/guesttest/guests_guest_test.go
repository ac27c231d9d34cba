//go:build guest

package guesttest_test

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

var guests = guesttest.Guests{Tools: []string{"bpftool"}}

func TestMain(m *testing.M) { os.Exit(guests.Main(m)) }

// A test's body runs as root in the kernel that it was given, where pinwatch, the
// package's testdata and its tools lie ready.
func TestInside(t *testing.T) {
	guests.Test(t, guesttest.First, func(t *testing.T, k guesttest.Kernel) {
		var name unix.Utsname
		if err := unix.Uname(&name); err != nil || unix.ByteSliceToString(name.Release[:]) != k.Release {
			t.Errorf("runs on %s; want %s", unix.ByteSliceToString(name.Release[:]), k.Release)
		}
		if os.Getpid() == 1 || os.Geteuid() != 0 {
			t.Errorf("process %d of user %d", os.Getpid(), os.Geteuid())
		}
		if content, err := os.ReadFile("testdata/hello"); err != nil || string(content) != "hello\n" {
			t.Errorf("testdata: %q, %v", content, err)
		}
		if k.Arch == "amd64" && !k.Before("5.11") != (k.Series != "5.10") {
			t.Errorf("%s from before 5.11: %v", k.Release, k.Before("5.11"))
		}
		t.Run("pinwatch", func(t *testing.T) {
			if r := guesttest.Command(t, "pinwatch", "version").Run(); r.Code != 0 || !strings.HasPrefix(r.Stdout, "pinwatch ") {
				t.Errorf("%+v", r)
			}
		})
		t.Run("tool", func(t *testing.T) {
			if r := guesttest.Command(t, guesttest.LookPath(t, "bpftool"), "version").Run(); r.Code != 0 || !strings.Contains(r.Stdout, "bpftool v") {
				t.Errorf("%+v", r)
			}
		})
	})
}

// A command can be waited for by its words, and stopped.
func TestCommand(t *testing.T) {
	guests.Test(t, guesttest.First, func(t *testing.T, k guesttest.Kernel) {
		holder := guesttest.Command(t, "pinwatch", "workload", "perf-buffers", "--json", "--max", "1", "--hold", "10m").Start()
		holder.WaitFor(`"map"`)
		if r := holder.Stop(os.Interrupt); r.Code != -1 && r.Code != 1 {
			t.Errorf("interrupted: %+v", r)
		}
		if r := guesttest.Command(t, "pinwatch", "--nonsense").Run(); r.Code != 2 || !strings.Contains(r.Stderr, "--nonsense") {
			t.Errorf("wrong usage: %+v", r)
		}
	})
}

// What fails in a guest fails on the host, by the same names and with the same words,
// whatever way it fails; what passes or is skipped does not.
func TestFailuresComeBack(t *testing.T) {
	guesttest.Long(t)
	k := guesttest.First(t)[0].String()
	t.Parallel()
	for run, wants := range map[string][]string{
		"Subtest|Traces|Crash": {
			`--- PASS: TestSubtest/` + k + `/good \(`,
			`--- FAIL: TestSubtest/` + k + `/deep/er/bad \(`,
			`--- SKIP: TestSubtest/` + k + `/before \(`,
			`--- FAIL: TestSubtest/` + k + `/lacks \(`,
			`\.go:\d+: two words\n`,
			`a feature: requires Linux 99\.1 \(running `,
			`a feature: Linux 4\.1 has it, and so must this one`,
			`--- FAIL: TestTraces/` + k + ` \(`,
			`\+.*perf_event_mlock_kb.*128`, // the setting that was left changed
			`--- FAIL: TestCrash/` + k + ` \(`,
			`the guest died, trying once more: guest kernel panicked: .*sysrq triggered crash`,
			`guest \S+: guest kernel panicked: .*sysrq triggered crash`,
		},
		"Panic": {
			`--- FAIL: TestPanic/` + k + ` \(`,
			`(?s)stderr of all tests .*panic: kernel!`,
		},
	} {
		cmd := exec.Command("go", "test", "-tags", "guest", "-count=1", "-v", "-parallel=1", "-run="+run, "./testdata/broken")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%s: %v; want exit code 1", run, err)
		}
		for _, want := range wants {
			if !regexp.MustCompile(want).Match(out) {
				t.Errorf("%s: no %s", run, want)
			}
		}
	}
}
