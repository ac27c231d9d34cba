package snapshot

import (
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Older are the buffers that are mapped already, as the events that a ledger wants
// before all others. A buffer that several processes map is listed once. There are
// none where the kernel's iterators did not give their identities.
//
// The kernel does not record which process paid. It is taken to be the one that has
// the buffer mapped, where there is only one, and its pinned_vm holds what all such
// buffers of its were charged. Where it is not so the events have no MM. One that
// had the buffer passed on and was charged as much for another can still be mistaken
// for who paid.
func (s *Snapshot) Older() []ledger.Event {
	pinned := map[uint64]int64{} // by mm, what would have been charged to it
	for i := range s.Buffers {
		if b := &s.Buffers[i]; b.only() {
			pinned[b.mm] += b.Extra
		}
	}
	var older []ledger.Event
	for i := range s.Buffers {
		b := &s.Buffers[i]
		if b.identity == 0 || b.again || !b.ExtraKnown || !b.PayerKnown {
			continue
		}
		e := ledger.Event{
			Op: ledger.Found, TimeNS: s.TimeNS, Area: b.Area, PID: b.PID, TID: b.PID, Payer: b.PayerUID, Buffer: b.identity,
			Mappings: b.all, MappingsAfter: b.all, UserExtra: b.Pages, Extra: b.Extra,
			PageSize: s.PageSize, OnlineCPUs: uint32(s.OnlineCPUs), Paranoid: int32(s.Paranoid), UserLockLimit: s.Allowance(),
		}
		e.DataPages, e.DataExtra = b.Pages, b.Extra
		if b.Area == rule.AUX {
			e.DataPages, e.DataExtra, e.AUXPages, e.AUXExtra = 0, 0, b.Pages, b.Extra
			e.AUXMappings, e.AUXMappingsAfter = b.Mappings, b.Mappings
		}
		if u, ok := s.User(b.PayerUID); ok && u.Known {
			e.UserLocked, e.UserAfter = u.PerfLocked, u.PerfLocked
		}
		if p, ok := s.Process(b.PID); ok {
			e.Comm, e.UID, e.CgroupID, e.Cgroup, e.CapIPCLock = p.Comm, p.UID, p.cgroupID, p.CgroupPath, p.CapIPCLock
			e.PinnedVM, e.PinnedAfter, e.Locked, e.LockLimit = p.PinnedVM, p.PinnedVM, p.PinnedVM, p.LockLimit
			if b.only() && b.mm == p.mm && p.PinnedVM >= pinned[b.mm] {
				e.MM = b.mm
			}
		}
		older = append(older, e)
	}
	return older
}

// only says that nobody else has the area mapped.
func (b *Buffer) only() bool { return b.Mappings == 1 && b.mm != 0 }
