package kernel

import "golang.org/x/sys/unix"

// Release is the running kernel's, as uname -r gives it.
func Release() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return "an unknown kernel"
	}
	return unix.ByteSliceToString(name.Release[:])
}
