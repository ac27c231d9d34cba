package output

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/output/hostile"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// hostileEntries are entries of each subsystem, all of whose names are a text.
func hostileEntries(text string) (entries []*ledger.Entry) {
	names := container.Names{Pod: text, Namespace: text, Container: text}
	caller := ledger.Caller{PID: 7, UID: 1000, Comm: text, CgroupID: 9, Cgroup: text, Names: names}
	for _, e := range []ledger.Event{
		{Op: ledger.Map, Buffer: ledger.Buffer{Key: 1, Pages: 3, Limits: ledger.Limits{Allowance: 4, OnlineCPUs: 1}}},
		{Op: ledger.Map, Errno: 1, Buffer: ledger.Buffer{Pages: 3, Limits: ledger.Limits{Allowance: 4, OnlineCPUs: 1}}},
		{Op: ledger.Create, Object: &ledger.Object{Key: 1, ID: 5, Name: text, MapCgroupID: 9, MapCgroup: text, MapNames: names}},
		{Op: ledger.Create, Object: &ledger.Object{Key: 2, ID: 6, Name: text, Watched: true, Payers: [2]ledger.Payer{{CgroupID: 9, Cgroup: text, Names: names, Pages: 4096}, {CgroupID: 8, Cgroup: text, Pages: 1}},
			LimitCgroupID: 9, LimitCgroup: text, LimitNames: names, UsageBytes: 1, LimitBytes: 2}},
		{Op: ledger.Create, Errno: 12, Object: &ledger.Object{Name: text, Watched: true, Refused: true, LimitCgroupID: 9, LimitCgroup: text, UsageBytes: 1, LimitBytes: 2}},
		{Op: ledger.Account, Charger: "io_uring", Errno: 12, Failed: &refusal.Call{Memory: refusal.Refused, Limit: refusal.MemoryLimit{CgroupID: 9, Cgroup: text, WantedBytes: 1}}},
	} {
		e.PageSize, e.Caller = 4096, caller
		entry := ledger.New().Apply(e)
		entries = append(entries, &entry)
	}
	return entries
}

// A name is a text in all that a trace writes: in the table, in lines, in what is explained.
func TestHostileRows(t *testing.T) {
	for name, text := range hostile.Texts() {
		entries := hostileEntries(text)
		for _, w := range []string{"table", "lines"} {
			var out strings.Builder
			var writer Writer = recording.NewWriter(&out)
			check := hostile.JSON
			if w == "table" {
				var err error
				if writer, err = NewTable(&out); err != nil {
					t.Fatal(err)
				}
				check = hostile.Terminal
			}
			var r row.Row
			for _, e := range entries {
				r = row.Of(e)
				r.Note = Explain(&r)
				if err := hostile.Terminal(r.Note); err != nil || strings.Contains(r.Note, "\n") {
					t.Errorf("%s: note: %v in %.200q", name, err, r.Note)
				}
				if err := errors.Join(writer.Write(&r), writer.Flush()); err != nil {
					t.Fatal(err)
				}
			}
			if err := check(out.String()); err != nil {
				t.Errorf("%s: %s: %v", name, w, err)
			}
			want := len(entries)
			if w == "table" {
				want += strings.Count(plainTable(t), "\n") - len(hostileEntries("x"))
			}
			if got := strings.Count(out.String(), "\n"); got != want {
				t.Errorf("%s: %s: %d lines; want %d", name, w, got, want)
			}
		}
	}
}

// plainTable is the table of entries with plain names.
func plainTable(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	w, err := NewTable(&out)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range hostileEntries("x") {
		r := row.Of(e)
		r.Note = Explain(&r)
		if err := errors.Join(w.Write(&r), w.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// So it is in an explanation, in words and in JSON.
func TestHostileAdvice(t *testing.T) {
	plain := strings.Count(AdviceText(hostileExplanation(t, "x")), "\n")
	for name, text := range hostile.Texts() {
		x := hostileExplanation(t, text)
		words := AdviceText(x)
		if err := hostile.Terminal(words); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := strings.Count(words, "\n"); n != plain {
			t.Errorf("%s: %d lines; with a plain name %d", name, n, plain)
		}
		var out strings.Builder
		if err := Advice(&out, x, true); err != nil {
			t.Fatal(err)
		}
		if err := hostile.Terminal(out.String()); err != nil {
			t.Errorf("%s: JSON: %v", name, err)
		}
	}
}

func hostileExplanation(t *testing.T, text string) *advice.Explanation {
	return explained(t, func(s *snapshot.Snapshot, _ *advice.Ask) {
		for i := range s.Processes {
			s.Processes[i].Comm, s.Processes[i].CgroupPath = text, fmt.Sprint("/", text)
		}
	})
}
