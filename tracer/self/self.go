// Package self keeps what pinwatch itself is charged away from everybody else. A kernel charges
// perf buffers, and before 5.11 BPF objects, to the user of who makes them, and with that takes
// from what other processes of this user can have. So pinwatch makes its own as a user that no
// process has.
package self

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The uids that are looked through: an unused range, above those of containers and below
// 2^31, as systemd's UIDS-GIDS has it. Pids are below 2^22.
const (
	first = 0x70000000
	last  = 0x7effffff
	step  = 1 << 22
)

// Reserved reports whether a uid is of the range that User takes its own from.
func Reserved(uid uint32) bool { return uid >= first && uid <= last }

// User is a uid that no process has. A nil one is the process's own user.
type User struct {
	uid uint32
	err error // why there is none
}

// made counts the users of this process: the kernel frees BPF objects late, so that what was
// made as one of them may still be charged to it when the next one is wanted.
var made atomic.Uint32

// New finds a user for this process. Whether it can become that user is tried.
func New() *User {
	taken, err := uids("/proc")
	if err != nil {
		return &User{err: fmt.Errorf("look for a uid that no process has: %w", err)}
	}
	const blocks = (last - first + 1) / step
	begin := made.Add(1) - 1
	u := &User{}
	for i := range uint32(blocks) {
		if u.uid = first + (begin+i)%blocks*step + uint32(os.Getpid()); !taken[u.uid] {
			break
		}
		if i == blocks-1 {
			return &User{err: fmt.Errorf("look for a uid that no process has: processes have all that were tried, from %d on", first)}
		}
	}
	u.err = u.as(func() error { return nil })
	return u
}

// UID is whose counter is charged: the process's own real uid where there is no other.
func (u *User) UID() uint32 {
	if u == nil || u.err != nil {
		return uint32(os.Getuid())
	}
	return u.uid
}

// Err says why pinwatch is charged like its user's other processes; nil where it is not.
func (u *User) Err() error {
	if u == nil {
		return nil
	}
	return u.err
}

// Do has the kernel charge to this user what do makes. All that do makes it must make in its
// own goroutine. Where there is no such user, do runs all the same.
func (u *User) Do(do func() error) error {
	if u == nil || u.err != nil {
		return do()
	}
	return u.as(do)
}

// as runs a function in a thread whose real uid is another one: that is whose counters
// current_user() gives to the kernel. The effective uid stays, and with it the capabilities
// and the access to files.
func (u *User) as(do func() error) (err error) {
	runtime.LockOSThread()
	old := os.Getuid()
	if err := setRealUID(u.uid); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("become a user of its own (needs CAP_SETUID): %w", err)
	}
	defer func() {
		if back := setRealUID(uint32(old)); back != nil {
			panic(fmt.Sprintf("become uid %d again: %v", old, back)) // its effective uid allows it
		}
		runtime.UnlockOSThread()
	}()
	return do()
}

// setRealUID is of this thread alone: package syscall would change them all.
func setRealUID(uid uint32) error {
	const same = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), same, same); errno != 0 {
		return errno
	}
	return nil
}

// uids are those that any process has, whether real, effective, saved or of the file system.
func uids(proc string) (map[uint32]bool, error) {
	files, err := filepath.Glob(filepath.Join(proc, "[0-9]*/status"))
	if err != nil {
		return nil, err
	}
	taken := map[uint32]bool{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.SplitSeq(string(raw), "\n") {
			if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
				var ids [4]uint32
				fmt.Sscan(rest, &ids[0], &ids[1], &ids[2], &ids[3])
				for _, id := range ids {
					taken[id] = true
				}
				break
			}
		}
	}
	return taken, nil
}
