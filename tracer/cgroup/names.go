package cgroup

import (
	"io/fs"
	"slices"
	"strings"
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

// Wanted are containers that a user names. What is empty leaves nothing out.
type Wanted struct {
	Pods       []string // names or uids
	Namespaces []string
	Containers []string // names, or the beginnings of ids
}

// shortestID is how many digits of a container's id name it.
const shortestID = 12

// Any reports whether anything is left out.
func (w *Wanted) Any() bool { return len(w.Pods)+len(w.Namespaces)+len(w.Containers) > 0 }

// Has reports whether a cgroup, with the names of its container, is wanted.
func (w *Wanted) Has(path string, names container.Names) bool {
	id := sync.OnceValue(func() Identity { return Identify(path) })
	return has(w.Namespaces, names.Namespace, func(string) bool { return false }) &&
		has(w.Pods, names.Pod, func(uid string) bool { return uid == id().PodUID }) &&
		has(w.Containers, names.Container, func(start string) bool {
			return len(start) >= shortestID && strings.HasPrefix(id().ContainerID, start)
		})
}

// has reports whether a name is wanted, or what else one may be called by.
func has(wanted []string, name string, orElse func(wanted string) bool) bool {
	return len(wanted) == 0 || name != "" && slices.Contains(wanted, name) ||
		slices.ContainsFunc(wanted, func(w string) bool { return w != "" && orElse(w) })
}
