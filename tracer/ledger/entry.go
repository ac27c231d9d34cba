package ledger

import "github.com/pinwatch/pinwatch/tracer/rule"

// Kind says what an event meant for the accounts.
type Kind uint8

// The kinds of entries.
const (
	Charge      Kind = iota // a new buffer (or its AUX area) was charged
	Refund                  // its last mapping went, and the charge came back
	Refusal                 // the call failed: nothing may be charged
	Mapping                 // a further mapping of a buffer: nothing may be charged
	Unmapping               // one of several mappings went: nothing comes back yet
	Growth                  // a BPF map took more memory
	Preexisting             // a buffer that was mapped before the trace: no event of it
	Closing                 // what pages were charged for is closed, and not yet released: no event either
)

var kindNames = [...]string{"charge", "refund", "refusal", "mapping", "unmapping", "growth", "preexisting", "closing"}

// Kinds is how many there are.
const Kinds = len(kindNames)

func (k Kind) String() string { return kindNames[k] }

// ParseKind is the inverse of String.
func ParseKind(name string) (Kind, bool) {
	for k, n := range kindNames {
		if n == name {
			return Kind(k), true
		}
	}
	return 0, false
}

// Op is the operation behind an entry of this kind, on a BPF object or on a perf
// buffer.
func (k Kind) Op(object bool) Op {
	switch {
	case k == Growth:
		return Grow
	case k == Preexisting:
		return AlreadyMapped
	case k == Closing:
		return Close
	case object && k == Refund:
		return Free
	case object:
		return Create
	case k == Refund || k == Unmapping:
		return Unmap
	}
	return Map
}

// Entry is what the ledger makes of an event.
type Entry struct {
	Event

	// The trace up to and with this entry: how many events it has, how many EPERM
	// refusals, and how this kernel was seen to account.
	Number, Refusals uint64
	Scheme           rule.Scheme

	Kind    Kind
	Verdict Verdict
	// Uncertain reports whether the verdict rests on a counter that something else
	// may have moved during the call.
	Uncertain bool

	// Small numbers of the ledger's own, never used twice. 0: none.
	BufferID, ProcessID, InstanceID uint64

	// ChargedUser and ChargedPinned are what was really charged to the user and
	// to the process, negative for a refund.
	ChargedUser, ChargedPinned int64
	// ExpectedUser and ExpectedPinned are what should have been charged.
	ExpectedUser, ExpectedPinned int64
	// Excess is by how much the verdict is off: pages charged beyond the right
	// charge, pages not given back, or, at a refusal, asked for beyond the
	// right demand.
	Excess int64
	// ProcessOvercharge and UserOvercharge are running totals of the pages that
	// were charged beyond the right charge.
	ProcessOvercharge, UserOvercharge int64
	// PinnedOver and UserOver are what pinned_vm and the user's counter hold now
	// and should not: overcharges, and refunds that went elsewhere. Negative where
	// they hold too little.
	PinnedOver, UserOver int64
	// Held is of a refusal: what the user's counter is held for; nil elsewhere.
	Held *Held
	// Unreleased is of a refusal by a memory cgroup: what it is charged for BPF objects that are
	// closed, and not yet released.
	Unreleased []Closed
	// PaidPID and PaidUID are who paid for what was refunded to somebody else.
	PaidPID, PaidUID uint32
	// Fits is how many more calls like this one succeed before EPERM, if this
	// kernel goes on as it was seen to do. -1: no limit.
	Fits int64
}

// FitsUnknown is Fits where that depends on what was not seen of this kernel yet.
const FitsUnknown = -2
