//go:build guest

package check_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/evidence"
	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// few are the scenarios of `make test` on every kernel, and stock those on a stock
// one, where the tracer starts with all of its probes.
func few() []string {
	return []string{"map-once", "past-allowance", "map-twice", "two-processes-payer-first", "sysctl-lowered", "aux-straddle-allowance"}
}

func stock() []string { return append(few(), "memcg-limit", "io-uring-buffers") }

// runCheck runs pinwatch check on the host, with guests, and returns its report
// and its exit code.
func runCheck(t *testing.T, args ...string) (check.Report, int) {
	t.Helper()
	result := guesttest.Check(t, append([]string{"--format", "json"}, args...)...)
	var report check.Report
	if result.Stdout != "" {
		if err := json.Unmarshal([]byte(result.Stdout), &report); err != nil {
			t.Fatalf("%v\n%s", err, result.Stdout)
		}
	}
	for _, k := range report.Kernels {
		if k.Error != "" {
			t.Logf("%s: %s", k.Release, k.Error)
		}
	}
	return report, result.Code
}

// failed are the scenarios that fail on a kernel, and their verdicts.
func failed(t *testing.T, k check.Kernel) map[string][]string {
	t.Helper()
	if len(k.Scenarios) == 0 {
		t.Fatalf("%s: no scenario ran: %s", k.Release, k.Error)
	}
	fails := map[string][]string{}
	for _, sc := range k.Scenarios {
		if sc.CouldNotRun {
			t.Errorf("%s: %s: %s", k.Release, sc.Name, sc.Reason)
		}
		if sc.Result != check.Skip && k.Tracer != "" && !sc.Evidence.Tracer.Watched {
			t.Errorf("%s: %s: the tracer did not watch", k.Release, sc.Name)
		}
		if sc.Result == check.Fail {
			fails[sc.Name] = sc.Verdicts
			if k.Tracer != "" && !sc.Evidence.Agree {
				t.Errorf("%s: %s: %s", k.Release, sc.Name, sc.Reason)
			}
		}
	}
	return fails
}

// finding is what stock kernels are known to get wrong, and where that shows.
type finding struct {
	Name      string   `json:"name"`
	Verdict   string   `json:"verdict"`
	Series    []string `json:"series"`
	Scenarios []string `json:"scenarios"`
}

func findings(t *testing.T) (list []finding) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(guesttest.Root(), "testdata", "findings", "findings.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// known are the scenarios that are known to fail on a series, with verdicts.
func known(t *testing.T, series string, chosen []string) map[string][]string {
	t.Helper()
	return knownOf(findings(t), series, chosen)
}

func knownOf(list []finding, series string, chosen []string) map[string][]string {
	fails := map[string][]string{}
	for _, f := range list {
		if !slices.Contains(f.Series, series) {
			continue
		}
		for _, name := range f.Scenarios {
			name, only, found := strings.Cut(name, "@") // just on these series
			if found && !slices.Contains(strings.Split(only, "+"), series) || len(chosen) > 0 && !slices.Contains(chosen, name) {
				continue
			}
			fails[name] = append(fails[name], f.Verdict)
			slices.Sort(fails[name])
		}
	}
	return fails
}

// Stock kernels fail in the scenarios that show what they are known to get wrong,
// by the same verdicts on both architectures and with any page size, and in no
// others: all of them are known, and all that is known comes.
func TestStockKernels(t *testing.T) {
	t.Parallel()
	kernels := guesttest.Fetch(t, "6.12")
	chosen := stock()
	if guesttest.All() {
		kernels, chosen = guesttest.Kernels(t), nil
	}
	for i, k := range kernels {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			guesttest.BinaryFor(t, k.Arch)
			args := []string{"--kernel", k.Image, "--known", "stock"}
			kept := filepath.Join(t.TempDir(), "kept")
			if i == 0 {
				args = append(args, "--evidence", kept)
			}
			if len(chosen) > 0 {
				args = append(args, "--scenario", strings.Join(chosen, ","))
			}
			report, code := runCheck(t, args...)
			want := known(t, k.Upstream(), chosen)
			got := failed(t, report.Kernels[0])
			if report.Kernels[0].Tracer == "" {
				// Witnesses see that something is wrong, and not always whose it is.
				t.Logf("%s: no tracer: %s", k.Release, report.Kernels[0].TracerError)
				for name := range got {
					got[name] = want[name]
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s", diff)
			}
			if gone := report.Kernels[0].Gone; code != 0 || len(gone) > 0 {
				t.Errorf("exit %d with %d fails; known and not seen: %+v", code, len(want), gone)
			}
			if i == 0 {
				keptWhole(t, kept, k, &report.Kernels[0])
			}
		})
	}
}

// keptWhole tests the evidence of a kernel: its recording has the verdicts that the check
// came to.
func keptWhole(t *testing.T, dir string, k guesttest.Kernel, checked *check.Kernel) {
	t.Helper()
	in := filepath.Join(dir, check.ReleaseOf(k.Image))
	for name, words := range map[string]string{evidence.QEMUFile: " -kernel " + k.Image + " ", evidence.ConsoleFile: "--- pinwatch boots the kernel\n", evidence.ReportFile: `"release": "` + checked.Release + `"`} {
		if raw, err := os.ReadFile(filepath.Join(in, name)); err != nil || !strings.Contains(string(raw), words) {
			t.Errorf("%s: %v; want %q in %q", name, err, words, raw)
		}
	}
	replayed := guesttest.Command(t, guesttest.Binary(t), "replay", "--violations", filepath.Join(in, "trace.jsonl.zst")).Run()
	if replayed.Code != 0 || !strings.Contains(replayed.Stderr, "Linux "+checked.Release) {
		t.Errorf("replay: exit %d, %s", replayed.Code, replayed.Stderr)
	}
	for _, sc := range checked.Scenarios {
		for _, b := range sc.Evidence.Tracer.Broken {
			if !strings.Contains(replayed.Stdout, string(b.Verdict)) {
				t.Errorf("%s: %s is not in the recording\n%s", sc.Name, b.Verdict, replayed.Stdout)
			}
		}
	}
}

// Each accounting of the past fails in the scenarios that it should, and only
// there: testdata/check/known-bad.json, worked out from the code of each. The
// kernel without it passes, but for what 6.1 itself gets wrong.
func TestKnownBadKernel(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join(guesttest.Root(), "testdata", "check", "known-bad.json"))
	if err != nil {
		t.Fatal(err)
	}
	var variants map[string]map[string][]string
	if err := json.Unmarshal(raw, &variants); err != nil {
		t.Fatal(err)
	}
	names := []string{"cumulative"}
	chosen := few()
	if guesttest.All() {
		names, chosen = guesttest.Accountings, nil
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append(guesttest.KnownBad(t, name).Flags(), "--known", "stock")
			if len(chosen) > 0 {
				args = append(args, "--scenario", strings.Join(chosen, ","))
			}
			report, code := runCheck(t, args...)
			want := known(t, "6.1", chosen)
			for scenario, verdicts := range variants[name] {
				if len(chosen) == 0 || slices.Contains(chosen, scenario) {
					want[scenario] = slices.Sorted(slices.Values(append(want[scenario], verdicts...)))
				}
			}
			got := failed(t, report.Kernels[0])
			for _, verdicts := range got {
				slices.Sort(verdicts)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			exit := 3
			if name == "right" { // but for what stock kernels are known for
				exit = 0
			}
			if code != exit {
				t.Errorf("exit %d; want %d", code, exit)
			}
		})
	}
}

var guests guesttest.Guests

func TestMain(m *testing.M) { os.Exit(guests.Main(m)) }

// A checker that is killed with SIGKILL while a setting is changed leaves the
// machine as it was.
func TestKilledCheckerRestores(t *testing.T) {
	kernels := func(t *testing.T) []guesttest.Kernel { return guesttest.Fetch(t, "6.12") }
	guests.Test(t, kernels, func(t *testing.T, _ guesttest.Kernel) {
		const settings = "/proc/sys/kernel/perf_event_"
		for scenario, file := range map[string]string{
			"sysctl-lowered":     settings + "mlock_kb",
			"paranoid-minus-one": settings + "paranoid",
			"cpu-offline":        "/sys/devices/system/cpu/cpu3/online",
		} {
			if !guesttest.All() && scenario != "cpu-offline" {
				continue
			}
			t.Run(scenario, func(t *testing.T) {
				before := machine(t)
				killWhileChanged(t, scenario, file)
				var diff string
				for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
					if diff = cmp.Diff(before, machine(t)); diff == "" {
						return
					}
				}
				t.Errorf("not restored: before - after +\n%s", diff)
			})
		}
	})
}

// killWhileChanged runs a scenario, and kills the checker when a file has changed.
func killWhileChanged(t *testing.T, scenario, file string) {
	t.Helper()
	old := read(t, file)
	var ended guesttest.Result
	for range 20 { // a change can be over before this process is scheduled again
		checker := guesttest.Command(t, "pinwatch", "check", "--invasive", "--scenario", scenario).Start()
		for !checker.Ended() {
			if read(t, file) != old {
				checker.Stop(os.Kill)
				return
			}
		}
		ended = checker.Wait()
	}
	t.Fatalf("%s did not change: %+v", file, ended)
}

// machine is what a checker changes.
func machine(t *testing.T) map[string]string {
	t.Helper()
	state := map[string]string{}
	for _, file := range []string{"/proc/sys/kernel/perf_event_mlock_kb", "/proc/sys/kernel/perf_event_paranoid",
		"/sys/devices/system/cpu/cpu3/online", "/sys/fs/cgroup/cgroup.subtree_control"} {
		state[file] = read(t, file)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/pinwatch*")
	if err != nil {
		t.Fatal(err)
	}
	state["cgroups"] = strings.Join(groups, " ")
	return state
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// A kernel that panics, hangs or has no BTF is never "bad" for git bisect.
func TestBisectCannotTest(t *testing.T) {
	guesttest.Long(t)
	k := guesttest.Fetch(t, "6.12")[0]
	for name, args := range map[string][]string{
		"panic":           {"--append", "init=/nowhere rdinit=/nowhere"},
		"hang":            {"--timeout", "1s"},
		"missing feature": {"--scenario", "aux-straddle-allowance"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, code := runCheck(t, append([]string{"--exit", "bisect", "--kernel", k.Image}, args...)...); code != 125 {
				t.Errorf("exit %d; want 125", code)
			}
		})
	}
}

// git bisect finds the commit that breaks the accounting: the known-bad kernel
// stands in for it, by a boot parameter that the commits hold.
func TestBisectRun(t *testing.T) {
	guesttest.Long(t)
	k := guesttest.KnownBad(t, "right")
	cmd := exec.Command(filepath.Join(guesttest.Root(), "testdata", "check", "bisect-example.sh"), guesttest.Binary(t), k.Image, k.Module)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "is the first bad commit") || !strings.Contains(string(out), "perf: simplify the accounting") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The line that says how to see a fail again does so as it stands, in a shell: with the
// image, the types, the parameters and whatever else it takes.
func TestAgainIsPasted(t *testing.T) {
	t.Parallel()
	k := guesttest.KnownBad(t, "cumulative")
	dir := filepath.Join(t.TempDir(), "two words")
	for _, sub := range []string{dir, filepath.Join(dir, "types")} {
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(dir, "bzImage")
	if err := os.Symlink(k.Image, image); err != nil {
		t.Fatal(err)
	}
	stock := strings.TrimPrefix(filepath.Base(k.Image), "vmlinuz-") // as the image has it
	types := guesttest.Run(t, k, func(c *guest.Config) { c.Exec = guesttest.LookPath(t, "busybox") }, "cat", "/sys/kernel/btf/vmlinux")
	if err := os.WriteFile(filepath.Join(dir, "types", stock+".btf"), []byte(types.Stdout), 0o644); err != nil {
		t.Fatal(err)
	}
	report, code := runCheck(t, "--kernel", image, "--btf", filepath.Join(dir, "types"), "--module", k.Module, "--append", k.Parameters+" quiet", "--cpus", "2",
		"--transport", "perf", "--scenario", "past-allowance")
	if code != 3 || len(report.Kernels[0].Scenarios) != 1 || len(report.Kernels[0].Scenarios[0].Evidence.Reproduce) != 2 {
		t.Fatalf("exit %d: %+v", code, report)
	}
	first := report.Kernels[0]
	line := first.Scenarios[0].Evidence.Reproduce[1]
	if !strings.Contains(line, stock+".btf") {
		t.Errorf("%s: the file of this kernel's types is not in it", line)
	}
	again := exec.Command("sh", "-c", line+" --format json")
	again.Env = append(os.Environ(), "PATH="+filepath.Dir(guesttest.Binary(t))+":"+os.Getenv("PATH"))
	free := guesttest.TakeSlot()
	out, err := again.Output()
	free()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Fatalf("%s: %v", line, err)
	}
	var second check.Report
	if err := json.Unmarshal(out, &second); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	// What it rests on is the same: two CPUs, the cumulative rule, the tracer with its types.
	sum := func(k check.Kernel) string {
		e := k.Scenarios[0].Evidence
		return fmt.Sprint(k.Release, k.Tracer, k.TracerError, k.Scenarios[0].Verdicts, e.AllowancePages, e.WitnessVerdicts, e.Tracer.Watched, e.Tracer.Scheme)
	}
	if got, want := sum(second.Kernels[0]), sum(first); got != want {
		t.Errorf("%s\ngot  %s\nwant %s", line, got, want)
	}
	if diff := cmp.Diff(first.Scenarios[0].Evidence.Reproduce, second.Kernels[0].Scenarios[0].Evidence.Reproduce); diff != "" {
		t.Error(diff)
	}
}

// Ten runs give the same table. With PINWATCH_REPEAT=10.
func TestRepeatable(t *testing.T) {
	var n int
	if fmt.Sscan(os.Getenv("PINWATCH_REPEAT"), &n); n == 0 {
		t.Skip("runs with PINWATCH_REPEAT=10")
	}
	for _, k := range guesttest.Kernels(t) {
		var first string
		for i := range n {
			report, _ := runCheck(t, "--kernel", k.Image)
			var table strings.Builder
			for _, sc := range report.Kernels[0].Scenarios {
				fmt.Fprintf(&table, "%s %s %v\n", sc.Name, sc.Result, sc.Verdicts)
			}
			if i == 0 {
				first = table.String()
			}
			if diff := cmp.Diff(first, table.String()); diff != "" {
				t.Errorf("%s, run %d: %s", k, i+1, diff)
			}
		}
	}
}
