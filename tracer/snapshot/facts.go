package snapshot

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// Facts are what besides the limits decides over a process's perf events and BPF
// objects, as far as /proc and /sys tell.
type Facts struct {
	// CapEffective, CapPermitted and CapBounding are sets of capabilities.
	CapEffective, CapPermitted, CapBounding uint64
	CapsKnown                               bool
	// InitialUserNS reports whether the process is in the initial user namespace,
	// where alone capabilities count for perf. It means something if UserNSKnown.
	InitialUserNS, UserNSKnown bool
	NoNewPrivs                 bool
	Seccomp                    int    // SeccompOff and so on
	HardLimit                  uint64 // of RLIMIT_MEMLOCK in bytes; 0 where not known
	LSMs                       []string
	LSMsKnown                  bool
	Lockdown                   string // "none", "integrity", "confidentiality", or "" where not known
	// BPF is what BPF memory is held against; "" where nobody tried.
	BPF kernel.BPFAccounting
}

// The modes of seccomp, as the kernel numbers them.
const (
	SeccompUnknown = iota - 1
	SeccompOff
	SeccompStrict
	SeccompFilter
)

// Has reports whether a capability is in a set.
func Has(set uint64, capability int) bool { return set>>capability&1 != 0 }

// Inspect reads the facts of a process, or with pid 0 those of the host alone. What
// cannot be read is left unknown; what BPF memory is held against takes an experiment, and
// is for the caller to find out (kernel.ProbeBPFAccounting).
func Inspect(opts Options, pid uint32) *Facts {
	p := newProc(opts)
	f := &Facts{Seccomp: SeccompUnknown}
	if raw, err := os.ReadFile(p.path(pid, "status")); err == nil {
		f.fromStatus(fields(raw))
	}
	if name, err := os.Readlink(p.path(pid, "ns/user")); err == nil {
		f.UserNSKnown, f.InitialUserNS = true, name == initialUserNamespace
	}
	var limit unix.Rlimit
	if pid != 0 && unix.Prlimit(int(pid), unix.RLIMIT_MEMLOCK, nil, &limit) == nil {
		f.HardLimit = limit.Max
	}
	if raw, err := os.ReadFile(filepath.Join(p.sys, "kernel/security/lsm")); err == nil {
		f.LSMsKnown = true
		f.LSMs = strings.Split(strings.TrimSpace(string(raw)), ",")
	}
	f.Lockdown = kernel.Lockdown(p.sys)
	return f
}

func (f *Facts) fromStatus(status map[string]string) {
	f.CapsKnown = true
	for name, set := range map[string]*uint64{"CapEff": &f.CapEffective, "CapPrm": &f.CapPermitted, "CapBnd": &f.CapBounding} {
		value, err := strconv.ParseUint(status[name], 16, 64)
		f.CapsKnown = f.CapsKnown && err == nil
		*set = value
	}
	f.NoNewPrivs = status["NoNewPrivs"] == "1"
	mode, told := status["Seccomp"]
	if n, err := strconv.Atoi(mode); err == nil {
		f.Seccomp = n
	} else if f.CapsKnown && !told { // a kernel without CONFIG_SECCOMP
		f.Seccomp = SeccompOff
	}
}
