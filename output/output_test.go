package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/objects"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// No table line is wider than the 120 columns that were promised, whatever the
// numbers.
func TestTableWidth(t *testing.T) {
	var out bytes.Buffer
	table, err := NewTable(&out)
	if err != nil {
		t.Fatal(err)
	}
	huge := int64(-1 << 62)
	r := &row.Row{Entry: ledger.Entry{Event: ledger.Event{
		Caller:  ledger.Caller{PID: 1<<32 - 1, UID: 1<<32 - 2, Comm: "\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b", LockLimit: huge},
		Buffer:  ledger.Buffer{Pages: huge, Extra: huge},
		Process: ledger.Reading{Before: huge},
	}, Verdict: ledger.MisdirectedRefund, Uncertain: true, BufferID: 1 << 60}}
	if err := errors.Join(table.Write(r), table.Flush()); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, " \n")); n > 120 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if !strings.Contains(out.String(), "misdirected-refund?") {
		t.Errorf("no verdict in %s", out.String())
	}
}

// Rows that are padded here look as the library makes them.
func TestTableRowIsTheLibrarys(t *testing.T) {
	for _, comm := range []string{"", "sh", "two words", " before", "after ", "a  b", "\t", "ünïcödé", "漢字", "more than eleven", "\x1b[31m", "|+-"} {
		for _, value := range []int64{0, 7, -7, 12345} {
			r := &row.Row{Entry: ledger.Entry{Event: ledger.Event{
				TimeNS: 1,
				Caller: ledger.Caller{PID: 4711, Comm: comm},
				Buffer: ledger.Buffer{Pages: value, Extra: value},
			}, BufferID: uint64(value) % 3}}
			library := func(table *Table, r *row.Row) error {
				var cells []string
				for _, c := range table.columns {
					cells = append(cells, format.Fit(c.Cell(r), c.Width))
				}
				return table.table.Append(cells)
			}
			if got, want := rowBy(t, (*Table).row, r), rowBy(t, library, r); got != want {
				t.Errorf("%q, %d:\n%swant\n%s", comm, value, got, want)
			}
		}
	}
}

// rowBy is a row as a function writes it, without the header.
func rowBy(t *testing.T, write func(*Table, *row.Row) error, r *row.Row) string {
	t.Helper()
	var out strings.Builder
	table, err := NewTable(&out)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(write(table, r), table.Flush()); err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(out.String(), "\n")
	return line
}

// A number that is too wide for its column stands there in full, and the columns after
// it are where they always are. Where the whole line would be too long, its first digits
// say enough.
func TestTableNumbersAreExact(t *testing.T) {
	r := func(pages, extra, pinned int64, uid uint32) *row.Row {
		return &row.Row{Entry: ledger.Entry{Event: ledger.Event{
			Caller: ledger.Caller{PID: 4711, UID: uid, Comm: "漢字", LockLimit: 2048}, Process: ledger.Reading{Before: pinned},
			Buffer: ledger.Buffer{Pages: pages, Extra: extra},
		}, BufferID: 7}}
	}
	header := "    PID COMM          UID    ID PAGES USER_LOCKED  EXTRA PINNED_VM LOCK_LIMIT VERDICT"
	for _, c := range []struct {
		row  *row.Row
		want string
	}{
		{r(99999, 0, 0, 0), "   4711 漢字            0     7 99999       99999      0         0       2048 ok"},
		{r(500000, 0, 0, 0), "   4711 漢字            0     7 500000     500000      0         0       2048 ok"},
		{r(1234567, 1234567, 0, 165536), "   4711 漢字        165536    7 1234567   1234567 1234567        0       2048 ok"},
		{r(1, 0, 12345678901, 0), "   4711 漢字            0     7     1           1      0 12345678901     2048 ok"},
		{r(1<<50, 1<<50, 1<<50, 1<<32-1), "   4711 漢字        4e+09     7 1e+15 1.12590e+15  1e+15 1.126e+15       2048 ok"},
	} {
		line := strings.TrimRight(rowBy(t, (*Table).row, c.row), " \n")
		if got := line[len("00:00:00.000 charge    "):]; got != c.want {
			t.Errorf("   %s\ngot  %s\nwant %s", header, got, c.want)
		}
	}
}

// Recordings of version 1 say what they always said: the same table and the same verdicts
// as what is made of them now, which comes out of a replay as it went in.
func TestRecordingsOfVersion1(t *testing.T) {
	dir := filepath.Join("..", "testdata", "recordings")
	old, err := filepath.Glob(filepath.Join(dir, "v1", "*.jsonl"))
	if err != nil || len(old) < 8 {
		t.Fatalf("%d recordings, %v", len(old), err)
	}
	for _, path := range old {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			now := filepath.Join(dir, name)
			table := func(w io.Writer) (Writer, error) { return NewTable(w) }
			lines := func(w io.Writer) (Writer, error) { return recording.NewWriter(w), nil }
			if diff := cmp.Diff(replay(t, path, table), replay(t, now, table)); diff != "" {
				t.Errorf("version 1 - version 2 +\n%s", diff)
			}
			raw, err := os.ReadFile(now)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(replay(t, path, lines), string(raw)); diff != "" {
				t.Errorf("of version 1 - version 2 +\n%s", diff)
			}
			if diff := cmp.Diff(string(raw), replay(t, now, lines)); diff != "" {
				t.Errorf("recorded - replayed +\n%s", diff)
			}
			if before, after := verdicts(t, path), verdicts(t, now); before != "" && before != after {
				t.Errorf("verdicts %s; in version 1 they are %s", after, before)
			}
		})
	}
}

// verdicts are those that a recording itself holds; "": it was not made by pinwatch.
func verdicts(t *testing.T, path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range bytes.Lines(raw) {
		var r struct{ Kind, Verdict, Certainty string }
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		if r.Verdict != "" && r.Kind != "summary" {
			all = append(all, r.Verdict+" "+r.Certainty)
		}
	}
	return strings.Join(all, ",")
}

// replay is what a writer makes of a recording.
func replay(t *testing.T, path string, writer func(io.Writer) (Writer, error)) string {
	t.Helper()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out strings.Builder
	w, err := writer(&out)
	if err != nil {
		t.Fatal(err)
	}
	filter, read := recording.Everything(), recording.NewReader(in)
	if _, err := stream(read.Events(), read.Lost, &filter, w); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// What the summary counts agrees with its number, and failed calls are told apart by
// errno, whoever refused them.
func TestSummaryWords(t *testing.T) {
	s := ledger.Summary{Events: 1, Live: 1, LiveUser: 1, Own: 1, OwnUser: 1, Settled: 1,
		Users: []ledger.Balance{{UID: 7, Counter: 1, Live: 1}}}
	s.Kinds[ledger.Refusal], s.Kinds[ledger.Mapping], s.Kinds[ledger.Unmapping], s.Kinds[ledger.Growth] = 1, 1, 1, 1
	s.Doubtful[ledger.OK] = 2
	text := Summarize(&row.Row{}, s)
	for _, want := range []string{
		"1 event: 0 charges, 0 refunds, 1 further mapping, 1 unmapping with other mappings left, 1 growth of maps, 1 call failed; 0 lost\nrefused: none\n",
		"still mapped: 1 buffer, charged 1 page to users and 0 to processes\n", "itself: 1 event, not", "charged 1 page to its user and",
		"uid 7: 1 page charged: 1 for live", "1 entry uncertain; 1 uncertain one settled",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "not known") {
		t.Errorf("all is explained:\n%s", text)
	}
	stays := ledger.Summary{Events: 2, Users: []ledger.Balance{{UID: 7, Counter: 9}}} // as where two processes unmap at once (testdata/findings/race)
	if text := Summarize(&row.Row{}, stays); strings.Contains(text, "verdict: ok") || !strings.Contains(text, "verdict: not known: 9 pages of a user's counter not explained") {
		t.Errorf("what stays charged is no reason:\n%s", text)
	}
	s.Users = append(s.Users, ledger.Balance{UID: 8, Counter: 3, Own: 2, Base: 1}, ledger.Balance{UID: 1 << 30 * 7 / 4, Counter: 1, Own: 1, Self: true})
	text = Summarize(&row.Row{}, s)
	if !strings.Contains(text, "charged 1 page to uid 1879048192, which no other process has, and 0") || !strings.Contains(text, "uid 8: 3 pages charged: 0 for live buffers, 2 for pinwatch itself, 0 that") || strings.Contains(text, "uid 1879048192:") {
		t.Errorf("pinwatch's own users:\n%s", text)
	}
	s.Failures = refusal.Failures{{Errno: 1, Calls: 3, First: 5}, {Errno: 105, Calls: 1, First: 7}, {Errno: 12, Calls: 2, First: 8}}
	want := "\nrefused: 3 with EPERM, the first was call 5; 1 with ENOBUFS, the first was call 7; 2 with ENOMEM, the first was call 8\n"
	if text := Summarize(&row.Row{}, s); !strings.Contains(text, want) {
		t.Errorf("no %q in\n%s", want, text)
	}
}

// A map's and a program's type has one name, in a trace and in the list of what there is;
// and a program is called by one word.
func TestOneNameForBPFObjects(t *testing.T) {
	for _, o := range []bpfobj.Object{
		{Kind: bpfobj.KindMap, ID: 7, Type: bpfobj.MapType(6)}, {Kind: bpfobj.KindProgram, ID: 7, Type: bpfobj.ProgramType(1)},
	} {
		program := o.Kind == bpfobj.KindProgram
		r := &row.Row{Entry: ledger.Entry{Event: ledger.Event{Op: ledger.Create, Object: &ledger.Object{ID: 7, Program: program, Type: map[bool]uint32{false: 6, true: 1}[program]}}}}
		var traced, listed strings.Builder
		w := recording.NewWriter(&traced)
		if err := errors.Join(w.Write(r), w.Flush(), objects.Write(&listed, &bpfobj.Listing{Objects: []bpfobj.Object{o}}, objects.Options{JSON: true})); err != nil {
			t.Fatal(err)
		}
		var trace struct {
			Object string
			Type   string `json:"object_type_name"`
		}
		var list struct{ Kind, Type string }
		if err := errors.Join(json.Unmarshal([]byte(traced.String()), &trace), json.Unmarshal([]byte(listed.String()), &list)); err != nil {
			t.Fatal(err)
		}
		if trace.Object != list.Kind || trace.Type != list.Type || !strings.Contains(Explain(r), list.Type+" "+list.Kind+" 7") {
			t.Errorf("a trace says %+v and %q, a list %+v", trace, Explain(r), list)
		}
	}
}

// Every column of the table is in the reference, under its heading; and the reference
// can be printed.
func TestFieldsHoldTheTable(t *testing.T) {
	known := map[string]row.Field{}
	for _, f := range row.Reference() {
		known[f.Header] = f
	}
	var out, fields strings.Builder
	if _, err := NewTable(&out); err != nil {
		t.Fatal(err)
	}
	if err := Fields(&fields, false); err != nil {
		t.Fatal(err)
	}
	headers := strings.Fields(out.String())
	for _, header := range headers {
		if f := known[header]; f.Help == "" || !strings.Contains(fields.String(), f.Help) {
			t.Errorf("column %q is not explained", header)
		}
	}
	if len(headers) != 12 {
		t.Errorf("%d columns: %q", len(headers), headers)
	}
}

// What nothing follows is out at once, what more follows with that.
func TestStreamIsLive(t *testing.T) {
	var out bytes.Buffer
	w := recording.NewWriter(&out)
	events := func(yield func(ledger.Event, error) bool) {
		for n, followed := range []bool{true, true, false, true} {
			yield(ledger.Event{Followed: followed}, nil)
			if got, want := bytes.Count(out.Bytes(), []byte("\n")), []int{0, 0, 3, 3}[n]; got != want {
				t.Errorf("after event %d %d lines are out; want %d", n, got, want)
			}
		}
	}
	if _, err := stream(events, func() uint64 { return 0 }, &row.Filter{}, w); err != nil {
		t.Fatal(err)
	}
	if got := bytes.Count(out.Bytes(), []byte("\n")); got != 5 {
		t.Errorf("%d lines with the summary; want 5", got)
	}
	// What was seen before an error is not lost for it.
	out.Reset()
	failed := errors.New("failed")
	broken := func(yield func(ledger.Event, error) bool) {
		if yield(ledger.Event{Followed: true}, nil) {
			yield(ledger.Event{}, failed)
		}
	}
	if _, err := stream(broken, func() uint64 { return 0 }, &row.Filter{}, recording.NewWriter(&out)); !errors.Is(err, failed) || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
		t.Errorf("%v, with %q", err, out.String())
	}
}

// stream runs events through a ledger to a writer.
func stream(events iter.Seq2[ledger.Event, error], lost func() uint64, filter *row.Filter, w Writer) (ledger.Summary, error) {
	s := NewStream(w, filter)
	err := pipeline.Run(events, lost, s)
	return s.Summary(), err
}

func TestExplainRefusal(t *testing.T) {
	r := &row.Row{Entry: ledger.Entry{Kind: ledger.Refusal, Event: ledger.Event{
		Errno: rule.EPERM, PageSize: 4096,
		Caller:  ledger.Caller{UID: 1000, LockLimit: 128},
		User:    ledger.Reading{Before: 516},
		Process: ledger.Reading{Before: 69},
		Buffer:  ledger.Buffer{Pages: 65, Extra: 65, Limits: ledger.Limits{Allowance: 516, OnlineCPUs: 4}},
	}}}
	want := "EPERM: pinned_vm 69 + extra 65 = 134 pages (536 KiB) > RLIMIT_MEMLOCK 128 pages (512 KiB): 6 pages (24 KiB) over; " +
		"uid 1000 uses 516 of its allowance of 516 pages. Remedies: ulimit -l 536 (KiB), or sysctl kernel.perf_event_mlock_kb=524, " +
		"or CAP_IPC_LOCK (effective, initial user namespace), or a buffer of 33 pages."
	if diff := cmp.Diff(want, Explain(r)); diff != "" {
		t.Error(diff)
	}
	// What is closed fills the allowance too.
	r.Held = &ledger.Held{Closed: []object.Closed{{What: object.Ring, PID: 42, Count: 3, Pages: 200, AgeNS: 12e6}}}
	want = strings.Replace(want, " Remedies: ", " Of the 516 pages that its counter holds, 200 are of 3 io_urings that process 42 had closed at most 12 ms before and the kernel had not released yet. Remedies: try again shortly, or ", 1)
	if diff := cmp.Diff(want, Explain(r)); diff != "" {
		t.Error(diff)
	}
}

// A recording carries what was mapped before it: the table does not show it as
// anything that happened, and the summary says whose it is.
func TestOlder(t *testing.T) {
	var out bytes.Buffer
	in, err := os.Open(filepath.Join("..", "testdata", "recordings", "v1", "preexisting.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	rec := recording.NewReader(in)
	table, err := NewTable(&out)
	if err != nil {
		t.Fatal(err)
	}
	s, err := stream(rec.Events(), rec.Lost, &row.Filter{}, table)
	if err != nil {
		t.Fatal(err)
	}
	if s.Events != 2 || s.Live != 1 || strings.Count(out.String(), "refund  ") != 1 || strings.Contains(out.String(), "older  ") {
		t.Errorf("%d events, %d live\n%s", s.Events, s.Live, out.String())
	}
	for _, want := range []string{
		"uid 1000: 70 pages charged: 9 for live buffers, 0 that should not be, 61 older or not traced, 0 unexplained\n" +
			`  older: 61 pages for 1 buffer that process 10 (a\x1b[31m) has mapped, and 4 charged to a process` + "\n",
		"verdict: ok\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// Of many holders the summary names the largest.
func TestManyOlder(t *testing.T) {
	s := ledger.Summary{Users: []ledger.Balance{{UID: 7, Counter: 105, Preexisting: 100, Base: 5}}}
	for i := range 8 {
		s.Holders = append(s.Holders, ledger.Holder{PID: uint32(i + 1), Comm: "h", UID: 7, Buffers: 2, User: int64(20 - 2*i)})
	}
	text := Summarize(&row.Row{}, s)
	if strings.Count(text, "has mapped") != 5 || !strings.Contains(text, "\n  older: 20 pages for buffers of 3 more processes\n  not traced: 5 pages\n") {
		t.Error(text)
	}
}
