package row

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
)

// Type is a column's type in JSON. It never changes from row to row.
type Type string

// The types.
const (
	Integer Type = "integer"
	String  Type = "string"
	Boolean Type = "boolean"
)

// Column is one value of a row: what it means, how it is written, and how it is read
// back.
type Column struct {
	Name       string // the JSON field
	Type       Type
	Unit       string // of a number: pages, bytes, ns or calls; "": it has none
	Help       string
	Subsystems Subsystem // whose rows have it

	// Header and Width are of the table; Width 0 keeps it out of there.
	Header string
	Width  int
	Left   bool // aligned left

	// Rank and Least are of top's events: where there is little room, the highest ranks
	// go first. Least is how wide the column is at least; 0 keeps it out of there.
	Rank, Least int
	// Word reports whether top's filter looks at it.
	Word bool

	// Former is the JSON field of version 1; "": the same.
	Former string

	append func(dst []byte, r *Row) []byte
	parse  func(r *Row, text []byte) error // nil for what is derived
	cell   func(r *Row) string             // nil: as in JSON
}

// Of reports whether a row has the column.
func (c *Column) Of(r *Row) bool { return c.Subsystems&r.Subsystem() != 0 }

// AppendJSON appends the column's value as JSON has it.
func (c *Column) AppendJSON(dst []byte, r *Row) []byte { return c.append(dst, r) }

// JSON is the column's value as JSON has it.
func (c *Column) JSON(r *Row) string { return string(c.append(nil, r)) }

// AppendCell appends the column's text in a table, as long as it is.
func (c *Column) AppendCell(dst []byte, r *Row) []byte {
	if c.cell != nil {
		return append(dst, c.cell(r)...)
	}
	return c.append(dst, r)
}

// Cell is the column's text in a table, as long as it is.
func (c *Column) Cell(r *Row) string { return string(c.AppendCell(nil, r)) }

// Parse sets a row's value from one of JSON. A derived value is left alone. The columns
// are parsed in their order.
func (c *Column) Parse(r *Row, text []byte) error {
	if c.parse == nil {
		return nil
	}
	return c.parse(r, text)
}

type integers interface {
	~int | ~int32 | ~int64 | ~uint8 | ~uint32 | ~uint64
}

// column is what all of them have in common. A name ends with its unit.
func column(name string, of Subsystem, help string, t Type) Column {
	unit := ""
	for _, u := range []string{"pages", "bytes", "ns", "calls"} {
		if name == u || strings.HasSuffix(name, "_"+u) {
			unit = u
		}
	}
	return Column{Name: name, Type: t, Unit: unit, Help: help, Subsystems: of}
}

// integer is a column of one of the row's fields.
// The field of a part that a row may not have is nil where it has none: it is written as
// 0, and what is read of it is dropped.
func integer[T integers](name string, of Subsystem, help string, field func(*Row) *T) Column {
	c := column(name, of, help, Integer)
	c.append = func(dst []byte, r *Row) []byte {
		p := field(r)
		if p == nil {
			return append(dst, '0')
		}
		value := *p
		switch {
		case value < 0:
			return strconv.AppendInt(dst, int64(value), 10)
		case value < 10: // most are
			return append(dst, '0'+byte(value))
		}
		return strconv.AppendUint(dst, uint64(value), 10)
	}
	c.parse = func(r *Row, text []byte) error { return parseField(text, field(r)) }
	return c
}

func parseField[T any](text []byte, field *T) error {
	if field == nil {
		field = new(T)
	}
	return json.Unmarshal(text, field)
}

// derived is a column of a number that is made of the row's fields.
func derived(name string, of Subsystem, help string, value func(*Row) int64) Column {
	c := column(name, of, help, Integer)
	c.append = func(dst []byte, r *Row) []byte { return strconv.AppendInt(dst, value(r), 10) }
	return c
}

func boolean(name string, of Subsystem, help string, field func(*Row) *bool) Column {
	c := column(name, of, help, Boolean)
	c.append = func(dst []byte, r *Row) []byte {
		p := field(r)
		return strconv.AppendBool(dst, p != nil && *p)
	}
	c.parse = func(r *Row, text []byte) error { return parseField(text, field(r)) }
	return c
}

// text is a column of a text that is made of the row's fields.
func text(name string, of Subsystem, help string, value func(*Row) string) Column {
	c := column(name, of, help, String)
	c.append = func(dst []byte, r *Row) []byte { return appendString(dst, value(r)) }
	c.cell = value
	return c
}

// textField is a column of one of the row's fields.
func textField(name string, of Subsystem, help string, field func(*Row) *string) Column {
	value := func(r *Row) string {
		if p := field(r); p != nil {
			return *p
		}
		return ""
	}
	return text(name, of, help, value).parsed(func(r *Row, b []byte) error { return parseField(b, field(r)) })
}

// cached is for long texts that are the same in row after row: the last one is kept as
// JSON has it.
func (c Column) cached() Column {
	var last string
	var quoted []byte
	value := c.cell
	c.append = func(dst []byte, r *Row) []byte {
		if s := value(r); quoted == nil || s != last {
			last, quoted = s, appendString(quoted[:0], s)
		}
		return append(dst, quoted...)
	}
	return c
}

// header puts the column into the table.
func (c Column) header(header string, width int) Column {
	c.Header, c.Width = header, width
	return c
}

// top puts the column into top's events.
func (c Column) top(rank, least int) Column {
	c.Rank, c.Least = rank, least
	return c
}

func (c Column) left() Column {
	c.Left = true
	return c
}

// word has top's filter look at the column.
func (c Column) word() Column {
	c.Word = true
	return c
}

// shown sets the table's own form.
func (c Column) shown(cell func(*Row) string) Column {
	c.cell = cell
	return c
}

// parsed sets how the column is read back.
func (c Column) parsed(parse func(*Row, []byte) error) Column {
	c.parse = parse
	return c
}

// computed leaves the column alone when a row is read back: the ledger finds it again.
func (c Column) computed() Column {
	c.parse = nil
	return c
}

// former sets the name of version 1.
func (c Column) former(name string) Column {
	c.Former = name
	return c
}

// plain are the bytes that a JSON string holds as they are.
var plain = func() (table [256]bool) {
	for c := ' '; c <= '~'; c++ {
		table[c] = c != '"' && c != '\\'
	}
	return table
}()

// appendString appends a JSON string.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if !plain[s[i]] {
			quoted, _ := json.Marshal(s) // a string cannot fail
			return append(dst, format.EscapeJSON(quoted)...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
