package top

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/output/hostile"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// style is what the screen itself sends a terminal: colours alone.
var style = regexp.MustCompile("\x1b\\[[0-9;]*m")

// No name of a process, a user, a cgroup, a container, a map or a file, and no error, does
// more on the screen than be read, in any view, on any page, while it is typed as a filter,
// and in a batch.
func TestHostileScreens(t *testing.T) {
	for name, text := range hostile.Texts() {
		seen := host()
		for i := range seen.Processes {
			seen.Processes[i].Comm, seen.Processes[i].CgroupPath = text, "/"+text
		}
		seen.Names, seen.Containers = map[uint32]string{0: text, 1000: text}, map[string]string{"/" + text: text}
		l := ledger.New()
		mapped := enter(l, ledger.Event{TimeNS: 1_700_000_000e9 + 1, Op: ledger.Map, PageSize: 4096, Caller: ledger.Caller{PID: 812, Comm: text, Cgroup: text}, Buffer: ledger.Buffer{Key: 7, Pages: 3}})
		made := enter(l, ledger.Event{TimeNS: 1_700_000_000e9 + 2, Op: ledger.Create, Errno: 12, PageSize: 4096, Caller: ledger.Caller{PID: 812, Comm: text},
			Object: &ledger.Object{Name: text, Watched: true, Refused: true, LimitCgroupID: 9, LimitCgroup: text}})
		for _, view := range ViewNames() {
			m := newModel(t, Options{View: view, Title: text, Attach: "kprobe", All: true}, 120, 40)
			for _, message := range []any{seen, Objects{{ID: 1, Kind: bpfobj.KindMap, Type: text, Name: text, Holders: []string{text}}},
				Entries{Rows: []*row.Row{&mapped, &made}, Counts: l.Counts()}, Trouble{Topic: "BPF objects", Texts: []string{text}}, Tick{NowNS: 1_700_000_000e9 + 3}} {
				m, _ = m.Update(message)
			}
			filtered := m
			filtered.opts.Filter = text
			for page, m := range map[string]Model{"list": m, "page": press(t, m, "enter"), "last": press(t, m, "end", "enter"), "filter": press(t, filtered, "/"), "kept": press(t, filtered, "/", "enter")} {
				checkScreen(t, m)
				if err := hostile.Terminal(style.ReplaceAllString(m.View(), "")); err != nil {
					t.Errorf("%s: %s: %s: %v", name, view, page, err)
				}
			}
			var out strings.Builder
			if err := errors.Join(m.Batch(&out, []string{view}), hostile.Terminal(out.String())); err != nil {
				t.Errorf("%s: %s: batch: %v", name, view, err)
			}
		}
	}
}
