package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/child"
)

// BPFAccounting is what BPF memory is held against on this machine.
type BPFAccounting string

const (
	BPFUnknown BPFAccounting = "unknown"
	BPFRlimit  BPFAccounting = "rlimit" // user_struct.locked_vm against RLIMIT_MEMLOCK (before 5.11)
	BPFMemcg   BPFAccounting = "memcg"  // the creator's memory cgroup
	BPFNone    BPFAccounting = "none"   // nothing
)

// ChargesBPFToUsers reports whether the kernel's types have a place in struct bpf_map for
// a user that pays. Programs are chosen by it; what the kernel does is told by
// ProbeBPFAccounting.
func (t Types) ChargesBPFToUsers() (bool, error) {
	spec, err := t.Spec()
	if err != nil {
		return false, err
	}
	if _, _, err := Member(spec, "bpf_map", "map_type"); err != nil {
		return false, err
	}
	return HasMember(spec, "bpf_map", "memory") || HasMember(spec, "bpf_map", "pages"), nil
}

// Children are the processes that this package starts.
func Children() child.Table {
	return child.Table{bpfProbe: func(string) error {
		var a bpfAnswer
		held, err := heldByRlimit()
		if err != nil {
			a.Error = err.Error()
		}
		a.Held = held
		return json.NewEncoder(os.Stdout).Encode(a)
	}}
}

const bpfProbe = "bpf-accounting"

// bpfAnswer is what the child says.
type bpfAnswer struct {
	// Held: a map that RLIMIT_MEMLOCK does not allow is refused, and created when it
	// does.
	Held  bool   `json:"held"`
	Error string `json:"error"` // why that could not be seen; "": it could
}

// heldByRlimit tries to create a map with an RLIMIT_MEMLOCK of 0, and, where that is
// refused, with as much as this process may have. It changes the limit of its process,
// and so belongs into one of its own.
func heldByRlimit() (bool, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return false, err
	}
	none := createWithLimit(unix.Rlimit{Cur: 0, Max: limit.Max})
	if !errors.Is(none, unix.EPERM) {
		return false, none
	}
	// EPERM has other reasons, too: only a limit that makes the difference tells.
	most := createWithLimit(unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	if errors.Is(most, unix.EPERM) {
		most = createWithLimit(unix.Rlimit{Cur: limit.Max, Max: limit.Max})
	}
	if most != nil {
		return false, fmt.Errorf("create a map with RLIMIT_MEMLOCK %d: %w (needs CAP_BPF, or a user with some of its limit left)", limit.Max, most)
	}
	return true, nil
}

func createWithLimit(limit unix.Rlimit) error {
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &limit, nil); err != nil {
		return err
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno // without the library's advice about the limit
	}
	if err != nil {
		return err
	}
	return m.Close()
}

// bpfProbeTime is far more than the experiment needs.
const bpfProbeTime = 30 * time.Second

// ProbeBPFAccounting finds out by experiment what BPF memory is held against: with one
// map, in a child process, whose limit it is free to change.
func ProbeBPFAccounting(ctx context.Context) (BPFAccounting, error) {
	ctx, cancel := context.WithTimeout(ctx, bpfProbeTime)
	defer cancel()
	probe := child.Command(ctx, bpfProbe, nil)
	var complaints bytes.Buffer
	probe.Stderr = &complaints
	out, err := probe.Output()
	if err != nil {
		return BPFUnknown, fmt.Errorf("try RLIMIT_MEMLOCK: %w: %s", err, strings.TrimSpace(complaints.String()))
	}
	var a bpfAnswer
	if err := json.Unmarshal(out, &a); err != nil {
		return BPFUnknown, fmt.Errorf("try RLIMIT_MEMLOCK: %w", err)
	}
	switch {
	case a.Error != "":
		return BPFUnknown, errors.New(a.Error)
	case a.Held:
		return BPFRlimit, nil
	case !memcgCharges():
		return BPFNone, nil
	}
	return BPFMemcg, nil
}

// memcgCharges reports whether there are memory cgroups, and the kernel was not told to
// leave BPF memory out.
func memcgCharges() bool {
	tree, err := cgroup.Host()
	if err != nil || !tree.AccountsMemory() {
		return false
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	return err != nil || !toldNotToCharge(string(cmdline))
}

func toldNotToCharge(cmdline string) bool {
	for parameter := range strings.FieldsSeq(cmdline) {
		list, ok := strings.CutPrefix(parameter, "cgroup.memory=")
		if !ok {
			continue
		}
		for option := range strings.SplitSeq(list, ",") {
			if option == "nobpf" || option == "nokmem" {
				return true
			}
		}
	}
	return false
}
