package cgroup

import (
	"io/fs"
	"sync"
	"time"

	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
)

// Names tells what people call the containers and pods that paths of cgroups name. A nil one
// knows none.
type Names struct {
	root fs.FS
	now  func() time.Time

	mu    sync.Mutex
	found map[string]found // by the path
}

type found struct {
	names container.Names
	until time.Time // zero: for ever
}

const (
	// namesKept bounds the memory for them.
	namesKept = 1 << 12
	// lookAgain is how soon what was not found is looked for again: a container may be
	// older than the file that names it.
	lookAgain = 5 * time.Second
)

// NewNames looks below the root directory of a machine.
func NewNames(root fs.FS) *Names {
	return &Names{root: root, now: time.Now, found: map[string]found{}}
}

// HostNames looks on this machine.
func HostNames() *Names { return NewNames(hostRoot()) }

// Of are the names of the container and the pod that a path names. They are remembered, for
// a container's files go with it.
func (n *Names) Of(path string) container.Names {
	if n == nil || path == "" {
		return container.Names{}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	old, ok := n.found[path]
	if ok && (old.until.IsZero() || n.now().Before(old.until)) {
		return old.names
	}
	f := found{}
	if id := Identify(path); id.ContainerID != "" || id.PodUID != "" {
		containerID := id.ContainerID
		if !hexID.MatchString(containerID) {
			containerID = "" // a runtime whose containers have their names for ids
		}
		f.names = container.Find(n.root, containerID, id.PodUID)
		if f.names == (container.Names{}) {
			f.names = old.names // its files went with it
		}
		if containerID != "" && f.names.Container == "" || f.names.Pod == "" && id.PodUID != "" {
			f.until = n.now().Add(lookAgain)
		}
	}
	if len(n.found) >= namesKept {
		clear(n.found)
	}
	n.found[path] = f
	return f.names
}

// Called names a container as a row has room for it: by its names, else as Short does; "" for
// what is none.
func (n *Names) Called(path string) string {
	if called := n.Of(path).String(); called != "" {
		return called
	}
	id := Identify(path)
	return id.Short()
}
