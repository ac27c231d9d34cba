// Package doctor examines what this kernel and this user offer to tracing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/probe"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// Finding states, from good to bad.
const (
	StateOK       = "ok"
	StateDegraded = "degraded"
	StateMissing  = "missing"
)

// Check is one thing that tracing needs or profits from, and how this machine
// stands on it.
type Check struct {
	Name   string `json:"name"`
	State  string `json:"state"` // StateOK, StateDegraded or StateMissing
	Detail string `json:"detail"`
	Remedy string `json:"remedy"` // "" where there is nothing to do
}

// Examine looks at this kernel and this user. It opens a trace and a snapshot to
// see whether that works, and closes them.
func Examine(opts tracer.Options) []Check {
	defer kernel.LiftMemlock()()
	facts, symbols := snapshot.Inspect(snapshot.Options{}, uint32(os.Getpid())), checkSymbols()
	checks := []Check{
		{Name: "kernel", State: StateOK, Detail: kernel.Release() + " " + runtime.GOARCH},
		checkSettings(),
		checkPerfEvent(),
		checkBTF(opts),
		symbols,
		checkUserNamespace(facts),
	}
	for _, f := range kernel.Features() {
		checks = append(checks, checkFeature(f))
	}
	checks = append(checks, checkCapabilities(symbols.State == StateOK)...)
	checks = append(checks, checkLockdown(facts), checkSecurityModules(facts), checkSeccomp(facts), checkCgroup(), checkBPFMemory())
	checks = append(checks, checkTrace(opts)...)
	return append(checks, checkSnapshot(opts)...)
}

func checkSettings() Check {
	s, err := kernel.ReadSettings()
	if err != nil {
		return Check{"perf settings", StateMissing, err.Error(), "boot a kernel with CONFIG_PERF_EVENTS, and mount /proc and /sys"}
	}
	allowance := s.UserLockLimit()
	if allowance < 0 {
		return Check{"perf settings", StateOK, fmt.Sprintf("perf_event_mlock_kb %d is no limit: a user may have any number of pages; perf_event_paranoid %d", s.MlockKiB, s.Paranoid), ""}
	}
	return Check{"perf settings", StateOK, fmt.Sprintf("allowance of a user: perf_event_mlock_kb %d = %d pages × %d CPUs = %d pages of %d bytes; perf_event_paranoid %d",
		s.MlockKiB, allowance/int64(s.OnlineCPUs), s.OnlineCPUs, allowance, s.PageSize, s.Paranoid), ""}
}

func checkBTF(opts tracer.Options) Check {
	found, err := kernel.LoadTypes(opts.BTF, nil)
	switch {
	case err != nil:
		return Check{"kernel types", StateMissing, err.Error(), "boot a kernel with CONFIG_DEBUG_INFO_BTF, or use --btf FILE"}
	case opts.BTF != "":
		return Check{"kernel types", StateOK, opts.BTF, ""}
	case found.Note != "":
		return Check{"kernel types", StateOK, found.Note, ""}
	}
	return Check{"kernel types", StateOK, "BTF of the running kernel", ""}
}

// checkFeature asks the kernel for a feature.
func checkFeature(f kernel.Feature) Check {
	err := f.Probe()
	switch {
	case err == nil:
		return Check{f.Name, StateOK, "", ""}
	case errors.Is(err, ebpf.ErrNotSupported):
		return Check{f.Name, StateDegraded, fmt.Sprintf("requires Linux %s; %s", f.Since, f.Instead), f.Remedy}
	}
	return Check{f.Name, StateDegraded, "not known: " + err.Error(), "run as root"}
}

// checkPerfEvent opens the plainest of all perf events: what refuses that one
// refuses all, before any limit of memory is looked at.
func checkPerfEvent() Check {
	const name = "perf_event_open"
	fd, err := unix.PerfEventOpen(kernel.DummyEvent(), 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	switch {
	case err == nil:
		unix.Close(fd)
		return Check{name, StateOK, "this user may open events of its own", ""}
	case errors.Is(err, unix.EACCES):
		level, _ := kernel.ReadInt(kernel.ParanoidFile)
		return Check{name, StateDegraded, fmt.Sprintf("EACCES: perf_event_paranoid is %d, or a security module refuses", level), "sysctl kernel.perf_event_paranoid=2, or CAP_PERFMON (CAP_SYS_ADMIN above level 2)"}
	case errors.Is(err, unix.ENOSYS):
		return Check{name, StateMissing, "the kernel has none", "boot a kernel with CONFIG_PERF_EVENTS"}
	case errors.Is(err, unix.EPERM):
		return Check{name, StateDegraded, "EPERM: seccomp or a security module refuses", "Docker: --cap-add PERFMON, or --security-opt seccomp=PROFILE"}
	}
	return Check{name, StateDegraded, err.Error(), ""}
}

// checkSymbols looks whether the kernel gives the addresses away that the programs
// read sysctls and CPUs from.
func checkSymbols() Check {
	const name = "kernel symbols"
	const stale = ": sysctls and CPUs are read every 100 ms, not at every call"
	f, err := os.Open(kernel.SymbolsFile)
	if err != nil {
		return Check{name, StateDegraded, err.Error() + stale, "boot a kernel with CONFIG_KALLSYMS_ALL"}
	}
	defer f.Close()
	missing, hidden, err := symbolsNotFound(f)
	if err != nil {
		return Check{name, StateDegraded, err.Error() + stale, ""}
	}
	restrict, _ := kernel.ReadInt("/proc/sys/kernel/kptr_restrict")
	remedy := "grant CAP_SYSLOG"
	if restrict == 2 { // hidden from everybody
		remedy = "sysctl kernel.kptr_restrict=1, and CAP_SYSLOG"
	}
	switch {
	case hidden:
		return Check{name, StateDegraded, fmt.Sprintf("addresses are hidden (kptr_restrict is %d)%s", restrict, stale), remedy}
	case len(missing) == len(kernel.SettingSymbols()):
		return Check{name, StateDegraded, "no " + strings.Join(missing, ", ") + stale, "boot a kernel with CONFIG_KALLSYMS_ALL"}
	case len(missing) > 0: // others are there, so that the kernel tells of variables
		return Check{name, StateDegraded, "no " + strings.Join(missing, ", ") + " in this kernel" + stale, ""}
	}
	return Check{name, StateOK, fmt.Sprintf("readable (kptr_restrict is %d)", restrict), ""}
}

// symbolsNotFound looks for the symbols that the programs read, in the text of
// /proc/kallsyms.
func symbolsNotFound(kallsyms io.Reader) (missing []string, hidden bool, err error) {
	var all []string
	for _, s := range kernel.SettingSymbols() {
		all = append(append(all, s.Name), s.Instead...)
	}
	address, err := kernel.ReadSymbols(kallsyms, all)
	if err != nil {
		return nil, false, err
	}
	for _, s := range kernel.SettingSymbols() {
		names := []string{s.Name}
		if _, found := address[s.Name]; !found && len(s.Instead) > 0 {
			names = s.Instead
		}
		for _, name := range names {
			at, found := address[name]
			if !found {
				missing = append(missing, s.Name)
				break
			}
			hidden = hidden || at == 0
		}
	}
	return missing, hidden, nil
}

func checkUserNamespace(f *snapshot.Facts) Check {
	switch {
	case !f.UserNSKnown:
		return Check{"user namespace", StateDegraded, "not known: /proc/self/ns/user cannot be read", "mount /proc"}
	case !f.InitialUserNS:
		return Check{"user namespace", StateDegraded, "not the initial one: capabilities do not count for perf and BPF here", "run pinwatch in the initial one (no userns-remap, no rootless container, hostUsers: true)"}
	}
	return Check{"user namespace", StateOK, "the initial one", ""}
}

// checkCapabilities goes through them one by one. CAP_SYS_ADMIN stands for
// CAP_BPF and CAP_PERFMON, and not for CAP_SYSLOG, which nobody needs where
// perf_event_paranoid is below 2 and kptr_restrict 0 (kallsyms_show_value()).
func checkCapabilities(symbols bool) (checks []Check) {
	admin := kernel.HasCapability(unix.CAP_SYS_ADMIN)
	for _, c := range []struct {
		bit   int
		name  string
		state string // without it
		admin bool   // CAP_SYS_ADMIN does it as well
		why   string
	}{
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", StateOK, true, "stands for CAP_BPF and CAP_PERFMON; lists BPF objects; needed where perf_event_paranoid is above 2"},
		{unix.CAP_BPF, "CAP_BPF", StateMissing, true, "load BPF programs; pinwatch agent keeps it while it traces"},
		{unix.CAP_PERFMON, "CAP_PERFMON", StateMissing, true, "attach them to the kernel and read its memory"},
		{unix.CAP_SYSLOG, "CAP_SYSLOG", StateDegraded, false, "see kernel symbols, to watch BPF objects, and to read sysctls and CPUs at every call"},
		{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", StateDegraded, false, "read mappings and descriptors of other users' processes in /proc"},
		{unix.CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", StateOK, false, "lift RLIMIT_MEMLOCK for BPF objects, before 5.11 alone"},
		{unix.CAP_IPC_LOCK, "CAP_IPC_LOCK", StateOK, false, "not needed; it exempts from the limits that are watched"},
	} {
		check := Check{c.name, StateOK, "effective: " + c.why, ""}
		switch {
		case kernel.HasCapability(c.bit):
		case c.admin && admin:
			check.Detail = "not effective, CAP_SYS_ADMIN stands for it: " + c.why
		case c.bit == unix.CAP_SYSLOG && symbols:
			check.Detail = "not effective, and not needed now: kernel symbols are readable without it"
		case c.state == StateOK:
			check.Detail = "not effective: " + c.why
		default:
			check = Check{c.name, c.state, "not effective: " + c.why, fmt.Sprintf("run as root, or setcap %s+ep, or Docker: --cap-add %s", strings.ToLower(c.name), strings.TrimPrefix(c.name, "CAP_"))}
		}
		checks = append(checks, check)
	}
	return checks
}

func checkLockdown(f *snapshot.Facts) Check {
	switch f.Lockdown {
	case "":
		return Check{"lockdown", StateOK, "the kernel has none, or securityfs is not mounted", ""}
	case "confidentiality":
		return Check{"lockdown", StateMissing, f.Lockdown + " forbids reading kernel memory", "boot with lockdown=integrity or none"}
	}
	return Check{"lockdown", StateOK, f.Lockdown, ""}
}

func checkSecurityModules(f *snapshot.Facts) Check {
	if !f.LSMsKnown {
		return Check{"security modules", StateOK, "not known: /sys/kernel/security/lsm cannot be read", ""}
	}
	return Check{"security modules", StateOK, strings.Join(f.LSMs, ", "), ""}
}

func checkSeccomp(f *snapshot.Facts) Check {
	switch f.Seccomp {
	case snapshot.SeccompOff:
		return Check{"seccomp", StateOK, "no filter", ""}
	case snapshot.SeccompUnknown:
		return Check{"seccomp", StateDegraded, "not known: /proc/self/status cannot be read", "mount /proc"}
	}
	return Check{"seccomp", StateDegraded, "a filter is in force, which may refuse bpf() and perf_event_open()", "Docker: --security-opt seccomp=PROFILE"}
}

// checkCgroup looks which hierarchy is mounted: only paths and ids of v2 are
// shown.
func checkCgroup() Check {
	for _, path := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if unix.Statfs(path, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			if path == "/sys/fs/cgroup" {
				return Check{"cgroup", StateOK, "v2", ""}
			}
			return Check{"cgroup", StateDegraded, "v1 and v2 mixed: processes may be in other groups in v1, which are not shown", "boot with systemd.unified_cgroup_hierarchy=1"}
		}
	}
	return Check{"cgroup", StateDegraded, "no v2 hierarchy is mounted: paths of containers are not known", "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1"}
}

// checkBPFMemory tells what BPF objects are charged to, by trying.
func checkBPFMemory() Check {
	const name = "BPF memory"
	accounting, err := kernel.ProbeBPFAccounting(context.Background())
	switch accounting {
	case kernel.BPFMemcg:
		return Check{name, StateOK, "charged to the memory cgroup; a map was made with an RLIMIT_MEMLOCK of 0", ""}
	case kernel.BPFNone:
		return Check{name, StateOK, "held against nothing: a map was made with an RLIMIT_MEMLOCK of 0, and cgroups do not account it", ""}
	case kernel.BPFRlimit:
		return Check{name, StateOK, "charged to the user's locked_vm, against RLIMIT_MEMLOCK; no map could be made with a limit of 0. BPF objects use up the allowance of perf buffers here", ""}
	}
	return Check{name, StateDegraded, fmt.Sprintf("not known: %v", err), "run as root, or grant CAP_BPF"}
}

// checkSnapshot takes one.
func checkSnapshot(opts tracer.Options) []Check {
	const name = "snapshot"
	s, err := snapshot.Take(context.Background(), snapshot.Options{BTF: opts.BTF})
	if err != nil {
		return []Check{{name, StateDegraded, err.Error(), "mount /proc and /sys"}}
	}
	counter := "perf charges users in locked_vm"
	if s.SplitCounter {
		counter = "perf charges users in a counter of its own, not in locked_vm"
	}
	check := Check{name, StateOK, fmt.Sprintf("from %s: %d processes, %d mappings of perf buffers; %s", s.Source, len(s.Processes), len(s.Buffers), counter), ""}
	if s.Source == snapshot.SourceProc {
		check = Check{name, StateDegraded, fmt.Sprintf("from /proc: %d processes, %d mappings of perf buffers; users' counters are estimated", len(s.Processes), len(s.Buffers)), "see below"}
	}
	checks := []Check{check}
	for _, what := range s.Degraded {
		checks = append(checks, Check{name, StateDegraded, what, ""})
	}
	return checks
}

// checkOtherWays opens a trace in every way to attach that was not used.
func checkOtherWays(opts tracer.Options, used string) (checks []Check) {
	opts.BPF, opts.Others = false, false
	for _, name := range probe.AttachNames() {
		if name == used || name == probe.AttachAuto {
			continue
		}
		opts.Attach = name
		t, err := tracer.Open(opts)
		if err != nil {
			checks = append(checks, Check{"attach " + name, StateDegraded, causeOf(err), fmt.Sprintf("nothing to do: %s is used instead", used)})
			continue
		}
		t.Close()
		checks = append(checks, Check{"attach " + name, StateOK, "works too (--attach " + name + ")", ""})
	}
	return checks
}

// checkWatched says whether a trace watches more than perf buffers, by what it says that it
// lacks, and returns the rest of that.
func checkWatched(degraded []string) (checks []Check, rest []string) {
	rest = slices.Clone(degraded)
	for _, c := range []struct{ name, lack, watched string }{
		{"BPF objects", tracer.ObjectsNotWatched, "maps and programs are watched as they come and go, and who pays for them"},
		{"other chargers", tracer.ChargersNotWatched, "io_uring, AF_XDP and others that share locked_vm are watched, as far as this kernel has them"},
	} {
		check := Check{c.name, StateOK, c.watched, ""}
		if i := slices.IndexFunc(rest, func(s string) bool { return strings.HasPrefix(s, c.lack) }); i >= 0 {
			check = Check{c.name, StateDegraded, rest[i], ""}
			rest = slices.Delete(rest, i, i+1)
		}
		checks = append(checks, check)
	}
	return checks, rest
}

// causeOf is an error without what it advises to do.
func causeOf(err error) string {
	var not *tracer.NotOpened
	if errors.As(err, &not) {
		return not.Cause()
	}
	return err.Error()
}

// notOpened is the row of a trace that cannot be opened. The error says what to do, or the
// options that would do.
func notOpened(err error) Check {
	check := Check{"trace", StateMissing, causeOf(err), ""}
	var not *tracer.NotOpened
	if errors.As(err, &not) {
		check.Remedy = not.Advice.String()
	}
	return check
}

// checkTrace opens a trace: what that says is worth more than all of the above.
func checkTrace(opts tracer.Options) []Check {
	opts.BPF, opts.Others = true, true
	t, err := tracer.Open(opts)
	if err != nil {
		return []Check{notOpened(err)}
	}
	checks := []Check{{"trace", StateOK, t.Attached(), ""}}
	checks = append(checks, checkOtherWays(opts, t.Attach())...)
	defer t.Close()
	watched, degraded := checkWatched(t.Degraded())
	checks = append(checks, watched...)
	for _, what := range degraded {
		checks = append(checks, Check{"trace", StateDegraded, what, ""})
	}
	for _, p := range t.Probes() {
		// Open fails on a silent one that should have fired.
		said := ": fired in the self-test"
		if !p.Fired {
			said = ": not reached by the self-test"
		}
		checks = append(checks, Check{"probe", StateOK, p.String() + said, ""})
	}
	return checks
}
