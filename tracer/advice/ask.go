// Package advice says why a mapping was, or would be, refused, who holds the
// allowance, and what helps. It is pure: it judges a snapshot, or a ledger entry.
//
// All amounts are pages unless a name says otherwise.
package advice

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// Ask is what is to be explained: so many buffers of a size, mapped by somebody.
type Ask struct {
	Area    rule.Area
	Pages   int64 // of one buffer, its control page included
	Buffers int64
	// Same are those of the same size that it has already, and SameUser and SamePinned
	// what is charged for them: with a smaller size they are smaller, too.
	Same, SameUser, SamePinned int64
	// Machine is how much memory there is for them, in bytes; 0: not known.
	Machine int64

	PID uint32 // the process that maps; 0: any new process of UID
	UID uint32
	// Limit is RLIMIT_MEMLOCK of a new process whose user runs none that could
	// tell.
	Limit int64
}

// NewAsk asks about buffers with so many data pages, or AUX areas of so many
// pages: one, or one for every CPU that is online.
func NewAsk(s *snapshot.Snapshot, pid, uid uint32, dataPages int64, perCPU, aux bool) Ask {
	ask := Ask{PID: pid, UID: uid, Area: rule.Data, Buffers: 1}
	if aux {
		ask.Area = rule.AUX
	}
	ask.Pages = dataPages + rule.Control(ask.Area)
	if perCPU {
		ask.Buffers = int64(s.OnlineCPUs)
	}
	ask.Limit = OwnLimit(s.PageSize)
	return ask
}

// OwnLimit is pinwatch's own RLIMIT_MEMLOCK in pages, which what it is started from mostly
// has, too.
func OwnLimit(pageSize uint32) int64 {
	var own unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &own) != nil {
		return 0
	}
	return int64(min(own.Cur/uint64(pageSize), uint64(rule.Unlimited)))
}

// Caller is who maps, as a snapshot has it.
func Caller(s *snapshot.Snapshot, ask Ask) (caller rule.Caller, uid uint32, err error) {
	if ask.PID != 0 {
		p, ok := s.Process(ask.PID)
		if !ok {
			return caller, 0, fmt.Errorf("process %d: there is none with memory of its own", ask.PID)
		}
		if !p.Known {
			return caller, 0, fmt.Errorf("process %d: its pinned_vm and limit cannot be read", ask.PID)
		}
		caller = rule.Caller{PinnedVM: p.PinnedVM, LockLimit: p.LockLimit, CapIPCLock: p.CapIPCLock}
		uid = p.UID
	} else {
		caller = newProcess(s, ask)
		uid = ask.UID
	}
	if u, ok := s.User(uid); ok {
		caller.UserLocked = u.PerfLocked
	}
	return caller, uid, nil
}

// newProcess is a process that has nothing pinned yet. Its limit is the smallest
// that a process of the user has, and it has the capability if they all have it.
func newProcess(s *snapshot.Snapshot, ask Ask) rule.Caller {
	c := rule.Caller{LockLimit: ask.Limit}
	for i, p := range processesOf(s, ask.UID) {
		if i == 0 {
			c.LockLimit, c.CapIPCLock = p.LockLimit, p.CapIPCLock
		}
		c.LockLimit = min(c.LockLimit, p.LockLimit)
		c.CapIPCLock = c.CapIPCLock && p.CapIPCLock
	}
	return c
}

func processesOf(s *snapshot.Snapshot, uid uint32) (list []*snapshot.Process) {
	for i := range s.Processes {
		if p := &s.Processes[i]; p.UID == uid && p.Known {
			list = append(list, p)
		}
	}
	return list
}

// Assumed says what a new process's numbers rest on.
func Assumed(s *snapshot.Snapshot, ask Ask) string {
	list := processesOf(s, ask.UID)
	if len(list) == 0 {
		return fmt.Sprintf("RLIMIT_MEMLOCK of uid %d: it runs no process, so pinwatch's own is taken", ask.UID)
	}
	smallest, largest := list[0].LockLimit, list[0].LockLimit
	for _, p := range list {
		smallest, largest = min(smallest, p.LockLimit), max(largest, p.LockLimit)
	}
	if smallest < largest {
		return fmt.Sprintf("RLIMIT_MEMLOCK of a new process of uid %d: its processes differ, and the smallest is taken", ask.UID)
	}
	return ""
}

// ParseSize reads a size in bytes such as 4096, 512K, 2M or 1G, in powers of 1024.
func ParseSize(text string) (int64, error) {
	digits := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(text), "B"), "I")
	shift := 0
	for i, unit := range []string{"K", "M", "G"} {
		if rest, ok := strings.CutSuffix(digits, unit); ok {
			digits, shift = rest, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > 1<<(62-shift) {
		return 0, fmt.Errorf("size %q: want something like 4096, 512K or 2M", text)
	}
	return n << shift, nil
}
