package agent

import (
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
)

// What becomes of a system call that an open trace has no use for.
const (
	SeccompRefuse = "refuse" // EPERM, and the kernel logs it
	SeccompLog    = "log"    // it is made, and the kernel logs it
	SeccompOff    = "off"    // there is no filter
)

// SeccompModes are their names.
func SeccompModes() []string { return []string{SeccompRefuse, SeccompLog, SeccompOff} }

//go:embed syscalls.txt
var syscalls string

// SystemCalls are those that the filter lets through.
func SystemCalls() (names []string) {
	for line := range strings.Lines(syscalls) {
		if name := strings.TrimSpace(line); name != "" && !strings.HasPrefix(name, "#") {
			names = append(names, name)
		}
	}
	return names
}

// confine has the kernel hold the system calls of all threads against the list. It returns how
// many of the list this architecture has.
func confine(mode string) (allowing int, err error) {
	here, err := arch.GetInfo("")
	if err != nil {
		return 0, fmt.Errorf("seccomp: %w", err)
	}
	allowed := seccomp.SyscallGroup{Action: seccomp.ActionAllow}
	for _, name := range SystemCalls() {
		if _, has := here.SyscallNames[name]; has { // others are of other architectures
			allowed.Names = append(allowed.Names, name)
		}
	}
	otherwise := seccomp.ActionErrno
	if mode == SeccompLog {
		otherwise = seccomp.ActionLog
	}
	err = seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync | seccomp.FilterFlagLog,
		Policy:     seccomp.Policy{DefaultAction: otherwise, Syscalls: []seccomp.SyscallGroup{allowed}},
	})
	if err != nil {
		return 0, errors.Join(errors.New("seccomp: no filter (CONFIG_SECCOMP_FILTER)"), err)
	}
	return len(allowed.Names), nil
}
