package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image packs an OCI layout: an index of an image for each architecture, in which there is
// the binary and nothing else.
func (r release) image(binaries []string, dir, out string) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for i, arch := range architectures {
		img, err := r.imageOf(binaries[i], arch)
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	// The layout's own index has this one by the name that podman and skopeo look for.
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	name := strings.ReplaceAll(strings.TrimPrefix(r.version, "v"), "+", "-")
	if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name})); err != nil {
		return err
	}
	if err := same(dir, r.date); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(out, "pinwatch-"+strings.TrimPrefix(r.version, "v")+"-image.tar"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeTar(f, dir, "", r.date); err != nil {
		return err
	}
	return f.Close()
}

func (r release) imageOf(binary, arch string) (v1.Image, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	if err := t.WriteHeader(&tar.Header{Name: "pinwatch", Mode: 0o755, Size: int64(len(content)), ModTime: r.date}); err != nil {
		return nil, err
	}
	if _, err := t.Write(content); err != nil {
		return nil, err
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(9))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: r.date}, CreatedBy: "make dist"}})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: r.date}
	config.Config = v1.Config{
		Entrypoint: []string{"/pinwatch"},
		Env:        []string{"PATH=/"},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "pinwatch",
			"org.opencontainers.image.version":  r.version,
			"org.opencontainers.image.source":   "https://github.com/pinwatch/pinwatch",
			"org.opencontainers.image.licenses": "Apache-2.0 AND GPL-2.0-only",
		},
	}
	return mutate.ConfigFile(img, config)
}
