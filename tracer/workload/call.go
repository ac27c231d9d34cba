package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// oneCall is a system call that the kernel may refuse, and by whom it is made.
type oneCall struct {
	uid     int    // to become; -1: stay
	cgroup  string // where BPF maps are made
	cap     string // capability to keep; "": none
	memlock int    // RLIMIT_MEMLOCK in pages; -1: leave it alone

	count  int // entries of a ring or a map, buffers, or sends
	bytes  int // of a buffer, a umem, a send, or a map's value
	offset int // bytes between the beginning of a page and the first buffer
	huge   int // not 0: buffers lie on huge pages, where the kernel has some

	// Of a perf buffer:
	event   int // its file descriptor
	cpu     int // of the event; -1: any
	inherit int // not 0: the event's children inherit it
	private int // not 0: MAP_PRIVATE
	pages   int // data pages
	again   int // not 0: data pages of a second mapping, after the first one
	aux     int // not 0: pages of an AUX area, after the data area
	unset   int // not 0: the control page says nothing of the AUX area
}

// Outcome is what a call returned, by the witness of the call itself.
type Outcome struct {
	Call  string `json:"call"`
	Errno int    `json:"errno"`
	Made  int    `json:"made"` // of those that were to be made, how many there are
}

var calls = map[string]func(*oneCall) (made int, err error){
	"ring":    (*oneCall).ring,
	"buffers": (*oneCall).buffers,
	"umem":    (*oneCall).umem,
	"sends":   (*oneCall).sends,
	"mapping": (*oneCall).mapping,
	"over":    (*oneCall).over,
	"part":    (*oneCall).part,
	"map":     (*oneCall).bpfMap,
	"fill":    (*oneCall).fill,

	"closed-ring":    (*oneCall).closedRing,
	"closed-umem":    (*oneCall).closedUmem,
	"closed-map":     (*oneCall).closedMap,
	"closed-program": (*oneCall).closedProgram,
}

// parse reads NAME=VALUE.
func (r *oneCall) parse(parameters []string) error {
	fields := map[string]*int{"uid": &r.uid, "memlock": &r.memlock, "count": &r.count, "bytes": &r.bytes, "offset": &r.offset, "huge": &r.huge,
		"cpu": &r.cpu, "inherit": &r.inherit, "private": &r.private, "pages": &r.pages, "again": &r.again, "aux": &r.aux, "unset": &r.unset}
	for _, p := range parameters {
		name, value, _ := strings.Cut(p, "=")
		switch name {
		case "cap":
			r.cap = value
			continue
		case "cgroup":
			r.cgroup = value
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil || fields[name] == nil {
			return fmt.Errorf("%q: want cap=NAME, cgroup=DIRECTORY, or a number of one of %v", p, slices.Sorted(maps.Keys(fields)))
		}
		*fields[name] = n
	}
	return nil
}

// become drops what the call is to be made without.
func (r *oneCall) become() error {
	if r.memlock >= 0 {
		bytes := uint64(r.memlock * os.Getpagesize())
		limit := unix.Rlimit{Cur: bytes, Max: bytes}
		if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &limit, nil); err != nil {
			return fmt.Errorf("set RLIMIT_MEMLOCK: %w", err)
		}
	}
	as := &RunAs{UID: r.uid}
	if r.cap != "" {
		as.Caps = []string{r.cap}
	}
	return as.become()
}

// MakeCall makes the call that the first argument names, with the parameters that follow,
// and writes what came of it as a JSON line.
func MakeCall(args []string, out io.Writer) error {
	call := calls[args[0]]
	if call == nil {
		return fmt.Errorf("call %q: want one of %v", args[0], slices.Sorted(maps.Keys(calls)))
	}
	r := &oneCall{uid: 65534, memlock: 16, count: 1, bytes: os.Getpagesize(), cpu: -1, pages: 8}
	if err := r.parse(args[1:]); err != nil {
		return err
	}
	// With the privileges that are given up next.
	var err error
	if r.event, err = r.openEvent(); err != nil {
		return err
	}
	defer unix.Close(r.event)
	runtime.LockOSThread()
	if strings.HasPrefix(args[0], "closed-") {
		if err := beforeWorkers(); err != nil {
			return err
		}
	}
	if err := r.become(); err != nil {
		return err
	}
	made, err := call(r)
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		return err
	}
	return json.NewEncoder(out).Encode(Outcome{args[0], int(errno), made})
}

func (r *oneCall) ring() (int, error) {
	fd, errno := newRing(uint32(r.count), 0)
	if errno != 0 {
		return 0, errno
	}
	return 1, unix.Close(fd)
}

// join moves this process to the cgroup.
func (r *oneCall) join() error {
	return os.WriteFile(r.cgroup+"/cgroup.procs", []byte("0"), 0)
}

// buffers registers all of them at once.
func (r *oneCall) buffers() (int, error) {
	fd, errno := newRing(1, 0)
	if errno != 0 {
		return 0, errno
	}
	defer unix.Close(fd)
	memory, err := r.memory(r.count*r.bytes + r.offset)
	if err != nil {
		return 0, err
	}
	vectors := make([]unix.Iovec, r.count)
	for i := range vectors {
		from := r.offset + i*r.bytes
		vectors[i] = vector(memory[from : from+r.bytes])
	}
	if errno := registerBuffers(fd, vectors...); errno != 0 {
		return 0, errno
	}
	return r.count, nil
}

// memory is so many bytes at the beginning of a page, on huge pages or on none.
func (r *oneCall) memory(bytes int) ([]byte, error) {
	page := os.Getpagesize()
	align, advice := page, unix.MADV_NOHUGEPAGE
	if r.huge != 0 {
		huge, err := hugePage()
		if err != nil {
			return nil, err
		}
		align, advice = huge, unix.MADV_HUGEPAGE
	}
	memory, err := anonymous((bytes + 2*align) / page)
	if err != nil {
		return nil, err
	}
	if err := unix.Madvise(memory, advice); err != nil {
		return nil, fmt.Errorf("huge pages: %w", err)
	}
	skip := (align - int(uintptr(unsafe.Pointer(&memory[0]))%uintptr(align))) % align
	memory = memory[skip:]
	for i := 0; i < bytes; i += page {
		memory[i] = 1 // so that it is there
	}
	return memory, nil
}

func (r *oneCall) umem() (int, error) {
	release, err := xdpUmem(r.bytes / os.Getpagesize())
	if err != nil {
		return 0, err
	}
	release()
	return 1, nil
}

// sends are under way at once: several are parts of one datagram that is not sent.
func (r *oneCall) sends() (made int, err error) {
	l, err := newLane()
	if err != nil {
		return 0, err
	}
	defer l.release()
	memory, flags := make([]byte, r.bytes), unix.MSG_ZEROCOPY
	if r.count > 1 {
		flags |= unix.MSG_MORE
	}
	for ; made < r.count; made++ {
		if err := unix.Sendto(l.sender, memory, flags, l.to); err != nil {
			return made, err
		}
	}
	return made, nil
}

func (r *oneCall) openEvent() (int, error) {
	attr := kernel.DummyEvent()
	if r.inherit != 0 {
		attr.Bits |= unix.PerfBitInherit
	}
	fd, err := unix.PerfEventOpen(attr, 0, r.cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("perf_event_open: %w", err)
	}
	return fd, nil
}

// mapping maps a perf buffer, and what is to be mapped after it.
func (r *oneCall) mapping() (made int, err error) {
	flags, page := unix.MAP_SHARED, os.Getpagesize()
	if r.private != 0 {
		flags = unix.MAP_PRIVATE
	}
	data, err := unix.Mmap(r.event, 0, (r.pages+1)*page, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return 0, err
	}
	made++
	switch {
	case r.again != 0:
		_, err = unix.Mmap(r.event, 0, (r.again+1)*page, unix.PROT_READ, flags)
	case r.unset != 0:
		_, err = unix.Mmap(r.event, int64(len(data)), r.aux*page, unix.PROT_READ, flags)
	case r.aux != 0:
		_, err = mapAUX(r.event, data, r.aux)
	default:
		return made, nil
	}
	if err == nil {
		made++
	}
	return made, err
}

// buffer maps a perf buffer where as much room is behind it, and returns the address of its
// third page.
func (r *oneCall) buffer() (inside, size uintptr, err error) {
	page := uintptr(os.Getpagesize())
	size = uintptr(r.pages+1) * page
	base, err := mmapAt(0, 2*size, -1)
	if err == nil {
		base, err = mmapAt(base, size, r.event)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("map a perf buffer: %s", err)
	}
	return base + 2*page, size, nil
}

// over maps the buffer once more, over a part of the first mapping.
func (r *oneCall) over() (made int, err error) {
	inside, size, err := r.buffer()
	if err != nil {
		return 0, err
	}
	if _, err := mmapAt(inside, size, r.event); err != nil {
		return 1, err
	}
	return 2, nil
}

// part unmaps a part of the buffer.
func (r *oneCall) part() (made int, err error) {
	inside, _, err := r.buffer()
	if err != nil {
		return 0, err
	}
	return 1, munmap(inside, uintptr(os.Getpagesize()))
}

// bpfMap makes a hash map, all of it.
func (r *oneCall) bpfMap() (made int, err error) {
	// Without a name, for which the library would first try a map of its own, against the
	// same limit.
	m, err := r.newMap("", 0)
	if err != nil {
		return 0, err
	}
	return 1, m.Close()
}

// newMap makes one map and no other: the library first makes some to try what the kernel can,
// whose pages may stay charged for a moment.
func (r *oneCall) newMap(name string, flags uint32) (*ebpf.Map, error) {
	attr := mapCreateAttr{mapType: uint32(ebpf.Hash), keySize: 8, valueSize: uint32(r.bytes), maxEntries: uint32(r.count), mapFlags: flags}
	copy(attr.name[:], name)
	fd, err := createBPFMap(&attr)
	if err != nil {
		return nil, err
	}
	return ebpf.NewMapFromFD(fd)
}

// fill makes a hash map in a cgroup, and from another one sets its elements, which are
// allocated then, until that fails.
func (r *oneCall) fill() (made int, err error) {
	if err := r.join(); err != nil {
		return 0, err
	}
	m, err := r.newMap("refused", unix.BPF_F_NO_PREALLOC)
	r.cgroup = "/sys/fs/cgroup"
	if err := errors.Join(err, r.join()); err != nil {
		return 0, err
	}
	defer m.Close()
	for value := make([]byte, r.bytes); made < r.count; made++ {
		if err := m.Update(uint64(made), value, ebpf.UpdateAny); err != nil {
			return made, err
		}
	}
	return made, nil
}
