// Package kernel is what this machine is: release, types, symbols, settings,
// capabilities and features.
//
// Its functions read single values of /proc and /sys. Where those are mounted is
// for the caller to say.
package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ReadInt reads a file with one number.
func ReadInt(path string) (int, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// OnlineCPUs is how many CPUs are online: all of the machine, not those that
// this process may run on.
func OnlineCPUs(sys string) (int, error) {
	list, err := CPUs(sys)
	return len(list), err
}

// CPUs are the numbers of the CPUs that are online, ascending.
func CPUs(sys string) ([]int, error) {
	path := filepath.Join(sys, "devices/system/cpu/online")
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := parseCPUs(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

// parseCPUs reads a list such as "0-3,5".
func parseCPUs(text string) (list []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.Atoi(first)
		b, errB := strconv.Atoi(last)
		if errA != nil || errB != nil || a < 0 || b < a || b >= maxCPUs {
			return nil, fmt.Errorf("CPU list %q: want something like 0-3,5", text)
		}
		for cpu := a; cpu <= b; cpu++ {
			list = append(list, cpu)
		}
	}
	return list, nil
}

// maxCPUs is more than any kernel can be built for.
const maxCPUs = 1 << 16

// Lockdown is the mode of the kernel's lockdown that is in force, or "" where it
// cannot be read or there is none.
func Lockdown(sys string) string {
	raw, err := os.ReadFile(filepath.Join(sys, "kernel/security/lockdown"))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(raw), "[")
	mode, _, _ := strings.Cut(rest, "]")
	return mode
}

// MemoryBytes is how much memory the machine has; 0: not known.
func MemoryBytes() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}
