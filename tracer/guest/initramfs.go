package guest

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

// jobPath is where the initramfs holds what init is to do.
const jobPath = "pinwatch.json"

// job is what init is to do.
type job struct {
	Args []string `json:"args"`
	// The serial ports of the command, as names below /dev.
	Stdout  string `json:"stdout"`
	Stderr  string `json:"stderr"`
	Control string `json:"control"`
}

// writeInitramfs writes a newc archive: the binary as /init, the job, and the
// files that were asked for.
func (c Config) writeInitramfs(name string, m machine) (err error) {
	binary := c.Binary
	if binary == "" {
		if binary, err = BinaryFor(m.arch); err != nil {
			return err
		}
	}
	if err := static(binary); err != nil {
		return err
	}
	text, err := json.Marshal(job{Args: c.Args, Stdout: m.devices[0], Stderr: m.devices[1], Control: m.devices[2]})
	if err != nil {
		return err
	}
	records := []cpio.Record{
		// With a mode of 0700 nothing works for other users.
		cpio.Directory(".", 0o755),
		cpio.StaticFile(jobPath, string(text), 0o444),
		cpio.Symlink("bin/pinwatch", "/init"),
	}
	for _, pair := range append([]string{binary + ":init"}, c.Files...) {
		r, err := fileRecord(pair)
		if err != nil {
			return err
		}
		records = append(records, r)
	}

	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	w := cpio.Newc.Writer(out)
	if err := cpio.WriteRecordsAndDirs(w, records); err != nil {
		return err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return err
	}
	return out.Close()
}

// static says what is wrong with a program that wants a dynamic linker: the guest
// has none, and its kernel would only say that there is no init.
func static(binary string) error {
	f, err := elf.Open(binary)
	if err != nil {
		return fmt.Errorf("%s: %w", binary, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is linked dynamically, and a guest has no libraries: build it with CGO_ENABLED=0, or name another with --binary", binary)
		}
	}
	return nil
}

func fileRecord(pair string) (cpio.Record, error) {
	from, to, _ := strings.Cut(pair, ":")
	to = strings.Trim(path.Clean("/"+to), "/")
	if from == "" || to == "" {
		return cpio.Record{}, fmt.Errorf("file %q: want HOSTPATH:GUESTPATH", pair)
	}
	raw, err := os.ReadFile(from)
	if err != nil {
		return cpio.Record{}, err
	}
	info, err := os.Stat(from)
	if err != nil {
		return cpio.Record{}, err
	}
	return cpio.StaticFile(to, string(raw), uint64(info.Mode().Perm())|0o444), nil
}
