package output

import (
	"io"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/row"
)

// Fields writes the reference of the fields of a trace's rows: as a table, or as one JSON
// object.
func Fields(w io.Writer, asJSON bool) error {
	fields := row.Reference()
	if asJSON {
		return format.WriteJSON(w, struct {
			Version int         `json:"v"`
			Fields  []row.Field `json:"fields"`
		}{row.Version, fields})
	}
	table := format.Table(w, 2, nil, "FIELD", "TYPE", "UNIT", "ROWS", "COLUMN", "MEANING")
	for _, f := range fields {
		if err := table.Append(f.Name, string(f.Type), f.Unit, f.Subsystems.String(), f.Header, f.Help); err != nil {
			return err
		}
	}
	return table.Render()
}
