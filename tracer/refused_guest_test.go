//go:build guest

package tracer_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// A call that fails has a record of what it asked for, and of the comparison that
// refused it. The witness is the program's own errno.
func TestRefusalsAreRecorded(t *testing.T) {
	guests.Test(t, guesttest.Ends, recordsRefusals)
}

// attempt is one call of a user of its own, and what its record must tell.
type attempt struct {
	call    string // with flags of the workload
	memlock int    // pages
	errno   unix.Errno
	asked   int64 // in all; 0: none may be recorded
	last    int64 // of it, that was compared last, where that can be seen
	derived bool  // the comparison can be seen on no kernel
}

func recordsRefusals(t *testing.T, k guesttest.Kernel) {
	held := ringPages(t) // by a ring of one entry
	page := k.PageKiB() << 10
	sends := 64 / k.PageKiB() // the limit, in pages: each asks for two more than it has bytes
	half := (sends - 2) / 2
	huge := hugePages(k)
	attempts := []attempt{
		{call: fmt.Sprintf("sends bytes=%d", (sends-2)*page), memlock: int(sends)},
		{call: fmt.Sprintf("sends bytes=%d", (sends-1)*page), memlock: int(sends), errno: unix.ENOBUFS, asked: sends + 1, last: sends + 1},
		{call: fmt.Sprintf("sends bytes=%d count=2", half*page), memlock: int(sends), errno: unix.ENOBUFS, asked: half + 2, last: half + 2},
		{call: "buffers offset=16 count=8", memlock: held + 16},
		{call: "buffers offset=16 count=9", memlock: held + 16, errno: unix.ENOMEM, asked: 18, last: 2},
		{call: "buffers huge=1 count=1", memlock: held + int(huge) - 1, errno: unix.ENOMEM, asked: huge, last: huge},
		{call: fmt.Sprintf("umem bytes=%d cap=cap_net_raw", 16*page), memlock: 16},
		{call: fmt.Sprintf("umem bytes=%d cap=cap_net_raw", 17*page), memlock: 16, errno: unix.ENOBUFS, asked: 17, derived: true},
	}
	outcomes := make([]workload.Outcome, len(attempts))
	const firstUID = 2200
	tr := traceObjects(t, everything(), func(tr objectTrace) {
		for i, a := range attempts {
			args := append(strings.Fields(a.call), fmt.Sprintf("uid=%d", firstUID+i), fmt.Sprintf("memlock=%d", a.memlock))
			outcomes[i] = call(t, args...)
		}
	})
	for i, a := range attempts {
		t.Run(a.call, func(t *testing.T) { a.check(t, k, outcomes[i], refusalsOf(tr.entries, uint32(firstUID+i))) })
	}
}

func (a attempt) check(t *testing.T, k guesttest.Kernel, outcome workload.Outcome, refusals []ledger.Entry) {
	if unix.Errno(outcome.Errno) != a.errno {
		t.Errorf("%v; want %v", unix.Errno(outcome.Errno), a.errno)
	}
	if a.errno == 0 || outcome.Errno == 0 {
		if len(refusals) > 0 {
			t.Errorf("nothing was refused: %+v", refusals)
		}
		return
	}
	if len(refusals) != 1 || refusals[0].Failed == nil {
		t.Fatalf("%d refusals: %+v", len(refusals), refusals)
	}
	e, f := &refusals[0], refusals[0].Failed
	t.Logf("%d pages held, limit %d: %+v", e.User.Before, e.Caller.LockLimit, *f)
	// The workload sets both limits itself, and its parent is this process.
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &own); err != nil {
		t.Fatal(err)
	}
	if e.Caller.HardLimit != int64(a.memlock) || e.Caller.ParentLimit != int64(own.Cur/uint64(k.PageKiB()<<10)) {
		t.Errorf("hard limit %d, the parent's %d; want %d and %d bytes", e.Caller.HardLimit, e.Caller.ParentLimit, a.memlock, own.Cur)
	}
	asked := a.asked
	unseen := a.derived || k.ComparesInline() && f.Function == "io_uring_register"
	if unseen && strings.Contains(a.call, "huge") {
		asked = 1 // the arguments do not tell
	}
	if e.Errno != int32(a.errno) || f.Asked != asked || e.Caller.LockLimit != int64(a.memlock) {
		t.Errorf("errno %d, %d pages asked for, limit %d; want %d, %d, %d", e.Errno, f.Asked, e.Caller.LockLimit, a.errno, asked, a.memlock)
	}
	if unseen {
		if f.Accounting != refusal.Unseen || f.LastAsked != 0 {
			t.Errorf("the comparison was seen: %+v", *f)
		}
		return
	}
	if f.Accounting != refusal.Refused || f.LastAsked != a.last || f.LastHeld != e.User.Before+f.Asked-f.LastAsked || f.LastHeld+f.LastAsked <= e.Caller.LockLimit {
		t.Errorf("the comparison: %+v; want %d pages asked for last, more than the limit", *f, a.last)
	}
}

// call has a process make a call that may be refused.
func call(t *testing.T, args ...string) workload.Outcome {
	t.Helper()
	return lines[workload.Outcome](t, load(t, append([]string{"call"}, args...)...))[0]
}

// hugePages is how many pages a huge page has.
func hugePages(k guesttest.Kernel) int64 { return map[int64]int64{4: 512, 16: 2048}[k.PageKiB()] }

// refusalsOf are the entries of a user's calls that failed.
func refusalsOf(entries []ledger.Entry, uid uint32) (list []ledger.Entry) {
	for _, e := range entries {
		if e.Kind == ledger.Refusal && e.Caller.UID == uid && !e.Caller.Self {
			list = append(list, e)
		}
	}
	return list
}

// ringPages is what this kernel charges for a ring of one entry: the limit with which it
// can be made.
func ringPages(t *testing.T) int {
	t.Helper()
	for pages := range 8 {
		if call(t, "ring", fmt.Sprintf("memlock=%d", pages)).Errno == 0 {
			return pages
		}
	}
	t.Fatal("no ring can be made")
	return 0
}

// perf buffers of the same user fill the counter that io_uring is held against, where perf
// has no counter of its own.
func TestRefusedForPerfBuffers(t *testing.T) {
	guests.Test(t, guesttest.Ends, refusedForPerfBuffers)
}

func refusedForPerfBuffers(t *testing.T, k guesttest.Kernel) {
	const uid, limit, perfPages = 2300, 128, 28 * 17
	before := read(t, settings+"mlock_kb")
	guesttest.Set(t, settings+"mlock_kb", fmt.Sprint(129*k.PageKiB())) // of each CPU: 516 pages in all
	defer guesttest.Set(t, settings+"mlock_kb", before)
	ring := ringPages(t)
	var made, registered workload.Outcome
	tr := traceObjects(t, everything(), func(tr objectTrace) {
		holder := guesttest.Command(t, "pinwatch", "workload", "perf-buffers", "--json", "--uid", fmt.Sprint(uid), "--pages", "16", "--max", "28", "--hold", "10m").Start()
		holder.WaitFor(`"buffer":27`)
		who := []string{fmt.Sprintf("uid=%d", uid), fmt.Sprintf("memlock=%d", limit)}
		made = call(t, append([]string{"ring", "count=32"}, who...)...)
		registered = call(t, append([]string{"buffers"}, who...)...)
		holder.Stop(unix.SIGKILL)
	})
	refusals := refusalsOf(tr.entries, uid)
	apart := false
	for _, e := range tr.entries {
		apart = apart || e.SplitCounter
	}
	t.Logf("ring of %d pages: %v; buffers: %v; a counter of perf's own: %v", ring, unix.Errno(made.Errno), unix.Errno(registered.Errno), apart)
	want := 2
	switch {
	case apart:
		want = 0
	case ring == 0:
		want = 1
	}
	failed := 0
	for _, o := range []workload.Outcome{made, registered} {
		if unix.Errno(o.Errno) == unix.ENOMEM {
			failed++
		}
	}
	if failed != want || len(refusals) != want {
		t.Fatalf("%d calls were refused, and %d recorded; want %d: %+v", failed, len(refusals), want, refusals)
	}
	for _, e := range refusals {
		f := e.Failed
		seen := refusal.Refused
		if k.Series == "5.10" {
			seen = refusal.Unseen
		}
		if f == nil || f.Accounting != seen || e.User.Before != perfPages || f.Asked != 1 || e.Caller.LockLimit != limit || e.Caller.CapIPCLock {
			t.Errorf("%d held, limit %d: %+v; want %d, %d and 1 asked for", e.User.Before, e.Caller.LockLimit, f, perfPages, limit)
		}
	}
}

// A mapping that fails has a record of what perf_mmap() decides by, and one that would
// split another mapping has one of its own, though perf_mmap() is not called for it.
func TestFailedMappingsAreRecorded(t *testing.T) {
	guests.Test(t, guesttest.Ends, recordsFailedMappings)
}

func recordsFailedMappings(t *testing.T, k guesttest.Kernel) {
	ordinary := refusal.Mapping{CPU: -1, SystemCall: -1}
	with := func(change func(*refusal.Mapping)) refusal.Mapping {
		m := ordinary
		change(&m)
		return m
	}
	page := uint64(k.PageKiB() << 10)
	attempts := []struct {
		call     string // with parameters of the workload
		errno    unix.Errno
		pages    int64 // of the mapping that failed
		existing int64 // of the data area that was there
		want     refusal.Mapping
	}{
		{call: "mapping"},
		{"mapping inherit=1", unix.EINVAL, 9, 0, with(func(m *refusal.Mapping) { m.Inherited = true })},
		{call: "mapping inherit=1 cpu=0"},
		{"mapping private=1", unix.EINVAL, 9, 0, with(func(m *refusal.Mapping) { m.Private = true })},
		{"mapping again=4", unix.EINVAL, 5, 9, ordinary},
		{"mapping pages=7", unix.EINVAL, 8, 0, ordinary},
		{"mapping aux=8 unset=1", unix.EINVAL, 8, 9, with(func(m *refusal.Mapping) { m.Offset = 9 })},
		{"mapping aux=8", unix.EOPNOTSUPP, 8, 9, with(func(m *refusal.Mapping) { m.Offset, m.WantOffset, m.WantSize = 9, 9*page, 8*page })},
		{"mapping pages=524288 uid=-1 memlock=-1", unix.ENOMEM, 524289, 0, ordinary},
		{"over", unix.EINVAL, 9, 9, with(func(m *refusal.Mapping) { m.SystemCall = unix.SYS_MMAP })},
		{"part", unix.EINVAL, 9, 9, with(func(m *refusal.Mapping) { m.SystemCall = unix.SYS_MUNMAP })},
	}
	const firstUID = 2400
	outcomes := make([]workload.Outcome, len(attempts))
	tr := traceObjects(t, tracer.Options{}, func(objectTrace) {
		for i, a := range attempts {
			outcomes[i] = call(t, slices.Insert(strings.Fields(a.call), 1, fmt.Sprintf("uid=%d", firstUID+i), "memlock=2048")...)
		}
	})
	for i, a := range attempts {
		t.Run(a.call, func(t *testing.T) {
			uid, function, want := uint32(firstUID+i), refusal.PerfMmap, a.errno
			if strings.Contains(a.call, "uid=") {
				uid = 0
			}
			if a.want.SystemCall >= 0 {
				function = refusal.MaySplit
				if k.Series == "5.10" {
					want = 0 // that is allowed there
				}
			}
			if k.Series == "6.1" && a.call == "over" {
				want = unix.ENOMEM // of mmap(2), whatever the unmapping before it fails with
			}
			if got := unix.Errno(outcomes[i].Errno); got != want {
				t.Errorf("%v; want %v", got, want)
			}
			refusals := refusalsOf(tr.entries, uid)
			if outcomes[i].Errno == 0 {
				if len(refusals) > 0 {
					t.Errorf("nothing was refused: %+v", refusals)
				}
				return
			}
			if len(refusals) != 1 || refusals[0].Failed == nil {
				t.Fatalf("%d refusals: %+v", len(refusals), refusals)
			}
			e := &refusals[0]
			t.Logf("%+v", *e.Failed)
			if e.Errno != int32(a.errno) || e.Failed.Function != function || e.Buffer.Pages != a.pages || e.Buffer.Recorded[rule.Data].Pages != a.existing || e.Failed.Mapping != a.want {
				t.Errorf("errno %d, %d pages, %d there; want %d, %d, %d and %+v", e.Errno, e.Buffer.Pages, e.Buffer.Recorded[rule.Data].Pages, a.errno, a.pages, a.existing, a.want)
			}
		})
	}
}

// An update of a map that fails for want of memory has a record, which says whether a
// cgroup refused. So has a map that is larger than the machine: there none did.
func TestFailedUpdatesAreRecorded(t *testing.T) {
	guesttest.Long(t)
	guests.Test(t, guesttest.Newest, func(t *testing.T, _ guesttest.Kernel) {
		unlimitMemlock(t)
		t.Run("larger than the machine", func(t *testing.T) { recordsLargeMap(t) })
		t.Run("a short attr", func(t *testing.T) { recordsShortAttr(t) })
		t.Run("cgroups watched", func(t *testing.T) { recordsFailedUpdate(t, true) })
		t.Run("cgroups not watched", func(t *testing.T) { recordsFailedUpdate(t, false) })
	})
}

func recordsLargeMap(t *testing.T) {
	var outcome workload.Outcome
	tr := traceObjects(t, tracer.Options{BPF: true, Memcg: true}, func(objectTrace) {
		outcome = call(t, "map", "uid=-1", "memlock=-1", "bytes=256", "count=8388608")
	})
	refusals := refusalsOf(tr.entries, 0)
	if unix.Errno(outcome.Errno) != unix.ENOMEM || len(refusals) != 1 {
		t.Fatalf("%v; %d refusals: %+v", unix.Errno(outcome.Errno), len(refusals), refusals)
	}
	e := refusals[0]
	want := refusal.Unseen
	if e.Object.Rlimit {
		want = refusal.Passed
	}
	if e.Errno != int32(unix.ENOMEM) || e.Failed.Function != refusal.MapCreate || e.Failed.Accounting != want || e.Object.Refused || e.Object.MaxEntries != 1<<23 {
		t.Errorf("%+v, %+v", *e.Failed, *e.Object)
	}
}

// Who may make rings is read after one was refused: where that is everybody, it may be so only
// since.
func TestForbiddenRings(t *testing.T) {
	guests.Test(t, guesttest.Newest, func(t *testing.T, _ guesttest.Kernel) {
		guesttest.SkipBefore(t, "6.6", "kernel.io_uring_disabled")
		for _, c := range []struct {
			args  []string
			rings refusal.RingsFor
			say   string
		}{
			{[]string{"ring-forbidden", "--hold", "1s"}, refusal.RingsForNobody, "kernel.io_uring_disabled is 2: nobody may have a ring, whatever the limits"},
			{[]string{"ring-group", "--hold", "1s"}, refusal.RingsForGroup, "kernel.io_uring_disabled is 1: it takes CAP_SYS_ADMIN, or the group kernel.io_uring_group"},
		} {
			tr := begin(t, tracer.Options{Others: true, NotPerf: true})
			load(t, append([]string{"refuse"}, c.args...)...)
			tr.stop()
			refusals := refusalsOf(tr.entries, 65534)
			if len(refusals) != 1 || refusals[0].Errno != int32(unix.EPERM) {
				t.Errorf("%s: %+v", c.args[0], refusals)
				continue
			}
			e := refusals[0]
			if text := charging.OfRefusal(&e).Text(); e.Failed.RingsFor != c.rings || text != "EPERM: "+c.say+"." {
				t.Errorf("%s: %s: %s", c.args[0], e.Failed.RingsFor, text)
			}
			e.Failed.RingsFor = refusal.RingsForAll // had it been put back by then
			if text := charging.OfRefusal(&e).Text(); !strings.Contains(text, "one of these, and which is not known") || !strings.Contains(text, c.say) {
				t.Errorf("%s, put back: %s", c.args[0], text)
			}
		}
	})
}

// What lies behind the union that bpf(2) was given is no part of it.
func recordsShortAttr(t *testing.T) {
	tr := traceObjects(t, tracer.Options{BPF: true}, func(objectTrace) { load(t, "refuse", "program-empty") })
	for _, e := range tr.children() {
		if o := e.Object; o != nil && o.Program && e.Kind == ledger.Refusal {
			if o.Name != "" || o.Type != uint32(ebpf.SocketFilter) || e.Errno == 0 {
				t.Errorf("%+v", *o)
			}
			return
		}
	}
	t.Errorf("no refusal in %+v", tr.entries)
}

func recordsFailedUpdate(t *testing.T, memcg bool) {
	guesttest.SkipBefore(t, "5.11", "memory cgroups pay for BPF maps")
	const limit = 16 << 20
	cgroup := guesttest.Cgroup(t, "full.slice")
	if err := os.WriteFile(filepath.Join(cgroup, "memory.max"), []byte(fmt.Sprint(limit)), 0o644); err != nil {
		t.Fatal(err)
	}
	var outcome workload.Outcome
	tr := traceObjects(t, tracer.Options{BPF: true, Memcg: memcg}, func(tr objectTrace) {
		outcome = call(t, "fill", "uid=-1", "memlock=-1", "bytes=1000", "count=100000", "cgroup="+cgroup)
		tr.awaitFreed("refused", 1)
	})
	refusals := refusalsOf(tr.entries, 0)
	if unix.Errno(outcome.Errno) != unix.ENOMEM || outcome.Made < 1000 || len(refusals) != 1 {
		t.Fatalf("%v after %d elements; %d refusals: %+v", unix.Errno(outcome.Errno), outcome.Made, len(refusals), refusals)
	}
	e, o := refusals[0], refusals[0].Object
	t.Logf("%d elements; %+v", outcome.Made, *o)
	made := named(tr.entries, "refused")[0].Object
	if e.Op != ledger.Grow || e.Errno != int32(unix.ENOMEM) || e.Failed.Function != refusal.MapUpdate || o.Name != "refused" || o.ID != made.ID || o.ID == 0 || !o.Refused {
		t.Errorf("%+v, %+v; want an update of map %d", *e.Failed, *o, made.ID)
	}
	if o.LimitCgroupID != o.MapCgroupID || o.LimitBytes != limit || o.UsageBytes > limit || o.UsageBytes < limit*9/10 {
		t.Errorf("refused by cgroup %d, %d of %d bytes; want %d, and %d bytes", o.LimitCgroupID, o.UsageBytes, o.LimitBytes, o.MapCgroupID, limit)
	}
}
