package top

import (
	"strings"

	"charm.land/lipgloss/v2"
)

// Keys teaches the keys: the help page and the command's --help show it.
const Keys = `q, Ctrl-C        quit
?                this help
Tab, 1 to 5      next view, or: processes, users, cgroups, BPF, live events
↑ ↓ j k          select a row; PgUp PgDn Home End (g G) go further
Enter            its page: what it holds, its ledger entries, and what they
                 mean; Esc goes back
/                filter by a part of a name, a pid or a verdict; Enter keeps
                 it, Esc drops it
<, >             sort by the column to the left, to the right
s, S             sort by the next column; turn the order round
m                the mouse, or not: a click sorts by a column or selects a row;
                 Shift then selects text
F                follow the row: it stays selected in every view, and the
                 latest of its events; any way elsewhere ends it
t                cgroups: a tree of them, with sums; Space or Enter folds, i is
                 the page of a row, here too
a                show idle processes and users too, or not
b                amounts in bytes, or in pages
p, Space         pause, and go on
+, -             longer or shorter interval
W                keep the view, its order and these settings for the next time
Ctrl-Z           suspend to the shell
n . and N ,      recording: pause, and go to the next event; to the one before
:, T             recording: go to a time (10:48:36), a time from here (+5s,
                 -5s), a part of its time (50%), or an event (#12)
[, ]             recording: slower, faster`

// help is the help page: the keys, this view's columns, and all troubles.
func (m *Model) help() []string {
	var lines []string
	if len(m.troubles) > 0 {
		lines = append(lines, m.section("What is degraded here"))
		for _, t := range m.troubles {
			lines = append(lines, m.wrapped("  ", t.String(), m.styles.warning)...)
		}
		lines = append(lines, "")
	}
	lines = append(lines, m.section("Keys"))
	for line := range strings.SplitSeq(Keys, "\n") {
		lines = append(lines, "  "+line)
	}
	lines = append(lines, "", m.section("Columns of "+m.tables[m.view].name()+", in pages unless they say otherwise"))
	for _, h := range m.list.headings() {
		if h.help != "" {
			lines = append(lines, m.wrapped("  ", pad(h.name, 13, true)+h.help, lipgloss.NewStyle())...)
		}
	}
	return append(append(lines, "", m.section("What is watched")), m.wrapped("  ",
		"The kernel charges a perf buffer to its user, up to the allowance, and the rest to the process's pinned_vm, up to RLIMIT_MEMLOCK. "+
			"A line with ✗ is something that the kernel accounted wrong; a ? marks what is uncertain.", lipgloss.NewStyle())...)
}
