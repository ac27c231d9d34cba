package kernel

import (
	"fmt"
	"os"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// ReadSettings reads what the accounting depends on, host-wide. The BPF programs read
// the same live from the kernel; these readings stand in where the kernel does not give
// the symbols away.
func ReadSettings() (s rule.Settings, err error) {
	s.PageSize = uint32(os.Getpagesize())
	if s.MlockKiB, err = ReadInt("/proc/sys/kernel/perf_event_mlock_kb"); err != nil {
		return s, fmt.Errorf("%w: requires a kernel with CONFIG_PERF_EVENTS and /proc mounted", err)
	}
	if s.Paranoid, err = ReadInt(ParanoidFile); err != nil {
		return s, err
	}
	s.OnlineCPUs, err = OnlineCPUs("/sys")
	return s, err
}

// ParanoidFile holds perf_event_paranoid.
const ParanoidFile = "/proc/sys/kernel/perf_event_paranoid"
