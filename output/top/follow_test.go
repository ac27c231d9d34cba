package top

import (
	"strconv"
	"strings"
	"testing"
)

// What is followed stays selected in every view, and of the events it is the latest.
func TestFollow(t *testing.T) {
	all := entries(t, "several-users-cumulative.jsonl", 0)
	m := replayed(t, "several-users-cumulative.jsonl", 56, 100, 24)
	for selectedID(m) != "69" {
		m = press(t, m, "down")
	}
	m = press(t, m, "F", "2")
	if selectedID(m) != "1001" || !strings.Contains(plain(m), "follows pid 69") {
		t.Errorf("of the users %s is selected:\n%s", selectedID(m), plain(m))
	}
	m = press(t, m, "5")
	for _, e := range all[56:] {
		m, _ = m.Update(e)
		p := m.places[viewEvents]
		if r := m.list.(*listOf[eventRow]).rows[p.row]; r.Caller.PID != 69 {
			t.Fatalf("event %s of pid %d is selected", selectedID(m), r.Caller.PID)
		}
	}
	latest := ""
	for _, e := range all {
		if e.Rows[0].Caller.PID == 69 {
			latest = strconv.FormatUint(e.Rows[0].Number, 10)
		}
	}
	if selectedID(m) != latest {
		t.Errorf("event %s is selected; the latest is %s", selectedID(m), latest)
	}
	m = press(t, m, "1")
	if selectedID(m) != "69" {
		t.Errorf("pid %s is selected", selectedID(m))
	}
	// Whoever goes elsewhere does not follow any more.
	if m = press(t, m, "down", "end", "up"); m.follow != nil || strings.Contains(plain(m), "follows") {
		t.Error("it is still followed")
	}
	if m = press(t, m, "F", "F"); m.follow != nil {
		t.Error("F does not end it")
	}
	m = press(t, m, "2", "F", "5")
	if r := m.list.(*listOf[eventRow]).rows[m.places[viewEvents].row]; m.shown.processes[r.Caller.PID].uid != m.follow.uid {
		t.Errorf("uid %d is followed; selected is one of pid %d", m.follow.uid, r.Caller.PID)
	}
}
