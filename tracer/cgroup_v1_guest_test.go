//go:build guest

package tracer_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// ofV1 are guests of their own: a hierarchy of v1 takes the memory controller from v2's, and
// gives it back when it likes.
var ofV1 guesttest.Guests

// Memory cgroups of v1 have files of other names, and paths of another tree: what is said of a
// refusal is of those, and the line to paste works. Debian's kernels have them up to 6.1.
func TestCgroupV1(t *testing.T) {
	guesttest.Long(t)
	ofV1.Test(t, func(t *testing.T) []guesttest.Kernel { return guesttest.Fetch(t, "6.1") }, func(t *testing.T, _ guesttest.Kernel) {
		const root = "/sys/fs/cgroup/memory" // a cgroup of v2 that the other hierarchy hides
		dir := filepath.Join(root, "full")
		for _, err := range []error{os.Mkdir(root, 0o755), unix.Mount("cgroup", root, "cgroup", 0, "memory"), os.Mkdir(dir, 0o755),
			os.WriteFile(filepath.Join(dir, "memory.limit_in_bytes"), []byte("16777216"), 0)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() {
			for _, err := range []error{os.Remove(dir), unix.Unmount(root, 0), os.Remove(root)} {
				if err != nil {
					t.Error(err)
				}
			}
		})
		expect := func(text string, says ...string) {
			t.Helper()
			for _, s := range says {
				if !strings.Contains(text, s) {
					t.Errorf("%q is not said in\n%s", s, text)
				}
			}
			for _, s := range []string{"memory.current", "memory.max"} {
				if strings.Contains(text, s) {
					t.Errorf("%q is said of a cgroup of v1 in\n%s", s, text)
				}
			}
		}
		load := []string{"workload", "bpf-maps", "--type", "array", "--entries", "4194304", "--value-size", "8", "--cgroup", dir}
		create := guesttest.Command(t, "pinwatch", append([]string{"explain", "--", "pinwatch"}, load...)...).Run()
		expect(create.Stdout, "ENOMEM", "it is /full", "memory.usage_in_bytes was ", "memory.limit_in_bytes 16777216 bytes")

		// What is said to help does.
		remedy := regexp.MustCompile(`echo (\d+) > (\S+)`).FindStringSubmatch(create.Stdout)
		if remedy == nil {
			t.Fatalf("no line to paste in\n%s%s", create.Stdout, create.Stderr)
		}
		if n, err := strconv.Atoi(remedy[1]); err != nil || n < 32<<20 || remedy[2] != filepath.Join(dir, "memory.limit_in_bytes") {
			t.Errorf("%q: want more than 32 MiB, to %s", remedy[0], dir)
		}
		if err := os.WriteFile(remedy[2], []byte(remedy[1]), 0); err != nil {
			t.Fatal(err)
		}
		if r := guesttest.Command(t, "pinwatch", load...).Run(); r.Code != 0 || strings.Contains(r.Stdout, "ENOMEM") {
			t.Errorf("after %q: exit %d\n%s%s", remedy[0], r.Code, r.Stdout, r.Stderr)
		}
		// EBUSY for as long as the map's memory has not come back.
		for late := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
			if err := os.WriteFile(remedy[2], []byte("16777216"), 0); err == nil {
				break
			} else if time.Now().After(late) {
				t.Fatal(err)
			}
		}
		expect(guesttest.Command(t, "pinwatch", "explain", "--", "pinwatch", "workload", "call", "fill", "uid=-1", "memlock=-1", "bytes=1000", "count=100000", "cgroup="+dir).Run().Stdout,
			"ENOMEM", "it is /full", "memory.usage_in_bytes was ", "a higher memory.limit_in_bytes of /full")
	})
}
