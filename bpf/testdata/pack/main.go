// Command pack compresses the objects that are named into the folder packed/ beside
// them: what the binary embeds of them. The compressor is the module's own, so that the
// same objects give the same bytes everywhere.
package main

import (
	"log"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: pack OBJECT.o ...")
	}
	for _, name := range os.Args[1:] {
		if err := pack(name); err != nil {
			log.Fatal(err)
		}
	}
}

func pack(name string) error {
	object, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	packer, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	defer packer.Close()
	dir := filepath.Join(filepath.Dir(name), "packed")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, filepath.Base(name)+".zst"), packer.EncodeAll(object, nil), 0o644)
}
