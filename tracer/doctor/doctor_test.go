package doctor

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/child"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

func TestMain(m *testing.M) {
	child.Init(kernel.Children())
	os.Exit(m.Run())
}

func TestSymbolsNotFound(t *testing.T) {
	const (
		mlock    = "ffffffff82000000 d sysctl_perf_event_mlock\n"
		paranoid = "ffffffff82000004 D sysctl_perf_event_paranoid\n"
		cpus     = "ffffffff82000008 T __num_online_cpus\n"
		hidden   = "0000000000000000 T __num_online_cpus\n"
		ids      = "ffffffff8200000c D nr_cpu_ids\n"
		mask     = "ffffffff82000010 D __cpu_online_mask\n"
		others   = "ffffffff81000000 T perf_mmap\nffffffffc0000000 t x\t[module]\n\n"
	)
	all := []string{"sysctl_perf_event_mlock", "sysctl_perf_event_paranoid", "__num_online_cpus"}
	for name, c := range map[string]struct {
		kallsyms string
		missing  []string
		hidden   bool
	}{
		"all":                     {others + mlock + paranoid + cpus, nil, false},
		"hidden":                  {mlock + paranoid + hidden, nil, true},
		"no data":                 {others, all, false},
		"before 5.4":              {mlock + paranoid + ids + mask, nil, false},
		"before 5.4, and no mask": {mlock + paranoid + ids, all[2:], false},
		"one":                     {mlock + others + cpus, []string{"sysctl_perf_event_paranoid"}, false},
		"nothing":                 {"", all, false},
	} {
		missing, hidden, err := symbolsNotFound(strings.NewReader(c.kallsyms))
		if diff := cmp.Diff(c.missing, missing); err != nil || diff != "" || hidden != c.hidden {
			t.Errorf("%s: hidden %v; %s", name, hidden, diff)
		}
	}
}

// What a trace does not watch has a row with the reason, and is not said twice.
func TestWatched(t *testing.T) {
	const other, reason = "kernel types: from a file", tracer.ObjectsNotWatched + ": kprobes are missing"
	for name, c := range map[string]struct {
		degraded, rest []string
		want           map[string]string // states
	}{
		"both":    {[]string{other}, []string{other}, map[string]string{"BPF objects": StateOK, "other chargers": StateOK}},
		"none":    {[]string{reason, other, tracer.ChargersNotWatched + ": x"}, []string{other}, map[string]string{"BPF objects": StateDegraded, "other chargers": StateDegraded}},
		"objects": {[]string{tracer.ChargersNotWatched + ": x"}, nil, map[string]string{"BPF objects": StateOK, "other chargers": StateDegraded}},
	} {
		checks, rest := checkWatched(c.degraded)
		got := map[string]string{}
		for _, check := range checks {
			got[check.Name] = check.State
			if check.Name == "BPF objects" && check.State == StateDegraded && check.Detail != reason {
				t.Errorf("%s: %+v does not give the reason", name, check)
			}
		}
		if diff := cmp.Diff(c.want, got) + cmp.Diff(c.rest, rest, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Every check has a name, a state and something to say.
func TestExamine(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Examine(tracer.Options{}) {
		seen[c.Name] = true
		if c.State != StateOK && c.State != StateDegraded && c.State != StateMissing {
			t.Errorf("%+v: unknown state", c)
		}
		if c.State != StateOK && c.Detail == "" {
			t.Errorf("%+v: says nothing", c)
		}
	}
	for _, name := range []string{"kernel", "perf settings", "perf_event_open", "kernel types", "kernel symbols", "kprobes", "ring buffer", "probes on perf_mmap", "BPF iterators", "iterator of mappings", "user namespace",
		"CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_SYSLOG", "CAP_IPC_LOCK", "lockdown", "security modules", "seccomp", "cgroup", "BPF memory", "trace", "snapshot"} {
		if !seen[name] {
			t.Errorf("no check of %s", name)
		}
	}
}
