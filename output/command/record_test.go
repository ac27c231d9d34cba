package command

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A trace that cannot begin, as here without a kernel to trace or a cgroup of that name, leaves
// the file of a recording as it was.
func TestRecordLeavesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kept.jsonl.zst")
	if err := os.WriteFile(path, []byte("kept"), 0o666); err != nil {
		t.Fatal(err)
	}
	var out, words strings.Builder
	s := Streams{In: strings.NewReader(""), Out: &out, Err: &words}
	if status := Main(context.Background(), []string{"record", "--btf", "nowhere", path}, s); status == 0 {
		t.Fatalf("it begins: %s", words.String())
	}
	if kept, err := os.ReadFile(path); err != nil || string(kept) != "kept" {
		t.Errorf("%q, %v", kept, err)
	}
}
