package main

import (
	"archive/tar"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // registers itself
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// pack makes the .deb or the .rpm of a tree.
func (r release) pack(tree, arch, format, out string) error {
	values := map[string]string{
		"TREE":    tree,
		"ARCH":    arch,
		"VERSION": packageVersion(r.version),
		"SCRIPTS": filepath.Join(r.source, "testdata/dist/scripts"),
	}
	// nfpm puts the values into contents and fields, and not into the names of scripts.
	raw, err := os.ReadFile(filepath.Join(r.source, "testdata/dist/nfpm.yaml"))
	if err != nil {
		return err
	}
	config, err := nfpm.Parse(strings.NewReader(os.Expand(string(raw), func(name string) string { return values[name] })))
	if err != nil {
		return err
	}
	info, err := config.Get(format)
	if err != nil {
		return err
	}
	info = nfpm.WithDefaults(info)
	info.MTime = r.date
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(out, packager.ConventionalFileName(info)))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := packager.Package(info, f); err != nil {
		return err
	}
	return f.Close()
}

// packageVersion is a version as dpkg and rpm take it: what is before a release sorts before
// it, and there is no "-", which would begin a revision.
func packageVersion(version string) string {
	number, before, is := strings.Cut(strings.TrimPrefix(version, "v"), "-")
	if is {
		number += "~" + strings.ReplaceAll(before, "-", ".")
	}
	return number
}

// tarball packs a tree to be unpacked into /usr/local, whose directories it has below one of
// its own name.
func (r release) tarball(tree, arch, out string) error {
	name := "pinwatch-" + strings.TrimPrefix(r.version, "v") + "-linux-" + arch
	f, err := os.Create(filepath.Join(out, name+".tar.gz"))
	if err != nil {
		return err
	}
	defer f.Close()
	zip, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	if err := writeTar(zip, tree, name, r.date); err != nil {
		return err
	}
	if err := zip.Close(); err != nil {
		return err
	}
	return f.Close()
}

// writeTar writes a tree, in the order of its names, as root's and of one time.
func writeTar(w io.Writer, tree, prefix string, date time.Time) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(tree, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == tree && prefix == "" {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		below, err := filepath.Rel(tree, name)
		if err != nil {
			return err
		}
		*h = tar.Header{Typeflag: h.Typeflag, Name: filepath.Join(prefix, below), Size: h.Size, Mode: h.Mode, ModTime: date, Format: tar.FormatPAX}
		if d.IsDir() {
			h.Name += "/"
		}
		if err := t.WriteHeader(h); err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(t, f)
		return err
	})
	if err != nil {
		return err
	}
	return t.Close()
}
