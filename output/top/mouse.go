package top

import (
	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

// wheelRows is how many rows or lines a turn of the wheel goes.
const wheelRows = 3

// Mouse reports whether the terminal is to report the mouse. A terminal that does selects text
// only while Shift is held.
func (m *Model) Mouse() bool { return m.opts.Mouse }

// click does what a click means where it is: on a view's name, on a column's heading, on a row.
func (m *Model) click(msg tea.MouseClickMsg) {
	if msg.Button != tea.MouseLeft || m.page != pageTable || m.typing {
		return
	}
	f, y := m.frame(), msg.Y
	y -= f.header
	if f.tabs {
		if y == 0 {
			m.clickTab(msg.X)
		}
		y--
	}
	if f.headings {
		if y == 0 {
			m.clickHeading(msg.X)
		}
		y--
	}
	if row := m.places[m.view].offset + y; y >= 0 && y < f.rows && row < m.list.len() {
		m.move(row)
	}
}

func (m *Model) clickTab(x int) {
	for v := range m.tables {
		width := ansi.StringWidth(m.tab(v))
		if x < width {
			m.turn(v)
			return
		}
		x -= width
	}
}

// clickHeading sorts by a column; if it does so already, it turns the order round.
func (m *Model) clickHeading(x int) {
	for _, at := range m.columns() {
		if x > at.width {
			x -= at.width + 1
			continue
		}
		if p := &m.places[m.view]; p.sort == at.column {
			p.descending = !p.descending
			m.refresh()
		} else {
			m.sortBy(at.column)
		}
		return
	}
}

// wheel moves the selection, or the lines of a page.
func (m *Model) wheel(msg tea.MouseWheelMsg) {
	step := wheelRows
	switch msg.Button {
	case tea.MouseWheelUp:
		step = -wheelRows
	case tea.MouseWheelDown:
	default:
		return
	}
	if m.page == pageTable {
		m.move(m.places[m.view].row + step)
		return
	}
	m.lineOffset += step
	m.layout()
}
