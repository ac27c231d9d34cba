package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/child"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// host is what a check changes on the machine. A watchdog, a process of its own,
// is told of every change before it is made, and puts all back when the check
// ends, however it ends: also by SIGKILL.
type host struct {
	watchdog *exec.Cmd
	pipe     io.WriteCloser
	orders   *json.Encoder
	kept     map[string]bool
	invasive bool
}

// order is one thing that the watchdog will put back: a file's content, or a
// cgroup that goes.
type order struct {
	Path   string `json:"path"`
	Value  string `json:"value"`
	Remove bool   `json:"remove"`
}

func newHost(invasive bool) (*host, error) {
	cmd := child.Command(context.Background(), watchdogChild, nil) // it outlives the check
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the watchdog: %w", err)
	}
	return &host{watchdog: cmd, pipe: pipe, orders: json.NewEncoder(pipe), kept: map[string]bool{}, invasive: invasive}, nil
}

// close has everything put back.
func (h *host) close() error {
	h.pipe.Close()
	if err := h.watchdog.Wait(); err != nil {
		return fmt.Errorf("put the machine's settings back: %w", err)
	}
	return nil
}

// set changes a file of a setting.
func (h *host) set(path, value string) error {
	if err := h.keep(path); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", path, value, err)
	}
	return nil
}

// keep has the watchdog remember a file's content.
func (h *host) keep(path string) error {
	if h.kept[path] {
		return nil
	}
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	h.kept[path] = true
	return h.orders.Encode(order{Path: path, Value: strings.TrimSpace(string(old))})
}

// Watchdog reads orders until the check is gone, and then carries them out, the last
// one first.
func Watchdog(in io.Reader) error {
	signal.Ignore(unix.SIGPIPE) // and those that no child heeds
	var orders []order
	decoder := json.NewDecoder(in)
	for {
		var o order
		if err := decoder.Decode(&o); err != nil {
			break // the end of it, also in the middle of an order: that change was not made
		}
		orders = append(orders, o)
	}
	var failures []error
	for i := len(orders) - 1; i >= 0; i-- {
		if err := orders[i].carryOut(); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

func (o order) carryOut() error {
	if !o.Remove {
		if now, err := os.ReadFile(o.Path); err == nil && strings.TrimSpace(string(now)) == o.Value {
			return nil
		}
		return os.WriteFile(o.Path, []byte(o.Value), 0)
	}
	return removeCgroup(o.Path)
}

const (
	cgroupRoot   = "/sys/fs/cgroup"
	mlockPath    = "/proc/sys/kernel/perf_event_mlock_kb"
	paranoidPath = "/proc/sys/kernel/perf_event_paranoid"
)

// readModel reads the machine's settings.
func readModel() (m model, err error) {
	if m.allowance, err = allowance(); err != nil {
		return m, err
	}
	raw, err := os.ReadFile(paranoidPath)
	if err != nil {
		return m, err
	}
	m.paranoid, err = strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	return m, err
}

// allowance is a user's, in pages, by the two files alone: the model shares no rule
// with what it is the witness of.
func allowance() (int64, error) {
	kib, err := kernel.ReadInt("/proc/sys/kernel/perf_event_mlock_kb")
	if err != nil {
		return 0, err
	}
	cpus, err := kernel.OnlineCPUs("/sys")
	return int64(kib / (os.Getpagesize() / 1024) * cpus), err
}
