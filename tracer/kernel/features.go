package kernel

import "os"

// HaveKprobes reports whether the kernel offers kprobes in one of the two ways
// that there are.
func HaveKprobes() bool {
	for _, path := range []string{
		"/sys/bus/event_source/devices/kprobe/type",
		"/sys/kernel/tracing/kprobe_events",
		"/sys/kernel/debug/tracing/kprobe_events",
	} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}
