package advice

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/remedy"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// Explanation is the whole answer. Amounts are pages.
type Explanation struct {
	Version int     `json:"v"`
	Subject Subject `json:"subject"`
	// Area and Pages are of one buffer, its control page included.
	Area    string `json:"area"` // "data" or "aux"
	Pages   int64  `json:"pages"`
	Buffers int64  `json:"buffers"`
	// Machine is the machine's memory in bytes; 0: not known. BeyondMachine: it has not so
	// much as the wanted buffers take.
	Machine       int64 `json:"machine_bytes"`
	BeyondMachine bool  `json:"beyond_machine"`
	// Wanted is how many such buffers the remedies are for, the refused one among them.
	Wanted  int64   `json:"wanted_buffers"`
	Numbers Numbers `json:"numbers"`
	Verdict Verdict `json:"verdict"`
	// Notes are further sentences on a refusal that was seen.
	Notes []string `json:"notes"`
	// Fits is how many such buffers can be mapped from now on; -1: any number. AtLeast is
	// how many whatever else the user has mapped that could not be seen.
	Fits       int64      `json:"fits_buffers"`
	AtLeast    int64      `json:"fits_at_least_buffers"`
	Accounting Accounting `json:"accounting"`
	Intended   Intended   `json:"intended"`
	// KernelFault: the intended rule allows what this kernel refuses.
	KernelFault bool    `json:"kernel_fault"`
	Tenfold     Tenfold `json:"tenfold_limit"`

	Holders  []Holder        `json:"holders"`
	Held     Held            `json:"held"`
	Remedies []remedy.Remedy `json:"remedies"`
	Checks   []Check         `json:"checks"`
	Source   string          `json:"source"`
	Unknown  []string        `json:"unknown"`
}

// Subject is who maps.
type Subject struct {
	PID  uint32 `json:"pid"` // 0: any new process of the user
	Comm string `json:"comm"`
	UID  uint32 `json:"uid"`
	// OutsideUID is UID as the user namespace around pinwatch's own has it; -1: the same.
	OutsideUID int64  `json:"outside_uid"`
	Cgroup     string `json:"cgroup"`
	Container  string `json:"container"` // runtime:id
	container.Names
}

// Numbers are what the rule is fed with, and what comes of the last mapping that
// was considered: the first that is refused, or the last of all.
type Numbers struct {
	PageBytes     uint32 `json:"page_bytes"`
	MlockKiB      int    `json:"perf_event_mlock_kib"`
	OnlineCPUs    int    `json:"online_cpus"`
	Paranoid      int    `json:"paranoid"`
	CapIPCLock    bool   `json:"cap_ipc_lock"`
	UserLockLimit int64  `json:"user_lock_limit_pages"`
	UserLocked    int64  `json:"user_locked_pages"` // before that mapping
	Estimated     bool   `json:"user_locked_estimated"`
	Extra         int64  `json:"extra_pages"`
	PinnedVM      int64  `json:"pinned_vm_pages"`
	Locked        int64  `json:"locked_pages"`
	LockLimit     int64  `json:"lock_limit_pages"`
	// What the buffers before it add to UserLocked and PinnedVM, of several.
	BeforeUser   int64 `json:"before_user_pages"`
	BeforePinned int64 `json:"before_pinned_pages"`
}

// The limits that refuse.
const (
	LimitNone     = ""
	LimitMemlock  = "RLIMIT_MEMLOCK"
	LimitNegative = "negative pinned_vm"
	LimitGeometry = "geometry"
	LimitLargest  = "largest buffer" // than which no kernel with such pages takes more
	LimitMachine  = "memory"         // of the machine, which has not so much
	LimitAUX      = "no AUX areas"   // the event's PMU has none
	LimitOther    = "not locked memory"
)

// Verdict is what the kernel says.
type Verdict struct {
	Allowed bool `json:"allowed"`
	// Certain: nothing that could not be seen can change it.
	Certain bool   `json:"certain"`
	Errno   string `json:"errno"` // "" where allowed
	Limit   string `json:"limit"` // which one refuses: one of the constants above
	Mapped  int64  `json:"mapped_buffers"`
	Over    int64  `json:"over_pages"` // by how much the limit is exceeded
	// Exempt names what lifts the limit where the mapping is allowed past it.
	Exempt string `json:"exempt"`
}

// Holder is a process that has mapped what the user is charged for.
type Holder struct {
	PID       uint32 `json:"pid"`
	Comm      string `json:"comm"`
	UID       uint32 `json:"uid"`
	Cgroup    string `json:"cgroup"`
	Container string `json:"container"` // runtime:id
	container.Names
	Buffers  int     `json:"buffers"`
	Pages    int64   `json:"pages"`
	UserPart int64   `json:"user_pages"` // of them, charged to the user
	Extra    int64   `json:"extra_pages"`
	Share    float64 `json:"share_percent"` // UserPart in the user's allowance
}

// Held sums up what a user's allowance is used for.
type Held struct {
	UserLocked int64   `json:"user_locked_pages"`
	Share      float64 `json:"share_percent"` // in the allowance
	Buffers    int64   `json:"buffers_pages"` // of it, for buffers that were found
	// Unowned is charged, and no buffer was found for it.
	Unowned int64 `json:"unowned_pages"`
	// IOUring is what the user's io_urings have registered, whoever is charged.
	IOUring  int64 `json:"io_uring_pages"`
	LockedVM int64 `json:"locked_vm_pages"` // another counter than UserLocked from 7.3 on
	Split    bool  `json:"separate_counter"`
	// Estimated: the counter could not be read. After: all of this is as it was shortly
	// after the call that failed. Recorded: it is as a recording has it for the call itself.
	Estimated bool `json:"estimated"`
	After     bool `json:"after"`
	Recorded  bool `json:"recorded"`
	// Others reports whether notes name what else than perf buffers was charged to the counter.
	Others bool `json:"-"`
}

// SourceRecording is the source of what a recording knows, beside those of snapshots.
const SourceRecording = "recording"

// Explain answers an ask from a snapshot, and from the facts about the one who
// maps.
func Explain(s *snapshot.Snapshot, facts *snapshot.Facts, ask Ask) (*Explanation, error) {
	caller, uid, err := Caller(s, ask)
	if err != nil {
		return nil, err
	}
	x := judge(s.Settings(), caller, ask)
	x.compare(s.Settings(), caller, rightCaller(s, caller, ask.PID, uid), ask)
	x.Accounting = accountingOf(&s.Accounting)
	x.Subject = SubjectOf(s, ask.PID, uid)
	x.Source, x.Unknown = s.Source, append(x.Unknown, s.Degraded...)
	if note := Assumed(s, ask); ask.PID == 0 && note != "" {
		x.Unknown = append(x.Unknown, note)
	}
	x.doubt(&s.Accounting, caller)
	x.hidden(s, caller, uid, ask)
	x.hold(s, uid)
	x.Numbers.Estimated = x.Held.Estimated
	x.Checks = checks(x, facts)
	if x.Verdict.Errno == "EPERM" && x.Verdict.Limit != LimitLargest {
		x.Remedies = append(x.Remedies, x.endHolder(s.Settings(), caller)...)
		x.sortRemedies()
	}
	return x, nil
}

// OfEntry is the same explanation of a refusal that was seen, from the event's own
// numbers, by how the trace saw the kernel account, or else by what is known of it. The
// holders of that time are not known from it.
func OfEntry(e *ledger.Entry, known accounting.Finding) *Explanation {
	if e.Scheme != rule.SchemeUnknown {
		known.Scheme, known.By = e.Scheme, accounting.ByTrace
	}
	cpus := max(1, int64(e.Buffer.Limits.OnlineCPUs))
	page := max(1024, int64(e.PageSize))
	settings := rule.Settings{
		PageSize: uint32(page), OnlineCPUs: int(cpus), Paranoid: int(e.Buffer.Limits.Paranoid), Accounting: known.Accounting,
		MlockKiB: int(e.Buffer.Limits.Allowance / cpus * (page / 1024)),
	}
	caller := rule.Caller{UserLocked: e.User.Before, PinnedVM: e.Process.Before, LockLimit: e.Caller.LockLimit, CapIPCLock: e.Caller.CapIPCLock}
	ask := Ask{Area: e.Buffer.Area, Pages: e.Buffer.Pages, Buffers: 1}
	if e.Failed != nil {
		ask.Machine = e.Failed.MachineBytes
	}
	x := judge(settings, caller, ask)
	if x.Verdict.Errno == "EPERM" {
		all := wanted(e, ask)
		x.remedyAll(settings, caller, all)
		if h := e.Held; h != nil {
			x.remedyWait(settings, caller, all, object.Pages(h.Closed))
		}
	}
	if f := e.Failed; x.Verdict.Errno == "EPERM" && ask.Area == rule.AUX && f != nil && !f.Mapping.AUXCapable {
		x.Verdict.Limit, x.Remedies = LimitAUX, []remedy.Remedy{} // that is what refuses next
	}
	right := caller
	right.UserLocked, right.PinnedVM = caller.UserLocked-e.UserOver, caller.PinnedVM-e.PinnedOver
	x.compare(settings, caller, right, ask)
	x.Accounting = accountingOf(&known)
	x.Subject = SubjectOfEntry(e)
	x.Held.UserLocked = caller.UserLocked
	x.Held.Share = percent(caller.UserLocked, x.Numbers.UserLockLimit)
	x.Source, x.Unknown = "event", []string{"who holds the allowance: an event does not say"}
	if e.Errno != 0 && rule.ErrnoName(unix.Errno(e.Errno)) != x.Verdict.Errno {
		// Something else refused: what the kernel said counts.
		limit := LimitOther
		if unix.Errno(e.Errno) == unix.EINVAL {
			limit = LimitGeometry
		}
		x.Verdict = Verdict{Certain: true, Errno: rule.ErrnoName(unix.Errno(e.Errno)), Limit: limit}
		x.KernelFault, x.Remedies = false, []remedy.Remedy{}
	}
	x.sortRemedies()
	return x
}

// wanted is what the process will ask for, as far as that can be told: who maps a buffer
// of an event that is bound to a CPU maps one for each CPU that is online.
func wanted(e *ledger.Entry, ask Ask) Ask {
	if e.Failed == nil || e.Failed.Mapping.CPU < 0 {
		return ask
	}
	if h := e.Held; h != nil {
		ask.Same, ask.SameUser, ask.SamePinned = h.Same, h.SameUser, h.SamePinned
	}
	ask.Buffers = max(1, int64(e.Buffer.Limits.OnlineCPUs)-ask.Same)
	return ask
}

// remedyAll has the remedies help all buffers of an ask.
func (x *Explanation) remedyAll(settings rule.Settings, caller rule.Caller, all Ask) {
	x.Wanted, x.BeyondMachine = all.Buffers, beyondMachine(settings, all)
	x.Remedies = remedies(settings, caller, all)
}

// remedyWait is to wait for pages of the user's that are closed and not released, if that
// is enough.
func (x *Explanation) remedyWait(settings rule.Settings, caller rule.Caller, all Ask, closed int64) {
	caller.UserLocked -= closed
	if closed > 0 && succeed(settings, caller, all) {
		x.Remedies = append([]remedy.Remedy{remedy.Wait(closed, "page")}, x.Remedies...)
	}
}

// Brief are the settings alone that let a refused call succeed, as a row's note has
// them: limits first, for these are what the note is about.
func (x *Explanation) Brief() (list []string) {
	for _, name := range [...]string{remedy.Again, remedy.Limit, remedy.Allowance, remedy.Capable, remedy.Smaller} {
		for _, r := range x.Remedies {
			if r.Name == name {
				list = append(list, r.Brief)
			}
		}
	}
	return list
}

// AddHolders completes the explanation of an event by a snapshot that was taken
// soon after it.
func (x *Explanation) AddHolders(s *snapshot.Snapshot, facts *snapshot.Facts) {
	x.Unknown = append([]string{"who holds the allowance is as of shortly after the call"}, s.Degraded...)
	p := SubjectOf(s, x.Subject.PID, x.Subject.UID)
	x.Subject.Cgroup, x.Subject.Container = p.Cgroup, p.Container
	x.hold(s, x.Subject.UID)
	x.Held.After = true
	x.Checks = checks(x, facts)
}

// AddRecorded completes the explanation of an event by the buffers that were there at that time, as
// a recording has them.
func (x *Explanation) AddRecorded(there []ledger.Entry, e *ledger.Entry) {
	byPID := map[uint32]*Holder{}
	for i := range there {
		b := &there[i]
		if b.Payer() != e.Payer() {
			continue
		}
		h, c := byPID[b.Caller.PID], &b.Caller
		if h == nil {
			h = &Holder{PID: c.PID, Comm: c.Comm, UID: c.UID, Cgroup: c.Cgroup, Container: short(c.Cgroup), Names: c.Names}
			byPID[c.PID] = h
		}
		if b.Buffer.Area == rule.Data {
			h.Buffers++
		}
		h.Pages += b.Buffer.Pages
		h.Extra += b.ChargedPinned
	}
	x.Holders = ranked(byPID, e.Scheme, x.Numbers.UserLockLimit)
	x.Held.Recorded = true
	x.Held.own(x.Holders)
	if x.Accounting.Seen {
		x.Accounting.Basis = "seen in the recording"
	}
	x.Unknown = []string{"what else refuses (other capabilities, seccomp, security modules, lockdown): a recording does not have it"}
	if e.Lost > 0 {
		x.Unknown = append(x.Unknown, fmt.Sprintf("who holds the allowance: %s were lost before", count(int64(e.Lost), "event")))
	}
}

// judge applies the rule.
func judge(settings rule.Settings, caller rule.Caller, ask Ask) *Explanation {
	ask.Buffers = max(1, ask.Buffers)
	limits := settings.Limits()
	t := try(limits, caller, ask)
	before, last := t.before, t.last
	x := &Explanation{
		Version: 1, Pages: ask.Pages, Buffers: ask.Buffers, Wanted: ask.Buffers, Area: ask.Area.String(),
		Numbers: Numbers{
			PageBytes: settings.PageSize, MlockKiB: settings.MlockKiB, OnlineCPUs: settings.OnlineCPUs, Paranoid: settings.Paranoid,
			CapIPCLock: caller.CapIPCLock, UserLockLimit: limits.Allowance,
			UserLocked: before.UserLocked, Extra: last.Extra, PinnedVM: before.PinnedVM, Locked: last.Locked, LockLimit: caller.LockLimit,
			BeforeUser: before.UserLocked - caller.UserLocked, BeforePinned: before.PinnedVM - caller.PinnedVM,
		},
		Verdict: Verdict{Allowed: last.Errno == 0, Certain: true, Errno: rule.ErrnoName(last.Errno), Mapped: t.done},
		Fits:    limits.Fits(caller, ask.Area, ask.Pages),
		Holders: []Holder{}, Notes: []string{}, Remedies: []remedy.Remedy{}, Checks: []Check{}, Unknown: []string{},
	}
	x.Machine, x.BeyondMachine = ask.Machine, beyondMachine(settings, ask)
	x.AtLeast = x.Fits
	v := &x.Verdict
	switch {
	case last.Errno == unix.EINVAL:
		v.Limit = LimitGeometry
		x.Remedies = geometryRemedies(ask)
	case tooLarge(settings, ask):
		x.Fits, x.AtLeast = 0, 0
		*v = Verdict{Certain: true, Errno: cmp.Or(v.Errno, "ENOMEM"), Limit: LimitLargest, Over: max(0, last.Over)}
		x.Remedies = remedies(settings, caller, ask)
	case last.Errno == 0 && x.BeyondMachine:
		x.Fits = ask.Machine / int64(settings.PageSize) / ask.Pages
		x.AtLeast = x.Fits
		*v = Verdict{Certain: true, Errno: "ENOMEM", Limit: LimitMachine, Mapped: x.Fits}
		x.Remedies = remedies(settings, caller, ask)
	case last.Errno == 0 && last.Over > 0:
		v.Over = last.Over
		v.Exempt = "CAP_IPC_LOCK"
		if !caller.CapIPCLock {
			v.Exempt = fmt.Sprintf("perf_event_paranoid %d", settings.Paranoid)
		}
	case last.Errno == unix.EPERM && last.Locked < 0:
		v.Limit = LimitNegative
		x.Remedies = remedies(settings, caller, ask)
	case last.Errno == unix.EPERM:
		v.Limit, v.Over = LimitMemlock, last.Over
		x.Remedies = remedies(settings, caller, ask)
	}
	return x
}

func (x *Explanation) area() rule.Area {
	area, _ := rule.ParseArea(x.Area) // it was written by String
	return area
}

// SubjectOf is who asks, as a snapshot has it.
func SubjectOf(s *snapshot.Snapshot, pid, uid uint32) Subject {
	sub := Subject{PID: pid, UID: uid, OutsideUID: s.Outside(uid)}
	if p, ok := s.Process(pid); ok {
		sub.Comm, sub.Cgroup, sub.Container, sub.Names = p.Comm, p.CgroupPath, short(p.CgroupPath), s.Names.Of(p.CgroupPath)
	}
	return sub
}

// SubjectOfEntry is who was refused, as the event has it.
func SubjectOfEntry(e *ledger.Entry) Subject {
	c := &e.Caller
	return Subject{OutsideUID: -1, PID: c.PID, Comm: c.Comm, UID: c.UID, Cgroup: c.Cgroup, Container: short(c.Cgroup), Names: c.Names}
}

func short(path string) string {
	id := cgroup.Identify(path)
	return id.Short()
}

// hold finds who holds a user's allowance.
func (x *Explanation) hold(s *snapshot.Snapshot, uid uint32) {
	u, ok := s.User(uid)
	x.Held = Held{Estimated: s.Source == snapshot.SourceProc || ok && !u.Known} // nothing, of a user that is not there
	if !ok {
		return
	}
	x.Holders = Holders(s, uid)
	h := &x.Held
	h.UserLocked, h.LockedVM, h.Split = u.PerfLocked, u.LockedVM, s.SplitCounter
	h.Share = percent(u.PerfLocked, s.Allowance())
	h.own(x.Holders)
	for _, ring := range s.IOUring {
		if p, ok := s.Process(ring.PID); ok && p.UID == uid {
			h.IOUring += ring.Pages
		}
	}
}

// own sums up what has an owner.
func (h *Held) own(holders []Holder) {
	for _, holder := range holders {
		h.Buffers += holder.UserPart
	}
	h.Unowned = h.UserLocked - h.Buffers
}

// Holders are the processes whose buffers a user is charged for, the largest
// part of the user's allowance first. A buffer that several processes map is the
// one's that is listed first. Where it is not known who is charged, it is taken
// to be the process's user, less what the process itself has pinned.
func Holders(s *snapshot.Snapshot, uid uint32) []Holder {
	byPID := map[uint32]*Holder{}
	counted := map[[2]uint64]bool{}
	for i := range s.Buffers {
		b := &s.Buffers[i]
		key := [2]uint64{b.ID, uint64(b.Area)}
		if b.PayerUID != uid || counted[key] {
			continue
		}
		counted[key] = true
		h := byPID[b.PID]
		if h == nil {
			h = &Holder{PID: b.PID, UID: uid}
			byPID[b.PID] = h
		}
		if b.Area == rule.Data {
			h.Buffers++
		}
		h.Pages += b.Pages
		h.Extra += b.Extra
	}
	for pid, h := range byPID {
		if p, ok := s.Process(pid); ok {
			h.Comm, h.UID, h.Cgroup, h.Container, h.Names = p.Comm, p.UID, p.CgroupPath, short(p.CgroupPath), s.Names.Of(p.CgroupPath)
			if u, ok := s.User(uid); ok && !u.Known {
				h.Extra = max(0, p.PinnedVM)
				if s.Accounting.Scheme.Clamps() {
					h.Extra = min(h.Pages, h.Extra)
				}
			}
		}
	}
	return ranked(byPID, s.Accounting.Scheme, s.Allowance())
}

// ranked are holders with their parts of a user's allowance, the largest first.
func ranked(byPID map[uint32]*Holder, scheme rule.Scheme, allowance int64) []Holder {
	holders := make([]Holder, 0, len(byPID))
	for _, h := range byPID {
		h.UserPart = scheme.UserPart(h.Pages, h.Extra)
		h.Share = percent(h.UserPart, allowance)
		holders = append(holders, *h)
	}
	slices.SortFunc(holders, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(b.UserPart, a.UserPart), cmp.Compare(a.PID, b.PID))
	})
	return holders
}

// percent is a share, rounded to a tenth.
func percent(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return math.Round(float64(part)*1000/float64(whole)) / 10
}
