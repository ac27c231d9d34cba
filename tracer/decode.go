package tracer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// decoder turns the records of the BPF programs into ledger events.
type decoder struct {
	bootNS   uint64
	pageSize uint32
	memcg    bool   // the charges to memory cgroups are watched
	self     uint32 // pid of this process
	comms    texts
}

func newDecoder() (decoder, error) {
	boot, err := bootTime()
	return decoder{bootNS: boot, pageSize: uint32(os.Getpagesize()), self: uint32(os.Getpid()), comms: texts{}}, err
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
// kind, or of another size than its kind has, is an error; the perf event array
// pads it to 4 bytes past a multiple of 8.
func (d decoder) decode(raw []byte) (ledger.Event, error) {
	if len(raw) < 4 {
		return ledger.Event{}, fmt.Errorf("record of %d bytes: too short for its kind", len(raw))
	}
	switch kind := bpf.PerfRecord(binary.NativeEndian.Uint32(raw)); kind {
	case bpf.PerfRecordRECORD_CALL:
		return d.decodeCall(raw)
	case bpf.PerfRecordRECORD_OBJECT:
		return d.decodeObject(raw)
	case bpf.PerfRecordRECORD_CHARGE:
		return d.decodeCharge(raw)
	default:
		return ledger.Event{}, fmt.Errorf("record of unknown kind %d", kind)
	}
}

// decodeObject reads a struct object_event of bpf/objects.bpf.c.
func (d decoder) decodeObject(raw []byte) (ledger.Event, error) {
	var e bpf.ObjectsObjectEvent
	if err := fill(&e, raw); err != nil {
		return ledger.Event{}, err
	}

	has := func(flag bpf.ObjectsObjectFlag) bool { return e.Flags&flag != 0 }
	o := &ledger.Object{
		Key:           e.Object,
		Program:       e.Kind == bpf.ObjectsObjectKindOBJECT_PROG,
		Type:          e.Type,
		ID:            e.Id,
		Name:          text(e.Name[:]),
		KeySize:       e.KeySize,
		ValueSize:     e.ValueSize,
		MaxEntries:    e.MaxEntries,
		Flags:         e.MapFlags,
		Rlimit:        has(bpf.ObjectsObjectFlagOBJECT_RLIMIT),
		Watched:       d.memcg,
		Later:         has(bpf.ObjectsObjectFlagOBJECT_LATER),
		FurtherBytes:  e.FurtherBytes,
		UnpaidBytes:   e.UnpaidBytes,
		MapCgroupID:   e.MapCgroupId,
		LimitCgroupID: e.LimitCgroupId,
		UsageBytes:    e.UsageBytes,
		LimitBytes:    e.LimitBytes,
	}
	for i, p := range e.Payers {
		o.Payers[i] = ledger.Payer{CgroupID: p.CgroupId, Pages: p.PageBytes, Objects: p.ObjectBytes}
	}
	event := ledger.Event{
		TimeNS:   d.bootNS + e.Header.TimeNs,
		Lost:     e.Header.Lost,
		Op:       [...]ledger.Op{ledger.Create, ledger.Grow, ledger.Free}[e.Op%3],
		PageSize: d.pageSize,
		Caller: ledger.Caller{
			PID: e.Pid, TID: e.Tid, UID: e.Uid, CPU: e.Cpu,
			Comm:      d.comms.text(e.Comm[:]),
			CgroupID:  e.CgroupId,
			LockLimit: e.LockLimit,
			Command:   has(bpf.ObjectsObjectFlagOBJECT_COMMAND),
			Self:      d.isSelf(e.Pid),
		},
		User: ledger.Reading{
			Owner:  uint64(e.PayerUid),
			Shared: has(bpf.ObjectsObjectFlagOBJECT_OVERLAP_USER),
			Gone:   has(bpf.ObjectsObjectFlagOBJECT_USER_GONE),
		},
		Object: o,
	}
	if o.Rlimit {
		o.Pages, event.User.Before, event.User.After = e.Pages, e.UserBefore, e.UserAfter
	}
	if e.Ret < 0 {
		event.Errno = -e.Ret
	}
	return event, nil
}

// decodeCharge reads a struct charge_event of bpf/chargers.bpf.c.
func (d decoder) decodeCharge(raw []byte) (ledger.Event, error) {
	var e bpf.ChargersChargeEvent
	if err := fill(&e, raw); err != nil {
		return ledger.Event{}, err
	}
	has := func(flag bpf.ChargersChargeFlag) bool { return e.Flags&flag != 0 }
	event := ledger.Event{
		TimeNS:   d.bootNS + e.Header.TimeNs,
		Lost:     e.Header.Lost,
		Op:       ledger.Account,
		PageSize: d.pageSize,
		Caller: ledger.Caller{
			PID: e.Pid, TID: e.Tid, UID: e.Uid, CPU: e.Cpu,
			Comm:       d.comms.text(e.Comm[:]),
			CgroupID:   e.CgroupId,
			CapIPCLock: has(bpf.ChargersChargeFlagCHARGE_CAP_IPC_LOCK),
			LockLimit:  e.LockLimit,
			Command:    has(bpf.ChargersChargeFlagCHARGE_COMMAND),
			Self:       d.isSelf(e.Pid),
		},
		User: ledger.Reading{
			Owner:  uint64(e.PayerUid),
			Before: e.UserBefore,
			After:  e.UserAfter,
			Shared: has(bpf.ChargersChargeFlagCHARGE_OVERLAP_USER),
			Gone:   has(bpf.ChargersChargeFlagCHARGE_USER_GONE),
		},
		SplitCounter: has(bpf.ChargersChargeFlagCHARGE_APART),
		Process: ledger.Reading{
			Owner:  e.Mm,
			Before: e.PinnedBefore,
			After:  e.PinnedAfter,
			Shared: has(bpf.ChargersChargeFlagCHARGE_OVERLAP_MM),
		},
		Charger: ledger.Charger(e.Charger) + ledger.IOUring,
	}
	if e.Ret < 0 && e.Ret >= -4095 { // not the lower half of a pointer
		event.Errno = -e.Ret
	}
	return event, nil
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

// decodeCall reads a struct event of bpf/perf.bpf.c.
func (d decoder) decodeCall(raw []byte) (ledger.Event, error) {
	var e bpf.PerfEvent
	if err := fill(&e, raw); err != nil {
		return ledger.Event{}, err
	}

	has := func(flag bpf.PerfFlag) bool { return e.Flags&flag != 0 }
	event := ledger.Event{
		TimeNS:   d.bootNS + e.Header.TimeNs,
		Lost:     e.Header.Lost,
		Op:       ledger.Map,
		Errno:    -e.Ret,
		PageSize: d.pageSize,
		Caller: ledger.Caller{
			PID: e.Pid, TID: e.Tid, UID: e.Uid, CPU: e.Cpu,
			Comm:       d.comms.text(e.Comm[:]),
			CgroupID:   e.CgroupId,
			CapIPCLock: has(bpf.PerfFlagFLAG_CAP_IPC_LOCK),
			LockLimit:  e.LockLimit,
			Command:    has(bpf.PerfFlagFLAG_COMMAND),
			Self:       d.isSelf(e.Pid),
		},
		User: ledger.Reading{
			Owner:  uint64(e.PayerUid),
			Before: e.UserLocked - e.UserExtra,
			After:  e.UserAfter,
			Shared: has(bpf.PerfFlagFLAG_OVERLAP_USER),
			Gone:   has(bpf.PerfFlagFLAG_USER_GONE),
		},
		Process: ledger.Reading{
			Owner:  e.Mm,
			Before: e.PinnedVm,
			After:  e.PinnedAfter,
			Shared: has(bpf.PerfFlagFLAG_OVERLAP_MM),
		},
		Buffer: ledger.Buffer{
			Key:         e.Buffer,
			Pages:       e.UserExtra,
			Existing:    has(bpf.PerfFlagFLAG_EXISTING),
			Extra:       e.Extra,
			Mappings:    ledger.Count{Before: e.Mappings, After: e.MappingsAfter},
			AUXMappings: ledger.Count{Before: e.AuxMappings, After: e.AuxMappingsAfter},
			Recorded: [2]ledger.Recorded{
				rule.Data: {Pages: e.DataPages, Extra: e.DataExtra},
				rule.AUX:  {Pages: e.AuxPages, Extra: e.AuxExtra},
			},
			Limits: ledger.Limits{
				Allowance:  e.UserLockLimit,
				Paranoid:   e.Paranoid,
				OnlineCPUs: e.OnlineCpus,
				Moved:      has(bpf.PerfFlagFLAG_LIMITS_MOVED),
			},
			Shared: has(bpf.PerfFlagFLAG_OVERLAP_BUFFER),
		},
	}
	if e.Op == bpf.PerfOpOP_UNMAP {
		event.Op, event.User.Before = ledger.Unmap, e.UserLocked
	}
	if e.Area == bpf.PerfAreaAREA_AUX {
		event.Buffer.Area = rule.AUX
	}
	return event, nil
}
