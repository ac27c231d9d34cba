package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// tracingCapabilities are what tracing needs, and what each is for.
var tracingCapabilities = [...]struct {
	bit  int
	name string
	why  string
}{
	{unix.CAP_BPF, "CAP_BPF", "load BPF programs"},
	{unix.CAP_PERFMON, "CAP_PERFMON", "attach them to the kernel"},
}

// HasCapability reports whether a capability of this process is effective.
func HasCapability(bit int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[bit/32].Effective&(1<<(bit%32)) != 0
}

// MissingCapabilities names those that tracing needs and that are not effective, and
// what each is for. CAP_SYS_ADMIN stands for all of them.
func MissingCapabilities() []string {
	if HasCapability(unix.CAP_SYS_ADMIN) {
		return nil
	}
	var missing []string
	for _, c := range tracingCapabilities {
		if !HasCapability(c.bit) {
			missing = append(missing, fmt.Sprintf("%s (to %s)", c.name, c.why))
		}
	}
	return missing
}
