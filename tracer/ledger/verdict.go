package ledger

// Verdict names the invariant that an entry breaks, if any.
type Verdict uint8

// The verdicts. What each says is in the table below.
const (
	OK Verdict = iota
	Overcharge
	DoubleCharge
	MisdirectedRefund
	Leak
	Underflow
	WrongRefusal
)

// verdicts is the one table of them: every output takes name and sentences from here,
// and the README's table is tested against it.
var verdicts = [...]struct {
	name   string
	rule   string // the rule that the kernel broke
	impact string // whom that hurts
}{
	OK: {"ok", "the kernel accounted as it should", "nobody"},
	Overcharge: {"overcharge",
		"a buffer of n pages charges n, split as intended: to the user what fits its allowance, the rest to the process",
		"the process and all of its user's: buffers that fit are refused earlier"},
	DoubleCharge: {"double-charge",
		"mapping an existing buffer again charges nothing",
		"all processes of the user: its allowance is gone until the last of them ends"},
	MisdirectedRefund: {"misdirected-refund",
		"the refund goes to the user and the process that paid",
		"the process that paid, which keeps the charge; the one that unmapped last has a pinned_vm that is too low, or negative"},
	Leak: {"leak",
		"all that was charged is given back",
		"who was charged: what is gone from the allowance or the limit does not come back"},
	Underflow: {"underflow",
		"nothing is given back that was not charged, and no counter is negative",
		"everybody else: the user or process can lock more than it is allowed, or, if the counter wraps, nothing any more"},
	WrongRefusal: {"wrong-refusal",
		"EPERM exactly when the rule says so, and then nothing is charged",
		"the caller: refused what the limits allow, or allowed what they refuse"},
}

// Verdicts is how many there are, OK included.
const Verdicts = len(verdicts)

func (v Verdict) String() string { return verdicts[v].name }

// Rule is what the kernel should have done.
func (v Verdict) Rule() string { return verdicts[v].rule }

// Impact is whom the broken rule hurts.
func (v Verdict) Impact() string { return verdicts[v].impact }

// ParseVerdict is the inverse of String.
func ParseVerdict(name string) (Verdict, bool) {
	for v := range verdicts {
		if verdicts[v].name == name {
			return Verdict(v), true
		}
	}
	return OK, false
}
