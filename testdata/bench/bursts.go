package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// counts are what a line says of the trace up to it.
type counts struct {
	Kind string `json:"kind"`
	Lost int64  `json:"lost"`
}

func readCounts(line []byte) (c counts, err error) {
	err = json.Unmarshal(line, &c)
	return c, err
}

const figureBurst = "burst" // calls

// A burst is this many buffers mapped and unmapped, or as many as fit in its time.
const burstPairs = 200_000

type burstSize struct {
	name string
	args []string
	time time.Duration
}

// burstSizes are of a buffer that must hold it all, and of one that cannot.
func burstSizes() []burstSize {
	return []burstSize{
		{"buffer of the default size", nil, 25 * time.Minute},
		{"buffer of 4 KiB", []string{"--buffer-kib", "4"}, 2 * time.Minute},
	}
}

// lines counts lines and keeps the last one.
type lines struct {
	mu   sync.Mutex
	n    int
	last []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n += bytes.Count(p, []byte("\n"))
	l.last = append(l.last, p...)
	if end := bytes.LastIndexByte(l.last[:len(l.last)-1], '\n'); end >= 0 {
		l.last = append(l.last[:0], l.last[end+1:]...)
	}
	return len(p), nil
}

func (l *lines) count() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.n)
}

// measureBursts holds what was made against what was seen and what was lost.
func measureBursts() error {
	debug.SetGCPercent(100)
	for _, size := range burstSizes() {
		if err := size.burst(); err != nil {
			return err
		}
	}
	return nil
}

func (b burstSize) burst() error {
	var out lines
	cmd := exec.Command("pinwatch", append([]string{"trace", "--json", "--only", "perf"}, b.args...)...)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	for out.count() == 0 {
		if err := pair(); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	settle(out.count)
	// A row says what was lost before it, and calls of while it attached may have
	// found the buffer full. One more pair is seen, and says how many.
	if err := pair(); err != nil {
		return err
	}
	settle(out.count)
	before := out.count()
	first, err := readCounts(out.last)
	if err != nil {
		return err
	}
	made := int64(0)
	for until := time.Now().Add(b.time); made < 2*burstPairs && time.Now().Before(until); made += 2 {
		if err := pair(); err != nil {
			return err
		}
	}
	settle(out.count)
	cmd.Process.Signal(unix.SIGINT)
	if err := cmd.Wait(); err != nil {
		return err
	}
	summary, err := readCounts(out.last)
	if err != nil || summary.Kind != "summary" {
		return fmt.Errorf("the last line is no summary: %q (%v)", out.last, err)
	}
	summary.Lost -= first.Lost
	seen := out.count() - before - 1 // without the summary
	if seen+summary.Lost != made {
		return fmt.Errorf("%s: %d calls made, %d seen, %d lost: they do not add up", b.name, made, seen, summary.Lost)
	}
	say(figureBurst, b.name+": made", float64(made))
	say(figureBurst, b.name+": seen", float64(seen))
	return say(figureBurst, b.name+": lost", float64(summary.Lost))
}
