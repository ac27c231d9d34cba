package workload

import (
	"os"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// The provocations of what is wrong with a call itself, whatever it would be charged.

func callProvocations() []Provocation {
	return []Provocation{
		{"ring-attach", "io_uring_setup with IORING_SETUP_ATTACH_WQ and a wq_fd that is no file", ringAttach},
		{"buffers-descriptor", "buffers registered with a file descriptor that is none", func(r *Refuse) error { return buffersAt(r, "a file descriptor that is none", noFile) }},
		{"buffers-other", "buffers registered with a file that is no ring", buffersOther},
		{"buffers-address", "a list of buffers that is nowhere, registered with a ring", buffersAddress},
		{"buffers-restricted", "buffers registered with a ring that may not have any", buffersRestricted},
		{"buffers-single", "buffers registered with a ring that is another thread's alone", buffersSingle},
		{"map-address", "a map whose attributes are nowhere", func(r *Refuse) error { return addressed(r, "bpf(BPF_MAP_CREATE)", unix.BPF_MAP_CREATE) }},
		{"map-later", "a map with an attribute that no kernel has", func(r *Refuse) error { return later(r, "bpf(BPF_MAP_CREATE)", unix.BPF_MAP_CREATE) }},
		{"map-files", "a map with no file descriptor left", mapFiles},
		{"map-descriptor", "a map of maps whose inner map is no file", mapDescriptor},
		{"update-descriptor", "an element of a file descriptor that is none", updateDescriptor},
		{"update-trie", "more elements than a longest-prefix trie may have", updateTrie},
		{"program-address", "a program whose attributes are nowhere", func(r *Refuse) error { return addressed(r, "bpf(BPF_PROG_LOAD)", unix.BPF_PROG_LOAD) }},
		{"program-later", "a program with an attribute that no kernel has", func(r *Refuse) error { return later(r, "bpf(BPF_PROG_LOAD)", unix.BPF_PROG_LOAD) }},
		{"program-files", "a program with no file descriptor left", programFiles},
		{"program-attributes", "a program with a flag that does not exist", programAttributes},
		{"program-descriptor", "a program with a map that is no file", programDescriptor},
	}
}

// noFile is a file descriptor that nobody has.
const noFile = 1 << 20

// withoutFiles does something while no file descriptor is to be had.
func withoutFiles(do func()) error {
	var before unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		return err
	}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: before.Max}, nil); err != nil {
		return err
	}
	do()
	return unix.Prlimit(0, unix.RLIMIT_NOFILE, &before, nil)
}

func ringAttach(r *Refuse) error {
	params := [30]uint32{2: 1 << 5, 6: noFile} // struct io_uring_params: IORING_SETUP_ATTACH_WQ, wq_fd
	return r.provoke(attempt{call: "io_uring_setup", what: "the threads of a ring that is none"}, func() unix.Errno {
		return setupRing(4, unsafe.Pointer(&params))
	})
}

func buffersAt(r *Refuse, what string, fd int) error {
	memory, err := smallPages(1)
	if err != nil {
		return err
	}
	return r.provoke(registering(what, 0), func() unix.Errno { return registerBuffers(fd, vector(memory)) })
}

func buffersOther(r *Refuse) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	return buffersAt(r, "a file that is no ring", int(null.Fd()))
}

func buffersAddress(r *Refuse) error {
	fd, err := r.smallRing()
	if err != nil {
		return err
	}
	return r.provoke(registering("a list that is nowhere", 0), func() unix.Errno { return ringRegister(fd, 0, address(uintptr(os.Getpagesize())), 1) })
}

func ringRegister(fd int, op uintptr, argument unsafe.Pointer, count uintptr) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), op, uintptr(argument), count, 0, 0)
	return errno
}

// flagged is a ring with flags that not every kernel has: then there is none, and that is
// what is said.
func (r *Refuse) flagged(what string, flags uint32, do func(fd int) error) error {
	var fd int
	errno, err := r.try(attempt{call: "io_uring_setup", what: what, control: true}, func() (errno unix.Errno) {
		fd, errno = r.ring(4, flags)
		return errno
	})
	if err != nil || errno != 0 {
		return err
	}
	return do(fd)
}

func buffersRestricted(r *Refuse) error {
	const disabled, restrict, enable = 1 << 6, 11, 12 // IORING_SETUP_R_DISABLED, IORING_REGISTER_*
	return r.flagged("4 entries, to be restricted", disabled, func(fd int) error {
		allow := struct { // struct io_uring_restriction, of a register operation
			opcode       uint16
			operation, _ uint8
			_            [3]uint32
		}{operation: enable}
		if errno := ringRegister(fd, restrict, unsafe.Pointer(&allow), 1); errno != 0 {
			return errno
		}
		if errno := ringRegister(fd, enable, nil, 0); errno != 0 {
			return errno
		}
		return buffersAt(r, "a ring that may not have any", fd)
	})
}

func buffersSingle(r *Refuse) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return r.flagged("4 entries, of this thread alone", 1<<12, func(fd int) error {
		result := make(chan error)
		go func() { result <- buffersAt(r, "a ring of another thread", fd) }()
		return <-result
	})
}

func addressed(r *Refuse, call string, cmd uintptr) error {
	return r.provoke(attempt{call: call, what: "attributes nowhere"}, func() unix.Errno {
		_, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(os.Getpagesize()), unsafe.Sizeof(mapCreateAttr{}))
		return errno
	})
}

// later gives more than the union has, which is no matter as long as it is zero.
func later(r *Refuse, call string, cmd uintptr) error {
	attr := [128]uint32{127: 1}
	return r.provoke(attempt{call: call, what: "attributes that no kernel has"}, func() unix.Errno {
		_, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		return errno
	})
}

func mapFiles(r *Refuse) error {
	attr := mapCreateAttr{mapType: uint32(ebpf.Array), keySize: 4, valueSize: 8, maxEntries: 1}
	var errno unix.Errno
	if err := withoutFiles(func() { _, errno = r.createMap(&attr) }); err != nil {
		return err
	}
	return r.provoke(creating("a map, and RLIMIT_NOFILE 0"), func() unix.Errno { return errno })
}

func mapDescriptor(r *Refuse) error {
	return oneMap(r, "an inner map that is none", &mapCreateAttr{mapType: uint32(ebpf.ArrayOfMaps), keySize: 4, valueSize: 4, maxEntries: 1, innerMapFD: noFile}, false)
}

func updateDescriptor(r *Refuse) error {
	return r.provoke(attempt{call: "bpf(BPF_MAP_UPDATE_ELEM)", what: "a file descriptor that is none"}, func() unix.Errno {
		return updateElement(noFile, make([]byte, 4), make([]byte, 8), 0)
	})
}

func updateTrie(r *Refuse) error {
	// A key is the length of a prefix, and what it is of.
	attr := mapCreateAttr{mapType: uint32(ebpf.LPMTrie), mapFlags: unix.BPF_F_NO_PREALLOC, keySize: 8, valueSize: 8, maxEntries: 8}
	return elements(r, "an element of a trie that may have 8", &attr, 9)
}

func programFiles(r *Refuse) error {
	p, err := newProgram(asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()})
	if err != nil {
		return err
	}
	var errno unix.Errno
	if err := withoutFiles(func() { errno = p.load(r) }); err != nil {
		return err
	}
	return r.provoke(attempt{call: "bpf(BPF_PROG_LOAD)", what: "a program, and RLIMIT_NOFILE 0"}, func() unix.Errno { return errno })
}

func programAttributes(r *Refuse) error {
	attr := [28]uint32{0: uint32(ebpf.SocketFilter), 1: 2, 11: 1 << 31} // prog_type, insn_cnt, prog_flags
	return r.provoke(attempt{call: "bpf(BPF_PROG_LOAD)", what: "an unknown flag"}, func() unix.Errno {
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		return errno
	})
}

func programDescriptor(r *Refuse) error {
	return loadProgram(r, "a map that is none", asm.Instructions{asm.LoadMapPtr(asm.R1, noFile), asm.Mov.Imm(asm.R0, 0), asm.Return()})
}
