package kernel

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCPUs(t *testing.T) {
	for list, want := range map[string][]int{"0": {0}, "0-3": {0, 1, 2, 3}, "0-1,5": {0, 1, 5}, "0,2-3,7-7": {0, 2, 3, 7}} {
		got, err := parseCPUs(list)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("parseCPUs(%q): %s, %v", list, diff, err)
		}
	}
	for _, list := range []string{"", "x", "3-1", "-1", "1,", "0-4000000000"} {
		if got, err := parseCPUs(list); err == nil {
			t.Errorf("parseCPUs(%q) = %d; want an error", list, got)
		}
	}
}
