package counter

// Balance compares a user's counter in the kernel with the ledger, in pages.
type Balance struct {
	UID     uint32
	Counter int64 // the kernel's, at the last reading
	// SplitCounter reports whether this is locked_vm where perf has another counter.
	SplitCounter bool
	Live         int64 // charged for live buffers and BPF objects
	Preexisting  int64 // for buffers that are known to be older than the trace
	Others       int64 // charged by io_uring and others
	Own          int64 // for the tracer's live buffers and BPF objects
	Over         int64 // held and should not be, and is not the tracer's
	Base         int64 // of buffers that are older and not known, and of what is not traced
	// Self reports whether it is a user of the tracer's own, whom nobody else charged.
	Self bool
}

// Unexplained is what the ledger does not account for: 0, or it is wrong.
func (b Balance) Unexplained() int64 {
	return b.Counter - b.Live - b.Preexisting - b.Others - b.Own - b.Over - b.Base
}
