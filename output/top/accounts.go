package top

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/output/top/trend"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// How much history is kept.
const (
	maxRows    = 4096 // ledger entries, for the live events
	maxNotable = 8    // refusals and broken rules of each process
	maxGone    = 512  // processes that are gone and had either
	// trendWindow is what the trends of a running kernel show. Those of a recording show all of it.
	trendWindow = 5 * time.Minute
)

// accounts are what is known of every process and user, by snapshots and by
// ledger entries since. A value is never changed once it is shown: whatever
// brings news makes a new one, and copies what it changes. Amounts are pages.
type accounts struct {
	processes map[uint32]*process // by pid
	users     map[uint32]*user    // by uid
	buffers   map[bufferKey]held  // charged during the trace and still mapped
	paths     map[uint64]string   // of cgroups, by id, as far as they were seen
	rows      []*row.Row          // the last ledger entries, the oldest first
	counts    ledger.Summary
	lost      uint64
	rate      rate // of all events
	nowNS     uint64
	clock     trend.Clock
	groups    map[groupKey]group // by cgroup

	snapshot   *snapshot.Snapshot // nil: none yet
	names      map[uint32]string  // of users, by uid
	containers map[string]string  // by cgroup path
	objects    []Object
	charged    map[string]trend.Series // what was charged for the objects, by their ids
	limits     limits
}

// newAccounts know nothing yet.
func newAccounts(replay bool) *accounts {
	if replay {
		return &accounts{clock: trend.Over(0)}
	}
	return &accounts{clock: trend.Over(trendWindow)}
}

// afterGap is what is known when a part of a recording is missing: what happened before it.
func (a *accounts) afterGap() *accounts {
	return &accounts{rows: a.rows, clock: a.clock, nowNS: a.nowNS}
}

// groupKey names a cgroup: by its path, and by its id where no path is known.
type groupKey struct {
	path string
	id   uint64
}

// group is what the processes of a cgroup have been charged, and with all that are in cgroups
// below it.
type group struct {
	pinned, total int64
	trend, totals trend.Series
}

// limits are the settings that the accounting depends on.
type limits struct {
	pageSize int64 // bytes; 0: not known yet
	cpus     int64
	rule.Limits
}

// known reports whether there is anything to hold a call against: of that other chargers say nothing.
func (l limits) known() bool { return l.cpus != 0 }

// mlockKiB is perf_event_mlock_kb, as far as the allowance tells: whole pages.
func (l limits) mlockKiB() int64 {
	if l.cpus == 0 {
		return 0
	}
	return l.Allowance / l.cpus * l.pageSize / 1024
}

type bufferKey struct {
	id   uint64
	area rule.Area
}

// held is one area of a buffer that was charged during the trace.
type held struct {
	pid, uid    uint32
	pages       int64
	user, extra int64 // charged to the user and to the process
}

// process is what is known of one.
type process struct {
	pid, uid uint32
	comm     string
	cgroup   string // path; "": not known
	cgroupID uint64

	pinned      int64
	limit       int64
	limitKnown  bool
	capIPCLock  bool
	buffers     int64
	bufferPages int64
	share       int64 // of its user's allowance: charged to the user for its buffers
	size        int64 // of the last buffer that it mapped or has

	overcharged int64 // charged beyond the right charge, ever
	over        int64 // of that, what pinned_vm still holds
	refusals    uint64
	events      uint64
	rate        rate
	lastNS      uint64
	last        *row.Row     // its last ledger entry
	trend       trend.Series // of pinned
	notable     []*row.Row
	broken      *row.Row // its last entry that breaks a rule
	gone        bool     // a snapshot no longer has it
}

// user is what is known of one. locked is the counter that perf buffers are
// charged to.
type user struct {
	uid         uint32
	locked      int64
	lockedKnown bool
	lockedNS    uint64       // readings from then on are later
	estimate    int64        // of it, by the snapshot, where the kernel does not tell
	lockedVM    int64        // user_struct.locked_vm, by the snapshot
	trend       trend.Series // of what is shown as its counter
	otherKnown  bool
	size        int64
	overcharged int64
	refusals    uint64
	events      uint64
	rate        rate
	notable     []*row.Row
	broken      *row.Row
}

// idle says that there is nothing to tell of a process.
func (p *process) idle() bool {
	return p.pinned == 0 && p.buffers == 0 && p.share == 0 && p.events == 0
}

// groupKey is the cgroup of a process, as far as it is known.
func (p *process) groupKey() groupKey {
	if p.cgroup != "" {
		return groupKey{path: p.cgroup}
	}
	return groupKey{id: p.cgroupID}
}

// caller is the process as the rulebook wants it.
func (p *process) caller(userLocked int64) rule.Caller {
	return rule.Caller{UserLocked: userLocked, PinnedVM: p.pinned, LockLimit: p.limit, CapIPCLock: p.capIPCLock}
}

// clone is a copy to change: maps of pointers are new, what they point to is
// not.
func (a *accounts) clone() *accounts {
	b := *a
	b.processes, b.users, b.buffers, b.paths = maps.Clone(a.processes), maps.Clone(a.users), maps.Clone(a.buffers), maps.Clone(a.paths)
	b.groups, b.containers = maps.Clone(a.groups), maps.Clone(a.containers)
	if b.processes == nil {
		b.processes, b.users = map[uint32]*process{}, map[uint32]*user{}
		b.buffers, b.paths = map[bufferKey]held{}, map[uint64]string{}
		b.groups = map[groupKey]group{}
	}
	if b.containers == nil {
		b.containers = map[string]string{}
	}
	return &b
}

// change returns a process to change: a copy, or a new one.
func (a *accounts) change(pid uint32) *process {
	p := &process{pid: pid}
	if old := a.processes[pid]; old != nil {
		*p = *old
	}
	a.processes[pid] = p
	return p
}

func (a *accounts) changeUser(uid uint32) *user {
	u := &user{uid: uid}
	if old := a.users[uid]; old != nil {
		*u = *old
	}
	a.users[uid] = u
	return u
}

// withEntries is a after some ledger entries, in their order.
func (a *accounts) withEntries(m Entries) *accounts {
	if len(m.Rows) == 0 && m.Lost <= a.lost {
		return a
	}
	b := a.clone()
	for _, r := range m.Rows {
		b.enter(r)
	}
	happened := slices.DeleteFunc(slices.Clone(m.Rows), func(r *row.Row) bool { return r.Kind == ledger.Preexisting || r.Kind == ledger.Closing })
	b.rows = lastOf(a.rows, happened, maxRows)
	if len(m.Rows) > 0 {
		b.counts = m.Counts
	}
	b.lost = max(a.lost, m.Lost, m.Counts.Lost)
	return b
}

// lastOf is the end of two lists, in a new one.
func lastOf(old, more []*row.Row, most int) []*row.Row {
	all := slices.Concat(old, more)
	return slices.Clone(all[max(0, len(all)-most):])
}

// enter adds one ledger entry.
func (a *accounts) enter(r *row.Row) {
	e := &r.Entry
	a.clock = a.clock.At(e.TimeNS)
	if l := e.Buffer.Limits; l.Allowance > 0 || e.Op == ledger.Map {
		a.limits = limits{pageSize: int64(e.PageSize), cpus: int64(l.OnlineCPUs), Limits: rule.Limits{Allowance: l.Allowance, Paranoid: int(l.Paranoid), Scheme: a.schemeAt(e)}}
	}
	switch e.Kind {
	case ledger.Preexisting:
		a.found(e)
		return
	case ledger.Closing:
		return
	}
	p, u := a.change(e.Caller.PID), a.changeUser(e.Payer())
	defer a.settle(p.groupKey(), p.pinned, e)
	p.comm, p.uid, p.gone, p.last, p.lastNS = e.Caller.Comm, e.Caller.UID, false, r, e.TimeNS
	a.place(&e.Caller)
	p.cgroupID = e.Caller.CgroupID
	if path := cmp.Or(e.Caller.Cgroup, a.paths[p.cgroupID]); path != "" {
		p.cgroup = path
	} else if p.cgroup != "" && p.cgroupID != 0 {
		a.paths[p.cgroupID] = p.cgroup
	}
	p.events++
	u.events++
	if e.Kind == ledger.Refusal && e.Errno == rule.EPERM {
		p.refusals++
		u.refusals++
		p.trend, u.trend = p.trend.Refuse(a.clock, e.TimeNS), u.trend.Refuse(a.clock, e.TimeNS)
	}
	p.broken, u.broken = worse(p.broken, r), worse(u.broken, r)
	if e.Verdict != ledger.OK || e.Kind == ledger.Refusal {
		p.notable = lastOf(p.notable, []*row.Row{r}, maxNotable)
		u.notable = lastOf(u.notable, []*row.Row{r}, maxNotable)
	}
	p.overcharged, p.over, u.overcharged = e.ProcessOvercharge, e.PinnedOver, e.UserOvercharge
	if e.Op == ledger.Map {
		p.limit, p.limitKnown, p.capIPCLock = e.Caller.LockLimit, true, e.Caller.CapIPCLock
		p.size, u.size = e.Buffer.Pages, e.Buffer.Pages
	}
	u.charged(e, a.clock)
	if a.snapshot != nil && e.TimeNS <= a.snapshot.TimeNS {
		return // the snapshot has the counters of later
	}
	p.pinned = e.Process.After
	a.move(e)
}

// charged takes an entry's reading of the user's counter over, if it is the latest: a
// snapshot from /proc has none, and takes none away.
func (u *user) charged(e *ledger.Entry, c trend.Clock) {
	if e.TimeNS < u.lockedNS {
		return
	}
	u.locked, u.lockedKnown, u.lockedNS = e.User.After, true, e.TimeNS
	if e.User.Gone {
		u.locked = 0 // the counter went with the user's last process
	}
	u.trend = u.trend.Add(c, e.TimeNS, u.locked)
}

// withObjects is a with other BPF objects.
func (a *accounts) withObjects(objects []Object) *accounts {
	b := *a
	b.objects, b.charged = objects, make(map[string]trend.Series, len(objects))
	for i := range objects {
		o := &objects[i]
		b.charged[o.id()] = a.charged[o.id()]
		if o.Charged >= 0 {
			b.charged[o.id()] = b.charged[o.id()].Add(a.clock, a.clock.Now(), o.Charged)
		}
	}
	return &b
}

// settle adds what an entry has made of its process to the trends. was is pinned_vm before, in
// a cgroup that may be known better now.
func (a *accounts) settle(from groupKey, was int64, e *ledger.Entry) {
	p := a.processes[e.Caller.PID] // a copy of this entry's own
	p.trend = p.trend.Add(a.clock, e.TimeNS, p.pinned)
	to := p.groupKey()
	if from != to && was != 0 {
		a.grow(from, -was, e.TimeNS)
		was = 0
	}
	a.grow(to, p.pinned-was, e.TimeNS)
	if e.Kind == ledger.Refusal && e.Errno == rule.EPERM {
		g := a.groups[to]
		g.trend = g.trend.Refuse(a.clock, e.TimeNS)
		a.groups[to] = g
		for path := range upwards(to.path) {
			g := a.groups[groupKey{path: path}]
			g.totals = g.totals.Refuse(a.clock, e.TimeNS)
			a.groups[groupKey{path: path}] = g
		}
	}
}

// grow adds pages to what a cgroup is charged.
func (a *accounts) grow(key groupKey, pages int64, atNS uint64) {
	g := a.groups[key]
	g.pinned += pages
	g.trend = g.trend.Add(a.clock, atNS, g.pinned)
	a.groups[key] = g
	for path := range upwards(key.path) {
		g := a.groups[groupKey{path: path}]
		g.total += pages
		g.totals = g.totals.Add(a.clock, atNS, g.total)
		a.groups[groupKey{path: path}] = g
	}
}

// place takes over what an entry knows of its caller's cgroup: of a recording that is all there
// is.
func (a *accounts) place(c *ledger.Caller) {
	if c.Cgroup == "" {
		return
	}
	if c.CgroupID != 0 {
		a.paths[c.CgroupID] = c.Cgroup
	}
	if _, known := a.containers[c.Cgroup]; !known {
		id := cgroup.Identify(c.Cgroup)
		a.containers[c.Cgroup] = cmp.Or(c.Names.String(), id.Short())
	}
}

// schemeAt is how this kernel is known to account at an entry: as the trace has seen it,
// else as the snapshot has it.
func (a *accounts) schemeAt(e *ledger.Entry) rule.Scheme {
	if e.Scheme != rule.SchemeUnknown {
		return e.Scheme
	}
	return a.limits.Scheme
}

// found adds what was mapped before a recording began.
func (a *accounts) found(e *ledger.Entry) {
	p, u := a.change(e.Caller.PID), a.changeUser(e.Payer())
	defer a.settle(p.groupKey(), p.pinned, e)
	a.place(&e.Caller)
	p.comm, p.uid, p.cgroup, p.cgroupID = e.Caller.Comm, e.Caller.UID, e.Caller.Cgroup, e.Caller.CgroupID
	p.pinned, p.limit, p.limitKnown, p.capIPCLock = e.Process.After, e.Caller.LockLimit, true, e.Caller.CapIPCLock
	p.size, u.size = e.Buffer.Pages, e.Buffer.Pages
	if e.User.After != 0 {
		u.locked, u.lockedKnown = e.User.After, true
		u.trend = u.trend.Add(a.clock, e.TimeNS, u.locked)
	}
	a.move(e)
}

// worse is the row to show of two: the later one that breaks a rule, but none
// that is uncertain after one that is not.
func worse(old, later *row.Row) *row.Row {
	if later.Verdict == ledger.OK || old != nil && later.Uncertain && !old.Uncertain {
		return old
	}
	return later
}

// move adds a charge to the process that pays it, or takes it off.
func (a *accounts) move(e *ledger.Entry) {
	switch e.Kind {
	case ledger.Charge, ledger.Preexisting:
		h := held{pid: e.Caller.PID, uid: e.Payer(), pages: e.Buffer.Pages, user: e.ChargedUser, extra: e.ChargedPinned}
		if e.BufferID != 0 {
			a.buffers[bufferKey{e.BufferID, e.Buffer.Area}] = h
		}
		a.processes[e.Caller.PID].hold(h, 1) // a copy of this call's own
	case ledger.Refund:
		areas := []rule.Area{rule.AUX}
		if e.Buffer.Mappings.After == 0 {
			areas = []rule.Area{rule.Data, rule.AUX}
		}
		for _, area := range areas {
			key := bufferKey{e.BufferID, area}
			h, ok := a.buffers[key]
			switch {
			case ok:
				delete(a.buffers, key)
			case area == e.Buffer.Area: // older than the trace
				h = held{pid: e.Caller.PID, uid: e.Payer(), pages: e.Buffer.Recorded[rule.Data].Pages, user: -e.ChargedUser, extra: -e.ChargedPinned}
			default:
				continue
			}
			if a.processes[h.pid] != nil {
				a.change(h.pid).hold(h, -1)
			}
		}
	}
}

// hold adds a buffer (sign 1) or takes it away (sign -1).
func (p *process) hold(h held, sign int64) {
	p.buffers = max(0, p.buffers+sign)
	p.bufferPages = max(0, p.bufferPages+sign*h.pages)
	p.share = max(0, p.share+sign*h.user)
}

// withSnapshot is a with what a snapshot says of the counters. History stays.
func (a *accounts) withSnapshot(m Snapshot) *accounts {
	b, s := a.clone(), m.Snapshot
	b.snapshot, b.names, b.containers = s, m.Names, m.Containers
	b.clock = a.clock.At(s.TimeNS)
	b.limits = limits{pageSize: int64(s.PageSize), cpus: int64(s.OnlineCPUs)}
	if s.PageSize > 0 {
		b.limits.Limits = s.Settings().Limits()
	}
	if a.counts.Scheme != rule.SchemeUnknown {
		b.limits.Scheme = a.counts.Scheme
	}
	seen := make(map[uint32]bool, len(s.Processes))
	for i := range s.Processes {
		seen[s.Processes[i].PID] = true
		b.change(s.Processes[i].PID).read(&s.Processes[i])
	}
	for i := range s.Buffers {
		// The copies are this function's own by now.
		if buffer := &s.Buffers[i]; seen[buffer.PID] {
			p := b.processes[buffer.PID]
			p.share += b.limits.Scheme.UserPart(buffer.Pages, buffer.Extra)
			if p.size == 0 {
				p.size = buffer.Pages
			}
		}
	}
	for i := range s.Processes {
		if s.Source == snapshot.SourceProc { // where no buffer tells what it was charged
			b.processes[s.Processes[i].PID].share = s.UserPart(&s.Processes[i])
		}
	}
	for _, p := range b.processes {
		if p.cgroup != "" && p.cgroupID != 0 {
			b.paths[p.cgroupID] = p.cgroup
		}
	}
	b.bury(seen)
	b.readUsers(s.Users, s.TimeNS)
	b.sample(s.TimeNS)
	return b
}

// read takes a snapshot's values over.
func (p *process) read(s *snapshot.Process) {
	p.comm, p.uid, p.cgroup, p.gone = s.Comm, s.UID, s.CgroupPath, false
	p.pinned, p.limit, p.limitKnown, p.capIPCLock = s.PinnedVM, s.LockLimit, true, s.CapIPCLock
	p.buffers, p.bufferPages, p.share = int64(s.Buffers), s.BufferPages, 0
}

func (a *accounts) readUsers(users []snapshot.User, atNS uint64) {
	for i := range users {
		s := &users[i]
		u := a.changeUser(s.UID)
		u.otherKnown = s.Known
		u.estimate = s.PerfLocked
		if s.Known {
			u.lockedNS = atNS + 1 // of what came until then it knows
			u.locked, u.lockedKnown, u.lockedVM = s.PerfLocked, true, s.LockedVM
		}
	}
}

// sample adds what a snapshot has made known to the trends, and forgets the cgroups without
// processes.
func (a *accounts) sample(atNS uint64) {
	sums := make(map[groupKey]int64, len(a.groups))
	for pid, p := range a.processes {
		sums[p.groupKey()] += p.pinned
		if p.pinned != p.trend.Now() {
			p = a.change(pid)
			p.trend = p.trend.Add(a.clock, atNS, p.pinned)
		}
	}
	there := make(map[groupKey]bool, len(a.groups))
	for key := range sums {
		there[key] = true
		for path := range upwards(key.path) {
			there[groupKey{path: path}] = true
		}
	}
	for key, g := range maps.Clone(a.groups) {
		if _, used := sums[key]; !used && g.pinned != 0 {
			a.grow(key, -g.pinned, atNS)
		}
	}
	for key, pinned := range sums {
		a.grow(key, pinned-a.groups[key].pinned, atNS)
	}
	maps.DeleteFunc(a.groups, func(key groupKey, _ group) bool { return !there[key] })
	held := sharesByUser(a)
	for uid := range a.users {
		locked, _ := a.lockedOf(uid, held[uid])
		u := a.changeUser(uid)
		u.trend = u.trend.Add(a.clock, atNS, locked)
	}
}

// bury takes out the processes that a snapshot does not have. Those of which
// there is something to tell stay for a while, without what they held.
func (a *accounts) bury(seen map[uint32]bool) {
	var gone []*process
	for pid, p := range a.processes {
		switch {
		case seen[pid] || p.lastNS > a.snapshot.TimeNS:
		case len(p.notable) == 0:
			delete(a.processes, pid)
		default:
			p := a.change(pid)
			p.gone, p.pinned, p.buffers, p.bufferPages, p.share = true, 0, 0, 0, 0
			gone = append(gone, p)
		}
	}
	if len(gone) <= maxGone {
		return
	}
	slices.SortFunc(gone, func(x, y *process) int { return cmp.Compare(y.lastNS, x.lastNS) })
	for _, p := range gone[maxGone:] {
		delete(a.processes, p.pid)
	}
}

// at is a with the rates up to a moment.
func (a *accounts) at(nowNS uint64) *accounts {
	b := *a
	b.nowNS, b.clock = nowNS, a.clock.At(nowNS)
	b.rate = a.roll(a.rate, a.counts.Events, nowNS)
	b.processes, b.users = maps.Clone(a.processes), maps.Clone(a.users)
	for pid, p := range a.processes {
		if p.events > 0 {
			b.change(pid).rate = a.roll(p.rate, p.events, nowNS)
		}
	}
	for uid, u := range a.users {
		if u.events > 0 {
			b.changeUser(uid).rate = a.roll(u.rate, u.events, nowNS)
		}
	}
	return &b
}

// roll is the rate up to a moment. What was not there at the moment before had
// no events then.
func (a *accounts) roll(r rate, count, nowNS uint64) rate {
	if r.atNS == 0 {
		r.atNS = a.nowNS
	}
	return r.next(count, nowNS)
}

// lockedOf is what a user's counter holds, or at least holds: where the kernel
// does not tell, what its buffers are known to be charged.
func (a *accounts) lockedOf(uid uint32, held int64) (pages int64, known bool) {
	u := a.users[uid]
	switch {
	case u == nil:
		return held, false
	case u.lockedKnown:
		return u.locked, true
	}
	return max(held, u.estimate), false
}

// fits is how many more buffers of its size a process can map; -1: no limit, and
// ledger.FitsUnknown.
// What the ledger said with its last entry is better than the rule, as long as
// nothing has moved since: it knows how this kernel accounts.
func (a *accounts) fits(p *process, userLocked int64) int64 {
	if !a.limits.known() {
		return ledger.FitsUnknown
	}
	if e := p.last; e != nil && e.Op == ledger.Map && e.Fits != ledger.FitsUnknown && e.Scheme == a.limits.Scheme && p.pinned == e.Process.After && userLocked == e.User.After {
		return e.Fits
	}
	return a.limits.Room(p.caller(userLocked), a.sizeOf(p))
}

// sizeOf is the size of buffer that headroom is counted in: the process's own,
// else what perf maps on its own account.
func (a *accounts) sizeOf(p *process) int64 {
	if p.size > 0 {
		return p.size
	}
	return a.usualSize()
}

// usualSize is 512 KiB and the control page.
func (a *accounts) usualSize() int64 {
	if a.limits.pageSize == 0 {
		return 129
	}
	return 512*1024/a.limits.pageSize + 1
}
