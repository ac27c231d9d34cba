package command

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/spf13/pflag"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/report"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/image"
	"github.com/pinwatch/pinwatch/tracer/probe"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
	"github.com/pinwatch/pinwatch/tracer/transport"
)

// tracingFlags tell how a trace is opened. Commands take those that they have a use
// for.
type tracingFlags struct {
	btf         string
	attach      string
	transport   string
	bufferBytes int64
	only        []string
}

// addBTF adds the flag for a kernel without types.
func (t *tracingFlags) addBTF(f *pflag.FlagSet) {
	f.StringVar(&t.btf, "btf", "", "`file` with the kernel's types, for a kernel without BTF")
}

// addBackend adds the flags that choose how to attach and what carries the events.
func (t *tracingFlags) addBackend(f *pflag.FlagSet) {
	t.addBTF(f)
	t.addWay(f)
}

// addWay adds them without that of a kernel without types.
func (t *tracingFlags) addWay(f *pflag.FlagSet) {
	value.Enum(f, &t.attach, "attach", probe.AttachAuto, probe.AttachNames(), "how to attach to the kernel")
	value.Enum(f, &t.transport, "transport", transport.Auto, transport.Names(), "what carries events from the kernel")
}

// addBuffer adds the size of what carries the events.
func (t *tracingFlags) addBuffer(f *pflag.FlagSet) {
	value.KiB(f, &t.bufferBytes, "buffer-kib", "buffer between the kernel and pinwatch, a power of two; 0: what suits the transport", checkBuffer)
}

// checkBuffer accepts what the kernel does.
func checkBuffer(kib int64) error {
	if kib < 0 || kib&(kib-1) != 0 || kib > 2<<20 { // what is in bytes a power of two in 32 bits
		return errors.New("want a power of two up to 2097152 (2 GiB), or 0")
	}
	return nil
}

// addOnly adds the choice of what to watch.
func (t *tracingFlags) addOnly(f *pflag.FlagSet) {
	value.Enums(f, &t.only, "only", []string{"perf", "bpf", "others"}, row.Watchable(), "what to watch")
}

// aboutOnly explains the names that --only takes.
const aboutOnly = `What to watch (--only):
  perf    perf buffers
  bpf     BPF maps and programs
  memcg   what memory cgroups are charged for those; includes bpf
  others  what else is charged to locked_vm: io_uring, AF_XDP and more`

// options are those that the flags ask for.
func (t *tracingFlags) options() tracer.Options {
	memcg := slices.Contains(t.only, "memcg")
	return tracer.Options{
		BTF: t.btf, Attach: t.attach, Transport: t.transport, BufferBytes: uint32(t.bufferBytes),
		BPF: memcg || slices.Contains(t.only, "bpf"), Memcg: memcg, Others: slices.Contains(t.only, "others"),
		NotPerf: len(t.only) > 0 && !slices.Contains(t.only, "perf"),
	}
}

// rowFlags tell which rows of a trace are written, and how.
type rowFlags struct {
	filter row.Filter
	json   bool
	pids   []uint
	uids   []uint
}

func (r *rowFlags) add(f *pflag.FlagSet) {
	f.BoolVar(&r.json, "json", false, "write JSON lines instead of a table")
	f.UintSliceVar(&r.pids, "pid", nil, "show only these processes")
	f.UintSliceVar(&r.uids, "uid", nil, "show only these users")
	f.StringSliceVar(&r.filter.Comms, "comm", nil, "show only commands with these names")
	f.StringVar(&r.filter.Cgroup, "cgroup", "", "show only what is in this cgroup or charged to it, or to one below")
	addContainers(f, &r.filter.Containers)
	f.BoolVar(&r.filter.Violations, "violations", false, "show only what breaks a rule")
	f.BoolVar(&r.filter.Self, "include-self", false, "include pinwatch's own buffers (with --transport perf)")
	value.Renamed(f, "broken", "violations")
	value.Renamed(f, "own", "include-self")
}

// addContainers adds the choice of containers, by what people call them.
func addContainers(f *pflag.FlagSet, w *cgroup.Wanted) {
	f.StringSliceVar(&w.Pods, "pod", nil, "show only what is in these pods or charged to them, by name or uid")
	f.StringSliceVar(&w.Namespaces, "namespace", nil, "show only what is in pods of these namespaces or charged to them")
	f.StringSliceVar(&w.Containers, "container", nil, "show only what is in these containers or charged to them, by name or id (12 digits or more)")
}

// writer returns a writer of rows, and completes the filter.
func (r *rowFlags) writer(w io.Writer) (output.Writer, error) {
	for _, pid := range r.pids {
		r.filter.PIDs = append(r.filter.PIDs, uint32(pid))
	}
	for _, uid := range r.uids {
		r.filter.UIDs = append(r.filter.UIDs, uint32(uid))
	}
	if r.json {
		recording.Replayable(&r.filter)
		return recording.NewWriter(w), nil
	}
	return output.NewTable(w)
}

// addMachine adds the flags of a guest's machine.
func addMachine(f *pflag.FlagSet, c *guest.Config) {
	f.IntVar(&c.CPUs, "cpus", 4, "CPUs of the guest")
	f.StringVar(&c.Memory, "memory", "1G", "memory of the guest")
	f.StringVar(&c.Append, "append", "", "more kernel parameters")
	f.StringVar(&c.Accel, "accel", "", "QEMU accelerator (default: KVM if a trial shows that it works, else emulation)")
}

// addRefresh adds the flag of commands that take kernels.
func addRefresh(f *pflag.FlagSet, refresh *bool) {
	f.BoolVar(refresh, "refresh", false, "fetch a kernel anew that is in the cache")
}

// kernels gets a number of kernels, and says on Err how that goes; done ends that.
func (s *Streams) kernels(number int, refresh bool) (store image.Store, done func()) {
	progress := report.NewProgress(s.Err, number)
	return image.Store{Refresh: refresh, Say: progress.Say, Done: progress.Done}, progress.Clear
}

// The sources of a snapshot, as --source names them.
const (
	sourceAuto = "auto"
	sourceProc = "proc"
)

// addSource adds the choice of where a snapshot comes from.
func addSource(f *pflag.FlagSet, source *string) {
	value.Enum(f, source, "source", sourceAuto, []string{sourceAuto, sourceProc}, "where the state of the host is read: BPF iterators, else /proc; or /proc alone")
}

// snapshotFrom are the options of a snapshot from a source, on this kernel.
func snapshotFrom(ctx context.Context, source, btf string) snapshot.Options {
	return snapshot.Options{BTF: btf, NoIterators: source == sourceProc, Accounting: accounting.Find(ctx)}
}

// openSnapshot opens a snapshot from a source.
func openSnapshot(ctx context.Context, source string) (*snapshot.Source, error) {
	return snapshot.Open(snapshotFrom(ctx, source, ""))
}
