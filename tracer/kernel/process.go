package kernel

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// VmPin is pinned_vm of a process in KiB, as the kernel reports it in /proc/PID/status;
// pid may be "self". It is negative where the counter is.
func VmPin(pid string) (kib int64, err error) {
	path := "/proc/" + pid + "/status"
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		if value, ok := strings.CutPrefix(line, "VmPin:"); ok {
			kib, err := ParseKiB(value)
			if err != nil {
				return 0, fmt.Errorf("%s: %q: %w", path, line, err)
			}
			return kib, nil
		}
	}
	return 0, fmt.Errorf("%s: no VmPin", path)
}

// ParseKiB reads a value such as "16 kB". The kernel prints counters unsigned: a negative
// one is a huge number there, and negative again here.
func ParseKiB(value string) (int64, error) {
	kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
	return int64(kib), err
}

// PMUType is the number that perf_event_open() knows a PMU by.
func PMUType(name string) (uint32, error) {
	path := "/sys/bus/event_source/devices/" + name + "/type"
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	kind, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return uint32(kind), nil
}

// ProcessStat is what /proc/PID/stat says of a process behind its name, which may hold
// anything: the first is the state, field 3 of proc(5).
func ProcessStat(pid int) (fields []string, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])), nil
}
