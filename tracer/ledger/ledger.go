package ledger

import (
	"cmp"
	"slices"

	"github.com/pinwatch/pinwatch/tracer/ledger/counter"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/self"
)

// Ledger keeps, for every perf buffer, who was charged what, and says of every
// event whether the kernel accounted it right. The rules are in rules.go.
type Ledger struct {
	buffers    map[uint64]*buffer  // by Event.Buffer
	processes  map[uint64]*process // by Event.MM
	users      map[counterKey]*user
	objects    map[uint64]*account // by Object.Key
	spare      []*buffer           // of those that are gone, for the next ones
	holders    map[holderKey]*Holder
	closed     *object.Book
	unreleased object.Unreleased

	lastBuffer, lastProcess uint64
	scheme                  rule.Scheme
	// againStays is set once this kernel was seen to keep the charge of a repeated mmap()
	// after the buffer was freed. From then on every such charge is a certain
	// double-charge.
	againStays bool
	// againWaiting counts the uncertain verdicts that wait for that.
	againWaiting uint64
	summary      Summary
}

// charge is one area of a buffer: who pays how much for it.
type charge struct {
	payer        uint32
	mm           uint64
	process      uint64 // ID of the process that paid
	user, pinned int64
	pages        int64  // of the area
	atNS         uint64 // when it was charged, or for what is older, was known
	// The parts that should not have been charged.
	userOver, pinnedOver int64
	// holder is of what is older than the trace; nil for what an event charged.
	holder *Holder
}

type buffer struct {
	id          uint64
	own         bool       // the tracer's
	preexisting bool       // than the trace
	areas       [2]*charge // by Area; nil where none is live
	room        [2]charge  // what areas point to
	maker       Caller     // who mapped it first, as far as is known
	limits      Limits     // as they were then
	pageSize    uint32     // bytes
	// mapped counts its mappings by the events. The kernel's own count, where no
	// other call disturbs it, is better: it knows of copied and moved ones.
	mapped int32
	// remaps is what further mappings charged and has not come back.
	remaps struct{ user, pinned int64 }
}

type process struct {
	id         uint64
	pid        uint32
	pinned     counter.Counter
	charges    int   // live ones
	overcharge int64 // pages charged beyond the right charge, ever
	// over is what pinned_vm holds and should not: overcharges, and what was
	// refunded to the wrong process. Negative where it holds too little.
	over int64
}

// counterKey names a user's counter: where perf has one of its own, locked_vm is
// another one.
type counterKey struct {
	uid   uint32
	split bool
}

type user struct {
	locked      counter.Counter
	overcharge  int64
	over        int64 // like process.over, of the user's counter
	live        int64 // charged for live buffers and BPF objects
	preexisting int64 // charged for buffers that are older than the trace
	others      int64 // charged by io_uring and others
	own         int64 // charged for the tracer's live buffers and BPF objects
	ownOver     int64 // of over: of the tracer's
	seen        bool  // there was one
	foreign     bool  // somebody else than the tracer charged it
	command     bool  // the traced command has made such charges
	// base is what the counter holds besides: older buffers that are not known, and
	// what is not traced.
	base int64
}

// Summary counts what a ledger has seen. Amounts are pages.
type Summary struct {
	Events   uint64
	Kinds    [Kinds]uint64    // by Kind
	Verdicts [Verdicts]uint64 // by Verdict, the exact ones
	// Doubtful are the uncertain verdicts, by Verdict, and Settled those of
	// them that later evidence showed to be right.
	Doubtful [Verdicts]uint64
	Settled  uint64

	Overcharged   int64  // charged beyond the right charge
	DoubleCharged int64  // charged for further mappings and not given back
	Misdirected   int64  // refunded to a user or process that did not pay
	Leaked        int64  // not refunded when the last mapping went
	Refused       uint64 // with EPERM, by a limit on locked memory
	// Failures are all calls that failed, by errno in the order of the first ones.
	Failures refusal.Failures
	Lost     uint64 // events, as far as is known
	// How far users' counters, and pinned_vm of processes, moved between the
	// calls, by what is not traced.
	ForeignUser, ForeignPinned int64

	Users []Balance // by uid
	// Holders are what is known to be older than the trace, by uid, the largest first.
	Holders []Holder
	// Own counts the tracer's own events, which are in none of the counts above, and
	// OwnUser and OwnPinned what its live buffers and BPF objects are charged.
	Own                uint64
	OwnUser, OwnPinned int64

	Live                 int   // buffers charged during the trace and still mapped
	LiveUser, LivePinned int64 // pages charged for them
	// Objects counts the BPF objects made during the trace that are still there,
	// and ObjectBytes is what memory cgroups were charged for them.
	Objects     int
	ObjectBytes int64
	Scheme      rule.Scheme
}

// live counts a buffer that came or went, and charged what its areas pay.
func (s *Summary) live(b *buffer, change int) {
	if !b.own && !b.preexisting {
		s.Live += change
	}
}

func (s *Summary) charged(own bool, user, pinned int64) {
	if own {
		s.OwnUser += user
		s.OwnPinned += pinned
		return
	}
	s.LiveUser += user
	s.LivePinned += pinned
}

// charged enters pages, some of which should not have been charged.
func (u *user) charged(own bool, pages, over int64) {
	u.over += over
	if own {
		u.own += pages - over
		u.ownOver += over
		return
	}
	u.live += pages - over
}

// total adds to one of the summary's totals, which have nothing of the tracer's.
func (l *Ledger) total(e *Entry, sum *int64, pages int64) {
	if !e.Caller.Self {
		*sum += pages
	}
}

// Balance compares a user's counter in the kernel with the ledger.
type Balance = counter.Balance

// Broken reports whether an invariant was certainly broken.
func (s *Summary) Broken() bool {
	return s.Verdicts[OK] < s.Events-s.doubtful()
}

func (s *Summary) doubtful() (n uint64) {
	for _, d := range s.Doubtful {
		n += d
	}
	return n
}

// Uncertain counts the entries whose verdict is uncertain and was not settled.
func (s *Summary) Uncertain() uint64 { return s.doubtful() - s.Settled }

// New returns an empty ledger.
func New() *Ledger {
	return &Ledger{
		buffers:    make(map[uint64]*buffer),
		processes:  make(map[uint64]*process),
		users:      make(map[counterKey]*user),
		objects:    make(map[uint64]*account),
		holders:    make(map[holderKey]*Holder),
		closed:     object.NewBook(),
		unreleased: object.Unreleased{},
	}
}

// Counts returns the counts up to now, without the users' balances.
func (l *Ledger) Counts() Summary {
	s := l.summary
	s.Scheme = l.scheme
	return s
}

// Summary returns the counts up to now.
func (l *Ledger) Summary() Summary {
	s := l.Counts()
	for key, u := range l.users {
		if u.locked.Known {
			now, others := u.locked.Value, u.others
			if u.locked.Unknown {
				now, others = u.locked.Last, others+u.locked.Last-u.locked.Value
			}
			s.Users = append(s.Users, Balance{UID: key.uid, SplitCounter: key.split, Others: others, Counter: now, Live: u.live, Preexisting: u.preexisting,
				Own: u.own + u.ownOver, Over: u.over - u.ownOver, Base: u.base, Self: !u.foreign && self.Reserved(key.uid)})
		}
	}
	s.Holders = l.preexistingHolders()
	slices.SortFunc(s.Users, func(a, b Balance) int {
		if a.UID != b.UID || a.SplitCounter == b.SplitCounter {
			return cmp.Compare(a.UID, b.UID)
		} else if a.SplitCounter {
			return 1
		}
		return -1
	})
	return s
}

// Apply enters one event. Events must come in the order in which the tracer
// yields them: a call that overlaps no other comes after all that ended before
// it began.
func (l *Ledger) Apply(ev Event) Entry {
	e := Entry{Event: ev}
	l.Enter(&e)
	return e
}

// Enter completes an entry that has its event alone, as Apply does. In place, for an entry
// is large.
func (l *Ledger) Enter(e *Entry) {
	if e.Lost > l.summary.Lost {
		l.forget(e.Lost)
	}
	switch e.Op {
	case AlreadyMapped:
		*e = l.alreadyMapped(e.Event)
	case Close:
		l.closing(e)
	default:
		l.judge(e)
	}
	e.Number, e.Refusals, e.Scheme = l.summary.Events, l.summary.Refused, l.scheme
}

// judge is about a call.
func (l *Ledger) judge(e *Entry) {
	switch {
	case e.Object != nil:
		l.recognize(e)
	case e.Op != Account:
		l.forgetMapped(e)
	}
	u, p := l.read(e)
	switch {
	case e.Object != nil:
		l.judgeObject(e, u)
	case e.Op == Account:
		l.judgeAccount(e, u, p)
	default:
		l.judgeBuffer(e, u, p)
	}
	l.settle(e, u, p)
}

// read takes the readings at a call's entry. A call that is not about the counter of a
// user or of a process has a nil one.
func (l *Ledger) read(e *Entry) (u *user, p *process) {
	if e.Object == nil || e.Object.Rlimit {
		u = l.readUser(e)
	}
	if e.Object == nil && (e.Op != Account || e.Process.Owner != 0) {
		p = l.readProcess(e)
	}
	return u, p
}

func (l *Ledger) readUser(e *Entry) *user {
	u := l.user(e.Payer(), e.SplitCounter)
	if u.seen && !e.User.Shared {
		l.closed.Moved(e.counter(), e.User.Before-u.locked.Value)
	}
	if !u.locked.Known && (!e.User.Shared || !u.seen) {
		// The first reading of all is taken as it is: nothing that the ledger knows
		// of is in it.
		u.base = e.User.Before - u.live - u.preexisting - u.others - u.own - u.over
		u.locked.Known, u.locked.Value = true, e.User.Before
	}
	u.seen, u.foreign = true, u.foreign || !e.Caller.Self
	settled := u.locked.Before(&e.User)
	u.base += settled.Foreign
	u.others += settled.Others
	l.summary.Settled += settled.Right
	l.total(e, &l.summary.ForeignUser, settled.Foreign)
	return u
}

func (l *Ledger) readProcess(e *Entry) *process {
	p := l.process(&e.Event)
	e.ProcessID = p.id
	settled := p.pinned.Before(&e.Process)
	l.summary.Settled += settled.Right
	l.total(e, &l.summary.ForeignPinned, settled.Foreign)
	return p
}

// overIn is what the counter has that it should not: no more than all of it, for it ends
// with the user's last process.
func (u *user) overIn(e *Entry) int64 { return min(u.over, max(0, e.User.Before)) }

// settle takes the readings at a call's return, adds what every entry carries, and
// counts it.
func (l *Ledger) settle(e *Entry, u *user, p *process) {
	account := e.Op == Account // whose counters alone say what it did
	waits := e.Uncertain && e.Verdict == OK && !account && !e.Caller.Self
	if u != nil {
		u.locked.After(&e.User, e.ChargedUser, waits && e.User.Shared)
		u.locked.Unknown = u.locked.Unknown || account && e.User.Shared
		e.UserOvercharge, e.UserOver = u.overcharge, u.overIn(e)
		if e.Kind == Refusal {
			e.Held = l.held(e, u)
		}
	}
	if p != nil {
		p.pinned.After(&e.Process, e.ChargedPinned, waits && e.Process.Shared && !e.User.Shared)
		p.pinned.Unknown = p.pinned.Unknown || account && e.Process.Shared
		e.ProcessOvercharge, e.PinnedOver = p.overcharge, p.over
	}
	e.Fits = l.fits(e)
	l.count(e)
}

// judgeBuffer enters a call on a perf buffer.
func (l *Ledger) judgeBuffer(e *Entry, u *user, p *process) {
	switch {
	case e.Errno != 0:
		l.refusal(e, p, u)
	case e.Op == Map && (e.Buffer.Existing || l.raced(&e.Event)):
		l.mapping(e, p, u)
	case e.Op == Map:
		l.charge(e, p, u)
	default:
		l.unmap(e, p, u)
	}
}

// raced reports whether another call made the buffer between this one's entry and its
// decision: it looked new, and was there.
func (l *Ledger) raced(ev *Event) bool {
	b := l.buffers[ev.Buffer.Key]
	return b != nil && b.areas[ev.Buffer.Area] != nil && (l.summary.Lost == 0 || ev.Buffer.Shared)
}

func (l *Ledger) count(e *Entry) {
	s := &l.summary
	if e.Caller.Self {
		s.Own++
		return
	}
	s.Events++
	s.Kinds[e.Kind]++
	if e.Kind == Refusal {
		s.Failures.Add(e.Errno, s.Events)
	}
	if e.Uncertain {
		s.Doubtful[e.Verdict]++
	} else {
		s.Verdicts[e.Verdict]++
	}
}

// fits counts the further calls like e that will succeed; -1 where no limit holds, or
// none is known.
func (l *Ledger) fits(e *Entry) int64 {
	switch {
	case e.Object != nil:
		return e.objectFits()
	case e.Op == Account || e.mayExceed() || e.Caller.LockLimit >= rule.Unlimited:
		return -1
	}
	b := &e.Buffer
	caller := rule.Caller{UserLocked: e.User.After, PinnedVM: e.Process.After, LockLimit: e.Caller.LockLimit}
	limits := rule.Limits{Allowance: b.Limits.Allowance, Paranoid: int(b.Limits.Paranoid), Scheme: l.scheme}
	room := limits.Room(caller, b.Pages)
	if limits.Scheme == rule.SchemeEither {
		limits.Scheme = rule.SchemeCumulative
		if limits.Room(caller, b.Pages) != room {
			return FitsUnknown
		}
	}
	return room
}

// process returns the account of the process that ev charges.
func (l *Ledger) process(ev *Event) *process {
	p := l.processes[ev.Process.Owner]
	// An mm may have died, and its address been used again: by another process,
	// if the pid says so and the counter is not the old one's.
	other := p != nil && ev.Op == Map && p.pid != ev.Caller.PID &&
		(p.charges == 0 || !ev.Process.Shared && ev.Process.Before != p.pinned.Value)
	if p == nil || other {
		l.lastProcess++
		p = &process{id: l.lastProcess, pid: ev.Caller.PID}
		l.processes[ev.Process.Owner] = p
	}
	return p
}

func (l *Ledger) user(uid uint32, split bool) *user {
	key := counterKey{uid, split}
	u := l.users[key]
	if u == nil {
		u = &user{}
		l.users[key] = u
	}
	return u
}

// open enters a charge of a buffer's area.
func (l *Ledger) open(e *Entry, p *process, u *user) {
	if e.Buffer.Key == 0 {
		return // it was gone before it could be read
	}
	b := l.buffers[e.Buffer.Key]
	if b != nil && b.areas[e.Buffer.Area] != nil {
		// The address is used again: the end of the old one was lost.
		for _, c := range b.areas {
			if c != nil && c.holder == nil {
				l.endedUnseen(e, c.payer, c.user)
			}
		}
		l.close(e.Buffer.Key, rule.Data)
		l.close(e.Buffer.Key, rule.AUX)
		b = nil
	}
	if b == nil {
		b = l.newBuffer(e)
		l.buffers[e.Buffer.Key] = b
		l.summary.live(b, 1)
	}
	e.BufferID = b.id
	b.count(&e.Event, 1)
	b.areas[e.Buffer.Area] = &b.room[e.Buffer.Area]
	*b.areas[e.Buffer.Area] = charge{payer: e.Payer(), mm: e.Process.Owner, process: p.id, user: e.ChargedUser, pinned: e.ChargedPinned, pages: e.Buffer.Pages, atNS: e.TimeNS,
		userOver: max(0, e.ChargedUser-e.ExpectedUser), pinnedOver: max(0, e.ChargedPinned-e.ExpectedPinned)}
	p.charges++
	p.over += b.areas[e.Buffer.Area].pinnedOver
	u.charged(b.own, e.ChargedUser, b.areas[e.Buffer.Area].userOver)
	l.summary.charged(b.own, e.ChargedUser, e.ChargedPinned)
}

// newBuffer takes the memory of one that is gone, if there is any. The number is
// the entry's, if it has one.
func (l *Ledger) newBuffer(e *Entry) *buffer {
	id := e.BufferID
	if id == 0 {
		l.lastBuffer++
		id = l.lastBuffer
	}
	var b *buffer
	if last := len(l.spare) - 1; last >= 0 {
		b, l.spare = l.spare[last], l.spare[:last]
	} else {
		b = new(buffer)
	}
	*b = buffer{id: id, own: e.Caller.Self, maker: e.Caller, limits: e.Buffer.Limits, pageSize: e.PageSize}
	return b
}

// count follows the number of mappings.
func (b *buffer) count(ev *Event, change int32) {
	b.mapped += change
	if !ev.Buffer.Shared {
		b.mapped = ev.Buffer.Mappings.After
	}
}

// endedUnseen balances what a user got back for a charge whose end was lost, where that was
// taken for the doing of what is not traced. Else it is unexplained until the charge is closed.
func (l *Ledger) endedUnseen(e *Entry, payer uint32, pages int64) {
	u, now := l.users[counterKey{payer, false}], e.User.Before
	if u == nil {
		return
	}
	if e.User.Shared || payer != e.Payer() {
		now = u.locked.Value
	}
	if now-u.live-u.preexisting-u.others-u.own-u.over-u.base > -pages {
		u.base += pages
	}
}

// close takes an area out of the ledger. Nothing happens where it is not there.
func (l *Ledger) close(key uint64, area rule.Area) {
	b := l.buffers[key]
	if b == nil || b.areas[area] == nil {
		return
	}
	c := b.areas[area]
	b.areas[area] = nil
	if c.holder == nil {
		l.summary.charged(b.own, -c.user, -c.pinned)
	}
	if b.areas == [2]*charge{} {
		delete(l.buffers, key)
		l.summary.live(b, -1)
		l.spare = append(l.spare, b)
	}
	if p := l.processes[c.mm]; p != nil && p.id == c.process {
		p.charges--
		p.over -= c.pinnedOver
	}
	u := l.users[counterKey{c.payer, false}]
	switch {
	case c.holder != nil:
		u.preexisting -= c.user
		c.holder.release(c, area)
	case u != nil:
		u.charged(b.own, -c.user, -c.userOver)
	}
}

// forget is for events that were lost: no counter is known any more, and what
// waits will not be settled.
func (l *Ledger) forget(lost uint64) {
	l.summary.Lost = lost
	l.closed.Forget()
	clear(l.unreleased)
	for _, u := range l.users {
		u.locked = counter.Counter{}
	}
	for _, p := range l.processes {
		p.pinned = counter.Counter{}
	}
}
