package tracer

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/probe"
)

// The errors of a machine that cannot trace: what was tried, what is needed,
// what this machine has, what to do.

// explainOpen explains why no way to watch works, from what each of them met, in
// order.
func explainOpen(failures []error) error {
	const what = "watch perf buffers"
	err := failures[len(failures)-1]
	if len(failures) > 1 {
		err = fmt.Errorf("%w; before that: %w", err, errors.Join(failures[:len(failures)-1]...))
	}
	switch {
	case kernel.Kprobes().Lacks() && len(kernel.MissingCapabilities()) == 0:
		return fmt.Errorf("%s: requires kprobes (CONFIG_KPROBE_EVENTS) or fentry (running %s without them): boot a kernel that has one of them, or try one in QEMU with `pinwatch guest --kernel IMAGE -- trace`: %w", what, kernel.Release(), err)
	case (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) && !isVerifier(err):
		return explainPermission(what, err)
	case kernel.RingBuffer().Lacks() && errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%s: use --transport perf: %w", kernel.RingBuffer().Requires(), err)
	case probe.Unsupported(err):
		return fmt.Errorf("%s: requires kprobes on perf_mmap (Linux 5.16) or on its callers mmap_region and remove_vma, or fentry (running %s): use another kernel, or another --attach: %w", what, kernel.Release(), err)
	}
	return fmt.Errorf("%s on Linux %s: %w", what, kernel.Release(), err)
}

func isVerifier(err error) bool {
	var verifier *ebpf.VerifierError
	return errors.As(err, &verifier)
}

func explainPermission(what string, err error) error {
	if missing := kernel.MissingCapabilities(); len(missing) > 0 {
		return fmt.Errorf("%s: this process (uid %d) lacks %s: run it as root, or grant them, for example with setcap cap_bpf,cap_perfmon,cap_syslog+ep: %w",
			what, os.Geteuid(), strings.Join(missing, " and "), err)
	}
	if limit, ok := memlockInTheWay(err); ok {
		return fmt.Errorf("%s: before Linux 5.11 BPF objects are held against RLIMIT_MEMLOCK (running %s, with %d KiB): grant CAP_SYS_RESOURCE, or ulimit -l unlimited: %w", what, kernel.Release(), limit>>10, err)
	}
	if level, _ := kernel.ReadInt(kernel.ParanoidFile); level > 2 && !kernel.HasCapability(unix.CAP_SYS_ADMIN) {
		return fmt.Errorf("%s: perf_event_paranoid is %d, and above 2 the kernels that know such levels (Debian's, Android's) want CAP_SYS_ADMIN instead of CAP_PERFMON: grant it, or sysctl kernel.perf_event_paranoid=2: %w", what, level, err)
	}
	if mode := kernel.Lockdown("/sys"); mode == "confidentiality" {
		return fmt.Errorf("%s: kernel lockdown is in confidentiality mode, which forbids reading kernel memory: boot with lockdown=integrity or none: %w", what, err)
	}
	return fmt.Errorf("%s: not permitted, although the capabilities are there: a user namespace, seccomp or a security module may be in the way: %w", what, err)
}

// memlockInTheWay reports whether a map was refused for want of RLIMIT_MEMLOCK, which
// is in bytes. cilium/ebpf says in words alone that it may be so.
func memlockInTheWay(err error) (limit uint64, ok bool) {
	var now unix.Rlimit
	if unix.Prlimit(0, unix.RLIMIT_MEMLOCK, nil, &now) != nil {
		return 0, false
	}
	return now.Cur, now.Cur != unix.RLIM_INFINITY && !kernel.HasCapability(unix.CAP_SYS_RESOURCE) &&
		strings.Contains(err.Error(), "MEMLOCK may be too low")
}
