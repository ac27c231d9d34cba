package guest

import (
	"cmp"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

// jobPath is where the initramfs holds what init is to do.
const jobPath = "pinwatch.json"

// job is what init is to do.
type job struct {
	Program string   `json:"program"` // a path
	Args    []string `json:"args"`    // from the program's own name on
	Env     []string `json:"env"`
	Modules []string `json:"modules"` // paths, in the order of their loading
	// The serial ports of the command, as names below /dev.
	Stdout  string `json:"stdout"`
	Stderr  string `json:"stderr"`
	Control string `json:"control"`
}

// execDir is where a program lies that runs instead of pinwatch.
const execDir = "exec"

// writeInitramfs writes a newc archive: pinwatch as /init, the job, the program that
// runs instead, and the files that were asked for.
func (c Config) writeInitramfs(name string, m machine) (err error) {
	binary := c.Binary
	if binary == "" {
		if binary, err = BinaryFor(m.arch); err != nil {
			return err
		}
	}
	if err := CheckProgram(binary, m.arch); err != nil {
		return fmt.Errorf("pinwatch for the guest: %w; or name another with --binary", err)
	}
	j := job{Program: "/init", Args: append([]string{"pinwatch"}, c.Args...), Env: c.Env,
		Stdout: m.devices[0], Stderr: m.devices[1], Control: m.devices[2]}
	if c.Exec != "" {
		j.Program = "/" + execDir + "/" + filepath.Base(c.Exec)
		j.Args[0] = j.Program
	}
	load, err := c.modules()
	if err != nil {
		return err
	}
	for _, module := range load {
		j.Modules = append(j.Modules, "/modules/"+module.name+".ko")
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	records := []cpio.Record{
		// With a mode of 0700 nothing works for other users.
		cpio.Directory(".", 0o755),
		cpio.StaticFile(jobPath, string(text), 0o444),
		cpio.Symlink("bin/pinwatch", "/init"),
	}
	for i, module := range load {
		records = append(records, cpio.StaticFile(j.Modules[i][1:], string(module.image), 0o444))
	}
	for _, pair := range append([]string{binary + ":init"}, c.Files...) {
		r, err := fileRecord(pair)
		if err != nil {
			return err
		}
		records = append(records, r)
	}
	if c.Exec != "" {
		r, err := programRecord(c.Exec, m.arch)
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

// CheckProgram reports why a guest of an architecture cannot run a file: it has no
// dynamic linker and no interpreters, and its kernel would only say that there is no
// such file.
func CheckProgram(file, arch string) error {
	f, err := elf.Open(file)
	var unreadable *os.PathError
	if errors.As(err, &unreadable) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%s: not an ELF program (%w): a guest runs static programs for Linux on %s, and has no interpreter for others", file, err, arch)
	}
	defer f.Close()
	machines := map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}
	if machines[f.Machine] != arch {
		return fmt.Errorf("%s: a program for %s, in a guest of %s: build it for that (GOARCH=%s)", file, cmp.Or(machines[f.Machine], f.Machine.String()), arch, arch)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return fmt.Errorf("%s: not a program that was linked (%v)", file, f.Type)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s: linked dynamically, and a guest has no libraries: build it with CGO_ENABLED=0 and without -race, or with -static", file)
		}
	}
	return nil
}

// programRecord is the program that runs instead of pinwatch. It need not be
// executable on this machine.
func programRecord(file, arch string) (cpio.Record, error) {
	if err := CheckProgram(file, arch); err != nil {
		return cpio.Record{}, fmt.Errorf("program to run: %w", err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return cpio.Record{}, err
	}
	return cpio.StaticFile(execDir+"/"+filepath.Base(file), string(raw), 0o755), nil
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
