package check

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"golang.org/x/sys/unix"
)

// objects are what an actor holds that is charged besides perf buffers: BPF maps
// and programs, io_uring rings and AF_XDP sockets.
type objects struct {
	maps     []*ebpf.Map
	programs []int // descriptors
}

// op finds what does a request; nil: there is none.
func (o *objects) op(name string) func(*request) reply {
	return map[string]func(*request) reply{
		"bpf-map":      o.bpfMap,
		"bpf-maps":     o.bpfMaps,
		"bpf-programs": o.bpfPrograms,
		"bpf-churn":    o.bpfChurn,
		"bpf-release":  o.bpfRelease,
		"bpf-arena":    o.bpfArena,
		"bpf-hash":     o.bpfHash,
		"bpf-update":   bpfUpdate,
		"bpf-delete":   bpfDelete,
		"touch":        touchMapped,
		"uring":        uring,
		"register":     uringRegister,
		"unregister":   uringUnregister,
		"umem":         umem,
		"map-of":       mapOf,
		"send-more":    sendMore,
		"secretmem":    secretmem,
	}[name]
}

// errnoOf is what an error is called in a note.
func errnoOf(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return rule.ErrnoName(errno)
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		return "not supported"
	}
	return err.Error()
}

// arrayOf is an array map of about so many pages of memory.
func arrayOf(pages int64) *ebpf.MapSpec {
	return &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(os.Getpagesize()) - 8, MaxEntries: uint32(pages)}
}

// bpfMap creates one array map and keeps it. Its errno may be any.
func (o *objects) bpfMap(r *request) reply {
	m, err := ebpf.NewMap(arrayOf(r.Pages))
	var errno unix.Errno
	if errors.As(err, &errno) {
		return reply{Errno: int(errno)}
	}
	if err != nil {
		return failed(err)
	}
	o.maps = append(o.maps, m)
	return reply{}
}

// mapOf creates an array map of just so many pages, of which no library knows.
func mapOf(r *request) reply {
	const valueBytes = 8
	// What the kernel puts before the values is less than half a page.
	attr := [5]uint32{unix.BPF_MAP_TYPE_ARRAY, 4, valueBytes, uint32((r.Pages*page() - page()/2) / valueBytes)} // and map_flags
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	return result(fd, errno)
}

// sendMore sends some pages with MSG_ZEROCOPY over loopback, as a part of a datagram: it stays
// with its socket, which is the value.
func sendMore(r *request) reply {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1)
	}
	if err == nil {
		const discard = 9
		err = unix.Sendto(fd, make([]byte, r.Pages*page()), unix.MSG_ZEROCOPY|unix.MSG_MORE, &unix.SockaddrInet4{Port: discard, Addr: [4]byte{127, 0, 0, 1}})
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		unix.Close(fd)
		return reply{Errno: int(errno)}
	}
	return reply{Value: int64(fd)}
}

// bpfArena creates an arena of some pages, and keeps it. The value is its descriptor.
func (o *objects) bpfArena(r *request) reply {
	return o.kept(&ebpf.MapSpec{Type: ebpf.Arena, MaxEntries: uint32(r.Pages), Flags: unix.BPF_F_MMAPABLE})
}

// bpfHash does so with a hash of at most r.Pages elements of 4 KiB, which are allocated
// when they are updated.
func (o *objects) bpfHash(r *request) reply {
	return o.kept(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: elementBytes, MaxEntries: uint32(r.Pages), Flags: unix.BPF_F_NO_PREALLOC})
}

// elementBytes are those of a value that comes to 4 KiB with what the kernel puts before it:
// the most that its allocator of elements has.
const elementBytes = 4000

func (o *objects) kept(spec *ebpf.MapSpec) reply {
	m, err := ebpf.NewMap(spec)
	var errno unix.Errno
	switch {
	case errors.As(err, &errno):
		return reply{Errno: int(errno)}
	case errors.Is(err, ebpf.ErrNotSupported):
		return reply{Errno: int(unix.EOPNOTSUPP)}
	case err != nil:
		return failed(err)
	}
	o.maps = append(o.maps, m)
	return reply{Value: int64(m.FD())}
}

// element is what bpf(2) takes for one, with 32 bits for its key.
type element struct {
	fd         uint32
	key, value unsafe.Pointer
	flags      uint64
}

func (e *element) call(command uintptr) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(e)), unsafe.Sizeof(*e))
	return errno
}

// bpfUpdate updates at most N elements of the map r.FD, until one is refused. The value is
// how many were not.
func bpfUpdate(r *request) reply {
	leave, errno := stayOnCPU()
	if errno != 0 {
		return reply{Errno: int(errno)}
	}
	defer leave()
	key, value := new(uint32), make([]byte, elementBytes)
	e := element{fd: uint32(r.FD), key: unsafe.Pointer(key), value: unsafe.Pointer(&value[0])}
	for ; int(*key) < r.N; *key++ {
		if errno := e.call(unix.BPF_MAP_UPDATE_ELEM); errno != 0 {
			return reply{Value: int64(*key), Errno: int(errno)}
		}
	}
	return reply{Value: int64(*key)}
}

// stayOnCPU keeps the caller on the first CPU that it may run on, until leave is called.
func stayOnCPU() (leave func(), errno unix.Errno) {
	var may, first unix.CPUSet
	runtime.LockOSThread()
	err := unix.SchedGetaffinity(0, &may)
	for cpu := 0; first.Count() == 0 && cpu < 8*int(unsafe.Sizeof(may)); cpu++ {
		if may.IsSet(cpu) {
			first.Set(cpu)
		}
	}
	if err == nil {
		err = unix.SchedSetaffinity(0, &first)
	}
	if err != nil {
		runtime.UnlockOSThread()
		errno, _ = err.(unix.Errno)
		return nil, errno
	}
	return func() {
		unix.SchedSetaffinity(0, &may)
		runtime.UnlockOSThread()
	}, 0
}

// bpfDelete deletes the first N elements, with pauses. BPF's allocator hands elements that were
// deleted to RCU once many have been, and no more of them while those are under way: the rest
// waits for the next that are deleted (do_call_rcu, kernel/bpf/memalloc.c). All at once, most of a
// map would stay charged until somebody deletes as many again, on the same CPU.
func bpfDelete(r *request) reply {
	const many, pause = 128, 30 * time.Millisecond
	leave, errno := stayOnCPU()
	if errno != 0 {
		return reply{Errno: int(errno)}
	}
	defer leave()
	key := new(uint32)
	e := element{fd: uint32(r.FD), key: unsafe.Pointer(key)}
	for ; int(*key) < r.N; *key++ {
		if *key%many == many-1 {
			time.Sleep(pause)
		}
		if errno := e.call(unix.BPF_MAP_DELETE_ELEM); errno != 0 {
			return reply{Errno: int(errno)}
		}
	}
	return reply{}
}

// mapPages is about what each map of mapSpecs takes, where its type lets it.
const mapPages = 256

// mapSpecs has one map of each type, most of them of mapBytes.
func mapSpecs() []*ebpf.MapSpec {
	spec := func(kind ebpf.MapType, key, value, entries uint32) *ebpf.MapSpec {
		return &ebpf.MapSpec{Type: kind, KeySize: key, ValueSize: value, MaxEntries: entries}
	}
	mapBytes := uint32(mapPages * os.Getpagesize())
	slots := mapBytes / 8
	inner := spec(ebpf.Array, 4, 4, 1)
	number := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	storage := func(kind ebpf.MapType) *ebpf.MapSpec {
		return &ebpf.MapSpec{Type: kind, KeySize: 4, ValueSize: 4, Flags: unix.BPF_F_NO_PREALLOC, Key: number, Value: number}
	}
	nested := func(kind ebpf.MapType) *ebpf.MapSpec {
		m := spec(kind, 4, 4, slots/8)
		m.InnerMap = inner
		return m
	}
	trie := spec(ebpf.LPMTrie, 8, 4, 1024)
	trie.Flags = unix.BPF_F_NO_PREALLOC
	arena := spec(ebpf.Arena, 0, 0, 16)
	arena.Flags = unix.BPF_F_MMAPABLE
	return []*ebpf.MapSpec{
		spec(ebpf.Hash, 4, 240, mapBytes/256), spec(ebpf.Array, 4, 256, mapBytes/256), spec(ebpf.ProgramArray, 4, 4, slots),
		spec(ebpf.PerfEventArray, 4, 4, slots), spec(ebpf.PerCPUHash, 4, 64, 2048), spec(ebpf.PerCPUArray, 4, 64, 4096),
		spec(ebpf.StackTrace, 4, 8*16, mapBytes/256), spec(ebpf.CGroupArray, 4, 4, slots), spec(ebpf.LRUHash, 4, 240, mapBytes/256),
		spec(ebpf.LRUCPUHash, 4, 64, 2048), trie, nested(ebpf.ArrayOfMaps), nested(ebpf.HashOfMaps),
		spec(ebpf.DevMap, 4, 4, slots), spec(ebpf.SockMap, 4, 4, slots), spec(ebpf.CPUMap, 4, 4, 1), spec(ebpf.XSKMap, 4, 4, slots),
		spec(ebpf.SockHash, 4, 4, slots), spec(ebpf.CGroupStorage, 16, 64, 0), spec(ebpf.ReusePortSockArray, 4, 8, slots),
		spec(ebpf.PerCPUCGroupStorage, 16, 64, 0), spec(ebpf.Queue, 0, 256, mapBytes/256), spec(ebpf.Stack, 0, 256, mapBytes/256),
		storage(ebpf.SkStorage), spec(ebpf.DevMapHash, 4, 4, mapBytes/64), spec(ebpf.RingBuf, 0, 0, mapBytes), storage(ebpf.InodeStorage),
		storage(ebpf.TaskStorage), spec(ebpf.BloomFilter, 0, 8, slots), spec(ebpf.UserRingbuf, 0, 0, mapBytes), storage(ebpf.CgroupStorage), arena,
	}
}

// bpfMaps creates a map of every type. The notes name the types that this kernel
// refuses, and why.
func (o *objects) bpfMaps(*request) (r reply) {
	for _, spec := range mapSpecs() {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			r.Notes = append(r.Notes, fmt.Sprintf("%s: %s", spec.Type, errnoOf(err)))
			continue
		}
		o.maps = append(o.maps, m)
		r.Value++
	}
	return r
}

// program is what one call of bpf(2) loads.
type program struct {
	kind   ebpf.ProgramType
	attach ebpf.AttachType
	flags  uint32
	code   []byte
}

// load loads it by bpf(2) itself: all that the library does around that costs an
// emulated guest more than the kernel's part.
func (p *program) load() (int, unix.Errno) {
	license := []byte("GPL\x00")
	attr := struct {
		kind, count     uint32
		code, license   uint64
		level, logSize  uint32
		log             uint64
		version, flags  uint32
		name            [16]byte
		ifindex, attach uint32
	}{
		kind: uint32(p.kind), count: uint32(len(p.code) / asm.InstructionSize), flags: p.flags, attach: uint32(p.attach),
		code: uint64(uintptr(unsafe.Pointer(&p.code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(license)
	runtime.KeepAlive(p.code)
	return int(fd), errno
}

// encode makes the kernel's form of instructions, which are ours and complete.
func encode(instructions asm.Instructions) []byte {
	var b bytes.Buffer
	if err := instructions.Marshal(&b, binary.LittleEndian); err != nil { // amd64 and arm64
		panic(err)
	}
	return b.Bytes()
}

// programs are one of each type that needs nothing to attach to.
func programs() (list []program) {
	code := encode(asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()})
	types := map[ebpf.ProgramType]ebpf.AttachType{
		ebpf.CGroupSockAddr: ebpf.AttachCGroupInet4Connect, ebpf.CGroupSockopt: ebpf.AttachCGroupGetsockopt, ebpf.SkLookup: ebpf.AttachSkLookup,
		ebpf.Netfilter: ebpf.AttachNetfilter, ebpf.CGroupSKB: ebpf.AttachCGroupInetIngress,
	}
	for kind := ebpf.SocketFilter; kind <= ebpf.Netfilter; kind++ {
		switch kind {
		case ebpf.Tracing, ebpf.LSM, ebpf.Extension, ebpf.StructOps:
			continue // want a target in the kernel's types
		}
		p := program{kind: kind, attach: types[kind], code: code}
		if kind == ebpf.Syscall {
			p.flags = unix.BPF_F_SLEEPABLE
		}
		list = append(list, p)
	}
	// Reading the context makes the kernel rewrite the program, which grows: it
	// was reallocated without being charged up to 4.9 (5ccb071e97fb).
	grows := make(asm.Instructions, 0, 600)
	grows = append(grows, asm.Mov.Reg(asm.R6, asm.R1))
	for range cap(grows) - 3 {
		grows = append(grows, asm.LoadMem(asm.R0, asm.R6, 16, asm.Word)) // __sk_buff.protocol
	}
	grows = append(grows, asm.Mov.Imm(asm.R0, 0), asm.Return())
	return append(list, program{kind: ebpf.SocketFilter, code: encode(grows)})
}

// programCopies is how many programs of a type are loaded, each of which takes a page
// and a bit: many small ones weigh as much as a large one, which the verifier would
// spend most of the check's time on.
const programCopies = 6

// bpfPrograms loads programs of every type. The notes name those that this kernel
// refuses.
func (o *objects) bpfPrograms(*request) (r reply) {
	for _, p := range programs() {
		for range programCopies {
			fd, errno := p.load()
			if errno != 0 {
				r.Notes = append(r.Notes, fmt.Sprintf("%s: %s", p.kind, rule.ErrnoName(errno)))
				break
			}
			o.programs = append(o.programs, fd)
			r.Value++
		}
	}
	return r
}

// bpfChurn creates maps and programs, and releases some of them, until the
// process is killed. It holds at most as many as r.N maps.
func (o *objects) bpfChurn(r *request) reply {
	one := programs()[0]
	for {
		m, err := ebpf.NewMap(arrayOf(r.Pages))
		if err == nil {
			o.maps = append(o.maps, m)
		}
		if err != nil || len(o.maps) > r.N {
			o.bpfRelease(nil)
		}
		if len(o.programs) == 0 {
			if fd, errno := one.load(); errno == 0 {
				o.programs = append(o.programs, fd)
			}
		}
	}
}

func (o *objects) bpfRelease(*request) reply {
	for _, m := range o.maps {
		m.Close()
	}
	for _, fd := range o.programs {
		unix.Close(fd)
	}
	o.maps, o.programs = nil, nil
	return reply{}
}

// memory is an anonymous mapping of small pages, all of them there.
func memory(pages int64) (uintptr, unix.Errno) {
	bytes := uintptr(pages) * uintptr(os.Getpagesize())
	addr, errno := mmap(-1, bytes, 0, readWrite, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if errno == 0 {
		unix.Syscall(unix.SYS_MADVISE, addr, bytes, unix.MADV_NOHUGEPAGE)
	}
	return addr, errno
}

// uringParams is struct io_uring_params.
type uringParams struct {
	sqEntries, cqEntries, flags, sqCPU, sqIdle, features, wqFD  uint32
	reserved                                                    [3]uint32
	sqHead, sqTail, sqMask, sqSize, sqFlags, sqDropped, sqArray uint32
	sqReserved                                                  [3]uint32
	cqHead, cqTail, cqMask, cqSize, cqOverflow, cqCQEs          uint32
	cqReserved                                                  [4]uint32
}

// The features of io_uring that tell how a kernel allocates, and so charges, its rings.
const (
	uringSingleMmap = 1 << 0  // 5.4: both rings are one region; before, what all takes is rounded up once
	uringAttributes = 1 << 16 // 6.14: a region is as large as it must be; before, a power of two of pages
)

// pages are those of a ring and its entries, each region as large as it must be; the same, each
// a power of two; and what this kernel charges a user, if it charges for rings at all.
func (p *uringParams) pages(page int64) (exact, powers, charged int64) {
	submissions, completions, entries := int64(p.sqArray+4*p.sqEntries), int64(p.cqCQEs+16*p.cqEntries), int64(64*p.sqEntries)
	for _, bytes := range []int64{max(submissions, completions), entries} {
		pages := (bytes + page - 1) / page
		power := int64(1)
		for power < pages {
			power *= 2
		}
		exact, powers = exact+pages, powers+power
	}
	switch {
	case p.features&uringSingleMmap == 0: // ring_pages() of 5.1 to 5.3
		charged = (submissions + entries + completions + page - 1) / page
	case p.features&uringAttributes == 0: // ring_pages() of 5.4 to 5.11
		charged = powers
	default: // io_create_region()
		charged = exact
	}
	return exact, powers, charged
}

// uring makes an io_uring of r.Pages entries, or of a few. The notes are uringParams.pages.
func uring(r *request) reply {
	var p uringParams
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(max(4, r.Pages)), uintptr(unsafe.Pointer(&p)), 0)
	came := result(fd, errno)
	exact, powers, charged := p.pages(page())
	came.Notes = []string{fmt.Sprint(exact), fmt.Sprint(powers), fmt.Sprint(charged)}
	return came
}

const (
	registerBuffers   = 0 // IORING_REGISTER_BUFFERS
	unregisterBuffers = 1
)

// uringRegister registers a buffer of some pages with the ring r.FD; with N, a
// second one follows at an address where nothing is.
func uringRegister(r *request) reply {
	addr, errno := memory(r.Pages)
	if errno != 0 {
		return result(0, errno)
	}
	bytes := uint64(r.Pages) * uint64(os.Getpagesize())
	vectors := [2][2]uint64{{uint64(addr), bytes}, {uint64(os.Getpagesize()), bytes}}
	_, _, errno = unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.FD), registerBuffers, uintptr(unsafe.Pointer(&vectors)), uintptr(1+r.N), 0, 0)
	unix.Syscall(unix.SYS_MUNMAP, addr, uintptr(bytes), 0) // pinned, where it was registered
	return result(0, errno)
}

func uringUnregister(r *request) reply {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.FD), unregisterBuffers, 0, 0, 0, 0)
	return result(0, errno)
}

// touch touches memory by the kernel: a fault that is refused is EFAULT there, and the end of
// the process here.
func touch(addr, bytes uintptr) (errno unix.Errno) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err.(unix.Errno)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	for at := uintptr(0); at < bytes && errno == 0; at += uintptr(page()) {
		unix.Write(pipe[1], []byte{1})
		_, _, errno = unix.Syscall(unix.SYS_READ, uintptr(pipe[0]), addr+at, 1)
	}
	return errno
}

// touchMapped maps the file r.FD, and touches some pages of it.
func touchMapped(r *request) reply {
	bytes := uintptr(r.Pages * page())
	addr, errno := mmap(r.FD, bytes, 0, readWrite, unix.MAP_SHARED)
	if errno == 0 {
		errno = touch(addr, bytes)
	}
	return result(0, errno)
}

// secretmem touches some pages of secret memory, and unmaps them: the file keeps them.
func secretmem(r *request) reply {
	fd, _, errno := unix.Syscall(unix.SYS_MEMFD_SECRET, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return result(0, errno)
	}
	bytes := uintptr(r.Pages) * uintptr(os.Getpagesize())
	if err := unix.Ftruncate(int(fd), int64(bytes)); err != nil {
		return result(0, err.(unix.Errno))
	}
	addr, errno := mmap(int(fd), bytes, 0, readWrite, unix.MAP_SHARED)
	if errno != 0 {
		return result(0, errno)
	}
	errno = touch(addr, bytes)
	unix.Syscall(unix.SYS_MUNMAP, addr, bytes, 0)
	if errno != 0 {
		unix.Close(int(fd))
		return result(0, errno)
	}
	return reply{Value: int64(fd)}
}

// umem makes an AF_XDP socket with a umem of some pages; with N, at an address
// where nothing is. The value is the socket.
func umem(r *request) reply {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	var errno unix.Errno
	if errors.As(err, &errno) {
		return result(0, errno)
	}
	addr, errno := memory(r.Pages)
	if errno != 0 {
		return result(0, errno)
	}
	bytes := uintptr(r.Pages) * uintptr(os.Getpagesize())
	if r.N > 0 {
		unix.Syscall(unix.SYS_MUNMAP, addr, bytes, 0)
	}
	region := unix.XDPUmemReg{Addr: uint64(addr), Len: uint64(bytes), Size: uint32(min(4096, os.Getpagesize()))}
	// The first three fields and the headroom are what every kernel knows.
	_, _, errno = unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG, uintptr(unsafe.Pointer(&region)), unsafe.Sizeof(region), 0)
	if r.N == 0 {
		unix.Syscall(unix.SYS_MUNMAP, addr, bytes, 0)
	}
	if errno != 0 {
		unix.Close(fd)
		return result(0, errno)
	}
	return reply{Value: int64(fd)}
}
