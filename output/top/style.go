package top

import (
	"math"
	"strings"

	"charm.land/lipgloss/v2"
)

// styles use the terminal's own sixteen colours, so that they follow its theme
// and are the same with 256. Where there are none (NO_COLOR), bold and reverse
// stay, and the words say the same.
type styles struct {
	title, dim, key, tab, heading, notice lipgloss.Style
	broken, refused, warning, alarm, good lipgloss.Style
}

func newStyles() styles {
	plain := lipgloss.NewStyle()
	return styles{
		title:   plain.Bold(true).Foreground(lipgloss.Cyan),
		dim:     plain.Foreground(lipgloss.BrightBlack),
		key:     plain.Bold(true),
		tab:     plain.Bold(true).Foreground(lipgloss.Cyan),
		heading: plain.Reverse(true),
		notice:  plain.Bold(true).Reverse(true),
		broken:  plain.Bold(true).Foreground(lipgloss.Red),
		refused: plain.Foreground(lipgloss.Yellow),
		warning: plain.Foreground(lipgloss.Yellow),
		alarm:   plain.Bold(true).Reverse(true).Foreground(lipgloss.Red),
		good:    plain.Foreground(lipgloss.Green),
	}
}

// of is the style of a row.
func (s *styles) of(t tone) lipgloss.Style {
	switch t {
	case toneBroken:
		return s.broken
	case toneRefused:
		return s.refused
	case toneQuiet:
		return s.dim
	}
	return lipgloss.NewStyle()
}

// level is the style of a bar: green, from 70 % on yellow, from 90 % on red.
func (s *styles) level(share float64) lipgloss.Style {
	switch shown := math.Round(100 * share); {
	case shown >= 90:
		return s.broken
	case shown >= 70:
		return s.warning
	}
	return s.good
}

// meter draws a bar of a width: its full part, its empty part, and the
// percentage behind it.
func meter(share float64, width int) (full, rest, label string) {
	label = percent(share)
	cells := width - max(4, len(label)) - 1
	if cells < 1 {
		return "", "", pad(label, width, false)
	}
	filled := min(cells, max(0, int(share*float64(cells)+0.5)))
	return strings.Repeat("█", filled), strings.Repeat("░", cells-filled), " " + pad(label, max(4, len(label)), false)
}
