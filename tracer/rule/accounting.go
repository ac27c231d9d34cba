package rule

import "fmt"

// Accounting is how a kernel accounts for perf buffers. It is seen, by an experiment or
// in a trace, and never derived from a version. The zero value is one that nobody has
// seen, and the rules take it for the intended one.
type Accounting struct {
	Scheme Scheme
	// Remaps: a further mapping of a buffer charges its user again, and keeps that.
	Remaps bool
	// Separate: users are charged in a counter of perf's own (perf_mlock), in which no
	// other charger has a part.
	Separate bool
}

// Scheme is how a charge past the allowance is split.
type Scheme uint8

// The schemes that are known.
const (
	SchemeUnknown    Scheme = iota // nothing was charged past the allowance yet
	SchemeSplit                    // the intended one, Split
	SchemeCumulative               // all to the user, and its whole history to the process
	SchemeTwice                    // all to the user, and what does not fit to the process as well
	SchemeEither                   // one of these two: no user had a history yet
	SchemeUnclamped                // SchemeSplit, but with the history of a user that is above its allowance
	SchemeOther                    // none of these
)

// schemes is the one table of them: every output takes names and sentences from here.
var schemes = [...]struct {
	name    string
	meaning string // what is charged to whom
	bug     string // what is wrong with that; "": nothing
	fixed   string // where that is put right, and by what, as in "fixed in Linux 5.4"
}{
	SchemeUnknown: {name: "unknown", meaning: "nothing was charged past the allowance yet"},
	SchemeSplit:   {name: "split", meaning: "to the user what fits its allowance, the rest to the process"},
	SchemeCumulative: {"cumulative", "all to the user, and the user's whole history to the process, as up to Linux 5.3",
		"each mapping past the allowance takes all that the user has beyond it, and not its own pages alone, out of the process's limit",
		"in Linux 5.3.9 and 5.4 (d44248a41337); of the history alone in 4.19.103 (003461559ef7)"},
	SchemeTwice: {"twice", "all to the user, and what does not fit to the process as well, as in Linux 4.19.103",
		"pages past the allowance are charged to the process and to the user as well",
		"in Linux 5.3.9 and 5.4 (d44248a41337)"},
	SchemeEither: {"cumulative-or-twice", "all to the user, and what does not fit to the process as well; whether the user's history, too, was not seen yet",
		"pages past the allowance are charged to the process and to the user as well",
		"in Linux 5.3.9 and 5.4 (d44248a41337)"},
	SchemeUnclamped: {"unclamped", "history to the process once the sysctl was lowered, as in Linux 5.5.0",
		"a mapping by a user that is above its allowance takes all that the user has beyond it out of the process's limit",
		"in Linux 5.4.19, 5.5.3 and 5.6 (003461559ef7)"},
	SchemeOther: {name: "other", meaning: "none that is known"},
}

func (s Scheme) String() string { return schemes[s].name }

// Meaning says what is charged to whom.
func (s Scheme) Meaning() string { return schemes[s].meaning }

// Bug says what is wrong with a scheme; "": nothing, or nothing that is known.
func (s Scheme) Bug() string { return schemes[s].bug }

// Fixed says in which kernels the bug is put right, and by what.
func (s Scheme) Fixed() string { return schemes[s].fixed }

// Schemes is how many there are.
const Schemes = len(schemes)

// ParseScheme is the inverse of String.
func ParseScheme(name string) (Scheme, bool) {
	for s := range schemes {
		if schemes[s].name == name {
			return Scheme(s), true
		}
	}
	return SchemeUnknown, false
}

// MarshalText is the scheme's name.
func (s Scheme) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *Scheme) UnmarshalText(name []byte) (err error) {
	var ok bool
	if *s, ok = ParseScheme(string(name)); !ok {
		err = fmt.Errorf("accounting %q: there is no such", name)
	}
	return err
}

// UserPaysAll reports whether the user is charged a buffer's extra pages, too.
func (s Scheme) UserPaysAll() bool {
	return s == SchemeCumulative || s == SchemeTwice || s == SchemeEither
}

// Clamps reports whether what a user has beyond its allowance is no history.
func (s Scheme) Clamps() bool { return s != SchemeCumulative && s != SchemeUnclamped }

// UserPart is what a user is charged for a mapping of so many pages, of which extra are
// charged to the process.
func (s Scheme) UserPart(pages, extra int64) int64 {
	if s.UserPaysAll() {
		return pages
	}
	return pages - extra
}

// Over is how many of a charge's extra pages should not be there, whatever else a scheme
// does: more than the pages of the mapping is history.
func Over(pages, extra int64) int64 { return max(0, extra-pages) }

// Seen is the scheme after one more observation. Split looks like unclamped until a user
// is above its allowance: the more telling one stays.
func (s Scheme) Seen(now Scheme) Scheme {
	if now == SchemeSplit && s == SchemeUnclamped || now == SchemeEither && (s == SchemeCumulative || s == SchemeTwice) {
		return s
	}
	return now
}

// SchemeOf infers the scheme from one charge of so many pages: what the user had before
// and its allowance, and what the user and the process were charged. Every kernel charges
// alike what fits the allowance: SchemeUnknown.
func SchemeOf(pages, before, allowance, toUser, toProcess int64) Scheme {
	_, right := Split(pages, before, allowance)
	history := before + pages - allowance
	switch {
	case history <= 0, allowance < 0:
		return SchemeUnknown
	case toUser == pages-toProcess && toProcess == right:
		return SchemeSplit
	case toUser == pages && toProcess == history && history > pages:
		return SchemeCumulative
	case toUser == pages-toProcess && toProcess == history && history > pages:
		return SchemeUnclamped
	case toUser == pages && toProcess == right && history > pages:
		return SchemeTwice
	case toUser == pages && toProcess == right: // the user has no history
		return SchemeEither
	}
	return SchemeOther
}
