package ledger

// scheme is how a kernel was seen to split charges past the allowance. It comes
// from what the kernel does, never from its version.
type scheme uint8

const (
	schemeUnknown    scheme = iota // nothing was charged past the allowance yet
	schemeSplit                    // to the user what fits, the rest to the process (5.3.9+, without 5.5.0 to 5.5.2)
	schemeCumulative               // all to the user, and its whole history to the process (up to 5.3)
	schemeTwice                    // all to the user, and what does not fit to the process as well (4.19.103+)
	schemeUnclamped                // like split, but with the user's history if the sysctl was lowered (5.5.0 to 5.5.2)
	schemeOther                    // none of these
)

var schemeNames = [...]string{"unknown", "split", "cumulative", "twice", "unclamped", "other"}

func (s scheme) String() string { return schemeNames[s] }

// observe infers the scheme from a charge whose two parts are certain.
func (l *Ledger) observe(e *Entry) {
	if e.Demand() <= e.Buffer.Limits.Allowance {
		return // every kernel charges this alike
	}
	n, history := e.Buffer.Pages, e.Demand()-e.Buffer.Limits.Allowance
	var seen scheme
	switch user, pinned := e.ChargedUser, e.ChargedPinned; {
	case user == n-pinned && pinned == e.ExpectedPinned:
		seen = schemeSplit
	case user == n && pinned == history && history > n:
		seen = schemeCumulative
	case user == n-pinned && pinned == history && history > n:
		seen = schemeUnclamped
	case user == n && pinned == e.ExpectedPinned:
		seen = schemeTwice
	default:
		seen = schemeOther
	}
	// Split looks like unclamped until the sysctl is lowered, and twice like
	// cumulative until there is a history: the more telling one stays.
	if seen == schemeSplit && l.scheme == schemeUnclamped || seen == schemeTwice && l.scheme == schemeCumulative {
		return
	}
	l.scheme = seen
}
