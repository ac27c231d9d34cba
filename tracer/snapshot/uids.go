package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// uidMaps are how the uids of pinwatch's user namespace are called around it.
type uidMaps struct {
	own    bool // it is not the initial one
	ranges []uidRange
}

// uidRange is a line of /proc/PID/uid_map.
type uidRange struct{ inside, outside, count uint32 }

// uidMaps reads those of this process.
func (p proc) uidMaps() uidMaps {
	name, err := os.Readlink(filepath.Join(p.proc, "self/ns/user"))
	m := uidMaps{own: err == nil && name != initialUserNamespace}
	if !m.own {
		return m
	}
	raw, err := os.ReadFile(filepath.Join(p.proc, "self/uid_map"))
	if err != nil {
		return m
	}
	for line := range strings.Lines(string(raw)) {
		var r uidRange
		if _, err := fmt.Sscan(line, &r.inside, &r.outside, &r.count); err == nil {
			m.ranges = append(m.ranges, r)
		}
	}
	return m
}

// Outside is a user as the user namespace around pinwatch's own has it; -1: pinwatch is in
// the initial one, or that user is not known there.
func (s *Snapshot) Outside(uid uint32) int64 {
	for _, r := range s.uids.ranges {
		if uid >= r.inside && uid-r.inside < r.count {
			return int64(r.outside) + int64(uid-r.inside)
		}
	}
	return -1
}

// OwnUserNamespace reports whether pinwatch is in another user namespace than the initial
// one, and users are called other than the kernel knows them.
func (s *Snapshot) OwnUserNamespace() bool { return s.uids.own }
