package probe

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// The backends, as --attach names them.
const (
	AttachAuto    = "auto"
	AttachFentry  = "fentry"
	AttachKprobe  = "kprobe"
	AttachSession = "session"
)

// AttachNames are what --attach takes.
func AttachNames() []string { return []string{AttachAuto, AttachFentry, AttachKprobe, AttachSession} }

// Backend is one way to see perf buffers mapped and unmapped. It attaches all of its
// required probes, or none.
type Backend struct {
	Name   string // as --attach names it
	Where  string // what is probed, if it is not perf_mmap() itself
	Probes []Probe
}

func (b Backend) String() string {
	if b.Where == "" {
		return b.Name
	}
	return b.Name + " on " + b.Where
}

// FallbackReason says why this backend is used and none before it.
func (b Backend) FallbackReason(err error) string {
	if b.Where != "" && Unsupported(err) {
		return kernel.ProbesOnPerfMmap().Missing()
	}
	return fmt.Sprintf("using %s, because %v", b, err)
}

// Choose returns the backends that --attach allows, the one that loses least first.
// Sessions are auto's first choice where this kernel has good ones. Where their end is dear
// they are for who may not have kprobes, which Debian's perf_event_paranoid denies without
// CAP_SYS_ADMIN: with fentry there is nothing on what has no trampoline.
func Choose(attach string, k Kernel) ([]Backend, error) {
	if !slices.Contains(AttachNames(), attach) && attach != "" {
		return nil, fmt.Errorf("--attach %s: want one of %s", attach, strings.Join(AttachNames(), ", "))
	}
	all := backends()
	if !k.prefersSessions() { // sessions, kprobes, ...
		all[0], all[1] = all[1], all[0]
	}
	return slices.DeleteFunc(all, func(b Backend) bool {
		if attach == "" || attach == AttachAuto {
			return b.Name == AttachSession && !k.HaveSessions()
		}
		return b.Name != attach
	}), nil
}
