package advice

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// The answers of a check.
const (
	Passes  = "passes"
	Refuses = "refuses"
	May     = "may refuse"
	Unknown = "not known"
)

// Check is something besides the limits that refuses perf events or BPF objects,
// by the error that it is known by.
type Check struct {
	Name   string `json:"name"`
	Errno  string `json:"errno"` // that it gives
	State  string `json:"state"` // one of the constants above
	Detail string `json:"detail"`
	Remedy string `json:"remedy"`
}

// checks says what else could refuse.
func checks(x *Explanation, facts *snapshot.Facts) []Check {
	return []Check{paranoidCheck(x, facts), capabilityCheck(x, facts), seccompCheck(facts), lsmCheck(facts),
		lockdownCheck(facts), bpfCheck(facts)}
}

// paranoidCheck is about perf_event_open(), which comes before the mapping.
func paranoidCheck(x *Explanation, facts *snapshot.Facts) Check {
	c := Check{Name: "perf_event_paranoid, at perf_event_open()", Errno: "EACCES", State: Passes}
	level := x.Numbers.Paranoid
	allowed := map[int]string{
		-1: "everybody may open every event", 0: "all but raw tracepoints",
		1: "events of own processes, kernel included; system-wide ones (per CPU) take CAP_PERFMON",
		2: "events of own processes, without the kernel; more takes CAP_PERFMON",
	}[min(max(level, -1), 2)]
	c.Detail = fmt.Sprintf("level %d: %s", level, allowed)
	privileged := facts.CapsKnown && facts.InitialUserNS &&
		(snapshot.Has(facts.CapEffective, unix.CAP_SYS_ADMIN) || level <= 2 && snapshot.Has(facts.CapEffective, unix.CAP_PERFMON))
	switch {
	case privileged:
		c.Detail = fmt.Sprintf("level %d, and the process has the capability to exceed it", level)
	case level > 2:
		c.State = May
		c.Detail = fmt.Sprintf("level %d: on kernels that know such levels (Debian's, Ubuntu's, Android's) no event at all without CAP_SYS_ADMIN; on others like 2", level)
		c.Remedy = "sysctl kernel.perf_event_paranoid=2 (host-wide), or CAP_SYS_ADMIN"
	case level > 0 && x.Buffers > 1:
		c.State = May
		c.Remedy = "for system-wide events CAP_PERFMON, or sysctl kernel.perf_event_paranoid=0 (host-wide)"
	}
	return c
}

func capabilityCheck(x *Explanation, f *snapshot.Facts) Check {
	c := Check{Name: "CAP_IPC_LOCK, at mmap()", Errno: "EPERM", State: Passes}
	has := func(set uint64) bool { return f.CapsKnown && snapshot.Has(set, unix.CAP_IPC_LOCK) }
	const without = "; without it the limits hold"
	switch {
	case x.Numbers.CapIPCLock:
		c.Detail = "effective, in the initial user namespace: the limits do not hold"
		return c
	case x.Subject.PID == 0:
		c.Detail = "a new process of the user does not have it by itself" + without
	case !f.CapsKnown:
		c.State, c.Detail = Unknown, "the process's capabilities cannot be read"
		return c
	case has(f.CapEffective) && f.UserNSKnown && !f.InitialUserNS:
		c.Detail = "effective, but only in a user namespace of its own, where it does not count" + without
		c.Remedy = "run it in the initial user namespace (no userns-remap, no rootless container, hostUsers: true)"
	case has(f.CapPermitted):
		c.Detail = "permitted, but not effective" + without
		c.Remedy = "the program has to raise it, or: setcap cap_ipc_lock+ep PROGRAM"
	case has(f.CapBounding):
		c.Detail = "not granted" + without
	default:
		c.Detail = "not granted, and not in the bounding set, so that no program can gain it" + without
		c.Remedy = "grant it where the process is started"
	}
	if !x.Verdict.Allowed && x.Verdict.Errno == "EPERM" {
		c.State = Refuses
	}
	if f.NoNewPrivs {
		c.Detail += "; NoNewPrivs is set: file capabilities have no effect"
	}
	return c
}

func seccompCheck(f *snapshot.Facts) Check {
	c := Check{Name: "seccomp", Errno: "EPERM or EACCES", State: Passes, Detail: "no filter"}
	switch f.Seccomp {
	case snapshot.SeccompOff:
	case snapshot.SeccompUnknown:
		c.State, c.Detail = Unknown, "the process's mode cannot be read, or there is no process yet"
	case snapshot.SeccompStrict:
		c.State, c.Detail = Refuses, "strict mode: no mmap(), no perf_event_open()"
	default:
		c.State, c.Detail = May, "a filter is in force; Docker's default one refuses perf_event_open() and bpf() without CAP_PERFMON, CAP_BPF or CAP_SYS_ADMIN"
		c.Remedy = "Docker: --cap-add PERFMON, or --security-opt seccomp=PROFILE; Kubernetes: securityContext.seccompProfile"
	}
	return c
}

// modulesWithPerf are the security modules that have a say over perf events or
// BPF objects.
var modulesWithPerf = []string{"selinux", "apparmor", "smack", "bpf"}

func lsmCheck(f *snapshot.Facts) Check {
	c := Check{Name: "security modules", Errno: "EACCES", State: Passes}
	if !f.LSMsKnown {
		c.State, c.Detail = Unknown, "/sys/kernel/security/lsm cannot be read"
		return c
	}
	var able []string
	for _, m := range modulesWithPerf {
		for _, active := range f.LSMs {
			if active == m {
				able = append(able, m)
			}
		}
	}
	c.Detail = "active: " + strings.Join(f.LSMs, ", ")
	if len(able) > 0 {
		c.State = May
		c.Detail += "; able to refuse perf events: " + strings.Join(able, ", ")
		c.Remedy = "look for denials in the kernel's log: ausearch -m AVC, or dmesg"
	}
	return c
}

func lockdownCheck(f *snapshot.Facts) Check {
	c := Check{Name: "lockdown", Errno: "EPERM", State: Passes, Detail: "mode: " + f.Lockdown}
	switch f.Lockdown {
	case "":
		c.State, c.Detail = Unknown, "/sys/kernel/security/lockdown cannot be read, or the kernel has none"
	case "confidentiality":
		c.State = May
		c.Detail += "; perf may not look into the kernel, BPF may not read its memory"
		c.Remedy = "boot with lockdown=integrity or none"
	}
	return c
}

// bpfCheck tells the EPERM of bpf() from that of perf_mmap().
func bpfCheck(f *snapshot.Facts) Check {
	c := Check{Name: "BPF maps and programs, at bpf()", Errno: "EPERM or ENOMEM", State: Unknown}
	switch f.BPF {
	case kernel.BPFRlimit:
		c.State, c.Errno = May, "EPERM"
		c.Detail = "this kernel charges them to the user's locked_vm, against RLIMIT_MEMLOCK, whatever the capabilities: they also use up the allowance of perf buffers"
		c.Remedy = "a larger RLIMIT_MEMLOCK for the loader"
	case kernel.BPFMemcg:
		c.State = Passes
		c.Detail = "this kernel charges them to the memory cgroup: ENOMEM is the cgroup's limit, EPERM is a missing CAP_BPF, and RLIMIT_MEMLOCK has no part in it"
	case kernel.BPFNone:
		c.State = Passes
		c.Detail = "this kernel holds them against nothing: EPERM is a missing CAP_BPF, and neither RLIMIT_MEMLOCK nor a memory cgroup has a part in it"
	default:
		c.Detail = "by RLIMIT_MEMLOCK (EPERM) or by memory cgroup (ENOMEM): finding out takes CAP_BPF"
	}
	return c
}
