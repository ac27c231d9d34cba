package output

import (
	"encoding/json"
	"io"
	"strings"

	"github.com/olekukonko/tablewriter/tw"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/doctor"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// doctorVersion is the version of the JSON object.
const doctorVersion = 1

// Accounting says how a kernel was seen to account.
func Accounting(s ledger.Summary, err error) doctor.Check {
	c := doctor.Check{Name: "accounting", State: doctor.StateDegraded}
	switch {
	case err != nil:
		c.Detail = "not known: " + err.Error()
	case s.Broken():
		c.Detail = scheme(s.Scheme) + "; " + conclusion(&s)
	default:
		c.State, c.Detail = doctor.StateOK, scheme(s.Scheme)+"; "+conclusion(&s)
	}
	return c
}

// Doctor writes what an examination found, as a table or as one JSON object.
func Doctor(w io.Writer, checks []doctor.Check, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(struct {
			Version int            `json:"v"`
			Checks  []doctor.Check `json:"checks"`
		}{doctorVersion, checks})
	}
	var b strings.Builder
	left := tw.AlignLeft
	table := format.Table(&b, 2, []tw.Align{left, left, left}, "CHECK", "STATE", "DETAIL")
	for _, c := range checks {
		detail := c.Detail
		if c.Remedy != "" {
			detail = strings.TrimPrefix(detail+" — "+c.Remedy, " — ")
		}
		if err := table.Append(c.Name, c.State, detail); err != nil {
			return err
		}
	}
	if err := table.Render(); err != nil {
		return err
	}
	_, err := io.WriteString(w, indent(b.String(), ""))
	return err
}
