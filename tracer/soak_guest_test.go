//go:build guest

package tracer_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// soakVariable says how long TestSoak takes, each time.
const soakVariable = "PINWATCH_SOAK"

// soakTime is what it says, or what suits `make test`.
func soakTime() time.Duration {
	text := os.Getenv(soakVariable)
	if text == "" {
		return 5 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", soakVariable, err))
	}
	return d
}

// Many processes and threads of two users map, unmap, exit and are killed at
// random while sysctls and limits change. No verdict may be false, and at the
// end the ledger must explain the kernel's counters to the page.
func TestSoak(t *testing.T) {
	t.Parallel()
	duration := soakTime()
	verdict := regexp.MustCompile(`\b(overcharge|double-charge|misdirected-refund|leak|underflow|wrong-refusal) \d+`)
	balance := regexp.MustCompile(`(?m)^uid (2001|2002): .*\b0 for live buffers.*\b0 unexplained$`)
	kernels := guesttest.Newest(t)
	for i, k := range kernels {
		first, last := i == 0, i == len(kernels)-1
		soak := func(t *testing.T, share bool, transport string) {
			t.Parallel()
			out := guesttest.Run(t, k, func(c *guest.Config) { c.Timeout = duration + 5*time.Minute },
				"trace", "--pid", "1", "--transport", transport, "--", "pinwatch", "workload", "soak", "--duration", duration.String(), "--sysctls",
				fmt.Sprintf("--share=%v", share))
			if out.Code != 0 || !strings.Contains(out.Stderr, "soak: seed 1") {
				t.Fatalf("exit %d\n%s", out.Code, out.Stderr)
			}
			t.Log(out.Stdout)
			// What follows from a double charge: the allowance seems gone sooner.
			var allowed []string
			for _, f := range findings {
				if f.Name == "double-charge-of-further-mappings" && (slices.Contains(f.Series, k.Upstream()) || !examined(k.Upstream())) {
					allowed = []string{"double-charge", "wrong-refusal"}
				}
			}
			// And what follows from a refund to the wrong process: its pinned_vm
			// is too low, and the payer's too high.
			if share {
				allowed = append(allowed, "misdirected-refund", "wrong-refusal")
			}
			certain, _, _ := strings.Cut(out.Stdout[strings.Index(out.Stdout, "verdict:"):], "entries uncertain")
			for _, m := range verdict.FindAllStringSubmatch(certain, -1) {
				if !slices.Contains(allowed, m[1]) {
					t.Errorf("verdict %s on a kernel that is not known for it", m[0])
				}
			}
			if strings.Contains(out.Stdout, "incomplete") {
				t.Errorf("events were lost: %s", out.Stderr)
			}
			if n := len(balance.FindAllString(out.Stdout, -1)); n != 2 {
				t.Errorf("%d of 2 users are explained to the page", n)
			}
		}
		if first || last && guesttest.All() {
			t.Run(k.String()+"/alone", func(t *testing.T) { soak(t, false, "auto") })
		}
		t.Run(k.String()+"/share", func(t *testing.T) { soak(t, true, "auto") })
		if guesttest.All() && (first || last) && os.Getenv("PINWATCH_SOAK") == "" {
			t.Run(k.String()+"/share-perf", func(t *testing.T) { soak(t, true, "perf") })
		}
	}
}

// A probe that attaches and never fires is found out before anything is traced.
func TestSilentProbes(t *testing.T) {
	t.Parallel()
	k := guesttest.Kernels(t)[0]
	const script = `
echo 0 > /sys/kernel/debug/kprobes/enabled
pinwatch trace --only perf --attach kprobe --duration 1s
echo "exit $?"
echo 1 > /sys/kernel/debug/kprobes/enabled
pinwatch trace --only perf --attach kprobe --duration 1s
echo "exit $?"
`
	out := guesttest.Run(t, k, guesttest.Shell(t), "workload", "run-as", "--", "sh", "-c", script)
	if !strings.Contains(out.Stdout, "exit 1") || !strings.Contains(out.Stderr, "attached, but silent: the probes on [the return of perf_mmap perf_mmap the return of perf_mmap_close perf_mmap_close]") {
		t.Errorf("kprobes disarmed: %s%s", out.Stdout, out.Stderr)
	}
	if !strings.Contains(out.Stdout, "exit 0") {
		t.Errorf("kprobes armed again: %s%s", out.Stdout, out.Stderr)
	}
}

// The doctor tells the known accountings apart.
func TestDoctor(t *testing.T) {
	t.Parallel()
	for _, k := range guesttest.Newest(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			out := guesttest.Run(t, k, nil, "doctor")
			want := `accounting\s+ok\s+split`
			if slices.ContainsFunc(findings, func(f finding) bool {
				return f.Verdict == "double-charge" && slices.Contains(f.Series, k.Upstream())
			}) {
				want = "double-charge"
			}
			if !examined(k.Upstream()) {
				want = "accounting "
			}
			probes := 4
			if k.Series == "5.10" {
				probes = 5 // rb_alloc as well
			}
			if out.Code != 0 || !regexp.MustCompile(want).MatchString(out.Stdout) || strings.Count(out.Stdout, "fired in the self-test") != probes {
				t.Errorf("exit %d, want %q\n%s%s", out.Code, want, out.Stdout, out.Stderr)
			}
		})
	}
}
