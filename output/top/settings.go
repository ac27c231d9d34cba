package top

import (
	"fmt"
	"strings"
)

// SettingNames are the flags that Settings are of.
func SettingNames() []string {
	return []string{"view", "sort", "interval", "all", "in-bytes", "tree", "mouse"}
}

// Settings are how the user has set the view: flags of the command and their values, one a line.
func (m *Model) Settings() string {
	values := []any{m.tables[m.view].name(), m.list.headings()[m.places[m.view].sort].name, m.opts.Interval, m.opts.All, m.opts.Bytes, m.opts.Tree, m.opts.Mouse}
	var text strings.Builder
	for i, name := range SettingNames() {
		fmt.Fprintf(&text, "%s = %v\n", name, values[i])
	}
	return text.String()
}
