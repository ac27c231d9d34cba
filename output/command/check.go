package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/output/checked"
	"github.com/pinwatch/pinwatch/output/command/tracing"
	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/output/emitted"
	"github.com/pinwatch/pinwatch/output/explored"
	"github.com/pinwatch/pinwatch/output/report"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/image"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// checkOptions are those of check.
type checkOptions struct {
	*Streams
	tracing   tracing.Flags
	flags     []string // what was given that matters to a scenario, to see it again
	guests    check.Guests
	scenarios []string // none: all
	exit      string
	arm64     string // pinwatch for arm64 guests
	list      bool
	invasive  bool
	inGuest   bool // for the check that runs this one
	explore   explored.Flags
	reports   checked.Reports
	known     checked.Known
	refresh   bool
	evidence  string // directory; "": none
	sendTrace bool   // to the check that runs this one
	emit      emitted.Flags
}

func newCheck(s *Streams) *cobra.Command {
	o := checkOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "check [flags]",
		Short: "Tell whether this kernel, or any given one, accounts locked memory correctly",
		Long: `Runs scenarios that map, share, refuse and unmap locked memory, and tells which
invariants of the accounting hold. The tracer watches, and witnesses that are not
pinwatch's are read as well: VmPin, the number of pages that fit before EPERM, and
the files of a cgroup. With --kernel it boots that kernel in QEMU, several side by
side.

` + image.Help + `

Kernels without BTF take their types from --btf: a FILE, where there is one kernel;
KERNEL=FILE for each, where KERNEL is the image as --kernel names it, or its release;
or a DIRECTORY with files of such names (NAME.btf, vmlinux-NAME). Without types the
witnesses alone decide.

Scenarios run as throwaway users in a cgroup of their own, with little memory.
Those that change settings of the whole machine run only with --invasive, and
always in a guest; a watchdog puts all settings back, whatever happens.

` + explored.Help + `
` + emitted.Help + `

With --output several reports are written at once. github is annotations for the log of
a workflow, and appends markdown to the file that GITHUB_STEP_SUMMARY names. kcidb is
for the database of kernel CI, in its schema 5.3.

` + checked.EvidenceHelp + `

With --known the failures of a list are shown as known, and count as passed. The list is
a file, or stock: what testdata/findings has of stock kernels. A fail whose verdict is not
listed for the kernel is new; what is listed and does not come is said. --write-known
writes a FILE of what fails now: a line for each, with kernels, scenario and verdicts;
the file says how kernels are named.

Exit status, by --exit:
  default    0 all hold, 3 an invariant is broken, 1 could not run, 2 wrong usage, or
             an image that is missing or broken
  bisect     0 good, 1 bad, 125 cannot be tested (panic, hang, missing feature),
             129 wrong usage, which ends git bisect run
  kselftest  0 pass, 1 fail or could not run, 4 skip
A fail that is known is no broken invariant here. --write-known changes no exit
status, but that a FILE that cannot be written is told as "could not run".`,
		Example: `  pinwatch check
  pinwatch check --kernel bzImage --scenario map-twice,past-allowance
  pinwatch check --kernel old/bzImage --kernel new/bzImage --format junit
  pinwatch check --kernel bzImage --output table=-,ktap=a.ktap,junit=b.xml,json=c.json
  pinwatch check --kernel linux-image-6.12.0-amd64.deb --kernel oci://registry.example/ci-kernels:6.12
  pinwatch check --kernel bzImage --known stock
  pinwatch check --kernel bzImage --write-known known.txt; pinwatch check --kernel bzImage --known known.txt
  pinwatch check --kernel bzImage-4.19 --kernel bzImage-5.3 --btf types/
  pinwatch check --kernel bzImage --explore 10m --seed 7
  pinwatch check --kernel bzImage --seed 7 --program-number 123
  pinwatch check --emit c --scenario map-twice >map-twice.c
  git bisect run pinwatch check --exit bisect --kernel . --scenario map-twice`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// What chooses what runs, or how it is told, does not matter to see it again.
			o.flags = value.Given(cmd.Flags(), "kernel", "btf", "scenario", "format", "exit", "list", "keep-log", "evidence", "parallel", "in-guest", "emit", "explore", "programs", "from", "refresh", "output", "known", "write-known")
			return runCheck(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.guests.Kernels, "kernel", nil, "`kernel` to boot and check; may be given several times")
	addRefresh(f, &o.refresh)
	value.NamedPaths(f, &o.guests.BTF, &o.guests.Kernels, "btf", "the kernel's types, for kernels without BTF: a `path`, or KERNEL=FILE; may be given several times")
	o.tracing.AddWay(f)
	value.EnumsFunc(f, &o.scenarios, "scenario", nil, check.Names(), "only these scenarios", func(name string) error {
		_, err := check.Choose([]string{name})
		return err
	})
	f.BoolVar(&o.list, "list", false, "list the scenarios")
	value.Enum(f, &o.exit, "exit", check.ExitDefault, check.ExitConventions(), "convention of the exit status")
	f.BoolVar(&o.invasive, "invasive", false, "also run scenarios that change settings of the whole machine")
	f.DurationVar(&o.guests.Timeout, "timeout", 2*time.Minute, "give up on a kernel after this time")
	f.StringVar(&o.evidence, "evidence", "", "keep in this `directory` what every kernel leaves: console, command line of QEMU, report, recording of the trace")
	f.BoolVar(&o.sendTrace, "send-trace", false, "send the trace on stderr")
	f.MarkHidden("send-trace")
	f.BoolVar(&o.guests.KeepLog, "keep-log", false, "keep the kernel's messages if something fails")
	f.StringVar(&o.arm64, "binary-arm64", "", "static pinwatch for arm64 guests (default: pinwatch-arm64 beside this program)")
	f.IntVar(&o.guests.Parallel, "parallel", 0, "guests at a time (default: as many as the machine has cores)")
	f.BoolVar(&o.inGuest, "in-guest", false, "say on stderr what runs, and on stdout the report, in one line of JSON")
	f.MarkHidden("in-guest")
	o.explore.Add(cmd)
	o.reports.Add(cmd)
	o.emit.Add(cmd)
	o.known.Add(cmd)
	for _, other := range []string{"explore", "list", "in-guest"} {
		cmd.MarkFlagsMutuallyExclusive("evidence", other)
	}
	addMachine(f, &o.guests.Base)
	return cmd
}

func runCheck(ctx context.Context, o *checkOptions) error {
	if err := o.reports.Check(); err != nil {
		return usageError{err}
	}
	exercises, err := check.Choose(o.scenarios)
	if err != nil {
		return usageError{err}
	}
	if err := o.known.Load(); err != nil {
		return usageError{err}
	}
	played, done, err := o.explore.Played(&o.guests)
	if err != nil {
		return usageError{err}
	}
	defer done()
	if played != nil {
		exercises = played
	}
	if !o.list {
		if err := o.fetch(ctx); err != nil {
			fmt.Fprintf(o.Err, "pinwatch: %v\n", err)
			return o.exitStatus(&check.Report{})
		}
	}
	if err := o.guests.CheckTypes(); err != nil {
		return usageError{err}
	}
	if o.evidence != "" {
		if o.guests.Evidence, err = checked.Evidence(o.evidence, &o.guests); err != nil {
			return usageError{err}
		}
	}
	switch {
	case o.list:
		return report.List(o.Out, exercises)
	case o.emit.Form != "":
		return runEmit(ctx, o, exercises)
	case o.explore.Duration > 0:
		return runExplore(ctx, o)
	case o.inGuest:
		_, err := checkThis(ctx, o, exercises)
		return err
	}
	found, err := checkAll(ctx, o, exercises)
	o.known.Mark(&found)
	if err != nil {
		fmt.Fprintf(o.Err, "pinwatch: %v\n", err)
		found = check.Report{} // nothing to rest a result on
	} else if err := errors.Join(o.reports.Write(o.Out, &found), o.known.Write(o.Err, &found)); err != nil {
		fmt.Fprintf(o.Err, "pinwatch: %v\n", err)
		found = check.Report{} // for git bisect, a file that cannot be written is no bad revision
	}
	return o.exitStatus(&found)
}

// fetch gets the kernels from where they are.
func (o *checkOptions) fetch(ctx context.Context) error {
	store, done := o.kernels(len(o.guests.Kernels), o.refresh)
	defer done()
	return o.guests.Fetch(ctx, store)
}

// exitStatus is that of a report.
func (o *checkOptions) exitStatus(r *check.Report) error {
	code, err := r.ExitCode(o.exit, len(o.scenarios) > 0)
	if err == nil && code != 0 {
		return exitStatus(code)
	}
	return err
}

// runEmit writes what reproduces the scenario or the program that was chosen.
func runEmit(ctx context.Context, o *checkOptions, exercises []check.Exercise) error {
	source, err := o.emit.Source(exercises, o.guests.Kernels)
	if err != nil {
		return usageError{err}
	}
	found, err := o.emit.Write(o.Out, source, func() (check.Report, error) { return checkAll(ctx, o, exercises) })
	if err != nil || found == nil {
		return err
	}
	return o.exitStatus(found)
}

// runExplore explores the given kernels, or the running one.
func runExplore(ctx context.Context, o *checkOptions) error {
	write, err := report.ExploredWriter(o.reports.Format)
	if err != nil {
		return usageError{err}
	}
	o.boot()
	c := explored.Command{Flags: o.explore, Out: o.Out, Err: o.Err, Write: write, Guests: o.guests, InGuest: o.inGuest, Invasive: o.invasive}
	sum, err := c.Run(ctx)
	if err != nil || o.inGuest {
		return err
	}
	return o.exitStatus(&sum)
}

// checkAll checks the given kernels, or the running one.
func checkAll(ctx context.Context, o *checkOptions, exercises []check.Exercise) (check.Report, error) {
	if len(o.guests.Kernels) == 0 {
		return checkThis(ctx, o, exercises)
	}
	progress := report.NewProgress(o.Err, len(o.guests.Kernels))
	defer progress.Clear()
	o.guests.Progress, o.guests.Done = progress.Say, progress.Done
	o.boot()
	return o.guests.Run(ctx)
}

// boot has guests take what was asked for.
func (o *checkOptions) boot() {
	o.guests.Scenarios, o.guests.Flags = o.scenarios, o.flags
	o.guests.Tracer = o.tracing.Options()
	o.guests.Binaries = map[string]string{"arm64": o.arm64}
}

// checkThis checks the running kernel.
func checkThis(ctx context.Context, o *checkOptions, exercises []check.Exercise) (check.Report, error) {
	opts := check.Options{Tracer: o.tracing.Options(), Exercises: exercises, Invasive: o.invasive, Flags: o.flags}
	if o.inGuest {
		opts.TellHost(o.Out, o.Err)
	}
	if o.sendTrace {
		opts.Sink = func() (pipeline.Sink, error) { return tracing.Sender(o.Err, version()) }
	}
	return checked.Here(ctx, opts, o.guests.BTF)
}
