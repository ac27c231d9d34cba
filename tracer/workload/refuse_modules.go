package workload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The provocations of chargers that are modules of the kernel, and want a device.

// moduleLimit is RLIMIT_MEMLOCK of who pins memory for a device, in pages.
const moduleLimit = 16

// ModuleProvocations are those of chargers that are modules. They are not among
// Provocations: a kernel has the modules only if they were loaded.
func ModuleProvocations() []Provocation {
	return []Provocation{
		{"vfio-limit", "16 pages mapped for a PCI device by vfio, and then one more, RLIMIT_MEMLOCK 64 KiB (wants vfio_iommu_type1, vfio-pci and an IOMMU)", func(r *Refuse) error { return vfioPages(r, 1) }},
		{"vfio-privileged", "the same with CAP_IPC_LOCK", func(r *Refuse) error { return vfioPages(r, 1, "cap_ipc_lock") }},
		{"rdma-limit", "16 pages registered with RDMA, and then one more, RLIMIT_MEMLOCK 64 KiB (wants rdma_rxe and ib_uverbs)", func(r *Refuse) error { return rdmaPages(r, 1) }},
		{"rdma-privileged", "the same with CAP_IPC_LOCK", func(r *Refuse) error { return rdmaPages(r, 1, "cap_ipc_lock") }},
	}
}

// pinning is memory that is pinned for a device, in two steps: so much as the limit allows,
// and more.
type pinning struct {
	call    string
	counter string // its line in /proc/PID/status
	pin     func(memory []byte) unix.Errno
	unpin   func() unix.Errno // of what was pinned last
}

// provoke pins and unpins. The kernel's own word for the counter is the witness that it is
// that one which is held against the limit.
func (p pinning) provoke(r *Refuse, more int) error {
	page := os.Getpagesize()
	memory, err := smallPages(moduleLimit + more)
	if err != nil {
		return err
	}
	pinAll := func(what string, memory []byte) attempt {
		return attempt{call: p.call, what: what, asked: int64(len(memory) / page)}
	}
	first, second := memory[:moduleLimit*page], memory[moduleLimit*page:]
	if err := r.control(pinAll("as much as the limit allows", first), func() unix.Errno { return p.pin(first) }); err != nil {
		return err
	}
	if pages, err := statusPages(p.counter); err != nil || pages != moduleLimit {
		return errors.Join(err, fmt.Errorf("%s of /proc/self/status is %s after %d were pinned", p.counter, count(pages, "page"), moduleLimit))
	}
	errno, err := r.try(pinAll("more", second), func() unix.Errno { return p.pin(second) })
	if err != nil || errno != 0 {
		return err
	}
	unpinning := attempt{call: p.call, what: "given back", control: true}
	return r.control(unpinning, p.unpin)
}

// statusPages is a counter of this process, as the kernel shows it.
func statusPages(counter string) (int64, error) {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	var kib int64
	_, after, found := strings.Cut(string(raw), counter+":")
	if _, err := fmt.Sscan(after, &kib); !found || err != nil {
		return 0, fmt.Errorf("/proc/self/status has no %s", counter)
	}
	return kib << 10 / int64(os.Getpagesize()), nil
}

// control asks a file something by ioctl(2).
func ioctl(fd int, request, argument uintptr) (int, unix.Errno) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, argument)
	return int(n), errno
}

// Requests of vfio (include/uapi/linux/vfio.h).
const (
	vfioSetIOMMU     = 0x3b66
	vfioSetContainer = 0x3b68
	vfioMapDMA       = 0x3b71
	vfioUnmapDMA     = 0x3b72
	vfioType1v2      = 3
)

// vfioPages maps memory for a PCI device that has no driver.
func vfioPages(r *Refuse, more int, caps ...string) error {
	group, err := vfioGroup()
	if err != nil {
		return err
	}
	container, err := unix.Open("/dev/vfio/vfio", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("/dev/vfio/vfio: %w (wants vfio and vfio_iommu_type1)", err)
	}
	file, err := unix.Open(filepath.Join("/dev/vfio", group), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("/dev/vfio/%s: %w", group, err)
	}
	r.finally(func() { unix.Close(file); unix.Close(container) })
	fd := int32(container)
	if _, errno := ioctl(file, vfioSetContainer, uintptr(unsafe.Pointer(&fd))); errno != 0 {
		return fmt.Errorf("VFIO_GROUP_SET_CONTAINER: %w", errno)
	}
	if _, errno := ioctl(container, vfioSetIOMMU, vfioType1v2); errno != 0 {
		return fmt.Errorf("VFIO_SET_IOMMU: %w", errno)
	}
	if err := r.become(65534, moduleLimit, caps...); err != nil {
		return err
	}
	iova := uint64(1 << 20)
	var last struct { // struct vfio_iommu_type1_dma_unmap
		argsz, flags uint32
		iova, size   uint64
	}
	return pinning{"VFIO_IOMMU_MAP_DMA", "VmLck", func(memory []byte) unix.Errno {
		ask := struct { // struct vfio_iommu_type1_dma_map
			argsz, flags        uint32
			vaddr, iova, length uint64
		}{32, 3, uint64(uintptr(unsafe.Pointer(&memory[0]))), iova, uint64(len(memory))}
		last.argsz, last.iova, last.size = 24, iova, ask.length
		iova += ask.length
		_, errno := ioctl(container, vfioMapDMA, uintptr(unsafe.Pointer(&ask)))
		return errno
	}, func() unix.Errno {
		_, errno := ioctl(container, vfioUnmapDMA, uintptr(unsafe.Pointer(&last)))
		return errno
	}}.provoke(r, more)
}

// vfioGroup gives the first PCI device without a driver to vfio, and returns its group.
func vfioGroup() (string, error) {
	devices, err := filepath.Glob("/sys/bus/pci/devices/*")
	if err != nil {
		return "", err
	}
	for _, device := range devices {
		class, err := os.ReadFile(filepath.Join(device, "class"))
		if err != nil {
			return "", err
		}
		driver, err := os.Readlink(filepath.Join(device, "driver"))
		bridge := strings.HasPrefix(string(class), "0x06")
		if bridge || err == nil && filepath.Base(driver) != "vfio-pci" {
			continue
		}
		group, err := os.Readlink(filepath.Join(device, "iommu_group"))
		if err != nil {
			return "", fmt.Errorf("%w: requires an IOMMU", err)
		}
		if err := os.WriteFile(filepath.Join(device, "driver_override"), []byte("vfio-pci"), 0); err != nil {
			return "", err
		}
		if err := os.WriteFile("/sys/bus/pci/drivers_probe", []byte(filepath.Base(device)), 0); err != nil {
			return "", err
		}
		return filepath.Base(group), nil
	}
	return "", errors.New("every PCI device has a driver: vfio wants one that has none")
}

// Commands of an RDMA device (include/uapi/rdma/ib_user_verbs.h).
const (
	verbContext    = 0
	verbDomain     = 3
	verbRegister   = 9
	verbDeregister = 13
)

// rdmaPages registers memory with an RDMA device, which is made of the loopback interface.
func rdmaPages(r *Refuse, more int, caps ...string) error {
	if err := loopbackUp(); err != nil {
		return err
	}
	if err := softRDMA(); err != nil {
		return err
	}
	if err := r.become(65534, moduleLimit, caps...); err != nil {
		return err
	}
	// The device wants the credentials of who opened it, which each thread has a copy of.
	runtime.LockOSThread()
	fd, err := unix.Open("/dev/infiniband/uverbs0", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("/dev/infiniband/uverbs0: %w (wants ib_uverbs)", err)
	}
	r.finally(func() { unix.Close(fd) })
	var answer [4]uint32
	// A command begins with the address of its answer, of which it says how many words it has.
	verb := func(command uint32, words int, rest ...any) unix.Errno {
		body := new(strings.Builder)
		for _, field := range append([]any{uint64(uintptr(unsafe.Pointer(&answer)))}, rest...) {
			binary.Write(body, binary.NativeEndian, field)
		}
		if words == 0 {
			body.Reset()
			binary.Write(body, binary.NativeEndian, rest[0])
		}
		head := binary.NativeEndian.AppendUint32(nil, command)
		head = binary.NativeEndian.AppendUint16(head, uint16((8+body.Len())/4))
		head = binary.NativeEndian.AppendUint16(head, uint16(words))
		_, err := unix.Write(fd, append(head, body.String()...))
		return errnoOf(err)
	}
	if errno := verb(verbContext, 2); errno != 0 {
		return fmt.Errorf("a context of the RDMA device: %w", errno)
	}
	unix.CloseOnExec(int(answer[0])) // for its events
	if errno := verb(verbDomain, 1); errno != 0 {
		return fmt.Errorf("a protection domain: %w", errno)
	}
	domain, region := answer[0], uint32(0)
	return pinning{"ibv_reg_mr", "VmPin", func(memory []byte) unix.Errno {
		at := uint64(uintptr(unsafe.Pointer(&memory[0])))
		const localWrite = uint32(1)
		errno := verb(verbRegister, 3, at, uint64(len(memory)), at, domain, localWrite)
		region = answer[0]
		return errno
	}, func() unix.Errno {
		return verb(verbDeregister, 0, region)
	}}.provoke(r, more)
}

// softRDMA has the kernel make an RDMA device of the loopback interface, unless there is
// one already: rdma link add rxe0 type rxe netdev lo.
func softRDMA() error {
	if made, _ := filepath.Glob("/sys/class/infiniband/*"); len(made) > 0 {
		return nil
	}
	const newLink, name, linkType, device = 5<<10 | 3, 2, 65, 51 // include/uapi/rdma/rdma_netlink.h
	var body []byte
	for _, a := range []struct {
		kind  uint16
		value string
	}{{name, "rxe0"}, {linkType, "rxe"}, {device, "lo"}} {
		body = binary.NativeEndian.AppendUint16(body, uint16(4+len(a.value)+1))
		body = binary.NativeEndian.AppendUint16(body, a.kind)
		body = append(append(body, a.value...), 0)
		body = append(body, make([]byte, -len(body)&3)...)
	}
	message := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	message = binary.NativeEndian.AppendUint16(message, newLink)
	message = binary.NativeEndian.AppendUint16(message, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	message = append(append(message, make([]byte, 8)...), body...)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_RDMA)
	if err != nil {
		return fmt.Errorf("RDMA netlink: %w (wants ib_core)", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("RDMA netlink: %w", err)
	}
	reply := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, reply, 0)
	if err != nil || n < unix.SizeofNlMsghdr+4 {
		return fmt.Errorf("RDMA netlink: %d bytes: %w", n, err)
	}
	if errno := unix.Errno(-int32(binary.NativeEndian.Uint32(reply[unix.SizeofNlMsghdr:]))); errno != 0 {
		return fmt.Errorf("make an RDMA device of lo: %w (wants rdma_rxe)", errno)
	}
	return nil
}
