package output

import (
	"fmt"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Explain says in words what a row's numbers mean, or nothing where they need
// no words.
func Explain(r *row.Row) string { return format.Printable(explain(r)) }

func explain(r *row.Row) string {
	switch {
	case r.Object != nil:
		return explainObject(r)
	case r.Charger != ledger.NoCharger:
		return explainAccount(r)
	}
	var parts []string
	if r.Kind == ledger.Refusal {
		parts = append(parts, explainRefusal(r))
	}
	if r.Verdict != ledger.OK {
		parts = append(parts, explainVerdict(r))
	}
	return strings.Join(parts, " ")
}

func explainVerdict(r *row.Row) string {
	var s string
	switch r.Verdict {
	case ledger.Overcharge:
		s = fmt.Sprintf("overcharge: the right extra is %d, charged were %d to the process, and %d to the user instead of %d: %s too many for a mapping of %d. Process %d so far: %s; %s.",
			r.ExpectedPinned, r.ChargedPinned, r.ChargedUser, r.ExpectedUser, format.Pages(r.Excess, r.PageSize), r.Buffer.Pages,
			r.Caller.PID, format.Pages(r.ProcessOvercharge, r.PageSize), fits(r))
	case ledger.DoubleCharge:
		s = fmt.Sprintf("double-charge: a further mapping of buffer %d charged %d to the user and %d to the process; right is nothing.",
			r.BufferID, r.ChargedUser, r.ChargedPinned)
		if r.Kind == ledger.Refund {
			s = fmt.Sprintf("double-charge: buffer %d is gone, and %s that its further mappings charged did not come back.",
				r.BufferID, format.Pages(r.Excess, r.PageSize))
		} else if r.Uncertain && !r.User.Shared && !r.Process.Shared {
			return s + " It may come back when the buffer is unmapped: that is not known yet of this kernel."
		}
	case ledger.MisdirectedRefund:
		s = fmt.Sprintf("misdirected-refund: %s that pid %d of uid %d paid for were given back to pid %d and uid %d: pinned_vm of pid %d is %d now, and that of the payer stays too high.",
			format.Pages(r.Excess, r.PageSize), r.PaidPID, r.PaidUID, r.Caller.PID, r.Payer(), r.Caller.PID, r.Process.After)
	case ledger.Leak:
		s = fmt.Sprintf("leak: charged %d to the user and %d to the process, given back %d and %d: %s stay charged.",
			-r.ExpectedUser, -r.ExpectedPinned, -r.ChargedUser, -r.ChargedPinned, format.Pages(r.Excess, r.PageSize))
	case ledger.Underflow:
		s = fmt.Sprintf("underflow: charged %d to the user and %d to the process, given back %d and %d: the counters are at %d and %d, %s too low.",
			-r.ExpectedUser, -r.ExpectedPinned, -r.ChargedUser, -r.ChargedPinned, r.User.After, r.Process.After, format.Pages(r.Excess, r.PageSize))
	case ledger.WrongRefusal:
		s = explainWrongRefusal(r)
	default:
		s = ruleOf(r)
	}
	if r.Uncertain {
		s += " Uncertain: another call moved the same counters meanwhile."
	}
	return s
}

// ruleOf is the sentence of a verdict that has no better one here.
func ruleOf(r *row.Row) string { return fmt.Sprintf("%s: right is: %s.", r.Verdict, r.Verdict.Rule()) }

func explainWrongRefusal(r *row.Row) string {
	switch {
	case r.ChargedUser != 0 || r.ChargedPinned != 0:
		return fmt.Sprintf("wrong-refusal: the refused call left %s charged to the user and %d to the process; right is nothing.",
			format.Count(r.ChargedUser, "page"), r.ChargedPinned)
	case r.Caller.CapIPCLock:
		return "wrong-refusal: the caller has CAP_IPC_LOCK and may exceed the limit."
	case r.Buffer.Limits.Paranoid <= -1:
		return fmt.Sprintf("wrong-refusal: perf_event_paranoid is %d, which lifts the limit.", r.Buffer.Limits.Paranoid)
	}
	if r.Excess == 0 && r.PinnedOver == 0 {
		why := "The cause is not known."
		if r.Scheme == rule.SchemeUnknown {
			why = "What this kernel asked for is not known: no charge past the allowance was seen yet."
		}
		return fmt.Sprintf("wrong-refusal: by the intended rule the call fits: pinned_vm %d and extra %d are within RLIMIT_MEMLOCK %d. %s",
			r.Process.Before, r.Buffer.Extra, r.Caller.LockLimit, why)
	}
	return fmt.Sprintf("wrong-refusal: the right extra is %d (this kernel asks for %d too many), and %d of pinned_vm are earlier overcharges: without them the call fits.%s",
		r.Buffer.Extra-r.Excess, r.Excess, r.PinnedOver, kernelsBug(r.Scheme))
}

func fits(r *row.Row) string {
	switch {
	case r.Fits == ledger.FitsUnknown:
		return "how many more fit depends on whether this kernel charges the user's history, too, which was not seen yet"
	case r.Fits < 0:
		return "no limit holds for this caller"
	case r.Fits == 1:
		return "1 more such call fits before EPERM"
	}
	return fmt.Sprintf("%d more such calls fit before EPERM", r.Fits)
}

// explainRefusal says which limit refused, by how much, and what helps.
func explainRefusal(r *row.Row) string {
	if r.Errno != rule.EPERM || r.Op == ledger.Split {
		return charging.OfRefusal(&r.Entry).Text()
	}
	over := r.Locked() - r.Caller.LockLimit
	if over <= 0 {
		return "EPERM:"
	}
	x := advice.OfEntry(&r.Entry, accounting.Finding{})
	s := fmt.Sprintf("EPERM: pinned_vm %d + extra %d = %s > RLIMIT_MEMLOCK %s: %s over; uid %d uses %d of its allowance of %d pages.",
		r.Process.Before, r.Buffer.Extra, format.Pages(r.Locked(), r.PageSize), format.Pages(r.Caller.LockLimit, r.PageSize), format.Pages(over, r.PageSize),
		r.Caller.UID, min(r.User.Before, r.Buffer.Limits.Allowance), r.Buffer.Limits.Allowance)
	for _, sentence := range charging.MappingNotes(&r.Entry) {
		s += " " + sentence + "."
	}
	if x.KernelFault && r.Verdict != ledger.WrongRefusal { // which says so
		s += fmt.Sprintf(" By the intended rule extra is %d and it fits.%s", x.Intended.Extra, kernelsBug(r.Scheme))
	}
	switch x.Verdict.Limit {
	case advice.LimitAUX:
		return s + " To lift the limit does not help: the event's PMU has no AUX areas."
	case advice.LimitLargest:
		s += " Nor does any kernel with pages of this size take a buffer of so many."
	}
	if x.Verdict.Limit != advice.LimitLargest {
		s += beyondMachine(x)
	}
	if len(x.Brief()) == 0 {
		return s
	}
	return s + " Remedies" + remediesFor(x) + ": " + strings.Join(x.Brief(), ", or ") + "."
}

// remediesFor says how many buffers the remedies are for, where that is not one.
func remediesFor(x *advice.Explanation) string {
	cpus := int64(x.Numbers.OnlineCPUs)
	switch {
	case x.Wanted <= 1 || x.Wanted == x.Buffers:
		return ""
	case x.Wanted == cpus:
		return fmt.Sprintf(", for such a buffer on each of %s", format.Count(cpus, "CPU"))
	}
	return fmt.Sprintf(", for such a buffer on each of the %s that have none yet", format.Count(x.Wanted, "CPU"))
}

// kernelsBug says of a scheme that has one where it is fixed.
func kernelsBug(s rule.Scheme) string {
	if s.Bug() == "" {
		return ""
	}
	return fmt.Sprintf(" This kernel's bug, fixed %s.", s.Fixed())
}
