package top

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
)

// indexOf looks up a name, whatever its letter case.
func indexOf(name string, names []string, what string) (int, error) {
	i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
	if i < 0 {
		return 0, fmt.Errorf("no %s %q: there are %s", what, name, strings.Join(names, ", "))
	}
	return i, nil
}

// key does what a key means where the user is.
func (m *Model) key(k tea.KeyPressMsg) Action {
	switch key := k.String(); {
	case key == "ctrl+c":
		return Action{Quit: true}
	case key == "ctrl+z":
		return Action{Suspend: true}
	case m.typing:
		m.typeFilter(k)
		return Action{}
	case m.asking:
		return m.typeTarget(k)
	case key == "q":
		return Action{Quit: true}
	case m.page != pageTable && m.pageKey(key):
		return Action{}
	case m.tableKey(key):
		return Action{}
	default:
		return m.flowKey(key)
	}
}

// typeFilter takes a key while a filter is typed: no other key acts.
func (m *Model) typeFilter(k tea.KeyPressMsg) {
	switch key := k.String(); key {
	case "enter":
		m.typing = false
	case "esc":
		m.typing, m.opts.Filter = false, m.before
	case "backspace":
		if m.opts.Filter == "" {
			m.typing = false
		}
		m.opts.Filter = withoutLast(m.opts.Filter)
	case "ctrl+u":
		m.opts.Filter = ""
	default:
		m.opts.Filter += k.Text
	}
	m.refresh()
}

// withoutLast is a text without its last character.
func withoutLast(s string) string {
	_, size := utf8.DecodeLastRuneInString(s)
	return s[:len(s)-size]
}

// pageKey is for the help and detail pages. It says whether the key meant
// something there.
func (m *Model) pageKey(key string) bool {
	room := max(1, m.height-2)
	switch key {
	case "esc", "enter", "backspace":
		m.leave()
	case "?", "h", "f1":
		if m.page == pageHelp {
			m.leave()
			return true
		}
		return false
	case "up", "k":
		m.lineOffset--
	case "down", "j":
		m.lineOffset++
	case "pgup", "ctrl+b":
		m.lineOffset -= room
	case "pgdown", "ctrl+f":
		m.lineOffset += room
	case "home", "g":
		m.lineOffset = 0
	case "end", "G":
		m.lineOffset = len(m.lines)
	default:
		return false
	}
	m.layout()
	return true
}

// leave goes back: from the help to where it was asked for, from a detail page
// to the table.
func (m *Model) leave() {
	if m.page == pageHelp && m.subject != "" {
		m.page = pageDetail
	} else {
		m.page, m.subject = pageTable, ""
	}
	m.lines, m.lineOffset = nil, 0
	m.layout()
}

// tableKey is for the table. It says whether the key meant something there.
func (m *Model) tableKey(key string) bool {
	p, room := &m.places[m.view], max(1, m.room())
	switch key {
	case "up", "k":
		m.move(p.row - 1)
	case "down", "j":
		m.move(p.row + 1)
	case "pgup", "ctrl+b":
		m.move(p.row - room)
	case "pgdown", "ctrl+f":
		m.move(p.row + room)
	case "home", "g":
		m.move(0)
		p.selected = "" // stay at the top, whoever comes there
	case "end", "G":
		m.move(m.list.len() - 1)
	case "tab", "right", "l":
		m.turn(m.view + 1)
	case "shift+tab", "left", "h":
		m.turn(m.view + viewCount - 1)
	case "1", "2", "3", "4", "5":
		m.turn(int(key[0] - '1'))
	case "/":
		m.turn(m.view)
		m.typing, m.before = true, m.opts.Filter
	case "esc":
		m.opts.Filter = ""
		m.refresh()
	case "s":
		m.sortBy((p.sort + 1) % len(m.list.headings()))
	case "S":
		p.descending = !p.descending
		m.refresh()
	case "<":
		m.sortBeside(-1)
	case ">":
		m.sortBeside(1)
	case "F":
		m.toggleFollow()
	case "a":
		m.opts.All = !m.opts.All
		m.refresh()
	case "b":
		m.opts.Bytes = !m.opts.Bytes
		m.layout()
	case "t":
		if m.view != viewCgroups {
			return false
		}
		m.opts.Tree = !m.opts.Tree
		m.refresh()
	case "space":
		return m.fold()
	case "enter":
		if !m.fold() {
			m.enter()
		}
	case "i":
		m.enter()
	case "?", "f1":
		m.page, m.lineOffset = pageHelp, 0
		m.layout()
	default:
		return false
	}
	return true
}

// sortBy sorts by a column, in its usual order.
func (m *Model) sortBy(column int) {
	p := &m.places[m.view]
	p.sort, p.descending = column, !m.list.headings()[column].words
	m.refresh()
}

// sortBeside sorts by the next column to the right (1) or left (-1) on the screen.
func (m *Model) sortBeside(direction int) {
	places := m.columns()
	now := slices.IndexFunc(places, func(at place) bool { return at.column == m.places[m.view].sort })
	if next := now + direction; now >= 0 && next >= 0 && next < len(places) {
		m.sortBy(places[next].column)
	}
}

// flowKey is for how news come.
func (m *Model) flowKey(key string) Action {
	switch key {
	case "p", "space":
		return m.pause(!m.opts.Paused)
	case "+", "=":
		return m.setInterval(1)
	case "-", "_":
		return m.setInterval(-1)
	case "W":
		return Action{Save: m.Settings()}
	case "m":
		m.notice = "the mouse is the terminal's again: it selects text"
		if m.opts.Mouse = !m.opts.Mouse; m.opts.Mouse {
			m.notice = "a click sorts by a column or selects a row; Shift and the mouse select text (m: as before)"
		}
		return Action{}
	}
	if !m.opts.Replay {
		return Action{}
	}
	switch key {
	case "n", ".":
		m.opts.Paused = true
		return Action{Pause: true, Step: true}
	case "N", ",":
		return m.back()
	case ":", "T":
		m.asking, m.target = true, ""
	case "]":
		return m.setSpeed(2)
	case "[":
		return m.setSpeed(0.5)
	}
	return Action{}
}

// pause stops what is shown; a recording itself stops too.
func (m *Model) pause(paused bool) Action {
	m.opts.Paused = paused
	if !paused {
		m.show()
	}
	return Action{Pause: paused, Resume: !paused}
}

// setInterval goes to the next longer (1) or shorter (-1) interval.
func (m *Model) setInterval(direction int) Action {
	steps := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
		time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute}
	next := m.opts.Interval
	for _, s := range steps {
		if direction > 0 && s > m.opts.Interval {
			next = s
			break
		}
		if direction < 0 && s < m.opts.Interval {
			next = s
		}
	}
	m.opts.Interval = next
	return Action{Interval: next}
}

// setSpeed makes a recording faster or slower: from 1/16 to 1024 times.
func (m *Model) setSpeed(factor float64) Action {
	m.opts.Speed = max(1.0/16, min(1024, m.opts.Speed*factor))
	return Action{Speed: m.opts.Speed}
}

// move selects a row, and remembers whose it is.
func (m *Model) move(row int) {
	p := &m.places[m.view]
	if m.list.len() == 0 {
		return
	}
	row = max(0, min(row, m.list.len()-1))
	if row != p.row {
		m.follow = nil
	}
	p.row = row
	p.selected = m.list.id(p.row)
	m.layout()
}

// turn shows another view.
func (m *Model) turn(view int) {
	m.view = view % viewCount
	m.page, m.subject, m.lines = pageTable, "", nil
	m.refresh()
}

// fold folds the selected branch of a tree, or unfolds it. It reports whether one is selected.
func (m *Model) fold() bool {
	p := &m.places[m.view]
	if m.list.len() == 0 || !m.list.branch(p.row) {
		return false
	}
	m.move(p.row)
	folded := maps.Clone(m.folded)
	if folded == nil {
		folded = map[string]bool{}
	}
	folded[p.selected] = !folded[p.selected]
	m.folded = folded
	m.refresh()
	return true
}

// enter opens the detail page of the selected row.
func (m *Model) enter() {
	if m.list.len() == 0 {
		return
	}
	p := &m.places[m.view]
	m.move(p.row)
	m.page, m.subject, m.lineOffset = pageDetail, p.selected, 0
	m.layout()
}
