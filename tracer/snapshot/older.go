package snapshot

import "github.com/pinwatch/pinwatch/tracer/ledger"

// Older is what a ledger has to know of the buffers that are mapped already. It
// is empty where the kernel's iterators did not give their identities.
//
// The kernel does not record which process paid. It is taken to be the one that
// has the buffer mapped, where there is only one, and its pinned_vm holds what
// the buffer charged: one that had the buffer passed on and was never charged
// itself can still be mistaken for it.
func (s *Snapshot) Older() []ledger.Older {
	var older []ledger.Older
	for i := range s.Buffers {
		b := &s.Buffers[i]
		if b.identity == 0 || b.again || !b.ExtraKnown || !b.PayerKnown {
			continue
		}
		o := ledger.Older{Buffer: b.identity, Area: b.Area, Pages: b.Pages, Extra: b.Extra, Payer: b.PayerUID, PID: b.PID, Mappings: b.all}
		if p, ok := s.Process(b.PID); ok && b.Mappings == 1 && p.PinnedVM >= b.Extra {
			o.MM, o.PinnedVM = b.mm, p.PinnedVM
		}
		older = append(older, o)
	}
	return older
}
