//go:build guest

package tracer_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/transport"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// What is closed holds its pages until the kernel's workers have released it, and who asks for
// as many meanwhile is refused: that is said, with what it is, who closed it and since when. The
// witness is the same call, which succeeds a moment later.
func TestClosedStillHolds(t *testing.T) {
	guests.Test(t, guesttest.OldestOrAll, func(t *testing.T, k guesttest.Kernel) {
		opts := everything()
		t.Run("closed", func(t *testing.T) { closedHolds(t, k, opts) })
		if k.Before("5.11") { // the programs for old kernels watch the same
			opts.Transport = transport.PerfArray
			t.Run("perf array", func(t *testing.T) { closedHolds(t, k, opts) })
			return
		}
		t.Run("memory cgroup", cgroupHoldsClosed)
	})
}

// cgroupHoldsClosed has maps of more than half of a memory cgroup's limit, one after the other.
func cgroupHoldsClosed(t *testing.T) {
	const limit, bytes = 16 << 20, 12 << 20
	dir := guesttest.Cgroup(t, "closed.slice")
	if err := os.WriteFile(filepath.Join(dir, "memory.max"), []byte(fmt.Sprint(limit)), 0o644); err != nil {
		t.Fatal(err)
	}
	var outcome workload.Outcome
	tr := traceObjects(t, tracer.Options{BPF: true, Memcg: true}, func(tr objectTrace) {
		outcome = call(t, "closed-map", "uid=-1", "memlock=-1", fmt.Sprintf("pages=%d", bytes/os.Getpagesize()), fmt.Sprintf("count=%d", closedRounds), "cgroup="+dir)
	})
	refusals := refusalsOf(tr.entries, 0)
	if unix.Errno(outcome.Errno) != unix.ENOMEM || outcome.Made != closedRounds || len(refusals) < closedRounds {
		t.Fatalf("%v, %d refused at first and made in the end, %d refusals", unix.Errno(outcome.Errno), outcome.Made, len(refusals))
	}
	said := 0
	for i := range refusals {
		e := &refusals[i]
		if len(e.Unreleased) == 0 {
			continue
		}
		closed := e.Unreleased[0]
		if len(e.Unreleased) != 1 || closed.What != object.Map || closed.PID != e.Caller.PID || closed.Bytes < bytes || closed.Bytes > limit || closed.AgeNS == 0 {
			t.Errorf("%+v of %d bytes", e.Unreleased, e.Object.UsageBytes)
		}
		if said++; said > 1 || closed.Count != 1 {
			continue
		}
		s := saying{outcome: "limit", says: []string{fmt.Sprintf("%d are of a BPF map that process %d had closed ", closed.Bytes, closed.PID), "before and the kernel had not released yet", "Remedies: try again shortly"}}
		t.Log(charging.OfRefusal(e).Text())
		s.shown(t, e)
		s.explained(t, tr.State, e)
	}
	t.Logf("said of %d of %d refusals", said, len(refusals))
	if said == 0 {
		t.Errorf("none of %d refusals names what is closed", len(refusals))
	}
}

// closedRounds is how often each is refused at first.
const closedRounds = 10

// closing is something that is closed and asked for again.
type closing struct {
	call  string // of the workload
	what  object.What
	named string
	errno unix.Errno
	uid   uint32
	cap   string // that it takes
	open  int64  // pages that the one is charged whose use is refused
}

func closedHolds(t *testing.T, k guesttest.Kernel, opts tracer.Options) {
	const limit, pages = 64, 40
	list := []closing{
		{call: "closed-ring", what: object.Ring, named: "an io_uring", errno: unix.ENOMEM, open: int64(ringPages(t))},
		{call: "closed-umem", what: object.Umem, named: "an AF_XDP umem", errno: unix.ENOBUFS, cap: "cap_net_raw"},
	}
	if k.Before("5.11") { // since then no user is charged for them
		list = append(list, closing{call: "closed-map", what: object.Map, named: "a BPF map", errno: unix.EPERM, cap: "cap_sys_admin"},
			closing{call: "closed-program", what: object.Program, named: "a BPF program", errno: unix.EPERM, cap: "cap_sys_admin"})
	}
	outcomes := make([]workload.Outcome, len(list))
	tr := traceObjects(t, opts, func(tr objectTrace) {
		for i := range list {
			list[i].uid = uint32(2500 + i)
			args := []string{list[i].call, fmt.Sprintf("uid=%d", list[i].uid), fmt.Sprintf("memlock=%d", limit), fmt.Sprintf("pages=%d", pages), fmt.Sprintf("count=%d", closedRounds), "cap=" + list[i].cap}
			outcomes[i] = call(t, args...)
		}
		call(t, "buffers", "uid=2600", fmt.Sprintf("memlock=%d", limit), "count=70")
	})
	for i, c := range list {
		t.Run(c.call, func(t *testing.T) { c.check(t, tr, outcomes[i], pages) })
	}
	// With nothing closed there is nothing to wait for.
	refusals := refusalsOf(tr.entries, 2600)
	if len(refusals) != 1 || refusals[0].Held.Closed != nil || strings.Contains(charging.OfRefusal(&refusals[0]).Text(), "try again") {
		t.Errorf("%+v", refusals)
	}
}

func (c closing) check(t *testing.T, tr objectTrace, outcome workload.Outcome, pages int64) {
	refusals := refusalsOf(tr.entries, c.uid)
	if unix.Errno(outcome.Errno) != c.errno || outcome.Made != closedRounds || len(refusals) < closedRounds {
		t.Fatalf("%v, %d refused at first and made in the end, %d refusals; want %v, %d", unix.Errno(outcome.Errno), outcome.Made, len(refusals), c.errno, closedRounds)
	}
	said, shown := 0, false
	for i := range refusals {
		e := &refusals[i]
		if e.Held == nil || e.Held.Closed == nil {
			continue
		}
		// The kernel's counter is the witness: nothing else of this user's is charged. What a ring
		// itself was charged (6.16) while the last one was released is not known.
		closed := e.Held.Closed[0]
		if len(e.Held.Closed) != 1 || closed.What != c.what || closed.PID != e.Caller.PID || closed.Pages < pages || closed.Pages > e.User.Before-c.open || closed.AgeNS == 0 {
			t.Errorf("%+v of %d held", e.Held.Closed, e.User.Before)
		}
		said++
		if closed.Count != 1 || shown {
			continue
		}
		shown = true
		s := saying{outcome: "limit", says: []string{fmt.Sprintf("%d are of %s that process %d had closed ", closed.Pages, c.named, closed.PID), "before and the kernel had not released yet", "Remedies: try again shortly"},
			never: []string{"closed a moment ago"}}
		t.Log(charging.OfRefusal(e).Text())
		s.shown(t, e)
		s.explained(t, tr.State, e)
	}
	t.Logf("said of %d of %d refusals", said, len(refusals))
	if said == 0 { // while a map is being freed, nothing is certain
		t.Errorf("none of %d refusals names what is closed", len(refusals))
	}
}
