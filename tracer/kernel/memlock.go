package kernel

import (
	"strings"

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

// WithoutGuess is an error of the library's without that guess; what refused is known better.
func WithoutGuess(err error) error {
	if err == nil || !strings.Contains(err.Error(), guess) {
		return err
	}
	return unguessed{err}
}

type unguessed struct{ err error }

func (e unguessed) Error() string { return strings.ReplaceAll(e.err.Error(), guess, "") }
func (e unguessed) Unwrap() error { return e.err }
