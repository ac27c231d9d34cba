package row

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Complete puts the amounts of a row that was parsed where an event has them: the columns
// have others for some, as the kernel's local variables do.
func (r *Row) Complete() error {
	if r.Buffer.Pages < 0 {
		return errors.New(`field "user_extra_pages": negative`)
	}
	if r.Object != nil {
		r.Object.Pages, r.Buffer.Pages = r.Buffer.Pages, 0
	}
	r.User.Before -= demand(r) - r.User.Before
	return nil
}

// parseInto reads back a value that stands in another field than the one it is written
// from: the ledger gives numbers of its own, and the row's are those it makes them from.
func parseInto[T integers](field func(*Row) *T) func(*Row, []byte) error {
	return func(r *Row, b []byte) error { return json.Unmarshal(b, field(r)) }
}

func parsePayer(r *Row, b []byte) error {
	var uid uint32
	err := json.Unmarshal(b, &uid)
	r.User.Owner = uint64(uid)
	return err
}

// parseSubsystem sets who charged. Rows of version 1 about BPF objects may lack it.
func parseSubsystem(r *Row, b []byte) error {
	var name string
	err := json.Unmarshal(b, &name)
	switch name {
	case BPF.String(), Memcg.String():
		r.Object = &ledger.Object{}
	case Perf.String(), Summary.String(), "":
	default:
		if !chargerName.MatchString(name) {
			return fmt.Errorf("unknown subsystem %q", name)
		}
		r.Charger = ledger.Charger(name)
	}
	return err
}

// chargerName is what a charger may be called, in a recording of a newer pinwatch too.
var chargerName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,15}$`)

// parseKind sets what a kind says about the call behind it. What the ledger
// makes of that is its own affair.
func parseKind(r *Row, b []byte) error {
	var name string
	if err := json.Unmarshal(b, &name); err != nil {
		return err
	}
	switch name {
	case "summary":
		r.Summary = true
		return nil
	case "older": // in version 1
		name = ledger.Preexisting.String()
	}
	k, ok := ledger.ParseKind(name)
	if !ok {
		return fmt.Errorf("unknown kind %q", name)
	}
	r.Kind, r.Op, r.Buffer.Existing = k, k.Op(r.Object != nil), k == ledger.Mapping
	if r.Charger != ledger.NoCharger && k != ledger.Closing {
		r.Op = ledger.Account
	}
	return nil
}

func parseArea(r *Row, b []byte) error {
	var name string
	if err := json.Unmarshal(b, &name); err != nil {
		return err
	}
	area, ok := rule.ParseArea(name)
	if !ok {
		return fmt.Errorf("unknown area %q", name)
	}
	r.Buffer.Area = area
	return nil
}
