//go:build guest

package tracer_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/transport"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// A trace takes from nobody: root and another user can map as many perf buffers and make as
// many BPF maps as without it. The witnesses are the kernel's refusals.
func TestNoEffect(t *testing.T) {
	kernels := guesttest.Ends
	if !guesttest.All() { // where BPF objects are charged to users, too
		kernels = guesttest.Oldest
	}
	guests.Test(t, kernels, noEffect)
}

func noEffect(t *testing.T, k guesttest.Kernel) {
	want := possible(t)
	if want["uid 0: buffers"] == 0 || want["uid 65534: buffers"] == 0 {
		t.Fatalf("without a trace: %v", want)
	}
	for _, via := range []string{transport.Ringbuf, transport.PerfArray} {
		for only, opts := range map[string]tracer.Options{
			"perf":         perfBuffersAlone(),
			"bpf":          {BPF: true, NotPerf: true},
			"others":       {Others: true, NotPerf: true},
			"all of these": everything(),
		} {
			if only != "all of these" && !guesttest.All() {
				continue
			}
			t.Run(fmt.Sprintf("%s, %s", via, only), func(t *testing.T) {
				opts.Transport = via
				tr := begin(t, opts)
				if diff := cmp.Diff(want, possible(t)); diff != "" {
					t.Errorf("with a trace: %s\n%v", diff, tr.Degraded())
				}
				tr.stop()
			})
		}
	}
	if diff := cmp.Diff(want, possible(t)); diff != "" {
		t.Errorf("after all traces: %s", diff)
	}
	if k.Before("5.11") {
		t.Run("without CAP_SETUID", func(t *testing.T) { noSetUID(t, want) })
	}
}

// noSetUID has pinwatch lack what it needs to be charged as a user of its own: it says what it
// takes, and that can be seen.
func noSetUID(t *testing.T, want map[string]int) {
	c := guesttest.Command(t, "pinwatch", "workload", "run-as", "--uid", "65534", "--caps", "cap_sys_admin,cap_sys_resource,cap_syslog,cap_ipc_lock", "--",
		"pinwatch", "trace", "--transport", "perf").Start()
	c.WaitFor("watching")
	got := possible(t)
	r := c.Stop(os.Interrupt)
	if !regexp.MustCompile(`pinwatch's own perf buffers and BPF objects take \d{4} pages of what uid 65534 may have: become a user of its own \(needs CAP_SETUID\)`).MatchString(r.Stderr) {
		t.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
	if got["uid 65534: maps"] != 0 || got["uid 65534: buffers"] >= want["uid 65534: buffers"] || got["uid 0: maps"] != want["uid 0: maps"] || got["uid 0: buffers"] != want["uid 0: buffers"] {
		t.Errorf("with a trace by uid 65534: %v; without: %v", got, want)
	}
}

// Traces that begin and end in a row say nothing of what pinwatch itself does, and explain all
// that it is charged.
func TestInARow(t *testing.T) {
	guesttest.Long(t)
	guests.Test(t, guesttest.Oldest, inARow)
}

func inARow(t *testing.T, _ guesttest.Kernel) {
	for i := range 200 {
		opts := everything()
		opts.Transport = transport.PerfArray
		tr := begin(t, opts)
		tr.stop()
		tr.Session.Close()
		s := tr.summary
		text := output.Summarize(&row.Row{Entry: ledger.Entry{Event: ledger.Event{PageSize: uint32(os.Getpagesize())}}}, s)
		for _, want := range []string{
			"0 events: ", "refused: none\n", "\novercharged: 0 pages (0 B)\npinwatch itself: ", "which no other process has, and ", "accounting of this kernel: unknown", "verdict: none, nothing was seen\n",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("start %d: no %q", i+1, want)
			}
		}
		// The kernel frees BPF objects late: the self-test's may be left.
		want := 4*65 + left(tr.entries)
		if s.OwnUser+s.OwnPinned != want || s.OwnUser < 0 || s.OwnPinned < 0 || s.Own == 0 {
			t.Errorf("start %d: %d pages for what is its own to the user and %d to the process; want %d in all", i+1, s.OwnUser, s.OwnPinned, want)
		}
		for _, u := range s.Users {
			if u.Unexplained() != 0 || !u.Self || u.Live != 0 || u.Over != 0 {
				t.Errorf("start %d: %+v", i+1, u)
			}
		}
		if t.Failed() {
			for _, e := range tr.entries {
				t.Logf("op %d, %s of uid %d: %d -> %d, charged %+d %+d, uncertain %v", e.Op, e.Kind, e.Payer(), e.User.Before, e.User.After, e.ChargedUser, e.ChargedPinned, e.Uncertain)
			}
			t.Fatal(text)
		}
	}
}

// left is how many pages BPF objects are charged that came and did not go again, for all that
// is known: the end of one can be missed, where a kprobe interrupts another one. An address that
// is used again tells.
func left(entries []ledger.Entry) (pages int64) {
	charged := map[uint64]int64{}
	for _, e := range entries {
		switch {
		case e.Op == ledger.Create:
			charged[e.Object.Key] = e.ChargedUser
		case e.Op == ledger.Free:
			delete(charged, e.Object.Key)
		}
	}
	for _, n := range charged {
		pages += n
	}
	return pages
}

// possible is how many perf buffers, and how many BPF maps, users can have before they are
// refused, with a limit of 22 pages and without capabilities to exceed it.
func possible(t *testing.T) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, uid := range []string{"0", "65534"} {
		for _, s := range buffers(t, "--uid", uid, "--pages", "8", "--memlock-kib", "88") {
			if s.Errno == 0 && s.Step == "map" {
				counts["uid "+uid+": buffers"]++
			}
		}
		made := lines[workload.BPFStep](t, load(t, "bpf-maps", "--uid", uid, "--count", "100", "--memlock-kib", "88", "--json"))
		for _, s := range made {
			if s.Step == "create" {
				counts["uid "+uid+": maps"]++
			}
		}
	}
	return counts
}
