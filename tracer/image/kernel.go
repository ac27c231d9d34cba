package image

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// headBytes is as much of a file as tells what it is.
const headBytes = 0x210

// form is what a file is, by its beginning.
type form int

const (
	other form = iota
	bzImage
	vmlinux
	arm64Image
	zboot // an arm64 Image, packed, and a program for EFI that unpacks it
	gzipped
	deb
	rpm
)

// isPacked reports whether a file is to be unpacked.
func isPacked(file string) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, headBytes)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	return formOf(head[:n]) >= zboot, nil
}

func formOf(head []byte) form {
	at := func(offset int, magic string) bool {
		return len(head) >= offset && bytes.HasPrefix(head[offset:], []byte(magic))
	}
	switch {
	case at(0x202, "HdrS"):
		return bzImage
	case at(0, elf.ELFMAG):
		return vmlinux
	case at(0x38, "ARM\x64"):
		return arm64Image
	case at(0, "MZ") && at(4, "zimg"):
		return zboot
	case at(0, "\x1f\x8b"):
		return gzipped
	case at(0, "!<arch>\n"):
		return deb
	case at(0, "\xed\xab\xee\xdb"):
		return rpm
	}
	return other
}

// Arch is the architecture of a kernel image that QEMU boots as it is.
func Arch(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, headBytes)
	if _, err := io.ReadFull(f, head); err != nil {
		return "", errors.New("too short for a kernel")
	}
	switch formOf(head) {
	case bzImage:
		return "amd64", nil
	case vmlinux:
		return "amd64", startsByPVH(f)
	case arm64Image:
		return "arm64", nil
	case zboot, gzipped:
		return "", errors.New("packed: QEMU does not unpack it")
	}
	return "", errors.New("neither an x86 bzImage or vmlinux nor an arm64 Image, and no .deb or .rpm")
}

// startsByPVH says why QEMU cannot start a vmlinux: it needs the note that tells where.
func startsByPVH(f io.ReaderAt) error {
	const entry = 18 // XEN_ELFNOTE_PHYS32_ENTRY
	whole, err := elf.NewFile(f)
	if err != nil {
		return fmt.Errorf("a vmlinux that is damaged: %w", err)
	}
	if whole.Machine != elf.EM_X86_64 {
		return fmt.Errorf("an ELF file for %v, which QEMU does not boot: want its Image, or for x86 its bzImage", whole.Machine)
	}
	for _, p := range whole.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes := make([]byte, min(p.Filesz, 1<<16))
		if _, err := p.ReadAt(notes, 0); err != nil {
			return fmt.Errorf("a vmlinux that is damaged: %w", err)
		}
		for len(notes) >= 12 {
			name, desc := binary.LittleEndian.Uint32(notes), binary.LittleEndian.Uint32(notes[4:])
			if binary.LittleEndian.Uint32(notes[8:]) == entry && bytes.HasPrefix(notes[12:], []byte("Xen\x00")) {
				return nil
			}
			size := 12 + uint64(name+3)&^3 + uint64(desc+3)&^3
			notes = notes[min(size, uint64(len(notes))):]
		}
	}
	return errors.New("a vmlinux without PVH (CONFIG_PVH), which QEMU cannot start: name its bzImage")
}

// unpacked is what QEMU boots of a file that is a kernel, perhaps packed in a way that its
// boot loader knows.
func unpacked(form form, name string, r io.Reader) (string, io.Reader, error) {
	switch form {
	case gzipped:
		unpacked, err := gzip.NewReader(r)
		return strings.TrimSuffix(name, ".gz"), unpacked, damaged(err)
	case zboot:
		unpacked, err := payload(r)
		return strings.TrimSuffix(name, ".efi"), unpacked, err
	}
	return name, r, nil
}

// payload is the Image in an EFI zboot image (drivers/firmware/efi/libstub/zboot-header.S).
func payload(r io.Reader) (io.Reader, error) {
	head := make([]byte, 64)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, damaged(err)
	}
	offset, size := binary.LittleEndian.Uint32(head[8:]), binary.LittleEndian.Uint32(head[12:])
	method, _, _ := bytes.Cut(head[24:56], []byte{0})
	if _, err := io.CopyN(io.Discard, r, int64(offset)-int64(len(head))); err != nil {
		return nil, damaged(err)
	}
	packed := io.LimitReader(r, int64(size))
	switch {
	case string(method) == "gzip":
		unpacked, err := gzip.NewReader(packed)
		if err == nil {
			unpacked.Multistream(false) // the size may follow
		}
		return unpacked, damaged(err)
	case bytes.HasPrefix(method, []byte("zstd")):
		return oneFrame(packed)
	}
	return nil, fmt.Errorf("an EFI zboot image packed by %q: want gzip or zstd; or name the Image it was made of", method)
}

// oneFrame unpacks what is packed by zstd, after which the size may follow.
func oneFrame(packed io.Reader) (io.Reader, error) {
	unpacked, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return readerFunc(func(p []byte) (int, error) {
		n, err := unpacked.Read(p)
		if errors.Is(err, zstd.ErrMagicMismatch) {
			err = io.EOF
		}
		return n, err
	}), nil
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
