package ledger

// era is how a kernel was seen to split charges past the allowance. It comes
// from what the kernel does, never from its version.
type era uint8

const (
	eraUnknown    era = iota // nothing was charged past the allowance yet
	eraSplit                 // to the user what fits, the rest to the process (5.3.9+, without 5.5.0 to 5.5.2)
	eraCumulative            // all to the user, and its whole history to the process (up to 5.3)
	eraTwice                 // all to the user, and what does not fit to the process as well (4.19.103+)
	eraUnclamped             // like split, but with the user's history if the sysctl was lowered (5.5.0 to 5.5.2)
	eraOther                 // none of these
)

var eraNames = [...]string{"unknown", "split", "cumulative", "twice", "unclamped", "other"}

func (e era) String() string { return eraNames[e] }

// observe infers the era from a charge whose two parts are certain.
func (l *Ledger) observe(e *Entry) {
	if e.Demand() <= e.Buffer.Limits.Allowance {
		return // every kernel charges this alike
	}
	n, history := e.Buffer.Pages, e.Demand()-e.Buffer.Limits.Allowance
	var seen era
	switch user, pinned := e.ChargedUser, e.ChargedPinned; {
	case user == n-pinned && pinned == e.ExpectedPinned:
		seen = eraSplit
	case user == n && pinned == history && history > n:
		seen = eraCumulative
	case user == n-pinned && pinned == history && history > n:
		seen = eraUnclamped
	case user == n && pinned == e.ExpectedPinned:
		seen = eraTwice
	default:
		seen = eraOther
	}
	// Split looks like unclamped until the sysctl is lowered, and twice like
	// cumulative until there is a history: the more telling one stays.
	if seen == eraSplit && l.era == eraUnclamped || seen == eraTwice && l.era == eraCumulative {
		return
	}
	l.era = seen
}
