package row

// Field is what the reference tells of a column.
type Field struct {
	Name       string    `json:"name"`
	Type       Type      `json:"type"`
	Unit       string    `json:"unit"`       // "": it has none
	Subsystems Subsystem `json:"subsystems"` // whose rows have it
	Header     string    `json:"header"`     // of the table and of top's events; "": it is in neither
	Help       string    `json:"help"`
}

// Reference describes all columns, in their order.
func Reference() []Field {
	var fields []Field
	for _, c := range Columns() {
		fields = append(fields, Field{c.Name, c.Type, c.Unit, c.Subsystems, c.Header, c.Help})
	}
	return fields
}
