package advice

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// Accounting is how this kernel accounts, and what says so.
type Accounting struct {
	Scheme  string `json:"scheme"` // that the answer goes by
	Meaning string `json:"meaning"`
	Seen    bool   `json:"seen"` // else it is assumed
	Basis   string `json:"basis"`
	Bug     string `json:"bug"`   // what is wrong with it; "": nothing that is known
	Fixed   string `json:"fixed"` // since when and by what it is put right
	// FurtherMappings: to map a buffer again charges its user again.
	FurtherMappings bool `json:"further_mappings_charged"`
	Separate        bool `json:"separate_counter"`
}

// Intended is what the intended rule would give.
type Intended struct {
	Allowed    bool   `json:"allowed"`
	Errno      string `json:"errno"`
	Mapped     int64  `json:"mapped_buffers"`
	Fits       int64  `json:"fits_buffers"`
	UserLocked int64  `json:"user_locked_pages"` // before the last mapping that was considered
	Extra      int64  `json:"extra_pages"`
	PinnedVM   int64  `json:"pinned_vm_pages"`
	Locked     int64  `json:"locked_pages"`
	Over       int64  `json:"over_pages"`
}

// Tenfold is what a limit ten times as large comes to: where each call costs the history,
// not ten times as many.
type Tenfold struct {
	LockLimit int64 `json:"lock_limit_pages"`
	Fits      int64 `json:"fits_buffers"` // -1: any number
	Intended  int64 `json:"intended_fits_buffers"`
}

// accountingOf puts a finding into words.
func accountingOf(f *accounting.Finding) Accounting {
	scheme := f.Scheme
	if scheme == rule.SchemeUnknown {
		scheme = rule.SchemeSplit
	}
	return Accounting{Scheme: scheme.String(), Meaning: scheme.Meaning(), Seen: f.Seen(), Basis: f.Basis(), Bug: scheme.Bug(), Fixed: scheme.Fixed(),
		FurtherMappings: f.Remaps, Separate: f.Separate}
}

// compare adds what the intended rule gives, for a caller whose counters are as that rule
// would have them.
func (x *Explanation) compare(settings rule.Settings, caller, right rule.Caller, ask Ask) {
	ask.Buffers = max(1, ask.Buffers)
	here, limits := settings.Limits(), settings.Limits().Intended()
	o := try(limits, right, ask)
	x.Intended = Intended{Allowed: o.last.Errno == 0, Errno: rule.ErrnoName(o.last.Errno), Mapped: o.done, Fits: limits.Fits(right, ask.Area, ask.Pages),
		UserLocked: o.before.UserLocked, Extra: o.last.Extra, PinnedVM: o.before.PinnedVM, Locked: o.last.Locked}
	if o.last.Errno == unix.EPERM {
		x.Intended.Over = o.last.Over
	}
	x.KernelFault = x.Verdict.Limit != LimitGeometry && x.Verdict.Limit != LimitLargest && x.Verdict.Limit != LimitMachine && !x.Verdict.Allowed && x.Intended.Allowed
	x.Tenfold.LockLimit = rule.Unlimited
	if caller.LockLimit < rule.Unlimited/10 {
		x.Tenfold.LockLimit = 10 * caller.LockLimit
	}
	caller.LockLimit, right.LockLimit = x.Tenfold.LockLimit, x.Tenfold.LockLimit
	x.Tenfold.Fits, x.Tenfold.Intended = here.Fits(caller, ask.Area, ask.Pages), limits.Fits(right, ask.Area, ask.Pages)
}

// rightCaller is a caller as the intended rule would have charged it and its user until
// now. What the kernel has recorded of each buffer tells; where that cannot be read, no
// user has more than its allowance, and no process more than its buffers.
func rightCaller(s *snapshot.Snapshot, c rule.Caller, pid, uid uint32) rule.Caller {
	scheme := s.Accounting.Scheme
	if scheme.Bug() == "" {
		return c
	}
	if u, ok := s.User(uid); s.Source == snapshot.SourceProc || ok && !u.Known {
		if allowance := s.Allowance(); allowance >= 0 {
			c.UserLocked = min(c.UserLocked, allowance)
		}
		if p, ok := s.Process(pid); ok {
			c.PinnedVM = min(c.PinnedVM, p.BufferPages+ringPages(s, pid))
		}
		return c
	}
	counted := map[[2]uint64]bool{}
	for i := range s.Buffers {
		b := &s.Buffers[i]
		if !b.ExtraKnown {
			continue
		}
		if b.PID == pid {
			c.PinnedVM -= rule.Over(b.Pages, b.Extra)
		}
		key := [2]uint64{b.ID, uint64(b.Area)}
		if b.PayerUID == uid && !counted[key] {
			counted[key] = true
			c.UserLocked -= scheme.UserPart(b.Pages, b.Extra) - (b.Pages - min(b.Pages, b.Extra))
		}
	}
	return c
}

// ringPages are what a process's io_urings have registered.
func ringPages(s *snapshot.Snapshot, pid uint32) (pages int64) {
	for _, ring := range s.IOUring {
		if ring.PID == pid {
			pages += ring.Pages
		}
	}
	return pages
}

// tried is what came of mapping buffers one after the other.
type tried struct {
	done   int64
	before rule.Caller  // the last one that was tried
	last   rule.Outcome // of it
}

func try(l rule.Limits, c rule.Caller, ask Ask) (t tried) {
	t.done, t.last = l.MapMany(c, ask.Area, ask.Pages, ask.Buffers)
	t.before = c
	for range min(t.done, ask.Buffers-1) {
		t.before = t.before.Charged(l.Map(t.before, ask.Area, ask.Pages))
	}
	return t
}

// doubt is what of the accounting matters here and was not seen.
func (x *Explanation) doubt(f *accounting.Finding, c rule.Caller) {
	if text := f.Doubt(); text != "" && x.Numbers.UserLockLimit >= 0 && c.UserLocked > x.Numbers.UserLockLimit {
		x.Unknown = append(x.Unknown, text)
	}
}

// hidden takes back what cannot be promised: an estimate lacks what the user has mapped
// where it cannot be seen, and the more that is, the less fits.
func (x *Explanation) hidden(s *snapshot.Snapshot, c rule.Caller, uid uint32, ask Ask) {
	if s.OwnUserNamespace() {
		x.Unknown = append(x.Unknown, "which user the kernel charges: this is a user namespace of its own, and what its users are called around it need not be what the kernel calls them; run pinwatch in the initial one")
	}
	var unseen string
	u, ok := s.User(uid)
	switch {
	case s.Source != snapshot.SourceProc || !x.Verdict.Allowed || x.Verdict.Exempt != "":
		return
	case ok && u.Hidden > 0:
		unseen = fmt.Sprintf("what %s of uid %d have mapped", count(int64(u.Hidden), "process"), uid)
	case s.Enclosed:
		unseen = fmt.Sprintf("what uid %d has mapped outside of this namespace", uid)
	default:
		return
	}
	settings := s.Settings()
	if allowance := settings.UserLockLimit(); allowance >= 0 {
		c.UserLocked = max(c.UserLocked, allowance)
	}
	x.AtLeast = settings.Limits().Fits(c, ask.Area, ask.Pages)
	if history := !settings.Accounting.Scheme.Clamps(); history && x.AtLeast != rule.NoLimit {
		x.AtLeast = 0 // there is no worst case of a history
	}
	if x.AtLeast != rule.NoLimit && x.AtLeast < max(1, ask.Buffers) {
		x.Verdict.Certain = false
	}
	x.Unknown = append(x.Unknown, unseen+": it counts against the same allowance")
}
