package guest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
)

// ModuleImage is a module that has nothing but what it says of itself: fields such as
// depends=vfio.
func ModuleImage(fields ...string) []byte {
	info := strings.Join(fields, "\x00") + "\x00"
	const names = "\x00.modinfo\x00.names\x00"
	const size, infoAt = 64, 64
	namesAt := infoAt + len(info)
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Ehsize: size, Shoff: uint64(namesAt + len(names)), Shentsize: size, Shnum: 3, Shstrndx: 2,
	}
	var b bytes.Buffer
	for _, part := range []any{header, []byte(info + names), []elf.Section64{{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC), Off: infoAt, Size: uint64(len(info)), Addralign: 1},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(namesAt), Size: uint64(len(names)), Addralign: 1},
	}} {
		binary.Write(&b, binary.LittleEndian, part)
	}
	return b.Bytes()
}
