package workload

import (
	"testing"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Before 5.8 CAP_SYS_ADMIN allows what CAP_BPF and CAP_PERFMON do since then; nothing
// stands for a capability that has no such past.
func TestCapability(t *testing.T) {
	const before58 = cap.AUDIT_READ + 1
	for _, c := range []struct {
		name  string
		known cap.Value
		want  cap.Value
		ok    bool
	}{
		{"cap_bpf", cap.CHECKPOINT_RESTORE + 1, cap.BPF, true},
		{"cap_bpf", before58, cap.SYS_ADMIN, true},
		{"cap_perfmon", before58, cap.SYS_ADMIN, true},
		{"cap_ipc_lock", before58, cap.IPC_LOCK, true},
		{"cap_checkpoint_restore", before58, 0, false},
		{"cap_of_no_kernel", before58, 0, false},
	} {
		if got, err := capability(c.name, c.known); got != c.want || (err == nil) != c.ok {
			t.Errorf("%s with %d known: %v, %v; want %v", c.name, c.known, got, err, c.want)
		}
	}
}
