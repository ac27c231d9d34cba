//go:build guest

package tracer_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// A process has mapped buffers up to the limit before the trace, and is killed
// during it; another one keeps its own. The trace judges what is refunded, says
// whose the rest is, and its recording tells all of that again.
//
// Then traces start again and again while processes map, unmap and die: none of
// them may say of the kernel what is not so, or leave pages unexplained.
func TestOlder(t *testing.T) {
	t.Parallel()
	const script = `
pinwatch workload perf-buffers --quiet --uid 2100 --memlock-kib $((128 * kib)) --pages 64 --max 3 --hold 1000s & keeper=$!
busybox sleep 1
pinwatch workload perf-buffers --quiet --uid 2100 --memlock-kib $((128 * kib)) --pages 64 --hold 1000s & holder=$!
until busybox grep -q "VmPin:.* $((69 * kib)) kB" /proc/$holder/status; do busybox sleep 0.1; done
pinwatch record /tmp/recording --only perf 2> /tmp/words & trace=$!
until busybox grep -q watching /tmp/words; do busybox sleep 0.1; done
kill -9 $holder
wait $holder
busybox sleep 1
kill -INT $trace
wait $trace
echo "processes $keeper $holder"
busybox cat /tmp/words
pinwatch replay /tmp/recording
pinwatch replay --json --include-self /tmp/recording > /tmp/again
busybox cmp /tmp/recording /tmp/again && echo "replayed the same"
echo "recording:"
busybox cat /tmp/recording
echo "top:"
pinwatch top --replay /tmp/recording --all -b --view processes,users
kill -9 $keeper
wait $keeper
echo "starts:"
for uid in 2001 2002; do
	pinwatch workload perf-buffers --quiet --uid $uid --memlock-kib $((128 * kib)) --pages 8 --max 5 --hold 1000s &
	while :; do pinwatch workload perf-buffers --quiet --uid $uid --pages 8 --max 30 --memlock-kib $((1024 * kib)) --pause 10ms; done &
done
busybox sleep 3
for start in $starts; do
	pinwatch trace --only perf --duration 1s
	echo "== ended"
done
`
	starts := 1
	if guesttest.All() {
		starts = 3
	}
	shell := guesttest.Shell(t)
	for _, k := range guesttest.Newest(t) {
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			out := guesttest.Run(t, k, func(c *guest.Config) {
				shell(c)
				c.Timeout = 6 * time.Minute
			}, "workload", "run-as", "--", "sh", "-c", fmt.Sprintf("starts=$(busybox seq %d)\n", starts)+k.Limits()+script)
			before, traces, ok := strings.Cut(out.Stdout, "starts:\n")
			if !ok {
				t.Fatalf("exit %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
			}
			judgesOlder(t, before)
			t.Log(traces)
			startsClean(t, traces, starts)
		})
	}
}

func judgesOlder(t *testing.T, text string) {
	t.Helper()
	said, recording, _ := strings.Cut(text, "recording:\n")
	recording, top, _ := strings.Cut(recording, "top:\n")
	var keeper, holder uint32
	if _, err := fmt.Sscanf(said, "processes %d %d", &keeper, &holder); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	rows, _, _ := split(t, recording)
	older, refunds := map[uint32]int64{}, map[uint32]int64{}
	for _, r := range rows {
		pages := map[string]map[uint32]int64{"older": older, "refund": refunds}[r.Kind]
		if pages == nil {
			continue
		}
		pages[r.PID] += r.ChargedUser + r.ChargedPinned
		if r.Verdict != "ok" || r.Certainty != "exact" || r.Buffer == 0 || r.Process == 0 {
			t.Errorf("%+v", r)
		}
	}
	// 3 buffers of the keeper, and 6 of the holder up to the limit of 128 pages.
	if older[keeper] != 195 || older[holder] != 390 || refunds[holder] != -390 || len(refunds) != 1 {
		t.Errorf("older %v, refunds %v: want 195 of %d and 390 of %d, and the latter back", older, refunds, keeper, holder)
	}
	for _, want := range []string{
		`6 events: 0 charges, 6 refunds, `,
		`uid 2100: 195 pages charged: 0 for live buffers, 0 that should not be, 195 older or not traced, 0 unexplained`,
		fmt.Sprintf(`  older: 195 pages for 3 buffers that process %d (pinwatch) has mapped`, keeper),
		"verdict: ok\n",
		"replayed the same",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	// The holders as the recording ends: the one that is gone holds nothing.
	for _, want := range []string{
		fmt.Sprintf(`(?m)^ *%d pinwatch +2100 +0 +128 .* 195 +3 `, keeper), // PINNED_VM, LOCK_LIMIT, ..., USER_SHARE, BUFS
		`(?m)^ *2100 .* 195 +516 `,
	} {
		if !regexp.MustCompile(want).MatchString(top) {
			t.Errorf("no %q in\n%s", want, top)
		}
	}
}

// startsClean looks at the summaries of traces that were started while much was
// going on.
func startsClean(t *testing.T, text string, want int) {
	t.Helper()
	traces := strings.Split(text, "== ended")
	if len(traces) != want+1 {
		t.Fatalf("%d traces; want %d", len(traces)-1, want)
	}
	for _, trace := range traces[:want] {
		for _, uid := range []string{"2001", "2002"} {
			balance := regexp.MustCompile(`(?m)^uid ` + uid + `: .* 0 that should not be, .*, 0 unexplained\n(  .*\n)*  older: 45 pages for 5 buffers that process \d+ \(pinwatch\) has mapped$`)
			if strings.Contains(trace, "\nuid "+uid) && !balance.MatchString(trace) {
				t.Errorf("uid %s is not explained:\n%s", uid, trace)
			}
		}
		// Calls that were under way when the probes came are no loss of the trace's.
		if strings.Contains(trace, "verdict: ok (incomplete") {
			t.Errorf("events were lost:\n%s", trace)
		}
		if !regexp.MustCompile(`(?m)^verdict: ok\b`).MatchString(trace) || !strings.Contains(trace, "  older: ") {
			t.Errorf("no sound verdict:\n%s", trace)
		}
	}
}
