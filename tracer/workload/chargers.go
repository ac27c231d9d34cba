package workload

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Chargers keeps all that charges locked_vm busy, as one user: io_uring buffers,
// AF_XDP umems, MSG_ZEROCOPY, BPF maps and perf buffers come and go at random.
type Chargers struct {
	UID      int
	Seed     uint64
	Duration time.Duration
	Pages    int // of a buffer
}

// chargersMemlock is their RLIMIT_MEMLOCK, in pages.
const chargersMemlock = 1024

// thing is something that is charged, and how to let it go.
type thing struct {
	name    string
	release func()
}

// Run makes and releases until the time is over, and then releases the rest. It
// says how many of each kind it could make. Being refused is part of it.
func (c *Chargers) Run(out io.Writer) error {
	bytes := uint64(chargersMemlock * os.Getpagesize())
	limit := unix.Rlimit{Cur: bytes, Max: bytes}
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &limit, nil); err != nil {
		return fmt.Errorf("set RLIMIT_MEMLOCK: %w", err)
	}
	if err := (&RunAs{UID: c.UID, Caps: []string{"cap_net_raw", "cap_bpf", "cap_perfmon", "cap_sys_admin"}}).become(); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(c.Seed, 0))
	makers := []struct {
		name string
		make func(pages int) (func(), error)
	}{{"io_uring", ioUringBuffer}, {"xdp", xdpUmem}, {"zerocopy", zeroCopy}, {"bpf", bpfArray}, {"perf", perfBuffer}}
	made, failed := map[string]int{}, map[string]error{}
	var things []thing
	for end := time.Now().Add(c.Duration); time.Now().Before(end); {
		if len(things) > 0 && random.IntN(2) == 0 {
			i := random.IntN(len(things))
			things[i].release()
			things[i] = things[len(things)-1]
			things = things[:len(things)-1]
			continue
		}
		maker := makers[random.IntN(len(makers))]
		release, err := maker.make(c.Pages)
		if err != nil {
			failed[maker.name] = err
			continue
		}
		made[maker.name]++
		things = append(things, thing{maker.name, release})
	}
	for _, t := range things {
		t.release()
	}
	for _, m := range makers {
		fmt.Fprintf(out, "workload: %s %d", m.name, made[m.name])
		if err := failed[m.name]; err != nil {
			fmt.Fprintf(out, ", at last: %v", err)
		}
		fmt.Fprintln(out)
	}
	return nil
}

func anonymous(pages int) ([]byte, error) {
	return unix.Mmap(-1, 0, pages*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

// ioUringBuffer registers a buffer with a ring of its own.
func ioUringBuffer(pages int) (func(), error) {
	fd, errno := newRing(4, 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	memory, err := anonymous(pages)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	release := func() {
		unix.Close(fd)
		unix.Munmap(memory)
	}
	if errno := registerBuffers(fd, vector(memory)); errno != 0 {
		release()
		return nil, fmt.Errorf("io_uring_register: %w", errno)
	}
	return release, nil
}

// newRing calls io_uring_setup().
func newRing(entries, flags uint32) (fd int, errno unix.Errno) {
	var params [30]uint32 // struct io_uring_params
	params[2] = flags
	got, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&params)), 0)
	return int(got), errno
}

func vector(memory []byte) unix.Iovec {
	v := unix.Iovec{Base: &memory[0]}
	v.SetLen(len(memory))
	return v
}

// registerBuffers registers buffers with a ring.
func registerBuffers(ring int, vectors ...unix.Iovec) unix.Errno {
	const op = 0 // IORING_REGISTER_BUFFERS
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(ring), op, uintptr(unsafe.Pointer(unsafe.SliceData(vectors))), uintptr(len(vectors)), 0, 0)
	return errno
}

// xdpUmem registers memory with an AF_XDP socket.
func xdpUmem(pages int) (func(), error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW, 0)
	if err != nil {
		return nil, fmt.Errorf("AF_XDP socket: %w", err)
	}
	memory, err := anonymous(pages)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	release := func() {
		unix.Close(fd)
		unix.Munmap(memory)
	}
	if errno := registerUmem(fd, umemOf(memory)); errno != 0 {
		release()
		return nil, fmt.Errorf("XDP_UMEM_REG: %w", errno)
	}
	return release, nil
}

// umemOf is a umem of some memory.
func umemOf(memory []byte) unix.XDPUmemReg {
	return unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&memory[0]))), Len: uint64(len(memory)), Size: 2048}
}

func registerUmem(socket int, umem unix.XDPUmemReg) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(socket), unix.SOL_XDP, unix.XDP_UMEM_REG, uintptr(unsafe.Pointer(&umem)), unsafe.Sizeof(umem), 0)
	return errno
}

// zeroCopy sends memory over loopback without copying. It stays charged until the
// receiver has taken it, which it does at release.
func zeroCopy(pages int) (func(), error) {
	l, err := newLane()
	if err != nil {
		return nil, err
	}
	memory := make([]byte, min(pages*os.Getpagesize(), 32<<10)) // what one datagram takes
	if err := unix.Sendto(l.sender, memory, unix.MSG_ZEROCOPY, l.to); err != nil {
		l.release()
		return nil, fmt.Errorf("send with MSG_ZEROCOPY: %w", err)
	}
	return l.release, nil
}

// lane is two UDP sockets, the second of which receives on loopback what the first sends.
type lane struct {
	sender, receiver int
	to               unix.Sockaddr
}

func (l *lane) release() {
	unix.Close(l.receiver)
	unix.Close(l.sender)
}

func newLane() (l *lane, err error) {
	l = &lane{sender: -1}
	if l.receiver, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err != nil {
		return nil, err
	}
	if err = unix.Bind(l.receiver, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		l.release()
		return nil, fmt.Errorf("loopback: %w", err)
	}
	if l.to, err = unix.Getsockname(l.receiver); err == nil {
		l.sender, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	}
	if err != nil {
		l.release()
		return nil, err
	}
	if err := unix.SetsockoptInt(l.sender, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1); err != nil {
		l.release()
		return nil, fmt.Errorf("SO_ZEROCOPY: %w", err)
	}
	return l, nil
}

func bpfArray(pages int) (func(), error) {
	fd, err := createBPFMap(&mapCreateAttr{mapType: unix.BPF_MAP_TYPE_ARRAY, keySize: 4, valueSize: uint32(os.Getpagesize()), maxEntries: uint32(pages)})
	if err != nil {
		return nil, fmt.Errorf("BPF_MAP_CREATE: %w", err)
	}
	return func() { unix.Close(fd) }, nil
}

func perfBuffer(pages int) (func(), error) {
	fds, err := openEvents("", 1)
	if err != nil {
		return nil, err
	}
	memory, err := unix.Mmap(fds[0], 0, (pages+1)*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fds[0])
		return nil, errors.Join(errors.New("map a perf buffer"), err)
	}
	return func() {
		unix.Munmap(memory)
		unix.Close(fds[0])
	}, nil
}
