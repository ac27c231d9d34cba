//go:build guest

package tracer_test

import (
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// grants are what a user of its own is given, from nothing to all.
var grants = []struct {
	name string // in the table
	caps string
}{
	{"nothing", ""},
	{"CAP_PERFMON", "cap_perfmon"},
	{"CAP_BPF", "cap_bpf"},
	{"CAP_BPF, CAP_PERFMON", "cap_bpf,cap_perfmon"},
	{"CAP_BPF, CAP_PERFMON, CAP_SYSLOG", "cap_bpf,cap_perfmon,cap_syslog"},
	{"CAP_SYS_ADMIN", "cap_sys_admin"},
	{"CAP_SYS_ADMIN, CAP_SYSLOG", "cap_sys_admin,cap_syslog"},
}

// TestGrants measures which grant lets what work.
func TestGrants(t *testing.T) {
	if !guesttest.All() {
		t.Skip("runs with make test-kernels")
	}
	guests.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) {
		held := guesttest.Command(t, "pinwatch", "workload", "bpf-maps", "--name", "of_root", "--hold", "1h").Start()
		held.WaitFor("created")
		for _, level := range []string{"2", "3"} {
			guesttest.Set(t, settings+"paranoid", level)
			for _, g := range grants {
				caps := g.caps
				if k.Before("5.11") && caps != "" {
					caps += ",cap_sys_resource"
				}
				as := func(args ...string) guesttest.Result {
					return guesttest.Command(t, "pinwatch", append([]string{"workload", "run-as", "--uid", "1001", "--caps", caps, "--", "pinwatch"}, args...)...).Run()
				}
				var cells []string
				for _, only := range []string{"perf", "bpf", "bpf,memcg", "others"} {
					r := as("trace", "--duration", "1ms", "--only", only)
					cells = append(cells, worked(r))
					if only == "perf" {
						cells = append(cells, map[bool]string{true: "yes", false: "no"}[r.Code == 0 && !strings.Contains(r.Stderr, "symbols are hidden")])
					}
					t.Logf("%s %s %s: %d %s", level, g.name, only, r.Code, r.Stderr)
				}
				r := as("maps")
				t.Logf("%s %s maps: %d %s", level, g.name, r.Code, r.Stderr)
				cells = append(cells, map[bool]string{true: "yes", false: "no"}[strings.Contains(r.Stdout, "of_root")])
				t.Logf("| %s | %s |", g.name, strings.Join(cells, " | "))
			}
		}
	})
}

// worked says whether a trace did: "in part" where it says that something is not watched.
func worked(r guesttest.Result) string {
	switch {
	case r.Code != 0:
		return "no"
	case strings.Contains(r.Stderr, "not watched"):
		return "in part"
	}
	return "yes"
}
