package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/top/trend"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// View is the screen: as many lines as the window has, none of them wider. Only
// the rows that are seen are made into text.
func (m Model) View() string {
	if m.width == 0 || m.height == 0 {
		return ""
	}
	var lines []string
	if m.page == pageTable {
		lines = m.tableScreen()
	} else {
		lines = m.pageScreen()
	}
	for i := range lines {
		lines[i] = clip(lines[i], m.width)
	}
	for len(lines) < m.height {
		lines = append(lines, "")
	}
	screen := strings.Join(lines[:m.height], "\n")
	if m.opts.ASCII {
		screen = ascii.Replace(screen)
	}
	return screen
}

// ascii has a character for each that the screen is drawn with. Names are as they are.
var ascii = strings.NewReplacer("▁", "_", "▂", ".", "▃", ":", "▄", "-", "▅", "=", "▆", "+", "▇", "*", "█", "#",
	"░", ".", "·", ".", "…", "~", "✗", "x", "×", "x", "≥", ">", "▲", "^", "▼", "v", "▏", "_", "─", "-", "│", "|", "└", "`", "├", "+", "↑", "^", "↓", "v", "▸", "+", "▾", "-")

// frame is how the lines of a window are shared out.
type frame struct {
	header                 int // lines
	tabs, headings, footer bool
	rows                   int
}

// frame gives a small window rows first, and the rest where there is room.
func (m *Model) frame() frame {
	f := frame{headings: m.height >= 4, tabs: m.height >= 7, footer: m.height >= 10}
	left := m.height
	for _, line := range []bool{f.headings, f.tabs, f.footer} {
		if line {
			left--
		}
	}
	f.header = min(len(m.header()), max(1, left-4))
	f.rows = max(0, left-f.header)
	return f
}

// room is how many rows the window shows.
func (m *Model) room() int { return m.frame().rows }

func (m *Model) tableScreen() []string {
	f := m.frame()
	lines := m.headerLines(f.header)
	if f.tabs {
		lines = append(lines, m.tabs())
	}
	places := m.columns()
	if f.headings {
		lines = append(lines, m.headings(places))
	}
	lines = append(lines, m.rows(places, f.rows)...)
	if f.footer {
		lines = append(lines, m.footer())
	}
	return lines
}

// columns are those of the view that the window has room for.
func (m *Model) columns() []place {
	return arrange(m.list.headings(), m.width, m.places[m.view].sort)
}

// headerLine is a line of the header. Where there is no room for all of them,
// the highest ranks go first.
type headerLine struct {
	text string
	rank int
}

func (m *Model) headerLines(most int) []string {
	header := m.header()
	byRank := slices.Clone(header)
	slices.SortFunc(byRank, func(a, b headerLine) int { return a.rank - b.rank })
	var lines []string
	for _, line := range header {
		if slices.Index(byRank, line) < most {
			lines = append(lines, line.text)
		}
	}
	return lines
}

const between = " · "

func (m *Model) header() []headerLine {
	header := []headerLine{
		{m.titleLine(), 1},
		{m.allowanceLine(), 3},
		{m.trafficLine(), 4},
		{m.verdictLine(), 0},
	}
	if len(m.troubles) > 0 {
		text := "! " + m.troubles[0].String()
		if n := len(m.troubles); n > 1 {
			text = fmt.Sprintf("! (1 of %d, all: ?) %s", n, m.troubles[0])
		}
		header = append(header, headerLine{m.styles.warning.Render(clip(text, m.width)), 2})
	}
	return header
}

// titleLine says what is watched, and how: the kernel, or the recording. In a
// narrow window the name makes room: that it is paused must be seen.
func (m *Model) titleLine() string {
	var parts []string
	if m.opts.Replay {
		parts = append(parts, m.replayState())
	} else {
		if m.opts.Attach != "" {
			parts = append(parts, m.opts.Attach)
		}
		parts = append(parts, "every "+m.opts.Interval.String())
		if m.opts.Paused {
			parts = append(parts, m.pausedState())
		}
	}
	state := strings.Join(parts, between)
	title := m.styles.title.Render("pinwatch top") + "  "
	room := m.width - ansi.StringWidth(title+between+state)
	return title + clip(format.Printable(m.opts.Title), max(8, room)) + between + state
}

// pausedState says how far the screen is behind.
func (m *Model) pausedState() string {
	behind := m.news.counts.Events - m.shown.counts.Events
	return m.styles.notice.Render(fmt.Sprintf(" PAUSED, %s behind%s ", format.Count(behind, "event"), m.hint(" (p: go on)")))
}

// hint is left out where the window is too narrow for it.
func (m *Model) hint(text string) string {
	if m.width < 100 {
		return ""
	}
	return text
}

func (m *Model) replayState() string {
	at := "not begun"
	if rows := m.shown.rows; len(rows) > 0 {
		last := rows[len(rows)-1]
		at = fmt.Sprintf("event %d at %s", last.Number, clock(last.TimeNS))
	}
	switch {
	case m.ended:
		return at + between + m.styles.notice.Render(" END ")
	case m.opts.Paused:
		return at + between + m.styles.notice.Render(" PAUSED"+m.hint(" (n: next, p: go on)")+" ")
	}
	return at + between + "speed ×" + strconv.FormatFloat(m.opts.Speed, 'g', 4, 64)
}

func clock(ns uint64) string { return time.Unix(0, int64(ns)).Format("15:04:05.000") }

func (m *Model) allowanceLine() string {
	l := m.shown.limits
	if !l.known() {
		return m.styles.dim.Render("allowance: not known yet")
	}
	if l.Allowance < 0 {
		return fmt.Sprintf("allowance: no limit (perf_event_mlock_kb is negative)%sparanoid %d", between, l.Paranoid)
	}
	sum := fmt.Sprintf("%s × %s = %d", format.Count(l.Allowance/l.cpus, "page"), format.Count(l.cpus, "CPU"), l.Allowance)
	text := fmt.Sprintf("allowance: perf_event_mlock_kb %d = %s%sparanoid %d", l.mlockKiB(), sum, between, l.Paranoid)
	u := m.shown.fullest()
	if u == nil || m.batch {
		return text
	}
	name := fmt.Sprintf("%suid %d %s ", between, u.uid, atLeast(strconv.FormatInt(u.trend.Now(), 10), u.lockedKnown))
	if ansi.StringWidth(text+name)+leastTrend > m.width {
		text = "allowance: " + sum
	}
	width := min(mostTrend, m.width-ansi.StringWidth(text+name))
	if width < leastTrend {
		return text
	}
	cells := u.trend.Cells(m.shown.clock, width)
	share := float64(u.trend.Now()) / float64(max(1, l.Allowance))
	return text + name + m.styles.level(share).Render(trend.Spark(cells, max(l.Allowance, trend.Peak(cells))))
}

// How many characters the trend of the allowance takes.
const leastTrend, mostTrend = 8, 40

// fullest is the user that uses the most of its allowance, or did; nil: nobody has used any.
func (a *accounts) fullest() *user {
	most := &user{}
	for _, u := range a.users {
		if cmp.Or(cmp.Compare(u.trend.Now(), most.trend.Now()), cmp.Compare(u.trend.Peak(), most.trend.Peak()), cmp.Compare(most.uid, u.uid)) > 0 && u.trend.Peak() > 0 {
			most = u
		}
	}
	if most.trend.Peak() == 0 {
		return nil
	}
	return most
}

// trafficLine says how much comes, and from where, and what pinwatch costs.
func (m *Model) trafficLine() string {
	c := m.shown.counts
	parts := []string{format.Count(c.Events, "event"), strings.Replace(perSecond(m.shown.rate.perSecond), nothing, "0", 1) + "/s"}
	lost := fmt.Sprintf("%d lost", m.shown.lost)
	if m.shown.lost > 0 {
		lost = m.styles.warning.Render(lost)
	}
	parts = append(parts, lost)
	if scheme := m.shown.limits.Scheme; c.Events > 0 || scheme != rule.SchemeUnknown {
		parts = append(parts, "accounting "+cmp.Or(c.Scheme, scheme).String())
	}
	if m.usage.RSS > 0 {
		own := "pinwatch "
		if m.usage.CPU >= 0 {
			own += fmt.Sprintf("%.1f%% CPU ", 100*m.usage.CPU)
		}
		parts = append(parts, own+format.Bytes(m.usage.RSS>>20<<20))
	}
	if s := m.shown.snapshot; s != nil {
		parts = append(parts, "snapshot by "+s.Source)
	}
	return strings.Join(parts, between)
}

// verdictLine counts the verdicts. One that is broken fills the line.
func (m *Model) verdictLine() string {
	c := &m.shown.counts
	var broken, doubtful []string
	for v := ledger.OK + 1; int(v) < ledger.Verdicts; v++ {
		if n := c.Verdicts[v]; n > 0 {
			broken = append(broken, fmt.Sprintf("%s %d", v, n))
		}
		if n := c.Doubtful[v]; n > 0 {
			doubtful = append(doubtful, fmt.Sprintf("%s? %d", v, n))
		}
	}
	rest := []string{fmt.Sprintf("ok %d", c.Verdicts[ledger.OK])}
	if c.Refused > 0 {
		rest = append(rest, m.styles.refused.Render(fmt.Sprintf("refused %d", c.Refused)))
	}
	rest = append(rest, doubtful...)
	if n := c.Uncertain(); n > 0 {
		rest = append(rest, fmt.Sprintf("uncertain %d", n))
	}
	if len(broken) == 0 {
		if c.Events == 0 {
			return m.styles.dim.Render("verdicts: none, nothing was seen yet")
		}
		return m.styles.good.Render("verdicts") + " " + strings.Join(rest, between)
	}
	alarm := " ✗ KERNEL ACCOUNTS WRONG: " + strings.Join(broken, ", ") + between + ansi.Strip(strings.Join(rest, between)) + " "
	return m.styles.alarm.Render(pad(alarm, m.width, true))
}

// tab is the name of a view, as wide as when it is shown.
func (m *Model) tab(view int) string { return fmt.Sprintf(" %d %s ", view+1, m.tables[view].name()) }

// tabs names the views, and what is filtered.
func (m *Model) tabs() string {
	var parts []string
	for v := range m.tables {
		label := m.tab(v)
		if v == m.view {
			label = m.styles.tab.Render("[" + strings.TrimSpace(label) + "]")
		}
		parts = append(parts, label)
	}
	line := strings.Join(parts, "")
	note := fmt.Sprintf(" rows: %d", m.list.len())
	switch {
	case m.asking:
		note = " go to: " + format.Printable(m.target) + "▏ (" + targets + ")"
	case m.typing:
		note = " filter: " + format.Printable(m.opts.Filter) + "▏"
	case m.opts.Filter != "":
		note += m.styles.warning.Render(" with \"" + format.Printable(m.opts.Filter) + "\" (Esc: all)")
	}
	if m.opts.All {
		note += ", idle ones too"
	}
	note += m.followNote()
	if space := m.width - ansi.StringWidth(line); ansi.StringWidth(note) > space && (m.typing || m.asking || m.opts.Filter != "") {
		return clip(note, m.width) // what is typed is seen before anything else
	}
	return line + note
}

func (m *Model) headings(places []place) string {
	headings := m.list.headings()
	p := m.places[m.view]
	cells := make([]string, len(places))
	for i, at := range places {
		h := headings[at.column]
		name := h.name
		if at.column == p.sort {
			arrow := "▲"
			if p.descending {
				arrow = "▼"
			}
			name = clip(name, max(0, at.width-1)) + arrow
		}
		cells[i] = pad(name, at.width, h.left)
	}
	return m.styles.heading.Render(pad(strings.Join(cells, " "), m.width, true))
}

// rows makes the rows that are seen.
func (m *Model) rows(places []place, room int) []string {
	if m.list.len() == 0 {
		return m.blank(room)
	}
	p := m.places[m.view]
	headings := m.list.headings()
	lines := make([]string, 0, room)
	for row := p.offset; row < m.list.len() && len(lines) < room; row++ {
		lines = append(lines, m.row(row, row == p.row, headings, places))
	}
	for len(lines) < room {
		lines = append(lines, "")
	}
	return lines
}

func (m *Model) row(row int, selected bool, headings []heading, places []place) string {
	t := m.list.tone(row)
	style := m.styles.of(t)
	if selected {
		style = style.Reverse(true)
	}
	u := m.units()
	var line, run strings.Builder
	// Cells of one style are rendered together.
	flush := func() {
		line.WriteString(style.Render(run.String()))
		run.Reset()
	}
	for i, at := range places {
		if i > 0 {
			run.WriteByte(' ')
		}
		if s := m.list.trend(row, at.column); s != nil {
			cells := s.Cells(m.shown.clock, at.width)
			run.WriteString(trend.Spark(cells, trend.Peak(cells)))
			continue
		}
		text, share := m.list.text(row, at.column, u)
		if share < 0 {
			run.WriteString(pad(text, at.width, headings[at.column].left))
			continue
		}
		full, rest, label := meter(share, at.width)
		if selected {
			run.WriteString(full + rest + label)
			continue
		}
		flush()
		line.WriteString(m.styles.level(share).Render(full) + m.styles.dim.Render(rest))
		run.WriteString(label)
	}
	run.WriteString(strings.Repeat(" ", max(0, m.width-ansi.StringWidth(line.String()+run.String()))))
	flush()
	return line.String()
}

// units are those that the user has chosen.
func (m *Model) units() units { return units{pageSize: m.shown.limits.pageSize, bytes: m.opts.Bytes} }

// blank says why there are no rows.
func (m *Model) blank(room int) []string {
	lines := make([]string, room)
	if room == 0 {
		return lines
	}
	text := "nothing here yet"
	switch {
	case m.opts.Filter != "":
		text = "nothing matches the filter"
	case m.view == viewProcesses && len(m.shown.processes) > 0:
		text = fmt.Sprintf("none of %s has to do with locked memory (a: show them all)", format.Count(len(m.shown.processes), "process"))
	case m.view == viewObjects && m.opts.Replay:
		text = "a recording has no BPF objects"
	case m.view == viewEvents:
		text = "nothing was mapped or unmapped yet"
	}
	lines[min(1, room-1)] = "  " + m.styles.dim.Render(text)
	return lines
}

// footer names the keys that matter most.
func (m *Model) footer() string {
	keys := []string{"q quit", "? help", "Tab view", "/ filter", "s/S sort", "Enter detail"}
	if m.view == viewCgroups {
		keys = append(keys, "t tree")
	}
	if m.opts.Replay {
		keys = append(keys, "p pause", "n/N step", ": go to", "[ ] speed")
	} else {
		keys = append(keys, "p pause", "+/- interval", "F follow")
	}
	if m.asking {
		keys = []string{"Enter go there", "Esc stay"}
	}
	if m.typing {
		keys = []string{"Enter keep the filter", "Esc drop it", "Backspace, Ctrl-U"}
	}
	if m.notice != "" {
		return m.styles.notice.Render(" " + m.notice + " ")
	}
	return m.keyLine(keys)
}

// keyLine writes keys and what they do, as many as there is room for.
func (m *Model) keyLine(keys []string) string {
	var line string
	for _, k := range keys {
		name, does, _ := strings.Cut(k, " ")
		if name == "[" {
			name, does = "[ ]", strings.TrimPrefix(does, "] ")
		}
		next := line + m.styles.key.Render(name) + " " + m.styles.dim.Render(does) + "  "
		if ansi.StringWidth(next) > m.width {
			break
		}
		line = next
	}
	return line
}

// pageScreen is the help, or a detail page.
func (m *Model) pageScreen() []string {
	room := max(1, m.height-2)
	title := " help "
	if m.page == pageDetail {
		title = " " + m.tables[m.view].name() + ": " + m.subject + " "
	}
	end := min(len(m.lines), m.lineOffset+room)
	if m.lineOffset > 0 || end < len(m.lines) {
		title += fmt.Sprintf("(lines %d to %d of %d) ", m.lineOffset+1, end, len(m.lines))
	}
	lines := []string{m.styles.notice.Render(pad(title, m.width, true))}
	lines = append(lines, m.lines[min(m.lineOffset, end):end]...)
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	keys := []string{"Esc back", "j/k scroll", "q quit", "? help", "p pause"}
	if m.opts.Replay {
		keys = append(keys, "n/N step")
	}
	return append(lines, m.keyLine(keys))
}

// section is a heading on a page.
func (m *Model) section(title string) string { return m.styles.title.Render(title) }

// wrapped is text on a page, in lines as wide as the window.
func (m *Model) wrapped(indent, text string, style lipgloss.Style) []string {
	width := max(8, m.width-ansi.StringWidth(indent)-1)
	var lines []string
	for line := range strings.SplitSeq(ansi.Wrap(text, width, ""), "\n") {
		lines = append(lines, indent+style.Render(line))
	}
	return lines
}
