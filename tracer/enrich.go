package tracer

import (
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// cgroupPaths adds the paths of cgroups to events, and what people call what they are for. A cgroup may be gone when its event
// is read, so paths that were found are kept.
type cgroupPaths struct {
	tree    *cgroup.Tree // nil where no hierarchy is mounted
	names   *cgroup.Names
	callers map[uint64]string
	payers  map[uint64]string
}

// pathsKept bounds the memory for paths.
const pathsKept = 1 << 16

func newCgroupPaths() *cgroupPaths {
	tree, _ := cgroup.Host() // without, ids stand for themselves
	return &cgroupPaths{tree: tree, names: cgroup.HostNames(), callers: map[uint64]string{}, payers: map[uint64]string{}}
}

func (n *cgroupPaths) add(e *ledger.Event) {
	if n.tree == nil {
		return
	}
	e.Caller.Cgroup = lookup(n.callers, e.Caller.CgroupID, n.tree.Path)
	e.Caller.Names = n.names.Of(e.Caller.Cgroup)
	if f := e.Failed; f != nil {
		f.Limit.Cgroup = lookup(n.payers, f.Limit.CgroupID, n.tree.MemoryPath)
	}
	if o := e.Object; o != nil {
		for i := range o.Payers {
			o.Payers[i].Cgroup = lookup(n.payers, o.Payers[i].CgroupID, n.tree.MemoryPath)
			o.Payers[i].Names = n.names.Of(o.Payers[i].Cgroup)
		}
		o.MapCgroup = lookup(n.payers, o.MapCgroupID, n.tree.MemoryPath)
		o.LimitCgroup = lookup(n.payers, o.LimitCgroupID, n.tree.MemoryPath)
		o.MapNames, o.LimitNames = n.names.Of(o.MapCgroup), n.names.Of(o.LimitCgroup)
	}
}

func lookup(known map[uint64]string, id uint64, find func(uint64) (string, bool)) string {
	if id == 0 {
		return ""
	}
	path, ok := known[id]
	if ok {
		return path
	}
	if path, ok = find(id); ok {
		if len(known) >= pathsKept {
			clear(known)
		}
		known[id] = path
	}
	return path
}
