package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

func hostRoot() fs.FS { return os.DirFS("/") }

// The forms of a handle that is a cgroup's id. Before Linux 5.5 an id is the number of an
// inode, in the lower half, and of its generation: FILEID_INO32_GEN of
// include/linux/exportfs.h. Since then it is one number, FILEID_KERNFS, and where inodes
// have numbers of 64 bits it is the inode's. Both are the same 8 bytes.
const (
	fileIDInode  = 1
	fileIDKernfs = 0xfe
)

// openByID is the directory of the cgroup with an id. It needs
// CAP_DAC_READ_SEARCH; ESTALE says that there is no such cgroup.
func openByID(mountPoint string, id uint64) (string, error) {
	mount, err := unix.Open(mountPoint, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(mount)
	fd, err := openHandle(mount, fileIDKernfs, id)
	if errors.Is(err, unix.ESTALE) {
		fd, err = openHandle(mount, fileIDInode, id)
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

func openHandle(mount int, form int32, id uint64) (int, error) {
	raw := binary.NativeEndian.AppendUint64(nil, id)
	return unix.OpenByHandleAt(mount, unix.NewFileHandle(form, raw), unix.O_PATH|unix.O_CLOEXEC)
}

// idOf is the id of the cgroup that a directory shows, which its inode's number does not
// tell before 5.5. It needs no privilege.
func idOf(dir string) (uint64, bool) {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir, 0)
	if err != nil {
		return 0, false
	}
	return idInHandle(handle.Type(), handle.Bytes())
}

func idInHandle(form int32, raw []byte) (uint64, bool) {
	if form != fileIDKernfs && form != fileIDInode || len(raw) != 8 {
		return 0, false
	}
	return binary.NativeEndian.Uint64(raw), true
}
