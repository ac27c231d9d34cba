package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"charm.land/lipgloss/v2"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// maxDetail is how many ledger entries, buffers or processes a page lists.
const maxDetail = 200

// detail is the page of the selected row: all its values, what it holds, its
// ledger entries, and what they mean.
func (m *Model) detail() []string {
	row := -1
	for i := range m.list.len() {
		if m.list.id(i) == m.subject {
			row = i
			break
		}
	}
	if row < 0 {
		return []string{"", "It is not there any more, or the filter hides it."}
	}
	lines := m.fields(row)
	switch l := m.list.(type) {
	case *listOf[processRow]:
		lines = append(lines, m.processDetail(l.rows[row])...)
	case *listOf[userRow]:
		lines = append(lines, m.userDetail(l.rows[row])...)
	case *listOf[cgroupRow]:
		lines = append(lines, m.cgroupDetail(l.rows[row])...)
	case *listOf[objectRow]:
		lines = append(lines, m.chart("CHARGED", &l.rows[row].trend, 0, "", format.Bytes)...)
	case *listOf[eventRow]:
		lines = append(lines, m.eventDetail(l.rows[row].Row)...)
	}
	return lines
}

// fields are all columns of a row, those too that do not fit into the table.
func (m *Model) fields(row int) []string {
	var lines []string
	u := m.units()
	headings := m.list.headings()
	for i, h := range headings {
		if h.name == "NOTE" || h.drawn {
			continue // the page has it in full
		}
		text, share := m.list.text(row, i, u)
		if share >= 0 {
			full, rest, label := meter(share, 24)
			text = m.styles.level(share).Render(full) + m.styles.dim.Render(rest) + label
		}
		line := "  " + pad(h.name, 12, true) + " " + text
		if h.help != "" {
			line = pad(line, 40, true) + "  " + m.styles.dim.Render(h.help)
		}
		lines = append(lines, line)
	}
	return append(lines, "")
}

func (m *Model) processDetail(p *processRow) []string {
	lines := m.chart("PINNED_VM", &p.process.trend, p.limitOrNone(), "LOCK_LIMIT", m.units().pages)
	if p.cgroup != "" {
		lines = append(lines, m.wrapped("  ", "cgroup "+format.Printable(p.cgroup), m.styles.dim)...)
	}
	lines = append(lines, m.standing(p)...)
	if buffers := m.buffersOf(p.pid); len(buffers) > 0 {
		lines = append(append(lines, "", m.section("Buffers")), buffers...)
	}
	return append(lines, m.history(p.notable, func(r *row.Row) bool { return r.Caller.PID == p.pid })...)
}

// standing says in words how a process stands with its limits.
func (m *Model) standing(p *processRow) []string {
	a := m.shown
	size := a.sizeOf(p.process)
	locked, known := a.lockedOf(p.uid, sharesByUser(a)[p.uid])
	about := ""
	if !known {
		about = "at least "
	}
	end := fmt.Sprintf(" of %d", a.limits.Allowance)
	switch {
	case !a.limits.known():
		end = ", and how large it is is not known yet"
	case a.limits.Allowance < 0:
		end = ", and it has no end"
	}
	text := fmt.Sprintf("Its buffers take %s of the allowance of uid %d, which has used %s%d%s. ",
		format.Count(p.share, "page"), p.uid, about, locked, end)
	switch {
	case p.gone:
		text = "It is gone. What it held is given back, unless an entry below says that it leaked."
	case p.fits == ledger.FitsUnknown:
	case p.fits < 0:
		text += fmt.Sprintf("No limit holds for it: %s.", whyUnlimited(p.process, a.limits))
	case !p.limitKnown:
		text += "Its RLIMIT_MEMLOCK is not known yet."
	default:
		text += fmt.Sprintf("Past that, pinned_vm may grow from %d to %s. Before EPERM there is room for this many more buffers of %s: %d.",
			p.pinned, format.Count(p.limit, "page"), format.Count(size, "page"), p.fits)
	}
	if p.over > 0 {
		text += fmt.Sprintf(" %s of pinned_vm should not be there.", format.Count(p.over, "page"))
	}
	return m.wrapped("  ", text, lipgloss.NewStyle())
}

func whyUnlimited(p *process, l limits) string {
	switch {
	case p.capIPCLock:
		return "it has CAP_IPC_LOCK"
	case l.Paranoid <= -1:
		return fmt.Sprintf("perf_event_paranoid is %d", l.Paranoid)
	}
	return "RLIMIT_MEMLOCK is unlimited"
}

// buffersOf lists the buffers of a process: those of the snapshot, else those
// that were charged during the trace.
func (m *Model) buffersOf(pid uint32) []string {
	var lines []string
	if s := m.shown.snapshot; s != nil {
		for i := range s.Buffers {
			if b := &s.Buffers[i]; b.PID == pid {
				payer := "not known"
				if b.PayerKnown {
					payer = fmt.Sprint(b.PayerUID)
				}
				lines = append(lines, fmt.Sprintf("%-4s %s: %d charged to the process, %d to the user; paid by uid %s; mappings: %d",
					b.Area, format.Count(b.Pages, "page"), b.Extra, m.shown.limits.Scheme.UserPart(b.Pages, b.Extra), payer, b.Mappings))
			}
		}
		return alike(lines)
	}
	var keys []bufferKey
	for key, h := range m.shown.buffers {
		if h.pid == pid {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b bufferKey) int { return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.area, b.area)) })
	for _, key := range keys[:min(len(keys), maxDetail)] {
		h := m.shown.buffers[key]
		lines = append(lines, fmt.Sprintf("  %4d %-4s %8d pages: %d charged to the process, %d to uid %d", key.id, key.area, h.pages, h.extra, h.user, h.uid))
	}
	return lines
}

// alike counts equal lines instead of repeating them.
func alike(lines []string) []string {
	var counted []string
	for i := 0; i < len(lines) && len(counted) < maxDetail; {
		n := 1
		for i+n < len(lines) && lines[i+n] == lines[i] {
			n++
		}
		counted = append(counted, fmt.Sprintf("  %4d × %s", n, lines[i]))
		i += n
	}
	return counted
}

func (m *Model) userDetail(u *userRow) []string {
	lines := append(m.chart("LOCKED", &u.trend, u.allowance, "ALLOWANCE", m.units().pages), m.section("Who holds its allowance"))
	var members []*process
	var held int64
	for _, p := range m.shown.processes {
		if p.uid == u.uid && !p.idle() {
			members = append(members, p)
			held += p.share
		}
	}
	lines = append(lines, m.holders(members, max(1, u.allowance))...)
	if rest := u.locked - held; u.known && rest != 0 {
		lines = append(lines, fmt.Sprintf("  %8d pages besides: of others than perf buffers, of buffers that are shared or whose process is gone, or charged wrongly", rest))
	}
	return append(lines, m.history(u.notable, func(r *row.Row) bool { return r.Payer() == u.uid || r.Caller.UID == u.uid })...)
}

// holders lists processes by what they take of an allowance.
func (m *Model) holders(members []*process, allowance int64) []string {
	slices.SortFunc(members, func(a, b *process) int {
		return cmp.Or(cmp.Compare(b.share, a.share), cmp.Compare(b.pinned, a.pinned), cmp.Compare(a.pid, b.pid))
	})
	var lines []string
	for _, p := range members[:min(len(members), maxDetail)] {
		where := cgroupText(p.cgroup, p.cgroupID, m.shown.containers[p.cgroup])
		lines = append(lines, fmt.Sprintf("  %8d pages %5s  pid %-7d %-15s in %s; pinned_vm %d  %s",
			p.share, percent(float64(p.share)/float64(allowance)), p.pid, format.Printable(p.comm), format.Count(p.buffers, "buffer"), p.pinned, where))
	}
	if more := len(members) - maxDetail; more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", more))
	}
	if len(members) == 0 {
		lines = append(lines, "  no process that is known")
	}
	return lines
}

func (m *Model) cgroupDetail(g *cgroupRow) []string {
	lines := append(m.chart("PINNED_VM", &g.trend, 0, "", m.units().pages), m.section("Its processes, and their parts of a user's allowance"))
	lines = append(lines, m.holders(slices.Clone(g.members), max(1, g.allowance))...)
	var notable []*row.Row
	pids := map[uint32]bool{}
	for _, p := range g.members {
		notable = append(notable, p.notable...)
		pids[p.pid] = true
	}
	slices.SortFunc(notable, func(a, b *row.Row) int { return cmp.Compare(a.Number, b.Number) })
	return append(lines, m.history(notable, func(r *row.Row) bool { return pids[r.Caller.PID] })...)
}

// history are ledger entries, the latest first: the notable ones that were kept,
// and all others that are still there.
func (m *Model) history(notable []*row.Row, of func(*row.Row) bool) []string {
	rows := slices.Clone(notable)
	for _, r := range slices.Backward(m.shown.rows) {
		if len(rows) >= maxDetail {
			break
		}
		if of(r) {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b *row.Row) int { return cmp.Compare(b.Number, a.Number) })
	rows = slices.CompactFunc(rows, func(a, b *row.Row) bool { return a.Number == b.Number })
	lines := []string{"", m.section("Ledger entries, the latest first")}
	if len(rows) == 0 {
		return append(lines, "  none since pinwatch started")
	}
	lines = append(lines, "  "+m.styles.heading.Render(rowLine(nil)))
	for _, r := range rows {
		lines = append(lines, m.entry(r)...)
	}
	return lines
}

// entry is a ledger entry, and what there is to say about it.
func (m *Model) entry(r *row.Row) []string {
	style := m.styles.of((&eventRow{r}).tone())
	lines := []string{"  " + style.Render(rowLine(r))}
	if note := output.Explain(r); note != "" {
		lines = append(lines, m.wrapped("      ", note, style)...)
	}
	return lines
}

// rowLine is a row as pinwatch trace writes it; of nil, the header.
func rowLine(r *row.Row) string {
	var cells []string
	for _, c := range row.Columns() {
		width := max(c.Width, c.Least)
		switch {
		case c.Width == 0 || c.Name == "comm":
		case r == nil:
			cells = append(cells, pad(c.Header, width, c.Left))
		default:
			cells = append(cells, pad(c.Cell(r), width, c.Left))
		}
	}
	return strings.TrimRight(strings.Join(cells, " "), " ")
}

func (m *Model) eventDetail(r *row.Row) []string {
	note := output.Explain(r)
	if note == "" {
		note = "The kernel did what the rules say."
	}
	lines := append([]string{m.section("What it means")}, m.wrapped("  ", note, m.styles.of((&eventRow{r}).tone()))...)
	lines = append(lines, "", m.section("All values"))
	for _, c := range row.Columns() {
		if c.Of(r) && c.Name != "v" && c.Name != "note" {
			lines = append(lines, fmt.Sprintf("  %-30s %s", c.Name, format.Printable(c.JSON(r))))
		}
	}
	return lines
}
