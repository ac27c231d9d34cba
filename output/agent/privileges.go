package agent

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// kept are the capabilities that an open trace can still want.
func kept() []cap.Value {
	list := []cap.Value{
		cap.DAC_OVERRIDE,    // a --dir that is somebody else's
		cap.DAC_READ_SEARCH, // cgroups by their ids, and containers' files that are a user's
		cap.BPF,             // before Linux 6.5 (1d28635abcf1) any bpf(2), such as reads what was lost
	}
	if cap.MaxBits() <= cap.BPF { // before Linux 5.8 (a17b53c4a4b5)
		list[len(list)-1] = cap.SYS_ADMIN
	}
	return list
}

// giveUp takes from all threads the capabilities that are not kept, and from what they could
// execute, too. It returns those that are left.
func giveUp() (left []cap.Value, err error) {
	had, set := cap.GetProc(), cap.NewSet()
	for _, c := range kept() {
		if has, _ := had.GetFlag(cap.Permitted, c); has {
			left = append(left, c)
		}
	}
	if err := errors.Join(set.SetFlag(cap.Permitted, true, left...), set.SetFlag(cap.Effective, true, left...)); err != nil {
		return nil, err
	}
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return nil, fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := set.SetProc(); err != nil {
		return nil, fmt.Errorf("drop capabilities: %w", err)
	}
	return left, nil
}
