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
	if err := loopbackUp(); err != nil {
		return err
	}
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
	}{{"io_uring", ioUringBuffer}, {"xdp", xdpUmem}, {"zerocopy", zeroCopyPages}, {"bpf", bpfArray}, {"perf", perfBuffer}}
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

// loopbackUp switches lo on, which in a guest nobody has done.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("switch lo on: %w", err)
	}
	return nil
}

func anonymous(pages int) ([]byte, error) {
	return unix.Mmap(-1, 0, pages*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

// ioUringBuffer registers a buffer with a ring of its own.
func ioUringBuffer(pages int) (func(), error) {
	fd, err := newRing(4)
	if err != nil {
		return nil, fmt.Errorf("io_uring_setup: %w", err)
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
	vector := unix.Iovec{Base: &memory[0]}
	vector.SetLen(len(memory))
	const registerBuffers = 0
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), registerBuffers, uintptr(unsafe.Pointer(&vector)), 1, 0, 0); errno != 0 {
		release()
		return nil, fmt.Errorf("io_uring_register: %w", errno)
	}
	return release, nil
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
	umem := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&memory[0]))), Len: uint64(len(memory)), Size: 2048}
	if _, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG, uintptr(unsafe.Pointer(&umem)), unsafe.Sizeof(umem), 0); errno != 0 {
		release()
		return nil, fmt.Errorf("XDP_UMEM_REG: %w", errno)
	}
	return release, nil
}

// zeroCopyPages sends no more than every kernel takes as one datagram over loopback.
func zeroCopyPages(pages int) (func(), error) {
	_, release, err := zeroCopy(min(pages*os.Getpagesize(), 32<<10), 1)
	return release, err
}

// zeroCopy sends so many bytes over loopback without copying. They stay charged until the
// receiver has taken them, which it does at release. Several are parts of one datagram
// that is not sent, and under way together.
func zeroCopy(bytes, parts int) (made int, release func(), err error) {
	receiver, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 0, nil, err
	}
	closeAll := func() { unix.Close(receiver) }
	address := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Bind(receiver, address); err != nil {
		closeAll()
		return 0, nil, fmt.Errorf("loopback: %w", err)
	}
	bound, err := unix.Getsockname(receiver)
	if err != nil {
		closeAll()
		return 0, nil, err
	}
	sender, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		closeAll()
		return 0, nil, err
	}
	release = func() {
		unix.Close(receiver)
		unix.Close(sender)
	}
	if err := unix.SetsockoptInt(sender, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1); err != nil {
		release()
		return 0, nil, fmt.Errorf("SO_ZEROCOPY: %w", err)
	}
	memory, flags := make([]byte, bytes), unix.MSG_ZEROCOPY
	if parts > 1 {
		flags |= unix.MSG_MORE
	}
	for made < parts && err == nil {
		if err = unix.Sendto(sender, memory, flags, bound); err == nil {
			made++
		}
	}
	if err != nil {
		release()
		return made, nil, fmt.Errorf("send with MSG_ZEROCOPY: %w", err)
	}
	return made, release, nil
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
