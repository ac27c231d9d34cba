// Package rule is perf_mmap()'s decision as a pure function: what the kernel
// will say to a mapping, before it is tried.
//
// All amounts are pages unless a name says otherwise. The names are those of the
// local variables of perf_mmap() (kernel/events/core.c).
package rule

import (
	"math/bits"

	"golang.org/x/sys/unix"
)

// Settings are what the rule depends on, host-wide.
type Settings struct {
	PageSize   uint32 // bytes
	MlockKiB   int    // perf_event_mlock_kb
	OnlineCPUs int
	Paranoid   int // perf_event_paranoid
	// Cumulative says that the kernel charges each mapping past the allowance the
	// user's whole history, as up to Linux 5.3.
	Cumulative bool
}

// UserLockLimit is a user's allowance in pages. The kernel computes and compares
// it unsigned: a negative perf_event_mlock_kb, and a negative value here, is no
// limit at all.
func (s Settings) UserLockLimit() int64 {
	perCPU := s.MlockKiB >> (bits.TrailingZeros32(s.PageSize) - 10)
	return int64(perCPU) * int64(s.OnlineCPUs)
}

// Caller is who maps, and what it is charged already.
type Caller struct {
	UserLocked int64 // the user's counter
	PinnedVM   int64 // mm_struct.pinned_vm
	LockLimit  int64 // RLIMIT_MEMLOCK; Unlimited without one
	CapIPCLock bool  // effective, in the initial user namespace
}

// Exempt says whether the limit is not held against the caller.
func (s Settings) Exempt(c Caller) bool { return c.CapIPCLock || s.Paranoid <= -1 }

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

// Map says what the kernel does when a caller maps one new buffer, or the AUX area
// of one, of so many pages: the control page counts in the data area.
func (s Settings) Map(c Caller, area Area, pages int64) Outcome {
	if !Geometry(area, pages) {
		return Outcome{Errno: unix.EINVAL}
	}
	var o Outcome
	o.Extra = s.extra(c, pages)
	o.UserPart = pages - o.Extra
	if s.Cumulative {
		o.UserPart = pages
	}
	o.Locked = c.PinnedVM + o.Extra
	o.Over = o.Locked - min(c.LockLimit, Unlimited)
	// The comparison is unsigned: what wrong refunds have made negative is more
	// than any limit.
	exceeds := o.Locked < 0 || o.Over > 0 && c.LockLimit < Unlimited
	if exceeds && !s.Exempt(c) {
		o.Errno = unix.EPERM
	}
	return o
}

// extra is the part of a mapping for the process. The arithmetic is the kernel's,
// unsigned: a negative counter is taken for one far above the allowance.
func (s Settings) extra(c Caller, pages int64) int64 {
	limit, locked := uint64(s.UserLockLimit()), uint64(c.UserLocked)
	if !s.Cumulative {
		locked = min(locked, limit)
	}
	if locked += uint64(pages); locked > limit {
		return int64(locked - limit)
	}
	return 0
}

// Charged is the caller after a successful mapping.
func (c Caller) Charged(o Outcome) Caller {
	c.UserLocked += o.UserPart
	c.PinnedVM += o.Extra
	return c
}

// MapMany maps up to n buffers of a size one after the other. It says how many
// succeed, and the outcome of the last one that was tried.
func (s Settings) MapMany(c Caller, area Area, pages, n int64) (done int64, last Outcome) {
	for done < n {
		if last = s.Map(c, area, pages); last.Errno != 0 {
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
func (s Settings) Fits(c Caller, area Area, pages int64) int64 {
	if s.Exempt(c) || s.UserLockLimit() < 0 && c.PinnedVM >= 0 && c.PinnedVM <= c.LockLimit {
		return NoLimit
	}
	if c.LockLimit >= Unlimited && c.PinnedVM >= 0 {
		return NoLimit
	}
	first := s.Map(c, area, pages)
	if first.Errno != 0 {
		return 0
	}
	// From here on pinned_vm is not negative.
	c = c.Charged(first)
	if s.Cumulative {
		done, _ := s.MapMany(c, area, pages, 1<<20)
		return 1 + done
	}
	return min(1+(s.Free(c)+c.LockLimit-c.PinnedVM)/pages, mostFits)
}

// Free is what is left of a caller's user's allowance.
func (s Settings) Free(c Caller) int64 {
	limit := s.UserLockLimit()
	if c.UserLocked < 0 {
		return 0 // taken for far above the limit
	}
	return max(0, limit-c.UserLocked)
}

// control is the number of pages of an area that hold no data.
func control(area Area) int64 {
	if area == Data {
		return 1
	}
	return 0
}

// Geometry says whether the kernel accepts a size: a power of two of pages, and
// in the data area one more for the control page, which may also stand alone.
func Geometry(area Area, pages int64) bool {
	n := pages - control(area)
	if n == 0 && area == Data {
		return true
	}
	return n > 0 && n&(n-1) == 0
}

// Largest is the largest size that the kernel accepts, up to a number of pages.
// 0: none.
func Largest(area Area, pages int64) int64 {
	n := pages - control(area)
	if n <= 0 {
		return 0
	}
	return 1<<(bits.Len64(uint64(n))-1) + control(area)
}

// EPERM is the errno of a refusal for want of allowance and limit, as records have it.
const EPERM = int32(unix.EPERM)
