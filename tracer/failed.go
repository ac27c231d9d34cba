package tracer

import (
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/refusal"
)

// ringComparison is where io_uring compares with the limit what is no registered buffer.
// Those who call it are in other files, so that no compiler can hide a call.
const ringComparison = "__io_account_mem"

// cgroupReclaim is what the kernel calls, from another file, when a memory cgroup has no room.
const cgroupReclaim = "try_to_free_mem_cgroup_pages"

// mapComparisons are where BPF maps are held against the limit, before 5.11: of either name.
var mapComparisons = []string{"bpf_map_charge_init", "bpf_map_precharge_memlock"}

// functions are the names of those that other chargers' calls are seen to fail in.
var functions = [...]string{
	bpf.ChargersFunctionFUNCTION_OTHER:         "",
	bpf.ChargersFunctionFUNCTION_RING_SETUP:    "io_uring_setup",
	bpf.ChargersFunctionFUNCTION_RING_REGISTER: "io_uring_register",
	bpf.ChargersFunctionFUNCTION_RING_SEND:     ringComparison,
	bpf.ChargersFunctionFUNCTION_UMEM:          "xdp_umem_create",
	bpf.ChargersFunctionFUNCTION_SEND:          "mm_account_pinned_pages",
	bpf.ChargersFunctionFUNCTION_RELEASE:       "", // of no call that fails
	bpf.ChargersFunctionFUNCTION_VFIO_MAP:      refusal.VFIOMap,
	bpf.ChargersFunctionFUNCTION_RDMA_GET:      refusal.RDMAGet,
	bpf.ChargersFunctionFUNCTION_IOMMUFD_PIN:   refusal.IOMMUFDPin,
	bpf.ChargersFunctionFUNCTION_VDPA_MAP:      refusal.VDPAMap,
}

// comparing is a kind of call, as far as the kernel may compare in another place.
type comparing struct {
	function bpf.ChargersFunction
	request  uint32
}

// compared knows of which calls the comparison with the limit would be seen.
type compared struct {
	ringsProbed bool // the probe on ringComparison is attached
	mapsProbed  bool // that on one of mapComparisons, which those who make maps call from other files
	verifier    bool // that on bpf_check()
	programs    bool // that on bpf_prog_alloc()
	cgroups     bool // that on cgroupReclaim, for io_uring
	// The same for BPF objects, where the charges themselves are not watched.
	objectCgroups bool
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
	if r.Function == bpf.ChargersFunctionFUNCTION_RING_SETUP {
		call.request = 0 // flags: all rings are compared alike
	}
	// What is seen of vfio's does not always tell.
	if accounting != refusal.Unseen && c.calls != nil && r.Function != bpf.ChargersFunctionFUNCTION_VFIO_MAP {
		c.calls[call] = true
	}
	if errnoOf(r.Ret) == 0 || functions[r.Function] == "" {
		return nil, nil
	}
	if accounting == refusal.Unseen && c.visible(call) {
		accounting = refusal.NotReached
	}
	failed := &refusal.Call{
		Function:   functions[r.Function],
		Accounting: accounting,
		Asked:      r.Asked,
		LastAsked:  r.LastAsked,
		LastHeld:   r.LastHeld,
		Exempt:     flags&bpf.PerfRecordFlagFLAG_EXEMPT != 0,
		Charged:    flags&bpf.PerfRecordFlagFLAG_CHARGED != 0,
		Request:    r.Request,
		Count:      r.Count,
	}
	switch {
	case !c.cgroups || r.Function != bpf.ChargersFunctionFUNCTION_RING_SETUP && r.Function != bpf.ChargersFunctionFUNCTION_RING_REGISTER:
	case r.LimitCgroupId == 0:
		failed.Memory = refusal.NotReached
	default:
		failed.Memory = refusal.Passed
		failed.Limit = refusal.MemoryLimit{CgroupID: r.LimitCgroupId, UsageBytes: r.UsageBytes, WantedBytes: r.WantedBytes, LimitBytes: r.LimitBytes}
		if has(flags, bpf.PerfRecordFlagFLAG_MEMCG_REFUSED) {
			failed.Memory = refusal.Refused
		}
	}
	return failed, nil
}

// moves is by how many pages a call moved the user's counter, by the kernel's own arguments
// and not by the counter; 0: not known. gives reports whether it gives back alone.
func moves(r *bpf.ChargersRecord) (pages int64, gives bool) {
	gives = r.Function == bpf.ChargersFunctionFUNCTION_RELEASE
	switch r.Function {
	case bpf.ChargersFunctionFUNCTION_VFIO_MAP, bpf.ChargersFunctionFUNCTION_RDMA_GET, bpf.ChargersFunctionFUNCTION_IOMMUFD_PIN, bpf.ChargersFunctionFUNCTION_VDPA_MAP:
		return 0, false // the counter of the process, or, by iommufd, perhaps of neither
	}
	registers := r.Function == bpf.ChargersFunctionFUNCTION_RING_REGISTER
	if registers && r.Request == refusal.UnregisterBuffers {
		return 0, true
	}
	// An update of a ring's buffers gives back, too.
	asks := !registers || r.Request == refusal.RegisterBuffers || r.Request == refusal.RegisterBuffers2
	if errnoOf(r.Ret) != 0 || !asks || r.Function == bpf.ChargersFunctionFUNCTION_OTHER {
		return 0, gives
	}
	return r.Asked, gives
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

// failedObject is what a record tells of a call of bpf(2) that failed; nil of others.
func (c compared) failedObject(r *bpf.ObjectsRecord, flags bpf.PerfRecordFlag) *refusal.Call {
	if errnoOf(r.Ret) == 0 {
		return nil
	}
	call := &refusal.Call{Function: commands[r.Command]}
	if has(flags, bpf.PerfRecordFlagFLAG_RLIMIT) {
		call.Asked = r.Pages
	}
	creates, loads := r.Command == unix.BPF_MAP_CREATE, r.Command == unix.BPF_PROG_LOAD
	call.Accounting = flagged(flags, bpf.PerfRecordFlagFLAG_ACCOUNT_REFUSED, bpf.PerfRecordFlagFLAG_ACCOUNT_PASSED, c.mapsProbed && creates)
	call.Memory = flagged(flags, bpf.PerfRecordFlagFLAG_MEMCG_REFUSED, 0, c.objectCgroups && (creates || loads))
	call.Verifier = flagged(flags, bpf.PerfRecordFlagFLAG_VERIFIER_REFUSED, bpf.PerfRecordFlagFLAG_VERIFIER_PASSED, c.verifier && loads)
	call.Allocation = flagged(flags, bpf.PerfRecordFlagFLAG_PROG_REFUSED, bpf.PerfRecordFlagFLAG_PROG_ALLOCATED, c.programs && loads)
	call.AttributesKnown = has(flags, bpf.PerfRecordFlagFLAG_ATTR_KNOWN)
	return call
}

// flagged is what became of a check by the flags that it leaves, of which passed may be none.
// visible reports whether it would have been seen.
func flagged(flags, refused, passed bpf.PerfRecordFlag, visible bool) refusal.Accounting {
	switch {
	case has(flags, refused):
		return refusal.Refused
	case has(flags, passed):
		return refusal.Passed
	case visible:
		return refusal.NotReached
	}
	return refusal.Unseen
}

// commands are those of bpf(2) that are followed.
var commands = map[uint32]string{
	unix.BPF_MAP_CREATE:       refusal.MapCreate,
	unix.BPF_PROG_LOAD:        refusal.ProgLoad,
	unix.BPF_MAP_UPDATE_ELEM:  refusal.MapUpdate,
	unix.BPF_MAP_UPDATE_BATCH: refusal.MapUpdateBatch,
}

// failedMapping reads the struct failed of bpf/perf.bpf.c: a record, and the facts.
func failedMapping(event *ledger.Event, flags bpf.PerfRecordFlag, raw []byte) error {
	var facts bpf.PerfFacts
	size := int(unsafe.Sizeof(bpf.PerfRecord{}))
	if len(raw) < size {
		return fmt.Errorf("record of %d bytes: too short for a perf buffer's", len(raw))
	}
	if err := perfCall(event, flags, raw[:size]); err != nil {
		return err
	}
	if err := fill(&facts, raw[size:]); err != nil {
		return err
	}
	function := refusal.PerfMmap
	if event.Op == ledger.Split {
		function = refusal.MaySplit
	}
	is := func(fact bpf.PerfFact) bool { return facts.Facts&fact != 0 }
	event.Failed = &refusal.Call{Function: function, Mapping: refusal.Mapping{
		Private:    !is(bpf.PerfFactFACT_SHARED),
		Inherited:  is(bpf.PerfFactFACT_INHERIT),
		AUXCapable: is(bpf.PerfFactFACT_AUX_CAPABLE),
		Revoked:    is(bpf.PerfFactFACT_REVOKED),
		CPU:        facts.Cpu,
		Offset:     facts.Pgoff,
		AUXOffset:  facts.AuxPgoff,
		WantOffset: facts.AuxOffset,
		WantSize:   facts.AuxSize,
		SystemCall: splitting(facts.SystemCall),
	}}
	return nil
}

// splitting is the number of a system call that can split a mapping, or -1: what stands in
// the place of the number on some kernels is something else.
func splitting(number int32) int32 {
	if slices.Contains([]int32{unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MREMAP, unix.SYS_MADVISE, unix.SYS_MLOCK, unix.SYS_MLOCK2, unix.SYS_MUNLOCK}, number) {
		return number
	}
	return -1
}

// ringsFor is who may make rings now.
func ringsFor() refusal.RingsFor {
	switch n, err := kernel.ReadInt("/proc/sys/kernel/io_uring_disabled"); {
	case err != nil:
		return refusal.RingsUnseen
	case n == 0:
		return refusal.RingsForAll
	case n == 1:
		return refusal.RingsForGroup
	}
	return refusal.RingsForNobody
}
