package check

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// newCgroup makes the check's own cgroup, which goes when the check does. With
// the memory controller where the machine gives it to its cgroups, or may be
// told to.
func (h *host) newCgroup() (dir string, memory bool, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return "", false, errors.New("requires cgroup2 on " + cgroupRoot)
	}
	// The watchdog goes backwards: the cgroup goes before its controller.
	if memory, err = h.memoryController(); err != nil {
		return "", false, err
	}
	dir = filepath.Join(cgroupRoot, "pinwatch-check-"+strconv.Itoa(os.Getpid()))
	if err := h.orders.Encode(order{Path: dir, Remove: true}); err != nil {
		return "", false, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", false, err
	}
	if memory {
		err = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory"), 0)
	}
	return dir, memory, err
}

// memoryController reports whether cgroups have the memory controller, and gives it
// to them where that may be done.
func (h *host) memoryController() (bool, error) {
	control := filepath.Join(cgroupRoot, "cgroup.subtree_control")
	switch {
	case has(control, "memory"):
		return true, nil
	case !h.invasive || !has(filepath.Join(cgroupRoot, "cgroup.controllers"), "memory"):
		return false, nil
	}
	if err := h.orders.Encode(order{Path: control, Value: "-memory"}); err != nil {
		return false, err
	}
	if err := os.WriteFile(control, []byte("+memory"), 0); err != nil {
		return false, fmt.Errorf("give cgroups the memory controller: %w", err)
	}
	return true, nil
}

func has(path, word string) bool {
	raw, err := os.ReadFile(path)
	return err == nil && slices.Contains(strings.Fields(string(raw)), word)
}

// removeCgroup removes a cgroup and those in it, and ends what still runs there:
// processes of the check.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for range 100 {
		if raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil {
			for pid := range strings.FieldsSeq(string(raw)) {
				if n, err := strconv.Atoi(pid); err == nil {
					unix.Kill(n, unix.SIGKILL)
				}
			}
		}
		if err = os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// memoryCurrent is what a cgroup is charged, in bytes.
func memoryCurrent(dir string) (int64, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "memory.current"))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
}
