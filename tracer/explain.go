package tracer

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/host"
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
	case !haveKprobes() && len(missingCapabilities()) == 0:
		return fmt.Errorf("%s: requires kprobes (CONFIG_KPROBE_EVENTS) or fentry (running %s without them): boot a kernel that has one of them, or try one in QEMU with `pinwatch guest --kernel IMAGE -- trace`: %w", what, release(), err)
	case (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) && !isVerifier(err):
		return explainPermission(what, err)
	case errors.Is(features.HaveMapType(ebpf.RingBuf), ebpf.ErrNotSupported) && errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("ring buffer: requires Linux 5.8 (running %s): use --transport perf: %w", release(), err)
	case unsupported(err):
		return fmt.Errorf("%s: requires kprobes on perf_mmap (Linux 5.16) or on its callers mmap_region and remove_vma, or fentry (running %s): use another kernel, or another --attach: %w", what, release(), err)
	}
	return fmt.Errorf("%s on Linux %s: %w", what, release(), err)
}

func isVerifier(err error) bool {
	var verifier *ebpf.VerifierError
	return errors.As(err, &verifier)
}

// haveKprobes says whether the kernel offers kprobes in one of the two ways
// that there are.
func haveKprobes() bool {
	for _, path := range []string{
		"/sys/bus/event_source/devices/kprobe/type",
		"/sys/kernel/tracing/kprobe_events",
		"/sys/kernel/debug/tracing/kprobe_events",
	} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// capabilities that tracing needs, and what each is for.
var capabilities = []struct {
	bit  int
	name string
	why  string
}{
	{unix.CAP_BPF, "CAP_BPF", "load BPF programs"},
	{unix.CAP_PERFMON, "CAP_PERFMON", "attach them to the kernel"},
}

// hasCapability says whether a capability of this process is effective.
func hasCapability(bit int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[bit/32].Effective&(1<<(bit%32)) != 0
}

// missingCapabilities names those that are not effective. CAP_SYS_ADMIN stands
// for all of them.
func missingCapabilities() []string {
	if hasCapability(unix.CAP_SYS_ADMIN) {
		return nil
	}
	var missing []string
	for _, c := range capabilities {
		if !hasCapability(c.bit) {
			missing = append(missing, fmt.Sprintf("%s (to %s)", c.name, c.why))
		}
	}
	return missing
}

func explainPermission(what string, err error) error {
	if missing := missingCapabilities(); len(missing) > 0 {
		return fmt.Errorf("%s: this process (uid %d) lacks %s: run it as root, or grant them, for example with setcap cap_bpf,cap_perfmon,cap_syslog+ep: %w",
			what, os.Geteuid(), strings.Join(missing, " and "), err)
	}
	if limit, ok := memlockInTheWay(err); ok {
		return fmt.Errorf("%s: before Linux 5.11 BPF objects are held against RLIMIT_MEMLOCK (running %s, with %d KiB): grant CAP_SYS_RESOURCE, or ulimit -l unlimited: %w", what, release(), limit>>10, err)
	}
	const paranoid = "/proc/sys/kernel/perf_event_paranoid"
	if level, _ := readInt(paranoid); level > 2 && !hasCapability(unix.CAP_SYS_ADMIN) {
		return fmt.Errorf("%s: perf_event_paranoid is %d, and above 2 the kernels that know such levels (Debian's, Android's) want CAP_SYS_ADMIN instead of CAP_PERFMON: grant it, or sysctl kernel.perf_event_paranoid=2: %w", what, level, err)
	}
	if mode := host.Lockdown("/sys"); mode == "confidentiality" {
		return fmt.Errorf("%s: kernel lockdown is in confidentiality mode, which forbids reading kernel memory: boot with lockdown=integrity or none: %w", what, err)
	}
	return fmt.Errorf("%s: not permitted, although the capabilities are there: a user namespace, seccomp or a security module may be in the way: %w", what, err)
}

// memlockInTheWay says whether a map was refused for want of RLIMIT_MEMLOCK, which
// is in bytes. cilium/ebpf says in words alone that it may be so.
func memlockInTheWay(err error) (limit uint64, ok bool) {
	var now unix.Rlimit
	if unix.Prlimit(0, unix.RLIMIT_MEMLOCK, nil, &now) != nil {
		return 0, false
	}
	return now.Cur, now.Cur != unix.RLIM_INFINITY && !hasCapability(unix.CAP_SYS_RESOURCE) &&
		strings.Contains(err.Error(), "MEMLOCK may be too low")
}

// Release is the running kernel's, as uname -r gives it.
func Release() string { return release() }

// release is the running kernel's, as uname -r gives it.
func release() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return "an unknown kernel"
	}
	return unix.ByteSliceToString(name.Release[:])
}
