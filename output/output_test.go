package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"iter"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// The fields that every line promises, with their JSON types. Programs rely on
// them: this list only grows.
func TestJSONFields(t *testing.T) {
	types := map[string]any{
		"v": 0.0, "time_ns": 0.0, "subsystem": "", "kind": "", "pid": 0.0, "tid": 0.0, "uid": 0.0, "comm": "", "cgroup_id": 0.0,
		"cpu": 0.0, "buffer": 0.0, "pages": 0.0, "user_locked_pages": 0.0, "user_extra_pages": 0.0, "user_lock_limit_pages": 0.0,
		"extra_pages": 0.0, "pinned_vm_pages": 0.0, "locked_pages": 0.0, "lock_limit_pages": 0.0, "charged_user_pages": 0.0,
		"charged_pinned_pages": 0.0, "cap_ipc_lock": false, "paranoid": 0.0, "errno": 0.0, "verdict": "", "certainty": "",
		"overcharge_pages": 0.0, "overcharge_total_pages": 0.0, "lost": 0.0,
	}
	for _, row := range []*Row{{}, {Summary: true}, {Entry: ledger.Entry{Event: ledger.Event{Caller: ledger.Caller{Comm: "\x1b[2J\xff\"\\é"}}}}} {
		var line bytes.Buffer
		w := NewJSON(&line)
		if err := errors.Join(w.Write(row), w.Flush()); err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(line.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v", line.String(), err)
		}
		for name, zero := range types {
			value, ok := got[name]
			if !ok {
				t.Errorf("no field %q", name)
				continue
			}
			switch zero.(type) {
			case float64:
				_, ok = value.(float64)
			case string:
				_, ok = value.(string)
			case bool:
				_, ok = value.(bool)
			}
			if !ok {
				t.Errorf("field %q is %T; want %T", name, value, zero)
			}
		}
		if len(got) != len(Columns()) {
			t.Errorf("%d fields for %d columns: a name twice?", len(got), len(Columns()))
		}
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"123", 3, "123"},
		{"-4611686018427387904", 9, "-4.61e+18"},
		{"18446744073709551615", 9, "18446744…"}, // not an int64: text
		{"a-very-long-comm", 8, "a-very-…"},
	} {
		if got := Fit(c.text, c.width); got != c.want || utf8.RuneCountInString(got) > c.width {
			t.Errorf("Fit(%q, %d) = %q; want %q", c.text, c.width, got, c.want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"perf":           "perf",
		"jalapeño":       "jalapeño",
		"\x1b[2Jroot":    `\x1b[2Jroot`,
		"a\xffb":         `a\xffb`,
		"tab\tnewline\n": `tab\tnewline\n`,
	} {
		if got := Printable(in); got != want {
			t.Errorf("Printable(%q) = %q; want %q", in, got, want)
		}
	}
}

// No table line is wider than the 120 columns that were promised, whatever the
// numbers.
func TestTableWidth(t *testing.T) {
	var out bytes.Buffer
	table, err := NewTable(&out)
	if err != nil {
		t.Fatal(err)
	}
	huge := int64(-1 << 62)
	row := &Row{Entry: ledger.Entry{Event: ledger.Event{
		Caller:  ledger.Caller{PID: 1<<32 - 1, UID: 1<<32 - 2, Comm: "\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b", LockLimit: huge},
		Buffer:  ledger.Buffer{Pages: huge, Extra: huge},
		Process: ledger.Reading{Before: huge},
	}, Verdict: ledger.MisdirectedRefund, Uncertain: true, BufferID: 1 << 60}}
	if err := errors.Join(table.Write(row), table.Flush()); err != nil {
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
	simply := 0
	for _, comm := range []string{"", "sh", "two words", " before", "after ", "a  b", "\t", "ünïcödé", "漢字", "more than eleven", "\x1b[31m", "|+-"} {
		for _, value := range []int64{0, 7, -7, 12345, 1 << 40, -1 << 62} {
			row := &Row{Entry: ledger.Entry{Event: ledger.Event{
				TimeNS: 1,
				Caller: ledger.Caller{PID: 4711, Comm: comm},
				Buffer: ledger.Buffer{Pages: value, Extra: value},
			}, BufferID: uint64(value) % 3}}
			var rows [2]string
			for i, write := range []func(*Table, *Row) error{(*Table).row, (*Table).libraryRow} {
				var out strings.Builder
				table, err := NewTable(&out)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(write(table, row), table.Flush()); err != nil {
					t.Fatal(err)
				}
				rows[i] = out.String()
				if i == 0 && table.cells[0] == "" {
					simply++
				}
			}
			if rows[0] != rows[1] {
				t.Errorf("%q, %d:\n%swant\n%s", comm, value, rows[0], rows[1])
			}
		}
	}
	if simply == 0 {
		t.Error("all rows were left to the library")
	}
}

// What nothing follows is out at once, what more follows with that.
func TestStreamIsLive(t *testing.T) {
	var out bytes.Buffer
	w := NewJSON(&out)
	events := func(yield func(ledger.Event, error) bool) {
		for n, followed := range []bool{true, true, false, true} {
			yield(ledger.Event{Followed: followed}, nil)
			if got, want := bytes.Count(out.Bytes(), []byte("\n")), []int{0, 0, 3, 3}[n]; got != want {
				t.Errorf("after event %d %d lines are out; want %d", n, got, want)
			}
		}
	}
	if _, err := stream(events, func() uint64 { return 0 }, &Filter{}, w); err != nil {
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
	if _, err := stream(broken, func() uint64 { return 0 }, &Filter{}, NewJSON(&out)); !errors.Is(err, failed) || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
		t.Errorf("%v, with %q", err, out.String())
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 4 << 20: "4 MiB", -3 << 30: "-3 GiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q; want %q", n, got, want)
		}
	}
}

// stream runs events through a ledger to a writer.
func stream(events iter.Seq2[ledger.Event, error], lost func() uint64, filter *Filter, w Writer) (ledger.Summary, error) {
	s := NewStream(w, filter)
	err := ledger.New().Run(events, lost, s)
	return s.Summary(), err
}

func TestExplainRefusal(t *testing.T) {
	row := &Row{Entry: ledger.Entry{Kind: ledger.Refusal, Event: ledger.Event{
		Errno: rule.EPERM, PageSize: 4096,
		Caller:  ledger.Caller{UID: 1000, LockLimit: 128},
		User:    ledger.Reading{Before: 516},
		Process: ledger.Reading{Before: 69},
		Buffer:  ledger.Buffer{Pages: 65, Extra: 65, Limits: ledger.Limits{Allowance: 516, OnlineCPUs: 4}},
	}}}
	want := "EPERM: pinned_vm 69 + extra 65 = 134 pages (536 KiB) > RLIMIT_MEMLOCK 128 pages (512 KiB): 6 pages (24 KiB) over; " +
		"uid 1000 uses 516 of its allowance of 516 pages. Remedies: ulimit -l 536 (KiB), or sysctl kernel.perf_event_mlock_kb=524, " +
		"or CAP_IPC_LOCK (effective, initial user namespace), or a buffer of 33 pages."
	if diff := cmp.Diff(want, Explain(row)); diff != "" {
		t.Error(diff)
	}
}

// olderRecording is of process 10 of uid 1000, which has mapped 65 pages since
// before the trace, and unmaps 33 others; and of process 11, which mapped 9 pages
// while the snapshot was taken.
const olderRecording = `{"v":1,"time_ns":100,"kind":"older","pid":10,"comm":"a\u001b[31m","uid":1000,"payer_uid":1000,"process":1,"buffer":1,"buffer_data_pages":65,"buffer_data_extra_pages":4,"mappings_after":1,"user_extra_pages":65,"user_locked_pages":103,"user_lock_limit_pages":516,"pinned_vm_pages":4,"lock_limit_pages":9,"page_size_bytes":4096,"online_cpus":1}
{"v":1,"time_ns":100,"kind":"older","pid":10,"comm":"a\u001b[31m","uid":1000,"payer_uid":1000,"process":1,"buffer":2,"buffer_data_pages":33,"mappings_after":1,"user_extra_pages":33,"user_locked_pages":103,"user_lock_limit_pages":516,"pinned_vm_pages":4,"lock_limit_pages":9,"page_size_bytes":4096,"online_cpus":1}
{"v":1,"time_ns":100,"kind":"older","pid":11,"comm":"b","uid":1000,"payer_uid":1000,"process":2,"buffer":3,"buffer_data_pages":9,"mappings_after":1,"user_extra_pages":9,"user_locked_pages":103,"user_lock_limit_pages":516,"pinned_vm_pages":0,"lock_limit_pages":9,"page_size_bytes":4096,"online_cpus":1}
{"v":1,"time_ns":50,"kind":"charge","pid":11,"comm":"b","uid":1000,"payer_uid":1000,"process":2,"buffer":3,"mappings_after":1,"user_extra_pages":9,"user_locked_pages":103,"user_locked_after_pages":103,"user_lock_limit_pages":516,"extra_pages":0,"pinned_vm_pages":0,"lock_limit_pages":9,"page_size_bytes":4096,"online_cpus":1}
{"v":1,"time_ns":200,"kind":"refund","pid":10,"comm":"a\u001b[31m","uid":1000,"payer_uid":1000,"process":1,"buffer":2,"mappings":1,"buffer_data_pages":33,"user_extra_pages":33,"user_locked_pages":103,"user_locked_after_pages":70,"user_lock_limit_pages":516,"pinned_vm_pages":4,"pinned_vm_after_pages":4,"lock_limit_pages":9,"page_size_bytes":4096,"online_cpus":1}
`

// A recording carries what was mapped before it: the table does not show it as
// anything that happened, and the summary says whose it is.
func TestOlder(t *testing.T) {
	var out bytes.Buffer
	rec := NewRecording(strings.NewReader(olderRecording))
	table, err := NewTable(&out)
	if err != nil {
		t.Fatal(err)
	}
	s, err := stream(rec.Events(), rec.Lost, &Filter{}, table)
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
	s := ledger.Summary{Users: []ledger.Balance{{UID: 7, Counter: 105, Older: 100, Base: 5}}}
	for i := range 8 {
		s.Holdings = append(s.Holdings, ledger.Holding{PID: uint32(i + 1), Comm: "h", UID: 7, Buffers: 2, User: int64(20 - 2*i)})
	}
	text := Summarize(&Row{}, s)
	if strings.Count(text, "has mapped") != 5 || !strings.Contains(text, "\n  older: 20 pages for buffers of 3 more processes\n  not traced: 5 pages\n") {
		t.Error(text)
	}
}

// A recording that is read back says the same as what was written.
func FuzzRecording(f *testing.F) {
	f.Add(`{"v":1,"kind":"charge","user_extra_pages":3,"user_locked_pages":3,"user_lock_limit_pages":4,"pinned_vm_pages":0,"lock_limit_pages":9,"buffer":1,"process":1}`)
	f.Add(`{"v":1,"kind":"summary"}`)
	f.Add("{}\n[]\n")
	f.Add(olderRecording)
	f.Fuzz(func(t *testing.T, in string) {
		replay := func(in string) (string, bool) {
			var out bytes.Buffer
			rec := NewRecording(strings.NewReader(in))
			_, err := stream(rec.Events(), rec.Lost, &Filter{Older: true, Own: true}, NewJSON(&out))
			return out.String(), err == nil
		}
		first, ok := replay(in)
		if !ok {
			return
		}
		second, ok := replay(first)
		if !ok {
			t.Fatalf("cannot read back:\n%s", first)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Error(diff)
		}
	})
}
