// Package rule is the rulebook: what the kernel's rules say of locked memory, as pure
// functions. It knows perf_mmap()'s decision before a mapping is tried, and imports
// nothing of the project: the ledger, the explanations and the views all ask it.
//
// Two places know the rules on their own, so that one can be the witness of the other:
// the BPF programs, which read what the kernel does, and the model of the check.
//
// All amounts are pages unless a name says otherwise. The names are those of the
// local variables of perf_mmap() (kernel/events/core.c).
package rule

import (
	"math/bits"
	"sort"

	"golang.org/x/sys/unix"
)

// Settings are what the rule depends on, host-wide.
type Settings struct {
	PageSize   uint32 // bytes
	MlockKiB   int    // perf_event_mlock_kb
	OnlineCPUs int
	Paranoid   int // perf_event_paranoid
	Accounting Accounting
}

// Limits are what the settings come to.
func (s Settings) Limits() Limits {
	return Limits{Allowance: s.UserLockLimit(), Paranoid: s.Paranoid, Scheme: s.Accounting.Scheme}
}

// UserLockLimit is a user's allowance in pages (user_lock_limit). The kernel computes and compares
// it unsigned: a negative perf_event_mlock_kb, and a negative value here, is no
// limit at all.
func (s Settings) UserLockLimit() int64 {
	perCPU := s.MlockKiB >> (bits.TrailingZeros32(s.PageSize) - 10)
	return int64(perCPU) * int64(s.OnlineCPUs)
}

// Limits are what a mapping is held against, beside the caller's own limit.
type Limits struct {
	Allowance int64  // of a user (user_lock_limit); negative: no limit at all
	Paranoid  int    // perf_event_paranoid
	Scheme    Scheme // how this kernel accounts
}

// Intended are the limits as they are meant: of a kernel that splits.
func (l Limits) Intended() Limits {
	l.Scheme = SchemeSplit
	return l
}

// Caller is who maps, and what it is charged already.
type Caller struct {
	UserLocked int64 // the user's counter
	PinnedVM   int64 // mm_struct.pinned_vm
	LockLimit  int64 // RLIMIT_MEMLOCK; Unlimited without one
	CapIPCLock bool  // effective, in the initial user namespace
}

// Exempt reports whether the caller may exceed its limit.
func (l Limits) Exempt(c Caller) bool { return MayExceed(c.CapIPCLock, l.Paranoid) }

// MayExceed reports whether a capability or perf_event_paranoid lifts RLIMIT_MEMLOCK.
func MayExceed(capIPCLock bool, paranoid int) bool { return capIPCLock || paranoid <= -1 }

// Split is the intent of the accounting: to the user what still fits its allowance, to
// the process the rest. A negative counter leaves the whole allowance, and more: that
// is the intent; what kernels make of one is in Limits.Map. A negative allowance is none
// that ends.
func Split(pages, before, allowance int64) (toUser, toProcess int64) {
	if allowance < 0 {
		return pages, 0
	}
	toUser = min(pages, max(0, allowance-before))
	return toUser, pages - toUser
}

// Outcome is what the kernel does with a mapping.
type Outcome struct {
	Errno unix.Errno // 0: the mapping succeeds
	// UserPart and Extra are what is charged to the user and to the process, or
	// would have been.
	UserPart, Extra int64
	Locked          int64 // pinned_vm + Extra, what is held against LockLimit
	// Over is by how many pages Locked exceeds LockLimit; it is positive also for
	// an exempt caller. Negative: so many are left.
	Over int64
}

// Map is what the kernel does when a caller maps one new buffer, or the AUX area of
// one, of so many pages: the control page counts in the data area.
func (l Limits) Map(c Caller, area Area, pages int64) Outcome {
	if !Geometry(area, pages) {
		return Outcome{Errno: unix.EINVAL}
	}
	return l.charge(c, pages)
}

// charge is the decision itself, on a number of pages that the kernel accepts.
func (l Limits) charge(c Caller, pages int64) Outcome {
	var o Outcome
	o.Extra = l.extra(c, pages)
	o.UserPart = l.Scheme.UserPart(pages, o.Extra)
	o.Locked = c.PinnedVM + o.Extra
	o.Over = o.Locked - min(c.LockLimit, Unlimited)
	// The comparison is unsigned: what wrong refunds have made negative is more
	// than any limit.
	exceeds := o.Locked < 0 || o.Over > 0 && c.LockLimit < Unlimited
	if exceeds && !l.Exempt(c) {
		o.Errno = unix.EPERM
	}
	return o
}

// extra is the part of a mapping for the process. The arithmetic is the kernel's,
// unsigned: a negative counter is taken for one far above the allowance.
func (l Limits) extra(c Caller, pages int64) int64 {
	allowance, locked := uint64(l.Allowance), uint64(c.UserLocked)
	if l.Scheme.Clamps() {
		locked = min(locked, allowance)
	}
	if locked += uint64(pages); locked > allowance {
		return int64(locked - allowance)
	}
	return 0
}

// Charged is the caller after a successful mapping.
func (c Caller) Charged(o Outcome) Caller {
	c.UserLocked += o.UserPart
	c.PinnedVM += o.Extra
	return c
}

// MapMany maps up to n buffers of a size one after the other. It returns how many
// succeed, and the outcome of the last one that was tried.
func (l Limits) MapMany(c Caller, area Area, pages, n int64) (done int64, last Outcome) {
	for done < n {
		if last = l.Map(c, area, pages); last.Errno != 0 {
			return done, last
		}
		c = c.Charged(last)
		done++
	}
	return done, last
}

// NoLimit is what Fits returns where nothing limits the number.
const NoLimit = int64(-1)

// mostFits bounds the counting: more buffers than anybody has.
const mostFits = 1 << 40

// Fits counts the buffers of a size that a caller can map before EPERM.
func (l Limits) Fits(c Caller, area Area, pages int64) int64 {
	if !Geometry(area, pages) {
		return 0
	}
	return l.Room(c, pages)
}

// Room counts the charges of so many pages that succeed before EPERM, whatever they
// are for.
func (l Limits) Room(c Caller, pages int64) int64 {
	if l.Exempt(c) {
		return NoLimit
	}
	if pages <= 0 {
		return 0
	}
	c, done, refused := l.settle(c, pages)
	switch {
	case refused:
		return done
	case l.Allowance < 0 && c.UserLocked >= 0, c.LockLimit >= Unlimited:
		return NoLimit
	case l.Scheme == SchemeCumulative && c.UserLocked >= 0:
		return done + l.roomCumulative(c, pages)
	}
	// Split up and twice take the same out of the limit, and unclamped has lost its
	// history with the first charge.
	return min(done+(l.Free(c)+c.LockLimit-c.PinnedVM)/pages, mostFits)
}

// mostSteps bounds settle: more than any counter that was off by a bug needs.
const mostSteps = 1 << 20

// settle makes the first charge, and those after it while the user's counter is negative,
// and so taken for far above the allowance: from then on the rest is arithmetic.
func (l Limits) settle(c Caller, pages int64) (after Caller, done int64, refused bool) {
	for ; done == 0 || c.UserLocked < 0 && done < mostSteps; done++ {
		o := l.charge(c, pages)
		if o.Errno != 0 {
			return c, done, true
		}
		before := c.UserLocked
		if c = c.Charged(o); c.UserLocked == before && before < 0 {
			return c, done + 1, false // and stays so
		}
	}
	return c, done, false
}

// roomCumulative counts on where each call past the allowance takes the user's whole
// history beyond it out of the process's limit: the k-th one takes
// UserLocked + k*pages - Allowance.
func (l Limits) roomCumulative(c Caller, pages int64) int64 {
	inside := l.Free(c) / pages
	past := float64(c.UserLocked + inside*pages - l.Allowance)
	room := float64(c.LockLimit - c.PinnedVM)
	return inside + int64(sort.Search(1<<26, func(k int) bool {
		n := float64(k + 1)
		return n*past+float64(pages)*n*(n+1)/2 > room
	}))
}

// Free is what is left of a caller's user's allowance.
func (l Limits) Free(c Caller) int64 {
	if c.UserLocked < 0 {
		return 0 // taken for far above the limit
	}
	return max(0, l.Allowance-c.UserLocked)
}

// Control is the number of pages of an area that hold no data: the data area begins
// with one control page.
func Control(area Area) int64 {
	if area == Data {
		return 1
	}
	return 0
}

// Geometry reports whether the kernel accepts a size: a power of two of pages, and
// in the data area one more for the control page, which may also stand alone.
func Geometry(area Area, pages int64) bool {
	n := pages - Control(area)
	if n == 0 && area == Data {
		return true
	}
	return n > 0 && n&(n-1) == 0
}

// Largest is the largest size that the kernel accepts, up to a number of pages.
// 0: none.
func Largest(area Area, pages int64) int64 {
	n := pages - Control(area)
	if n <= 0 {
		return 0
	}
	return 1<<(bits.Len64(uint64(n))-1) + Control(area)
}
