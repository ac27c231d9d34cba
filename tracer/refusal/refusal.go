// Package refusal is what was seen of a call that failed, besides the counters that every
// event has: where it failed, and what the kernel had asked of it by then. It says nothing
// of causes.
package refusal

// Accounting is what became of the kernel's comparison with a limit on locked memory.
type Accounting uint8

// A call that failed after the comparison passed, or before it was reached, was not
// refused by the limit.
const (
	Unseen     Accounting = iota // the function that compares could not be probed: this is no answer
	Refused                      // it was seen to refuse
	Passed                       // it was seen to pass all that was asked for
	NotReached                   // it would have been seen, and was not called
)

var accountingNames = [...]string{"unseen", "refused", "passed", "not_reached"}

func (a Accounting) String() string { return accountingNames[a] }

// ParseAccounting is the inverse of String.
func ParseAccounting(name string) (Accounting, bool) {
	for a, n := range accountingNames {
		if n == name {
			return Accounting(a), true
		}
	}
	return 0, false
}

// Call is a call that failed. What it has no part of is zero.
type Call struct {
	// Function is the function of the kernel's, or the system call, whose return was seen.
	Function   string
	Accounting Accounting

	// Asked is how many pages the call asked for in all, up to what was refused: the sum
	// that the kernel compared, or, where that is unseen, what the arguments say: fewer
	// than the kernel asks for where they lie on huge pages. 0: not known.
	Asked int64
	// LastAsked is the part of it that the kernel compared last, and LastHeld what the
	// user's counter held then, with this call's earlier parts, in pages. A
	// refusal is LastHeld + LastAsked > RLIMIT_MEMLOCK. LastAsked is 0 where it is unseen.
	LastAsked, LastHeld int64
	// Exempt reports whether the io_uring in question was made with CAP_IPC_LOCK: nobody
	// is charged for it, whoever uses it.
	Exempt bool
	// Request is the opcode of io_uring_register(2), and Count how many things it was
	// given, or the entries of a ring that was to be made.
	Request, Count uint32
}

// What io_uring_register(2) does about buffers (include/uapi/linux/io_uring.h).
const (
	RegisterBuffers       = 0
	RegisterBuffers2      = 15
	RegisterBuffersUpdate = 16
)
