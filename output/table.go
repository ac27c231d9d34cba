package output

import (
	"bytes"
	"fmt"
	"io"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/pkg/twwidth"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/lines"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Table writes a live table: a header, then every row as it comes.
type Table struct {
	*lines.Writer
	columns []row.Column
	table   *tablewriter.Table
	line    []byte
	cell    []byte
}

// NewTable returns a writer of a table of at most 120 columns. Its header and frame are
// the library's.
func NewTable(w io.Writer) (*Table, error) {
	t := &Table{Writer: lines.New(w)}
	widths := tw.NewMapper[int, int]()
	var align []tw.Align
	var headers []string
	for _, c := range row.Columns() {
		if c.Width == 0 {
			continue
		}
		side := tw.AlignRight
		if c.Left {
			side = tw.AlignLeft
		}
		widths.Set(len(t.columns), c.Width+1) // and the padding
		t.columns = append(t.columns, c)
		align = append(align, side)
		headers = append(headers, c.Header)
	}
	t.table = tablewriter.NewTable(t.Writer,
		tablewriter.WithStreaming(tw.StreamConfig{Enable: true}),
		tablewriter.WithColumnWidths(widths),
		tablewriter.WithRenderer(renderer.NewBlueprint(tw.Rendition{
			Borders:  tw.BorderNone,
			Settings: tw.Settings{Separators: tw.SeparatorsNone, Lines: tw.LinesNone},
		})),
		tablewriter.WithPadding(tw.Padding{Right: " ", Overwrite: true}),
		tablewriter.WithHeaderAutoFormat(tw.Off),
		tablewriter.WithHeaderAutoWrap(tw.WrapNone),
		tablewriter.WithRowAutoWrap(tw.WrapNone),
		tablewriter.WithHeaderAlignmentConfig(tw.CellAlignment{PerColumn: align}),
		tablewriter.WithRowAlignmentConfig(tw.CellAlignment{PerColumn: align}),
	)
	if err := t.table.Start(); err != nil {
		return nil, fmt.Errorf("start the table: %w", err)
	}
	t.table.Header(headers)
	return t, t.Flush()
}

// Write writes a row, and below it what there is to say about it.
func (t *Table) Write(r *row.Row) error {
	if err := t.row(r); err != nil {
		return err
	}
	if r.Note == "" {
		return nil
	}
	_, err := fmt.Fprintf(t.Writer, "  └ %s\n", r.Note)
	return err
}

// row writes a row as the library would, a hundred times faster. A number that is too
// wide for its column stands there in full: the row is shifted, and later columns that
// have room take that back. Only where there is not enough room up to the end of the line
// do numbers get fewer digits.
func (t *Table) row(r *row.Row) error {
	if late := t.lay(r, false); late > 0 {
		t.lay(r, true)
	}
	t.line = append(t.line, '\n')
	_, err := t.Writer.Write(t.line)
	return err
}

// lay makes the line of a row, and returns by how much it is too long.
func (t *Table) lay(r *row.Row, fit bool) (late int) {
	t.line = t.line[:0]
	for i := range t.columns {
		c := &t.columns[i]
		t.cell = c.AppendCell(t.cell[:0], r)
		width := t.measure(c, fit || c.Left)
		padding := max(0, c.Width-width-late)
		late = max(0, late+width-c.Width)
		if c.Left {
			t.line = append(t.line, t.cell...)
		}
		for range padding {
			t.line = append(t.line, ' ')
		}
		if !c.Left {
			t.line = append(t.line, t.cell...)
		}
		t.line = append(t.line, ' ')
	}
	return late
}

// measure returns how wide the cell is on the screen. It is as long as that, unless it
// is trimmed or something in it is not plain.
func (t *Table) measure(c *row.Column, fit bool) int {
	if fit && len(t.cell) > c.Width {
		t.cell = append(t.cell[:0], format.Fit(string(t.cell), c.Width)...)
	}
	for _, b := range t.cell {
		if b <= ' ' || b > '~' {
			t.cell = bytes.TrimSpace(t.cell)
			return twwidth.Width(string(t.cell))
		}
	}
	return len(t.cell)
}

// Close ends the table and writes the summary below it.
func (t *Table) Close(summary *row.Row, s ledger.Summary) error {
	if err := t.table.Close(); err != nil {
		return err
	}
	if _, err := t.Writer.Write([]byte("\n" + Summarize(summary, s))); err != nil {
		return err
	}
	return t.Flush()
}
