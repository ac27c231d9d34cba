// Package bpfobj lists the BPF maps and programs of this machine: what they
// are, what the kernel estimates them to cost, who pays, and what keeps them
// alive. It needs no tracing, and says what it could not find out.
package bpfobj

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// Kinds of objects.
const (
	KindMap     = "map"
	KindProgram = "prog"
)

// Object is a BPF map or program.
type Object struct {
	Kind string
	ID   uint32
	Type string // the kernel's name, such as percpu_array
	Name string // "" where it has none, or where it is not known

	// Of maps.
	KeySize    uint32 // bytes
	ValueSize  uint32 // bytes
	MaxEntries uint32
	Flags      uint32

	// Memlock is the kernel's own estimate of fdinfo, in bytes. Before 5.11 it
	// is what is charged, rounded up to pages.
	Memlock int64
	// Charged is what pinwatch saw the kernel charge, in bytes.
	Charged      int64
	ChargedKnown bool
	Accounting   kernel.BPFAccounting

	// UID is the user who created a program, or is charged for a map.
	UID      uint32
	UIDKnown bool
	// Cgroup is who is charged, as a path; "/" where no cgroup is. CgroupID
	// stays when the path is not known any more.
	Cgroup      string
	CgroupID    uint64
	CgroupKnown bool
	Names       container.Names // of the container that the path names
	// PayerGone reports whether the cgroup that a map was charged to was removed. Its
	// charges are its parent's then.
	PayerGone      bool
	PayerGoneKnown bool

	// References are how many the kernel counts: descriptors, pins, programs, links, maps of
	// maps, and what attaches a program without a link.
	References      uint64
	ReferencesKnown bool

	Pinned  []string // paths
	Holders []Holder
	Links   []uint32 // ids of the links that hold a program
	Refs    []uint32 // a map's programs, or a program's maps, as ids
	Orphan  []Reason // why it is one; none where nothing was seen that makes it one
}

// Holder is a process that has an object, or a link to it, open.
type Holder struct {
	PID    int    `json:"pid"`
	Comm   string `json:"comm"`
	FDs    int    `json:"fds"`
	Cgroup string `json:"cgroup"` // "" where it is not known
	container.Names
	// UID is the user whom the kernel charges for what the process makes: its real one.
	UID      uint32 `json:"uid"`
	UIDKnown bool   `json:"uid_known"`
}

// Listing is what was found.
type Listing struct {
	Objects    []Object
	Accounting kernel.BPFAccounting // what BPF memory is held against
	// Notes are what could not be found out, and why.
	Notes []string
	// OrphanNotes are what could not be found out of orphans.
	OrphanNotes []string
	// Complete reports whether all objects are listed, and not just those that are held by
	// processes that may be read.
	Complete bool
	BootID   string // of the machine, whose ids are given anew after a reboot; "": not known
}

// ID names an object as the kernel does: maps and programs each have numbers of their own.
type ID struct {
	Number  uint32
	Program bool
}

// SetCharged notes what a trace saw charged for objects, in bytes.
func (l *Listing) SetCharged(charged map[ID]int64) {
	for i := range l.Objects {
		o := &l.Objects[i]
		o.Charged, o.ChargedKnown = charged[ID{o.ID, o.Kind == KindProgram}]
	}
}

type kindID struct {
	kind string
	id   uint32
}

type lister struct {
	Listing
	index      map[kindID]int
	names      *cgroup.Names
	unreadable int                // processes whose descriptors could not be read
	pins       map[kindID][]inode // of objects, not of links to them: each has one reference
}

// List lists all objects that exist and that this process may see. btf is a file with the
// kernel's types, for a kernel that carries none; "": there is none.
func List(ctx context.Context, btf string) (*Listing, error) {
	l, tree, err := list()
	if err != nil {
		return nil, err
	}
	l.addAccounting(ctx)
	if len(l.Objects) > 0 {
		l.addPayers(tree, btf)
	}
	l.addProgramReferences()
	l.addOrphans()
	return &l.Listing, nil
}

// ListHeld is List without who pays and by which regime: that takes a process that
// tries a map out, and a BPF program, too much to do again and again.
func ListHeld(context.Context) (*Listing, error) {
	l, _, err := list()
	if err != nil {
		return nil, err
	}
	return &l.Listing, nil
}

// list lists all objects and who holds them. The tree is nil where no hierarchy is
// mounted.
func list() (*lister, *cgroup.Tree, error) {
	l := &lister{index: map[kindID]int{}, pins: map[kindID][]inode{}, names: cgroup.HostNames()}
	l.BootID = kernel.BootID()
	tree, err := cgroup.Host()
	if err != nil {
		l.note("cgroups are not named: %v", err)
		tree = nil
	}
	err = l.addAll()
	restricted := errors.Is(err, os.ErrPermission)
	if err != nil && !restricted {
		return nil, nil, err
	}
	// The links first: while their ids are read, descriptors of ours are open.
	if !restricted {
		l.addLinks()
	}
	l.Complete = !restricted
	held, unreadable := scanDescriptors()
	l.unreadable = unreadable
	if restricted {
		l.note("only objects that readable processes have open are shown, without names and pins: " +
			"the kernel's lists need CAP_SYS_ADMIN, which is missing: run as root")
		l.addHeld(held)
	}
	if unreadable > 0 {
		l.note("holders are incomplete: descriptors of %d processes could not be read (needs CAP_SYS_PTRACE, or the same user)", unreadable)
	}
	l.addHolders(held, tree)
	if !restricted {
		l.addPins()
	}
	return l, tree, nil
}

func (l *lister) note(format string, args ...any) {
	l.Notes = append(l.Notes, fmt.Sprintf(format, args...))
}

func (l *lister) add(o Object) {
	l.index[kindID{o.Kind, o.ID}] = len(l.Objects)
	l.Objects = append(l.Objects, o)
}

// find is nil for an object that came or went while listing.
func (l *lister) find(kind string, id uint32) *Object {
	i, ok := l.index[kindID{kind, id}]
	if !ok {
		return nil
	}
	return &l.Objects[i]
}

// addAll asks the kernel's own lists.
func (l *lister) addAll() error {
	unread := 0
	add := func(o Object, err error) {
		if err == nil {
			l.add(o)
		} else if !errors.Is(err, os.ErrNotExist) { // it went away
			unread++
		}
	}
	err := eachID(ebpf.MapGetNextID, func(id ebpf.MapID) { add(describeMap(id)) })
	if err != nil {
		return fmt.Errorf("list the BPF maps: %w", err)
	}
	err = eachID(ebpf.ProgramGetNextID, func(id ebpf.ProgramID) { add(describeProgram(id)) })
	if err != nil {
		return fmt.Errorf("list the BPF programs: %w", err)
	}
	l.addUsers()
	if unread > 0 {
		l.note("%d objects exist but could not be read", unread)
	}
	return nil
}

// eachID walks one of the kernel's lists.
func eachID[ID ~uint32](next func(ID) (ID, error), visit func(ID)) error {
	for id := ID(0); ; {
		var err error
		id, err = next(id)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		visit(id)
	}
}

// addUsers notes which programs use a map.
func (l *lister) addUsers() {
	for i := range l.Objects {
		p := &l.Objects[i]
		if p.Kind != KindProgram {
			continue
		}
		slices.Sort(p.Refs)
		for _, id := range p.Refs {
			if m := l.find(KindMap, id); m != nil {
				m.Refs = append(m.Refs, p.ID)
			}
		}
	}
}

func describeMap(id ebpf.MapID) (Object, error) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return Object{}, err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return Object{}, err
	}
	memlock, _ := info.Memlock() // not ok is 0 bytes, which an empty trie has
	return Object{
		Kind: KindMap, ID: uint32(id), Type: MapType(uint32(info.Type)), Name: info.Name,
		KeySize: info.KeySize, ValueSize: info.ValueSize, MaxEntries: info.MaxEntries, Flags: info.Flags,
		Memlock: int64(memlock),
	}, nil
}

func describeProgram(id ebpf.ProgramID) (Object, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return Object{}, err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return Object{}, err
	}
	memlock, _ := info.Memlock()
	o := Object{Kind: KindProgram, ID: uint32(id), Type: ProgramType(uint32(info.Type)), Name: info.Name, Memlock: int64(memlock)}
	o.UID, o.UIDKnown = info.CreatedByUID()
	maps, _ := info.MapIDs()
	for _, m := range maps {
		o.Refs = append(o.Refs, uint32(m))
	}
	return o, nil
}

// addLinks notes which programs are held by links. Kernels before 5.8 have
// none.
func (l *lister) addLinks() {
	links := new(link.Iterator)
	defer links.Close()
	for links.Next() {
		info, err := links.Link.Info()
		if err != nil {
			continue
		}
		if p := l.find(KindProgram, uint32(info.Program)); p != nil {
			p.Links = append(p.Links, uint32(links.ID))
		}
	}
	if err := links.Err(); err != nil && !kernel.NoLinks(err) {
		l.note("links that hold programs are incomplete: %v", err)
	}
}

// addHeld adds what is known of an object from fdinfo alone.
func (l *lister) addHeld(held []descriptor) {
	for _, d := range held {
		if !d.link && l.find(d.object.Kind, d.object.ID) == nil {
			l.add(d.object)
		}
	}
}

func (l *lister) addHolders(held []descriptor, tree *cgroup.Tree) {
	processes := map[int]Holder{}
	for _, d := range held {
		o := l.find(d.object.Kind, d.object.ID)
		if o == nil {
			continue
		}
		i := slices.IndexFunc(o.Holders, func(h Holder) bool { return h.PID == d.pid })
		if i < 0 {
			i = len(o.Holders)
			h, known := processes[d.pid]
			if !known {
				h = Holder{PID: d.pid, Comm: comm(d.pid), Cgroup: cgroupOf(tree, d.pid)}
				h.UID, h.UIDKnown = realUID(d.pid)
				h.Names = l.names.Of(h.Cgroup)
				processes[d.pid] = h
			}
			o.Holders = append(o.Holders, h)
		}
		o.Holders[i].FDs++
	}
}

func comm(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "" // it ended
	}
	return strings.TrimSuffix(string(raw), "\n")
}

// realUID is the real uid of a process; false when it ended.
func realUID(pid int) (uint32, bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	_, ids, _ := strings.Cut(string(raw), "\nUid:\t")
	id, _, _ := strings.Cut(ids, "\t")
	uid, err := strconv.ParseUint(id, 10, 32)
	return uint32(uid), err == nil
}

func cgroupOf(tree *cgroup.Tree, pid int) string {
	if tree == nil {
		return ""
	}
	m, err := tree.Process(pid)
	if err != nil {
		return ""
	}
	return m.Path()
}

// addAccounting finds out by experiment what BPF memory is held against.
func (l *lister) addAccounting(ctx context.Context) {
	accounting, err := kernel.ProbeBPFAccounting(ctx)
	if err != nil {
		l.note("what BPF memory is held against is not known: %v", err)
	}
	l.Accounting = accounting
	for i := range l.Objects {
		l.Objects[i].Accounting = accounting
	}
}
