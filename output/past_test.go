package output

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pinwatch/pinwatch/output/hostile"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// past is a trace of a user whose counter several hold, and what is refused to it: an io_uring
// twice, and a perf buffer. The names are text.
func past(text string) []ledger.Event {
	call := func(pid uint32, comm string, before, after int64) ledger.Event {
		return ledger.Event{PageSize: 4096, Caller: ledger.Caller{PID: pid, UID: 1000, Comm: text + comm, Cgroup: "/" + text, LockLimit: 16},
			User: ledger.Reading{Owner: 1000, Before: before, After: after}}
	}
	buffer := func(e ledger.Event, key uint64, pages int64) ledger.Event {
		e.Process = ledger.Reading{Owner: uint64(e.Caller.PID)}
		e.Buffer = ledger.Buffer{Key: key, Pages: pages, Extra: max(0, e.User.Before+pages-516), Limits: ledger.Limits{Allowance: 516, Paranoid: 2, OnlineCPUs: 4}}
		if key != 0 {
			e.Buffer.Mappings.After = 1
		}
		return e
	}
	ring := func(e ledger.Event, key uint64) ledger.Event {
		e.Op, e.Charger, e.Instance = ledger.Account, "io_uring", object.Instance{Key: key}
		return e
	}
	bpf := call(12, "loader", 445, 456)
	bpf.Op, bpf.Object = ledger.Create, &ledger.Object{Key: 9, ID: 3, Rlimit: true, Pages: 11}
	refusedRing, again := ring(call(13, "late", 456, 456), 0), ring(call(13, "late", 456, 456), 0)
	refusedRing.Errno, again.Errno = 12, 12
	refusedRing.Failed = &refusal.Call{Function: "io_uring_register", Accounting: refusal.Refused, Asked: 9, LastAsked: 9, LastHeld: 456}
	again.Failed = refusedRing.Failed
	refused := buffer(call(14, "perf", 456, 456), 0, 129)
	refused.Errno = rule.EPERM
	self := refused
	self.Caller.Self = true
	events := []ledger.Event{buffer(call(10, "profiler", 5, 405), 1, 400), ring(call(11, "ring", 405, 445), 1<<62), bpf, refusedRing, again, refused, self}
	for i := range events {
		events[i].TimeNS = uint64(i+2) * uint64(time.Second)
	}
	return events
}

// ofPast are the words of what was refused from one second to another one.
func ofPast(t *testing.T, events []ledger.Event, from, to int, asJSON bool) (*Past, string) {
	t.Helper()
	p := NewPast(&row.Filter{FromNS: uint64(from) * uint64(time.Second)}, time.Unix(int64(to), 0))
	each := func(yield func(ledger.Event, error) bool) {
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}
	if err := pipeline.Run(each, func() uint64 { return 3 }, p); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := p.Write(&out, asJSON, time.Unix(7, 0)); err != nil {
		t.Fatal(err)
	}
	return p, out.String()
}

// What a recording has is explained with all who hold the counter: by whom they are, as far as they
// were seen, and what is left is not ascribed to anybody.
func TestPast(t *testing.T) {
	p, text := ofPast(t, past(""), 0, 100, false)
	if p.Calls != 3 || p.Events != 7 || p.Lost != 3 {
		t.Errorf("%+v", p)
	}
	for _, want := range []string{
		"(2s before):\nprocess 13 (late) of uid 1000: REFUSED with ENOMEM\n",
		"\nThe same was refused 1 more time, the last time at ",
		"(then):\n1 buffer of 129 pages (516 KiB), mapped by process 14 (perf) of uid 1000\n",
		"\nOf the user's counter 40 pages (160 KiB) were of process 11 (ring): io_uring.\n",
		"\nOf the user's counter 11 pages (44 KiB) were of process 12 (loader): BPF map.\n",
		"\nThe allowance of uid 1000 at that time: 456 of 516 pages were used (88.4 %), 400 of them for buffers of:\n",
		"   10  profiler  1000        1    400      400  77.5 %  /\n",
		"  56 pages (224 KiB) were charged and the recording has no buffer for them: ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "registered by this user") || strings.Contains(text, "since this boot") || strings.Contains(text, "shortly after") {
		t.Errorf("what no recording knows:\n%s", text)
	}
	// Only what was in that time, but with what came of the time before.
	events := past("")
	events[5].Lost, events[6].Lost = 1, 1
	if p, text := ofPast(t, events, 7, 100, false); p.Calls != 1 || p.Lost != 3 || !strings.Contains(text, "profiler") {
		t.Errorf("%+v: %s", p, text)
	}
	for i := range events[1:] {
		events[i+1].Lost = 1
	}
	if p, _ := ofPast(t, events, 7, 100, false); p.Lost != 2 {
		t.Errorf("%d are lost since then", p.Lost)
	}
	if p, text := ofPast(t, events, 20, 100, false); p.Calls != 0 || p.Events != 0 || text != "" {
		t.Errorf("%+v: %s", p, text)
	}
}

// In JSON it is the object that explain -- COMMAND writes, and when that was.
func TestPastJSON(t *testing.T) {
	_, text := ofPast(t, past(""), 0, 100, true)
	decoder := json.NewDecoder(strings.NewReader(text))
	var got []int
	for decoder.More() {
		var r struct {
			V           int
			TimeNS      uint64 `json:"time_ns"`
			LastNS      uint64 `json:"last_time_ns"`
			Calls       int
			Explanation struct {
				Errno   string
				Verdict struct{ Errno string }
				Holders []struct {
					PID   uint32
					Pages int64
				}
			}
		}
		if err := decoder.Decode(&r); err != nil {
			t.Fatal(err)
		}
		got = append(got, r.V, r.Calls, int(r.TimeNS/1e9), int(r.LastNS/1e9), len(r.Explanation.Holders))
		if r.Explanation.Errno+r.Explanation.Verdict.Errno == "" {
			t.Errorf("no errno in %+v", r)
		}
	}
	if want := []int{1, 2, 5, 6, 3, 1, 1, 7, 7, 1}; !slices.Equal(got, want) {
		t.Errorf("%v; want %v: %s", got, want, text)
	}
}

// The README names its fields.
func TestPastFieldsAreListed(t *testing.T) {
	raw, err := os.ReadFile("../tracer/advice/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(raw), "\n## What was refused at 03:12, and why?\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, field := range jsonFields(reflect.TypeOf(RefusedThen{}), "") {
		if name := strings.Trim(field, ": "); name != "" && !strings.Contains(section, "`"+name+"`") {
			t.Errorf("%s is not in the README", name)
		}
	}
}

// Names that others have chosen do no more than be read.
func TestHostilePast(t *testing.T) {
	_, plain := ofPast(t, past("x"), 0, 100, false)
	for name, text := range hostile.Texts() {
		for _, asJSON := range []bool{false, true} {
			_, words := ofPast(t, past(text), 0, 100, asJSON)
			if err := hostile.Terminal(words); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got, want := strings.Count(words, "\n"), strings.Count(plain, "\n"); !asJSON && got != want {
				t.Errorf("%s: %d lines; want %d", name, got, want)
			}
		}
	}
}

// Others than perf buffers are named above, or are not spoken of.
func TestPastNamesOthers(t *testing.T) {
	const named = "the recording has no buffer for them: others that it names above, what is older"
	events := past("")
	if _, text := ofPast(t, events, 7, 8, false); !strings.Contains(text, named) || !strings.Contains(text, "Of the user's counter 40 pages") {
		t.Errorf("with others:\n%s", text)
	}
	alone := []ledger.Event{events[0], events[5]} // the buffer, and the one that was refused
	if _, text := ofPast(t, alone, 7, 8, false); strings.Contains(text, "names above") || !strings.Contains(text, "the recording has no buffer for them: what is older") {
		t.Errorf("without others:\n%s", text)
	}
}
