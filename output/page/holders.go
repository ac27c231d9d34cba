package page

import (
	"github.com/pinwatch/pinwatch/output/format"
)

// moved enters what a holder got or gave back.
func (w *Writer) moved(ns uint64, sum int, count, user, pinned int64) {
	if d := &w.data; sum == len(d.Holders) {
		h := &w.held.Sums[sum]
		d.Holders = append(d.Holders, holder{h.PID, format.Printable(h.Comm), h.UID, h.Split, h.What})
	}
	m := &w.data.Moves
	at := int64(ns)
	if end := len(m.Time) - 1; end >= 0 {
		at = max(at, m.Time[end])
	}
	m.Time, m.Holder, m.Count = append(m.Time, at), append(m.Holder, sum), append(m.Count, count)
	m.User, m.Pinned = append(m.User, user), append(m.Pinned, pinned)
}
