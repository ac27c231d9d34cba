package charging

import (
	"fmt"

	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/reason"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// wholeCharge is what a refused call asks for in all, and the condition, in words, on which
// that holds. The kernel compares part after part: those before the refused one are in
// what was held, and given back by now; those after it were not seen.
func wholeCharge(e *ledger.Entry, f *reason.Facts) (c rule.Charge, given string) {
	c = rule.Charge{Asked: *f.Asked, Held: *f.Held, Limit: *f.Limit}
	if e.Failed == nil {
		return c, ""
	}
	last := c.Asked
	if before := e.Failed.Asked - last; e.Failed.LastAsked > 0 && before > 0 {
		c.Held, c.Asked = c.Held-before, e.Failed.Asked
	}
	switch {
	case f.Call == reason.SetupRing && e.Failed.Function == "io_uring_setup":
		rings, entries := rule.Ring{Entries: e.Failed.Count}.Regions(f.Page())
		if rings+entries > c.Asked {
			return rule.Charge{Asked: rings + entries, Held: c.Held, Limit: c.Limit}, fmt.Sprintf("if its %d entries have the usual size", e.Failed.Count)
		}
	case f.Call == reason.SetupRing:
		return c, "or more: what the call asks for after that was not seen"
	case f.Call == reason.RegisterBuffers && e.Failed.LastAsked == 0:
		return c, "on pages of the usual size"
	case f.Call == reason.RegisterBuffers && e.Failed.Count > 1:
		if all := int64(e.Failed.Count) * last; all >= c.Asked {
			c.Asked, given = all, fmt.Sprintf("if all %d buffers are like the refused one", e.Failed.Count)
			if last >= 512 { // the least that a huge page has
				given += ", and share no huge page"
			}
			return c, given
		}
		return c, fmt.Sprintf("or more: there are %d buffers, and those after the refused one were not seen", e.Failed.Count)
	}
	return c, ""
}

// othersOf is the other process that is known to hold some of the counter, and whether
// the call fits without what that has.
func othersOf(e *ledger.Entry, c rule.Charge) (holders []UserHolder, apart bool) {
	h := e.Held
	if chargerOf(e).Counter != rule.UserLockedVM || h == nil || h.PIDPages <= 0 || h.PID == e.Caller.PID {
		return nil, false
	}
	c.Held -= h.PIDPages
	return []UserHolder{{PID: h.PID, What: HolderPerf, Pages: h.PIDPages}}, !c.Refused()
}
