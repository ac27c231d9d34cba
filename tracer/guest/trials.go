package guest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// trials remembers, in the user's cache directory, with which kernel images KVM
// was seen to work on this machine: a failed trial costs seconds.
type trials struct{}

var kvmTrials trials

// path is the file of one kernel image on this host kernel.
func (trials) path(kernel string) (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	info, err := os.Stat(kernel)
	if err != nil {
		return "", err
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return "", err
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s %d %d %s", kernel, info.Size(), info.ModTime().UnixNano(), host.Release))
	return filepath.Join(dir, "pinwatch", "kvm", hex.EncodeToString(key[:8])), nil
}

func (t trials) load(kernel string) (works, known bool) {
	path, err := t.path(kernel)
	if err != nil {
		return false, false
	}
	raw, err := os.ReadFile(path)
	return string(raw) == "works", err == nil
}

// store is best effort: without it the next run tries again.
func (t trials) store(kernel string, works bool) {
	path, err := t.path(kernel)
	if err != nil || os.MkdirAll(filepath.Dir(path), 0o755) != nil {
		return
	}
	said := "fails"
	if works {
		said = "works"
	}
	os.WriteFile(path, []byte(said), 0o644)
}
