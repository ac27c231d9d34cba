package top

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// The tests drive Update and View, as the program does, and compare what would
// be on the screen.

func press(t *testing.T, m Model, keys ...string) Model {
	t.Helper()
	for _, k := range keys {
		m, _ = m.Update(keyNamed(t, k))
	}
	return m
}

// keyNamed makes the message that a terminal's key becomes.
func keyNamed(t *testing.T, name string) tea.KeyPressMsg {
	t.Helper()
	special := map[string]tea.KeyPressMsg{
		"enter": {Code: tea.KeyEnter}, "esc": {Code: tea.KeyEscape}, "tab": {Code: tea.KeyTab}, "up": {Code: tea.KeyUp},
		"down": {Code: tea.KeyDown}, "pgup": {Code: tea.KeyPgUp}, "pgdown": {Code: tea.KeyPgDown}, "home": {Code: tea.KeyHome},
		"end": {Code: tea.KeyEnd}, "backspace": {Code: tea.KeyBackspace}, "space": {Code: tea.KeySpace, Text: " "},
		"shift+tab": {Code: tea.KeyTab, Mod: tea.ModShift}, "ctrl+c": {Code: 'c', Mod: tea.ModCtrl}, "ctrl+z": {Code: 'z', Mod: tea.ModCtrl},
		"ctrl+u": {Code: 'u', Mod: tea.ModCtrl},
	}
	if k, ok := special[name]; ok {
		return k
	}
	if len([]rune(name)) != 1 {
		t.Fatalf("no key %q", name)
	}
	return tea.KeyPressMsg{Code: []rune(name)[0], Text: name}
}

func newModel(t testing.TB, opts Options, width, height int) Model {
	t.Helper()
	if opts.Interval == 0 {
		opts.Interval = 2 * time.Second
	}
	m, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	m, _ = m.Update(tea.WindowSizeMsg{Width: width, Height: height})
	return m
}

// entries are the rows of a recording, up to a number; 0: all.
func entries(t testing.TB, name string, most int) []Entries {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "testdata", "recordings", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := ledger.New()
	var all []Entries
	for event, err := range recording.NewReader(f).Events() {
		if err != nil {
			t.Fatal(err)
		}
		r := enter(l, event)
		all = append(all, Entries{Rows: []*row.Row{&r}, Counts: l.Counts()})
		if len(all) == most {
			break
		}
	}
	return all
}

// replayed is a model that has seen a part of a recording.
func replayed(t testing.TB, name string, most, width, height int) Model {
	t.Helper()
	m := newModel(t, Options{Title: name, Replay: true, Speed: 1}, width, height)
	all := entries(t, name, most)
	m, _ = m.Update(Tick{NowNS: all[0].Rows[0].TimeNS})
	for _, e := range all {
		m, _ = m.Update(e)
	}
	last := all[len(all)-1].Rows[0].TimeNS
	m, _ = m.Update(Tick{NowNS: last})
	return m
}

// host is a machine with a few holders: the allowance of uid 0 is gone, and it
// is in a container.
func host() Snapshot {
	const docker, unit = "/system.slice/docker-4bd1.scope", "/system.slice/agent.service"
	s := &snapshot.Snapshot{
		TimeNS: 1_700_000_000e9, Source: "bpf-iterators", PageSize: 4096, OnlineCPUs: 4, MlockKiB: 516, Paranoid: 2,
		Processes: []snapshot.Process{
			{PID: 1, Comm: "systemd", CgroupPath: "/init.scope", LockLimit: 2048},
			{PID: 812, Comm: "agent", CgroupPath: unit, PinnedVM: 1548, LockLimit: 2048, Buffers: 16, BufferPages: 2064},
			{PID: 4711, Comm: "\x1b[2Jevil", UID: 1000, CgroupPath: docker, PinnedVM: 9, LockLimit: rule.Unlimited, Buffers: 1, BufferPages: 9},
			{PID: 4712, Comm: "日本語の名前", UID: 1000, CgroupPath: docker, LockLimit: 128, CapIPCLock: true},
		},
		Users: []snapshot.User{{UID: 0, Processes: 2, PerfLocked: 516, LockedVM: 516, Known: true}, {UID: 1000, Processes: 2}},
	}
	for i := range 16 {
		extra := int64(129)
		if i < 4 {
			extra = 0
		}
		s.Buffers = append(s.Buffers, snapshot.Buffer{PID: 812, ID: uint64(i + 1), Pages: 129, Extra: extra, PayerKnown: true, Mappings: 1})
	}
	s.Buffers = append(s.Buffers, snapshot.Buffer{PID: 4711, ID: 99, Area: rule.AUX, Pages: 9, Extra: 9, PayerUID: 1000, Mappings: 2})
	return Snapshot{Snapshot: s, Names: map[uint32]string{0: "root"}, Containers: map[string]string{docker: "web-1"}}
}

// watched is a model of that machine.
func watched(t testing.TB, width, height int) Model {
	t.Helper()
	m := newModel(t, Options{Title: "Linux 6.12.107", Attach: "kprobe, ring buffer"}, width, height)
	m, _ = m.Update(host())
	m, _ = m.Update(Objects{
		{ID: 12, Kind: bpfobj.KindMap, Type: "hash", Name: "conn_table", Memlock: 8 << 20, Charged: 4 << 20, Holders: []string{"agent(812)"}},
		{ID: 7, Kind: bpfobj.KindProgram, Type: "kprobe", Name: "on_connect", Memlock: 4096, Charged: -1, Holders: []string{"agent(812)", "\x1b[31mx(9)"}},
	})
	m, _ = m.Update(Tick{NowNS: 1_700_000_000e9, Usage: Usage{CPU: 0.012, RSS: 17 << 20}})
	return m
}

// The golden screens, without colours. UPDATE_GOLDEN=1 writes them anew: look
// at the difference before committing it.
func TestScreens(t *testing.T) {
	time.Local = time.UTC
	const cumulative, fixed, published = "several-users-cumulative.jsonl", "several-users-6.12.jsonl", "published-overcharge.jsonl"
	screens := map[string]Model{
		"processes-80x24":       replayed(t, cumulative, 56, 80, 24),
		"processes-120x40":      replayed(t, cumulative, 56, 120, 40),
		"processes-200x60":      replayed(t, cumulative, 56, 200, 60),
		"paused-80x24":          press(t, replayed(t, cumulative, 56, 80, 24), "p"),
		"fixed-80x24":           replayed(t, fixed, 60, 80, 24),
		"published-80x24":       replayed(t, published, 0, 80, 24),
		"refused-page-80x40":    press(t, replayed(t, cumulative, 80, 80, 40), "2", "down", "enter"),
		"bpf-page-80x24":        press(t, watched(t, 80, 24), "4", "enter"),
		"event-page-100x30":     press(t, replayed(t, cumulative, 56, 100, 30), "5", "/", "r", "e", "f", "u", "s", "enter", "enter"),
		"live-80x24":            watched(t, 80, 24),
		"live-all-200x24":       press(t, watched(t, 200, 24), "a"),
		"live-bytes-120x24":     press(t, watched(t, 120, 24), "b"),
		"live-users-120x24":     press(t, watched(t, 120, 24), "tab"),
		"live-cgroups-120x24":   press(t, watched(t, 120, 24), "3"),
		"live-bpf-120x24":       press(t, watched(t, 120, 24), "4"),
		"live-events-120x24":    press(t, watched(t, 120, 24), "5"),
		"live-user-page-120x30": press(t, watched(t, 120, 30), "2", "enter"),
		"live-process-page":     press(t, watched(t, 100, 40), "enter"),
		"filter-80x24":          press(t, watched(t, 80, 24), "/", "a", "g", "e"),
		"tiny-20x5":             replayed(t, cumulative, 56, 20, 5),
		"tiny-40x8":             replayed(t, cumulative, 56, 40, 8),
		"untraced-100x24":       untraced(t, 100, 24),
	}
	for _, size := range [][2]int{{80, 24}, {120, 40}, {200, 60}} {
		for what, keys := range map[string][]string{"users": {"2"}, "cgroups": {"3"}, "bpf": {"4"}, "events": {"5"}, "process-page": {"enter"}, "user-page": {"2", "enter"}, "help": {"?"}} {
			screens[fmt.Sprintf("%s-%dx%d", what, size[0], size[1])] = press(t, replayed(t, cumulative, 80, size[0], size[1]), keys...)
		}
		tree, _ := nested(t).Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
		screens[fmt.Sprintf("tree-%dx%d", size[0], size[1])] = tree
	}
	for name, m := range screens {
		t.Run(name, func(t *testing.T) {
			checkScreen(t, m)
			compareGolden(t, name, plain(m)+"\n")
		})
	}
}

// A recording has the paths of cgroups and the names of containers: they are shown, and not the
// ids.
func TestCgroupsOfARecording(t *testing.T) {
	const path = "/kubepods.slice/cri-containerd-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope"
	named := container.Names{Namespace: "prod", Pod: "web-1", Container: "nginx"}
	l := ledger.New()
	found := enter(l, ledger.Event{TimeNS: 1, Op: ledger.AlreadyMapped, PageSize: 4096, Caller: ledger.Caller{PID: 1, Comm: "older", CgroupID: 77, Cgroup: path, Names: named},
		Buffer: ledger.Buffer{Key: 1, Pages: 3, Mappings: ledger.Count{Before: 1, After: 1}, Recorded: [2]ledger.Recorded{{Pages: 3}}}})
	mapped := func(key uint64, c ledger.Caller) *row.Row {
		r := enter(l, ledger.Event{TimeNS: 10 + key, PageSize: 4096, Caller: c, Process: ledger.Reading{Owner: key}, Buffer: ledger.Buffer{Key: key, Pages: 3, Mappings: ledger.Count{After: 1}}})
		return &r
	}
	rows := []*row.Row{&found, mapped(2, ledger.Caller{PID: 2, Comm: "later", CgroupID: 78, Cgroup: "/web.slice"}), mapped(3, ledger.Caller{PID: 3, Comm: "beside", CgroupID: 78}),
		mapped(4, ledger.Caller{PID: 4, Comm: "no id", Cgroup: "/db.slice"}), mapped(5, ledger.Caller{PID: 5, Comm: "nothing"})}
	m := newModel(t, Options{Replay: true, All: true}, 200, 24)
	m, _ = m.Update(Entries{Rows: rows, Counts: l.Counts()})
	var out strings.Builder
	if err := m.Batch(&out, []string{"processes", "cgroups"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`(?m)^ *1 older .*prod/web-1/nginx`, `(?m)^ *2 later .*/web\.slice`, `(?m)^ *3 beside .*/web\.slice`, `(?m)^ *4 no id .*/db\.slice`, `(?m)^prod/web-1/nginx|^` + path + ` +prod/web-1/nginx`, `(?m)^\(not known\)`} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "cgroup id") {
		t.Errorf("an id:\n%s", out.String())
	}
}

// Where no call was seen that is held against the allowance, nothing is claimed of it.
func TestAllowanceNotKnown(t *testing.T) {
	m := newModel(t, Options{Replay: true, All: true}, 200, 40)
	for _, e := range entries(t, "bpf-rlimit-5.10.jsonl", 0) {
		m, _ = m.Update(e)
	}
	var out strings.Builder
	if err := m.Batch(&out, []string{"processes", "users"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`(?m)^ *0 +2831 +\? +\? +4 +4 .* \? +·`, `(?m)^ *1001 +· +\? +\? .* \? +1 `, `(?m)^ *106 pinwatch .* \? +1 `} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
	if page := plain(press(t, m, "enter")); strings.Contains(page, "No limit holds") || strings.Contains(page, " of 0") {
		t.Error(page)
	}
}

// untraced is a model where tracing was not allowed.
func untraced(t *testing.T, width, height int) Model {
	m := newModel(t, Options{Title: "Linux 6.12.107"}, width, height)
	m, _ = m.Update(Trouble{Topic: "trace", Texts: []string{"no new events are seen, only what exists: this process (uid 1000) lacks CAP_BPF\n\x1b[31mand more"}})
	s := host()
	s.Snapshot.Source = "proc"
	m, _ = m.Update(Trouble{Topic: "snapshot", Texts: []string{"the limits of 3 processes cannot be read"}})
	m, _ = m.Update(s)
	m, _ = m.Update(Tick{NowNS: 1_700_000_000e9})
	return m
}

// plain is the screen without colours.
func plain(m Model) string {
	var lines []string
	for line := range strings.SplitSeq(ansi.Strip(m.View()), "\n") {
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return strings.Join(lines, "\n")
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

// checkScreen is what holds for every screen: as many lines as the window, none
// wider, and no escape of a hostile name.
func checkScreen(t *testing.T, m Model) {
	t.Helper()
	if m.width == 0 || m.height == 0 {
		return
	}
	view := m.View()
	lines := strings.Split(view, "\n")
	if len(lines) != m.height {
		t.Errorf("%d lines in a window of %d×%d", len(lines), m.width, m.height)
	}
	for _, line := range lines {
		if n := ansi.StringWidth(line); n > m.width {
			t.Errorf("%d columns in a window of %d×%d: %q", n, m.width, m.height, line)
		}
	}
	for _, hostile := range []string{"\x1b[2J", "\x1b[31mx", "\x1b[31mand"} {
		if strings.Contains(view, hostile) {
			t.Errorf("the screen holds %q of a name", hostile)
		}
	}
}

// Whatever the window, and wherever the user is, there is a screen.
func TestAllSizes(t *testing.T) {
	var sizes []tea.WindowSizeMsg
	for _, height := range []int{0, 1, 4, 11} {
		for _, width := range []int{0, 1, 10, 33, 81, 200} {
			sizes = append(sizes, tea.WindowSizeMsg{Width: width, Height: height})
		}
	}
	ways := [][]string{{}, {"?"}, {"enter"}, {"/", "x"}, {"end"}, {"S"}, {"b"}, {"a", "end", "enter", "pgdown"}}
	for _, base := range []Model{replayed(t, "several-users-cumulative.jsonl", 0, 1, 1), watched(t, 1, 1), newModel(t, Options{}, 0, 0)} {
		for view := range viewCount {
			for _, way := range ways {
				m := press(t, press(t, base, fmt.Sprint(view+1)), way...)
				for i, size := range sizes {
					if len(way) > 0 && i%5 != 0 {
						continue // what is drawn on one screen is drawn on all
					}
					m, _ = m.Update(size)
					checkScreen(t, m)
					checkScreen(t, press(t, m, "down", "pgdown", "up"))
				}
			}
		}
	}
}

func TestNegativeSize(t *testing.T) {
	m, _ := newModel(t, Options{}, 80, 24).Update(tea.WindowSizeMsg{Width: -3, Height: -1})
	if m.View() != "" {
		t.Error("something is drawn in no window")
	}
}

// Update leaves the model that it was given as it was.
func TestUpdateIsPure(t *testing.T) {
	all := entries(t, "several-users-cumulative.jsonl", 0)
	m := watched(t, 120, 40)
	for i, e := range all {
		before, was := m, m.View()
		next, _ := m.Update(e)
		next, _ = next.Update(host())
		next, _ = next.Update(Tick{NowNS: e.Rows[0].TimeNS})
		press(t, next, "down", "s", "/", "a", "enter", "enter", "j", "esc", "esc")
		if got := before.View(); got != was {
			t.Fatalf("event %d: Update changed the model that it was given\n%s", i+1, cmp.Diff(was, got))
		}
		m, _ = m.Update(e)
	}
}

// The buffers of all processes are those that the ledger has, after every event.
func TestBuffersAgreeWithLedger(t *testing.T) {
	for _, name := range []string{"several-users-cumulative.jsonl", "several-users-6.12.jsonl", "published-overcharge.jsonl"} {
		m := newModel(t, Options{Replay: true}, 80, 24)
		for i, e := range entries(t, name, 0) {
			m, _ = m.Update(e)
			var buffers, share int64
			for _, p := range m.shown.processes {
				buffers += p.buffers
				share += p.share
			}
			if want := int64(e.Counts.Live); buffers != want {
				t.Fatalf("%s: event %d: %d buffers; the ledger has %d", name, i+1, buffers, want)
			}
			if want := e.Counts.LiveUser; share != want {
				t.Fatalf("%s: event %d: %d pages of allowances; the ledger has %d", name, i+1, share, want)
			}
		}
	}
}

func selectedID(m Model) string {
	if m.list.len() == 0 {
		return ""
	}
	return m.list.id(m.places[m.view].row)
}

// Who is selected stays selected when the order changes, when rows come and go,
// and in another view and back; and is on the screen.
func TestSelectionStays(t *testing.T) {
	m := replayed(t, "several-users-cumulative.jsonl", 56, 80, 12)
	m = press(t, m, "down")
	id := selectedID(m)
	for _, keys := range [][]string{{"S"}, {"s"}, {"s", "S"}, {"tab", "tab", "shift+tab", "shift+tab"}, {"?", "esc"}, {"enter", "esc"}, {"/", "zzz"[:1], "esc"}} {
		m = press(t, m, keys...)
		if got := selectedID(m); got != id {
			t.Errorf("after %v %s is selected; before it was %s", keys, got, id)
		}
		if screen := plain(m); !strings.Contains(screen, id+" ") {
			t.Errorf("after %v the selected row is not on the screen:\n%s", keys, screen)
		}
	}
	for _, e := range entries(t, "several-users-cumulative.jsonl", 0)[56:] {
		if m, _ = m.Update(e); selectedID(m) != id {
			t.Fatalf("after event %d %s is selected; before it was %s", e.Rows[0].Number, selectedID(m), id)
		}
	}
}

// As long as nobody has chosen a row, the first one is selected, whoever that is.
func TestFirstRowUntilChosen(t *testing.T) {
	m := replayed(t, "several-users-cumulative.jsonl", 56, 80, 24)
	first := selectedID(m)
	m = press(t, m, "S")
	if selectedID(m) == first || m.places[m.view].row != 0 {
		t.Errorf("row %d (%s) is selected", m.places[m.view].row, selectedID(m))
	}
	m = press(t, m, "down", "home", "S")
	if selectedID(m) != first {
		t.Errorf("%s is selected after Home; want %s", selectedID(m), first)
	}
}

// While a filter is typed, no key acts.
func TestFilter(t *testing.T) {
	m := watched(t, 80, 24)
	all := m.list.len()
	m, _ = m.Update(keyNamed(t, "/"))
	var action Action
	for _, k := range []string{"q", "p", "s", "?", "1", "+", "space", "b"} {
		if m, action = m.Update(keyNamed(t, k)); action != (Action{}) {
			t.Errorf("%q made %+v happen while a filter is typed", k, action)
		}
	}
	if m.opts.Filter != "qps?1+ b" || m.view != 0 || m.page != pageTable || m.opts.Paused || m.opts.Bytes {
		t.Errorf("filter %q: keys acted", m.opts.Filter)
	}
	if m.list.len() != 0 {
		t.Errorf("%d rows match", m.list.len())
	}
	m = press(t, m, "ctrl+u", "E", "v", "i", "x", "backspace", "enter")
	if m.list.len() != 1 || selectedID(m) != "4711" || m.typing {
		t.Errorf("%d rows match %q", m.list.len(), m.opts.Filter)
	}
	m = press(t, m, "/", "x", "esc")
	if m.opts.Filter != "Evi" {
		t.Errorf("Esc left %q; want what was there before", m.opts.Filter)
	}
	if m = press(t, m, "esc"); m.list.len() != all {
		t.Errorf("%d rows without a filter; want %d", m.list.len(), all)
	}
	m, _ = press(t, m, "/").Update(tea.PasteMsg{Content: "agent"})
	if m.opts.Filter != "agent" {
		t.Errorf("pasted: %q", m.opts.Filter)
	}
	if _, action := m.Update(keyNamed(t, "ctrl+c")); !action.Quit {
		t.Error("Ctrl-C does not quit while a filter is typed")
	}
}

func TestActions(t *testing.T) {
	live := newModel(t, Options{}, 80, 24)
	replay := newModel(t, Options{Replay: true, Speed: 1}, 80, 24)
	for _, c := range []struct {
		m    Model
		key  string
		want Action
	}{
		{live, "q", Action{Quit: true}},
		{press(t, live, "?"), "q", Action{Quit: true}},
		{live, "ctrl+z", Action{Suspend: true}},
		{live, "p", Action{Pause: true}},
		{press(t, live, "space"), "p", Action{Resume: true}},
		{live, "+", Action{Interval: 5 * time.Second}},
		{live, "-", Action{Interval: time.Second}},
		{press(t, live, "-", "-", "-", "-", "-", "-"), "-", Action{Interval: 100 * time.Millisecond}},
		{live, "n", Action{}},
		{live, "]", Action{}},
		{replay, "n", Action{Pause: true, Step: true}},
		{replay, ".", Action{Pause: true, Step: true}},
		{replay, "]", Action{Speed: 2}},
		{replay, "[", Action{Speed: 0.5}},
		{press(t, replay, "?"), "p", Action{Pause: true}},
		{live, "x", Action{}},
	} {
		if _, got := c.m.Update(keyNamed(t, c.key)); got != c.want {
			t.Errorf("%q: %+v; want %+v", c.key, got, c.want)
		}
	}
}

// While a live view is paused its screen stands still, and says how far it is
// behind; what came is there afterwards.
func TestPause(t *testing.T) {
	m := press(t, watched(t, 120, 24), "p")
	rows := m.list.len()
	for _, e := range entries(t, "several-users-6.12.jsonl", 30) {
		m, _ = m.Update(e)
	}
	m, _ = m.Update(Tick{NowNS: 1_700_000_009e9})
	if m.list.len() != rows || !strings.Contains(plain(m), "PAUSED, 30 events behind") {
		t.Errorf("the screen moved:\n%s", plain(m))
	}
	if m = press(t, m, "p"); !strings.Contains(plain(m), "30 events") || strings.Contains(plain(m), "PAUSED") {
		t.Errorf("after the pause:\n%s", plain(m))
	}
}

// A process that a snapshot no longer has is gone, unless there is something to
// tell of it; events after the snapshot count on top of it.
func TestSnapshotAndEntries(t *testing.T) {
	event := func(e ledger.Event) ledger.Event {
		e.PageSize, e.Buffer.Limits.OnlineCPUs, e.Buffer.Limits.Allowance, e.Buffer.Limits.Paranoid = 4096, 4, 516, 2
		return e
	}
	l := ledger.New()
	m := watched(t, 120, 24)
	send := func(e ledger.Event) {
		r := enter(l, event(e))
		m, _ = m.Update(Entries{Rows: []*row.Row{&r}, Counts: l.Counts()})
	}
	after := host().TimeNS + 1
	send(ledger.Event{
		TimeNS:  after,
		Caller:  ledger.Caller{PID: 4712, UID: 1000, Comm: "x", LockLimit: 128},
		User:    ledger.Reading{Owner: 1000, After: 9},
		Process: ledger.Reading{Owner: 1},
		Buffer:  ledger.Buffer{Key: 1, Pages: 9, Mappings: ledger.Count{After: 1}},
	})
	send(ledger.Event{
		TimeNS: after, Errno: rule.EPERM,
		Caller:  ledger.Caller{PID: 5000, UID: 1000, Comm: "y", LockLimit: 16},
		User:    ledger.Reading{Owner: 1000, Before: 9, After: 9},
		Process: ledger.Reading{Owner: 2},
		Buffer:  ledger.Buffer{Pages: 600, Extra: 93},
	})
	send(ledger.Event{
		TimeNS:  after,
		Caller:  ledger.Caller{PID: 5001, UID: 1000, Comm: "z", LockLimit: 128},
		User:    ledger.Reading{Owner: 1000, Before: 9, After: 18},
		Process: ledger.Reading{Owner: 3},
		Buffer:  ledger.Buffer{Key: 2, Pages: 9, Mappings: ledger.Count{After: 1}},
	})
	if p := m.news.processes[4712]; p.buffers != 1 || p.share != 9 || p.comm != "x" {
		t.Errorf("pid 4712 has %d buffers, %d pages", p.buffers, p.share)
	}
	if u := m.news.users[1000]; !u.lockedKnown || u.locked != 18 {
		t.Errorf("uid 1000 has %d pages locked, known: %v", u.locked, u.lockedKnown)
	}
	// An unmapping of a buffer older than the trace.
	send(ledger.Event{
		TimeNS: after, Op: ledger.Unmap,
		Caller:  ledger.Caller{PID: 812, Comm: "agent"},
		User:    ledger.Reading{Before: 516, After: 387},
		Process: ledger.Reading{Owner: 4, Before: 1548, After: 1548},
		Buffer:  ledger.Buffer{Key: 77, Mappings: ledger.Count{Before: 1}, Recorded: [2]ledger.Recorded{rule.Data: {Pages: 129}}},
	})
	if p := m.news.processes[812]; p.buffers != 15 || p.share != 387 {
		t.Errorf("pid 812 has %d buffers, share %d; want 15 and 387", p.buffers, p.share)
	}
	later := host()
	later.Snapshot.TimeNS = after + 1
	later.Snapshot.Processes = later.Snapshot.Processes[:2]
	m, _ = m.Update(later)
	if got := slices.Sorted(pids(m.news)); !slices.Equal(got, []uint32{1, 812, 5000}) {
		t.Errorf("processes %v", got)
	}
	if p := m.news.processes[5000]; !p.gone || p.refusals != 1 {
		t.Errorf("the refused process: gone %v, %d refusals", p.gone, p.refusals)
	}
	if p := m.news.processes[812]; p.buffers != 16 {
		t.Errorf("a new snapshot has the last word: %d buffers", p.buffers)
	}
}

// What a recording says was mapped before it is there from the start, is nothing
// that happened, and goes when it is unmapped.
func TestFound(t *testing.T) {
	m := newModel(t, Options{Title: "r", Replay: true}, 120, 24)
	l := ledger.New()
	send := func(e ledger.Event) {
		t.Helper()
		r := enter(l, e)
		m, _ = m.Update(Entries{Rows: []*row.Row{&r}, Counts: l.Counts()})
	}
	recorded := [2]ledger.Recorded{rule.Data: {Pages: 65, Extra: 4}}
	older := ledger.Event{
		TimeNS: 1, Op: ledger.AlreadyMapped, PageSize: 4096,
		Caller:  ledger.Caller{PID: 812, UID: 1000, Comm: "agent", LockLimit: 128, Cgroup: "/a"},
		User:    ledger.Reading{Owner: 1000, Before: 516, After: 516},
		Process: ledger.Reading{Owner: 4, Before: 4, After: 4},
		Buffer: ledger.Buffer{Key: 7, Pages: 65, Mappings: ledger.Count{After: 1}, Recorded: recorded,
			Limits: ledger.Limits{Allowance: 516, OnlineCPUs: 4}},
	}
	send(older)
	p := m.shown.processes[812]
	if p == nil || p.buffers != 1 || p.share != 61 || p.pinned != 4 || p.limit != 128 || p.events != 0 || p.cgroup != "/a" || m.shown.users[1000].locked != 516 {
		t.Errorf("at the start: %+v", p)
	}
	if m.shown.counts.Events != 0 || len(m.shown.rows) != 0 || m.list.len() != 1 {
		t.Errorf("%d events, %d rows of them, %d processes", m.shown.counts.Events, len(m.shown.rows), m.list.len())
	}
	send(ledger.Event{
		TimeNS: 2, Op: ledger.Unmap,
		Caller:  ledger.Caller{PID: 812, UID: 1000, Comm: "agent", LockLimit: 128},
		User:    ledger.Reading{Owner: 1000, Before: 516, After: 455},
		Process: ledger.Reading{Owner: 4, Before: 4},
		Buffer:  ledger.Buffer{Key: 7, Mappings: ledger.Count{Before: 1}, Recorded: recorded, Limits: ledger.Limits{Allowance: 516}},
	})
	if p := m.shown.processes[812]; p.buffers != 0 || p.share != 0 || p.pinned != 0 || p.events != 1 || len(m.shown.rows) != 1 {
		t.Errorf("after it was unmapped: %+v", p)
	}
}

// Whoever sorts by an amount wants the largest first, a bar's too, and words from a
// to z.
func TestSortDirection(t *testing.T) {
	m := replayed(t, "several-users-cumulative.jsonl", 56, 200, 24)
	for range m.list.headings() {
		m = press(t, m, "s")
		p := m.places[m.view]
		name := m.list.headings()[p.sort].name
		if want := name != "COMM" && name != "VERDICT" && name != "CGROUP"; p.descending != want {
			t.Errorf("%s: the largest first: %v", name, p.descending)
		}
	}
}

func pids(a *accounts) func(func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for pid := range a.processes {
			if !yield(pid) {
				return
			}
		}
	}
}

func TestUnknownNames(t *testing.T) {
	if _, err := New(Options{View: "proceses"}); err == nil || !strings.Contains(err.Error(), "there are processes, users, cgroups, bpf, events") {
		t.Error(err)
	}
	if _, err := New(Options{View: "users", Sort: "size"}); err == nil || !strings.Contains(err.Error(), "LOCKED, ALLOWANCE") {
		t.Error(err)
	}
	if m, err := New(Options{View: "Users", Sort: "pinned_vm"}); err != nil || m.tables[m.view].headings()[m.places[m.view].sort].name != "PINNED_VM" {
		t.Error(err)
	}
}

// Rows keep their order where they are equal, and the columns that are shown do
// not depend on more than the width.
func TestArrange(t *testing.T) {
	for v, table := range views() {
		before := 0
		for width := 1; width < 300; width++ {
			places := arrange(table.headings(), width, table.sortedBy())
			sum := len(places) - 1
			for _, p := range places {
				sum += p.width
			}
			if sum > width || len(places) == 0 || len(places) < before {
				t.Errorf("view %d: %d columns take %d of %d", v, len(places), sum, width)
			}
			before = len(places)
		}
	}
}

// enter makes the row of one more event.
func enter(l *ledger.Ledger, event ledger.Event) row.Row {
	e := l.Apply(event)
	return row.Of(&e)
}

// Where there is little room, the events go without what ranks lowest: the ID goes
// before the user and the part for the process.
func TestEventColumnsByRank(t *testing.T) {
	view := eventView()
	headings := view.headings()
	var shown []string
	for _, p := range arrange(headings, 80, view.sortedBy()) {
		shown = append(shown, headings[p.column].name)
	}
	if got, want := strings.Join(shown, " "), "TIME KIND PID COMM UID PAGES EXTRA VERDICT"; got != want {
		t.Errorf("80 columns show %s; want %s", got, want)
	}
}

// The columns of the events are those of the reference, and say what it says.
func TestEventColumnsAreTheReference(t *testing.T) {
	known := map[string]string{}
	for _, f := range row.Reference() {
		known[f.Header] = f.Help
	}
	headings := eventView().headings()
	for _, h := range headings {
		if help, ok := known[h.name]; !ok || help != h.help {
			t.Errorf("column %s is explained as %q; by the reference %q", h.name, h.help, help)
		}
	}
	if len(headings) != 14 {
		t.Errorf("%d columns", len(headings))
	}
}
