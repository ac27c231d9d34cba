package check

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pinwatch/pinwatch/tracer/evidence"
	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/guest/fakeqemu"
)

// TestQEMU plays the guest of TestEvidence, and in it what the kernel's parameters name.
func TestQEMU(t *testing.T) {
	g := fakeqemu.Play(t)
	fmt.Fprintln(g.Console, "Linux version 6.1.1")
	fmt.Fprintln(g.Stderr, "progress: 1/2 map-once")
	trace := evidence.Sender(g.Stderr)
	packed, err := zstd.NewWriter(trace)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(packed, "first")
	packed.Flush()
	part := g.Option("-append")
	switch {
	case strings.HasSuffix(part, "hang"):
		time.Sleep(time.Minute)
	case strings.HasSuffix(part, "crash"):
		fmt.Fprint(g.Stderr, "trace: KLUv") // in the middle of a line
		fmt.Fprintln(g.Console, "Kernel panic - not syncing: sysrq triggered crash")
		return
	}
	report := Kernel{Release: "6.1.1", Scenarios: []Scenario{{Name: "map-once", Result: Pass}}}
	if strings.HasSuffix(part, "fail") {
		report.Scenarios[0].Result = Fail
	}
	json.NewEncoder(g.Stdout).Encode(ReportOf(report))
	fmt.Fprintln(packed, "last")
	packed.Close()
	g.End(0)
}

// static is a program that a guest may run, as far as is looked at.
func static(t *testing.T) string {
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Phentsize: 56, Shentsize: 64,
	})
	name := filepath.Join(t.TempDir(), "pinwatch")
	write(t, name, b.Bytes())
	return name
}

// unpacked is what a file holds, as far as it goes.
func unpacked(name string) string {
	raw, _ := os.ReadFile(name)
	reader, err := zstd.NewReader(bytes.NewReader(raw))
	if err != nil {
		return ""
	}
	defer reader.Close()
	text, _ := io.ReadAll(reader)
	return string(text)
}

// What a kernel leaves is kept however it ends: the console, the command line, a trace as
// far as it came, and the report.
func TestEvidence(t *testing.T) {
	dir := t.TempDir()
	fakeqemu.Install(t, "TestQEMU")
	image := filepath.Join(dir, "vmlinuz-6.1: a kernel")
	write(t, image, bzImage(t, "6.1.1"))
	for _, c := range []struct {
		part   string
		trace  string
		boots  int
		report string // the kernel's error; "": it was checked
		keeps  bool   // the report names the console
	}{
		{"whole", "first\nlast\n", 1, "", false},
		{"fail", "first\nlast\n", 1, "", true},
		{"crash", "first\n", 2, "at 1/2 map-once: guest kernel panicked: Kernel panic - not syncing: sysrq triggered crash", true},
		{"hang", "first\n", 1, "interrupted", true},
	} {
		t.Run(c.part, func(t *testing.T) {
			top := filepath.Join(dir, c.part)
			in := filepath.Join(top, "6.1-a-kernel")
			kept, err := evidence.New(top)
			if err != nil {
				t.Fatal(err)
			}
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			g := Guests{Kernels: []string{image}, Binaries: map[string]string{"amd64": static(t)}, Timeout: time.Minute, Evidence: kept,
				Base: guest.Config{Accel: "tcg", Append: c.part}, Done: func(string, string) {},
				Progress: func(_, state string) {
					if c.part == "hang" && state == "booting" {
						go func() { // Ctrl-C, once some of the trace has come
							for unpacked(filepath.Join(in, "trace.jsonl.zst")) != c.trace {
								time.Sleep(time.Millisecond)
							}
							interrupt()
						}()
					}
				}}
			found, err := g.Run(ctx)
			if (err != nil) != (c.part == "hang") || len(found.Kernels) != 1 {
				t.Fatalf("%+v, %v", found, err)
			}
			read := func(name string) string {
				t.Helper()
				raw, err := os.ReadFile(filepath.Join(in, name))
				if err != nil {
					t.Fatal(err)
				}
				return string(raw)
			}
			var report Report
			if err := json.Unmarshal([]byte(read(evidence.ReportFile)), &report); err != nil {
				t.Fatal(err)
			}
			if k := report.Kernels[0]; !strings.HasPrefix(k.Error, c.report) || c.report == "" && k.Error != "" || k.Image != image || (k.Log == filepath.Join(in, evidence.ConsoleFile)) != c.keeps {
				t.Errorf("%+v; want the error %q", k, c.report)
			}
			if text := read(evidence.ConsoleFile); strings.Count(text, "--- pinwatch boots the kernel\nLinux version 6.1.1\n") != c.boots || strings.Contains(text, "Kernel panic") != (c.part == "crash") {
				t.Errorf("console: %q", text)
			}
			lines := strings.Split(strings.TrimSpace(read(evidence.QEMUFile)), "\n")
			if len(lines) != c.boots {
				t.Errorf("%q; want %d of them", lines, c.boots)
			}
			_, args, _ := strings.Cut(lines[0], " ")
			said, err := exec.Command("sh", "-c", `qemu() { for arg; do case $arg in */vmlinuz*) echo "$arg" ;; esac; done; }; qemu `+args).CombinedOutput()
			if err != nil || string(said) != image+"\n" {
				t.Errorf("%s\nis %q to a shell, %v", lines[0], said, err)
			}
			for boot := 1; boot <= c.boots; boot++ {
				name := "trace.jsonl.zst"
				if boot > 1 {
					name = fmt.Sprintf("trace-%d.jsonl.zst", boot)
				}
				if text := unpacked(filepath.Join(in, name)); text != c.trace {
					t.Errorf("%s: %q; want %q", name, text, c.trace)
				}
			}
		})
	}
	if _, err := evidence.New(filepath.Join(dir, "whole")); err == nil || !strings.Contains(err.Error(), "is not empty: name another directory, or remove it") {
		t.Error(err)
	}
}
