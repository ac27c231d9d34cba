package top

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/output/top/trend"
)

// Every trend ends with the amount that its row shows, after every event and every snapshot.
func TestTrendsAgreeWithRows(t *testing.T) {
	agree := func(m Model, when string) {
		t.Helper()
		for _, p := range processRows(m.shown, true) {
			if got := p.process.trend.Now(); got != p.pinned {
				t.Fatalf("%s: pid %d: trend ends with %d; pinned_vm is %d", when, p.pid, got, p.pinned)
			}
		}
		for _, u := range userRows(m.shown, true) {
			if got := u.trend.Now(); got != u.locked && u.known {
				t.Fatalf("%s: uid %d: trend ends with %d; it has locked %d", when, u.uid, got, u.locked)
			}
		}
		groups := cgroupRows(m.shown, true)
		for _, g := range append(groups, cgroupBranches(m.shown, groups)...) {
			if got := g.trend.Now(); got != g.pinned {
				t.Fatalf("%s: cgroup %s: trend ends with %d; pinned_vm is %d", when, g.name, got, g.pinned)
			}
		}
	}
	for _, name := range []string{"several-users-cumulative.jsonl", "several-users-6.12.jsonl", "published-overcharge.jsonl"} {
		m := newModel(t, Options{Replay: true}, 80, 24)
		for i, e := range entries(t, name, 0) {
			m, _ = m.Update(e)
			agree(m, fmt.Sprintf("%s: event %d", name, i+1))
		}
	}
	m := watched(t, 120, 24)
	agree(m, "live")
	for _, e := range entries(t, "several-users-cumulative.jsonl", 40) {
		m, _ = m.Update(e)
	}
	m, _ = m.Update(Tick{NowNS: 2e18})
	agree(m, "after entries")
	late := host()
	late.Snapshot.TimeNS, late.Snapshot.Processes = 2e18, late.Snapshot.Processes[:2]
	late.Snapshot.Processes[1].PinnedVM = 7
	m, _ = m.Update(late)
	m, _ = m.Update(Tick{NowNS: 2e18})
	agree(m, "after the next snapshot")
	if n, want := len(m.shown.groups), len(cgroupBranches(m.shown, cgroupRows(m.shown, true))); n != want {
		t.Errorf("%d cgroups are remembered; there are %d", n, want)
	}
}

// A recording's trends go by its own time, however fast it is replayed: its refusals too.
func TestTrendOfRecording(t *testing.T) {
	m := replayed(t, "several-users-cumulative.jsonl", 0, 200, 40)
	u := m.shown.users[1001]
	var refused uint32
	cells := u.trend.Cells(m.shown.clock, 20)
	for _, cell := range cells {
		refused += cell.Refused
	}
	if uint64(refused) != u.refusals || refused == 0 {
		t.Errorf("%d refusals in the trend; there were %d", refused, u.refusals)
	}
	first := m.shown.rows[0].TimeNS
	last := m.shown.rows[len(m.shown.rows)-1].TimeNS
	if m.shown.clock.From() != first || m.shown.clock.Now() != last {
		t.Errorf("from %d to %d; want %d to %d", m.shown.clock.From(), m.shown.clock.Now(), first, last)
	}
	if strings.Trim(trend.Spark(cells, trend.Peak(cells)), " ▁") == "" {
		t.Error("nothing rises")
	}
}

// Without Unicode the screen is the same, but for what it is drawn with.
func TestASCII(t *testing.T) {
	for _, base := range []Model{replayed(t, "several-users-cumulative.jsonl", 56, 200, 60), watched(t, 120, 40)} {
		for view := range viewCount {
			for _, keys := range [][]string{{}, {"enter"}, {"?"}, {"/", "a"}} {
				m := press(t, press(t, base, fmt.Sprint(view+1)), keys...)
				m.opts.ASCII = true
				checkScreen(t, m)
				for line := range strings.SplitSeq(plain(m), "\n") {
					if i := slices.IndexFunc([]rune(line), func(r rune) bool { return r > 0x7e }); i >= 0 && !strings.Contains(line, "日本") {
						t.Fatalf("view %d, %v: %q", view, keys, line)
					}
				}
			}
		}
	}
}
