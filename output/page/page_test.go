package page_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/hostile"
	"github.com/pinwatch/pinwatch/output/page"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

const (
	recordings = "../../testdata/recordings/"
	published  = "published-overcharge.jsonl"
	users      = "several-users-cumulative.jsonl"
)

// pageOf is the page of some events.
func pageOf(t testing.TB, title string, events iter.Seq2[ledger.Event, error]) []byte {
	t.Helper()
	var out bytes.Buffer
	everything := recording.Everything()
	w := page.New(title, 0)
	if err := errors.Join(pipeline.Run(events, func() uint64 { return 0 }, output.NewStream(w, &everything)), w.Finish(&out)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func report(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(recordings + name)
	if err != nil {
		t.Fatal(err)
	}
	return pageOf(t, name, recording.NewReader(bytes.NewReader(raw)).Events())
}

// shown is what the tests read of a page's data.
type shown struct {
	Title    string
	Begin    string
	End      int64
	Traces   []struct{ Since string }
	Broken   bool
	Story    []string
	Accounts []account
	Holders  []struct {
		PID  uint32
		Comm string
		UID  uint32
	}
	Moves struct{ T, Holder, Count, User, Pinned []int64 }
	Notes []struct {
		T                            int64
		Event                        uint64
		Comm, Refused, Verdict, Text string
		Like                         int
	}
}

type account struct {
	Process          bool
	PID, UID         uint32
	Name             string
	End              int64
	T, Actual, Right []int64
	Limit            []*int64
	Marks            struct{ Point, Y, Note []int64 }
	Foreign, Over    int64
	Refused          int
}

var script = regexp.MustCompile(`(?s)<script type="application/json" id="data">(.*?)</script>`)

func dataOf(t testing.TB, html []byte) *shown {
	t.Helper()
	found := script.FindSubmatch(html)
	if found == nil {
		t.Fatal("the page has no data")
	}
	d := &shown{}
	if err := json.Unmarshal(found[1], d); err != nil {
		t.Fatal(err)
	}
	return d
}

// The published trace is a staircase beside a flat line: five steps of the numbers that were
// published, the first refusal at call 5, and what should have been charged.
func TestPublished(t *testing.T) {
	d := dataOf(t, report(t, published))
	if !d.Broken || len(d.Accounts) != 2 {
		t.Fatalf("broken %v, %d accounts", d.Broken, len(d.Accounts))
	}
	p := d.Accounts[0]
	if !p.Process || p.PID != 3983764 || p.Name != "ilarouter" || p.Foreign != 28257 {
		t.Errorf("first is %+v", p)
	}
	if diff := cmp.Diff([]int64{0, 28245, 56493, 84744, 112998, 112998, 141255}, p.Actual); diff != "" {
		t.Errorf("charged: %s", diff)
	}
	if diff := cmp.Diff([]int64{0, 3, 6, 9, 12, 12, 12}, p.Right); diff != "" {
		t.Errorf("should be: %s", diff)
	}
	if diff := cmp.Diff([]int64{0, 1000, 2000, 3000, 4000, 5000}, p.T[1:]); diff != "" || p.T[0] >= 0 {
		t.Errorf("at %v: %s", p.T, diff)
	}
	if p.Refused != 2 || p.Marks.Y[4] != 112998+28257 || p.T[p.Marks.Point[4]] != 4000 || *p.Limit[0] != 131072 {
		t.Errorf("refusals: %+v", p.Marks)
	}
	if u := d.Accounts[1]; u.Process || u.Actual[0] != 32886 || u.Right[5] != 32886 || *u.Limit[0] != 4644 {
		t.Errorf("the user: %+v", u)
	}
	for i, want := range []string{"Process 3983764 (ilarouter) was charged 112998 pages (441.4 MiB), where 12 pages (48 KiB) would be right.", "The first refusal was call 5 (perf buffer): process 3983764 (ilarouter) asked for 3 pages (12 KiB) and got EPERM, although the rules allow it."} {
		if !strings.HasPrefix(d.Story[i], want) {
			t.Errorf("story: %q", d.Story[i])
		}
	}
	if n := d.Notes[4]; n.Event != 5 || n.Refused != "EPERM" || n.Verdict != "wrong-refusal" || !strings.Contains(n.Text, "112986 of pinned_vm are earlier overcharges") {
		t.Errorf("call 5: %+v", n)
	}
}

// gap is what is said of that in gapped.
const gap = "gap: nothing is recorded between them"

// gapped is a page of two traces, the first of which breaks off while much is mapped.
func gapped(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	everything := recording.Everything()
	from := uint64(1795258116_000_000_000) // two of the first trace's three refusals are after that
	w := page.New("two traces", from)
	for i, name := range []string{users, "several-users-6.12.jsonl"} {
		if i > 0 {
			w.Gap(gap)
		}
		raw, err := os.ReadFile(recordings + name)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			lines := bytes.SplitAfter(raw, []byte("\n"))
			raw = bytes.Join(lines[:60], nil)
		}
		read := recording.NewReader(bytes.NewReader(raw))
		if err := pipeline.Run(read.Events(), read.Lost, output.NewStream(w, &everything)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Where a part is missing nothing is claimed: nobody holds anything that is known, and no line is
// drawn across it. What came before the time that is wanted is not shown, but what came of it.
func TestGaps(t *testing.T) {
	d := dataOf(t, gapped(t))
	if story := strings.Join(d.Story, "\n"); !strings.Contains(story, gap) || !strings.Contains(story, "The first refusal was call") || !d.Broken {
		t.Errorf("story: %s", story)
	}
	if len(d.Traces) != 2 || d.Begin != "2026-11-21T10:48:36Z" || d.Traces[0].Since[:19] != "2026-11-21T10:48:34" || d.Traces[1].Since[:19] != "2026-11-21T10:48:50" {
		t.Errorf("begins %s, %+v", d.Begin, d.Traces)
	}
	refused := 0
	for _, n := range d.Notes {
		if n.T < 0 {
			t.Errorf("%+v is before the page", n)
		}
		if n.Refused != "" {
			refused++
		}
	}
	if refused != 2 {
		t.Errorf("%d refusals", refused)
	}
	held, most := map[int64]int64{}, int64(0)
	missing := int64(10e6) // microseconds, in the gap
	for i, at := range d.Moves.T {
		if at > missing {
			break
		}
		held[d.Moves.Holder[i]] += d.Moves.User[i] + d.Moves.Pinned[i]
		most = max(most, held[d.Moves.Holder[i]])
	}
	for h, pages := range held {
		if pages != 0 {
			t.Errorf("%+v holds %d pages in the gap", d.Holders[h], pages)
		}
	}
	if most < 500 {
		t.Errorf("nobody held more than %d pages before the gap", most)
	}
	counters := map[uint32][]account{}
	for _, a := range d.Accounts {
		if a.T[0] < missing && a.End > missing || a.T[0] > a.End {
			t.Errorf("%s %d goes on from %d to %d", a.Name, a.UID, a.T[0], a.End)
		}
		if len(a.T) > 1 && a.T[1] < 0 {
			t.Errorf("%s %d: more than one point before the page: %v", a.Name, a.UID, a.T)
		}
		for i, p := range a.Marks.Point {
			if a.T[p] != d.Notes[a.Marks.Note[i]].T {
				t.Errorf("%s %d: a mark at %d of a note at %d", a.Name, a.UID, a.T[p], d.Notes[a.Marks.Note[i]].T)
			}
		}
		if !a.Process {
			counters[a.UID] = append(counters[a.UID], a)
		}
	}
	if len(counters[1001]) != 2 || len(counters[1002]) != 2 {
		t.Errorf("%+v", counters)
	}
}

// A page of nothing claims no time.
func TestNothing(t *testing.T) {
	d := dataOf(t, pageOf(t, "nothing", func(func(ledger.Event, error) bool) {}))
	if d.Begin != "" || len(d.Traces) != 1 || d.Traces[0].Since != "" || d.End != 0 {
		t.Errorf("%+v", d)
	}
}

// What all holders together are charged for at the end is what the ledger's summary says is
// there, and nobody holds what was given back.
func TestHolders(t *testing.T) {
	for name, want := range map[string][2]int64{
		published:                  {12, 112998},
		users:                      {0, 0},
		"several-users-6.12.jsonl": {0, 0},
		"chargers-5.10.jsonl":      {194, -1}, // of pinned_vm the recording's end says nothing
		"preexisting.jsonl":        {70, 4},
		"bpf-rlimit-5.10.jsonl":    {-1, 0},
	} {
		d := dataOf(t, report(t, name))
		var user, pinned int64
		for i := range d.Moves.T {
			user += d.Moves.User[i]
			pinned += d.Moves.Pinned[i]
			if i > 0 && d.Moves.T[i] < d.Moves.T[i-1] {
				t.Errorf("%s: move %d is before the last one", name, i)
			}
		}
		if want[0] >= 0 && user != want[0] || want[1] >= 0 && pinned != want[1] {
			t.Errorf("%s: %d charged to users and %d to processes at the end, want %d", name, user, pinned, want)
		}
	}
}

// What a counter is at the end is what the recording's last reading of it was, times never
// go back, and no point says what the one before said. A kernel that accounts right has one
// line only.
func TestAccounts(t *testing.T) {
	for _, name := range []string{published, users, "several-users-6.12.jsonl", "chargers-6.12.jsonl", "chargers-5.10.jsonl", "preexisting.jsonl", "bpf-rlimit-5.10.jsonl", "bpf-cgroups-6.12.jsonl"} {
		d := dataOf(t, report(t, name))
		for _, a := range d.Accounts {
			marked := map[int64]bool{}
			for _, p := range a.Marks.Point {
				marked[p] = true
			}
			for i := 1; i < len(a.T); i++ {
				same := a.Actual[i] == a.Actual[i-1] && a.Right[i] == a.Right[i-1] && cmp.Equal(a.Limit[i], a.Limit[i-1])
				if a.T[i] < a.T[i-1] || same && !marked[int64(i)] {
					t.Errorf("%s: %s %d: point %d at %d", name, a.Name, a.UID, i, a.T[i])
				}
				if !d.Broken && a.Foreign == 0 && a.Actual[i] != a.Right[i] {
					t.Errorf("%s: %s %d: %d at %d, should be %d", name, a.Name, a.UID, a.Actual[i], a.T[i], a.Right[i])
				}
			}
		}
	}
}

// event is a call of a process that maps pages within its allowance, or is refused.
func event(n int, comm string, errno int32) ledger.Event {
	e := ledger.Event{TimeNS: uint64(1e18 + n*1e6), PageSize: 4096, Errno: errno, Op: ledger.Map, Caller: ledger.Caller{PID: 7, UID: 1000, Comm: comm, LockLimit: 8},
		User: ledger.Reading{Owner: 1000, Before: int64(n % 50)}, Process: ledger.Reading{Owner: 1},
		Buffer: ledger.Buffer{Key: uint64(n + 1), Pages: 1, Limits: ledger.Limits{Allowance: 100, OnlineCPUs: 4, Paranoid: 2}}}
	e.User.After, e.Buffer.Mappings.After = e.User.Before+1, 1
	if errno != 0 {
		e.User.After, e.Buffer.Key = e.User.Before, 0
	}
	return e
}

// names are what a process may call itself, and a file may be called.
var names = []string{"</script><script>alert(1)</script>", "<!--<script", "<img src=x onerror=alert(1)>", "a\u202eb\u2028", "\xff\xfe\x1b[2J", "\"';alert(1)//", "{{program}}", "&lt;b&gt;"}

func spoiled(t testing.TB) []byte {
	return pageOf(t, names[0], func(yield func(ledger.Event, error) bool) {
		for i, comm := range names {
			e := event(0, comm, 1)
			e.TimeNS += uint64(i)
			e.Caller.PID, e.Process.Owner = uint32(i+1), uint64(i+1)
			if !yield(e, nil) {
				return
			}
		}
	})
}

// Nothing in a name ends the script of the data, opens a comment, or is a character that a
// reader does not see: and the page has as many scripts as without.
func TestHostile(t *testing.T) {
	html := spoiled(t)
	plain := report(t, published)
	for _, tag := range []string{"<script", "</script", "<!--", "\u2028", "\u202e", "\x1b", "<img"} {
		if got, want := bytes.Count(html, []byte(tag)), bytes.Count(plain, []byte(tag)); got != want {
			t.Errorf("%q is in the page %d times, not %d", tag, got, want)
		}
	}
	d := dataOf(t, html)
	if d.Title != names[0] || d.Notes[0].Comm != names[0] || d.Notes[3].Comm != `a\u202eb\u2028` || d.Notes[4].Comm != `\xff\xfe\x1b[2J` || d.Notes[6].Comm != "{{program}}" {
		t.Errorf("names: %q, %+v", d.Title, d.Notes)
	}
}

// Whatever the names of processes, cgroups, containers, maps and files are, a page has the same
// elements, and nothing that a terminal or a reader of its source is led astray by.
func TestHostileTexts(t *testing.T) {
	pageWith := func(text string) []byte {
		return pageOf(t, text, func(yield func(ledger.Event, error) bool) {
			for i, errno := range []int32{0, 1, 12} {
				e := event(i, text, errno)
				e.Caller.Cgroup, e.Caller.Names = text, container.Names{Pod: text, Namespace: text, Container: text}
				if i == 2 {
					e.Op, e.Object = ledger.Create, &ledger.Object{Name: text, Watched: true, Refused: true, LimitCgroupID: 9, LimitCgroup: text}
				}
				if !yield(e, nil) {
					return
				}
			}
		})
	}
	own := regexp.MustCompile("[\t\r]|[^\x00-\x7f]") // of the library and the programs
	elements := regexp.MustCompile(`(?i)<[a-z/!?]`)
	dataIn := regexp.MustCompile(`(?s)<script[^>]*application/json[^>]*>(.*?)</script`)
	plain := len(elements.FindAll(pageWith("x"), -1))
	for name, text := range hostile.Texts() {
		html := pageWith(text)
		if n := len(elements.FindAll(html, -1)); n != plain {
			t.Errorf("%s: %d elements; with a plain name %d", name, n, plain)
		}
		found := dataIn.FindSubmatch(html)
		if found == nil {
			t.Fatal("the page has no data")
		}
		if err := hostile.JSON(string(found[1])); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := hostile.Terminal(own.ReplaceAllString(string(html), "")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The library is the one that was published.
func TestUPlotIsAsPublished(t *testing.T) {
	html := report(t, published)
	begin := bytes.Index(html, []byte("<script>/*! https://github.com/leeoniya/uPlot (v1.6.32) */"))
	if begin < 0 {
		t.Fatal("the page has no uPlot 1.6.32")
	}
	program := html[begin+len("<script>"):]
	program = program[:bytes.Index(program, []byte("</script>"))]
	if got, want := fmt.Sprintf("%x", sha256.Sum256(program)), "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"; got != want {
		t.Errorf("its sha256 is %s, not %s", got, want)
	}
}

// A page loads nothing: it names no other place but in texts.
func TestSelfContained(t *testing.T) {
	html := report(t, published)
	if found := regexp.MustCompile(`(?i)(src|href|action|srcset)\s*=\s*["']?(https?:|//)|@import|url\(\s*["']?http`).Find(html); found != nil {
		t.Errorf("the page has %q", found)
	}
	if !bytes.Contains(html, []byte("default-src 'none'")) {
		t.Error("the page has no policy")
	}
}

// many is the page of a process that maps a lot: each call, or each tenth, is refused.
func many(t testing.TB, events, every int) []byte {
	return pageOf(t, "many", func(yield func(ledger.Event, error) bool) {
		for i := range events {
			errno := int32(0)
			if i%every == every-1 {
				errno = 1
			}
			e := event(i, "many", errno)
			e.User.Before, e.User.After = int64(i%7), int64(i%7+1)
			e.Process.Before, e.Process.After = int64(i%11), int64(i%11)
			if !yield(e, nil) {
				return
			}
		}
	})
}

// Of many events the page has the data once: it stays small, and what says the same is said
// once.
func TestMany(t *testing.T) {
	html := many(t, 20_000, 10) // 100,000 of them in a browser
	if len(html) > 8<<20 {
		t.Errorf("%d MiB", len(html)>>20)
	}
	d := dataOf(t, html)
	last := d.Notes[len(d.Notes)-1]
	if last.Text != "" || last.Like < 0 || d.Notes[last.Like].Text == "" {
		t.Errorf("the last note: %+v", last)
	}
}

// A recording of nothing is a page, too.
func TestEmpty(t *testing.T) {
	d := dataOf(t, pageOf(t, "empty", func(func(ledger.Event, error) bool) {}))
	if d.Broken || len(d.Accounts) != 0 || len(d.Notes) != 0 {
		t.Errorf("%+v", d)
	}
}
