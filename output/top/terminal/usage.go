package terminal

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output/top"
)

// usage measures what pinwatch itself takes.
type usage struct {
	cpu   time.Duration
	at    time.Time
	share float64 // of the last interval; negative: none has ended yet
}

// leastInterval is how much time a share of a CPU is of, at least: refreshes may be much closer,
// and what starting took is soon behind.
const leastInterval = time.Second

func newUsage() *usage { return &usage{cpu: cpuTime(), at: time.Now(), share: -1} }

// read is the usage of the last interval.
func (u *usage) read() top.Usage {
	return top.Usage{CPU: u.of(cpuTime(), time.Now()), RSS: residentBytes()}
}

// of is the share of a CPU in the last interval, after another reading.
func (u *usage) of(cpu time.Duration, now time.Time) float64 {
	if elapsed := now.Sub(u.at); elapsed >= leastInterval {
		u.share = float64(cpu-u.cpu) / float64(elapsed)
		u.cpu, u.at = cpu, now
	}
	return u.share
}

// cpuTime is the time that this process has run on CPUs.
func cpuTime() time.Duration {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// residentBytes is this process's memory; 0 without /proc.
func residentBytes() int64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize())
}
