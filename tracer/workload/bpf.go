package workload

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// BPFMaps creates BPF maps, and fills them. Every map costs exactly one
// BPF_MAP_CREATE: what a library does to find out about the kernel would be
// charged too, so the call is made here.
type BPFMaps struct {
	Type      string // see BPFMapTypes
	Name      string // of the maps, at most 15 letters
	Entries   uint32 // max_entries; a ring buffer's bytes; 0: what suits the type
	KeySize   uint32 // bytes; 0: what suits the type
	ValueSize uint32 // bytes; 0: what suits the type
	Count     int    // maps; 0: until refused
	Update    int    // elements to set in every map
	First     int    // number of the first element
	From      string // update this map, an id or a pinned path, and create none
	UID       int    // to become; -1: stay
	Caps      []string
	Memlock   int64  // RLIMIT_MEMLOCK in bytes; -1: leave it alone
	Cgroup    string // to move to, made where it is missing
	MemoryMax int64  // memory.max of Cgroup in bytes; -1: leave it alone
	Pin       string // path on a bpffs for the map; the second one gets PATH-2
	Hold      time.Duration
	Pause     time.Duration // between two maps
	Close     bool          // close each map before making the next
	JSON      bool
	Quiet     bool // no output
}

// BPFStep is what a step did, by the witness of the system call, of fdinfo and
// of the cgroup's own files.
type BPFStep struct {
	Step      string `json:"step"` // "start", "create", "update", "refused", "refused-update", "created" or "closed"
	Type      string `json:"type"`
	ID        uint32 `json:"id"`
	Name      string `json:"name"`
	Count     int    `json:"count"`         // maps created up to now
	Updated   int    `json:"updated"`       // elements that this step set
	Memlock   int64  `json:"memlock_bytes"` // of fdinfo; -1: not known
	Errno     int    `json:"errno"`
	ErrnoName string `json:"errno_name"`
	// Of the cgroup that the process is in; -1: not known, or not asked at this step.
	MemoryCurrent int64 `json:"memory_current_bytes"`
	MemoryKernel  int64 `json:"memory_stat_kernel_bytes"`
}

// bpfMapType is how a type of map wants to be created.
type bpfMapType struct {
	kind                        ebpf.MapType
	flags                       uint32
	entries, keySize, valueSize uint32 // defaults
	btf, inner                  bool   // needs types; needs an inner map
}

// bpfMapTypes are the types that the workload can make.
func bpfMapTypes() map[string]bpfMapType {
	return map[string]bpfMapType{
		"array":           {kind: ebpf.Array, entries: 1024, keySize: 4, valueSize: 8},
		"percpu-array":    {kind: ebpf.PerCPUArray, entries: 1024, keySize: 4, valueSize: 8},
		"hash":            {kind: ebpf.Hash, entries: 1024, keySize: 4, valueSize: 8},
		"hash-noprealloc": {kind: ebpf.Hash, flags: unix.BPF_F_NO_PREALLOC, entries: 1024, keySize: 4, valueSize: 8},
		"percpu-hash":     {kind: ebpf.PerCPUHash, entries: 1024, keySize: 4, valueSize: 8},
		"lru":             {kind: ebpf.LRUHash, entries: 1024, keySize: 4, valueSize: 8},
		"lpm-trie":        {kind: ebpf.LPMTrie, flags: unix.BPF_F_NO_PREALLOC, entries: 1024, keySize: 8, valueSize: 8},
		"ringbuf":         {kind: ebpf.RingBuf, entries: 64 << 10},
		"stack-trace":     {kind: ebpf.StackTrace, entries: 1024, keySize: 4, valueSize: 127 * 8},
		"array-of-maps":   {kind: ebpf.ArrayOfMaps, entries: 1024, keySize: 4, valueSize: 4, inner: true},
		"task-storage":    {kind: ebpf.TaskStorage, flags: unix.BPF_F_NO_PREALLOC, keySize: 4, valueSize: 8, btf: true},
		"queue":           {kind: ebpf.Queue, entries: 1024, valueSize: 8},
	}
}

// BPFMapTypes are the names of the types.
func BPFMapTypes() []string {
	var names []string
	for name := range bpfMapTypes() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// mapCreateAttr is the kernel's attr of BPF_MAP_CREATE, as of Linux 5.6.
type mapCreateAttr struct {
	mapType, keySize, valueSize, maxEntries, mapFlags uint32
	innerMapFD, numaNode                              uint32
	name                                              [unix.BPF_OBJ_NAME_LEN]byte
	ifindex, btfFD, btfKeyTypeID, btfValueTypeID      uint32
	btfVmlinuxValueTypeID                             uint32
}

// Run runs the workload and writes its steps to out.
func (b *BPFMaps) Run(out io.Writer) error {
	kind, ok := bpfMapTypes()[b.Type]
	if !ok && b.From == "" {
		return fmt.Errorf("--type %q: want one of %s", b.Type, strings.Join(BPFMapTypes(), ", "))
	}
	if len(b.Name) >= unix.BPF_OBJ_NAME_LEN {
		return fmt.Errorf("--name %q: the kernel takes at most %d letters", b.Name, unix.BPF_OBJ_NAME_LEN-1)
	}
	// What the maps need but what is not to be measured is made first, by the
	// user and in the cgroup that this process was started in.
	attr, release, err := b.attr(kind)
	if err != nil {
		return err
	}
	defer release()
	existing, err := openBPFMap(b.From)
	if err != nil {
		return err
	}
	if err := b.become(); err != nil {
		return err
	}
	if err := b.report(out, BPFStep{Step: "start", Memlock: -1}, true); err != nil {
		return err
	}
	if existing != nil {
		defer existing.Close()
		b.Type = existing.Type().String()
		return b.fill(out, existing)
	}
	return b.createAll(out, &attr)
}

// attr prepares the call; release closes what it refers to.
func (b *BPFMaps) attr(kind bpfMapType) (attr mapCreateAttr, release func(), err error) {
	orElse := func(value, otherwise uint32) uint32 {
		if value == 0 {
			return otherwise
		}
		return value
	}
	attr = mapCreateAttr{
		mapType:    uint32(kind.kind),
		mapFlags:   kind.flags,
		maxEntries: orElse(b.Entries, kind.entries),
		keySize:    orElse(b.KeySize, kind.keySize),
		valueSize:  orElse(b.ValueSize, kind.valueSize),
	}
	copy(attr.name[:], b.Name)
	release = func() {}
	switch {
	case b.From != "":
	case kind.inner:
		inner, err := createBPFMap(&mapCreateAttr{mapType: uint32(ebpf.Array), keySize: 4, valueSize: 8, maxEntries: 1})
		if err != nil {
			return attr, nil, fmt.Errorf("create the inner map: %w", err)
		}
		attr.innerMapFD = uint32(inner)
		release = func() { unix.Close(inner) }
	case kind.btf:
		handle, key, value, err := storageTypes(attr.valueSize)
		if err != nil {
			return attr, nil, fmt.Errorf("load the types of the map: %w", err)
		}
		attr.btfFD, attr.btfKeyTypeID, attr.btfValueTypeID = uint32(handle.FD()), uint32(key), uint32(value)
		release = func() { handle.Close() }
	}
	return attr, release, nil
}

// storageTypes are the types of a local storage's key and value.
func storageTypes(valueSize uint32) (*btf.Handle, btf.TypeID, btf.TypeID, error) {
	integer := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	var b btf.Builder
	key, err := b.Add(integer)
	if err != nil {
		return nil, 0, 0, err
	}
	value, err := b.Add(&btf.Array{Index: integer, Type: &btf.Int{Name: "char", Size: 1, Encoding: btf.Char}, Nelems: valueSize})
	if err != nil {
		return nil, 0, 0, err
	}
	handle, err := btf.NewHandle(&b)
	return handle, key, value, err
}

func createBPFMap(attr *mapCreateAttr) (fd int, err error) {
	got, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	if errno != 0 {
		return -1, errno
	}
	return int(got), nil
}

// openBPFMap opens a map by its id or its pinned path; "" is no map.
func openBPFMap(from string) (*ebpf.Map, error) {
	if from == "" {
		return nil, nil
	}
	if id, err := strconv.ParseUint(from, 10, 32); err == nil {
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			return nil, fmt.Errorf("open map %d: %w (needs CAP_SYS_ADMIN)", id, err)
		}
		return m, nil
	}
	m, err := ebpf.LoadPinnedMap(from, nil)
	if err != nil {
		return nil, fmt.Errorf("open map %s: %w", from, err)
	}
	return m, nil
}

// become moves to the cgroup, sets the limit and becomes the uid, in this
// order: the first two need root.
func (b *BPFMaps) become() error {
	if b.Cgroup != "" {
		if err := b.join(); err != nil {
			return err
		}
	}
	if b.Memlock >= 0 {
		limit := unix.Rlimit{Cur: uint64(b.Memlock), Max: uint64(b.Memlock)}
		if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &limit, nil); err != nil {
			return fmt.Errorf("set RLIMIT_MEMLOCK to %d bytes: %w", b.Memlock, err)
		}
	}
	if b.UID < 0 || b.UID == os.Getuid() {
		return nil
	}
	if err := cap.SetGroups(b.UID); err != nil {
		return fmt.Errorf("become gid %d: %w (needs root)", b.UID, err)
	}
	if err := cap.SetUID(b.UID); err != nil {
		return fmt.Errorf("become uid %d: %w", b.UID, err)
	}
	if err := (&RunAs{Caps: b.Caps}).limit(); err != nil {
		return err
	}
	// Becoming another user made /proc/self/fdinfo root's.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("make /proc/self readable again: %w", err)
	}
	return nil
}

// join moves this process to its cgroup of the v2 hierarchy, and makes it, with
// the memory controller, where it is missing.
func (b *BPFMaps) join() error {
	parent := filepath.Dir(b.Cgroup)
	if _, err := os.Stat(b.Cgroup); errors.Is(err, os.ErrNotExist) {
		if err := os.Mkdir(b.Cgroup, 0o755); err != nil {
			return fmt.Errorf("make cgroup %s: %w", b.Cgroup, err)
		}
		// Fails where there is no memory controller, or none to pass on; then
		// the files that are missing say so.
		os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+memory"), 0)
	}
	if b.MemoryMax >= 0 {
		if err := os.WriteFile(filepath.Join(b.Cgroup, "memory.max"), fmt.Append(nil, b.MemoryMax), 0); err != nil {
			return fmt.Errorf("set memory.max of %s to %d bytes: %w", b.Cgroup, b.MemoryMax, err)
		}
	}
	if err := os.WriteFile(filepath.Join(b.Cgroup, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("move to cgroup %s: %w", b.Cgroup, err)
	}
	return nil
}

func (b *BPFMaps) createAll(out io.Writer, attr *mapCreateAttr) error {
	var maps []*ebpf.Map
	defer func() {
		for _, m := range maps {
			m.Close()
		}
	}()
	count := 0
	for ; b.Count == 0 || count < b.Count; count++ {
		fd, err := createBPFMap(attr)
		var errno unix.Errno
		if errors.As(err, &errno) {
			if err := b.refused(out, "refused", count, 0, errno); err != nil {
				return err
			}
			break
		}
		m, err := ebpf.NewMapFromFD(fd)
		if err != nil {
			return fmt.Errorf("read what map %d is: %w", count+1, err)
		}
		if !b.Close {
			maps = append(maps, m)
		}
		if err := b.created(out, m, count+1); err != nil {
			return err
		}
		if b.Close {
			m.Close()
		}
		time.Sleep(b.Pause)
	}
	runtime.KeepAlive(attr)
	if err := b.report(out, BPFStep{Step: "created", Count: count, Memlock: -1}, true); err != nil {
		return err
	}
	time.Sleep(b.Hold)
	for _, m := range maps {
		m.Close()
	}
	maps = nil
	return b.report(out, BPFStep{Step: "closed", Count: count, Memlock: -1}, true)
}

func (b *BPFMaps) created(out io.Writer, m *ebpf.Map, count int) error {
	if err := b.report(out, b.step("create", m, count), false); err != nil {
		return err
	}
	if b.Pin != "" {
		path := b.Pin
		if count > 1 {
			path = fmt.Sprintf("%s-%d", path, count)
		}
		if err := m.Pin(path); err != nil {
			return fmt.Errorf("pin map %d at %s: %w", count, path, err)
		}
	}
	if b.Update == 0 {
		return nil
	}
	return b.update(out, m, count)
}

// step describes a map by fdinfo. Quiet runs of many maps do without.
func (b *BPFMaps) step(name string, m *ebpf.Map, count int) BPFStep {
	s := BPFStep{Step: name, Name: b.Name, Count: count, Memlock: -1}
	if b.Quiet {
		return s
	}
	info, err := m.Info()
	if err != nil {
		return s
	}
	id, _ := info.ID()
	s.ID, s.Name = uint32(id), info.Name
	bytes, _ := info.Memlock() // not ok is 0 bytes, which an empty trie has
	s.Memlock = int64(bytes)
	return s
}

func (b *BPFMaps) fill(out io.Writer, m *ebpf.Map) error {
	if err := b.update(out, m, 0); err != nil {
		return err
	}
	time.Sleep(b.Hold)
	return nil
}

// update sets elements, as many as the kernel lets it.
func (b *BPFMaps) update(out io.Writer, m *ebpf.Map, count int) error {
	set, err := elementSetter(m)
	if err != nil {
		return err
	}
	for i := range b.Update {
		err := set(b.First + i)
		var errno unix.Errno
		if errors.As(err, &errno) {
			return b.refused(out, "refused-update", count, i, errno)
		}
		if err != nil {
			return fmt.Errorf("update element %d: %w", b.First+i, err)
		}
	}
	s := b.step("update", m, count)
	s.Updated = b.Update
	return b.report(out, s, true)
}

// elementSetter returns what sets the nth element of a map.
func elementSetter(m *ebpf.Map) (func(n int) error, error) {
	var value any = slices.Repeat([]byte{1}, int(m.ValueSize()))
	var element func(n int) (key any, err error)
	switch m.Type() {
	case ebpf.PerCPUArray, ebpf.PerCPUHash:
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			return nil, err
		}
		value = slices.Repeat([][]byte{value.([]byte)}, cpus)
		element = func(n int) (any, error) { return elementKey(n, int(m.KeySize()), 0) }
	case ebpf.LPMTrie:
		element = func(n int) (any, error) { return elementKey(n, int(m.KeySize()), 4) }
	case ebpf.Array, ebpf.Hash, ebpf.LRUHash:
		element = func(n int) (any, error) { return elementKey(n, int(m.KeySize()), 0) }
	case ebpf.Queue:
		return func(int) error { return m.Update(nil, value, ebpf.UpdateAny) }, nil
	case ebpf.TaskStorage:
		return func(int) error { return setTaskStorage(m, value) }, nil
	default:
		return nil, fmt.Errorf("update: a map of type %s has no elements that user space sets", m.Type())
	}
	return func(n int) error {
		key, err := element(n)
		if err != nil {
			return err
		}
		return m.Update(key, value, ebpf.UpdateAny)
	}, nil
}

// elementKey is the nth key: a number in the machine's byte order, after an LPM
// trie's prefix length of so many bytes.
func elementKey(n, size, prefix int) ([]byte, error) {
	number := binary.NativeEndian.AppendUint64(nil, uint64(n))
	key := make([]byte, size)
	if prefix > size {
		return nil, fmt.Errorf("a key of %d bytes has no room for a prefix length", size)
	}
	copied := copy(key[prefix:], number)
	if copied < 8 && uint64(n)>>(8*copied) != 0 {
		return nil, fmt.Errorf("element %d has no key of %d bytes", n, size-prefix)
	}
	if prefix > 0 {
		binary.NativeEndian.PutUint32(key, uint32(8*(size-prefix)))
	}
	return key, nil
}

// setTaskStorage sets this task's value: there is one per task.
func setTaskStorage(m *ebpf.Map, value any) error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(fd)
	return m.Update(uint32(fd), value, ebpf.UpdateAny)
}

func (b *BPFMaps) refused(out io.Writer, step string, count, updated int, errno unix.Errno) error {
	return b.report(out, BPFStep{Step: step, Name: b.Name, Count: count, Updated: updated, Memlock: -1,
		Errno: int(errno), ErrnoName: rule.ErrnoName(errno)}, true)
}

func (b *BPFMaps) report(out io.Writer, s BPFStep, witness bool) error {
	if b.Quiet {
		return nil
	}
	s.Type, s.MemoryCurrent, s.MemoryKernel = b.Type, -1, -1
	if b.Cgroup != "" && witness {
		s.MemoryCurrent, s.MemoryKernel = cgroupMemory(b.Cgroup)
	}
	if b.JSON {
		return json.NewEncoder(out).Encode(s)
	}
	_, err := fmt.Fprintf(out, "workload: %s\n", s)
	return err
}

func (s BPFStep) String() string {
	text := s.Step
	switch s.Step {
	case "create", "update":
		text = fmt.Sprintf("%s %s id %d, memlock %d bytes, %d elements set", s.Step, s.Type, s.ID, s.Memlock, s.Updated)
	case "refused", "refused-update":
		text = fmt.Sprintf("%s: %s after %d maps, %d elements set", s.Step, s.ErrnoName, s.Count, s.Updated)
	case "created", "closed":
		text = fmt.Sprintf("%s %d maps", s.Step, s.Count)
	}
	if s.MemoryCurrent >= 0 {
		text += fmt.Sprintf("; cgroup: memory.current %d bytes, kernel %d bytes", s.MemoryCurrent, s.MemoryKernel)
	}
	return text
}

// cgroupMemory is memory.current, and "kernel" of memory.stat (Linux 5.18), in
// bytes; -1 where there is none.
//
// memory.current is exact but for what every CPU holds in stock, 64 pages at most
// (MEMCG_CHARGE_BATCH). memory.stat is added up only when enough seems to have
// changed, or every two seconds (FLUSH_TIME in mm/memcontrol.c), and 7.3 was seen to
// answer with what had been before a map of 17 MB: where the two disagree by more
// than that stock, the second one is waited for.
func cgroupMemory(path string) (current, kernel int64) {
	const flushed = 3 * time.Second
	late := int64(64 * runtime.NumCPU() * os.Getpagesize())
	for end := time.Now().Add(flushed); ; time.Sleep(100 * time.Millisecond) {
		current, kernel = -1, -1
		if raw, err := os.ReadFile(filepath.Join(path, "memory.current")); err == nil {
			current = parseBytes(strings.TrimSpace(string(raw)))
		}
		raw, err := os.ReadFile(filepath.Join(path, "memory.stat"))
		if err != nil {
			return current, kernel
		}
		var told int64
		for line := range strings.Lines(string(raw)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch name {
			case "kernel":
				kernel = parseBytes(value)
				told += kernel
			case "anon", "file", "sock":
				told += parseBytes(value)
			}
		}
		if off := current - told; current < 0 || kernel < 0 || off < late && off > -late || time.Now().After(end) {
			return current, kernel
		}
	}
}

func parseBytes(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1
	}
	return n
}
