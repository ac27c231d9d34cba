package top

import (
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

// clickOn clicks where the screen shows a text.
func clickOn(t *testing.T, m Model, text string) Model {
	t.Helper()
	for y, line := range strings.Split(ansi.Strip(m.View()), "\n") {
		if before, _, found := strings.Cut(line, text); found {
			m, _ = m.Update(tea.MouseClickMsg{X: ansi.StringWidth(before), Y: y, Button: tea.MouseLeft})
			return m
		}
	}
	t.Fatalf("no %q on the screen:\n%s", text, m.View())
	return m
}

func sortedBy(m Model) string {
	p := m.places[m.view]
	order := "▲"
	if p.descending {
		order = "▼"
	}
	return m.list.headings()[p.sort].name + order
}

// A click on a heading sorts by its column, and a second one turns the order round.
func TestClicks(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {120, 40}, {200, 60}, {60, 8}} {
		m := replayed(t, "several-users-cumulative.jsonl", 56, size[0], size[1])
		for _, step := range []struct{ click, sorted string }{
			{"COMM", "COMM▲"}, {"COMM", "COMM▼"}, {"LOCK_LIMIT", "LOCK_LIMIT▼"}, {"PID", "PID▼"}, {"PID", "PID▲"}, {"PINNED_VM", "PINNED_VM▼"},
		} {
			if m = clickOn(t, m, step.click); sortedBy(m) != step.sorted {
				t.Errorf("%v: after %s: sorted by %s; want %s", size, step.click, sortedBy(m), step.sorted)
			}
		}
		if m = clickOn(t, m, "69 agent"); selectedID(m) != "69" {
			t.Errorf("%v: %s is selected", size, selectedID(m))
		}
		before := m.places[m.view].row
		if m, _ = m.Update(tea.MouseWheelMsg{Button: tea.MouseWheelDown}); m.places[m.view].row <= before {
			t.Errorf("%v: the wheel moved from row %d to %d", size, before, m.places[m.view].row)
		}
	}
	m := clickOn(t, replayed(t, "several-users-cumulative.jsonl", 56, 80, 24), "3 cgroups")
	if m.view != viewCgroups {
		t.Errorf("view %d", m.view)
	}
}

// Wherever a click is, nothing breaks, and on a page it is nothing.
func TestClicksAnywhere(t *testing.T) {
	for _, base := range []Model{replayed(t, "several-users-cumulative.jsonl", 0, 80, 12), watched(t, 40, 5), newModel(t, Options{}, 20, 3)} {
		for _, keys := range [][]string{{}, {"enter"}, {"?"}, {"/"}, {"5", "end"}} {
			m := press(t, base, keys...)
			for y := -1; y < 14; y += 2 {
				for x := -1 + y%3; x < 90; x += 17 {
					m, _ = m.Update(tea.MouseClickMsg{X: x, Y: y, Button: tea.MouseLeft})
					m, _ = m.Update(tea.MouseWheelMsg{X: x, Y: y, Button: tea.MouseWheelUp})
					checkScreen(t, m)
				}
			}
		}
	}
}

// The mouse is the terminal's own, for selecting text, until somebody asks for it.
func TestMouseIsAskedFor(t *testing.T) {
	m := watched(t, 80, 24)
	if m.Mouse() {
		t.Error("on from the start")
	}
	if m = press(t, m, "m"); !m.Mouse() {
		t.Error("m does not switch it on")
	}
	if m = press(t, m, "enter", "m"); m.Mouse() {
		t.Error("m does not switch it off on a page")
	}
}

// < and > go over the columns on the screen, and stop at its edges.
func TestSortBeside(t *testing.T) {
	m := replayed(t, "several-users-cumulative.jsonl", 56, 80, 24)
	var seen []string
	for range 9 {
		m = press(t, m, "<")
	}
	for range 9 {
		seen = append(seen, sortedBy(m))
		m = press(t, m, ">")
	}
	if got, want := strings.Join(seen, " "), "PID▼ COMM▲ PINNED_VM▼ LOCK_LIMIT▼ USED▼ FITS▼ VERDICT▲ VERDICT▲ VERDICT▲"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}
