package tracer

import (
	"math/bits"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

func bytesOf[T any](record *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(record)), unsafe.Sizeof(*record))
}

// header is what all records of the tests begin with, and prelude what becomes of that.
func header(kind bpf.PerfRecordKind, flags bpf.PerfRecordFlag) bpf.PerfHeader {
	h := bpf.PerfHeader{Kind: kind, Flags: flags, Seq: 5, TimeNs: 7, Lost: 8,
		Caller: bpf.PerfCaller{CgroupId: 11, LockLimit: 16, Pid: 20, Tid: 21, Uid: 22, Cpu: 3}}
	copy(h.Caller.Comm[:], "perf\x00garbage")
	return h
}

func prelude() ledger.Event {
	return ledger.Event{TimeNS: 1007, Lost: 8, PageSize: 16384,
		Caller: ledger.Caller{PID: 20, TID: 21, UID: 22, CPU: 3, Comm: "perf", CgroupID: 11, LockLimit: 16}}
}

// withHeader makes a record of another object's type begin with a header.
func withHeader[T any](h bpf.PerfHeader, record T) []byte {
	raw := bytesOf(&record)
	copy(raw, bytesOf(&h))
	return raw
}

func perfRecord(flags bpf.PerfRecordFlag) bpf.PerfRecord {
	return bpf.PerfRecord{
		Header: header(bpf.PerfRecordKindRECORD_PERF, flags),
		User:   bpf.PerfReading{Owner: 23, Before: 18, After: 4}, Process: bpf.PerfReading{Owner: 12, Before: 5, After: -1},
		Buffer: 13, UserExtra: 9, UserLockLimit: 4, Extra: 6, DataPages: 9, DataExtra: 5, AuxPages: 2, AuxExtra: 1,
		AuxMappings: 6, AuxMappingsAfter: 7, Ret: -22, Paranoid: -1, Mappings: 2, MappingsAfter: 1,
		Op: bpf.PerfOpOP_UNMAP, Area: bpf.PerfAreaAREA_AUX, OnlineCpus: 4,
	}
}

func objectRecord(flags bpf.PerfRecordFlag) []byte {
	record := bpf.ObjectsRecord{
		User:   bpf.ObjectsReading{Owner: 23, Before: 18, After: 27},
		Object: 30, Pages: 9, FurtherBytes: 31, UnpaidBytes: 32, MapCgroupId: 33, LimitCgroupId: 34, UsageBytes: 35, LimitBytes: -1,
		Op: bpf.ObjectsOpOP_CREATE, Kind: bpf.ObjectsKindKIND_PROG, Ret: 3, Type: 36, Id: 37, KeySize: 38, ValueSize: 39, MaxEntries: 40, MapFlags: 41,
	}
	copy(record.Name[:], "a program")
	record.Payers[1].CgroupId, record.Payers[1].PageBytes, record.Payers[1].ObjectBytes = 42, 43, 44
	return withHeader(header(bpf.PerfRecordKindRECORD_OBJECT, flags), record)
}

func chargerRecord(charger bpf.ChargersCharger, flags bpf.PerfRecordFlag) []byte {
	return withHeader(header(bpf.PerfRecordKindRECORD_CHARGER, flags), bpf.ChargersRecord{
		User: bpf.ChargersReading{Owner: 23, Before: 18, After: 27}, Process: bpf.ChargersReading{Owner: 12, Before: 5, After: 14},
		LockedBefore: 3, LockedAfter: 4, Function: bpf.ChargersFunctionFUNCTION_VFIO_MAP, Asked: 1,
		Charger: charger, Ret: -12, Holder: 50, HolderPages: 51,
	})
}

// failedRing is the event of a ring that could not be made.
func failedRing(t *testing.T, flags bpf.PerfRecordFlag) ledger.Event {
	t.Helper()
	return decodeOf(t, withHeader(header(bpf.PerfRecordKindRECORD_CHARGER, flags), bpf.ChargersRecord{Function: bpf.ChargersFunctionFUNCTION_RING_SETUP, Ret: -12}))
}

// failedMap is the event of an update that failed.
func failedMap(t *testing.T, flags bpf.PerfRecordFlag) ledger.Event {
	t.Helper()
	return decodeOf(t, withHeader(header(bpf.PerfRecordKindRECORD_OBJECT, flags), bpf.ObjectsRecord{Op: bpf.ObjectsOpOP_GROW, Ret: -12, Command: 2, Pages: 7}))
}

func decodeOf(t *testing.T, raw []byte) ledger.Event {
	t.Helper()
	event, err := decoder{bootNS: 1000, pageSize: 16384, memcg: true}.decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	return event
}

func TestDecodePerf(t *testing.T) {
	record := perfRecord(bpf.PerfRecordFlagFLAG_CAP_IPC_LOCK | bpf.PerfRecordFlagFLAG_OVERLAP_MM | bpf.PerfRecordFlagFLAG_COMMAND)
	want := prelude()
	want.Op, want.Errno = ledger.Unmap, 22
	want.Caller.Command, want.Caller.CapIPCLock = true, true
	want.User = ledger.Reading{Owner: 23, Before: 18, After: 4}
	want.Process = ledger.Reading{Owner: 12, Before: 5, After: -1, Shared: true}
	want.Buffer = ledger.Buffer{
		Key: 13, Area: rule.AUX, Pages: 9, Extra: 6,
		Mappings:    ledger.Count{Before: 2, After: 1},
		AUXMappings: ledger.Count{Before: 6, After: 7},
		Recorded:    [2]ledger.Recorded{rule.Data: {Pages: 9, Extra: 5}, rule.AUX: {Pages: 2, Extra: 1}},
		Limits:      ledger.Limits{Allowance: 4, Paranoid: -1, OnlineCPUs: 4},
	}
	if diff := cmp.Diff(want, decodeOf(t, bytesOf(&record))); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeObject(t *testing.T) {
	want := prelude()
	want.Op = ledger.Create
	want.User = ledger.Reading{Owner: 23, Before: 18, After: 27}
	want.Object = &ledger.Object{Key: 30, Program: true, Type: 36, ID: 37, Name: "a program", KeySize: 38, ValueSize: 39, MaxEntries: 40, Flags: 41, Watched: true,
		Payers: [2]ledger.Payer{1: {CgroupID: 42, Pages: 43, Objects: 44}}, FurtherBytes: 31, UnpaidBytes: 32, MapCgroupID: 33, LimitCgroupID: 34, UsageBytes: 35, LimitBytes: -1}
	if diff := cmp.Diff(want, decodeOf(t, objectRecord(0))); diff != "" {
		t.Errorf("charged to cgroups: %s", diff)
	}
	want.Object.Rlimit, want.Object.Pages = true, 9
	if diff := cmp.Diff(want, decodeOf(t, objectRecord(bpf.PerfRecordFlagFLAG_RLIMIT))); diff != "" {
		t.Errorf("charged to a user: %s", diff)
	}
}

func TestDecodeCharge(t *testing.T) {
	want := prelude()
	want.Op, want.Charger, want.Errno, want.SplitCounter = ledger.Account, "vfio", 12, true
	want.User = ledger.Reading{Owner: 23, Before: 18, After: 27, Gone: true}
	want.Process = ledger.Reading{Owner: 12, Before: 5, After: 14}
	want.LockedVM = ledger.Reading{Before: 3, After: 4}
	want.Failed = &refusal.Call{Function: refusal.VFIOMap, Asked: 1}
	want.Instance = object.Instance{Key: 50, Pages: 51}
	flags := bpf.PerfRecordFlagFLAG_SPLIT_COUNTER | bpf.PerfRecordFlagFLAG_USER_GONE
	if diff := cmp.Diff(want, decodeOf(t, chargerRecord(bpf.ChargersChargerCHARGER_VFIO, flags))); diff != "" {
		t.Error(diff)
	}
	want.Op = ledger.Close
	if diff := cmp.Diff(want, decodeOf(t, chargerRecord(bpf.ChargersChargerCHARGER_VFIO, flags|bpf.PerfRecordFlagFLAG_CLOSED))); diff != "" {
		t.Errorf("closed: %s", diff)
	}
}

// What bpf(2) failed at has a name, and what the user was asked for where users pay.
func TestDecodeFailedMap(t *testing.T) {
	for flags, want := range map[bpf.PerfRecordFlag]refusal.Call{
		0:                             {Function: refusal.MapUpdate},
		bpf.PerfRecordFlagFLAG_RLIMIT: {Function: refusal.MapUpdate, Asked: 7},
		bpf.PerfRecordFlagFLAG_RLIMIT | bpf.PerfRecordFlagFLAG_ACCOUNT_REFUSED: {Function: refusal.MapUpdate, Asked: 7, Accounting: refusal.Refused},
		bpf.PerfRecordFlagFLAG_RLIMIT | bpf.PerfRecordFlagFLAG_ACCOUNT_PASSED:  {Function: refusal.MapUpdate, Asked: 7, Accounting: refusal.Passed},
	} {
		event := failedMap(t, flags)
		if event.Op != ledger.Grow || event.Errno != 12 || event.Failed == nil || *event.Failed != want {
			t.Errorf("flags %#x: %+v; want %+v", flags, event.Failed, want)
		}
	}
	for probed, want := range map[bool]refusal.Accounting{true: refusal.NotReached, false: refusal.Unseen} {
		c := compared{mapsProbed: probed}
		if call := c.failedObject(&bpf.ObjectsRecord{Ret: -1, Command: 0}, bpf.PerfRecordFlagFLAG_RLIMIT); call.Accounting != want {
			t.Errorf("probed: %v, and nothing was compared: %s, want %s", probed, call.Accounting, want)
		}
	}
	if event := failedMap(t, bpf.PerfRecordFlagFLAG_MEMCG_REFUSED); !event.Object.Refused {
		t.Error("a cgroup refused, and the event does not say so")
	}
}

// A mapping that failed has a record, and the facts.
func TestDecodeFailedMapping(t *testing.T) {
	record := perfRecord(0)
	record.Header.Kind, record.Ret = bpf.PerfRecordKindRECORD_PERF_FAILED, -22
	facts := bpf.PerfFacts{AuxOffset: 1, AuxSize: 2, AuxPgoff: 3, Pgoff: 4, Cpu: 5, SystemCall: 6}
	decoded := func() *refusal.Call { return decodeOf(t, append(bytesOf(&record), bytesOf(&facts)...)).Failed }
	want := refusal.Call{Function: refusal.PerfMmap, Mapping: refusal.Mapping{Private: true, WantOffset: 1, WantSize: 2, AUXOffset: 3, Offset: 4, CPU: 5, SystemCall: -1}}
	if diff := cmp.Diff(&want, decoded()); diff != "" {
		t.Error(diff)
	}
	facts.Facts, facts.SystemCall, record.Op = bpf.PerfFactFACT_SHARED|bpf.PerfFactFACT_INHERIT|bpf.PerfFactFACT_AUX_CAPABLE|bpf.PerfFactFACT_REVOKED, unix.SYS_MUNMAP, bpf.PerfOpOP_SPLIT
	want.Function = refusal.MaySplit
	m := &want.Mapping
	m.Private, m.Inherited, m.AUXCapable, m.Revoked, m.SystemCall = false, true, true, true, unix.SYS_MUNMAP
	if diff := cmp.Diff(&want, decoded()); diff != "" {
		t.Error(diff)
	}
	if event, err := (decoder{}).decode(bytesOf(&record)); err == nil {
		t.Errorf("without the facts: %+v", event)
	}
}

// How much a call moved is known by the kernel's arguments where it says so, and never of a
// call that failed, or whose comparison was not seen (asked is 0 then).
func TestDecodeMoves(t *testing.T) {
	const register = bpf.ChargersFunctionFUNCTION_RING_REGISTER
	for name, c := range map[string]struct {
		record bpf.ChargersRecord
		pages  int64
		gives  bool
	}{
		"umem":              {bpf.ChargersRecord{Function: bpf.ChargersFunctionFUNCTION_UMEM, Asked: 16}, 16, false},
		"umem, refused":     {bpf.ChargersRecord{Function: bpf.ChargersFunctionFUNCTION_UMEM, Asked: 16, Ret: -105}, 0, false},
		"umem, released":    {bpf.ChargersRecord{Function: bpf.ChargersFunctionFUNCTION_RELEASE, Asked: -16}, -16, true},
		"ring, released":    {bpf.ChargersRecord{Function: bpf.ChargersFunctionFUNCTION_RELEASE}, 0, true},
		"buffers":           {bpf.ChargersRecord{Function: register, Request: refusal.RegisterBuffers, Asked: 3}, 3, false},
		"buffers, updated":  {bpf.ChargersRecord{Function: register, Request: refusal.RegisterBuffersUpdate, Asked: 3}, 0, false},
		"buffers, released": {bpf.ChargersRecord{Function: register, Request: refusal.UnregisterBuffers}, 0, true},
		"any other":         {bpf.ChargersRecord{Function: bpf.ChargersFunctionFUNCTION_OTHER, Asked: 3}, 0, false},
	} {
		if pages, gives := moves(&c.record); pages != c.pages || gives != c.gives {
			t.Errorf("%s: %d, %v; want %d, %v", name, pages, gives, c.pages, c.gives)
		}
	}
}

// What is said of the comparison with the limit is what was seen of it: that it was not
// reached only where it would have been seen.
func TestDecodeFailedCharge(t *testing.T) {
	const setup, register, buffers, region = bpf.ChargersFunctionFUNCTION_RING_SETUP, bpf.ChargersFunctionFUNCTION_RING_REGISTER, refusal.RegisterBuffers, 34
	const unseen, passed, refused = bpf.ChargersAccountingACCOUNTING_UNSEEN, bpf.ChargersAccountingACCOUNTING_PASSED, bpf.ChargersAccountingACCOUNTING_REFUSED
	type step struct {
		function   bpf.ChargersFunction
		request    uint32
		accounting bpf.ChargersAccounting
		ret        int32
		want       refusal.Accounting
	}
	for _, probed := range []bool{false, true} {
		c := compared{ringsProbed: probed, calls: map[comparing]bool{}}
		reached := refusal.Unseen
		if probed {
			reached = refusal.NotReached
		}
		for i, s := range []step{
			{setup, 0, unseen, -12, reached},
			{register, region, unseen, -12, reached},
			{register, buffers, unseen, -12, refusal.Unseen}, // may be inlined
			{register, buffers, refused, -12, refusal.Refused},
			{register, buffers, passed, -12, refusal.Passed},
			{register, buffers, unseen, -12, refusal.NotReached}, // it was seen before
			{bpf.ChargersFunctionFUNCTION_UMEM, 0, unseen, -105, refusal.Unseen},
		} {
			call, err := c.failed(&bpf.ChargersRecord{Function: s.function, Request: s.request, Accounting: s.accounting, Ret: s.ret, Asked: 3, LastAsked: 2, LastHeld: 1, Count: 9}, bpf.PerfRecordFlagFLAG_EXEMPT)
			want := &refusal.Call{Function: functions[s.function], Accounting: s.want, Asked: 3, LastAsked: 2, LastHeld: 1, Request: s.request, Count: 9, Exempt: true}
			if diff := cmp.Diff(want, call); diff != "" || err != nil {
				t.Errorf("probed %v, step %d: %v %s", probed, i, err, diff)
			}
		}
	}
	if call, err := (compared{}).failed(&bpf.ChargersRecord{Function: setup, Ret: 7}, 0); call != nil || err != nil {
		t.Errorf("a call that succeeded: %+v, %v", call, err)
	}
	for _, r := range []bpf.ChargersRecord{{Function: 200}, {Accounting: 200}} {
		if call, err := (compared{}).failed(&r, 0); err == nil {
			t.Errorf("%+v: %+v", r, call)
		}
	}
}

// What memory cgroups said to a ring, and the verifier to a program, is what was seen of it.
func TestDecodeAnswers(t *testing.T) {
	const setup, send = bpf.ChargersFunctionFUNCTION_RING_SETUP, bpf.ChargersFunctionFUNCTION_RING_SEND
	limit := refusal.MemoryLimit{CgroupID: 7, UsageBytes: 1, WantedBytes: 2, LimitBytes: 3}
	for _, c := range []struct {
		function bpf.ChargersFunction
		probed   bool
		cgroup   uint64
		flags    bpf.PerfRecordFlag
		want     refusal.Accounting
		limit    refusal.MemoryLimit
	}{
		{setup, false, 0, 0, refusal.Unseen, refusal.MemoryLimit{}},
		{setup, true, 0, 0, refusal.NotReached, refusal.MemoryLimit{}},
		{setup, true, 7, 0, refusal.Passed, limit},
		{setup, true, 7, bpf.PerfRecordFlagFLAG_MEMCG_REFUSED, refusal.Refused, limit},
		{send, true, 0, 0, refusal.Unseen, refusal.MemoryLimit{}},
	} {
		r := bpf.ChargersRecord{Function: c.function, Ret: -12, LimitCgroupId: c.cgroup}
		if c.cgroup != 0 {
			r.UsageBytes, r.WantedBytes, r.LimitBytes = 1, 2, 3
		}
		call, err := compared{cgroups: c.probed}.failed(&r, c.flags)
		if err != nil || call.Memory != c.want || call.Limit != c.limit {
			t.Errorf("%+v: %v, %+v, %v", c, call.Memory, call.Limit, err)
		}
	}
	for _, c := range []struct {
		command uint32
		probed  bool
		flags   bpf.PerfRecordFlag
		want    refusal.Accounting
	}{
		{unix.BPF_PROG_LOAD, false, 0, refusal.Unseen},
		{unix.BPF_PROG_LOAD, true, 0, refusal.NotReached},
		{unix.BPF_PROG_LOAD, true, bpf.PerfRecordFlagFLAG_VERIFIER_REFUSED, refusal.Refused},
		{unix.BPF_PROG_LOAD, true, bpf.PerfRecordFlagFLAG_VERIFIER_PASSED, refusal.Passed},
		{unix.BPF_MAP_CREATE, true, 0, refusal.Unseen},
	} {
		if call := (compared{objectCgroups: c.probed}).failedObject(&bpf.ObjectsRecord{Ret: -12, Command: c.command}, bpf.PerfRecordFlagFLAG_MEMCG_REFUSED); call.Memory != refusal.Refused {
			t.Errorf("%+v: %v; a cgroup refused", c, call.Memory)
		}
		if call := (compared{objectCgroups: c.probed}).failedObject(&bpf.ObjectsRecord{Ret: -12, Command: c.command}, 0); (call.Memory == refusal.NotReached) != c.probed {
			t.Errorf("%+v: %v; no cgroup refused", c, call.Memory)
		}
		if call := (compared{verifier: c.probed}).failedObject(&bpf.ObjectsRecord{Ret: -22, Command: c.command}, c.flags); call.Verifier != c.want {
			t.Errorf("%+v: %v", c, call.Verifier)
		}
	}
}

// enumerators are the names and values that an enumeration has in C.
func enumerators(t *testing.T, load func() (*ebpf.CollectionSpec, error), name string) map[string]uint64 {
	t.Helper()
	spec, err := load()
	if err != nil {
		t.Fatal(err)
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName(name, &enum); err != nil {
		t.Fatalf("enum %s: %v", name, err)
	}
	values := map[string]uint64{}
	for _, v := range enum.Values {
		values[v.Name] = v.Value
	}
	return values
}

// What C can send, Go knows; and what C has no name for is an error.
func TestEveryNameIsKnown(t *testing.T) {
	decodes := func(raw []byte) bool {
		_, err := decoder{}.decode(raw)
		return err == nil
	}
	perf := func(change func(*bpf.PerfRecord, uint32)) func(uint32) bool {
		return func(value uint32) bool {
			record := perfRecord(0)
			change(&record, value)
			return decodes(bytesOf(&record))
		}
	}
	object := func(change func(*bpf.ObjectsRecord, uint32)) func(uint32) bool {
		return func(value uint32) bool {
			raw := objectRecord(0)
			change((*bpf.ObjectsRecord)(unsafe.Pointer(&raw[0])), value)
			return decodes(raw)
		}
	}
	for _, c := range []struct {
		enum  string
		load  func() (*ebpf.CollectionSpec, error)
		known func(uint32) bool
	}{
		{"record_kind", bpf.LoadPerf, func(value uint32) bool {
			// Too short for its kind, but not of an unknown one.
			h := header(bpf.PerfRecordKind(value), 0)
			_, err := decoder{}.decode(bytesOf(&h))
			return err != nil && !strings.Contains(err.Error(), "unknown kind")
		}},
		{"op", bpf.LoadPerf, perf(func(r *bpf.PerfRecord, value uint32) { r.Op = bpf.PerfOp(value) })},
		{"area", bpf.LoadPerf, perf(func(r *bpf.PerfRecord, value uint32) { r.Area = bpf.PerfArea(value) })},
		{"op", bpf.LoadObjects, object(func(r *bpf.ObjectsRecord, value uint32) { r.Op = bpf.ObjectsOp(value) })},
		{"kind", bpf.LoadObjects, object(func(r *bpf.ObjectsRecord, value uint32) { r.Kind = bpf.ObjectsKind(value) })},
		{"charger", bpf.LoadChargers, func(value uint32) bool { return decodes(chargerRecord(bpf.ChargersCharger(value), 0)) }},
	} {
		values := enumerators(t, c.load, c.enum)
		delete(values, "CHARGER_COUNT")
		for name, value := range values {
			if !c.known(uint32(value)) {
				t.Errorf("enum %s: %s cannot be decoded", c.enum, name)
			}
		}
		for _, value := range []uint32{uint32(len(values)) + 1, 1 << 31} {
			if c.known(value) {
				t.Errorf("enum %s: %d has no name, and is decoded", c.enum, value)
			}
		}
	}
}

// A charger has the same name in C and in Go.
func TestChargersByName(t *testing.T) {
	for name, value := range enumerators(t, bpf.LoadChargers, "charger") {
		if name == "CHARGER_COUNT" {
			continue
		}
		c, err := chargerOf(bpf.ChargersCharger(value))
		if err != nil || "CHARGER_"+strings.ToUpper(string(c)) != name {
			t.Errorf("%s is %q: %v", name, c, err)
		}
	}
	if c, err := chargerOf(200); err == nil {
		t.Errorf("a charger without a name is %q", c)
	}
}

// Each flag is a bit of its own, and says something of a record that can have it.
func TestFlagsByName(t *testing.T) {
	var all uint64
	for name, value := range enumerators(t, bpf.LoadPerf, "record_flag") {
		if bits.OnesCount64(value) != 1 || all&value != 0 {
			t.Errorf("%s: %#x is no bit of its own", name, value)
		}
		all |= value
		flag := bpf.PerfRecordFlag(value)
		with, without := perfRecord(flag), perfRecord(0)
		if cmp.Equal(decodeOf(t, bytesOf(&with)), decodeOf(t, bytesOf(&without))) &&
			cmp.Equal(decodeOf(t, objectRecord(flag)), decodeOf(t, objectRecord(0))) &&
			cmp.Equal(decodeOf(t, chargerRecord(0, flag)), decodeOf(t, chargerRecord(0, 0))) &&
			cmp.Equal(failedRing(t, flag), failedRing(t, 0)) && cmp.Equal(failedMap(t, flag), failedMap(t, 0)) {
			t.Errorf("%s: makes no difference to any event", name)
		}
	}
}

func TestDecodeRejects(t *testing.T) {
	record := perfRecord(0)
	raw := bytesOf(&record)
	for name, bad := range map[string][]byte{
		"nothing":           nil,
		"a header's half":   raw[:16],
		"a record's half":   raw[:len(raw)-8],
		"a record and more": append(raw[:len(raw):len(raw)], make([]byte, 8)...),
		"another kind's":    withHeader(header(bpf.PerfRecordKindRECORD_OBJECT, 0), record),
	} {
		if event, err := (decoder{}).decode(bad); err == nil {
			t.Errorf("%s: %+v", name, event)
		}
	}
}

// Whatever the bytes, decoding and the ledger must not crash: the kernel is
// hostile input too.
func FuzzDecode(f *testing.F) {
	record := perfRecord(0)
	f.Add(bytesOf(&record), uint8(0))
	f.Add(objectRecord(bpf.PerfRecordFlagFLAG_RLIMIT), uint8(2))
	f.Add(chargerRecord(bpf.ChargersChargerCHARGER_XDP, 0), uint8(3))
	f.Add([]byte("short"), uint8(1))
	f.Fuzz(func(t *testing.T, raw []byte, times uint8) {
		l := ledger.New()
		for range times%4 + 1 {
			event, err := decoder{}.decode(raw)
			if err != nil {
				return
			}
			l.Apply(event)
		}
	})
}
