package tracer

import (
	"bytes"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cilium/ebpf"
	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/self"
)

// decoder turns the records of the BPF programs into ledger events.
type decoder struct {
	bootNS   uint64
	pageSize uint32
	memcg    bool // the charges to memory cgroups are watched
	compared compared
	self     uint32 // pid of this process
	machine  int64  // bytes of memory
	cpus     int    // that the machine can have; 0: not known
	payer    uint32 // who is charged for what this process makes, and nobody else; 0: others are, too
	comms    texts
}

func newDecoder(payer *self.User) (decoder, error) {
	boot, err := bootTime()
	cpus, _ := ebpf.PossibleCPU() // what needs it does without
	d := decoder{machine: kernel.MemoryBytes(), cpus: cpus, bootNS: boot, pageSize: uint32(os.Getpagesize()), self: uint32(os.Getpid()), comms: texts{}, compared: compared{calls: map[comparing]bool{}}}
	if payer.Err() == nil {
		d.payer = payer.UID()
	}
	return d, err
}

// bootTime is the Unix time in nanoseconds at which CLOCK_MONOTONIC was zero.
func bootTime() (uint64, error) {
	now, err := monotonic()
	return uint64(time.Now().UnixNano()) - now, err
}

// monotonic is the clock that records bear, in nanoseconds.
func monotonic() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	return uint64(now.Nano()), nil
}

// now is the time that an event of this moment has.
func (d decoder) now() uint64 {
	now, _ := monotonic() // it could be read when the decoder was made
	return d.bootNS + now
}

// isSelf reports whether a process is this one.
func (d decoder) isSelf(pid uint32) bool { return d.self != 0 && pid == d.self }

// decode reads one record in the machine's byte order. A record of an unknown
// kind, of another size than its kind has, or with a value that has no name is an
// error; the perf event array pads it to 4 bytes past a multiple of 8.
func (d decoder) decode(raw []byte) (ledger.Event, error) {
	var header bpf.PerfHeader // of all records alike
	if size := int(unsafe.Sizeof(header)); len(raw) < size {
		return ledger.Event{}, fmt.Errorf("record of %d bytes: too short for its header", len(raw))
	} else if err := fill(&header, raw[:size]); err != nil {
		return ledger.Event{}, err
	}
	event := d.prelude(&header)
	var err error
	switch header.Kind {
	case bpf.PerfRecordKindRECORD_PERF:
		err = perfCall(&event, header.Flags, raw)
	case bpf.PerfRecordKindRECORD_PERF_FAILED:
		if err = failedMapping(&event, header.Flags, raw); err == nil {
			event.Failed.MachineBytes = d.machine
		}
	case bpf.PerfRecordKindRECORD_OBJECT:
		err = d.object(&event, header.Flags, raw)
	case bpf.PerfRecordKindRECORD_CHARGER:
		err = d.charge(&event, header.Flags, raw)
	default:
		err = fmt.Errorf("record of unknown kind %d", header.Kind)
	}
	// The kernel frees BPF objects in workers of its own.
	event.Caller.Self = event.Caller.Self || d.payer != 0 && event.User.Owner == uint64(d.payer)
	return event, err
}

// has reports whether a flag is set.
func has(flags, flag bpf.PerfRecordFlag) bool { return flags&flag != 0 }

// prelude is what the header of any record tells.
func (d decoder) prelude(h *bpf.PerfHeader) ledger.Event {
	c := &h.Caller
	return ledger.Event{
		TimeNS:   d.bootNS + h.TimeNs,
		Lost:     h.Lost,
		PageSize: d.pageSize,
		Caller: ledger.Caller{
			PID: c.Pid, TID: c.Tid, UID: c.Uid, CPU: c.Cpu,
			Comm:      d.comms.text(c.Comm[:]),
			CgroupID:  c.CgroupId,
			LockLimit: c.LockLimit,
			HardLimit: c.LockLimitHard, ParentLimit: c.ParentLockLimit,
			CapIPCLock: has(h.Flags, bpf.PerfRecordFlagFLAG_CAP_IPC_LOCK),
			Command:    has(h.Flags, bpf.PerfRecordFlagFLAG_COMMAND),
			Self:       d.isSelf(c.Pid),
		},
		User: ledger.Reading{
			Shared: has(h.Flags, bpf.PerfRecordFlagFLAG_OVERLAP_USER),
			Gone:   has(h.Flags, bpf.PerfRecordFlagFLAG_USER_GONE),
		},
		Process: ledger.Reading{Shared: has(h.Flags, bpf.PerfRecordFlagFLAG_OVERLAP_MM)},
	}
}

// readCounter takes over a counter's readings.
func readCounter(to *ledger.Reading, r bpf.PerfReading) {
	to.Owner, to.Before, to.After = r.Owner, r.Before, r.After
}

// errnoOf is why a call failed, by what it returned: a file descriptor, the lower half
// of a pointer, or a negative errno.
func errnoOf(ret int32) int32 {
	if ret < 0 && ret >= -4095 {
		return -ret
	}
	return 0
}

// perfCall reads the struct record of bpf/perf.bpf.c.
func perfCall(event *ledger.Event, flags bpf.PerfRecordFlag, raw []byte) error {
	var r bpf.PerfRecord
	if err := fill(&r, raw); err != nil {
		return err
	}
	op, err := perfOp(r.Op)
	if err != nil {
		return err
	}
	area, err := perfArea(r.Area)
	if err != nil {
		return err
	}
	event.Op, event.Errno = op, errnoOf(r.Ret)
	readCounter(&event.User, r.User)
	readCounter(&event.Process, r.Process)
	event.Buffer = ledger.Buffer{
		Key:         r.Buffer,
		Pages:       r.UserExtra,
		Extra:       r.Extra,
		Mappings:    ledger.Count{Before: r.Mappings, After: r.MappingsAfter},
		AUXMappings: ledger.Count{Before: r.AuxMappings, After: r.AuxMappingsAfter},
		Recorded: [2]ledger.Recorded{
			rule.Data: {Pages: r.DataPages, Extra: r.DataExtra},
			rule.AUX:  {Pages: r.AuxPages, Extra: r.AuxExtra},
		},
		Limits: ledger.Limits{
			Allowance:  r.UserLockLimit,
			Paranoid:   r.Paranoid,
			OnlineCPUs: r.OnlineCpus,
			Moved:      has(flags, bpf.PerfRecordFlagFLAG_LIMITS_MOVED),
		},
		Area:     area,
		Existing: has(flags, bpf.PerfRecordFlagFLAG_EXISTING),
		Shared:   has(flags, bpf.PerfRecordFlagFLAG_OVERLAP_BUFFER),
	}
	return nil
}

func perfOp(op bpf.PerfOp) (ledger.Op, error) {
	switch op {
	case bpf.PerfOpOP_MAP:
		return ledger.Map, nil
	case bpf.PerfOpOP_UNMAP:
		return ledger.Unmap, nil
	case bpf.PerfOpOP_SPLIT:
		return ledger.Split, nil
	}
	return 0, fmt.Errorf("record of a perf buffer: unknown operation %d", op)
}

func perfArea(area bpf.PerfArea) (rule.Area, error) {
	switch area {
	case bpf.PerfAreaAREA_DATA:
		return rule.Data, nil
	case bpf.PerfAreaAREA_AUX:
		return rule.AUX, nil
	}
	return 0, fmt.Errorf("record of a perf buffer: unknown area %d", area)
}

// object reads the struct record of bpf/objects.bpf.c.
func (d decoder) object(event *ledger.Event, flags bpf.PerfRecordFlag, raw []byte) error {
	var r bpf.ObjectsRecord
	if err := fill(&r, raw); err != nil {
		return err
	}
	op, err := objectOp(r.Op)
	if err != nil {
		return err
	}
	program, err := isProgram(r.Kind)
	if err != nil {
		return err
	}
	o := &ledger.Object{
		Key:           r.Object,
		Program:       program,
		Type:          r.Type,
		ID:            r.Id,
		Name:          text(r.Name[:]),
		KeySize:       r.KeySize,
		ValueSize:     r.ValueSize,
		MaxEntries:    r.MaxEntries,
		Flags:         r.MapFlags,
		Rlimit:        has(flags, bpf.PerfRecordFlagFLAG_RLIMIT),
		Watched:       d.memcg,
		LateElements:  has(flags, bpf.PerfRecordFlagFLAG_LATER),
		Refused:       has(flags, bpf.PerfRecordFlagFLAG_MEMCG_REFUSED),
		FurtherBytes:  r.FurtherBytes,
		UnpaidBytes:   r.UnpaidBytes,
		MapCgroupID:   r.MapCgroupId,
		LimitCgroupID: r.LimitCgroupId,
		UsageBytes:    r.UsageBytes,
		LimitBytes:    r.LimitBytes,
	}
	for i, p := range r.Payers {
		o.Payers[i] = ledger.Payer{CgroupID: p.CgroupId, Pages: p.PageBytes, Objects: p.ObjectBytes}
	}
	if o.Rlimit {
		o.Pages = r.Pages
	}
	event.Op, event.Errno, event.Object = op, errnoOf(r.Ret), o
	readCounter(&event.User, bpf.PerfReading(r.User))
	if event.Failed = d.compared.failedObject(&r, flags); event.Failed != nil {
		event.Failed.MachineBytes, event.Failed.PossibleCPUs = d.machine, uint32(d.cpus)
	}
	return nil
}

func objectOp(op bpf.ObjectsOp) (ledger.Op, error) {
	switch op {
	case bpf.ObjectsOpOP_CREATE:
		return ledger.Create, nil
	case bpf.ObjectsOpOP_GROW:
		return ledger.Grow, nil
	case bpf.ObjectsOpOP_FREE:
		return ledger.Free, nil
	case bpf.ObjectsOpOP_CLOSE:
		return ledger.Close, nil
	}
	return 0, fmt.Errorf("record of a BPF object: unknown operation %d", op)
}

func isProgram(kind bpf.ObjectsKind) (bool, error) {
	switch kind {
	case bpf.ObjectsKindKIND_MAP:
		return false, nil
	case bpf.ObjectsKindKIND_PROG:
		return true, nil
	}
	return false, fmt.Errorf("record of a BPF object: unknown kind %d", kind)
}

// charge reads the struct record of bpf/chargers.bpf.c.
func (d decoder) charge(event *ledger.Event, flags bpf.PerfRecordFlag, raw []byte) error {
	var r bpf.ChargersRecord
	if err := fill(&r, raw); err != nil {
		return err
	}
	charger, err := chargerOf(r.Charger)
	if err != nil {
		return err
	}
	event.Op, event.Errno, event.Charger = ledger.Account, errnoOf(r.Ret), charger
	event.Moves, event.GivesBack = moves(&r)
	if has(flags, bpf.PerfRecordFlagFLAG_CLOSED) {
		event.Op = ledger.Close
	}
	event.SplitCounter = has(flags, bpf.PerfRecordFlagFLAG_SPLIT_COUNTER)
	event.Instance = object.Instance{Key: r.Holder, Pages: r.HolderPages}
	readCounter(&event.User, bpf.PerfReading(r.User))
	readCounter(&event.Process, bpf.PerfReading(r.Process))
	event.LockedVM.Before, event.LockedVM.After = r.LockedBefore, r.LockedAfter
	event.Failed, err = d.compared.failed(&r, flags)
	if event.Failed != nil && r.Function == bpf.ChargersFunctionFUNCTION_RING_SETUP && event.Errno == int32(unix.EPERM) {
		event.Failed.RingsFor = ringsFor()
	}
	return err
}

// chargers are the names of who charges besides perf buffers and BPF objects, a row each.
var chargers = [...]ledger.Charger{
	bpf.ChargersChargerCHARGER_IO_URING:  "io_uring", // registered buffers, and rings
	bpf.ChargersChargerCHARGER_XDP:       "xdp",      // AF_XDP umem
	bpf.ChargersChargerCHARGER_ZEROCOPY:  "zerocopy", // MSG_ZEROCOPY
	bpf.ChargersChargerCHARGER_RDMA:      "rdma",
	bpf.ChargersChargerCHARGER_IOMMUFD:   "iommufd",
	bpf.ChargersChargerCHARGER_VFIO:      "vfio",
	bpf.ChargersChargerCHARGER_VDPA:      "vdpa",
	bpf.ChargersChargerCHARGER_SECRETMEM: "secretmem", // memfd_secret(2), since 7.2
}

func chargerOf(c bpf.ChargersCharger) (ledger.Charger, error) {
	if int(c) >= len(chargers) || chargers[c] == ledger.NoCharger {
		return ledger.NoCharger, fmt.Errorf("record of unknown charger %d", c)
	}
	return chargers[c], nil
}

// fill copies a record of the size of *e.
func fill[T any](e *T, raw []byte) error {
	size := int(unsafe.Sizeof(*e))
	if len(raw) < size || len(raw) >= size+8 {
		return fmt.Errorf("record of %d bytes: want %d", len(raw), size)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(e)), size), raw)
	return nil
}

// text is what stands before the first zero byte.
func text(b []byte) string {
	return string(upToZero(b))
}

func upToZero(b []byte) []byte {
	if end := bytes.IndexByte(b, 0); end >= 0 {
		return b[:end]
	}
	return b
}

// texts are names that come again and again, kept so that none is allocated twice.
// A nil one keeps nothing.
type texts map[string]string

// textsKept bounds the memory for them: names are whatever processes call
// themselves.
const textsKept = 1 << 12

func (t texts) text(b []byte) string {
	b = upToZero(b)
	if known, ok := t[string(b)]; ok {
		return known
	}
	s := string(b)
	if t != nil {
		if len(t) >= textsKept {
			clear(t)
		}
		t[s] = s
	}
	return s
}
