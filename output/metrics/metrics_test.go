package metrics

import (
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

func source() Source {
	return Source{Version: "1.2", Kernel: "6.12.1",
		Settings: func() (rule.Settings, error) { return rule.Settings{MlockKiB: 516, OnlineCPUs: 4, PageSize: 4096}, nil },
		Lost:     func() uint64 { return 7 },
		LeftOut:  func() uint64 { return 3 },
		Ahead:    func() time.Duration { return time.Hour },
		Unrecorded: func() (uint64, error) {
			return 5, &fs.PathError{Op: "write", Path: "/var/lib/pinwatch/x", Err: unix.EIO}
		},
	}
}

// after returns a collector that has seen events.
func after(t testing.TB, events func(func(ledger.Event, error) bool)) *Collector {
	t.Helper()
	c := New(source())
	if err := pipeline.Run(events, func() uint64 { return 0 }, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func recorded(t testing.TB, name string) *Collector {
	t.Helper()
	in, err := os.Open(filepath.Join("..", "..", "testdata", "recordings", name))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	return after(t, recording.NewReader(in).Events())
}

func of(events ...ledger.Event) func(func(ledger.Event, error) bool) {
	return func(yield func(ledger.Event, error) bool) {
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// The published bug in numbers, as they are scraped.
func TestPublished(t *testing.T) {
	const want = `
# HELP pinwatch_charged_bytes_total What was charged to a user's counter, a process's, or a memory cgroup.
# TYPE pinwatch_charged_bytes_total counter
pinwatch_charged_bytes_total{account="process",subsystem="perf"} 4.62839808e+08
pinwatch_charged_bytes_total{account="user",subsystem="perf"} 49152
# HELP pinwatch_lost_events_total Events that the kernel could not hand over: other numbers may be too low.
# TYPE pinwatch_lost_events_total counter
pinwatch_lost_events_total 7
# HELP pinwatch_recording 1 if events are recorded, 0 if they cannot be written; the log and /healthz tell why.
# TYPE pinwatch_recording gauge
pinwatch_recording 0
# HELP pinwatch_refusals_by_uid_total Calls that failed, by the user that made them; other: all further users.
# TYPE pinwatch_refusals_by_uid_total counter
pinwatch_refusals_by_uid_total{uid="0"} 2
# HELP pinwatch_refusals_total Calls that failed, by errno and by what the explanation comes to: limit, other_rule, no_memory, unknown.
# TYPE pinwatch_refusals_total counter
pinwatch_refusals_total{errno="EPERM",outcome="limit",subsystem="perf"} 2
# HELP pinwatch_user_allowance_bytes What perf buffers of each user may have at nobody's expense: perf_event_mlock_kb for each online CPU.
# TYPE pinwatch_user_allowance_bytes gauge
pinwatch_user_allowance_bytes 2.113536e+06
`
	c := recorded(t, "published-overcharge.jsonl")
	names := []string{"pinwatch_charged_bytes_total", "pinwatch_lost_events_total", "pinwatch_recording", "pinwatch_refusals_by_uid_total", "pinwatch_refusals_total", "pinwatch_user_allowance_bytes"}
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

// Every recording is well named, and counts all that a ledger does.
func TestLint(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/recordings/*.jsonl")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, path := range paths {
		c := recorded(t, filepath.Base(path))
		problems, err := testutil.CollectAndLint(c)
		if err != nil || len(problems) > 0 {
			t.Errorf("%s: %v, %+v", path, err, problems)
		}
	}
}

// Two calls at once: the one that is told of last has read the counter first.
func TestOverlappingReadings(t *testing.T) {
	call := func(op ledger.Op, buffer uint64, before, after int64, shared bool) ledger.Event {
		e := ledger.Event{PageSize: 4096, Op: op, Caller: ledger.Caller{PID: 1, UID: 7, LockLimit: 16}, User: ledger.Reading{Owner: 7, Before: before, After: after, Shared: shared},
			Process: ledger.Reading{Owner: 1}, Buffer: ledger.Buffer{Key: buffer, Pages: 3, Limits: ledger.Limits{Allowance: 100}}}
		if e.Buffer.Mappings = (ledger.Count{After: 1}); op == ledger.Unmap {
			e.Buffer.Mappings = ledger.Count{Before: 1}
		}
		return e
	}
	const series = `pinwatch_user_locked_bytes{counter="perf",uid="7"} `
	const head = "# HELP pinwatch_user_locked_bytes A user's counter in the kernel when it was read last; perf: the one that perf_mmap() compares, locked_vm: the other one, where the kernel has two. Users with nothing have none; other: the sum of all but the largest.\n# TYPE pinwatch_user_locked_bytes gauge\n"
	two := []ledger.Event{call(ledger.Map, 1, 0, 3, false), call(ledger.Map, 2, 3, 6, false)}
	for name, c := range map[string]struct {
		events []ledger.Event
		want   string
	}{
		"both are there":     {two, head + series + "24576\n"},
		"both are unmapped":  {append(two[:2:2], call(ledger.Unmap, 2, 3, 0, true), call(ledger.Unmap, 1, 6, 3, true)), ""},
		"both come at once":  {[]ledger.Event{call(ledger.Map, 3, 0, 3, false), call(ledger.Unmap, 3, 3, 0, false), call(ledger.Map, 2, 3, 6, true), call(ledger.Map, 1, 0, 3, true)}, head + series + "24576\n"},
		"and one by one go":  {append(two[:2:2], call(ledger.Unmap, 2, 6, 3, false)), head + series + "12288\n"},
		"all are gone again": {append(two[:2:2], call(ledger.Unmap, 2, 6, 3, false), call(ledger.Unmap, 1, 3, 0, false)), ""},
	} {
		if err := testutil.CollectAndCompare(after(t, of(c.events...)), strings.NewReader(c.want), "pinwatch_user_locked_bytes"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// However many users and cgroups there are, and whatever fails, there are so many series and
// no more; the sums stay right.
func TestBounded(t *testing.T) {
	const many = 1000
	c := after(t, func(yield func(ledger.Event, error) bool) {
		for i := range uint32(many) {
			who := ledger.Caller{PID: i, UID: i, Cgroup: fmt.Sprintf("/pod%d", i), LockLimit: 16}
			yield(ledger.Event{PageSize: 4096, Errno: int32(i%200 + 1), Caller: who, Charger: ledger.Charger(fmt.Sprintf("charger%d", i)), Op: ledger.Account,
				User: ledger.Reading{Owner: uint64(i), Before: int64(i), After: int64(i)}, Process: ledger.Reading{Owner: 1}}, nil)
			yield(ledger.Event{PageSize: 4096, Op: ledger.Create, Caller: who, Object: &ledger.Object{Key: uint64(i + 1), ID: i, Watched: true,
				Payers: [2]ledger.Payer{{CgroupID: uint64(i), Cgroup: who.Cgroup, Pages: 4096}}}}, nil)
		}
	})
	fixed := 2*ledger.Verdicts + 10
	for name, most := range map[string]int{"pinwatch_user_locked_bytes": mostUsers + 1, "pinwatch_refusals_by_uid_total": mostUsers + 1, "pinwatch_refusals_by_cgroup_total": mostCgroups + 1,
		"pinwatch_bpf_cgroup_bytes": mostCgroups + 1, "pinwatch_refusals_total": mostKinds + 1, "pinwatch_events_total": mostKinds + 1} {
		n := testutil.CollectAndCount(c, name)
		if n < min(most, 100) || n > most {
			t.Errorf("%s: %d series; want %d", name, n, most)
		}
		fixed += most
	}
	if n := testutil.CollectAndCount(c); n > fixed {
		t.Errorf("%d series in all", n)
	}
	var text string
	for line := range strings.Lines(scrape(t, c, "/metrics")) {
		if strings.Contains(line, `"other"`) {
			text += line
		}
	}
	for _, want := range []string{
		fmt.Sprintf(`pinwatch_refusals_by_uid_total{uid="other"} %d`, many-mostUsers),
		fmt.Sprintf(`pinwatch_bpf_cgroup_bytes{cgroup="other"} %d`, (many-mostCgroups)*4096),
	} {
		if !strings.Contains(strings.ReplaceAll(text, "3.6864e+06", "3686400"), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func scrape(t testing.TB, c *Collector, path string) string {
	t.Helper()
	h, err := handler(c)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != http.StatusOK {
		t.Fatalf("%s: %d %v %s", path, w.Code, err, body)
	}
	return string(body)
}

// A name of a cgroup that is no text is one in a label, and ends no line.
func TestHostileNames(t *testing.T) {
	for _, name := range []string{"\x1b[2J", "a\nforged_total 1", "\u202egnp", "\xff\xfe", `"} 1`, `\`, ""} {
		refused := ledger.Event{Errno: 12, Op: ledger.Account, Charger: "io_uring", PageSize: 4096, Caller: ledger.Caller{Cgroup: name, Comm: name}}
		made := ledger.Event{Op: ledger.Create, Object: &ledger.Object{Key: 1, Watched: true, Payers: [2]ledger.Payer{{Cgroup: name, Pages: 4096}}}}
		text := scrape(t, after(t, of(refused, made)), "/metrics")
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\x1b\u202e") || strings.Contains(text, "\nforged") {
			t.Errorf("%q: %q", name, text)
		}
		if strings.Count(text, "refusals_by_cgroup_total{") != 1 || strings.Count(text, "bpf_cgroup_bytes{") != 1 {
			t.Errorf("%q: %q", name, text)
		}
	}
}

// Scrapes come from other goroutines, while events do.
func TestScrapedMeanwhile(t *testing.T) {
	c := New(source())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			testutil.CollectAndCount(c)
		}
	}()
	event := ledger.Event{Errno: 12, Op: ledger.Account, Charger: "io_uring", PageSize: 4096}
	l := ledger.New()
	for running := true; running; {
		e := l.Apply(event)
		c.Enter(&e)
		select {
		case <-done:
			running = false
		default:
		}
	}
}

// When the last event happened is told by the wall clock, which runs while the machine sleeps.
func TestLastEvent(t *testing.T) {
	text := scrape(t, after(t, of(ledger.Event{TimeNS: 5e9, Errno: 12, Op: ledger.Account, Charger: "io_uring"})), "/metrics")
	if !strings.Contains(text, "\npinwatch_last_event_timestamp_seconds 3605\n") {
		t.Error(text)
	}
}

func TestHealth(t *testing.T) {
	c := New(source())
	if said := scrape(t, c, "/healthz"); said != "ok, but not recording: input/output error\n" {
		t.Error(said)
	}
	if said := isRecording.String(); strings.Contains(said, "disk") {
		t.Error(said)
	}
	c.Unrecorded = nil
	if said := scrape(t, c, "/healthz"); said != "ok\n" {
		t.Error(said)
	}
}

// all are the names of the metrics that there are.
func all() map[string]bool {
	descs := make(chan *prometheus.Desc, 100)
	New(source()).Describe(descs)
	close(descs)
	names := map[string]bool{}
	for d := range descs {
		names[regexp.MustCompile(`fqName: "([a-z_]+)"`).FindStringSubmatch(d.String())[1]] = true
	}
	return names
}

// namedIn are the names of metrics in a file.
func namedIn(t *testing.T, file, pattern string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, name := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
		names[string(name[1])] = true
	}
	return names
}

// The README names all metrics that there are, and no other ones.
func TestReference(t *testing.T) {
	if diff := cmp.Diff(all(), namedIn(t, "../agent/README.md", "`(pinwatch_[a-z_]+)`")); diff != "" {
		t.Errorf("metrics - README +\n%s", diff)
	}
}

// What alerts and panels ask for is there.
func TestAsked(t *testing.T) {
	there := all()
	for file, least := range map[string]int{"alerts.yml": 6, "dashboard.json": 9} {
		asked := namedIn(t, "../../testdata/agent/"+file, `\b(pinwatch_[a-z_]+)`)
		if len(asked) < least {
			t.Errorf("%s asks for %d metrics: want %d or more", file, len(asked), least)
		}
		for name := range asked {
			if !there[name] {
				t.Errorf("%s asks for %s, which there is not", file, name)
			}
		}
	}
}
