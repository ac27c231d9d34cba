//go:build guest

package tracer_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// grant is what a process may do that is not root's.
type grant struct {
	level int    // kernel.perf_event_paranoid
	caps  string // such as "cap_bpf,cap_perfmon"; "": none
}

func (g grant) has(caps ...string) bool {
	for _, c := range caps {
		if !strings.Contains(g.caps, c) {
			return false
		}
	}
	return true
}

// watches is the table of the README, by what --only names.
func (g grant) watches(k guesttest.Kernel) map[string]bool {
	loads := g.has("cap_bpf", "cap_perfmon") || g.has("cap_sys_admin")
	if k.Before("5.11") {
		loads = loads && g.has("cap_sys_resource")
	}
	kprobes := g.level <= 2 || g.has("cap_sys_admin") || !k.Before("6.10") // sessions are no kprobes to it
	return map[string]bool{
		"perf":      loads && (kprobes || !k.Before("5.16")),
		"others":    loads && kprobes,
		"bpf":       loads && kprobes && g.has("cap_syslog"),
		"bpf,memcg": loads && kprobes && g.has("cap_syslog"),
	}
}

// lacks is what a grant that is not enough is to be told of: of several, what is met first.
func (g grant) lacks(k guesttest.Kernel, only string) string {
	admin := g.has("cap_sys_admin")
	switch {
	case !admin && !g.has("cap_bpf"):
		return "CAP_BPF"
	case !admin && !g.has("cap_perfmon"):
		return "CAP_PERFMON"
	case k.Before("5.11") && !g.has("cap_sys_resource"):
		return "CAP_SYS_RESOURCE"
	case strings.HasPrefix(only, "bpf") && !g.has("cap_syslog"): // to load is before to attach
		return "CAP_SYSLOG"
	}
	return "CAP_SYS_ADMIN"
}

// What a grant is enough for is what the README has, and where it is not enough, what lacks is
// named.
func TestGrants(t *testing.T) {
	guesttest.Long(t)
	guests.Test(t, guesttest.Kernels, func(t *testing.T, k guesttest.Kernel) {
		grants := []string{"", "cap_bpf", "cap_perfmon", "cap_bpf,cap_perfmon", "cap_bpf,cap_perfmon,cap_syslog", "cap_sys_admin", "cap_sys_admin,cap_syslog"}
		if k.Before("5.11") { // with more than these: there is nothing without it
			for i := range grants {
				grants[i] = strings.TrimPrefix(grants[i]+",cap_sys_resource", ",")
			}
			grants = append(grants, "cap_bpf,cap_perfmon,cap_syslog")
		}
		for _, level := range []int{2, 3} {
			guesttest.Set(t, settings+"paranoid", fmt.Sprint(level))
			for _, caps := range grants {
				g := grant{level, caps}
				for only, want := range g.watches(k) {
					t.Run(fmt.Sprintf("level %d, %q, %s", level, caps, only), func(t *testing.T) { g.agrees(t, k, only, want) })
				}
			}
		}
	})
}

func (g grant) agrees(t *testing.T, k guesttest.Kernel, only string, works bool) {
	args := []string{"workload", "run-as", "--uid", "1001"}
	if g.caps != "" {
		args = append(args, "--caps", g.caps)
	}
	r := guesttest.Command(t, "pinwatch", append(args, "--", "pinwatch", "trace", "--only", only, "--duration", "1ms")...).Run()
	if (r.Code == 0) != works {
		t.Fatalf("exit %d: %s", r.Code, r.Stderr)
	}
	if strings.Contains(r.Stderr, "bpf_jit_harden") {
		t.Errorf("a guess of the library's: %s", r.Stderr)
	}
	if lacks := g.lacks(k, only); !works && !strings.Contains(r.Stderr, lacks) {
		t.Errorf("no word of %s: %s", lacks, r.Stderr)
	}
	if hidden := strings.Contains(r.Stderr, "kernel symbols are hidden (no CAP_SYSLOG"); works && hidden == g.has("cap_syslog") {
		t.Errorf("hidden symbols are said: %v: %s", hidden, r.Stderr)
	}
}
