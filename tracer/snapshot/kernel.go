package snapshot

import (
	"context"
	"errors"
	"os"
	"slices"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// initialPIDNamespace is the inode number of the initial pid namespace: a
// constant of the kernel (PROC_PID_INIT_INO).
const initialPIDNamespace = "pid:[4026531836]"

// fromKernel fills a snapshot from the iterators. What they do not give is read
// from /proc, process by process.
func (s *Source) fromKernel(ctx context.Context, snap *Snapshot) error {
	snap.Source = SourceIterators
	b := newBuilder(snap, s.before)
	defer func() { s.before = sizes{len(snap.Processes), len(snap.Buffers)} }()
	if err := each(s.iterators.tasks, b.process); err != nil {
		return err
	}
	if err := s.mappings(ctx, b); err != nil {
		return err
	}
	if s.foreign {
		return nil // a pid of the kernel's means another process in this /proc
	}
	s.cgroups(b)
	return s.rings(ctx, b)
}

// mappings finds the mapped buffers.
func (s *Source) mappings(ctx context.Context, b *builder) error {
	if s.iterators.vmas != nil {
		return each(s.iterators.vmas, b.mapping)
	}
	var open descriptors
	if s.iterators.files != nil {
		if err := each(s.iterators.files, open.add); err != nil {
			return err
		}
	}
	if s.foreign {
		return nil
	}
	var h hidden
	for i := range b.snap.Processes {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := &b.snap.Processes[i]
		buffers, err := s.proc.buffers(p.PID, b.snap.PageSize)
		if errors.Is(err, os.ErrPermission) {
			h.maps++
		}
		for _, found := range open.match(p.PID, buffers) {
			b.add(found)
		}
	}
	h.degrade(b.snap)
	return nil
}

// cgroups gives every process its cgroup's path. The id tells which are the same,
// so that every cgroup is read once, and remembered.
func (s *Source) cgroups(b *builder) {
	known := map[uint64]string{}
	for i := range b.snap.Processes {
		p := &b.snap.Processes[i]
		path, ok := known[p.cgroupID]
		if !ok {
			if path, ok = s.paths[p.cgroupID]; !ok {
				path = s.proc.cgroup(p.PID)
			}
			if path != "" {
				known[p.cgroupID] = path
			}
		}
		p.CgroupPath = path
	}
	s.paths = known
}

// rings reads the io_urings of the processes that have used one. A process that
// only inherited one is not known by that.
func (s *Source) rings(ctx context.Context, b *builder) error {
	var h hidden
	for _, pid := range b.ringPIDs {
		if err := ctx.Err(); err != nil {
			return err
		}
		rings, err := s.proc.rings(pid, b.snap.PageSize)
		if errors.Is(err, os.ErrPermission) {
			h.descriptors++
		}
		b.snap.IOUring = append(b.snap.IOUring, rings...)
	}
	h.degrade(b.snap)
	return nil
}

// builder puts the records together.
type builder struct {
	snap  *Snapshot
	users map[uint32]int      // by uid, indices into snap.Users
	pids  map[uint32]int      // by pid, indices into snap.Processes
	known map[uint64]identity // buffers, by Buffer.identity

	ringPIDs []uint32
}

// sizes are how much there was to list the last time: about as much as now.
type sizes struct{ processes, buffers int }

func newBuilder(snap *Snapshot, like sizes) *builder {
	snap.Processes = make([]Process, 0, like.processes)
	snap.Buffers = make([]Buffer, 0, like.buffers)
	return &builder{
		snap: snap, users: map[uint32]int{},
		pids:  make(map[uint32]int, like.processes),
		known: make(map[uint64]identity, like.buffers),
	}
}

// identity is a buffer that has been met.
type identity struct {
	id    uint64
	areas [2]uint32 // by rule.Area, the pid that was last seen to map it; 0: none
}

func (b *builder) process(r *bpf.SnapshotProcess) {
	if r.Flags&bpf.SnapshotProcessFlagPROCESS_IO_URING != 0 && !slices.Contains(b.ringPIDs, r.Pid) {
		b.ringPIDs = append(b.ringPIDs, r.Pid)
	}
	if _, ok := b.pids[r.Pid]; ok {
		return // another thread
	}
	b.pids[r.Pid] = len(b.snap.Processes)
	b.snap.Processes = append(b.snap.Processes, Process{
		PID: r.Pid, Comm: text(r.Comm[:]), UID: r.Uid,
		PinnedVM: r.PinnedVm, LockLimit: pagesOf(r.LockLimit, b.snap.PageSize), Known: true,
		CapIPCLock: r.Flags&bpf.SnapshotProcessFlagPROCESS_CAP_IPC_LOCK != 0,
		mm:         r.Mm, cgroupID: r.CgroupId,
	})
	b.snap.SplitCounter = r.Flags&bpf.SnapshotProcessFlagPROCESS_SPLIT_COUNTER != 0
	b.user(r.Uid, r.PerfLocked, r.LockedVm)
}

// user notes a user's counters; the last reading counts.
func (b *builder) user(uid uint32, perfLocked, lockedVM int64) {
	i, ok := b.users[uid]
	if !ok {
		i = len(b.snap.Users)
		b.users[uid] = i
		b.snap.Users = append(b.snap.Users, User{UID: uid, Known: true})
	}
	b.snap.Users[i].PerfLocked, b.snap.Users[i].LockedVM = perfLocked, lockedVM
}

// mapping is a mapping that the iterator has found.
func (b *builder) mapping(r *bpf.SnapshotBuffer) {
	area := rule.Data
	if r.Flags&bpf.SnapshotBufferFlagBUFFER_AUX != 0 {
		area = rule.AUX
	}
	found := bufferOf(r, area)
	if r.Flags&bpf.SnapshotBufferFlagBUFFER_PAYER_COUNTERS != 0 {
		b.user(r.PayerUid, r.PayerPerfLocked, r.PayerLockedVm)
	}
	b.add(found)
}

// add enters a mapping. A kernel that lets mappings be split has several parts of
// one.
func (b *builder) add(found Buffer) {
	known, ok := b.known[found.identity]
	if !ok {
		b.snap.lastID++
		known.id = b.snap.lastID
	}
	if known.areas[found.Area] == found.PID {
		return
	}
	found.again = known.areas[found.Area] != 0
	known.areas[found.Area] = found.PID
	if found.identity != 0 {
		b.known[found.identity] = known
	}
	found.ID = known.id
	b.snap.Buffers = append(b.snap.Buffers, found)
	i, ok := b.pids[found.PID]
	if !ok {
		return // came after the processes were listed
	}
	p := &b.snap.Processes[i]
	p.BufferPages += found.Pages
	if found.Area == rule.Data {
		p.Buffers++
	}
}

// bufferOf is one area of a buffer, as a record describes it.
func bufferOf(r *bpf.SnapshotBuffer, area rule.Area) Buffer {
	b := Buffer{
		PID: r.Pid, Area: area, Pages: r.DataPages, Extra: r.DataExtra, ExtraKnown: true,
		PayerUID: r.PayerUid, PayerKnown: r.Flags&bpf.SnapshotBufferFlagBUFFER_PAYER != 0,
		Mappings: r.Mappings - r.AuxMappings, all: r.Mappings, identity: r.Buffer, mm: r.Mm,
	}
	if area == rule.AUX {
		b.Pages, b.Extra, b.Mappings = r.AuxPages, r.AuxExtra, r.AuxMappings
	}
	return b
}
