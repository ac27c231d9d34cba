package top

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"github.com/olekukonko/tablewriter/tw"

	"github.com/pinwatch/pinwatch/output/format"
)

// Batch writes the screen as plain text: the header and the named views in
// full, with all columns and without escapes. Views are of ViewNames.
func (m Model) Batch(w io.Writer, views []string) error {
	m.shown = m.news
	m.width, m.batch = 1<<12, true
	troubles := m.troubles
	m.troubles = nil // the screen has room for one, this for all
	var lines []string
	for _, line := range m.header() {
		lines = append(lines, strings.TrimSpace(ansi.Strip(line.text)))
	}
	for _, t := range troubles {
		lines = append(lines, "! "+t.String())
	}
	if _, err := fmt.Fprintln(w, strings.Join(lines, "\n")); err != nil {
		return err
	}
	for _, name := range views {
		v, err := indexOf(name, ViewNames(), "view")
		if err != nil {
			return err
		}
		m.view = v
		m.refresh()
		if err := m.batchTable(w); err != nil {
			return err
		}
	}
	return nil
}

func (m *Model) batchTable(w io.Writer) error {
	var columns []int
	var align []tw.Align
	var names []string
	for i, h := range m.list.headings() {
		if h.drawn {
			continue
		}
		columns, names, align = append(columns, i), append(names, h.name), append(align, tw.AlignRight)
		if h.left {
			align[len(align)-1] = tw.AlignLeft
		}
	}
	if _, err := fmt.Fprintf(w, "\n%s: %d\n", m.tables[m.view].name(), m.list.len()); err != nil || m.list.len() == 0 {
		return err
	}
	table := format.Table(w, 1, align, names...)
	u := m.units()
	cells := make([]string, len(columns))
	for row := range m.list.len() {
		for i, column := range columns {
			text, _ := m.list.text(row, column, u)
			cells[i] = format.Printable(text)
		}
		if err := table.Append(slices.Clone(cells)); err != nil {
			return err
		}
	}
	return table.Render()
}
