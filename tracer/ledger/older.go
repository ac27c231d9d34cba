package ledger

// Older is one area of a perf buffer that was mapped before the trace began.
type Older struct {
	Buffer uint64 // as Event.Buffer
	Area   Area
	// Pages of the area, and Extra, the part of them that is charged to a process.
	Pages, Extra int64
	Payer        uint32 // the uid whose counter holds the rest
	// MM, PID and PinnedVM are of the process that has it mapped, PinnedVM in
	// pages. With several there is no telling which one paid: then MM is 0.
	MM       uint64
	PID      uint32
	PinnedVM int64
	Mappings int32 // of the whole buffer
}

// AddOlder enters what was mapped before the trace began, so that its end is
// judged and given to who paid. It says how many areas were entered: not those
// whose payer is not known.
//
// The snapshot is to be taken after the probes were attached, so that every end
// after it is seen, and entered before the first Apply. Where an event makes a
// buffer that the snapshot has already, the event counts.
//
// What such a buffer was charged is known from its own record, not from seeing it
// charged. So nothing is said about that charge; and where the kernel is one that
// charges users for more than a buffer records (see era), the refund tells.
func (l *Ledger) AddOlder(older []Older) (entered int) {
	for i := range older {
		if o := &older[i]; o.MM != 0 && o.Buffer != 0 && l.addOlder(o) {
			entered++
		}
	}
	return entered
}

func (l *Ledger) addOlder(o *Older) bool {
	e := Entry{Event: Event{
		Op: Map, Area: o.Area, PID: o.PID, MM: o.MM, Buffer: o.Buffer, Payer: o.Payer,
		PinnedVM: o.PinnedVM, MappingsAfter: o.Mappings,
	}}
	if b := l.buffers[o.Buffer]; b != nil && b.areas[o.Area] != nil {
		return false
	}
	e.ChargedUser, e.ChargedPinned = o.Pages-o.Extra, o.Extra
	e.ExpectedUser, e.ExpectedPinned = e.ChargedUser, e.ChargedPinned
	l.open(&e, l.process(&e.Event), l.user(o.Payer, false))
	l.buffers[o.Buffer].areas[o.Area].older = true
	return true
}
