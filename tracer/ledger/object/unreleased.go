package object

import "github.com/pinwatch/pinwatch/tracer/cgroup"

// Paid is what memory cgroups were seen to pay for a BPF object, in bytes, by their paths.
// Those whose path is not known are in none.
type Paid map[string]int64

// Add enters what one call on the object was charged, or gave back.
func (p Paid) Add(o *Object) {
	for _, payer := range o.Payers {
		if payer.Cgroup != "" {
			p[payer.Cgroup] += payer.Pages + payer.Objects
		}
	}
}

// Unreleased are the BPF objects that are closed, and whose memory comes back to its cgroups
// later; by their keys.
type Unreleased map[uint64]unreleased

type unreleased struct {
	what   What
	pid    uint32
	timeNS uint64
	paid   Paid
}

// Close enters that nobody can use an object any more. The first of several counts.
func (u Unreleased) Close(c *Closing, paid Paid) {
	if _, twice := u[c.Key]; !twice {
		u[c.Key] = unreleased{c.What, c.PID, c.TimeNS, paid}
	}
}

// In is what was charged to a memory cgroup, or to those below it, which had so many bytes in
// all; what is charged the most first. In "" nothing is. Where it comes to more than all, some
// of it is just being released, and nothing is claimed.
func (u Unreleased) In(path string, had int64, nowNS uint64) []Closed {
	if path == "" {
		return nil
	}
	var list List
	for _, one := range u {
		var bytes int64
		for by, n := range one.paid {
			if cgroup.Matches(by, path) {
				bytes += n
			}
		}
		if bytes > 0 {
			list.Add(Closed{What: one.what, PID: one.pid, Count: 1, Bytes: bytes, AgeNS: max(nowNS, one.timeNS) - one.timeNS})
		}
	}
	if Bytes(list) > had {
		return nil
	}
	return list.Sorted()
}
