package bpfobj

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// descriptor is an open file descriptor of an object, or of a link to one.
type descriptor struct {
	pid    int
	link   bool
	object Object // as far as fdinfo tells
}

// scanDescriptors reads the descriptors of all processes, and counts the
// processes whose descriptors it may not read.
func scanDescriptors() (found []descriptor, unreadable int) {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, 0
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		held, err := scanProcess(pid)
		if errors.Is(err, os.ErrPermission) {
			unreadable++
		}
		found = append(found, held...)
	}
	return found, unreadable
}

func scanProcess(pid int) (found []descriptor, unread error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		// Only anonymous inodes of BPF have an fdinfo worth reading.
		target, err := os.Readlink(dir + "/" + fd.Name())
		if errors.Is(err, os.ErrPermission) {
			return found, err
		}
		if err != nil || !strings.HasPrefix(target, "anon_inode:") || !strings.Contains(target, "bpf") {
			continue
		}
		held, err := heldObject(pid, fd.Name(), target)
		if errors.Is(err, os.ErrPermission) {
			unread = err
		}
		found = append(found, held...)
	}
	return found, unread
}

// heldObject is what a descriptor of BPF leads to: none, if to neither a map nor a program.
func heldObject(pid int, fd, target string) ([]descriptor, error) {
	if strings.Contains(target, "link") {
		d, err := heldLink(pid, fd)
		if err != nil {
			return nil, err
		}
		return []descriptor{d}, nil
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	if err != nil {
		return nil, err
	}
	d, ok := parseFdinfo(string(raw))
	if !ok {
		return nil, nil
	}
	d.pid = pid
	return []descriptor{d}, nil
}

// heldLink asks a link that a process has open for its program. Its fdinfo would tell, too,
// but from 6.17 on (da7e9c0a7fbc) the kernel follows a null pointer there where the link is
// a kprobe.multi without cookies, and may panic. (pidfd_getfd: 5.6, and links are of 5.7.)
func heldLink(pid int, fd string) (d descriptor, err error) {
	number, err := strconv.Atoi(fd)
	if err != nil {
		return d, err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return d, err
	}
	defer unix.Close(process)
	mine, err := unix.PidfdGetfd(process, number, 0)
	if errors.Is(err, unix.ENOSYS) { // a filter of system calls
		err = unix.EPERM
	}
	if err != nil {
		return d, err
	}
	l, err := link.NewFromFD(mine)
	if err != nil {
		return d, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return d, err
	}
	return descriptor{pid: pid, link: true, object: Object{Kind: KindProgram, ID: uint32(info.Program)}}, nil
}

// parseFdinfo reads a descriptor's fdinfo; false if it is of no BPF object.
func parseFdinfo(text string) (d descriptor, ok bool) {
	fields := map[string]uint64{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if n, err := strconv.ParseUint(strings.TrimSpace(value), 0, 64); err == nil {
			fields[name] = n
		}
	}
	number := func(name string) uint32 { return uint32(fields[name]) }
	if number("map_id") != 0 {
		d.object = Object{
			Kind: KindMap, ID: number("map_id"), Type: MapType(number("map_type")),
			KeySize: number("key_size"), ValueSize: number("value_size"),
			MaxEntries: number("max_entries"), Flags: number("map_flags"), Memlock: int64(fields["memlock"]),
		}
		return d, true
	}
	if number("prog_id") != 0 {
		d.object = Object{Kind: KindProgram, ID: number("prog_id"), Type: ProgramType(number("prog_type")), Memlock: int64(fields["memlock"])}
		return d, true
	}
	return d, false
}
