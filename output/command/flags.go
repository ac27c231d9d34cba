package command

import (
	"github.com/spf13/pflag"

	"github.com/pinwatch/pinwatch/output/report"
	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/image"
)

// addMachine adds the flags of a guest's machine.
func addMachine(f *pflag.FlagSet, c *guest.Config) {
	f.IntVar(&c.CPUs, "cpus", 4, "CPUs of the guest")
	f.StringVar(&c.Memory, "memory", "1G", "memory of the guest")
	f.StringVar(&c.Append, "append", "", "more kernel parameters; those of modules as MODULE.NAME=VALUE")
	f.StringArrayVar(&c.Modules, "module", nil, "module to load first, as a `FILE` (.ko, .ko.xz, .ko.zst) or a name in --module-dir; repeatable")
	f.StringVar(&c.ModuleDir, "module-dir", "", "`directory` of the kernel's modules, such as /lib/modules/RELEASE")
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
