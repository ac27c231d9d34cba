package guesttest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// This file is for tests that run in a guest.

// SkipBefore skips a test on kernels from before a version, which cannot have something.
// Later ones must have it: there the test goes on, and fails if they do not.
func SkipBefore(t testing.TB, version, what string) {
	t.Helper()
	if running := kernel.Release(); older(running, version) {
		t.Skipf("%s: requires Linux %s (running %s)", what, version, running)
	}
}

// Missing ends a test that found something missing. That is a skip on kernels from
// before a version, and a failure on later ones, which have it.
func Missing(t testing.TB, version, what string, err error) {
	t.Helper()
	SkipBefore(t, version, what)
	t.Fatalf("%s: Linux %s has it, and so must this one (running %s): %v", what, version, kernel.Release(), err)
}

// older reports whether a release, such as "6.12.117+deb13-cloud-amd64", is one from
// before a version, such as "6.13".
func older(release, version string) bool {
	return slices.Compare(numbers(release), numbers(version)) < 0
}

var versionNumbers = regexp.MustCompile(`^\d+(\.\d+)*`)

// numbers are those that a version begins with.
func numbers(version string) (list []int) {
	for part := range strings.SplitSeq(versionNumbers.FindString(version), ".") {
		n, _ := strconv.Atoi(part)
		list = append(list, n)
	}
	return list
}

// LookPath finds a program of the host's: one of Guests.Tools. It skips the test in a
// guest of another architecture, where that cannot run.
func LookPath(t testing.TB, name string) string {
	t.Helper()
	if p, _ := here(); p.Host != p.Kernel.Arch {
		t.Skipf("%s is the host's, of %s: not for a guest of %s", name, p.Host, p.Kernel.Arch)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: is it one of Guests.Tools?", err)
	}
	return path
}

// Set writes a setting of the kernel's, which has its old value again after the test.
func Set(t testing.TB, file, value string) {
	t.Helper()
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, value)
	t.Cleanup(func() { write(t, file, string(old)) })
}

// Cgroup makes a cgroup whose memory is accounted, and returns its directory. It is gone
// after the test.
func Cgroup(t testing.TB, name string) string {
	t.Helper()
	const root = "/sys/fs/cgroup"
	const controllers = root + "/cgroup.subtree_control"
	enabled, err := os.ReadFile(controllers)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Fields(string(enabled)), "memory") {
		write(t, controllers, "+memory")
		t.Cleanup(func() { write(t, controllers, "-memory") })
	}
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func write(t testing.TB, file, value string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
		t.Errorf("set %s to %q: %v", file, value, err)
	}
}

// leavesNoTrace fails a test that leaves something behind for the next ones.
func leavesNoTrace(t *testing.T) {
	t.Helper()
	before := traces(t)
	t.Cleanup(func() {
		var left string
		// What was closed and killed may take a moment to be gone.
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			if left = cmp.Diff(before, traces(t)); left == "" {
				return
			}
			if time.Now().After(deadline) {
				break
			}
		}
		t.Errorf("the test leaves the machine changed: before - after +\n%s", left)
	})
}

// traces are what tests change of a machine, and must put back.
func traces(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, file := range []string{
		"/proc/sys/kernel/perf_event_mlock_kb", "/proc/sys/kernel/perf_event_paranoid", "/proc/sys/kernel/kptr_restrict",
		"/proc/sys/kernel/unprivileged_bpf_disabled", "/sys/devices/system/cpu/online", "/sys/kernel/debug/kprobes/enabled",
		"/proc/self/mounts", "/sys/fs/cgroup/cgroup.subtree_control",
	} {
		content, err := os.ReadFile(file)
		if err != nil {
			found[file] = "cannot be read"
			continue
		}
		// This one the kernel mounts by itself, for who looks there.
		found[file] = strings.ReplaceAll(string(content), "tracefs /sys/kernel/debug/tracing tracefs rw,relatime 0 0\n", "")
	}
	for _, dir := range []string{"/sys/fs/bpf", "/sys/fs/cgroup"} {
		found[dir] = directories(dir)
	}
	// Programs of this process, and of others that run: the kernel's own have none.
	programs, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range programs {
		if program, err := os.Readlink(exe); err == nil {
			found[filepath.Dir(exe)] = program
		}
	}
	descriptors, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range descriptors {
		// Go keeps some of its own, such as for epoll.
		if target, err := os.Readlink(fd); err == nil && (strings.Contains(target, "bpf") || strings.Contains(target, "perf_event")) {
			found[fd] = target
		}
	}
	return found
}

// directories are the names in a directory that are not files of the kernel's own.
func directories(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Sprint(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() || dir == "/sys/fs/bpf" {
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}
