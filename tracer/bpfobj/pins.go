package bpfobj

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/pin"
	"golang.org/x/sys/unix"
)

// bpfMounts are the mount points of bpffs, from a mountinfo.
func bpfMounts(mountinfo string) []string {
	var points []string
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		left := strings.Fields(before)
		if len(left) > 4 && strings.HasPrefix(after, "bpf ") {
			// A space is the one character in need of its escape in practice.
			points = append(points, strings.ReplaceAll(left[4], `\040`, " "))
		}
	}
	return points
}

// addPins finds the objects pinned on the bpffs that this process sees.
func (l *lister) addPins() {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		l.note("pins are not known: %v", err)
		return
	}
	closed := 0
	for _, point := range bpfMounts(string(raw)) {
		filepath.WalkDir(point, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, os.ErrPermission):
				closed++
			case err == nil && d.Type().IsRegular():
				if !l.addPin(path) {
					closed++
				}
			}
			return nil
		})
	}
	if closed > 0 {
		l.note("pins are incomplete: %d paths on bpffs could not be opened", closed)
	}
}

// addPin notes what is pinned at a path. A pinned link holds its program.
func (l *lister) addPin(path string) bool {
	object, err := pin.Load(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, unix.EINVAL) { // there is no reading link
		object, err = pin.Load(path, nil)
	}
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer object.Close()
	kind, id, err := identify(object)
	if err != nil {
		return false
	}
	if o := l.find(kind, id); o != nil {
		o.Pinned = append(o.Pinned, path)
		_, byLink := object.(link.Link)
		pins := l.pins[kindID{kind, id}]
		if in, ok := inodeOf(path); ok && !byLink && !slices.Contains(pins, in) {
			l.pins[kindID{kind, id}] = append(pins, in)
		}
	}
	return true
}

// inode is a pin, which may be at several paths: by links, and where a bpffs is mounted twice.
type inode struct{ device, number uint64 }

func inodeOf(path string) (inode, bool) {
	var stat unix.Stat_t
	err := unix.Lstat(path, &stat)
	return inode{stat.Dev, stat.Ino}, err == nil
}

func identify(object pin.Pinner) (kind string, id uint32, err error) {
	switch o := object.(type) {
	case *ebpf.Map:
		info, err := o.Info()
		if err != nil {
			return "", 0, err
		}
		id, _ := info.ID()
		return KindMap, uint32(id), nil
	case *ebpf.Program:
		info, err := o.Info()
		if err != nil {
			return "", 0, err
		}
		id, _ := info.ID()
		return KindProgram, uint32(id), nil
	case link.Link:
		info, err := o.Info()
		if err != nil {
			return "", 0, err
		}
		return KindProgram, uint32(info.Program), nil
	}
	return "", 0, errors.ErrUnsupported
}
