package ledger

import (
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Object is a BPF map or program, Payer a memory cgroup that pays for one, and Closed what is
// closed and not yet released.
type (
	Object = object.Object
	Payer  = object.Payer
	Closed = object.Closed
)

// account is what the ledger keeps of an object that is there.
type account struct {
	payer uint32
	pid   uint32 // who made it
	pages int64  // charged to the user
	// Charged to cgroups, in bytes.
	bytes, pageBytes int64
	paid             object.Paid
	watched          bool
	command, own     bool // made by the traced command, by the tracer
	id               uint32
	program          bool
}

// Charged is what one object is charged.
type Charged struct {
	ID      uint32
	Program bool
	Pages   int64 // to a user
	Bytes   int64 // to cgroups
}

// Objects are those that were made during the trace and are still there.
func (l *Ledger) Objects() (list []Charged) {
	for _, a := range l.objects {
		list = append(list, Charged{a.id, a.program, a.pages, a.bytes})
	}
	return list
}

// errnoMemory is what a memory cgroup refuses with.
const errnoMemory = 12 // ENOMEM

// recognize says of a known object's event whose it is. The kernel frees objects in a
// worker of its own, when their ids are free already.
func (l *Ledger) recognize(e *Entry) {
	a := l.objects[e.Object.Key]
	if a == nil || e.Op == Create {
		return
	}
	e.Caller.Command, e.Caller.Self = a.command, a.own
	if e.Object.ID == 0 {
		e.Object.ID = a.id
	}
}

// judgeObject enters a call on a BPF object. Where cgroups pay there is no user.
func (l *Ledger) judgeObject(e *Entry, u *user) {
	switch {
	case e.Errno != 0:
		l.objectRefusal(e, u)
	case e.Op == Create:
		l.objectCharge(e, u)
	case e.Op == Grow:
		l.objectGrowth(e)
	default:
		l.objectRefund(e, u)
	}
}

// objectCharge is a new object. Its user is charged the pages that the object
// itself records, no more and no less. Where cgroups pay, what they were charged
// is what it costs: there is no second number to hold against it.
func (l *Ledger) objectCharge(e *Entry, u *user) {
	e.Kind = Charge
	o := e.Object
	l.closed.Gone(o.Key)
	delete(l.unreleased, o.Key)
	if old := l.objects[o.Key]; old != nil { // the address is used again: the end of the old one was lost
		l.endedUnseen(e, old.payer, old.pages)
		l.closeObject(o.Key)
	}
	a := &account{id: o.ID, program: o.Program, payer: e.Payer(), pid: e.Caller.PID, command: e.Caller.Command, own: e.Caller.Self, watched: o.Watched, bytes: o.Charged(), pageBytes: o.PageBytes(), paid: object.Paid{}}
	a.paid.Add(o)
	if o.Rlimit {
		e.ExpectedUser, e.ChargedUser = o.Pages, o.Pages
		e.Uncertain = !e.User.Undisturbed()
		if !e.Uncertain {
			e.ChargedUser = e.User.Delta()
		}
		if e.Excess = e.excess(); e.Excess > 0 {
			e.Verdict = Overcharge
		}
		if foreign := e.ChargedUser - e.ExpectedUser; foreign != 0 {
			// Something that is not traced moved the counter, for all that is known. What the
			// object will give back is what it records.
			e.Uncertain = true
			e.ChargedUser = o.Pages
			u.base += foreign
			l.total(e, &l.summary.ForeignUser, foreign)
		}
		a.pages = o.Pages
		u.charged(a.own, a.pages, 0)
		l.summary.charged(a.own, a.pages, 0)
	}
	l.objects[o.Key] = a
	if !a.own {
		l.summary.Objects++
		l.summary.ObjectBytes += a.bytes
	}
}

// objectGrowth is memory that a map took after it was made.
func (l *Ledger) objectGrowth(e *Entry) {
	e.Kind = Growth
	if a := l.objects[e.Object.Key]; a != nil {
		a.bytes += e.Object.Charged()
		a.pageBytes += e.Object.PageBytes()
		a.paid.Add(e.Object)
		if !a.own {
			l.summary.ObjectBytes += e.Object.Charged()
		}
	}
}

// objectRefusal is an object that was not made. Nothing may stay charged, and
// where the user pays, EPERM is right only beyond RLIMIT_MEMLOCK. No capability
// lifts that.
func (l *Ledger) objectRefusal(e *Entry, u *user) {
	e.Kind = Refusal
	o := e.Object
	if e.AboutMemory() && o.Rlimit {
		l.refused(e)
	}
	if !o.Rlimit {
		// Not given back yet. Since 6.18 the kernel does that in a worker, so it
		// is no leak.
		e.Uncertain = o.PageBytes() != 0
		e.Unreleased = l.unreleased.In(o.Refuser(), o.UsageBytes, e.TimeNS)
		return
	}
	e.Uncertain = !e.User.Undisturbed()
	if !e.Uncertain {
		e.ChargedUser = e.User.Delta()
		u.over += e.ChargedUser
	}
	switch {
	case e.ChargedUser != 0:
		e.Verdict, e.Excess, e.Uncertain = WrongRefusal, e.excess(), true
	case e.Errno == rule.EPERM && o.Pages > 0 && e.Demand() <= e.Caller.LockLimit:
		// Others that ask at the same time raise the counter until they are
		// refused themselves.
		e.Verdict, e.Uncertain = WrongRefusal, true
	}
}

// AboutMemory reports whether a failed call was refused by a limit on memory.
func (e *Entry) AboutMemory() bool {
	switch o := e.Object; {
	case o == nil:
		return e.Errno == rule.EPERM
	case o.Rlimit:
		return e.Errno == rule.EPERM && o.Pages > 0
	default:
		return e.Errno == errnoMemory
	}
}

// unseen is how many bytes of pages may come back on a way that is not watched. Maps
// take what is up to 32 KiB by kmalloc(), and since 6.12 at the latest that goes the
// way of all folios: watching it would cost everyone.
const unseen = 128 << 10

// objectRefund is the end of an object. All that its user was charged comes
// back. Of what cgroups were charged, the pages do at once; the rest may come
// later, through RCU.
func (l *Ledger) objectRefund(e *Entry, u *user) {
	e.Kind = Refund
	o := e.Object
	a := l.objects[o.Key]
	switch {
	case o.Rlimit:
		l.objectUserRefund(e, a, u)
	case a != nil && a.watched && o.Watched && !o.Program && !o.LateElements && a.pageBytes+o.PageBytes() > unseen:
		e.Verdict, e.Excess, e.Uncertain = Leak, e.pagesOf(a.pageBytes+o.PageBytes()), true
	}
	l.closeObject(o.Key)
}

func (l *Ledger) objectUserRefund(e *Entry, a *account, u *user) {
	pages := e.Object.Pages // by its own record
	if a != nil {
		pages = a.pages
	}
	e.ExpectedUser, e.ChargedUser = -pages, -pages
	e.Uncertain = !e.User.Undisturbed()
	if !e.Uncertain {
		e.ChargedUser = e.User.Delta()
	}
	if a == nil {
		u.base += e.ChargedUser // of an object older than the trace
	}
	switch missing := e.ChargedUser - e.ExpectedUser; {
	case missing > 0:
		e.Verdict, e.Excess = Leak, missing
		e.Uncertain = e.ChargedUser != 0 // nothing at all: what else would hide exactly this?
		l.total(e, &l.summary.Leaked, missing)
	case missing < 0:
		e.Verdict, e.Excess, e.Uncertain = Underflow, -missing, true
	}
	switch missing := e.ChargedUser - e.ExpectedUser; {
	case a == nil: // what came back is all that is known of it
	case e.Uncertain:
		u.base += missing // by what is not traced, for all that is known
	default:
		u.over += missing
	}
}

// closeObject takes an object out of the ledger, if it is there.
func (l *Ledger) closeObject(key uint64) {
	a := l.objects[key]
	l.closed.Gone(key)
	delete(l.unreleased, key)
	if a == nil {
		return
	}
	delete(l.objects, key)
	if !a.own {
		l.summary.Objects--
		l.summary.ObjectBytes -= a.bytes
	}
	l.summary.charged(a.own, -a.pages, 0)
	if u := l.users[counterKey{a.payer, false}]; u != nil {
		u.charged(a.own, -a.pages, 0)
	}
}

// objectFits counts the further objects like this one that the user's limit
// leaves room for; -1 where no such limit holds.
func (e *Entry) objectFits() int64 {
	if !e.Object.Rlimit || e.Caller.LockLimit >= rule.Unlimited {
		return -1
	}
	if e.Object.Pages <= 0 {
		return 0
	}
	return max(0, e.Caller.LockLimit-e.User.After) / e.Object.Pages
}

// pagesOf rounds bytes up to pages.
func (e *Event) pagesOf(bytes int64) int64 {
	if e.PageSize == 0 {
		return 0
	}
	return (bytes + int64(e.PageSize) - 1) / int64(e.PageSize)
}
