package workload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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
		{"vdpa-limit", "16 pages mapped for a vDPA device, and then one more, RLIMIT_MEMLOCK 64 KiB (wants vhost_vdpa, and vdpa_sim_net with use_va=0)", func(r *Refuse) error { return vdpaPages(r, 1) }},
		{"vdpa-privileged", "the same with CAP_IPC_LOCK", func(r *Refuse) error { return vdpaPages(r, 1, "cap_ipc_lock") }},
		{"iommufd-limit", "16 pages pinned by iommufd, and then one more, RLIMIT_MEMLOCK 64 KiB (wants iommufd and testdata/pinners)", func(r *Refuse) error { return iommufdPages(r, 1, false) }},
		{"iommufd-privileged", "the same with CAP_IPC_LOCK", func(r *Refuse) error { return iommufdPages(r, 1, false, "cap_ipc_lock") }},
		{"iommufd-process", "the same without it, and the process's counter is held against the limit", func(r *Refuse) error { return iommufdPages(r, 1, true) }},
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

// ioctl asks a file something.
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
	body := slices.Concat(attribute(name, "rxe0"), attribute(linkType, "rxe"), attribute(device, "lo"))
	if _, err := netlink(unix.NETLINK_RDMA, newLink, body); err != nil {
		return fmt.Errorf("make an RDMA device of lo: %w (wants rdma_rxe)", err)
	}
	return nil
}

// attribute is one of a netlink message: a string.
func attribute(kind uint16, value string) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)+1))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(append(b, value...), 0)
	return append(b, make([]byte, -len(b)&3)...)
}

// netlink sends a request, and returns what the answer has after its header.
func netlink(protocol int, kind uint16, body []byte) ([]byte, error) {
	message := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	message = binary.NativeEndian.AppendUint16(message, kind)
	message = binary.NativeEndian.AppendUint16(message, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	message = append(append(message, make([]byte, 8)...), body...)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	reply := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, reply, 0)
	if err != nil {
		return nil, err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return nil, unix.EBADMSG
	}
	answer := reply[unix.SizeofNlMsghdr:n]
	if errno := unix.Errno(-int32(binary.NativeEndian.Uint32(answer))); binary.NativeEndian.Uint16(reply[4:]) == unix.NLMSG_ERROR && errno != 0 {
		return nil, errno
	}
	return answer, nil
}

// simulatedVDPA has the simulator make a device, unless there is one: vdpa dev add
// mgmtdev vdpasim_net name vdpa0.
func simulatedVDPA() error {
	if _, err := os.Stat(vdpaDevice); err == nil {
		return nil
	}
	generic := func(command byte) []byte { return []byte{command, 1, 0, 0} }
	const managed, name, newDevice = 2, 4, 3 // include/uapi/linux/vdpa.h
	answer, err := netlink(unix.NETLINK_GENERIC, unix.GENL_ID_CTRL, append(generic(unix.CTRL_CMD_GETFAMILY), attribute(unix.CTRL_ATTR_FAMILY_NAME, "vdpa")...))
	if err != nil {
		return fmt.Errorf("vDPA netlink: %w (wants vdpa)", err)
	}
	family := uint16(0)
	for rest := answer[4:]; len(rest) >= 6; {
		size, kind := binary.NativeEndian.Uint16(rest), binary.NativeEndian.Uint16(rest[2:])
		if kind == unix.CTRL_ATTR_FAMILY_ID {
			family = binary.NativeEndian.Uint16(rest[4:])
		}
		rest = rest[min(len(rest), max(4, int(size+3)&^3)):]
	}
	if _, err := netlink(unix.NETLINK_GENERIC, family, slices.Concat(generic(newDevice), attribute(managed, "vdpasim_net"), attribute(name, "vdpa0"))); err != nil {
		return fmt.Errorf("make a vDPA device: %w (wants vdpa_sim_net)", err)
	}
	return nil
}

// Of /dev/vhost-vdpa-0 (include/uapi/linux/vhost.h).
const (
	vdpaDevice        = "/dev/vhost-vdpa-0"
	vhostSetOwner     = 0xaf01
	vhostSetFeatures  = 0x4008af25
	vhostMessagesV2   = 1 << 1
	vhostUpdate       = 2
	vhostInvalidate   = 3
	vhostMessage      = 2  // its type
	vhostMessageBytes = 72 // its size
)

// vdpaPages maps memory for a vDPA device.
func vdpaPages(r *Refuse, more int, caps ...string) error {
	if err := simulatedVDPA(); err != nil {
		return err
	}
	fd, err := unix.Open(vdpaDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w (wants vhost_vdpa)", vdpaDevice, err)
	}
	r.finally(func() { unix.Close(fd) })
	if err := r.become(65534, moduleLimit, caps...); err != nil {
		return err
	}
	if _, errno := ioctl(fd, vhostSetOwner, 0); errno != 0 {
		return fmt.Errorf("VHOST_SET_OWNER: %w", errno)
	}
	features := uint64(vhostMessagesV2)
	if _, errno := ioctl(fd, vhostSetFeatures, uintptr(unsafe.Pointer(&features))); errno != 0 {
		return fmt.Errorf("VHOST_SET_BACKEND_FEATURES: %w", errno)
	}
	say := func(kind byte, iova, size, address uint64) unix.Errno {
		message := binary.NativeEndian.AppendUint64(nil, vhostMessage)
		for _, field := range []uint64{iova, size, address} {
			message = binary.NativeEndian.AppendUint64(message, field)
		}
		const readWrite = 3
		message = append(message, readWrite, kind)
		_, err := unix.Write(fd, append(message, make([]byte, vhostMessageBytes-len(message))...))
		return errnoOf(err)
	}
	iova, last, size := uint64(1<<20), uint64(0), uint64(0)
	return pinning{"VHOST_IOTLB_UPDATE", "VmPin", func(memory []byte) unix.Errno {
		last, size = iova, uint64(len(memory))
		iova += size
		return say(vhostUpdate, last, size, uint64(uintptr(unsafe.Pointer(&memory[0]))))
	}, func() unix.Errno { return say(vhostInvalidate, last, size, 0) }}.provoke(r, more)
}

// Requests of iommufd (include/uapi/linux/iommufd.h), and of testdata/pinners/pinner.c.
const (
	iommuAllocate = 0x3b81
	iommuMap      = 0x3b85
	iommuOption   = 0x3b87
	pinnerPin     = 0x4001
	pinnerUnpin   = 0x4002
)

// iommufdPages maps memory into an address space of iommufd's, and has it pinned. Held
// against the limit is the user's counter, or the process's.
func iommufdPages(r *Refuse, more int, process bool, caps ...string) error {
	var files [2]int
	for i, name := range []string{"/dev/iommu", "/dev/pinner"} {
		fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w (wants iommufd and pinner)", name, err)
		}
		files[i] = fd
		r.finally(func() { unix.Close(fd) })
	}
	iommufd, pinner := files[0], files[1]
	counter := "VmPin"
	if process {
		counter = "VmLck"
		mode := struct { // struct iommu_option
			size, id  uint32
			set, _    uint16
			object    uint32
			byProcess uint64
		}{size: 24, byProcess: 1}
		if _, errno := ioctl(iommufd, iommuOption, uintptr(unsafe.Pointer(&mode))); errno != 0 {
			return fmt.Errorf("IOMMU_OPTION_RLIMIT_MODE: %w", errno)
		}
	}
	if err := r.become(65534, moduleLimit, caps...); err != nil {
		return err
	}
	space := struct{ size, flags, id uint32 }{size: 12}
	if _, errno := ioctl(iommufd, iommuAllocate, uintptr(unsafe.Pointer(&space))); errno != 0 {
		return fmt.Errorf("IOMMU_IOAS_ALLOC: %w", errno)
	}
	iova := uint64(1 << 20)
	var last struct { // struct request of pinner.c
		iommufd, space uint32
		iova, bytes    uint64
	}
	return pinning{"iommufd_access_pin_pages", counter, func(memory []byte) unix.Errno {
		ask := struct { // struct iommu_ioas_map
			size, flags, space, _  uint32
			address, length, where uint64
		}{size: 40, flags: 7, space: space.id, address: uint64(uintptr(unsafe.Pointer(&memory[0]))), length: uint64(len(memory)), where: iova}
		if _, errno := ioctl(iommufd, iommuMap, uintptr(unsafe.Pointer(&ask))); errno != 0 {
			return errno
		}
		last.iommufd, last.space, last.iova, last.bytes = uint32(iommufd), space.id, iova, ask.length
		iova += ask.length
		_, errno := ioctl(pinner, pinnerPin, uintptr(unsafe.Pointer(&last)))
		return errno
	}, func() unix.Errno {
		_, errno := ioctl(pinner, pinnerUnpin, uintptr(unsafe.Pointer(&last)))
		return errno
	}}.provoke(r, more)
}
