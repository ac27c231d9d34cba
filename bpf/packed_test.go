package bpf

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// What the binary embeds are the objects that were compiled, all of both architectures.
func TestPackedAreTheObjects(t *testing.T) {
	copies, err := filepath.Glob("packed/*.zst")
	if err != nil {
		t.Fatal(err)
	}
	if len(copies) != 12 {
		t.Errorf("%d packed objects %q: want 12, three sources of two flavours for two architectures", len(copies), copies)
	}
	unpacker, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unpacker.Close()
	for _, name := range copies {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := unpacker.DecodeAll(raw, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		object := strings.TrimSuffix(filepath.Base(name), ".zst")
		if want, err := os.ReadFile(object); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not %s (%v): make generate", name, object, err)
		}
	}
}

// An object is the same, from its copy or from bpf2go's.
func TestPacked(t *testing.T) {
	want, err := LoadPerfLegacy()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Packed("perf_legacy")()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Programs) == 0 || len(got.Programs) != len(want.Programs) || len(got.Maps) != len(want.Maps) {
		t.Errorf("%d programs and %d maps, want %d and %d", len(got.Programs), len(got.Maps), len(want.Programs), len(want.Maps))
	}
	if _, err := Packed("none")(); err == nil {
		t.Error("an object that there is not: no error")
	}
}
