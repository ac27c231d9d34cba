package kernel

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadSymbols(t *testing.T) {
	const shown = "ffffffff81000000 T _text\n" +
		"ffffffff81123450 t perf_mmap\n" +
		"ffffffff81123460 t perf_mmap_close\n" +
		"ffffffffc0001230 t perf_mmap\t[module]\n" + // the kernel's comes first
		"ffffffffc0001240 t vfio_iommu_type1_ioctl\t[vfio_iommu_type1]\n"
	names := []string{"_text", "perf_mmap", "vfio_iommu_type1_ioctl", "perf_mm", "absent"}
	for _, c := range []struct {
		name, text string
		want       map[string]uint64 // nil: an error
	}{
		{"shown", shown, map[string]uint64{"_text": 0xffffffff81000000, "perf_mmap": 0xffffffff81123450, "vfio_iommu_type1_ioctl": 0xffffffffc0001240}},
		{"hidden", "0000000000000000 t perf_mmap\n", map[string]uint64{"perf_mmap": 0}},
		{"nothing", "", map[string]uint64{}},
		{"no address", "zzz t perf_mmap\n", nil},
		{"no name", "ffffffff81000000\n", map[string]uint64{}},
		{"an endless line", strings.Repeat("x", 1<<20), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ReadSymbols(strings.NewReader(c.text), names)
			if (err != nil) != (c.want == nil) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); c.want != nil && diff != "" {
				t.Error(diff)
			}
		})
	}
}
