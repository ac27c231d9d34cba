package image

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// built finds the image in a tree in which a kernel was built: of several the last one. A
// bzImage that is older than the vmlinux it is made of is another kernel's.
func built(tree string) (file string, info fs.FileInfo, err error) {
	names := []string{"arch/x86/boot/bzImage", "arch/arm64/boot/Image", "arch/arm64/boot/Image.gz", "arch/arm64/boot/vmlinuz.efi"}
	for _, name := range names {
		path := filepath.Join(tree, name)
		if at, err := os.Stat(path); err == nil && (info == nil || at.ModTime().After(info.ModTime())) {
			file, info = path, at
		}
	}
	whole := filepath.Join(tree, "vmlinux")
	linked, err := os.Stat(whole)
	switch {
	case info == nil && err == nil:
		return whole, linked, nil
	case info == nil:
		return "", nil, fmt.Errorf("a directory with none of %s and vmlinux: build the kernel first, or name another directory (make O=DIRECTORY)", strings.Join(names, ", "))
	case err == nil && linked.ModTime().After(info.ModTime()):
		return "", nil, fmt.Errorf("%s is older than vmlinux, which it is made of: make it, or name one of them", file)
	}
	return file, info, nil
}
