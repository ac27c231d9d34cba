package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"unicode"

	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// refusals are n calls of a process that perf_mmap() refuses.
func refusals(n int, who ledger.Caller) (events []ledger.Event) {
	who.LockLimit = 16
	for range n {
		events = append(events, ledger.Event{
			Errno: 1, PageSize: 4096, Caller: who, User: ledger.Reading{Owner: uint64(who.UID), Before: 516, After: 516}, Process: ledger.Reading{Owner: 1},
			Buffer: ledger.Buffer{Pages: 65, Extra: 65, Limits: ledger.Limits{Allowance: 516, Paranoid: 2, OnlineCPUs: 4}},
		})
	}
	return events
}

func logTo(w io.Writer, asJSON bool) *slog.Logger {
	if asJSON {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

// Each refusal has a line with its outcome and its explanation, until there are too many: then
// a count of what was left out, when the next window begins.
func TestLog(t *testing.T) {
	var words bytes.Buffer
	now := &clock{noon}
	log := NewLog(logTo(&words, false), now.Now)
	all := append(refusals(100, ledger.Caller{PID: 7, Comm: "greedy"}), refusals(1, ledger.Caller{PID: 8, Comm: "other"})...)
	err := pipeline.Run(each(all, func(i int) {
		if i == 49 {
			now.now = now.now.Add(logWindow)
			log.Tick()
		}
	}), func() uint64 { return 0 }, log)
	if err != nil {
		t.Fatal(err)
	}
	said := words.String()
	if n := strings.Count(said, "msg=refused"); n != 2*linesEach+1 {
		t.Errorf("%d lines; want %d:\n%s", n, 2*linesEach+1, said)
	}
	if n := strings.Count(said, fmt.Sprintf("refusals=%d broken_rules=0", 50-linesEach)); n != 2 || log.LeftOut() != 2*(50-linesEach) {
		t.Errorf("%d left out:\n%s", log.LeftOut(), said)
	}
	for _, want := range []string{"subsystem=perf errno=EPERM outcome=limit event=1 pid=7 comm=greedy uid=0", "pinned_vm 0 + extra 65 = 65 pages (260 KiB) > RLIMIT_MEMLOCK 16 pages", "pid=8 comm=other"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in:\n%s", want, said)
		}
	}
}

// Not even very many processes get more lines than one reads.
func TestLogOfMany(t *testing.T) {
	var words bytes.Buffer
	var all []ledger.Event
	for pid := range uint32(1000) {
		all = append(all, refusals(1, ledger.Caller{PID: pid})...)
	}
	log := NewLog(logTo(&words, false), (&clock{noon}).Now)
	if err := pipeline.Run(each(all, nil), func() uint64 { return 0 }, log); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(words.String(), "\n"); n != linesAll+1 {
		t.Errorf("%d lines", n)
	}
}

// hostile are names that somebody chose to confuse who reads them.
var hostile = []string{"\x1b[2J\x1b]0;title\a", "a\nlevel=ERROR msg=forged", "\u202egnp.exe", "\xff\xfe", "\u009b31m", "\u2028x\u2066", `"=\`, strings.Repeat("x", 1<<16)}

// A name cannot end a line, forge another one, or hold what a terminal obeys.
func TestLogOfHostileNames(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		for _, name := range hostile {
			var words bytes.Buffer
			log := NewLog(logTo(&words, asJSON), (&clock{noon}).Now)
			if err := pipeline.Run(each(refusals(1, ledger.Caller{PID: 7, Comm: name, Cgroup: "/" + name}), nil), func() uint64 { return 0 }, log); err != nil {
				t.Fatal(err)
			}
			said := words.String()
			if strings.Count(said, "\n") != 1 || !strings.HasSuffix(said, "\n") {
				t.Errorf("%q: %q", name, said)
			}
			for _, c := range strings.TrimSuffix(said, "\n") {
				if !unicode.IsPrint(c) || c == unicode.ReplacementChar {
					t.Errorf("%q: %q is not printable in %q", name, c, said)
					break
				}
			}
			var line struct{ Comm, Cgroup, Msg string }
			if asJSON && (json.Unmarshal(words.Bytes(), &line) != nil || line.Msg != "refused") {
				t.Errorf("%q: %q", name, said)
			}
		}
	}
}
