package probe

import (
	"fmt"
	"slices"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// The backends, as --attach names them.
const (
	AttachAuto   = "auto"
	AttachFentry = "fentry"
	AttachKprobe = "kprobe"
)

// AttachNames are what --attach takes.
func AttachNames() []string { return []string{AttachAuto, AttachFentry, AttachKprobe} }

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
func Choose(attach string) ([]Backend, error) {
	switch attach {
	case "", AttachAuto:
		return backends(), nil
	case AttachFentry, AttachKprobe:
		return slices.DeleteFunc(backends(), func(b Backend) bool { return b.Name != attach }), nil
	}
	return nil, fmt.Errorf("--attach %s: want %s, %s or %s", attach, AttachAuto, AttachFentry, AttachKprobe)
}
