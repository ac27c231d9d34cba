package kernel

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Release is the running kernel's, as uname -r gives it.
func Release() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return "an unknown kernel"
	}
	return unix.ByteSliceToString(name.Release[:])
}

// BootID is the kernel's name of this boot; "" where it is not known.
func BootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
