package command

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/image"
)

// guestOptions are those of guest.
type guestOptions struct {
	*Streams
	config  guest.Config
	console bool // show the kernel's messages
	refresh bool
}

func newGuest(s *Streams) *cobra.Command {
	o := guestOptions{Streams: s}
	cmd := &cobra.Command{
		Use:   "guest --kernel KERNEL [flags] {-- COMMAND | --exec FILE --} [ARG...]",
		Short: "Boot a kernel in QEMU and run a command in it: pinwatch, or any static program",
		Long: `Boots a kernel image in QEMU with this very binary as init, and runs a pinwatch
command in it: no disk, no network. What the command prints and its exit status are
passed on; the kernel's messages are kept apart. An emulated
kernel starts without its certificates and the self-tests of its cryptography, with
timers of a jiffy (highres=off), zeroes no page twice (init_on_alloc=0), and does
not wait for a quiet moment in synchronize_rcu() (rcupdate.rcu_expedited=1).

` + image.Help + `

With --exec it runs any static program instead, such as a Go package's test binary:
as root, in /, with pinwatch in its PATH.

Modules of the kernel are loaded before the command starts, in the order in which
--module names them: files, each after those that it depends on, or names of modules
below --module-dir, which is then where what they depend on comes from (as modinfo
shows it). With --iommu there is a PCI device for vfio (1234:11e8, at 0000:00:03.0 or
so), and the kernel is told to use the IOMMU.

Exit status: that of the command; 2 if the kernel cannot be had; or 125 if the guest
timed out or panicked, or never ran the command.`,
		Example: `  pinwatch guest --kernel /boot/vmlinuz -- trace -- pinwatch workload perf-buffers
  pinwatch guest --kernel vmlinuz --module-dir lib/modules/6.12 --module rdma_rxe -- doctor
  CGO_ENABLED=0 go test -c -o some.test ./some && pinwatch guest --kernel /boot/vmlinuz --exec some.test -- -test.v`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.config.Exec != "" {
				return nil
			}
			return cobra.MinimumNArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.config.Args = args
			return runGuest(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.config.Kernel, "kernel", "", "`kernel` to boot")
	addRefresh(f, &o.refresh)
	f.StringVar(&o.config.Exec, "exec", "", "static `program` to run instead of pinwatch, with the arguments after --")
	f.StringVar(&o.config.Binary, "binary", "", "static pinwatch for the guest (default: this program, or pinwatch-ARCH beside it)")
	addMachine(f, &o.config)
	f.StringArrayVar(&o.config.Files, "file", nil, "one more file for the guest, as `HOSTPATH:GUESTPATH`")
	f.BoolVar(&o.config.IOMMU, "iommu", false, "give the guest an IOMMU (amd64: a q35 machine with intel-iommu)")
	f.StringVar(&o.config.ICount, "icount", "", "make the guest's time count its instructions: what QEMU's -icount takes, such as shift=0,sleep=off (with --cpus 1 --accel tcg)")
	f.DurationVar(&o.config.Timeout, "timeout", 2*time.Minute, "give up after this time")
	f.BoolVar(&o.console, "console", false, "show the kernel's messages on stderr")
	return cmd
}

func runGuest(ctx context.Context, o *guestOptions) error {
	if o.config.Kernel == "" {
		return usageError{errors.New("no --kernel to boot (see pinwatch guest --help)")}
	}
	store, done := o.kernels(1, o.refresh)
	file, err := store.Get(ctx, o.config.Kernel)
	done()
	if err != nil {
		return err
	}
	o.config.Kernel = file
	o.config.Stdout, o.config.Stderr = o.Out, o.Err
	if o.console {
		o.config.Console = o.Err
	}
	code, err := guest.Run(ctx, o.config)
	if err == nil && code != 0 {
		return exitStatus(code)
	}
	return err
}
