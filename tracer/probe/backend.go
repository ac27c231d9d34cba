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
// Sessions are auto's choice where this kernel has good ones.
func Choose(attach string, k Kernel) ([]Backend, error) {
	if !slices.Contains(AttachNames(), attach) && attach != "" {
		return nil, fmt.Errorf("--attach %s: want one of %s", attach, strings.Join(AttachNames(), ", "))
	}
	return slices.DeleteFunc(backends(), func(b Backend) bool {
		if attach == "" || attach == AttachAuto {
			return b.Name == AttachSession && !k.prefersSessions()
		}
		return b.Name != attach
	}), nil
}
