package bpfobj

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
)

// Regime is what BPF memory is held against on this machine.
type Regime string

const (
	RegimeUnknown Regime = "unknown"
	RegimeRlimit  Regime = "rlimit" // user_struct.locked_vm against RLIMIT_MEMLOCK
	RegimeMemcg   Regime = "memcg"  // the creator's memory cgroup
	RegimeNone    Regime = "none"   // nothing
)

// probeCommand makes this program the probe: the arguments of its hidden
// command.
var probeCommand = [...]string{"maps", "probe-rlimit"}

// answer is what the probe says.
type answer struct {
	// Held: a map that RLIMIT_MEMLOCK does not allow is refused, and created
	// when it does.
	Held  bool   `json:"held"`
	Error string `json:"error"` // why that could not be seen; "": it could
}

// ProbeRlimit tries to create a map with an RLIMIT_MEMLOCK of 0, and, where
// that is refused, with as much as this process may have. It changes the limit
// of its process, and so belongs into one of its own.
func ProbeRlimit(out io.Writer) error {
	var a answer
	held, err := heldByRlimit()
	if err != nil {
		a.Error = err.Error()
	}
	a.Held = held
	return json.NewEncoder(out).Encode(a)
}

func heldByRlimit() (bool, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return false, err
	}
	none := createWithLimit(unix.Rlimit{Cur: 0, Max: limit.Max})
	if !errors.Is(none, unix.EPERM) {
		return false, none
	}
	// EPERM has other reasons, too: only a limit that makes the difference
	// tells.
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

// probeTime is far more than the probe needs.
const probeTime = 30 * time.Second

// ProbeRegime finds out what BPF memory is held against, by experiment: with
// one map, in a child process, whose limit it is free to change. tree may be
// nil.
func ProbeRegime(ctx context.Context, tree *cgroup.Tree) (Regime, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	probe := exec.CommandContext(ctx, "/proc/self/exe", probeCommand[:]...)
	var complaints bytes.Buffer
	probe.Stderr = &complaints
	out, err := probe.Output()
	if err != nil {
		return RegimeUnknown, fmt.Errorf("probe RLIMIT_MEMLOCK: %w: %s", err, strings.TrimSpace(complaints.String()))
	}
	var a answer
	if err := json.Unmarshal(out, &a); err != nil {
		return RegimeUnknown, fmt.Errorf("probe RLIMIT_MEMLOCK: %w", err)
	}
	switch {
	case a.Error != "":
		return RegimeUnknown, errors.New(a.Error)
	case a.Held:
		return RegimeRlimit, nil
	case tree == nil || !tree.AccountsMemory() || memcgOff():
		return RegimeNone, nil
	}
	return RegimeMemcg, nil
}

// memcgOff says whether the kernel was told not to charge BPF memory.
func memcgOff() bool {
	raw, err := os.ReadFile("/proc/cmdline")
	return err == nil && toldNotToCharge(string(raw))
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

func (l *lister) addRegime(ctx context.Context, tree *cgroup.Tree) {
	regime, err := ProbeRegime(ctx, tree)
	if err != nil {
		l.note("what BPF memory is held against is not known: %v", err)
	}
	l.Regime = regime
	for i := range l.Objects {
		l.Objects[i].Regime = regime
	}
}
