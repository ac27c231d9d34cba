package probe

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// A probe in tracefs stays there when the process that made it is killed, switched off. Its
// group says who that was, so that the next one takes it away: a process by its number,
// which is one of a namespace, and by when it began, in ticks since the machine did.
const ownGroup = "pinwatch"

// maker is a process that makes probes in tracefs.
type maker struct {
	namespace, pid, began uint64
}

func (m maker) group() string {
	return fmt.Sprintf("%s_%d_%d_%d", ownGroup, m.namespace, m.pid, m.began)
}

// makerOf reads who made a group, to whose name something random was added.
func makerOf(group string) (m maker, ok bool) {
	parts := strings.Split(group, "_")
	if len(parts) != 5 || parts[0] != ownGroup {
		return m, false
	}
	for i, field := range []*uint64{&m.namespace, &m.pid, &m.began} {
		var err error
		if *field, err = strconv.ParseUint(parts[i+1], 10, 64); err != nil {
			return m, false
		}
	}
	return m, true
}

// thisMaker is this process. Where /proc does not tell, it has no name.
var thisMaker = sync.OnceValues(func() (m maker, err error) {
	var namespace unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &namespace); err != nil {
		return m, err
	}
	m = maker{namespace: namespace.Ino, pid: uint64(os.Getpid())}
	m.began, err = began(m.pid)
	return m, err
})

// began is when a process began.
func began(pid uint64) (ticks uint64, err error) {
	fields, err := kernel.ProcessStat(int(pid))
	if err != nil {
		return 0, err
	}
	const starttime = 22 - 3
	if len(fields) <= starttime {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	return strconv.ParseUint(fields[starttime], 10, 64)
}

// gone reports whether a process of this namespace has ended: another one may have its number.
func (m maker) gone() bool {
	if errors.Is(unix.Kill(int(m.pid), 0), unix.ESRCH) {
		return true
	}
	ticks, err := began(m.pid)
	return err == nil && ticks != m.began
}

// leftovers are the probes of a list as kprobe_events has it, GROUP/EVENT, that processes of
// a namespace made which are gone.
func leftovers(events string, namespace uint64, gone func(maker) bool) (list []string) {
	for line := range strings.SplitSeq(events, "\n") { // r512:GROUP/EVENT FUNCTION
		_, rest, _ := strings.Cut(line, ":")
		event, _, _ := strings.Cut(rest, " ")
		group, _, _ := strings.Cut(event, "/")
		if m, ok := makerOf(group); ok && m.namespace == namespace && gone(m) {
			list = append(list, event)
		}
	}
	return list
}

// RemoveLeftovers takes away the probes in tracefs of pinwatches that were killed. What cannot
// be removed is in nobody's way.
func RemoveLeftovers() {
	self, err := thisMaker()
	if err != nil {
		return
	}
	for _, mount := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		path := mount + "/kprobe_events"
		events, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, event := range leftovers(string(events), self.namespace, maker.gone) {
			if f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err == nil { // O_TRUNC removes all there are
				f.WriteString("-:" + event)
				f.Close()
			}
		}
		return
	}
}
