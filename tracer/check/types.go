package check

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// Kernels that carry no types take them from a file. Which file has those of which
// kernel is said in one of three ways: FILE, where there is one kernel; KERNEL=FILE,
// where KERNEL is the image as it was given, its name, or its release; or DIRECTORY,
// in which a file is named after one of these.

// splitTypes splits KERNEL=FILE. What exists as a whole is a file or a directory.
func splitTypes(given string) (kernel, path string) {
	at := strings.LastIndex(given, "=")
	if _, err := os.Stat(given); err == nil || at < 0 {
		return "", given
	}
	return given[:at], given[at+1:]
}

// CheckTypes says what is wrong with the files of types that were given; without kernels to
// boot they are for the running one.
func (g *Guests) CheckTypes() error {
	names := [][]string{{kernel.Release()}}
	if len(g.Kernels) > 0 {
		names = nil
		for _, name := range g.Kernels {
			names = append(names, g.namesOf(name))
		}
	}
	for i, given := range g.BTF {
		of, path := splitTypes(given)
		info, err := os.Stat(path)
		switch {
		case of != "" && !slices.ContainsFunc(names, func(list []string) bool { return slices.Contains(list, of) }):
			return fmt.Errorf("--btf %s: no kernel of that name or release is checked", given)
		case of == "" && (err != nil || !info.IsDir()) && (len(names) > 1 || i > 0):
			return fmt.Errorf("--btf %s: one file is not for several kernels: name a directory, or --btf KERNEL=FILE for each", given)
		}
	}
	return nil
}

// typesOf finds the file with the types of a kernel that has some names; "": none of
// those given is for it, and looked says what was looked for.
func typesOf(given, names []string) (file string, looked []string, err error) {
	var dirs []string
	for _, g := range given {
		of, path := splitTypes(g)
		info, err := os.Stat(path)
		switch {
		case of != "" && !slices.Contains(names, of):
		case err == nil && info.IsDir():
			dirs = append(dirs, path)
		default:
			if _, err := kernel.LoadTypes(path, nil); err != nil {
				return "", nil, err
			}
			return path, nil, nil
		}
	}
	for _, dir := range dirs {
		for _, name := range names {
			for _, pattern := range []string{"%s.btf", "vmlinux-%s.btf", "vmlinux-%s", "%s"} {
				path := filepath.Join(dir, fmt.Sprintf(pattern, filepath.Base(name)))
				_, err := kernel.LoadTypes(path, nil)
				switch {
				case err == nil:
					return path, nil, nil
				case errors.Is(err, os.ErrNotExist):
					looked = append(looked, path)
				default: // the image itself, or a directory
					looked = append(looked, path+" (no types)")
				}
			}
		}
	}
	return "", looked, nil
}

// TypesHere finds the file with the running kernel's types; "": it has its own, or none
// was given.
func TypesHere(given []string) (string, error) {
	file, looked, err := typesOf(given, []string{kernel.Release()})
	if err != nil || file != "" || len(looked) == 0 {
		return file, err
	}
	if _, err := kernel.LoadTypes("", nil); err != nil {
		return "", fmt.Errorf("no file of --btf is for this kernel, %s: tried %s: %w", kernel.Release(), strings.Join(looked, ", "), err)
	}
	return "", nil
}

// types finds the file with a kernel's types. The note says that none was found
// although some were given: the kernel must have its own, and it is an error if its
// image shows that it has not.
func (g *Guests) types(name string) (file, note string, err error) {
	file, looked, err := typesOf(g.BTF, g.namesOf(name))
	if err != nil || file != "" || len(g.BTF) == 0 {
		return file, "", err
	}
	note = "no file of --btf is for it"
	if len(looked) > 0 {
		note += ": tried " + strings.Join(looked, ", ")
	}
	if image, err := g.file(name); err == nil && lacksTypes(image) {
		return "", "", fmt.Errorf("the kernel carries no types, and %s: add one, or --btf %s=FILE", note, name)
	}
	return "", note, nil
}

// namesOf are the names of a kernel: its image as it was given, the file's name, that
// without what it begins with, and the release that the image says.
func (g *Guests) namesOf(name string) []string {
	names := []string{name, filepath.Base(name), ReleaseOf(name)}
	if image, err := g.file(name); err == nil {
		if image != name {
			names = append(names, ReleaseOf(image))
		}
		if release := imageRelease(image); release != "" {
			names = append(names, release)
		}
	}
	slices.Reverse(names) // the release is the surest
	return slices.Compact(names)
}

// A bzImage's header (Documentation/arch/x86/boot.rst).
const (
	setupSectors  = 0x1f1
	bootMagic     = 0x202
	kernelVersion = 0x20e // from 0x200 on
	payloadOffset = 0x248 // from the protected-mode code on
	payloadLength = 0x24c
	headerBytes   = 0x250
)

// setup reads the beginning of a bzImage, with the code that runs in real mode; nil: it
// is none.
func setup(f io.ReaderAt) []byte {
	head := make([]byte, headerBytes)
	if _, err := f.ReadAt(head, 0); err != nil || string(head[bootMagic:bootMagic+4]) != "HdrS" {
		return nil
	}
	sectors := int(head[setupSectors])
	if sectors == 0 {
		sectors = 4
	}
	whole := make([]byte, (sectors+1)*512)
	if _, err := f.ReadAt(whole, 0); err != nil {
		return nil
	}
	return whole
}

// imageRelease is the release that an x86 image says it is; "": not known.
func imageRelease(image string) string {
	f, err := os.Open(image)
	if err != nil {
		return ""
	}
	defer f.Close()
	if whole, err := elf.NewFile(f); err == nil {
		return bannerRelease(whole)
	}
	head := setup(f)
	if head == nil {
		return ""
	}
	at := int(binary.LittleEndian.Uint16(head[kernelVersion:])) + 0x200
	if at == 0x200 || at >= len(head) {
		return ""
	}
	text, _, _ := bytes.Cut(head[at:], []byte{0})
	release, _, _ := strings.Cut(string(text), " ")
	return release
}

// bannerRelease is the release in a vmlinux's linux_banner; "": there is none.
func bannerRelease(vmlinux *elf.File) string {
	constants := vmlinux.Section(".rodata")
	if constants == nil {
		return ""
	}
	raw, err := constants.Data()
	if err != nil {
		return ""
	}
	_, banner, _ := bytes.Cut(raw, []byte("Linux version "))
	release, _, _ := bytes.Cut(banner, []byte{' '})
	return string(release)
}

// lacksTypes reports whether an image is known to carry no types. That is seen in a
// vmlinux, and in a bzImage that is compressed by gzip, as kernels are by default; in
// others it is not known before they run.
func lacksTypes(image string) bool {
	f, err := os.Open(image)
	if err != nil {
		return false
	}
	defer f.Close()
	if whole, err := elf.NewFile(f); err == nil {
		return whole.Section(".BTF") == nil
	}
	head := setup(f)
	if head == nil {
		return false
	}
	payload := io.NewSectionReader(f, int64(len(head))+int64(binary.LittleEndian.Uint32(head[payloadOffset:])), int64(binary.LittleEndian.Uint32(head[payloadLength:])))
	unpacked, err := gzip.NewReader(payload)
	if err != nil {
		return false
	}
	unpacked.Multistream(false) // the size follows
	raw, err := io.ReadAll(unpacked)
	if err != nil {
		return false
	}
	whole, err := elf.NewFile(bytes.NewReader(raw))
	return err == nil && whole.Section(".BTF") == nil
}
