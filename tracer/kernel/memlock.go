package kernel

import "golang.org/x/sys/unix"

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
