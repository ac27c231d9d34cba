package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// child is a tracer that runs beside the workload and writes to a file in memory.
type child struct {
	cmd    *exec.Cmd
	out    string
	errors bytes.Buffer
	marker string // in the line of an event
	start  int64  // ns from exec to the first event
}

func startChild(args []string, marker string) (*child, error) {
	c := &child{out: "/tmp/out", marker: marker}
	out, err := os.Create(c.out)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	c.cmd = exec.Command(args[0], args[1:]...)
	c.cmd.Stdout, c.cmd.Stderr = out, &c.errors
	began, err := clock(unix.CLOCK_MONOTONIC)
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	for {
		if err := pair(); err != nil {
			return nil, err
		}
		now, _ := clock(unix.CLOCK_MONOTONIC)
		seen, err := c.events()
		if err != nil {
			return nil, err
		}
		if seen > 0 {
			c.start = now - began
			break
		}
		if now-began > int64(20*time.Minute) || c.dead() {
			text, _ := os.ReadFile(c.out)
			c.cmd.Process.Kill()
			return nil, fmt.Errorf("%s saw nothing: %v: %s%s", args[0], c.cmd.Wait(), text, c.errors.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
	settle(c.size)
	return c, nil
}

// dead says whether it has ended: nobody has waited for it yet.
func (c *child) dead() bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	return err != nil || bytes.Contains(raw, []byte(") Z "))
}

func (c *child) size() int64 {
	info, err := os.Stat(c.out)
	if err != nil {
		return -2
	}
	return info.Size()
}

// events counts those that were written.
func (c *child) events() (int, error) {
	raw, err := os.ReadFile(c.out)
	return bytes.Count(raw, []byte(c.marker)), err
}

// cpu is the time that all of its threads have used, in ns.
func (c *child) cpu() (sum int64) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.cmd.Process.Pid))
	for _, task := range tasks {
		raw, _ := os.ReadFile(task)
		first, _, _ := strings.Cut(string(raw), " ")
		n, _ := strconv.ParseInt(first, 10, 64)
		sum += n
	}
	return sum
}

// status reads a size in /proc/PID/status, in KiB: VmHWM is the largest resident set
// that it ever had, VmRSS the one that it has.
func (c *child) status(name string) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(raw), name+":")
	if !found {
		return 0, errors.New("no " + name)
	}
	return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
}

// stop interrupts it. It takes so many ns to end.
func (c *child) stop() (took int64, err error) {
	began, err := clock(unix.CLOCK_MONOTONIC)
	if err != nil {
		return 0, err
	}
	c.cmd.Process.Signal(unix.SIGINT)
	if err := c.cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", c.cmd.Path, err, c.errors.String())
	}
	ended, err := clock(unix.CLOCK_MONOTONIC)
	return ended - began, err
}
