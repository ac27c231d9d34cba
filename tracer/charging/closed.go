package charging

import (
	"fmt"
	"strings"
	"time"

	"github.com/pinwatch/pinwatch/tracer/ledger/object"
)

// Closed is what of the counter was held for what was seen to be closed, and not yet released.
func (r *Refused) Closed() []object.Closed {
	if r.Held == nil {
		return nil
	}
	return r.Held.Closed
}

// closedNames are those of one and of several.
var closedNames = map[object.What][2]string{
	object.Ring:    {"an io_uring", "io_urings"},
	object.Umem:    {"an AF_XDP umem", "AF_XDP umems"},
	object.Map:     {"a BPF map", "BPF maps"},
	object.Program: {"a BPF program", "BPF programs"},
}

// mostClosed is how many kinds, and processes, a note tells of.
const mostClosed = 3

// ClosedText says how many pages of a user's counter, or bytes of a memory cgroup's, are of what
// was closed before a call, and by whom, as far as that was seen; "": none.
func ClosedText(list []object.Closed) string {
	var parts []string
	for _, c := range list[:min(len(list), mostClosed)] {
		who := "had been closed"
		if c.PID != 0 {
			who = fmt.Sprintf("process %d had closed", c.PID)
		}
		what, before := closedNames[c.What][0], age(c.AgeNS)+" before"
		if c.Count > 1 {
			what, before = fmt.Sprintf("%d %s", c.Count, closedNames[c.What][1]), "at most "+before
		}
		parts = append(parts, fmt.Sprintf("%d are of %s that %s %s and the kernel had not released yet", c.Pages+c.Bytes, what, who, before))
	}
	if rest := list[len(parts):]; len(rest) > 0 {
		parts = append(parts, fmt.Sprintf("%d are of more that was closed and not released", object.Pages(rest)+object.Bytes(rest)))
	}
	return strings.Join(parts, ", ")
}

// age is a time in words, of three digits.
func age(ns uint64) string {
	switch d := time.Duration(ns); {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}
