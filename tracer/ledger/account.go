package ledger

// account enters what another charger did to the counters. There is no rule to
// hold that against: it is here so that a user's counter can be explained to the
// last page. What a charge is worth tells the counter alone: where another call
// moved it meanwhile, the next undisturbed reading tells, for what perf buffers and
// BPF objects did in between is known.
func (l *Ledger) account(ev Event) Entry {
	e := Entry{Event: ev}
	u := l.counterOf(&e)
	// The kernel gives back in workers of its own: that is the traced command's
	// if it has charged the user.
	if e.Command {
		u.command = true
	} else if e.UID != e.Payer {
		e.Command = u.command
	}
	e.Uncertain = ev.OverlapUser || ev.UserGone
	if !e.Uncertain {
		e.ChargedUser = e.userDelta()
		u.others += e.ChargedUser
	}
	u.locked.after(ev.UserAfter, e.ChargedUser, ev.OverlapUser, ev.UserGone, false)
	u.locked.unknown = u.locked.unknown || ev.OverlapUser
	if ev.MM != 0 {
		p := l.pinnedOf(&e)
		if !ev.OverlapMM {
			e.ChargedPinned = e.pinnedDelta()
		}
		p.pinned.after(ev.PinnedAfter, e.ChargedPinned, ev.OverlapMM, false, false)
		p.pinned.unknown = p.pinned.unknown || ev.OverlapMM
	}
	switch {
	case e.ChargedUser < 0 || e.ChargedUser == 0 && e.ChargedPinned < 0:
		e.Kind = Refund
	case e.ChargedUser == 0 && e.ChargedPinned == 0 && ev.Errno != 0:
		e.Kind = Refusal
	}
	e.ExpectedUser, e.ExpectedPinned = e.ChargedUser, e.ChargedPinned
	e.Fits = -1
	l.count(&e)
	return e
}
