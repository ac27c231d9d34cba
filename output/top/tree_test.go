package top

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// nested is a machine with cgroups in cgroups.
func nested(t *testing.T) Model {
	s := &snapshot.Snapshot{TimeNS: 5e9, Source: "proc", PageSize: 4096, OnlineCPUs: 4, MlockKiB: 516, Paranoid: 2}
	for i, path := range []string{"/kubepods.slice/pod1/app", "/kubepods.slice/pod1/side", "/kubepods.slice/pod2", "/kubepods.slice", "/init.scope", "/kubepods.slice/pod1/app", ""} {
		s.Processes = append(s.Processes, snapshot.Process{PID: uint32(10 + i), Comm: fmt.Sprint("p", i), CgroupPath: path, PinnedVM: 1 << i, LockLimit: 4096, Buffers: 1})
	}
	m := newModel(t, Options{View: "cgroups", Tree: true}, 80, 24)
	m, _ = m.Update(Snapshot{Snapshot: s, Containers: map[string]string{"/kubepods.slice/pod1/app": "app-1"}})
	m, _ = m.Update(Tick{NowNS: 5e9})
	return m
}

// names are the rows of the view, with their pinned_vm.
func names(m Model) string {
	var lines []string
	for row := range m.list.len() {
		name, _ := m.list.text(row, 0, units{})
		pinned, _ := m.list.text(row, 3, units{})
		lines = append(lines, name+" "+pinned)
	}
	return strings.Join(lines, "\n")
}

func TestTree(t *testing.T) {
	m := nested(t)
	whole := names(m)
	for name, c := range map[string]struct {
		m    Model
		want string
	}{
		"whole": {m, `  (not known) 64
▾ / 63
  ▾ kubepods.slice 47
    ▾ pod1 35
        app 33
        side 2
      pod2 4
    init.scope 16`},
		"smallest first": {press(t, m, "S"), `▾ / 63
    init.scope 16
  ▾ kubepods.slice 47
      pod2 4
    ▾ pod1 35
        side 2
        app 33
  (not known) 64`},
		"folded": {press(t, m, "down", "down", "down", "space"), `  (not known) 64
▾ / 63
  ▾ kubepods.slice 47
    ▸ pod1 35
      pod2 4
    init.scope 16`},
		"a match and what it is in": {press(t, m, "/", "s", "i", "d"), `▾ / 63
  ▾ kubepods.slice 47
    ▾ pod1 35
        side 2`},
		"flat": {press(t, m, "t"), `(not known) 64
/kubepods.slice/pod1/app 33
/init.scope 16
/kubepods.slice 8
/kubepods.slice/pod2 4
/kubepods.slice/pod1/side 2`},
	} {
		if diff := cmp.Diff(c.want, names(c.m)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	folded := press(t, m, "down", "down", "enter")
	if m = press(t, folded, "enter"); names(m) != whole {
		t.Errorf("unfolded:\n%s", names(m))
	}
	if names(folded) == whole {
		t.Error("unfolding changed the model before")
	}
	if m = press(t, m, "i"); m.page != pageDetail || !strings.Contains(plain(m), "p5") {
		t.Errorf("no page of a branch:\n%s", plain(m))
	}
}
