package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/guest"
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
	enumVar(f, &t.attach, "attach", probe.AttachAuto, probe.AttachNames(), "how to attach to the kernel")
	enumVar(f, &t.transport, "transport", transport.Auto, transport.Names(), "what carries events from the kernel")
}

// addBuffer adds the size of what carries the events.
func (t *tracingFlags) addBuffer(f *pflag.FlagSet) {
	f.Var(&kibibytes{&t.bufferBytes, checkBuffer}, "buffer-kib", "buffer between the kernel and pinwatch, a power of two; 0: what suits the transport")
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
	enumsVar(f, &t.only, "only", []string{"perf", "bpf", "others"}, row.Watchable(), "what to watch")
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
	f.BoolVar(&r.filter.Violations, "violations", false, "show only what breaks a rule")
	f.BoolVar(&r.filter.Self, "include-self", false, "include pinwatch's own buffers (with --transport perf)")
	renamed(f, "broken", "violations")
	renamed(f, "own", "include-self")
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

// The sources of a snapshot, as --source names them.
const (
	sourceAuto = "auto"
	sourceProc = "proc"
)

// addSource adds the choice of where a snapshot comes from.
func addSource(f *pflag.FlagSet, source *string) {
	enumVar(f, source, "source", sourceAuto, []string{sourceAuto, sourceProc}, "where the state of the host is read: BPF iterators, else /proc; or /proc alone")
}

// snapshotFrom are the options of a snapshot from a source, on this kernel.
func snapshotFrom(ctx context.Context, source, btf string) snapshot.Options {
	return snapshot.Options{BTF: btf, NoIterators: source == sourceProc, Accounting: accounting.Find(ctx)}
}

// renamed keeps the old name of a flag working. It is not in the help, and to use it
// is answered with the new one.
func renamed(f *pflag.FlagSet, old, name string) {
	alias := *f.Lookup(name)
	alias.Name, alias.Shorthand, alias.Hidden = old, "", true
	alias.Annotations = map[string][]string{newName: {name}}
	f.AddFlag(&alias)
}

// newName annotates an old flag.
const newName = "pinwatch_new_name"

// tellNewName says of a flag that was used what it is called by now.
func tellNewName(s *Streams, f *pflag.Flag) {
	if name := f.Annotations[newName]; name != nil {
		fmt.Fprintf(s.Err, "pinwatch: --%s is now called --%s\n", f.Name, name[0])
	}
}

// enum is the value of a flag that takes one of some names.
type enum struct {
	value *string
	names []string
}

// enumVar adds such a flag. The usage ends with the names.
func enumVar(f *pflag.FlagSet, value *string, name, standard string, names []string, usage string) {
	*value = standard
	f.Var(&enum{value, names}, name, usage+": "+alternatives(names))
}

func (e *enum) Set(text string) error {
	if !slices.Contains(e.names, text) {
		return errors.New("want " + alternatives(e.names))
	}
	*e.value = text
	return nil
}

func (e *enum) String() string             { return *e.value }
func (e *enum) Type() string               { return "name" }
func (e *enum) complete(_ string) []string { return e.names }

// enums is the value of a flag that takes several names, parted by commas or each with
// a flag of its own.
type enums struct {
	values *[]string
	names  []string
	check  func(name string) error
	given  bool // the values are no longer the standard ones
}

// enumsVar adds such a flag. The usage ends with the names.
func enumsVar(f *pflag.FlagSet, values *[]string, name string, standard, names []string, usage string) {
	enumsFunc(f, values, name, standard, names, usage+": "+alternatives(names), func(text string) error {
		if !slices.Contains(names, text) {
			return errors.New("want " + alternatives(names))
		}
		return nil
	})
}

// enumsFunc adds a flag that takes several names that a function accepts, of which
// those given are completed.
func enumsFunc(f *pflag.FlagSet, values *[]string, name string, standard, names []string, usage string, check func(string) error) {
	*values = standard
	f.Var(&enums{values: values, names: names, check: check}, name, usage)
}

func (e *enums) Set(text string) error {
	list := strings.Split(text, ",")
	for _, name := range list {
		if err := e.check(name); err != nil {
			return err
		}
	}
	if !e.given {
		*e.values, e.given = nil, true
	}
	*e.values = append(*e.values, list...)
	return nil
}

func (e *enums) String() string { return strings.Join(*e.values, ",") }
func (e *enums) Type() string   { return "names" }

// complete completes the last of the names.
func (e *enums) complete(typed string) (whole []string) {
	before := typed[:strings.LastIndex(typed, ",")+1]
	for _, name := range e.names {
		if !slices.Contains(strings.Split(before, ","), name) {
			whole = append(whole, before+name)
		}
	}
	return whole
}

// alternatives are names as one reads them out: "a, b or c".
func alternatives(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// completeValues has the shell complete the values of a flag that has names for them.
func completeValues(cmd *cobra.Command, f *pflag.Flag) {
	value, ok := f.Value.(interface{ complete(typed string) []string })
	if !ok {
		return
	}
	cmd.RegisterFlagCompletionFunc(f.Name, func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		var fitting []string
		for _, name := range value.complete(typed) {
			if strings.HasPrefix(name, typed) {
				fitting = append(fitting, name)
			}
		}
		return fitting, cobra.ShellCompDirectiveNoFileComp
	})
}

// kibibytes is the value of a flag that gives bytes in KiB. A negative number stands
// for something else, where the check allows it.
type kibibytes struct {
	bytes *int64
	check func(kib int64) error
}

// addMemlock adds the flag of a process's limit.
func addMemlock(f *pflag.FlagSet, bytes *int64, kib int64) {
	*bytes = fromKiB(kib)
	f.Var(&kibibytes{bytes, func(int64) error { return nil }}, "memlock-kib", "RLIMIT_MEMLOCK; -1: leave it alone")
}

func fromKiB(kib int64) int64 {
	if kib < 0 {
		return kib
	}
	return kib << 10
}

func (k *kibibytes) Set(text string) error {
	kib, err := strconv.ParseInt(text, 0, 54) // as many as are an int64 in bytes
	if err != nil {
		return errors.New("want a number of KiB")
	}
	if err := k.check(kib); err != nil {
		return err
	}
	*k.bytes = fromKiB(kib)
	return nil
}

func (k *kibibytes) String() string {
	if *k.bytes < 0 {
		return strconv.FormatInt(*k.bytes, 10)
	}
	return strconv.FormatInt(*k.bytes>>10, 10)
}

func (k *kibibytes) Type() string { return "KiB" }
