// Package cgroup names cgroups: from the kernel's id to a path, from a path to
// the container, the runtime and the pod behind it; and reads what a cgroup's
// memory is held against. It knows v2, v1, and hosts that have both.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Mount is a mounted hierarchy.
type Mount struct {
	Point       string // where it is
	Root        string // the cgroup that is seen there: "/", but for bind mounts and namespaces
	V2          bool
	Controllers []string // of v1; "name=systemd" is one
}

// Tree is a machine's cgroups.
type Tree struct {
	root   fs.FS
	live   bool // root is this machine's
	mounts []Mount
	now    func() time.Time

	mu       sync.Mutex
	paths    map[key]string
	nextWalk map[string]time.Time // by mount point; not before then
	// inodes reports whether walks know the numbers of inodes alone, for want of handles:
	// before 5.5, half of an id.
	inodes bool
}

// key is a cgroup: ids are unique within a hierarchy only.
type key struct {
	point string
	id    uint64
}

// How soon after a walk an id that it did not find is looked for again: after fifty times what
// the walk took, for ids that are nowhere, but not later than a second.
const (
	restAfterWalk = 50
	leastRest     = 20 * time.Millisecond
	longestRest   = time.Second
)

// Open reads which hierarchies are mounted. root is the root directory of the
// machine, such as os.DirFS("/").
func Open(root fs.FS) (*Tree, error) {
	raw, err := fs.ReadFile(root, "proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	return &Tree{root: root, mounts: parseMounts(string(raw)), now: time.Now,
		paths: map[key]string{}, nextWalk: map[string]time.Time{}}, nil
}

// Host opens this machine's cgroups.
func Host() (*Tree, error) {
	t, err := Open(hostRoot())
	if err == nil {
		t.live = true
	}
	return t, err
}

// Mounts are the hierarchies, in the order of mounting.
func (t *Tree) Mounts() []Mount { return slices.Clone(t.mounts) }

func parseMounts(text string) []Mount {
	var mounts []Mount
	for line := range strings.Lines(text) {
		// ID PARENT DEVICE ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPEROPTIONS
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 1 {
			continue
		}
		m := Mount{Root: unescapeMount(left[3]), Point: unescapeMount(left[4])}
		switch right[0] {
		case "cgroup2":
			m.V2 = true
		case "cgroup":
			if len(right) > 2 {
				m.Controllers = strings.Split(right[2], ",")
			}
		default:
			continue
		}
		mounts = append(mounts, m)
	}
	return mounts
}

// unescapeMount undoes mountinfo's escapes, \040 for a space.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if code, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// v2 is the unified hierarchy, wherever it is mounted.
func (t *Tree) v2() (Mount, bool) {
	return t.find(func(m Mount) bool { return m.V2 })
}

// memory is the hierarchy that accounts memory: v1's where it has the
// controller, else v2's.
func (t *Tree) memory() (Mount, bool) {
	if m, ok := t.find(func(m Mount) bool { return slices.Contains(m.Controllers, "memory") }); ok {
		return m, true
	}
	return t.v2()
}

// find prefers a mount that shows a whole hierarchy.
func (t *Tree) find(wanted func(Mount) bool) (found Mount, ok bool) {
	for _, m := range t.mounts {
		if wanted(m) && (!ok || found.Root != "/" && m.Root == "/") {
			found, ok = m, true
		}
	}
	return found, ok
}

// Path is the path of the v2 cgroup with an id, as bpf_get_current_cgroup_id()
// gives it. It is false for one that is gone, or not to be seen from here.
func (t *Tree) Path(id uint64) (string, bool) {
	m, ok := t.v2()
	if !ok {
		return "", false
	}
	return t.lookup(m, id)
}

// markV1 marks the id of a memory cgroup that is known to be in a hierarchy of v1, which has
// ids of its own: CGROUP_V1 of bpf/kernel.h.
const markV1 = 1 << 52

// MarkV1 marks an id, and SplitV1 undoes that.
func MarkV1(id uint64) uint64 { return id | markV1 }

// SplitV1 is an id as the kernel has it, and whether it was marked.
func SplitV1(id uint64) (own uint64, v1 bool) { return id &^ markV1, id&markV1 != 0 }

// MemoryPath is the path of the cgroup with an id in the hierarchy that
// accounts memory: of a memcg, css.cgroup->kn->id. It may be marked.
func (t *Tree) MemoryPath(id uint64) (string, bool) {
	id, v1 := SplitV1(id)
	m, ok := t.memory()
	if !ok || v1 && m.V2 {
		return "", false
	}
	return t.lookup(m, id)
}

// lookup caches: an id is not given to another cgroup.
func (t *Tree) lookup(m Mount, id uint64) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p, ok := t.paths[key{m.Point, id}]; ok {
		return p, true
	}
	if t.live {
		dir, err := openByID(m.Point, id)
		if _, ok := below(dir, m.Point); err == nil && ok {
			p := m.cgroupPath(dir)
			t.paths[key{m.Point, id}] = p
			return p, true
		}
	}
	t.walk(m)
	p, ok := t.paths[key{m.Point, id}]
	if !ok && t.inodes && id>>32 != 0 {
		p, ok = t.paths[key{m.Point, uint64(uint32(id))}]
	}
	return p, ok
}

// walk learns all ids of a hierarchy: they are the inode numbers of its directories, or
// what the kernel says.
func (t *Tree) walk(m Mount) {
	begun := t.now()
	if begun.Before(t.nextWalk[m.Point]) {
		return
	}
	fs.WalkDir(t.root, inRoot(m.Point), func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // it went away, or is closed to us
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		dir := "/" + name
		id, known := uint64(0), false
		if t.live {
			id, known = idOf(dir)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && !known {
			id, known, t.inodes = stat.Ino, true, true
		}
		if known {
			t.paths[key{m.Point, id}] = m.cgroupPath(dir)
		}
		return nil
	})
	ended := t.now()
	t.nextWalk[m.Point] = ended.Add(min(max(restAfterWalk*ended.Sub(begun), leastRest), longestRest))
}

// cgroupPath is the cgroup that a directory below the mount shows.
func (m Mount) cgroupPath(dir string) string {
	return path.Join("/", m.Root, strings.TrimPrefix(dir, m.Point))
}

// dir is the directory that shows a cgroup; false if the mount does not show
// it.
func (m Mount) dir(cgroup string) (string, bool) {
	rest, ok := below(path.Clean(cgroup), path.Clean(m.Root))
	return inRoot(path.Join(m.Point, rest)), ok
}

// inRoot is a path as io/fs wants it.
func inRoot(p string) string {
	if p = strings.TrimPrefix(path.Clean(p), "/"); p == "" {
		return "."
	}
	return p
}

// Membership is where a process is.
type Membership struct {
	V2      string // "" without a v2 hierarchy
	Memory  string // in v1's hierarchy with the memory controller; "": there is none
	Systemd string // in v1's hierarchy of systemd; "": there is none
}

// Path is where the process's memory is accounted, which is also where
// runtimes put containers.
func (m Membership) Path() string {
	switch {
	case m.Memory != "":
		return m.Memory
	case m.Systemd != "" && (m.V2 == "" || m.V2 == "/"):
		return m.Systemd
	}
	return m.V2
}

// Process reads where a process is.
func (t *Tree) Process(pid int) (Membership, error) {
	raw, err := fs.ReadFile(t.root, fmt.Sprintf("proc/%d/cgroup", pid))
	if err != nil {
		return Membership{}, err
	}
	return parseMembership(string(raw)), nil
}

// parseMembership reads lines of HIERARCHY:CONTROLLERS:PATH.
func parseMembership(text string) (m Membership) {
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		where := strings.TrimSuffix(fields[2], " (deleted)")
		controllers := strings.Split(fields[1], ",")
		switch {
		case fields[0] == "0" && fields[1] == "":
			m.V2 = where
		case slices.Contains(controllers, "memory"):
			m.Memory = where
		case slices.Contains(controllers, "name=systemd"):
			m.Systemd = where
		}
	}
	return m
}

// AccountsMemory reports whether memory is charged to cgroups here: whether there
// is a memory controller.
func (t *Tree) AccountsMemory() bool {
	m, ok := t.memory()
	if !ok || !m.V2 {
		return ok
	}
	raw, err := fs.ReadFile(t.root, path.Join(inRoot(m.Point), "cgroup.controllers"))
	return err == nil && slices.Contains(strings.Fields(string(raw)), "memory")
}

// Unlimited is the limit of a cgroup that has none.
const Unlimited = math.MaxInt64

// Memory is a cgroup's usage and its own limit, in bytes. Ancestors may have
// lower limits.
type Memory struct {
	Current int64
	Max     int64 // Unlimited where there is none
	V1      bool  // the hierarchy is of v1
}

// MemoryFiles are those of a memory cgroup's usage and limit, both in bytes.
func MemoryFiles(v1 bool) (usage, limit string) {
	if v1 {
		return "memory.usage_in_bytes", "memory.limit_in_bytes"
	}
	return "memory.current", "memory.max"
}

// LimitPath is the file of a memory cgroup's limit, where the hierarchy is mounted as usual.
func LimitPath(cgroup string, v1 bool) string {
	root := "/sys/fs/cgroup"
	if v1 {
		root += "/memory"
	}
	_, limit := MemoryFiles(v1)
	return path.Join(root, cgroup, limit)
}

// Memory reads a cgroup's usage and limit. The root cgroup of v2 has neither.
func (t *Tree) Memory(cgroup string) (Memory, error) {
	m, ok := t.memory()
	if !ok {
		return Memory{}, errors.New("memory of cgroups: no cgroup hierarchy is mounted")
	}
	dir, ok := m.dir(cgroup)
	if !ok {
		return Memory{}, fmt.Errorf("cgroup %s: not to be seen below %s, which shows %s", cgroup, m.Point, m.Root)
	}
	current, limit := MemoryFiles(!m.V2)
	usage, err := t.bytes(path.Join(dir, current))
	if err != nil {
		return Memory{}, err
	}
	most, err := t.bytes(path.Join(dir, limit))
	if err != nil {
		return Memory{}, err
	}
	return Memory{usage, most, !m.V2}, nil
}

// v1Unlimited is the least that v1 prints for no limit: PAGE_COUNTER_MAX pages,
// of up to 64 KiB each.
const v1Unlimited = math.MaxInt64 - 64<<10

func (t *Tree) bytes(name string) (int64, error) {
	raw, err := fs.ReadFile(t.root, name)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(raw))
	if text == "max" {
		return Unlimited, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if n >= v1Unlimited {
		return Unlimited, nil
	}
	return n, nil
}

// Clean turns what a user names, a path with or without the mount point, into
// the path of a cgroup.
func (t *Tree) Clean(wanted string) string {
	wanted = path.Join("/", wanted)
	var best Mount
	rest := ""
	for _, m := range t.mounts {
		if r, ok := below(wanted, m.Point); ok && len(m.Point) > len(best.Point) {
			best, rest = m, r
		}
	}
	if best.Point == "" {
		return wanted
	}
	return path.Join("/", best.Root, rest)
}

// A Scope is the hierarchies that a cgroup which a user names may be in.
type Scope struct {
	name string
	has  func(Mount) bool
}

// AnyHierarchy is where processes can be.
func AnyHierarchy() Scope { return Scope{"any hierarchy", func(Mount) bool { return true }} }

// OfCallers is where the callers of a trace are known to be, and those who pay, where
// memory cgroups are watched.
func OfCallers(memcg bool) Scope {
	if !memcg {
		return Scope{"the v2 hierarchy, by which callers are known", func(m Mount) bool { return m.V2 }}
	}
	return Scope{"the v2 and memory hierarchies", func(m Mount) bool { return m.V2 || slices.Contains(m.Controllers, "memory") }}
}

// Named is the path of a cgroup of this machine's that a user names, as Clean has it; ""
// for "". One that does not exist is an error.
func Named(wanted string, in Scope) (string, error) {
	if wanted == "" {
		return "", nil
	}
	t, err := Host()
	if err != nil {
		return "", err
	}
	return t.named(wanted, in)
}

func (t *Tree) named(wanted string, in Scope) (string, error) {
	path := t.Clean(wanted)
	var tried []string
	for _, m := range t.mounts {
		dir, shown := m.dir(path)
		if !in.has(m) || !shown {
			continue
		}
		if info, err := fs.Stat(t.root, dir); err == nil && info.IsDir() {
			return path, nil
		}
		tried = append(tried, "/"+dir)
	}
	if len(tried) == 0 {
		tried = []string{"nothing, for none is mounted here that could show it"}
	}
	return "", fmt.Errorf("cgroup %s: there is none in %s: tried %s", wanted, in.name, strings.Join(tried, ", "))
}

// Matches reports whether a cgroup is the wanted one or below it. Wanted may start
// with /sys/fs/cgroup; Clean knows other mount points.
func Matches(cgroup, wanted string) bool {
	wanted = path.Join("/", wanted)
	if rest, ok := below(wanted, "/sys/fs/cgroup"); ok {
		wanted = path.Join("/", rest)
	}
	_, ok := below(path.Join("/", cgroup), wanted)
	return ok && cgroup != ""
}

// below is the part of a path after a directory; false if it is elsewhere.
func below(p, dir string) (rest string, ok bool) {
	if dir == "/" {
		return p, true
	}
	rest, ok = strings.CutPrefix(p, dir)
	return rest, ok && (rest == "" || rest[0] == '/')
}
