package output

import (
	"io"
	"strings"

	"github.com/olekukonko/tablewriter/tw"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/doctor"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// doctorVersion is the version of the JSON object.
const doctorVersion = 1

// Accounting says how a kernel was seen to account.
func Accounting(f accounting.Finding) doctor.Check {
	c := doctor.Check{Name: "accounting", State: doctor.StateOK}
	if !f.Seen() {
		c.State, c.Detail = doctor.StateDegraded, f.Basis()
		return c
	}
	c.Detail = scheme(f.Scheme) + "; " + f.Basis()
	if f.Scheme.Bug() != "" {
		c.State = doctor.StateDegraded
		c.Detail += "; this kernel accounts locked memory wrong: " + f.Scheme.Bug()
		c.Remedy = "a kernel that has it fixed, which it is " + f.Scheme.Fixed()
	}
	if f.Remaps {
		c.State = doctor.StateDegraded
		c.Detail += "; this kernel accounts locked memory wrong: a further mapping of a buffer charges its user again"
	}
	if doubt := f.Doubt(); doubt != "" {
		c.Detail += "; " + doubt
	}
	if f.Separate {
		c.Detail += "; perf's counter is apart from locked_vm"
	}
	return c
}

// Traced says what a trace of the same makes of it.
func Traced(f accounting.Finding, s ledger.Summary, err error) doctor.Check {
	c := doctor.Check{Name: "accounting, traced", State: doctor.StateDegraded}
	if err != nil {
		c.Detail = "not known: " + err.Error()
		return c
	}
	c.Detail = scheme(s.Scheme) + "; " + conclusion(&s)
	switch {
	case s.Scheme != rule.SchemeUnknown && f.Seen() && f.Scheme.Seen(s.Scheme) != f.Scheme:
		c.Detail += "; this contradicts the experiment, and one of them is wrong"
	case !s.Broken():
		c.State = doctor.StateOK
	}
	return c
}

// Doctor writes what an examination found, as a table or as one JSON object.
func Doctor(w io.Writer, checks []doctor.Check, asJSON bool) error {
	if asJSON {
		return format.WriteJSON(w, struct {
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
