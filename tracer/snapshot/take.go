package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/self"
)

// Source takes snapshots again and again. What is dear, loading the BPF programs,
// is done once. Close it. It is not safe for use by several goroutines at once.
type Source struct {
	proc      proc
	iterators iterators
	foreign   bool              // the iterators' pids are not those of /proc
	uids      uidMaps           // of this user namespace
	enclosed  bool              // in a pid or user namespace of its own
	paths     map[uint64]string // of cgroups, by id
	names     *cgroup.Names
	before    sizes

	accounting accounting.Finding
	degraded   []string // what holds for all snapshots
}

// Open readies a source: the kernel's iterators where they are to be had, else
// /proc, and the snapshots say why.
func Open(opts Options) (*Source, error) {
	s := &Source{proc: newProc(opts), names: cgroup.HostNames(), accounting: opts.Accounting}
	s.uids = s.proc.uidMaps()
	ns, err := os.Readlink(filepath.Join(s.proc.proc, "self/ns/pid"))
	inner := err == nil && ns != initialPIDNamespace
	s.enclosed = inner || s.uids.own
	if opts.NoIterators {
		s.degraded = []string{"BPF iterators: not used, as told"}
		return s, nil
	}
	if opts.Payer == nil {
		opts.Payer = self.New()
	}
	err = opts.Payer.Do(func() (err error) {
		s.iterators, s.degraded, err = openIterators(opts)
		return err
	})
	if err != nil {
		s.iterators.close()
		s.iterators = iterators{}
		s.degraded = []string{fmt.Sprintf("%s: unavailable; %s (requires Linux %s, and CAP_BPF and CAP_PERFMON or CAP_SYS_ADMIN): %v", kernel.Iterators().Name, kernel.Iterators().Instead, kernel.Iterators().Since, err)}
		return s, nil
	}
	if inner {
		s.foreign = true
		s.degraded = append(s.degraded, "cgroups and io_uring: not known, for this is a pid namespace of its own, and pids are given as of the initial one: run pinwatch there (docker run --pid=host)")
	}
	return s, nil
}

// Close frees the source.
func (s *Source) Close() error {
	s.iterators.close()
	return nil
}

// Take takes a snapshot with a source of its own.
func Take(ctx context.Context, opts Options) (*Snapshot, error) {
	source, err := Open(opts)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	return source.Take(ctx)
}

// Take takes a snapshot.
func (s *Source) Take(ctx context.Context) (*Snapshot, error) {
	snap := &Snapshot{TimeNS: uint64(time.Now().UnixNano()), Degraded: slices.Clone(s.degraded), Accounting: s.accounting, Names: s.names, uids: s.uids}
	if err := s.proc.settings(snap); err != nil {
		return nil, err
	}
	take := s.fromKernel
	if s.iterators.tasks == nil {
		take = s.proc.processes
		snap.Enclosed = s.enclosed // the iterators see all
	}
	if err := take(ctx, snap); err != nil {
		return nil, err
	}
	snap.countUsers()
	snap.BPF = s.proc.bpfObjects(snap)
	snap.sort()
	return snap, nil
}

// Settings are what the rulebook asks for.
func (s *Snapshot) Settings() rule.Settings {
	return rule.Settings{PageSize: s.PageSize, MlockKiB: s.MlockKiB, OnlineCPUs: s.OnlineCPUs, Paranoid: s.Paranoid, Accounting: s.Accounting.Accounting}
}

// Allowance is how many pages of perf buffers a user may have at no process's
// expense.
func (s *Snapshot) Allowance() int64 { return s.Settings().UserLockLimit() }

// Process finds a process.
func (s *Snapshot) Process(pid uint32) (*Process, bool) {
	i, found := slices.BinarySearchFunc(s.Processes, pid, func(p Process, pid uint32) int { return cmp.Compare(p.PID, pid) })
	if !found {
		return nil, false
	}
	return &s.Processes[i], true
}

// User finds a user.
func (s *Snapshot) User(uid uint32) (*User, bool) {
	i, found := slices.BinarySearchFunc(s.Users, uid, func(u User, uid uint32) int { return cmp.Compare(u.UID, uid) })
	if !found {
		return nil, false
	}
	return &s.Users[i], true
}

func (s *Snapshot) degrade(format string, args ...any) {
	s.Degraded = append(s.Degraded, fmt.Sprintf(format, args...))
}

// countUsers adds up processes and buffers by user. The counters of users that
// could not be read are estimated.
func (s *Snapshot) countUsers() {
	users := map[uint32]*User{}
	for _, u := range s.Users {
		users[u.UID] = &u
	}
	at := func(uid uint32) *User {
		if users[uid] == nil {
			users[uid] = &User{UID: uid}
		}
		return users[uid]
	}
	for i := range s.Buffers {
		if b := &s.Buffers[i]; b.PayerKnown && b.ExtraKnown && !b.again {
			at(b.PayerUID).BufferPages += s.Accounting.Scheme.UserPart(b.Pages, b.Extra)
		}
	}
	for _, p := range s.Processes {
		u := at(p.UID)
		u.Processes++
		if p.hidden {
			u.Hidden++
		}
		if !u.Known {
			u.PerfLocked += s.UserPart(&p)
		}
	}
	for _, u := range users {
		if !u.Known {
			u.LockedVM = u.PerfLocked
		}
	}
	s.Users = s.Users[:0]
	for _, u := range users {
		s.Users = append(s.Users, *u)
	}
}

// UserPart is an estimate of what a process's buffers have charged to its user, by their
// sizes and its pinned_vm, in pages.
func (s *Snapshot) UserPart(p *Process) int64 {
	if s.Accounting.Scheme == rule.SchemeUnclamped {
		// The history that it took over from the user, which loses it, is in pinned_vm as
		// well: both may be negative.
		return p.BufferPages - p.PinnedVM
	}
	return max(0, s.Accounting.Scheme.UserPart(p.BufferPages, max(0, p.PinnedVM)))
}

func (s *Snapshot) sort() {
	slices.SortFunc(s.Processes, func(a, b Process) int { return cmp.Compare(a.PID, b.PID) })
	slices.SortFunc(s.Users, func(a, b User) int { return cmp.Compare(a.UID, b.UID) })
	slices.SortFunc(s.Buffers, func(a, b Buffer) int {
		return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Area, b.Area))
	})
	slices.SortFunc(s.IOUring, func(a, b IOUring) int { return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.FD, b.FD)) })
}

// PagesOf is how many pages hold so many bytes.
func (s *Snapshot) PagesOf(bytes int64) int64 {
	return (bytes + int64(s.PageSize) - 1) / int64(s.PageSize)
}

// pagesOf is a limit in bytes as pages.
func pagesOf(limit uint64, pageSize uint32) int64 {
	return int64(min(limit/uint64(pageSize), uint64(rule.Unlimited)))
}
