//go:build guest

package tracer_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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

// The sysctls, the online CPUs and the paranoid level are read live: a change
// counts from the next event on, in one and the same trace.
func TestSettingsAreLive(t *testing.T) {
	t.Parallel()
	const script = `
one() { pinwatch workload perf-buffers --max 1 --quiet; }
one
echo 1024 > /proc/sys/kernel/perf_event_mlock_kb; one
echo 0 > /sys/devices/system/cpu/cpu3/online; one
echo -1 > /proc/sys/kernel/perf_event_paranoid; one
`
	shell := guesttest.Shell(t)
	for _, k := range guesttest.Newest(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			out := guesttest.Run(t, k, shell, "trace", "--only", "perf", "--json", "--", "sh", "-c", script)
			var got []string
			var page int64
			for line := range strings.Lines(out.Stdout) {
				var r struct {
					Kind     string `json:"kind"`
					Limit    int64  `json:"user_lock_limit_pages"`
					CPUs     int    `json:"online_cpus"`
					Page     int64  `json:"page_size_bytes"`
					Paranoid int    `json:"paranoid"`
					Fits     int64  `json:"fits_calls"`
				}
				if err := json.Unmarshal([]byte(line), &r); err != nil {
					t.Fatal(err)
				}
				if r.Kind == "charge" {
					page = r.Page
					got = append(got, fmt.Sprintf("%d %d %d", r.Limit, r.CPUs, r.Paranoid))
				}
			}
			level := strings.Fields(got[0])[2] // Debian's or upstream's
			first, mib := (512<<10+page)/page*4, 1<<20/page
			want := []string{fmt.Sprintf("%d 4 %s", first, level), fmt.Sprintf("%d 4 %s", 4*mib, level), fmt.Sprintf("%d 3 %s", 3*mib, level), fmt.Sprintf("%d 3 -1", 3*mib)}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s\n%s", diff, out.Stderr)
			}
		})
	}
}

// With the named capabilities alone, and with the kernel's symbols hidden, the
// trace is degraded and says so, and the numbers are the same.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	shell := guesttest.Shell(t)
	const unprivileged = `
trace() { pinwatch workload run-as --uid 1001 --caps $caps -- pinwatch trace --duration 1s $*; }
trace --only perf --attach kprobe
trace
echo 2 > /proc/sys/kernel/perf_event_paranoid
trace --only perf
`
	const hidden = `
echo 2 > /proc/sys/kernel/kptr_restrict
pinwatch trace --only perf --json 2>/tmp/said &
until busybox grep -q watching /tmp/said; do busybox sleep 0.1; done
echo $((256 * kib)) > /proc/sys/kernel/perf_event_mlock_kb
busybox sleep 1
pinwatch workload perf-buffers --max 1 --quiet
kill -TERM $!
wait
busybox cat /tmp/said >&2
`
	for _, k := range guesttest.Newest(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			caps := "caps=cap_bpf,cap_perfmon\n"
			old := k.Series == "5.10"
			if old {
				// Its BPF objects are held against RLIMIT_MEMLOCK.
				caps += "pinwatch workload run-as --uid 1001 --caps $caps -- pinwatch trace\ncaps=$caps,cap_sys_resource\n"
			}
			results := unmark(t, guesttest.Run(t, k, shell, "workload", "run-as", "--", "sh", "-c",
				k.Limits()+marked("unprivileged", "{\n"+caps+unprivileged+"}")+marked("hidden", "{\n"+hidden+"}")), 2)
			out := results[0]
			if old && !strings.Contains(out.Stderr, "grant CAP_SYS_RESOURCE, or ulimit -l unlimited") {
				t.Errorf("RLIMIT_MEMLOCK is not explained: %s", out.Stderr)
			}
			if !strings.Contains(out.Stderr, "perf_event_paranoid is 3") {
				t.Errorf("Debian's level 3 is not explained: %s", out.Stderr)
			}
			if !old && (!strings.Contains(out.Stderr, "using fentry, because attach kprobe to perf_mmap:") || strings.Count(out.Stdout, "verdict: none") != 2) {
				t.Errorf("level 3 leaves fentry, which was not used: %s%s", out.Stdout, out.Stderr)
			}
			if out.Code != 0 || !strings.Contains(out.Stdout, "verdict: none") || !strings.Contains(out.Stderr, "kernel symbols are hidden (no CAP_SYSLOG") {
				t.Errorf("with CAP_BPF and CAP_PERFMON: exit %d\n%s%s", out.Code, out.Stdout, out.Stderr)
			}
			rows, _, _ := split(t, results[1].Stdout)
			if len(rows) != 2 || rows[0].UserLimit != 1024 {
				t.Errorf("with hidden symbols: %+v; want the allowance of 1024 pages that was set meanwhile\n%s", rows, results[1].Stderr)
			}
		})
	}
}

// A command is traced alone, with its children; filters choose among events.
func TestFilters(t *testing.T) {
	t.Parallel()
	k := guesttest.Kernels(t)[0]
	shell := guesttest.Shell(t)
	const script = `
(busybox sleep 3; pinwatch workload perf-buffers --max 1 --quiet --uid 1003) &
pinwatch trace --only perf --json --uid 1001 -- sh -c '
	pinwatch workload perf-buffers --max 2 --quiet --uid 1001
	pinwatch workload perf-buffers --max 1 --quiet --uid 1002
	busybox sleep 5'
`
	out := guesttest.Run(t, k, shell, "trace", "--only", "perf", "--json", "--", "sh", "-c", script)
	inner := map[uint32]int{}
	events := 0
	rows, _, _ := split(t, out.Stdout)
	// Both traces write to the same place: the outer one has all three users.
	for _, r := range rows {
		inner[r.UID]++
		events++
	}
	if inner[1001] != 8 || inner[1002] != 2 || inner[1003] != 2 {
		t.Errorf("rows by uid: %v; want 1001: 4 in each trace, 1002 and 1003: 2 in the outer one alone\n%s%s", inner, out.Stdout, out.Stderr)
	}
}

// What a machine lacks is said in one line: what is needed, what it has, what
// to do. (TestMatrix has what kernels lack.)
func TestClearErrors(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, command string
		want          []string
	}{
		{"no capabilities", "busybox su nobody -c 'pinwatch trace'",
			[]string{"uid 65534", "lacks CAP_BPF (to load BPF programs) and CAP_PERFMON", "run it as root, or grant them"}},
		{"no such types", "pinwatch trace --btf /nowhere",
			[]string{"--btf /nowhere", "no such file"}},
		{"no such command", "pinwatch trace -- nowhere",
			[]string{"run the command", "nowhere"}},
	}
	var script string
	for _, c := range cases {
		script += marked(c.name, c.command)
	}
	out := guesttest.Run(t, guesttest.Kernels(t)[0], guesttest.Shell(t), "workload", "run-as", "--", "sh", "-c", script)
	for i, result := range unmark(t, out, len(cases)) {
		for _, want := range cases[i].want {
			if !strings.Contains(result.Stderr, want) {
				t.Errorf("%s: stderr lacks %q: %s", cases[i].name, want, result.Stderr)
			}
		}
		if result.Code != 1 {
			t.Errorf("%s: exit %d; want 1", cases[i].name, result.Code)
		}
	}
}

// No call is too many when many are under way at once and kept at the same place. By
// fentry: a kretprobe holds no more than ten returns at a time, and the rest is lost. But
// the kernel skips a fentry program where it interrupts itself: few, and counted.
func TestCrowd(t *testing.T) {
	t.Parallel()
	const processes, times = 24, 3
	script := strings.Repeat(fmt.Sprintf("pinwatch workload crowd --processes %d\n", processes), times)
	shell := guesttest.Shell(t)
	for _, k := range guesttest.Newest(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			if k.Series == "5.10" {
				t.Skip("its BTF does not describe perf_mmap, so there is no fentry")
			}
			out := guesttest.Run(t, k, shell, "trace", "--only", "perf", "--attach", "fentry", "--json", "--", "sh", "-c", script)
			rows, summary, _ := split(t, out.Stdout)
			const made = 2 * processes * times
			missed := made - len(rows)
			if out.Code == 1 || missed > made/10 || missed > int(summary.Lost) || missed == 0 && summary.Lost != 0 ||
				summary.Lost > 0 && !strings.Contains(out.Stderr, ", 0 calls were too many at once") {
				t.Errorf("exit %d, %d rows, %d lost; want %d rows\n%s", out.Code, len(rows), summary.Lost, made, out.Stderr)
			}
		})
	}
}

// Nothing is lost unnoticed: with a tiny buffer, seen and lost add up.
func TestLossIsCounted(t *testing.T) {
	t.Parallel()
	k := guesttest.Kernels(t)[0]
	shell := guesttest.Shell(t)
	const stopped = `sh -c 'busybox kill -STOP $PPID; pinwatch workload perf-buffers --quiet --max 100 --pages 1; busybox kill -CONT $PPID'`
	transports := []string{"ringbuf", "perf"}
	var script string
	for _, transport := range transports {
		script += marked(transport, "pinwatch trace --only perf --json --buffer-kib 4 --transport "+transport+" -- "+stopped)
	}
	// A CPU that was offline when the trace began has no ring in the perf array.
	script += "echo 0 > /sys/devices/system/cpu/cpu1/online\n" + marked("hotplug", `pinwatch trace --only perf --json --transport perf -- sh -c '
echo 1 > /sys/devices/system/cpu/cpu1/online
busybox taskset 2 pinwatch workload perf-buffers --max 1 --quiet
busybox taskset 1 pinwatch workload perf-buffers --max 1 --quiet'`)
	out := guesttest.Run(t, k, shell, "workload", "run-as", "--", "sh", "-c", script)
	results := unmark(t, out, len(transports)+1)
	rows, summary, _ := split(t, results[2].Stdout)
	if len(rows) != 2 || summary.Lost != 2 {
		t.Errorf("a new CPU: %d rows and %d lost; want 2 and 2\n%s", len(rows), summary.Lost, results[2].Stderr)
	}
	for i, result := range results[:2] {
		rows, summary, _ := split(t, result.Stdout)
		if summary.Lost == 0 || uint64(len(rows))+summary.Lost != 200 {
			t.Errorf("%s: %d rows and %d lost; 200 calls were made", transports[i], len(rows), summary.Lost)
		}
		if summary.Certainty != "uncertain" {
			t.Errorf("%s: certainty %s although events were lost", transports[i], summary.Certainty)
		}
	}
}
