package tracer

import (
	"fmt"
	"math/bits"
	"os"

	"github.com/pinwatch/pinwatch/tracer/host"
)

// settings are what the accounting depends on, host-wide. The BPF programs read
// them live from the kernel; these readings stand in where the kernel does not
// give the symbols away.
type settings struct {
	pageShift  int
	mlockKiB   int // perf_event_mlock_kb
	paranoid   int // perf_event_paranoid
	onlineCPUs int
}

func readSettings() (s settings, err error) {
	s.pageShift = bits.TrailingZeros(uint(os.Getpagesize()))
	if s.mlockKiB, err = readInt("/proc/sys/kernel/perf_event_mlock_kb"); err != nil {
		return s, fmt.Errorf("%w: requires a kernel with CONFIG_PERF_EVENTS and /proc mounted", err)
	}
	if s.paranoid, err = readInt("/proc/sys/kernel/perf_event_paranoid"); err != nil {
		return s, err
	}
	s.onlineCPUs, err = OnlineCPUs()
	return s, err
}

// Allowance is how many pages of perf buffers a user may have at no one's
// expense: perf_event_mlock_kb in pages, times the online CPUs.
func Allowance() (pages int, err error) {
	s, err := readSettings()
	return s.mlockKiB >> (s.pageShift - 10) * s.onlineCPUs, err
}

func readInt(path string) (int, error) { return host.ReadInt(path) }

// OnlineCPUs is how many CPUs are online: all of the machine, not those that
// this process may run on.
func OnlineCPUs() (int, error) { return host.OnlineCPUs("/sys") }
