//go:build guest

package tracer_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/transport"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// A trace takes from nobody: root and another user can map as many perf buffers and make as
// many BPF maps as without it. The witnesses are the kernel's refusals.
func TestNoEffect(t *testing.T) {
	kernels := func(t *testing.T) []guesttest.Kernel { return guesttest.WithOldest(t, guesttest.Newest(t)) }
	guests.Test(t, kernels, noEffect)
}

func noEffect(t *testing.T, _ guesttest.Kernel) {
	want := possible(t)
	if want["uid 0: buffers"] == 0 {
		t.Fatalf("without a trace: %v", want)
	}
	for _, via := range []string{transport.Ringbuf, transport.PerfArray} {
		for only, opts := range map[string]tracer.Options{
			"perf":         perfBuffersAlone(),
			"bpf":          {BPF: true, NotPerf: true},
			"others":       {Others: true, NotPerf: true},
			"all of these": everything(),
		} {
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
}

// possible is how many perf buffers, and how many BPF maps, users can have before they are
// refused, with a limit of 22 pages and without capabilities to exceed it.
func possible(t *testing.T) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, uid := range []string{"0", "65534"} {
		caps := "cap_sys_admin,cap_sys_resource"
		steps := lines[workload.Step](t, run(t, "pinwatch", "workload", "run-as", "--uid", uid, "--caps", caps, "--",
			"pinwatch", "workload", "perf-buffers", "--uid", "-1", "--pages", "1", "--memlock-kib", "88", "--json"))
		for _, s := range steps {
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
