package accounting

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Memory is where findings are remembered until the next boot.
type Memory struct {
	Dir   string // of the file
	Boot  string // file with the boot's id
	Owner uint32 // who alone is believed
}

// Default is root's, in /run.
func Default() Memory {
	return Memory{Dir: "/run/pinwatch", Boot: "/proc/sys/kernel/random/boot_id", Owner: 0}
}

// file is what is remembered.
type file struct {
	Version  int         `json:"v"`
	BootID   string      `json:"boot_id"`
	By       By          `json:"by"`
	Scheme   rule.Scheme `json:"scheme"`
	Remaps   bool        `json:"further_mappings_charged"`
	Separate bool        `json:"separate_counter"`
	Clamps   bool        `json:"clamps"`
}

const fileVersion = 1

func (m Memory) path() string { return filepath.Join(m.Dir, "accounting.json") }

func (m Memory) bootID() string {
	raw, err := os.ReadFile(m.Boot)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// Recall is what was seen since this boot. What anybody but the owner could have written
// is not believed.
func (m Memory) Recall() (Finding, bool) {
	boot := m.bootID()
	if boot == "" || !m.trusted(m.Dir, unix.S_IFDIR) {
		return Finding{}, false
	}
	if !m.trusted(m.path(), unix.S_IFREG) {
		return Finding{}, false
	}
	raw, err := os.ReadFile(m.path())
	if err != nil {
		return Finding{}, false
	}
	var f file
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	believed := decoder.Decode(&f) == nil && f.Version == fileVersion && f.BootID == boot &&
		(f.By == ByExperiment || f.By == ByTrace) && f.Scheme != rule.SchemeUnknown
	if !believed {
		return Finding{}, false
	}
	return Finding{Accounting: rule.Accounting{Scheme: f.Scheme, Remaps: f.Remaps, Separate: f.Separate}, By: f.By, Clamps: f.Clamps}, true
}

// trusted reports whether something is of a type, the owner's, and writable by nobody else.
func (m Memory) trusted(path string, kind uint32) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == kind && st.Uid == m.Owner && st.Mode&0o022 == 0
}

// remember writes a finding down, if this is the owner and may.
func (m Memory) remember(f Finding) error {
	boot := m.bootID()
	if boot == "" || uint32(os.Geteuid()) != m.Owner {
		return os.ErrPermission
	}
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return err
	}
	if !m.trusted(m.Dir, unix.S_IFDIR) {
		return os.ErrPermission
	}
	text, err := json.Marshal(file{fileVersion, boot, f.By, f.Scheme, f.Remaps, f.Separate, f.Clamps})
	if err != nil {
		return err
	}
	temporary, err := os.CreateTemp(m.Dir, ".accounting-")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name()) // is gone, if all went well
	_, err = temporary.Write(append(text, '\n'))
	if err == nil {
		err = temporary.Chmod(0o644)
	}
	if closed := temporary.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(temporary.Name(), m.path())
}
