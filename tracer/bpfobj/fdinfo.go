package bpfobj

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
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

func scanProcess(pid int) (found []descriptor, err error) {
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
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd.Name()))
		if errors.Is(err, os.ErrPermission) {
			return found, err
		}
		if err != nil {
			continue // closed meanwhile
		}
		if d, ok := parseFdinfo(string(raw)); ok {
			d.pid = pid
			found = append(found, d)
		}
	}
	return found, nil
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
	_, d.link = fields["link_id"]
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
