//go:build guest

package tracer_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// A call that fails has a record of what it asked for, and of the comparison that
// refused it. The witness is the program's own errno.
func TestRefusalsAreRecorded(t *testing.T) {
	kernels := func(t *testing.T) []guesttest.Kernel { return guesttest.WithOldest(t, guesttest.Kernels(t)) }
	guests.Test(t, kernels, recordsRefusals)
}

// attempt is one call of a user of its own, and what its record must tell.
type attempt struct {
	call    string // with flags of the workload
	memlock int    // pages
	errno   unix.Errno
	asked   int64 // in all; 0: none may be recorded
	last    int64 // of it, that was compared last, where that can be seen
	derived bool  // the comparison can be seen on no kernel
	exempt  bool
}

func recordsRefusals(t *testing.T, k guesttest.Kernel) {
	held := ringPages(t) // by a ring of one entry
	attempts := []attempt{
		{call: "sends bytes=57344", memlock: 16},
		{call: "sends bytes=61440", memlock: 16, errno: unix.ENOBUFS, asked: 17, last: 17},
		{call: "sends bytes=28672 count=2", memlock: 16, errno: unix.ENOBUFS, asked: 9, last: 9},
		{call: "buffers offset=16 count=8", memlock: held + 16},
		{call: "buffers offset=16 count=9", memlock: held + 16, errno: unix.ENOMEM, asked: 18, last: 2},
		{call: "buffers huge=1 count=1", memlock: held + 511, errno: unix.ENOMEM, asked: 512, last: 512},
		{call: "umem bytes=65536 cap=cap_net_raw", memlock: 16},
		{call: "umem bytes=69632 cap=cap_net_raw", memlock: 16, errno: unix.ENOBUFS, asked: 17, derived: true},
	}
	outcomes := make([]workload.Outcome, len(attempts))
	const firstUID = 2200
	tr := traceObjects(t, everything(), func(tr objectTrace) {
		for i, a := range attempts {
			args := append(strings.Fields(a.call), fmt.Sprintf("uid=%d", firstUID+i), fmt.Sprintf("memlock=%d", a.memlock))
			outcomes[i] = refuse(t, args...)
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
	asked := a.asked
	unseen := a.derived || k.Series == "5.10" && f.Function == "io_uring_register"
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

// refuse has a process make a call that may be refused.
func refuse(t *testing.T, args ...string) workload.Outcome {
	t.Helper()
	return lines[workload.Outcome](t, load(t, append([]string{"refused"}, args...)...))[0]
}

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
		if refuse(t, "ring", fmt.Sprintf("memlock=%d", pages)).Errno == 0 {
			return pages
		}
	}
	t.Fatal("no ring can be made")
	return 0
}

// perf buffers of the same user fill the counter that io_uring is held against, where perf
// has no counter of its own.
func TestRefusedForPerfBuffers(t *testing.T) {
	kernels := func(t *testing.T) []guesttest.Kernel { return guesttest.WithOldest(t, guesttest.Kernels(t)) }
	guests.Test(t, kernels, refusedForPerfBuffers)
}

func refusedForPerfBuffers(t *testing.T, k guesttest.Kernel) {
	const uid, limit, perfPages = 2300, 128, 28 * 17
	ring := ringPages(t)
	var made, registered workload.Outcome
	tr := traceObjects(t, everything(), func(tr objectTrace) {
		holder := guesttest.Command(t, "pinwatch", "workload", "perf-buffers", "--json", "--uid", fmt.Sprint(uid), "--pages", "16", "--max", "28", "--hold", "10m").Start()
		holder.WaitFor(`"buffer":27`)
		who := []string{fmt.Sprintf("uid=%d", uid), fmt.Sprintf("memlock=%d", limit)}
		made = refuse(t, append([]string{"ring", "count=32"}, who...)...)
		registered = refuse(t, append([]string{"buffers"}, who...)...)
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
