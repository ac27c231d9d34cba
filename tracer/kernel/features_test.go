package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Whether a function can be probed is asked of tracefs, wherever it is mounted; without it,
// it is not known, which is not to say that it cannot.
func TestTraceable(t *testing.T) {
	tracefs := t.TempDir()
	const list = "perf_mmap_to_page\nperf_mmap\nnf_hook [nf_core]\n"
	if err := os.WriteFile(filepath.Join(tracefs, "available_filter_functions"), []byte(list), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		function string
		mounts   []string
		want     error
	}{
		{"perf_mmap", []string{"/nowhere", tracefs}, nil},
		{"nf_hook", []string{tracefs}, nil},
		{"perf_mmap_close", []string{tracefs}, ebpf.ErrNotSupported},
		{"perf_mmap", []string{"/nowhere"}, os.ErrNotExist},
	} {
		if err := traceable(c.function, c.mounts...); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s in %q: %v; want %v", c.function, c.mounts, err, c.want)
		}
	}
}

// What says of BPF links that this kernel has none, and what does not.
func TestNoLinks(t *testing.T) {
	for err, want := range map[error]bool{unix.EINVAL: true, unix.EPERM: false, ebpf.ErrNotSupported: true} {
		if got := NoLinks(fmt.Errorf("get next link ID: %w", err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
