package ledger

import "github.com/pinwatch/pinwatch/tracer/ledger/object"

// judgeAccount enters what another charger did to the counters. There is no rule to
// check: the entry exists so that every page of a user's counter is explained. How
// much was charged is known from the counter: if another call moved it at the
// same time, from the kernel's arguments, and if these do not tell, the next undisturbed
// reading reveals it, for what perf buffers and BPF objects did in between is known.
func (l *Ledger) judgeAccount(e *Entry, u *user, p *process) {
	// The kernel gives back in workers of its own: that is the traced command's
	// if it has charged the user.
	if e.Caller.Command {
		u.command = true
	} else if e.Caller.UID != e.Payer() {
		e.Caller.Command = u.command
	}
	e.Uncertain = !e.User.Undisturbed()
	e.ChargedUser = e.Moves
	if !e.Uncertain {
		e.ChargedUser = e.User.Delta()
	}
	u.others += e.ChargedUser
	e.InstanceID = l.closed.Charged(e.Instance.Key, e.counter(), object.What(e.Charger), e.ChargedUser, !e.Unknown())
	if p != nil && !e.Process.Shared {
		e.ChargedPinned = e.Process.Delta()
	}
	switch process := e.ChargedPinned + e.LockedVM.Delta(); {
	case e.ChargedUser < 0 || e.ChargedUser == 0 && process < 0, e.Unknown() && e.GivesBack:
		e.Kind = Refund
	case e.ChargedUser == 0 && process == 0 && e.Errno != 0:
		e.Kind = Refusal
		if e.Failed != nil {
			e.Unreleased = l.unreleased.In(e.Failed.Refuser(), e.Failed.Limit.UsageBytes, e.TimeNS)
		}
	}
	e.ExpectedUser, e.ExpectedPinned = e.ChargedUser, e.ChargedPinned
}

// closing enters that nobody can use something any more. Its pages stay charged until a Free,
// or an Account that gives them back.
func (l *Ledger) closing(e *Entry) {
	e.Kind, e.Fits = Closing, -1
	c := object.Closing{Key: e.Instance.Key, User: e.counter(), What: object.What(e.Charger), PID: e.Caller.PID, TimeNS: e.TimeNS, Pages: e.Instance.Pages}
	if o := e.Object; o != nil {
		l.recognize(e)
		c.Key, c.Pages, c.What = o.Key, o.Pages, o.What()
		if a := l.objects[o.Key]; a != nil { // of an older one it is not known what it costs
			c.Charged = a.pages
			l.unreleased.Close(&c, a.paid)
		}
		if !o.Rlimit {
			return
		}
	}
	e.InstanceID = l.closed.Close(c)
}

// Unknown reports whether it is not known how many pages a call of another charger moved.
func (e *Entry) Unknown() bool {
	return e.Op == Account && e.Errno == 0 && e.Moves == 0 && !e.User.Undisturbed()
}
