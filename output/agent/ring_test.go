package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// clock is a time that a test sets.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

// noon is when the tests begin.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testHeader() (*recording.Header, error) {
	return &recording.Header{Version: 2, Kind: "header", TimeNS: noon.UnixNano(), Pinwatch: "test", Release: "6.12", Arch: "amd64", BootID: "b"}, nil
}

// ringOf opens a ring whose words go to the returned buffer.
func ringOf(t *testing.T, opts RingOptions) (*Ring, *bytes.Buffer) {
	t.Helper()
	var words bytes.Buffer
	opts.Log = slog.New(slog.NewTextHandler(&words, nil))
	if opts.Header == nil {
		opts.Header = testHeader
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.MaxBytes == 0 {
		opts.MaxBytes = LeastBytes
	}
	ring, err := OpenRing(opts)
	if err != nil {
		t.Fatal(err)
	}
	return ring, &words
}

// mappings are n buffers that are mapped, of which all but every 100th are unmapped again. Process
// 7 has them all. The noise in the names is not to be compressed.
func mappings(n int, from uint64) (events []ledger.Event) {
	locked := int64(0)
	at := uint64(noon.UnixNano())
	for i := range uint64(n) {
		at += uint64(time.Millisecond)
		noise := make([]byte, 1000)
		state := (from + i + 1) * 0x9e3779b97f4a7c15
		for j := range noise {
			state = state*6364136223846793005 + 1442695040888963407
			noise[j] = 'a' + byte(state>>40)%26
		}
		e := ledger.Event{
			TimeNS: at, PageSize: 4096, Caller: ledger.Caller{PID: 7, TID: 7, Comm: "test", Cgroup: "/" + string(noise), LockLimit: 1 << 40},
			User: ledger.Reading{Before: locked, After: locked + 3}, Process: ledger.Reading{Owner: 1},
			Buffer: ledger.Buffer{Key: from + i, Pages: 3, Mappings: ledger.Count{After: 1}, Limits: ledger.Limits{Allowance: 1 << 40}},
		}
		events = append(events, e)
		locked += 3
		if i%100 != 99 {
			e.Op, e.TimeNS = ledger.Unmap, at+1
			e.User = ledger.Reading{Before: locked, After: locked - 3}
			e.Buffer.Mappings = ledger.Count{Before: 1}
			e.Buffer.Recorded[0] = ledger.Recorded{Pages: 3}
			locked -= 3
			events = append(events, e)
		}
	}
	return events
}

// each yields events, and calls do after each.
func each(events []ledger.Event, do func(i int)) func(func(ledger.Event, error) bool) {
	return func(yield func(ledger.Event, error) bool) {
		for i, e := range events {
			if !yield(e, nil) {
				return
			}
			if do != nil {
				do(i)
			}
		}
	}
}

// said keeps what a ledger says of events.
type said struct{ list []string }

func (s *said) Enter(e *ledger.Entry) error {
	if e.Kind != ledger.Preexisting {
		s.list = append(s.list, e.Kind.String()+" "+e.Verdict.String()+" "+e.Caller.Cgroup)
	}
	return nil
}
func (*said) Flush(pipeline.View) error         { return nil }
func (*said) Close(pipeline.View, uint64) error { return nil }

// replayed reads a directory, and returns what was said of it in words, and what a ledger
// says of each trace.
func replayed(t *testing.T, dir string, from, to time.Time) (words string, traces []said, summaries []ledger.Summary) {
	t.Helper()
	d, err := recording.Open(dir, nil, from, to)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for trace, _ := d.Next(); trace != nil; trace, _ = d.Next() {
		var s said
		var sum summed
		if err := pipeline.Run(trace.Events(), trace.Lost, &s, &sum); err != nil {
			t.Fatal(err)
		}
		traces, summaries = append(traces, s), append(summaries, sum.Summary)
	}
	d.Tell(&b)
	return b.String(), traces, summaries
}

type summed struct{ ledger.Summary }

func (*summed) Enter(*ledger.Entry) error { return nil }
func (*summed) Flush(pipeline.View) error { return nil }
func (s *summed) Close(now pipeline.View, lost uint64) error {
	s.Summary = now.Summary()
	s.Lost = lost
	return nil
}

// A ring of many files is one trace, of which nothing is missing but what was dropped. Each
// file alone says the same of its events, and all together have never more than they may.
func TestRing(t *testing.T) {
	dir := t.TempDir()
	now := &clock{noon}
	ring, words := ringOf(t, RingOptions{Dir: dir, Now: now.Now})
	var live said
	events := mappings(2500, 1)
	most := int64(0)
	err := pipeline.Run(each(events, func(i int) {
		if i%100 != 0 {
			return
		}
		now.now = now.now.Add(time.Second)
		ring.Tick()
		files, err := recording.PartFiles(dir)
		if err != nil {
			t.Fatal(err)
		}
		size := int64(0)
		for _, f := range files {
			size += f.Size
		}
		most = max(most, size)
	}), func() uint64 { return 0 }, ring, &live)
	if err != nil || words.Len() > 0 {
		t.Fatalf("%v: %s", err, words)
	}
	if most > LeastBytes || most < LeastBytes/2 {
		t.Errorf("at most %d bytes of %d", most, LeastBytes)
	}
	files, err := recording.PartFiles(dir)
	if err != nil || len(files) < 8 || files[0].Number == 1 {
		t.Fatalf("%d files, %v: want several, and the first ones gone: %+v", len(files), err, files[0])
	}
	told, traces, summaries := replayed(t, dir, time.Time{}, time.Time{})
	if len(traces) != 1 || strings.Contains(told, "gap") || !strings.Contains(told, "in the midst of a trace") {
		t.Fatalf("%d traces: %s", len(traces), told)
	}
	rest := live.list[len(live.list)-len(traces[0].list):]
	if diff := cmp.Diff(rest, traces[0].list); diff != "" || len(rest) < len(live.list)/4 {
		t.Errorf("%d events of %d: %s", len(rest), len(live.list), diff)
	}
	if u := summaries[0].Users; len(u) != 1 || u[0].Unexplained() != 0 || u[0].Counter != 3*25 || u[0].Live+u[0].Preexisting != u[0].Counter {
		t.Errorf("%+v", u)
	}
	at := 0
	for _, file := range files {
		in, err := os.Open(file.Path)
		if err != nil {
			t.Fatal(err)
		}
		read := recording.NewReader(in)
		var alone said
		if err := pipeline.Run(read.Events(), read.Lost, &alone); err != nil || read.Torn() != "" {
			t.Fatalf("%s: %v, %s", file.Path, err, read.Torn())
		}
		in.Close()
		if diff := cmp.Diff(rest[at:at+len(alone.list)], alone.list); diff != "" {
			t.Fatalf("%s: %s", file.Path, diff)
		}
		at += len(alone.list)
	}
	if at != len(rest) {
		t.Errorf("%d events in the files one by one; want %d", at, len(rest))
	}
}

// What was entered is there after the next tick, whatever becomes of the process; the next one
// says that there is a gap, and why.
func TestRingIsKilled(t *testing.T) {
	dir := t.TempDir()
	ring, _ := ringOf(t, RingOptions{Dir: dir})
	events := mappings(30, 1)
	copied := t.TempDir()
	err := pipeline.Run(each(events, func(i int) {
		if i == 49 {
			ring.Tick()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil { // what a SIGKILL leaves
				t.Fatal(err)
			}
			if told, _, _ := replayed(t, dir, time.Time{}, time.Time{}); !strings.Contains(told, "an agent is writing on") || strings.Contains(told, "torn") {
				t.Errorf("of one that runs: %s", told)
			}
		}
	}), func() uint64 { return 0 }, ring)
	if err != nil {
		t.Fatal(err)
	}
	told, traces, _ := replayed(t, copied, time.Time{}, time.Time{})
	if len(traces) != 1 || len(traces[0].list) != 50 || !strings.Contains(told, "its end is torn") {
		t.Errorf("%d events; %s", len(traces[0].list), told)
	}
	again, _ := ringOf(t, RingOptions{Dir: copied})
	if err := pipeline.Run(each(mappings(10, 1), nil), func() uint64 { return 2 }, again); err != nil {
		t.Fatal(err)
	}
	told, traces, summaries := replayed(t, copied, time.Time{}, time.Time{})
	if len(traces) != 2 || len(traces[1].list) != 20 || !strings.Contains(told, "the agent did not end, and was started again") || summaries[1].Lost != 2 {
		t.Errorf("%d traces, %+v; %s", len(traces), summaries, told)
	}
	third, _ := ringOf(t, RingOptions{Dir: copied})
	if err := pipeline.Run(each(nil, nil), func() uint64 { return 0 }, third); err != nil {
		t.Fatal(err)
	}
	if told, traces, _ = replayed(t, copied, time.Time{}, time.Time{}); len(traces) != 3 || !strings.Contains(told, "the agent was stopped, and started again") {
		t.Errorf("%d traces; %s", len(traces), told)
	}
}

// How an agent ended is not known where what it wrote last cannot be read: its end may be there.
func TestRingUnreadable(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(path string) error
		says  string
	}{
		"no header": {func(path string) error { return os.Truncate(path, 0) }, "pinwatch-%08d-.* could not be read$"},
		"damage": {func(path string) error {
			whole, err := os.ReadFile(path)
			copy(whole[len(whole)/2:], make([]byte, 300))
			return errors.Join(err, os.WriteFile(path, whole, 0o600))
		}, "a part of pinwatch-%08d-.* could not be read$"},
		"gone": {os.Remove, "files are missing$"},
	} {
		dir := t.TempDir()
		first, _ := ringOf(t, RingOptions{Dir: dir})
		if err := pipeline.Run(each(mappings(600, 1), nil), func() uint64 { return 0 }, first); err != nil {
			t.Fatal(err)
		}
		files, err := recording.PartFiles(dir)
		if err != nil || len(files) < 2 {
			t.Fatalf("%v: %d files", err, len(files))
		}
		again, _ := ringOf(t, RingOptions{Dir: dir})
		if err := pipeline.Run(each(mappings(10, 1), nil), func() uint64 { return 0 }, again); err != nil {
			t.Fatal(err)
		}
		if told, _, _ := replayed(t, dir, time.Time{}, time.Time{}); !strings.Contains(told, "the agent was stopped, and started again") {
			t.Errorf("%s: whole: %s", name, told)
		}
		last := files[len(files)-1]
		if err := c.spoil(last.Path); err != nil {
			t.Fatal(err)
		}
		want := "gap: .*: the agent was started again, and how it had ended is not known: " + strings.ReplaceAll(c.says, "%08d", fmt.Sprintf("%08d", last.Number))
		if told, _, _ := replayed(t, dir, time.Time{}, time.Time{}); !regexp.MustCompile("(?m)" + want).MatchString(told) {
			t.Errorf("%s: %s\nwant %s", name, told, want)
		}
	}
}

// The times that are written are those of the wall clock, also after the machine has slept, and
// after the clock was set back. No verdict depends on that.
func TestRingClock(t *testing.T) {
	dir := t.TempDir()
	var ahead time.Duration
	ring, _ := ringOf(t, RingOptions{Dir: dir, Ahead: func() time.Duration { return ahead }})
	var live said
	events := mappings(60, 1)
	want := make([]uint64, len(events))
	err := pipeline.Run(each(events, func(i int) {
		want[i] = events[i].TimeNS + uint64(ahead)
		switch i {
		case 39:
			ahead = 8 * time.Hour
		case 59:
			ahead += time.Millisecond // as exact as it gets
		case 60:
			want[60] -= uint64(time.Millisecond)
			ahead = 7 * time.Hour
		}
	}), func() uint64 { return 0 }, ring, &live)
	if err != nil {
		t.Fatal(err)
	}
	files, err := recording.PartFiles(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %d files; want another one since the clock was set back", err, len(files))
	}
	_, traces, summaries := replayed(t, dir, time.Time{}, time.Time{})
	if len(traces) != 1 || summaries[0].Users[0].Unexplained() != 0 {
		t.Fatalf("%d traces, %+v", len(traces), summaries)
	}
	if diff := cmp.Diff(live.list, traces[0].list); diff != "" {
		t.Error(diff)
	}
	var got []uint64
	d, err := recording.Open(dir, nil, time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	trace, _ := d.Next()
	for e, err := range trace.Events() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.TimeNS)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// Each file alone has no time that goes back.
	for _, file := range files {
		in, err := os.Open(file.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		last := uint64(0)
		for e, err := range recording.NewReader(in).Events() {
			if err != nil || e.TimeNS < last {
				t.Errorf("%s: %d after %d, %v", file.Path, e.TimeNS, last, err)
			}
			last = e.TimeNS
		}
	}
}

// What a disk has no room for is counted and logged once, and recording goes on when it has.
func TestRingWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	now := &clock{noon}
	ring, words := ringOf(t, RingOptions{Dir: dir, Now: now.Now})
	full := ring.file
	events := mappings(40, 1)
	err := pipeline.Run(each(events, func(i int) {
		switch i {
		case 9:
			ring.Tick() // ten are on the disk
			// /dev/full takes nothing, with the error of a full disk.
			device, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
			if err != nil {
				t.Skip(err)
			}
			ring.written.to = device
		case 19:
			ring.Tick() // ten more are not
			_, failing := ring.Unrecorded()
			if !errors.Is(failing, unix.ENOSPC) {
				t.Errorf("failed with %v", failing)
			}
		case 29:
			now.now = now.now.Add(2 * time.Second) // there is room again
		}
	}), func() uint64 { return 0 }, ring)
	if err != nil {
		t.Fatal(err)
	}
	full.Close()
	if missed, failing := ring.Unrecorded(); missed != 20 || failing != nil {
		t.Errorf("%d events are missed, %v; want 20", missed, failing)
	}
	if said := words.String(); strings.Count(said, "not recording: events are not written until there is room") != 1 || !strings.Contains(said, "no space left on device") || !strings.Contains(said, "unrecorded_events=20") {
		t.Error(said)
	}
	told, traces, summaries := replayed(t, dir, time.Time{}, time.Time{})
	if len(traces) != 2 || len(traces[0].list) != 10 || len(traces[1].list) != len(events)-30 || !strings.Contains(told, "20 events could not be written") {
		t.Errorf("%d traces: %s", len(traces), told)
	}
	if u := summaries[1].Users; len(u) != 1 || u[0].Unexplained() != 0 {
		t.Errorf("%+v", u)
	}
}

// Of a disk that fails otherwise, what was seen is said, each cause once, and nothing of room.
func TestRingFails(t *testing.T) {
	now := &clock{noon}
	broken := errors.New("no settings")
	ring, words := ringOf(t, RingOptions{Dir: t.TempDir(), Now: now.Now, Header: func() (*recording.Header, error) {
		if now.now != noon {
			return nil, broken
		}
		return testHeader()
	}})
	whole := ring.file
	err := pipeline.Run(each(mappings(40, 1), func(i int) {
		switch i {
		case 9:
			readOnly, err := os.Open(whole.Name()) // writing there fails with EBADF
			if err != nil {
				t.Fatal(err)
			}
			ring.written.to = readOnly
			ring.Tick()
			if _, why := ring.Unrecorded(); !errors.Is(why, unix.EBADF) {
				t.Errorf("failed with %v", why)
			}
		case 19, 29:
			now.now = now.now.Add(2 * time.Second)
		}
	}), func() uint64 { return 0 }, ring)
	whole.Close()
	if _, why := ring.Unrecorded(); err != nil || !errors.Is(why, broken) {
		t.Errorf("%v; failed with %v", err, why)
	}
	said := words.String()
	if strings.Count(said, "not recording: events are not written until a file can be written again") != 2 || strings.Contains(said, "room") ||
		strings.Count(said, "bad file descriptor") != 1 || strings.Count(said, "no settings") != 1 {
		t.Error(said)
	}
}

// Files whose events are too old go, and so do the first of very many; others stay.
func TestRingForgets(t *testing.T) {
	dir := t.TempDir()
	now := &clock{time.Now()}
	for i := range 3 {
		name := filepath.Join(dir, recording.PartName(uint64(i+1), now.now))
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, time.Time{}, now.now.Add(-time.Duration(3-i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	other := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(other, make([]byte, 2*LeastBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	ring, _ := ringOf(t, RingOptions{Dir: dir, MaxAge: 90 * time.Minute, Now: now.Now})
	ring.Tick()
	files, err := recording.PartFiles(dir)
	if err != nil || len(files) != 2 || files[0].Number != 3 || files[1].Number != 4 {
		t.Errorf("%+v, %v", files, err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
	if _, err := OpenRing(RingOptions{Dir: dir, MaxBytes: LeastBytes}); err == nil || !strings.Contains(err.Error(), "another agent records there") {
		t.Errorf("a second ring: %v", err)
	}
}
