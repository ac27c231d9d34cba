package rule

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// EPERM is the errno of a refusal for want of allowance and limit, as records have it.
const EPERM = int32(unix.EPERM)

// ErrnoName is an error's name as the man pages have it; "" for none.
func ErrnoName(errno unix.Errno) string {
	switch errno {
	case 0:
		return ""
	case unix.EOPNOTSUPP: // the library's list has ENOTSUP, of the same number
		return "EOPNOTSUPP"
	}
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", int(errno))
}
