package workload

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// RunAs replaces this process by a command with another uid and just the named
// capabilities. It returns only on failure.
type RunAs struct {
	UID  int      // to become; -1: stay
	Caps []string // such as cap_bpf; nil with UID -1: all that there are
}

// Exec runs the command.
func (r *RunAs) Exec(command []string) error {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	if err := r.become(); err != nil {
		return err
	}
	return unix.Exec(path, command, os.Environ())
}

// become makes all threads of this process the user's, with just the capabilities.
func (r *RunAs) become() error {
	if r.UID >= 0 {
		if err := cap.SetGroups(r.UID); err != nil {
			return fmt.Errorf("become gid %d: %w", r.UID, err)
		}
		if err := cap.SetUID(r.UID); err != nil {
			return fmt.Errorf("become uid %d: %w", r.UID, err)
		}
	}
	if r.UID < 0 && r.Caps == nil {
		return nil
	}
	return r.limit()
}

// capability is the one of a name, on a kernel that has so many. Before Linux 5.8 (a17b53c4a4b5) what CAP_BPF and
// CAP_PERFMON allow was part of CAP_SYS_ADMIN, which stands for them there.
func capability(name string, known cap.Value) (cap.Value, error) {
	value, err := cap.FromName(name)
	switch {
	case err != nil:
		return 0, fmt.Errorf("capability %q: %w", name, err)
	case value < known:
		return value, nil
	case value == cap.BPF || value == cap.PERFMON:
		return cap.SYS_ADMIN, nil
	}
	return 0, fmt.Errorf("capability %q: this kernel has none of that name", name)
}

// limit leaves the named capabilities, as ambient ones: they survive the exec.
func (r *RunAs) limit() error {
	set := cap.NewIAB()
	only := cap.NewSet()
	for _, name := range r.Caps {
		value, err := capability(name, cap.MaxBits())
		if err != nil {
			return err
		}
		if err := set.SetVector(cap.Amb, true, value); err != nil {
			return err
		}
		if err := only.SetFlag(cap.Permitted, true, value); err != nil {
			return err
		}
		if err := only.SetFlag(cap.Effective, true, value); err != nil {
			return err
		}
		if err := only.SetFlag(cap.Inheritable, true, value); err != nil {
			return err
		}
	}
	if err := set.SetProc(); err != nil {
		return fmt.Errorf("set ambient capabilities %v: %w", r.Caps, err)
	}
	if err := only.SetProc(); err != nil {
		return fmt.Errorf("set capabilities %v: %w", r.Caps, err)
	}
	return nil
}
