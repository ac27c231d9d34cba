package kernel

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// SettingSymbol is a kernel variable that a setting is read from at every call, and those
// that do as well where a kernel lacks it.
type SettingSymbol struct {
	Name    string
	Instead []string
}

// SettingSymbols are those of all settings. Before 5.4 (0c09ab96fc82) the online CPUs are
// counted in their mask.
func SettingSymbols() []SettingSymbol {
	return []SettingSymbol{{Name: "sysctl_perf_event_mlock"}, {Name: "sysctl_perf_event_paranoid"},
		{Name: "__num_online_cpus", Instead: []string{"__cpu_online_mask", "nr_cpu_ids"}}}
}

// SyscallSymbol is the name that a function has here; that of a system call, such as
// sys_bpf, has had a prefix of the architecture's since 4.17.
func SyscallSymbol(name string) string {
	if !strings.HasPrefix(name, "sys_") {
		return name
	}
	return map[string]string{"amd64": "__x64_", "arm64": "__arm64_"}[runtime.GOARCH] + name
}

// SymbolsFile has the kernel's symbols.
const SymbolsFile = "/proc/kallsyms"

// ReadSymbols reads where symbols are from what SymbolsFile has, those of the kernel before those
// of modules that have the same name. What there is not is not in the map. The names are there
// for everyone; the addresses are 0 for whom the kernel hides them from.
func ReadSymbols(r io.Reader, names []string) (map[string]uint64, error) {
	wanted, found := map[string]bool{}, map[string]uint64{}
	for _, name := range names {
		wanted[name] = true
	}
	lines := bufio.NewScanner(r)
	for lines.Scan() { // ADDRESS TYPE NAME [TAB MODULE]
		address, rest, _ := bytes.Cut(lines.Bytes(), []byte(" "))
		_, rest, _ = bytes.Cut(rest, []byte(" "))
		name, _, _ := bytes.Cut(rest, []byte("\t"))
		if !wanted[string(name)] {
			continue
		}
		delete(wanted, string(name))
		n, err := strconv.ParseUint(string(address), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: the address of %s: %w", SymbolsFile, name, err)
		}
		found[string(name)] = n
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", SymbolsFile, err)
	}
	return found, nil
}

// SymbolAddresses asks the kernel for symbols, with a program that writes their
// addresses into its context. Those that it lacks are 0. Close
// the program after the trace, which would show its end.
func SymbolAddresses(names []string) (program *ebpf.Program, addresses map[string]uint64, err error) {
	const address, name = -8, -8 - 64 // on the stack
	code := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	for i, symbol := range names {
		text := make([]byte, 64)
		if copy(text, symbol) == len(text) {
			return nil, nil, fmt.Errorf("look up %s: the name is too long", symbol)
		}
		for at := 0; at <= len(symbol); at += 4 {
			word := int32(text[at]) | int32(text[at+1])<<8 | int32(text[at+2])<<16 | int32(text[at+3])<<24
			code = append(code, asm.StoreImm(asm.R10, int16(name+at), int64(word), asm.Word))
		}
		next := fmt.Sprintf("found%d", i)
		code = append(code,
			asm.Mov.Reg(asm.R1, asm.R10), asm.Add.Imm(asm.R1, name),
			asm.Mov.Imm(asm.R2, int32(len(symbol)+1)),
			asm.Mov.Imm(asm.R3, 0),
			asm.StoreMem(asm.R10, address, asm.R3, asm.DWord),
			asm.Mov.Reg(asm.R4, asm.R10), asm.Add.Imm(asm.R4, address),
			asm.FnKallsymsLookupName.Call(),
			asm.JEq.Imm(asm.R0, 0, next),
			asm.JEq.Imm(asm.R0, -int32(unix.ENOENT), next),
			asm.Return(),
			asm.LoadMem(asm.R1, asm.R10, address, asm.DWord).WithSymbol(next),
			asm.StoreMem(asm.R6, int16(8*i), asm.R1, asm.DWord))
	}
	code = append(code, asm.Mov.Imm(asm.R0, 0), asm.Return())
	program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.Syscall, License: "GPL", Flags: unix.BPF_F_SLEEPABLE, Instructions: code})
	if err != nil {
		return nil, nil, fmt.Errorf("look up kernel symbols: %w", err)
	}
	found := make([]uint64, len(names))
	result, err := program.Run(&ebpf.RunOptions{Context: found, ContextOut: found})
	if err == nil && result != 0 {
		err = unix.Errno(-int32(result))
	}
	if err != nil {
		return program, nil, fmt.Errorf("look up kernel symbols: %w", err)
	}
	addresses = map[string]uint64{}
	for i, symbol := range names {
		addresses[symbol] = found[i]
	}
	return program, addresses, nil
}
