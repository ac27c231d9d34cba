package guest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// program writes the headers of an ELF file.
func program(t *testing.T, machine elf.Machine, kind elf.Type, segments ...elf.ProgType) string {
	t.Helper()
	header := elf.Header64{
		Ident:   [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:    uint16(kind),
		Machine: uint16(machine),
		Version: uint32(elf.EV_CURRENT),
		Ehsize:  64, Phoff: 64, Phentsize: 56, Phnum: uint16(len(segments)), Shentsize: 64,
	}
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, header)
	for _, kind := range segments {
		binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(kind)})
	}
	return file(t, b.String())
}

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// What a guest cannot run is said before anything boots, with what to do.
func TestCheckProgram(t *testing.T) {
	for name, c := range map[string]struct {
		file, want string // "": it runs
	}{
		"static":       {program(t, elf.EM_X86_64, elf.ET_EXEC, elf.PT_LOAD), ""},
		"static PIE":   {program(t, elf.EM_X86_64, elf.ET_DYN, elf.PT_LOAD, elf.PT_DYNAMIC), ""},
		"dynamic":      {program(t, elf.EM_X86_64, elf.ET_DYN, elf.PT_INTERP, elf.PT_LOAD), "linked dynamically, and a guest has no libraries: build it with CGO_ENABLED=0"},
		"other":        {program(t, elf.EM_AARCH64, elf.ET_EXEC, elf.PT_LOAD), "a program for arm64, in a guest of amd64: build it for that (GOARCH=amd64)"},
		"BPF":          {program(t, elf.EM_BPF, elf.ET_REL), "a program for EM_BPF, in a guest of amd64"},
		"not linked":   {program(t, elf.EM_X86_64, elf.ET_REL), "not a program that was linked"},
		"script":       {file(t, "#!/bin/sh\necho hello, I am not a program\n"), "not an ELF program"},
		"empty":        {file(t, ""), "not an ELF program"},
		"no such file": {"/nowhere/program", "/nowhere/program: no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckProgram(c.file, "amd64")
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v; want %q", err, c.want)
			}
		})
	}
}
