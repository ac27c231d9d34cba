//go:build guest

package tracer_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cilium/ebpf"
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// What explain predicts of io_uring buffers, umems, zero-copy sends and BPF maps is tried: each
// with a limit that is enough, or a page too low, while perf buffers of the same user hold
// nothing, some, or more than perf's allowance. The witness is the program's own errno.
func TestRequestPredictions(t *testing.T) {
	guests.Test(t, guesttest.OldestOrAll, asksAndTries)
}

const askingUID = 2300

// asking predicts and tries.
type asking struct {
	source  *snapshot.Source
	random  *rand.Rand
	ring    int // pages that the ring takes in which buffers are registered
	holder  int // pid; 0: there is none
	base    int64
	bpf     kernel.BPFAccounting
	kinds   []string
	outcome map[string]int // by kind and errno
}

func asksAndTries(t *testing.T, k guesttest.Kernel) {
	a := &asking{random: rand.New(rand.NewPCG(1, 0)), ring: ringPages(t), outcome: map[string]int{}, kinds: []string{"io-uring", "umem", "zerocopy"}}
	var err error
	if a.source, err = snapshot.Open(snapshot.Options{Accounting: accounting.Find(t.Context())}); err != nil {
		t.Fatal(err)
	}
	defer a.source.Close()
	if a.bpf, err = kernel.ProbeBPFAccounting(t.Context()); err != nil {
		t.Fatal(err)
	}
	if k.Before("5.11") {
		a.kinds = append(a.kinds, "bpf-map") // since, no limit of a user's is held against it
	}
	tries := 5
	if guesttest.All() {
		tries = 25
	}
	kib := userPages(t, k)
	for _, buffers := range []int{0, 3, 20} {
		var holder *guesttest.Cmd
		a.holder = 0
		if buffers > 0 {
			holder = holdBuffers(t, "--uid", strconv.Itoa(askingUID), "--pages", "32", "--max", strconv.Itoa(buffers), "--memlock-kib", kib(4096))
			holder.WaitFor(fmt.Sprintf(`"buffer":%d,`, buffers))
			a.holder = holder.Process.Pid
		}
		a.base = a.locked(t)
		for range tries {
			for _, kind := range a.kinds {
				a.try(t, kind)
			}
		}
		if holder != nil {
			holder.Stop(os.Kill)
		}
	}
	for _, kind := range a.kinds { // what did not occur was not tested
		refused := slices.ContainsFunc([]string{"ENOMEM", "ENOBUFS", "EPERM"}, func(errno string) bool { return a.outcome[kind+" "+errno] > 0 })
		if !refused || a.outcome[kind+" ok"] == 0 {
			t.Errorf("%s: not both allowed and refused: %v", kind, a.outcome)
		}
	}
	t.Log(a.outcome)
}

// locked is the counter of the user.
func (a *asking) locked(t *testing.T) int64 {
	s := a.take(t)
	u, ok := s.User(askingUID)
	switch {
	case !ok:
		return 0
	case !u.Known:
		t.Fatal("the user's counter is not known")
	}
	return u.LockedVM
}

func (a *asking) take(t *testing.T) *snapshot.Snapshot {
	t.Helper()
	s, err := a.source.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// settle waits until workers have given back what the last call was charged.
func (a *asking) settle(t *testing.T) {
	for deadline := time.Now().Add(20 * time.Second); a.locked(t) != a.base; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d pages stay charged, %d were", a.locked(t), a.base)
		}
	}
}

func (a *asking) try(t *testing.T, kind string) {
	a.settle(t)
	page := int64(os.Getpagesize())
	q := charging.Question{Kind: kind, UID: askingUID, BPF: func() kernel.BPFAccounting { return a.bpf }}
	args := []string{fmt.Sprintf("uid=%d", askingUID)}
	switch kind {
	case "io-uring":
		q.Bytes = page * (1 + a.random.Int64N(40))
		args = append([]string{"buffers"}, args...)
	case "umem":
		q.Bytes = page * (1 + a.random.Int64N(60))
		args = append([]string{"umem", "cap=cap_net_raw"}, args...)
	case "zerocopy":
		q.Bytes = 1 + a.random.Int64N(60000)
		args = append([]string{"sends"}, args...)
	case "bpf-map":
		q.Map = rule.Map{Type: uint32(ebpf.Hash), KeySize: 8, ValueSize: 1 + a.random.Uint32N(256), MaxEntries: 1 + a.random.Uint32N(3000)}
		q.Bytes = int64(q.Map.ValueSize)
		args = append([]string{"map", "cap=cap_bpf", fmt.Sprintf("count=%d", q.Map.MaxEntries)}, args...)
	}
	r, err := charging.NewRequest(a.take(t), q)
	if err != nil {
		t.Fatal(err)
	}
	limit := max(0, a.base+r.Pages+[]int64{-1, -1, 0, 0, 1, -7, 30}[a.random.IntN(7)])
	r.Limit = limit
	if a.holder != 0 { // a new process is taken to have the limit of its user's others
		bytes := uint64(limit * page)
		if err := unix.Prlimit(a.holder, unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil); err != nil {
			t.Fatal(err)
		}
	}
	s := a.take(t)
	x, err := charging.Explain(s, &snapshot.Facts{BPF: a.bpf}, r)
	if err != nil {
		t.Fatal(err)
	}
	if kind == "io-uring" {
		limit += int64(a.ring) // which is there before
	}
	outcome := call(t, append(args, fmt.Sprintf("bytes=%d", q.Bytes), fmt.Sprintf("memlock=%d", limit))...)
	errno := "ok"
	if outcome.Errno != 0 {
		errno = rule.ErrnoName(unix.Errno(outcome.Errno))
	}
	a.outcome[kind+" "+errno]++
	if !x.Verdict.Certain || x.Verdict.Allowed != (outcome.Errno == 0) || !x.Verdict.Allowed && x.Verdict.Errno != errno {
		t.Errorf("%s of %d bytes (%d pages), %d held, limit %d: %+v; it was %s", kind, q.Bytes, r.Pages, a.base, limit, x.Verdict, errno)
	}
}
