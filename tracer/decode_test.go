package tracer

import (
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

func bytesOf(e *bpf.PerfEvent) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(e)), unsafe.Sizeof(*e))
}

func TestDecode(t *testing.T) {
	record := bpf.PerfEvent{
		Header: bpf.PerfHeader{Record: bpf.PerfRecordRECORD_CALL, TimeNs: 7}, CgroupId: 11, Mm: 12, Buffer: 13, UserExtra: 9, UserLocked: 18, UserLockLimit: 4, Extra: 9,
		PinnedVm: 5, Locked: 14, LockLimit: 16, UserAfter: 4, PinnedAfter: -1, DataPages: 9, DataExtra: 5, AuxPages: 2, AuxExtra: 1, AuxMappings: 6, AuxMappingsAfter: 7, Pid: 20, Tid: 21, Uid: 22,
		PayerUid: 23, Cpu: 3, Ret: -22, Paranoid: -1, Mappings: 2, MappingsAfter: 1, Op: bpf.PerfOpOP_UNMAP,
		Area: bpf.PerfAreaAREA_AUX, OnlineCpus: 4,
		Flags: bpf.PerfFlagFLAG_CAP_IPC_LOCK | bpf.PerfFlagFLAG_OVERLAP_MM | bpf.PerfFlagFLAG_COMMAND,
	}
	copy(record.Comm[:], "perf\x00garbage")
	got, err := decoder{bootNS: 1000, pageSize: 16384}.decode(bytesOf(&record))
	if err != nil {
		t.Fatal(err)
	}
	want := ledger.Event{
		TimeNS: 1007, Op: ledger.Unmap, Errno: 22, PageSize: 16384,
		Caller:  ledger.Caller{PID: 20, TID: 21, UID: 22, CPU: 3, Comm: "perf", CgroupID: 11, Command: true, CapIPCLock: true, LockLimit: 16},
		User:    ledger.Reading{Owner: 23, Before: 18, After: 4},
		Process: ledger.Reading{Owner: 12, Before: 5, After: -1, Shared: true},
		Buffer: ledger.Buffer{
			Key: 13, Area: rule.AUX, Pages: 9, Extra: 9,
			Mappings:    ledger.Count{Before: 2, After: 1},
			AUXMappings: ledger.Count{Before: 6, After: 7},
			Recorded:    [2]ledger.Recorded{rule.Data: {Pages: 9, Extra: 5}, rule.AUX: {Pages: 2, Extra: 1}},
			Limits:      ledger.Limits{Allowance: 4, Paranoid: -1, OnlineCPUs: 4},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Whatever the bytes, decoding and the ledger must not crash: the kernel is
// hostile input too.
func FuzzDecode(f *testing.F) {
	f.Add(bytesOf(&bpf.PerfEvent{Header: bpf.PerfHeader{Record: bpf.PerfRecordRECORD_CALL}}), uint8(0))
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
