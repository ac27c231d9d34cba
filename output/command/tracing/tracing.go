// Package tracing has what the commands that trace have in common: the flags that tell how a
// trace is opened, which rows of it are written, and where the state of the host is read.
package tracing

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/pflag"

	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/probe"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
	"github.com/pinwatch/pinwatch/tracer/transport"
)

// Flags tell how a trace is opened. Commands take those that they have a use
// for.
type Flags struct {
	BTF         string
	attach      string
	transport   string
	bufferBytes int64
	Only        []string
}

// AddBTF adds the flag for a kernel without types.
func (t *Flags) AddBTF(f *pflag.FlagSet) {
	f.StringVar(&t.BTF, "btf", "", "`file` with the kernel's types, for a kernel without BTF")
}

// AddBackend adds the flags that choose how to attach and what carries the events.
func (t *Flags) AddBackend(f *pflag.FlagSet) {
	t.AddBTF(f)
	t.AddWay(f)
}

// AddWay adds them without that of a kernel without types.
func (t *Flags) AddWay(f *pflag.FlagSet) {
	value.Enum(f, &t.attach, "attach", probe.AttachAuto, probe.AttachNames(), "how to attach to the kernel")
	value.Enum(f, &t.transport, "transport", transport.Auto, transport.Names(), "what carries events from the kernel")
}

// AddBuffer adds the size of what carries the events.
func (t *Flags) AddBuffer(f *pflag.FlagSet) {
	value.KiB(f, &t.bufferBytes, "buffer-kib", "buffer between the kernel and pinwatch, a power of two; 0: what suits the transport", checkBuffer)
}

// checkBuffer accepts what the kernel does.
func checkBuffer(kib int64) error {
	if kib < 0 || kib&(kib-1) != 0 || kib > 2<<20 { // what is in bytes a power of two in 32 bits
		return errors.New("want a power of two up to 2097152 (2 GiB), or 0")
	}
	return nil
}

// AddOnly adds the choice of what to watch.
func (t *Flags) AddOnly(f *pflag.FlagSet) {
	value.Enums(f, &t.Only, "only", []string{"perf", "bpf", "others"}, row.Watchable(), "what to watch")
}

// AboutOnly explains the names that --only takes.
const AboutOnly = `What to watch (--only):
  perf    perf buffers
  bpf     BPF maps and programs
  memcg   what memory cgroups are charged for those; includes bpf
  others  what else is charged to locked_vm: io_uring, AF_XDP and more`

// Options are those that the flags ask for.
func (t *Flags) Options() tracer.Options {
	memcg := slices.Contains(t.Only, "memcg")
	return tracer.Options{
		BTF: t.BTF, Attach: t.attach, Transport: t.transport, BufferBytes: uint32(t.bufferBytes),
		BPF: memcg || slices.Contains(t.Only, "bpf"), Memcg: memcg, Others: slices.Contains(t.Only, "others"),
		NotPerf: len(t.Only) > 0 && !slices.Contains(t.Only, "perf"),
	}
}

// The sources of a snapshot, as --source names them.
const (
	sourceAuto = "auto"
	sourceProc = "proc"
)

// AddSource adds the choice of where a snapshot comes from.
func AddSource(f *pflag.FlagSet, source *string) {
	value.Enum(f, source, "source", sourceAuto, []string{sourceAuto, sourceProc}, "where the state of the host is read: BPF iterators, else /proc; or /proc alone")
}

// SnapshotFrom are the options of a snapshot from a source, on this kernel.
func SnapshotFrom(ctx context.Context, source, btf string) snapshot.Options {
	return snapshot.Options{BTF: btf, NoIterators: source == sourceProc, Accounting: accounting.Find(ctx)}
}

// OpenSnapshot opens a snapshot from a source.
func OpenSnapshot(ctx context.Context, source string) (*snapshot.Source, error) {
	return snapshot.Open(SnapshotFrom(ctx, source, ""))
}
