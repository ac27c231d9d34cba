package tracer

import (
	"fmt"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/refusal"
)

// ringComparison is where io_uring compares with the limit what is no registered buffer.
// Those who call it are in other files, so that no compiler can hide a call.
const ringComparison = "__io_account_mem"

// functions are the names of those that other chargers' calls are seen to fail in.
var functions = [...]string{
	bpf.ChargersFunctionFUNCTION_OTHER:         "",
	bpf.ChargersFunctionFUNCTION_RING_SETUP:    "io_uring_setup",
	bpf.ChargersFunctionFUNCTION_RING_REGISTER: "io_uring_register",
	bpf.ChargersFunctionFUNCTION_RING_SEND:     ringComparison,
	bpf.ChargersFunctionFUNCTION_UMEM:          "xdp_umem_create",
	bpf.ChargersFunctionFUNCTION_SEND:          "mm_account_pinned_pages",
}

// comparing is a kind of call, as far as the kernel may compare in another place.
type comparing struct {
	function bpf.ChargersFunction
	request  uint32
}

// compared knows of which calls the comparison with the limit would be seen.
type compared struct {
	ringsProbed bool // the probe on ringComparison is attached
	// calls are those of which it was seen: elsewhere the function that compares may be
	// inlined, and a symbol left behind.
	calls map[comparing]bool
}

// failed is what a record tells of a call that failed; nil of others.
func (c compared) failed(r *bpf.ChargersRecord, flags bpf.PerfRecordFlag) (*refusal.Call, error) {
	accounting, err := accountingOf(r.Accounting)
	if err != nil {
		return nil, err
	}
	if int(r.Function) >= len(functions) {
		return nil, fmt.Errorf("record of a charger: unknown function %d", r.Function)
	}
	call := comparing{r.Function, r.Request}
	if accounting != refusal.Unseen && c.calls != nil {
		c.calls[call] = true
	}
	if errnoOf(r.Ret) == 0 || r.Function == bpf.ChargersFunctionFUNCTION_OTHER {
		return nil, nil
	}
	if accounting == refusal.Unseen && c.visible(call) {
		accounting = refusal.NotReached
	}
	return &refusal.Call{
		Function:   functions[r.Function],
		Accounting: accounting,
		Asked:      r.Asked,
		LastAsked:  r.LastAsked,
		LastHeld:   r.LastHeld,
		Exempt:     flags&bpf.PerfRecordFlagFLAG_EXEMPT != 0,
		Request:    r.Request,
		Count:      r.Count,
	}, nil
}

// visible reports whether the comparison would have been seen.
func (c compared) visible(call comparing) bool {
	switch {
	case c.calls[call]:
		return true
	case call.function == bpf.ChargersFunctionFUNCTION_RING_REGISTER:
		buffers := call.request == refusal.RegisterBuffers || call.request == refusal.RegisterBuffers2 || call.request == refusal.RegisterBuffersUpdate
		return c.ringsProbed && !buffers
	}
	return c.ringsProbed && call.function == bpf.ChargersFunctionFUNCTION_RING_SETUP
}

func accountingOf(a bpf.ChargersAccounting) (refusal.Accounting, error) {
	switch a {
	case bpf.ChargersAccountingACCOUNTING_UNSEEN:
		return refusal.Unseen, nil
	case bpf.ChargersAccountingACCOUNTING_REFUSED:
		return refusal.Refused, nil
	case bpf.ChargersAccountingACCOUNTING_PASSED:
		return refusal.Passed, nil
	}
	return 0, fmt.Errorf("record of a charger: unknown accounting %d", a)
}
