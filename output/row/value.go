package row

import (
	"strconv"
	"time"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

func kind(r *Row) string {
	if r.Summary {
		return "summary"
	}
	return r.Kind.String()
}

// pages of the call's mapping, or, when unmapping, of the buffer's area.
func pages(r *Row) int64 {
	if r.Object != nil {
		return objectPages(r)
	}
	if r.Charger != ledger.NoCharger {
		return r.ChargedUser
	}
	if r.Op == ledger.Map || r.Op == ledger.Split {
		return r.Buffer.Pages
	}
	if r.Buffer.Area == rule.AUX {
		return r.Buffer.Recorded[rule.AUX].Pages
	}
	return r.Buffer.Recorded[rule.Data].Pages
}

func pagesOrUnknown(r *Row) string {
	if r.Unknown() {
		return "?"
	}
	return strconv.FormatInt(pages(r), 10)
}

// demand is the user's counter, with what a new mapping or object asks for.
func demand(r *Row) int64 {
	if r.Op == ledger.Map || r.Op == ledger.Create {
		return r.Demand()
	}
	return r.User.Before
}

// locked is pinned_vm, with what a new mapping asks for.
func locked(r *Row) int64 {
	if r.Op == ledger.Map {
		return r.Locked()
	}
	return r.Process.Before
}

func certainty(r *Row) string {
	if r.Uncertain {
		return "uncertain"
	}
	return "exact"
}

// The table's own forms.

// none stands where a value has no meaning.
const none = "-"

func clock(r *Row) string {
	return time.Unix(0, int64(r.TimeNS)).Format("15:04:05.000")
}

func comm(r *Row) string { return format.Printable(r.Caller.Comm) }

func userLocked(r *Row) string {
	if r.Object != nil && !r.Object.Rlimit {
		return none
	}
	return strconv.FormatInt(demand(r), 10)
}

func pinnedVM(r *Row) string {
	if r.Object != nil {
		return none
	}
	return strconv.FormatInt(r.Process.Before, 10)
}

func extra(r *Row) string {
	if r.Object != nil {
		return none
	}
	if r.Kind == ledger.Refund || r.Charger != ledger.NoCharger {
		return strconv.FormatInt(r.ChargedPinned, 10)
	}
	if r.Kind == ledger.Unmapping || r.Kind == ledger.Mapping {
		return "0"
	}
	return strconv.FormatInt(r.Buffer.Extra, 10)
}

func lockLimit(r *Row) string {
	if r.Object != nil && !r.Object.Rlimit {
		return none
	}
	if r.Caller.LockLimit >= rule.Unlimited {
		return "unlimited"
	}
	return strconv.FormatInt(r.Caller.LockLimit, 10)
}

func verdict(r *Row) string {
	s := r.Verdict.String()
	if r.Kind == ledger.Refusal && r.Verdict == ledger.OK {
		s = format.Errno(r.Errno)
	}
	if r.Uncertain {
		s += "?"
	}
	return s
}
