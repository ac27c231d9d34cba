package top

import (
	"strings"

	"github.com/pinwatch/pinwatch/output/top/trend"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// chart is the picture of a page: an amount over time, as steps, and the limit that it has now.
// Without one, limit is 0 or rule.Unlimited.
func (m *Model) chart(name string, s *trend.Series, limit int64, limitName string, amount func(int64) string) []string {
	if !s.Seen() {
		return nil
	}
	c := m.shown.clock
	title := name + " from " + clock(c.From()) + " to " + clock(c.Now())
	if limit >= rule.Unlimited {
		limit = 0
	}
	top := trend.Peak(s.Cells(c, max(8, m.width)))
	if limit > 0 && limit <= 4*top {
		top = max(top, limit)
	} else if limit > 0 {
		title += between + limitName + " " + amount(limit) + " is far above"
	}
	if top == 0 {
		return append([]string{m.section(title)}, "  0 all the time", "")
	}
	gutter := 2 + max(len(amount(top)), len(amount(limit)))
	cells := s.Cells(c, max(8, m.width-gutter-3))
	rows, limitRow := trend.Chart(cells, top, limit, max(4, min(8, m.height-20)))
	if limitRow >= 0 {
		title += between + "─ " + limitName
	}
	marks := trend.Marks(cells, '✗')
	if marks != "" {
		title += between + "✗ refused"
	}
	lines := []string{m.section(title)}
	for i, row := range rows {
		label, edge, style := "", "│", m.styles.good
		switch {
		case i == limitRow:
			label, edge = amount(limit), "├"
		case i == 0:
			label, edge = amount(top), "├"
		}
		if i < limitRow {
			style = m.styles.broken // more than it may be
		}
		lines = append(lines, pad(label, gutter, false)+" "+m.styles.dim.Render(edge)+style.Render(row))
	}
	lines = append(lines, pad("0", gutter, false)+" "+m.styles.dim.Render("└"+strings.Repeat("─", len(cells))))
	if marks != "" {
		lines = append(lines, strings.Repeat(" ", gutter+2)+m.styles.refused.Render(marks))
	}
	return append(lines, "")
}
