package bpf

import (
	"bytes"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/klauspost/compress/zstd"
)

// Packed is the reader of a large object, by its file's stem ("perf", "perf_legacy"):
// what bpf2go's Load functions do, from a compressed copy. The binary holds the copies
// alone, a tenth of the size: the linker leaves out objects whose Load function nobody
// calls.
func Packed(stem string) func() (*ebpf.CollectionSpec, error) {
	return func() (*ebpf.CollectionSpec, error) {
		raw, err := packed.ReadFile("packed/" + stem + "_" + arch + "_bpfel.o.zst")
		if err != nil {
			return nil, err
		}
		// One goroutine, and no more of it than this object needs.
		unpacker, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		defer unpacker.Close()
		object, err := unpacker.DecodeAll(raw, nil)
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", stem, err)
		}
		return ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	}
}
