package snapshot

import (
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Preexisting are the buffers that are mapped already, as the events that a ledger wants
// before all others. A buffer that several processes map is listed once. There are
// none where the kernel's iterators did not give their identities.
//
// The kernel does not record which process paid. It is taken to be the one that has
// the buffer mapped, where there is only one, and its pinned_vm holds what all such
// buffers of its were charged. Where it is not so the events have no process. One that
// had the buffer passed on and was charged as much for another can still be mistaken
// for who paid.
func (s *Snapshot) Preexisting() []ledger.Event {
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
			TimeNS: s.TimeNS, Op: ledger.AlreadyMapped, PageSize: s.PageSize,
			Caller: ledger.Caller{PID: b.PID, TID: b.PID},
			User:   ledger.Reading{Owner: uint64(b.PayerUID)},
			Buffer: ledger.Buffer{
				Key: b.identity, Area: b.Area, Pages: b.Pages, Extra: b.Extra,
				Mappings: ledger.Count{Before: b.all, After: b.all},
				Limits:   ledger.Limits{Allowance: s.Allowance(), Paranoid: int32(s.Paranoid), OnlineCPUs: uint32(s.OnlineCPUs)},
			},
		}
		e.Buffer.Recorded[b.Area] = ledger.Recorded{Pages: b.Pages, Extra: b.Extra}
		if b.Area == rule.AUX {
			e.Buffer.AUXMappings = ledger.Count{Before: b.Mappings, After: b.Mappings}
		}
		if u, ok := s.User(b.PayerUID); ok && u.Known {
			e.User.Before, e.User.After = u.PerfLocked, u.PerfLocked
		}
		if p, ok := s.Process(b.PID); ok {
			c := &e.Caller
			c.Comm, c.UID, c.CgroupID, c.Cgroup = p.Comm, p.UID, p.cgroupID, p.CgroupPath
			c.Names = s.Names.Of(p.CgroupPath)
			c.CapIPCLock, c.LockLimit = p.CapIPCLock, p.LockLimit
			e.Process.Before, e.Process.After = p.PinnedVM, p.PinnedVM
			if b.only() && b.mm == p.mm && p.PinnedVM >= pinned[b.mm] {
				e.Process.Owner = b.mm
			}
		}
		older = append(older, e)
	}
	return older
}

// only says that nobody else has the area mapped.
func (b *Buffer) only() bool { return b.Mappings == 1 && b.mm != 0 }
