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
	cpu time.Duration
	at  time.Time
}

func newUsage() *usage { return &usage{cpu: cpuTime(), at: time.Now()} }

// read is the usage since the last reading.
func (u *usage) read() top.Usage {
	cpu, now := cpuTime(), time.Now()
	share := 0.0
	if elapsed := now.Sub(u.at); elapsed > 0 {
		share = float64(cpu-u.cpu) / float64(elapsed)
	}
	u.cpu, u.at = cpu, now
	return top.Usage{CPU: share, RSS: residentBytes()}
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
