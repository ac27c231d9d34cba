package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"strings"

	"github.com/blakesmith/ar"
	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// unpack finds the kernel in a file: it may be one, or a package.
func (c cache) unpack(name string, r io.Reader) (*candidate, error) {
	buffered := bufio.NewReader(r)
	head, err := buffered.Peek(headBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch form := formOf(head); form {
	case deb:
		return c.inDeb(buffered)
	case rpm:
		return c.inRPM(buffered)
	default:
		name, image, err := unpacked(form, name, buffered)
		if err != nil {
			return nil, err
		}
		return c.candidate(name, image)
	}
}

// damaged is what an error in reading says of a file. Of a connection it says what it says.
func damaged(err error) error {
	var connection net.Error
	switch {
	case err == nil || errors.As(err, &connection):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return errors.New("damaged: it ends early")
	}
	return fmt.Errorf("damaged: %w", err)
}

// inDeb finds the kernel in a package of Debian's: an ar archive with a tar file data.tar,
// packed somehow.
func (c cache) inDeb(r io.Reader) (*candidate, error) {
	members := ar.NewReader(r)
	for {
		member, err := members.Next()
		if err != nil {
			return nil, damaged(err)
		}
		if !strings.HasPrefix(member.Name, "data.tar") {
			continue
		}
		data, err := plain(members)
		if err != nil {
			return nil, damaged(err)
		}
		return c.inTar(data)
	}
}

// inRPM finds the kernel in a package of the RPM Package Manager's: a lead, two headers,
// and a cpio archive, packed somehow.
func (c cache) inRPM(r io.Reader) (*candidate, error) {
	const lead, intro, entry = 96, 16, 16 // bytes
	skip := func(n int64) error { _, err := io.CopyN(io.Discard, r, n); return err }
	err := skip(lead)
	for _, align := range []int64{8, 1} { // the signature is padded
		head := make([]byte, intro)
		if err == nil {
			_, err = io.ReadFull(r, head)
		}
		if err == nil && !bytes.HasPrefix(head, []byte("\x8e\xad\xe8")) {
			err = errors.New("no header where one belongs")
		}
		if err == nil {
			size := int64(binary.BigEndian.Uint32(head[8:]))*entry + int64(binary.BigEndian.Uint32(head[12:]))
			err = skip((size + align - 1) / align * align)
		}
	}
	if err != nil {
		return nil, damaged(err)
	}
	files, err := plain(r)
	if err != nil {
		return nil, damaged(err)
	}
	archive := cpio.NewReader(files)
	return c.among(func() (string, io.Reader, error) {
		header, err := archive.Next()
		if err != nil || !header.Mode.IsRegular() {
			return "", nil, err
		}
		return header.Name, archive, nil
	})
}

func (c cache) inTar(r io.Reader) (*candidate, error) {
	archive := tar.NewReader(r)
	return c.among(func() (string, io.Reader, error) {
		header, err := archive.Next()
		if err != nil || header.Typeflag != tar.TypeReg {
			return "", nil, err
		}
		return header.Name, archive, nil
	})
}

// among finds the kernel among files. A vmlinux is it only where there is nothing better:
// QEMU may not be able to start it.
func (c cache) among(next func() (name string, content io.Reader, err error)) (*candidate, error) {
	var whole *candidate
	var unfit error
	for {
		file, content, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			whole.discard()
			return nil, damaged(err)
		}
		switch name := kernelName(file); {
		case strings.HasPrefix(name, "vmlinux") && whole == nil:
			if whole, unfit = c.candidate(name, content); unfit != nil {
				unfit = fmt.Errorf("%s in it: %w", file, unfit)
			}
		case strings.HasPrefix(name, "vmlinuz"):
			whole.discard()
			kernel, err := c.unpack(name, content)
			if err != nil {
				err = fmt.Errorf("%s in it: %w", file, err)
			}
			return kernel, err
		}
	}
	if whole == nil && unfit == nil {
		unfit = errors.New("no kernel in it: looked for boot/vmlinuz*, modules/*/vmlinuz* and boot/vmlinux*; packages that have one are called linux-image-* (since 6.19 linux-binary-*), kernel-core or kernel-default")
	}
	return whole, unfit
}

// kernelName is a name for the kernel that a file is, by where it lies; "": it is none.
func kernelName(file string) string {
	dir, base := path.Split(path.Clean("/" + file))
	dir = path.Clean(dir)
	switch {
	case !strings.HasPrefix(base, "vmlinuz") && !strings.HasPrefix(base, "vmlinux"):
	case path.Base(dir) == "boot":
		return base
	case path.Base(path.Dir(dir)) == "modules" && strings.HasPrefix(base, "vmlinuz"):
		return "vmlinuz-" + path.Base(dir)
	}
	return ""
}

// plain unpacks a stream by what it begins with.
func plain(r io.Reader) (io.Reader, error) {
	buffered := bufio.NewReader(r)
	head, err := buffered.Peek(6)
	switch {
	case err != nil:
		return nil, err
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return gzip.NewReader(buffered)
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return xz.NewReader(buffered)
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		return zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1))
	case bytes.HasPrefix(head, []byte("BZh")):
		return nil, errors.New("packed by bzip2: want gzip, xz or zstd")
	}
	return buffered, nil
}
