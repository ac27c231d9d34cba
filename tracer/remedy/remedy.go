// Package remedy has the changes that help against a refusal, as the exact settings for a
// shell, systemd, Docker and Kubernetes. Which of them helps is for others to say, by the
// rule of whoever refused.
package remedy

import (
	"fmt"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
)

// Remedy is one change that lets what was refused succeed, with the exact setting.
// A setting is "" where it has no place there.
type Remedy struct {
	Name       string `json:"name"`
	Change     string `json:"change"`
	Price      string `json:"price"`
	HostWide   bool   `json:"host_wide"`
	Pages      int64  `json:"pages"`   // what the setting is to be: of a limit, of a buffer; 0 where it has none
	Buffers    int64  `json:"buffers"` // for how many such buffers a limit is enough; 0 where that is no question
	Shell      string `json:"shell"`
	Systemd    string `json:"systemd"`
	Docker     string `json:"docker"`
	Kubernetes string `json:"kubernetes"`

	Brief string `json:"-"` // the setting alone, for a row's note; "" where a row has no room for it
	Rank  int    `json:"-"` // small changes first
}

// The names of the remedies that a row's note has room for.
const (
	Limit     = "RLIMIT_MEMLOCK"
	Allowance = "perf_event_mlock_kb"
	Capable   = "CAP_IPC_LOCK"
	Smaller   = "smaller buffer"
	Apart     = "user of its own"

	SmallerRequest = "smaller request"
	End            = "end a holder"
	Again          = "try again"
)

// Wait is for what the kernel is about to give back.
func Wait(closed int64, unit string) Remedy {
	return Remedy{Name: Again, Brief: "try again shortly", Price: "the wait",
		Change: fmt.Sprintf("try again: %s are of what is closed, and the kernel gives them back by itself", Count(closed, unit))}
}

// OwnUser has a counter of its own.
func OwnUser(change string) Remedy {
	return Remedy{Name: Apart, Brief: "another uid", Change: change,
		Price:   "another uid's rights to files and processes",
		Shell:   "setpriv --reuid UID --regid GID --clear-groups COMMAND",
		Systemd: "DynamicUser=yes, or User=NAME", Docker: "--user UID:GID",
		Kubernetes: "securityContext: {runAsUser: UID}"}
}

// Memlock is a limit of so many pages, for a process that runs or for a new one (pid 0).
func Memlock(pages int64, pageSize, pid uint32, enough string) Remedy {
	bytes := pages * int64(pageSize)
	r := Remedy{Name: Limit, Pages: pages,
		Change:     fmt.Sprintf("RLIMIT_MEMLOCK of %d bytes (%s): %s", bytes, Count(pages, "page"), enough),
		Price:      "this process may pin so much; not host-wide. Beyond the hard limit it takes CAP_SYS_RESOURCE",
		Shell:      fmt.Sprintf("ulimit -l %d", (bytes+1023)/1024),
		Systemd:    fmt.Sprintf("LimitMEMLOCK=%d", bytes),
		Docker:     fmt.Sprintf("--ulimit memlock=%d:%d", bytes, bytes),
		Kubernetes: fmt.Sprintf("pods have no field for it. On the node, CRI-O: default_ulimits = [\"memlock=%d:%d\"]; containerd: LimitMEMLOCK=%d in containerd.service", bytes, bytes, bytes),
	}
	r.Brief = r.Shell + " (KiB)"
	if pid != 0 {
		r.Shell = fmt.Sprintf("prlimit --pid %d --memlock=%d (now), or %s (before it starts)", pid, bytes, r.Shell)
	}
	return r
}

// Capability lifts the limit.
func Capability() Remedy {
	return Remedy{Name: Capable, Brief: "CAP_IPC_LOCK (effective, initial user namespace)", Change: "CAP_IPC_LOCK, effective, in the initial user namespace",
		Price:      "the process may pin any amount of memory; not host-wide. In a user namespace of its own it does not count",
		Shell:      "setcap cap_ipc_lock+ep PROGRAM, or setpriv --inh-caps +ipc_lock --ambient-caps +ipc_lock COMMAND",
		Systemd:    "AmbientCapabilities=CAP_IPC_LOCK",
		Docker:     "--cap-add IPC_LOCK (effective for uid 0; else with file capabilities; without userns-remap)",
		Kubernetes: `securityContext: {capabilities: {add: ["IPC_LOCK"]}} (effective for uid 0; else with file capabilities; not with hostUsers: false)`,
	}
}

// MemoryMax raises the limit of a memory cgroup, of v2 or v1. Its name is v2's in either case.
func MemoryMax(path string, v1 bool, bytes int64) Remedy {
	_, file := cgroup.MemoryFiles(v1)
	return Remedy{Name: "memory.max", Rank: 3, Brief: fmt.Sprintf("%s %d of %s", file, bytes, path), Change: fmt.Sprintf("%s of %s: at least %s", file, path, Count(bytes, "byte")),
		Price: "the cgroup may take so much of the machine's memory", Shell: fmt.Sprintf("echo %d > %s", bytes, cgroup.LimitPath(path, v1)),
		Systemd: fmt.Sprintf("MemoryMax=%d", bytes), Docker: fmt.Sprintf("--memory %d", bytes), Kubernetes: fmt.Sprintf("resources: {limits: {memory: %d}}", bytes)}
}

// Count is a number of things in words.
func Count(n int64, of string) string {
	if n == 1 {
		return "1 " + of
	}
	if strings.HasSuffix(of, "s") {
		of += "e"
	}
	return fmt.Sprintf("%d %ss", n, of)
}
