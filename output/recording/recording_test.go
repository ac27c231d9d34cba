package recording_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

func line(t *testing.T, r *row.Row) []byte {
	t.Helper()
	var out bytes.Buffer
	w := recording.NewWriter(&out)
	if err := errors.Join(w.Write(r), w.Flush()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A line of each subsystem has all the fields that the reference gives it, no other ones,
// and of the types that it names.
func TestFieldsAreTheReference(t *testing.T) {
	of := func(e ledger.Entry) *row.Row { return &row.Row{Entry: e} }
	nasty := ledger.Caller{Comm: "\x1b[2J\xff\"\\é"}
	for _, r := range []*row.Row{
		of(ledger.Entry{}),
		of(ledger.Entry{Event: ledger.Event{Caller: nasty}}),
		of(ledger.Entry{Event: ledger.Event{Op: ledger.Create, Object: &ledger.Object{}}}),
		of(ledger.Entry{Kind: ledger.Growth, Event: ledger.Event{Op: ledger.Grow, Object: &ledger.Object{Program: true}}}),
		of(ledger.Entry{Event: ledger.Event{Op: ledger.Account, Charger: "xdp"}}),
		{Summary: true},
	} {
		var got map[string]any
		if err := json.Unmarshal(line(t, r), &got); err != nil {
			t.Fatal(err)
		}
		types := map[string]row.Type{}
		for name, value := range got {
			switch value.(type) {
			case float64:
				types[name] = row.Integer
			case string:
				types[name] = row.String
			case bool:
				types[name] = row.Boolean
			}
		}
		want := map[string]row.Type{}
		for _, f := range row.Reference() {
			if f.Subsystems&r.Subsystem() != 0 {
				want[f.Name] = f.Type
			}
		}
		if diff := cmp.Diff(want, types); diff != "" || len(want) < 10 {
			t.Errorf("%s: reference - line +\n%s", r.Subsystem(), diff)
		}
	}
}

// What programs rely on only grows: the fields of version 2 that every line has, and
// those of a perf buffer's.
func TestFieldsStay(t *testing.T) {
	all := []string{"v", "time_ns", "subsystem", "kind", "event", "verdict", "certainty", "page_size_bytes", "scheme", "refusals", "lost", "note"}
	perf := []string{"pid", "tid", "uid", "comm", "cgroup_id", "cpu", "self", "buffer", "pages", "user_locked_pages", "user_extra_pages", "user_lock_limit_pages",
		"extra_pages", "pinned_vm_pages", "locked_pages", "lock_limit_pages", "charged_user_pages", "charged_pinned_pages",
		"cap_ipc_lock", "paranoid", "errno", "overcharge_pages", "overcharge_total_pages", "fits_calls"}
	for _, c := range []struct {
		row  *row.Row
		want []string
	}{{&row.Row{}, append(perf, all...)}, {&row.Row{Summary: true}, all}} {
		var got map[string]any
		if err := json.Unmarshal(line(t, c.row), &got); err != nil {
			t.Fatal(err)
		}
		for _, name := range c.want {
			if _, ok := got[name]; !ok {
				t.Errorf("%s: no field %q", c.row.Subsystem(), name)
			}
		}
		if got["v"] != 2.0 {
			t.Errorf("version %v; want 2", got["v"])
		}
	}
}

func TestBadLines(t *testing.T) {
	const perf = `"user_extra_pages":3,"user_locked_pages":3,"user_lock_limit_pages":4,"pinned_vm_pages":0,"lock_limit_pages":9`
	for in, want := range map[string]string{
		`{"v":3,"kind":"charge",` + perf + `}`:                                     `line 1: field "v": version 3: this pinwatch reads versions 1 to 2`,
		`{"v":0,"kind":"charge",` + perf + `}`:                                     `version 0`,
		`{"v":"2"}`:                                                                `version "2"`,
		`{"kind":"charge"}`:                                                        `no field "v": not a recording`,
		`{"v":2,"subsystem":"perf",` + perf + `}`:                                  `no field "kind"`,
		`{"v":2,"subsystem":"perf","kind":"charge"}`:                               `no field "user_extra_pages"`,
		`{"v":2,"subsystem":"bpf","kind":"charge",` + perf + `}`:                   `no field "object"`,
		`{"v":2,"subsystem":"memcg","kind":"growth","object":"map"}`:               `no field "object_key"`,
		`{"v":2,"subsystem":"xdp","kind":"charge","user_extra_pages":0}`:           `no field "user_locked_pages"`,
		`{"v":2,"subsystem":"perf","kind":"odd",` + perf + `}`:                     `field "kind": unknown kind "odd"`,
		`{"v":2,"subsystem":"perf","kind":"charge","pid":"x",` + perf + `}`:        `field "pid"`,
		`{"v":1,"kind":"charge","own":7,` + perf + `}`:                             `field "own"`,
		`{"v":2,"kind":"charge",` + strings.Replace(perf, ":3", ":-3", 1) + `}`:    `field "user_extra_pages": negative`,
		"{\"v\":2,\"kind\":\"summary\"}\n{\"v\":2,":                                `line 2: not a JSON object`,
		`{"v":2,"kind":"summary"}` + "\n" + `{"v":2,"kind":"charge",` + perf + `}`: "",
	} {
		var got string
		for _, err := range recording.NewReader(strings.NewReader(in)).Events() {
			if err != nil {
				got = err.Error()
			}
		}
		if !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%s: %q; want %q", in, got, want)
		}
	}
}

// A recording holds what a trace leaves out.
func TestWhoIsRecorded(t *testing.T) {
	everything := recording.Everything()
	var replayable row.Filter
	recording.Replayable(&replayable)
	self := &ledger.Entry{Event: ledger.Event{Caller: ledger.Caller{Self: true}}}
	preexisting := &ledger.Entry{Kind: ledger.Preexisting}
	if !everything.Shows(self) || !everything.Shows(preexisting) {
		t.Error("a recording lacks something")
	}
	if replayable.Shows(self) || !replayable.Shows(preexisting) {
		t.Error("JSON lines lack what was there before, or have pinwatch itself")
	}
}

// The names of containers are those of the machine of the recording: they are read back.
func TestNamesAreReplayed(t *testing.T) {
	want := ledger.Event{Op: ledger.Create, Caller: ledger.Caller{Names: container.Names{Pod: "web-1", Namespace: "prod", Container: "nginx"}},
		Object: &ledger.Object{MapNames: container.Names{Pod: "web-1", Namespace: "prod"}, LimitNames: container.Names{Container: "db"}}}
	want.Object.Payers[0].Names = want.Caller.Names
	written := line(t, &row.Row{Entry: ledger.Entry{Event: want}})
	for event, err := range recording.NewReader(bytes.NewReader(written)).Events() {
		if err != nil {
			t.Fatal(err)
		}
		o := event.Object
		if event.Caller.Names != want.Caller.Names || o == nil || o.Payers != want.Object.Payers || o.MapNames != want.Object.MapNames || o.LimitNames != want.Object.LimitNames {
			t.Errorf("%+v of %s", event, written)
		}
		return
	}
	t.Errorf("no event in %s", written)
}

// A recording that is read back says the same as what was written.
func FuzzRecording(f *testing.F) {
	f.Add(`{"v":1,"kind":"charge","user_extra_pages":3,"user_locked_pages":3,"user_lock_limit_pages":4,"pinned_vm_pages":0,"lock_limit_pages":9,"buffer":1,"process":1}`)
	f.Add(`{"v":1,"subsystem":"bpf","kind":"charge","object":"prog","user_extra_pages":3,"user_locked_pages":3,"user_lock_limit_pages":4,"pinned_vm_pages":0,"lock_limit_pages":9}`)
	f.Add(`{"v":1,"kind":"summary"}`)
	f.Add(`{"v":2,"kind":"summary","subsystem":"summary"}`)
	f.Add("{}\n[]\n")
	for _, pattern := range []string{"*.jsonl", "v1/*.jsonl"} {
		paths, err := filepath.Glob(filepath.Join("..", "..", "testdata", "recordings", pattern))
		if err != nil || len(paths) == 0 {
			f.Fatalf("no recordings: %v", err)
		}
		for _, path := range paths {
			raw, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			for l := range strings.Lines(string(raw)) {
				f.Add(l)
				break
			}
			f.Add(string(raw))
		}
	}
	f.Fuzz(func(t *testing.T, in string) {
		replay := func(in string) (string, bool) {
			var out bytes.Buffer
			read, filter := recording.NewReader(strings.NewReader(in)), recording.Everything()
			err := pipeline.Run(read.Events(), read.Lost, output.NewStream(recording.NewWriter(&out), &filter))
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

// What is closed and not released is in a recording, and its replay says so too: of a ring
// that was charged, of a umem by its own record, and of a BPF map.
func TestClosingsAreReplayed(t *testing.T) {
	account := func(key uint64, before, after int64) ledger.Event {
		return ledger.Event{Op: ledger.Account, Charger: "io_uring", User: ledger.Reading{Owner: 7, Before: before, After: after}, Instance: object.Instance{Key: key}}
	}
	closing := func(charger ledger.Charger, key uint64, pages int64) ledger.Event {
		return ledger.Event{Op: ledger.Close, TimeNS: 100, Charger: charger, Caller: ledger.Caller{PID: 42}, User: ledger.Reading{Owner: 7, Before: 40, After: 40}, Instance: object.Instance{Key: key, Pages: pages}}
	}
	ofMap := closing(ledger.NoCharger, 0, 0)
	ofMap.Object = &ledger.Object{Key: 1 << 63, Rlimit: true, Pages: 11}
	refused := account(0, 40, 40)
	refused.Errno, refused.TimeNS = 12, 350
	events := []ledger.Event{account(1<<62, 20, 29), closing("io_uring", 1<<62, 0), account(5, 29, 40), account(9, 40, 30), account(5, 30, 40), closing("xdp", 6, 13), ofMap, refused}

	var recorded bytes.Buffer
	var want, got []object.Closed
	l, again, w := ledger.New(), ledger.New(), recording.NewWriter(&recorded)
	for _, event := range events {
		e := l.Apply(event)
		r := row.Of(&e)
		if everything := recording.Everything(); !everything.Shows(&e) {
			t.Errorf("%s is not in a recording", e.Kind)
		}
		if err := w.Write(&r); err != nil {
			t.Fatal(err)
		}
		if e.Held != nil {
			want = e.Held.Closed
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	for event, err := range recording.NewReader(&recorded).Events() {
		if err != nil {
			t.Fatal(err)
		}
		if e := again.Apply(event); e.Held != nil {
			got = e.Held.Closed
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) != 3 || object.Pages(want) != 9+13+11 || want[0].AgeNS != 250 {
		t.Errorf("%+v: recorded - replayed +\n%s", want, diff)
	}
}
