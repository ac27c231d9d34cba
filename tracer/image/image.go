// Package image gets kernel images from where they are: a file, the tree they were built
// in, a package of a distribution, a URL, or an OCI image. What QEMU boots as it is stays
// where it is. All else is unpacked into a cache, whose checksums are verified.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Help is what commands say of the kernels that they take.
const Help = `A kernel is taken from where it is:
  FILE                     a bzImage, an arm64 Image, a vmlinux with PVH, which need not
                           unpack itself, or an EFI zboot image or Image.gz of arm64
  DIRECTORY                a tree in which a kernel was built
  FILE.deb, FILE.rpm       a package that holds boot/vmlinuz-* or modules/*/vmlinuz
  https://HOST/PATH        any of these files
  oci://HOST/NAME:TAG      an OCI image with such files, for this architecture or the one
                           that there is; credentials are those of docker login
What is not booted as it is lies in the user's cache directory, and is taken from there
the next time, its checksum verified. --refresh fetches it anew.`

// Error is a kernel that cannot be had.
type Error struct {
	ref string
	err error
}

func (e *Error) Error() string { return fmt.Sprintf("kernel image %s: %v", e.ref, e.err) }

func (e *Error) Unwrap() error { return e.err }

// Store gets kernels.
type Store struct {
	Dir     string // of the cache; "": pinwatch/images in the user's cache directory
	Refresh bool   // what is in the cache is fetched anew
	// Say says how far a kernel is that is being fetched, and Done where it came from; not of
	// files that are taken as they are. nil: nobody wants to know.
	Say, Done func(ref, state string)
}

// source is where a kernel comes from that is not booted as it is.
type source struct {
	ref   string
	key   string // in the cache
	stamp string // of a local file: another one is another content
	open  func(context.Context, *meter) (found, error)
}

// found is a stream that holds a kernel, or the kernels of a file system.
type found struct {
	name  string // of the file
	files io.ReadCloser
	tree  bool // it is a tar of a whole file system
}

// Get returns the file of a kernel that QEMU boots. It is the given one where that is one.
func (s Store) Get(ctx context.Context, ref string) (string, error) {
	file, err := s.get(ctx, ref)
	switch {
	case err == nil:
		return file, nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	}
	return "", &Error{ref, err}
}

func (s Store) get(ctx context.Context, ref string) (string, error) {
	src, file, err := locate(ref)
	if err != nil || file != "" {
		return file, err
	}
	c, err := s.cache()
	if err != nil {
		return "", err
	}
	if file, fetched, why := c.load(src); file != "" && !s.Refresh {
		s.done(ref, fmt.Sprintf("%s, from the cache of %s", filepath.Base(file), fetched.Local().Format(time.DateOnly)))
		return file, nil
	} else if why != nil {
		s.done(ref, fmt.Sprintf("fetched anew: %v", why))
	}
	return s.fetch(ctx, c, src)
}

func (s Store) fetch(ctx context.Context, c cache, src source) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m := newMeter(cancel, func(state string) {
		if s.Say != nil {
			s.Say(src.ref, state)
		}
	})
	defer m.stop()
	kernel, err := fetchFrom(ctx, c, src, m)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
			err = cause
		}
		return "", err
	}
	file, err := c.keep(src, kernel)
	if err == nil {
		s.done(src.ref, fmt.Sprintf("%s, %s", filepath.Base(file), mib(kernel.bytes)))
	}
	return file, err
}

func fetchFrom(ctx context.Context, c cache, src source, m *meter) (*candidate, error) {
	from, err := src.open(ctx, m)
	if err != nil {
		return nil, err
	}
	defer from.files.Close()
	if from.tree {
		return c.inTar(from.files)
	}
	return c.unpack(from.name, from.files)
}

func (s Store) done(ref, state string) {
	if s.Done != nil {
		s.Done(ref, state)
	}
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

const (
	ociScheme = "oci://"
	accepted  = "want a file, a tree in which a kernel was built, a .deb or .rpm, an http:// or https:// URL, or oci://HOST/NAME:TAG"
)

// locate tells where a kernel comes from, or the file, if that is booted as it is.
func locate(ref string) (src source, file string, err error) {
	src = source{ref: ref, key: ref}
	scheme, _, remote := strings.Cut(ref, "://")
	switch {
	case strings.HasPrefix(ref, ociScheme):
		src.open, err = openOCI(strings.TrimPrefix(ref, ociScheme))
		return src, "", err
	case scheme == "http" || scheme == "https":
		src.open = openURL(ref)
		return src, "", nil
	case remote:
		return src, "", fmt.Errorf("no way to fetch from %s://: %s", scheme, accepted)
	}
	return local(ref)
}

// local looks at a file of this machine, or at a directory.
func local(ref string) (src source, file string, err error) {
	info, err := os.Stat(ref)
	if errors.Is(err, fs.ErrNotExist) {
		return src, "", fmt.Errorf("no such file: %s", accepted)
	}
	if err != nil {
		return src, "", err
	}
	path := ref
	if info.IsDir() {
		if path, info, err = built(ref); err != nil {
			return src, "", err
		}
	}
	if !info.Mode().IsRegular() {
		return src, "", fmt.Errorf("no regular file: %s", accepted)
	}
	packed, err := isPacked(path)
	if err != nil {
		return src, "", err
	}
	if !packed {
		_, err := Arch(path)
		return src, path, err
	}
	key, err := filepath.Abs(path)
	src = source{ref: ref, key: key, stamp: fmt.Sprintf("%d bytes of %s", info.Size(), info.ModTime().Format(time.RFC3339Nano))}
	src.open = func(_ context.Context, m *meter) (found, error) {
		f, err := os.Open(path)
		if err != nil {
			return found{}, err
		}
		m.expect(info.Size())
		return found{name: filepath.Base(path), files: m.reader(f)}, nil
	}
	return src, "", err
}
