package kernel

import (
	"errors"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// LiftMemlock lifts RLIMIT_MEMLOCK, where that is allowed; the returned function
// puts it back, so that a traced command starts with the limit it was given. Before
// 5.11 BPF objects are held against it, those too that probe for features.
func LiftMemlock() (putBack func()) {
	var old unix.Rlimit
	infinite := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &infinite, &old) != nil {
		return func() {}
	}
	return func() { unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &old, nil) }
}

// guess is what cilium/ebpf adds to every EPERM, on any kernel and whatever for.
const guess = " (MEMLOCK may be too low, consider rlimit.RemoveMemlock)"

// HiddenSymbols is what there is to say where the kernel does not show its addresses.
const HiddenSymbols = "kernel symbols are hidden (no CAP_SYSLOG, or kernel.kptr_restrict is 2)"

// WithoutGuess is an error of the library's without what that guesses; what refused is known
// better.
func WithoutGuess(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ebpf.ErrRestrictedKernel): // it names net.core.bpf_jit_harden as well
		return unguessed{err, HiddenSymbols}
	case strings.Contains(err.Error(), guess):
		return unguessed{err, strings.ReplaceAll(err.Error(), guess, "")}
	}
	return err
}

type unguessed struct {
	err  error
	text string
}

func (e unguessed) Error() string { return e.text }
func (e unguessed) Unwrap() error { return e.err }
