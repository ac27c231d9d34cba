package tracer

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/probe"
	"github.com/pinwatch/pinwatch/tracer/transport"
)

// The errors of a machine that cannot trace: what was tried, what is needed,
// what this machine has, what to do.

// NotOpened is the error of a trace that another choice of options can open.
type NotOpened struct {
	Advice Advice
	reason string // what was tried, what is needed, what this machine has
	err    error
}

func (e *NotOpened) Error() string { return fmt.Sprintf("%s: %s: %v", e.reason, e.Advice, e.err) }
func (e *NotOpened) Unwrap() error { return e.err }

// Cause is the error without the advice, for whoever does something else.
func (e *NotOpened) Cause() string { return fmt.Sprintf("%s: %v", e.reason, e.err) }

// Advice is other options than those that were tried.
type Advice struct {
	Attach, Transport string // to use instead; "": what was tried
}

func (a Advice) String() string {
	use := "use"
	if a.Attach != "" {
		use += " --attach " + a.Attach
	}
	if a.Transport != "" {
		use += " --transport " + a.Transport
	}
	return use
}

// Follow changes options as is advised.
func (a Advice) Follow(opts Options) Options {
	opts.Attach, opts.Transport = cmp.Or(a.Attach, opts.Attach), cmp.Or(a.Transport, opts.Transport)
	return opts
}

// advise finds what to choose instead of what this kernel lacks. It advises nothing that
// was tried already.
func advise(opts Options, types kernel.Types) (a Advice) {
	if opts.Transport == transport.Ringbuf && kernel.RingBuffer().Lacks() {
		a.Transport = transport.PerfArray
	}
	kprobes, fentry := !kernel.Kprobes().Lacks(), haveFentry(types)
	// Without a ring buffer it did not come to attach anything.
	attached := a.Transport == ""
	switch {
	case opts.Attach == probe.AttachFentry && (attached || !fentry) && kprobes,
		opts.Attach == probe.AttachSession && (attached || !types.HaveSessions()) && kprobes:
		a.Attach = probe.AttachKprobe
	case opts.Attach == probe.AttachSession && !types.HaveSessions() && fentry:
		a.Attach = probe.AttachFentry
	case opts.Attach == probe.AttachKprobe && !kprobes && fentry:
		a.Attach = probe.AttachFentry
	}
	return a
}

// haveFentry reports whether perf_mmap() can have trampolines, as far as is known without
// trying: the types must describe it, and the kernel must have them, on arm64 since 6.0,
// which what came with 6.2 is sure to be newer than.
func haveFentry(types kernel.Types) bool {
	return types.HasStaticFunctions() && features.HaveProgramType(ebpf.Tracing) == nil && (runtime.GOARCH != "arm64" || types.HaveTypedReads())
}

// needs says what the options want that this kernel lacks.
func needs(opts Options, types kernel.Types) string {
	ring := opts.Transport == transport.Ringbuf && kernel.RingBuffer().Lacks()
	switch {
	case ring && opts.Attach == probe.AttachFentry && !haveFentry(types):
		return kernel.RingBuffer().Requires() + ", and fentry on perf_mmap Linux 5.16"
	case ring && opts.Attach == probe.AttachSession && !types.HaveSessions():
		return kernel.RingBuffer().Requires() + ", and " + kernel.KprobeSessions().Requires()
	case ring:
		return kernel.RingBuffer().Requires()
	case opts.Attach == probe.AttachSession && !types.HaveSessions():
		return kernel.KprobeSessions().Requires()
	case opts.Attach == probe.AttachFentry && !types.HasStaticFunctions():
		return fmt.Sprintf("fentry on perf_mmap: requires kernel types that describe it, as those of Linux 5.16 do (running %s)", kernel.Release())
	case opts.Attach == probe.AttachFentry:
		return fmt.Sprintf("fentry on perf_mmap: requires BPF trampolines (x86: Linux 5.5, arm64: 6.0; running %s)", kernel.Release())
	}
	return fmt.Sprintf("requires kprobes on perf_mmap (Linux 5.16) or on its callers mmap_region and remove_vma, or fentry (running %s)", kernel.Release())
}

// explainOpen explains why no way to watch works, from what each of them met, in
// order.
func explainOpen(opts Options, types kernel.Types, failures []error) error {
	what, err := "watch perf buffers", together(failures)
	if opts.NotPerf {
		what = "open a trace"
	}
	capable := len(kernel.MissingCapabilities()) == 0
	switch {
	case kernel.Lockdown("/sys") == "confidentiality" && capable: // EPERM of a kprobe, EINVAL of a program that calls bpf_probe_read()
		return fmt.Errorf("%s: kernel lockdown is in confidentiality mode, which forbids reading kernel memory: boot with lockdown=integrity or none: %w", what, err)
	case kernel.Kprobes().Lacks() && !haveFentry(types) && capable:
		return fmt.Errorf("%s: requires kprobes (CONFIG_KPROBE_EVENTS) or fentry (running %s without them): boot a kernel that has one of them, or try one in QEMU with `pinwatch guest --kernel IMAGE -- trace`: %w", what, kernel.Release(), err)
	case (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) && !isVerifier(err):
		return explainPermission(what, types, err)
	case probe.Unsupported(err):
		if a := advise(opts, types); a != (Advice{}) {
			return &NotOpened{Advice: a, reason: what + ": " + needs(opts, types), err: err}
		}
		return fmt.Errorf("%s: %s: use another kernel: %w", what, needs(opts, types), err)
	}
	return fmt.Errorf("%s on Linux %s: %w", what, kernel.Release(), err)
}

// together makes one error of all, the last one first. What several of them say is said
// once.
func together(failures []error) error {
	last := len(failures) - 1
	err, said, before := failures[last], []string{failures[last].Error()}, "; before that: "
	for _, earlier := range failures[:last] {
		if !slices.Contains(said, earlier.Error()) {
			err, said, before = fmt.Errorf("%w%s%w", err, before, earlier), append(said, earlier.Error()), "; "
		}
	}
	return err
}

func isVerifier(err error) bool {
	var verifier *ebpf.VerifierError
	return errors.As(err, &verifier)
}

func explainPermission(what string, types kernel.Types, err error) error {
	if missing := kernel.MissingCapabilities(); len(missing) > 0 {
		return fmt.Errorf("%s: this process (uid %d) lacks %s: run it as root, or grant them, for example with setcap cap_bpf,cap_perfmon,cap_syslog+ep: %w",
			what, os.Geteuid(), strings.Join(missing, " and "), err)
	}
	if limit, ok := memlockInTheWay(types, err); ok {
		return transport.Limited{Err: fmt.Errorf("%s: before Linux 5.11 BPF objects are held against RLIMIT_MEMLOCK (running %s, with %d KiB): grant CAP_SYS_RESOURCE, or ulimit -l unlimited: %w", what, kernel.Release(), limit>>10, err)}
	}
	if level, _ := kernel.ReadInt(kernel.ParanoidFile); level > 2 && !kernel.HasCapability(unix.CAP_SYS_ADMIN) {
		return fmt.Errorf("%s: perf_event_paranoid is %d, and above 2 the kernels that know such levels (Debian's, Android's) want CAP_SYS_ADMIN instead of CAP_PERFMON: grant it, or sysctl kernel.perf_event_paranoid=2: %w", what, level, err)
	}
	return fmt.Errorf("%s: not permitted, although the capabilities are there: a user namespace, seccomp or a security module may be in the way: %w", what, err)
}

// memlockInTheWay reports whether a BPF object was refused for want of RLIMIT_MEMLOCK, which
// is in bytes.
func memlockInTheWay(types kernel.Types, err error) (limit uint64, ok bool) {
	users, unknown := types.ChargesBPFToUsers()
	var now unix.Rlimit
	if unix.Prlimit(0, unix.RLIMIT_MEMLOCK, nil, &now) != nil || unknown != nil {
		return 0, false
	}
	return now.Cur, users && errors.Is(err, unix.EPERM) && now.Cur != unix.RLIM_INFINITY && !kernel.HasCapability(unix.CAP_SYS_RESOURCE)
}
