package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Feature is something that only some kernels offer. Whether this one does is found out
// by asking it; the version is what people are told, never what is decided by.
type Feature struct {
	Name  string
	Since string // the first version of Linux that has it
	// Probe asks the kernel: nil means that it has it, ebpf.ErrNotSupported that it has
	// not, and any other error that this is not known.
	Probe   func() error
	Instead string // what is done without it
	Remedy  string // what the machine's owner can do; "": nothing
}

// Lacks reports whether this kernel is known to lack the feature.
func (f Feature) Lacks() bool { return errors.Is(f.Probe(), ebpf.ErrNotSupported) }

// Requires says what the feature takes, and what this machine has.
func (f Feature) Requires() string {
	return fmt.Sprintf("%s: requires Linux %s (running %s)", f.Name, f.Since, Release())
}

// Missing says that this kernel lacks the feature, and what is done instead.
func (f Feature) Missing() string { return f.Requires() + "; " + f.Instead }

// RingBuffer is the BPF ring buffer.
func RingBuffer() Feature {
	return Feature{Name: "ring buffer", Since: "5.8", Instead: "using perf event array",
		Probe: func() error { return features.HaveMapType(ebpf.RingBuf) }}
}

// Kprobes are offered in one of two ways: by a PMU, or in tracefs.
func Kprobes() Feature {
	return Feature{Name: "kprobes", Since: "4.17 with CONFIG_KPROBE_EVENTS", Instead: "fentry alone is left",
		Remedy: "boot a kernel with CONFIG_KPROBE_EVENTS; pinwatch guest runs one in QEMU",
		Probe: func() error {
			for _, path := range []string{
				"/sys/bus/event_source/devices/kprobe/type",
				"/sys/kernel/tracing/kprobe_events",
				"/sys/kernel/debug/tracing/kprobe_events",
			} {
				if _, err := os.Stat(path); err == nil {
					return nil
				}
			}
			return fmt.Errorf("neither the kprobe PMU nor tracefs has them: %w", ebpf.ErrNotSupported)
		}}
}

// ProbesOnPerfMmap are probes on perf_mmap() and perf_mmap_close() themselves. Before
// 79df45731da6, kernel/events/core.c was built without what probes stand on.
func ProbesOnPerfMmap() Feature {
	return Feature{Name: "probes on perf_mmap", Since: "5.16", Instead: "probing its callers mmap_region and remove_vma",
		Probe: func() error { return traceable("perf_mmap", "/sys/kernel/tracing", "/sys/kernel/debug/tracing") }}
}

// traceable asks tracefs, which may be mounted at one of some directories, whether a
// function has what probes stand on.
func traceable(function string, mounts ...string) error {
	var list *os.File
	var err error
	for _, mount := range mounts {
		if list, err = os.Open(mount + "/available_filter_functions"); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("tracefs says which functions can be probed: %w", err)
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	for lines.Scan() { // NAME [MODULE]
		if name, _, _ := strings.Cut(lines.Text(), " "); name == function {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return ebpf.ErrNotSupported
}

// Iterators walk through the kernel's tasks, and so through processes and the counters
// of their users.
func Iterators() Feature {
	return Feature{Name: "BPF iterators", Since: "5.8 with CONFIG_DEBUG_INFO_BTF", Instead: "/proc is used instead", Probe: haveIterator("task")}
}

// MappingIterator walks through the mappings of processes.
func MappingIterator() Feature {
	return Feature{Name: "iterator of mappings", Since: "5.12 with CONFIG_DEBUG_INFO_BTF", Instead: "/proc/PID/maps and descriptors are used instead", Probe: haveIterator("task_vma")}
}

// KprobeSessions are probes on a function's entry and on its return by one program and one
// link (535a3692ba72), and need nothing of tracefs, which would outlive a process that is
// killed.
func KprobeSessions() Feature {
	return Feature{Name: "kprobe sessions", Since: "6.10 with CONFIG_FPROBE and CONFIG_DEBUG_INFO_BTF", Instead: "a kprobe at each end is used instead",
		Probe: ownTypes(Types.HaveSessions)}
}

// haveIterator reports whether the kernel's own types have an iterator's context.
func haveIterator(of string) func() error {
	return ownTypes(func(t Types) bool { return len(t.Parameters("bpf_iter_"+of)) > 0 })
}

// ownTypes asks the kernel's own types: those of a file do not do.
func ownTypes(have func(Types) bool) func() error {
	return func() error {
		if _, err := os.Stat(kernelBTF); errors.Is(err, os.ErrNotExist) {
			return ebpf.ErrNotSupported
		}
		types := Types{Cache: btf.NewCache()}
		if _, err := types.Spec(); err != nil {
			return err
		}
		if !have(types) {
			return ebpf.ErrNotSupported
		}
		return nil
	}
}

// NoLinks reports whether an error of listing BPF links says that this kernel has none:
// before 5.8 (a3b80e107894) it does not know the command.
func NoLinks(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, ebpf.ErrNotSupported)
}

// Features are all rows, in the order in which doctor shows them.
func Features() []Feature {
	return []Feature{Kprobes(), KprobeSessions(), RingBuffer(), ProbesOnPerfMmap(), Iterators(), MappingIterator()}
}
