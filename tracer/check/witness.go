package check

import (
	"slices"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Witness is one reading of a witness that is not what the intent gives.
type Witness struct {
	Witness       string `json:"witness"`
	When          string `json:"when"` // after which call
	ExpectedPages int64  `json:"expected_pages"`
	SeenPages     int64  `json:"seen_pages"`

	reading reading
}

// reading is what a witness's reading says by itself.
type reading int

const (
	anAnswer   reading = iota // the kernel refused what it should not, or the other way round
	tooMuch                   // charged, while it may be: more than expected by a call that charges
	tooLittle                 // less than expected, while it is charged
	kept                      // not given back by what gives back
	givenTwice                // more given back than there was
)

// Mischarge is what witnesses alone call a charge that they see to be another one than
// is meant, and can say no more of.
const Mischarge = "mischarge"

// Impact is whom a broken invariant hurts, by its name; "" for none.
func Impact(verdict string) string {
	if verdict == Mischarge {
		return "users or processes that witnesses alone cannot tell: they are charged otherwise than is meant"
	}
	if v, ok := ledger.ParseVerdict(verdict); ok {
		return v.Impact()
	}
	return ""
}

// chargeReading is what a counter of charged pages says. excess is by how many it is
// above what is expected, and was by before; charging says that the last call charges.
func chargeReading(seen, excess, before int64, charging bool) reading {
	switch {
	case seen < 0 || excess < 0 && !charging && excess < before:
		return givenTwice
	case excess <= before:
		return tooLittle
	case charging:
		return tooMuch
	}
	return kept
}

// roomReading is what it says that fewer pages fit than are expected, or more. rest says
// that by the intent nothing is charged.
func roomReading(expected, seen int64, rest bool) reading {
	switch fewer := seen < expected; {
	case rest && fewer:
		return kept
	case rest:
		return givenTwice
	case fewer:
		return tooMuch
	}
	return tooLittle
}

// named names what the witnesses saw, and no more. right are the witnesses whose last
// reading was as expected: what they saw before came back.
func named(broken []Witness, right map[string]bool) []string {
	var names []string
	elsewhere := misdirected(broken, right)
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, w := range broken {
		switch back := right[w.Witness]; {
		case w.reading == anAnswer:
			add(ledger.WrongRefusal.String())
		case elsewhere && isVmPin(w) && !back && (w.reading == kept || w.reading == givenTwice):
			add(ledger.MisdirectedRefund.String())
		case w.reading == givenTwice:
			add(ledger.Underflow.String())
		case w.reading == kept && !back:
			add(ledger.Leak.String())
		case w.reading == tooMuch && back:
			add(ledger.Overcharge.String())
		case w.reading == tooMuch && isVmPin(w): // by one call, that charges: whatever came of it
			add(ledger.Overcharge.String())
		case w.reading == tooMuch && slices.ContainsFunc(broken, func(o Witness) bool { return o.Witness == w.Witness && o.reading == kept }):
			// It did not come back, which has its name: it may be from before.
		default:
			add(Mischarge)
		}
	}
	if list := causes(names); len(list) > 0 {
		names = list
	}
	if len(names) > 1 { // it adds nothing to a name that says more
		names = slices.DeleteFunc(names, func(name string) bool { return name == Mischarge })
	}
	return names
}

func isVmPin(w Witness) bool { return strings.HasPrefix(w.Witness, vmPinOf) }

// vmPinOf begins the name of the witness of a process.
const vmPinOf = "VmPin of the "

// misdirected reports whether one process lacks what another one has, in the end.
func misdirected(broken []Witness, right map[string]bool) bool {
	last := map[string]int64{}
	for _, w := range broken {
		if isVmPin(w) && !right[w.Witness] {
			last[w.Witness] = w.SeenPages - w.ExpectedPages
		}
	}
	var sum, most int64
	for _, excess := range last {
		sum += excess
		most = max(most, excess)
	}
	return len(last) > 1 && sum == 0 && most > 0
}
