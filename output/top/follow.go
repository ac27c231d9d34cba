package top

import (
	"fmt"

	"github.com/pinwatch/pinwatch/output/format"
)

// followed is a process, a user or a cgroup that stays selected in every view: as itself, by
// what it belongs to, or by what is the first that belongs to it. Of the events it is the
// latest, as they are sorted at first.
type followed struct {
	level  int // the view that it is a row of
	pid    uint32
	uid    uint32
	cgroup string
}

func (f *followed) String() string {
	switch f.level {
	case viewUsers:
		return fmt.Sprintf("uid %d", f.uid)
	case viewCgroups:
		return f.cgroup
	}
	return fmt.Sprintf("pid %d", f.pid)
}

// belongs reports whether a process is, or is of, what is followed.
func (f *followed) belongs(p *process) bool {
	switch f.level {
	case viewUsers:
		return p != nil && p.uid == f.uid
	case viewCgroups:
		return p != nil && groupName(p) == f.cgroup
	}
	return p != nil && p.pid == f.pid
}

// groupName is the name of a process's cgroup in the view of cgroups.
func groupName(p *process) string {
	if name := cgroupText(p.cgroup, p.cgroupID, ""); name != "" {
		return name
	}
	return "(not known)"
}

// toggleFollow follows the selected row, or nothing any more.
func (m *Model) toggleFollow() {
	if m.follow != nil {
		m.follow = nil
		return
	}
	row := m.places[m.view].row
	if m.list.len() == 0 {
		return
	}
	switch l := m.list.(type) {
	case *listOf[processRow]:
		m.follow = m.followProcess(l.rows[row].pid)
	case *listOf[userRow]:
		m.follow = &followed{level: viewUsers, uid: l.rows[row].uid}
	case *listOf[cgroupRow]:
		m.follow = &followed{level: viewCgroups, cgroup: l.rows[row].name}
	case *listOf[eventRow]:
		m.follow = m.followProcess(l.rows[row].Caller.PID)
	}
	m.refresh()
}

func (m *Model) followProcess(pid uint32) *followed {
	p := m.shown.processes[pid]
	if p == nil {
		return nil
	}
	return &followed{level: viewProcesses, pid: pid, uid: p.uid, cgroup: groupName(p)}
}

// selectFollowed selects the first row that has to do with what is followed, if there is any.
func (m *Model) selectFollowed() {
	for row := range m.list.len() {
		if m.follows(row) {
			m.places[m.view].selected = m.list.id(row)
			return
		}
	}
}

func (m *Model) follows(row int) bool {
	f := m.follow
	switch l := m.list.(type) {
	case *listOf[processRow]:
		return f.belongs(l.rows[row].process)
	case *listOf[userRow]:
		return f.level != viewCgroups && l.rows[row].uid == f.uid
	case *listOf[cgroupRow]:
		return f.level != viewUsers && l.rows[row].name == f.cgroup
	case *listOf[eventRow]:
		return f.belongs(m.shown.processes[l.rows[row].Caller.PID])
	}
	return false
}

// followNote tells what is followed.
func (m *Model) followNote() string {
	if m.follow == nil {
		return ""
	}
	return between + m.styles.notice.Render("follows "+format.Printable(m.follow.String()))
}
