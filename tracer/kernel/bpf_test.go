package kernel

import "testing"

func TestToldNotToCharge(t *testing.T) {
	for cmdline, want := range map[string]bool{
		"console=ttyS0\n": false, "cgroup.memory=nobpf": true, "quiet cgroup.memory=nosocket,nokmem\n": true, "cgroup.memory=nosocket": false,
	} {
		if got := toldNotToCharge(cmdline); got != want {
			t.Errorf("%q: %v", cmdline, got)
		}
	}
}
