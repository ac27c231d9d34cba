// Package fakeqemu stands in for QEMU where what is tested boots guests, and no kernel is
// needed: a test of the same binary plays the guest.
//
//	func TestQEMU(t *testing.T) {
//		g := fakeqemu.Play(t)
//		fmt.Fprintln(g.Console, "Linux version 6.1.1")
//		g.End(0)
//	}
package fakeqemu

import (
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const variable = "PINWATCH_FAKE_QEMU"

// Install puts it before the QEMU in PATH. Its guests are played by a test of this binary.
func Install(t *testing.T, test string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec %q -test.run '^%s$' -- \"$@\"\n", self, test)
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv(variable, "1")
}

// Guest is one that is played, with its serial ports.
type Guest struct {
	Console, Stdout, Stderr net.Conn
	control                 net.Conn
}

// Play begins the part of a guest that has come to its init. In a process that is no QEMU the
// test ends here.
func Play(t *testing.T) *Guest {
	if os.Getenv(variable) == "" {
		t.Skip("plays the guests of other tests")
	}
	port := func(n int) net.Conn {
		prefix := fmt.Sprintf("socket,id=port%d,path=", n)
		i := slices.IndexFunc(flag.Args(), func(arg string) bool { return strings.HasPrefix(arg, prefix) })
		if i < 0 {
			t.Fatalf("no port %d in %q", n, flag.Args())
		}
		conn, err := net.Dial("unix", strings.TrimPrefix(flag.Args()[i], prefix))
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	g := &Guest{Console: port(0), Stdout: port(1), Stderr: port(2), control: port(3)}
	fmt.Fprintln(g.control, "ready")
	return g
}

// Option is the value of one of QEMU's, such as -append.
func (g *Guest) Option(name string) string {
	return flag.Args()[slices.Index(flag.Args(), name)+1]
}

// End ends the guest's command, and with it the guest.
func (g *Guest) End(code int) { fmt.Fprintf(g.control, "exit %d\n", code) }
