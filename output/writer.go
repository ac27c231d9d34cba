package output

import (
	"bytes"
	"fmt"
	"io"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"

	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Writer writes rows. They are out when Flush returns, or when there are many. Close
// ends the output; it does not close what is below.
type Writer interface {
	Write(r *Row) error
	Flush() error
	Close(summary *Row, s ledger.Summary) error
}

// JSON writes one object per line.
type JSON struct {
	*lines
	columns []Column
	before  []string // what stands before a column's value
	// noObject is the end of every row that is not about a BPF object: all columns
	// from firstObject on.
	noObject    string
	firstObject int
	line        []byte
}

// NewJSON returns a writer of JSON lines.
func NewJSON(w io.Writer) *JSON {
	j := &JSON{lines: newLines(w), columns: Columns()}
	j.firstObject = len(j.columns)
	for i, c := range j.columns {
		separator := ","
		if i == 0 {
			separator = "{"
		}
		j.before = append(j.before, separator+`"`+c.Name+`":`)
		if c.object {
			j.firstObject = min(j.firstObject, i)
		}
	}
	j.noObject = string(j.values(nil, &Row{}, j.firstObject, len(j.columns)))
	return j
}

// Write writes a row as one line.
func (j *JSON) Write(r *Row) error {
	line := j.values(j.line[:0], r, 0, j.firstObject)
	if r.Object == nil {
		line = append(line, j.noObject...)
	} else {
		line = j.values(line, r, j.firstObject, len(j.columns))
	}
	j.line = append(line, '}', '\n')
	_, err := j.lines.Write(j.line)
	return err
}

// values appends the values of some columns, each with its name.
func (j *JSON) values(line []byte, r *Row, from, to int) []byte {
	for i := from; i < to; i++ {
		line = append(line, j.before[i]...)
		line = j.columns[i].append(line, r)
	}
	return line
}

// Close writes the summary row.
func (j *JSON) Close(summary *Row, _ ledger.Summary) error {
	if err := j.Write(summary); err != nil {
		return err
	}
	return j.Flush()
}

// Table writes a live table: a header, then every row as it comes.
type Table struct {
	*lines
	columns []Column
	table   *tablewriter.Table
	cells   []string
	line    []byte
	cell    []byte
}

// NewTable returns a writer of a table of at most 120 columns.
func NewTable(w io.Writer) (*Table, error) {
	t := &Table{lines: newLines(w)}
	widths := tw.NewMapper[int, int]()
	var align []tw.Align
	var headers []string
	for _, c := range Columns() {
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
	t.cells = make([]string, len(t.columns))
	t.table = tablewriter.NewTable(t.lines,
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
func (t *Table) Write(r *Row) error {
	if err := t.row(r); err != nil {
		return err
	}
	if r.Note == "" {
		return nil
	}
	_, err := fmt.Fprintf(t.lines, "  └ %s\n", r.Note)
	return err
}

// row writes a row as the library would, a hundred times faster where all cells are
// simple. What is not, the library measures.
func (t *Table) row(r *Row) error {
	t.line = t.line[:0]
	for i := range t.columns {
		c := &t.columns[i]
		t.cell = c.appendCell(t.cell[:0], r)
		if !simple(t.cell) {
			return t.libraryRow(r)
		}
		if c.Left {
			t.line = append(t.line, t.cell...)
		}
		for range c.Width - len(t.cell) {
			t.line = append(t.line, ' ')
		}
		if !c.Left {
			t.line = append(t.line, t.cell...)
		}
		t.line = append(t.line, ' ')
	}
	t.line = append(t.line, '\n')
	_, err := t.lines.Write(t.line)
	return err
}

// simple says whether a cell is as wide as it is long, and nothing of it is trimmed.
func simple(cell []byte) bool {
	for _, b := range cell {
		if b < ' ' || b > '~' {
			return false
		}
	}
	return len(cell) == len(bytes.TrimSpace(cell))
}

func (t *Table) libraryRow(r *Row) error {
	for i := range t.columns {
		t.cells[i] = t.columns[i].Cell(r)
	}
	return t.table.Append(t.cells)
}

// Close ends the table and writes the summary below it.
func (t *Table) Close(summary *Row, s ledger.Summary) error {
	if err := t.table.Close(); err != nil {
		return err
	}
	if _, err := t.lines.Write([]byte("\n" + Summarize(summary, s))); err != nil {
		return err
	}
	return t.Flush()
}
