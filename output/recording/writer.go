package recording

import (
	"io"

	"github.com/pinwatch/pinwatch/output/lines"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Writer writes one JSON object per line.
type Writer struct {
	*lines.Writer
	fields [row.Summary + 1][]field // by subsystem
	line   []byte
}

// field is a column, and what stands before its value.
type field struct {
	row.Column
	before string
}

// NewWriter returns a writer of JSON lines.
func NewWriter(w io.Writer) *Writer {
	j := &Writer{Writer: lines.New(w)}
	for _, c := range row.Columns() {
		for s := row.Perf; s <= row.Summary; s <<= 1 {
			if c.Subsystems&s == 0 {
				continue
			}
			separator := ","
			if len(j.fields[s]) == 0 {
				separator = "{"
			}
			j.fields[s] = append(j.fields[s], field{c, separator + `"` + c.Name + `":`})
		}
	}
	return j
}

// Write writes a row as one line.
func (j *Writer) Write(r *row.Row) error {
	line := j.line[:0]
	fields := j.fields[r.Subsystem()]
	for i := range fields {
		line = append(line, fields[i].before...)
		line = fields[i].AppendJSON(line, r)
	}
	j.line = append(line, '}', '\n')
	_, err := j.Writer.Write(j.line)
	return err
}

// Close writes the summary row.
func (j *Writer) Close(summary *row.Row, _ ledger.Summary) error {
	if err := j.Write(summary); err != nil {
		return err
	}
	return j.Flush()
}
