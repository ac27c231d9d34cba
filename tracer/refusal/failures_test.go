package refusal

import "testing"

// Failed calls are counted by errno; when there are more errnos than places, the rest
// shares the last one.
func TestFailures(t *testing.T) {
	var got Failures
	for i, errno := range []int32{0, 1, 12, 1, 105, 22, 16, 13, 13, 19, 12} {
		if errno != 0 {
			got.Add(errno, uint64(i+1))
		}
	}
	if want := (Failures{{1, 2, 2}, {12, 2, 3}, {105, 1, 5}, {22, 1, 6}, {16, 1, 7}, {0, 3, 8}}); got != want {
		t.Errorf("%v; want %v", got, want)
	}
}
