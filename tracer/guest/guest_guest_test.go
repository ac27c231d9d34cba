//go:build guest

package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// TestMain is what the tests run in their guests, too: the program does what its first
// argument says.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if act := acts[os.Args[1]]; act != nil {
			if err := act(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(3)
		}
	}
	var guests guesttest.Guests
	os.Exit(guests.Main(m))
}

var acts = map[string]func() error{
	// output writes to all that a guest has.
	"output": func() error {
		content, err := os.Open("/content")
		if err != nil {
			return err
		}
		if _, err := io.Copy(os.Stdout, content); err != nil {
			return err
		}
		if err := os.WriteFile("/dev/kmsg", []byte("kernel says\n"), 0); err != nil {
			return err
		}
		_, err = fmt.Fprintln(os.Stderr, "words")
		return err
	},
	// crash has the kernel panic.
	"crash": func() error {
		err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
		time.Sleep(time.Minute)
		return err
	},
	// surroundings says what it was given.
	"surroundings": func() error {
		directory, err := os.Getwd()
		if err != nil {
			return err
		}
		fmt.Printf("%q in %s, uid %d, %s\n", os.Args[2:], directory, os.Geteuid(), os.Getenv("COLOUR"))
		version := exec.Command("pinwatch", "version")
		version.Stdout = os.Stdout
		return version.Run()
	},
}

// in runs this program in a guest.
func in(t *testing.T, k guesttest.Kernel, change func(*guest.Config), args ...string) guesttest.Result {
	t.Helper()
	return guesttest.Run(t, k, func(c *guest.Config) {
		c.Exec = guesttest.TestBinary(t, k.Arch)
		if change != nil {
			change(c)
		}
	}, args...)
}

// Output and exit code come back as they are, and apart from each other.
func TestOutputIntact(t *testing.T) {
	t.Parallel()
	k := guesttest.First(t)[0]
	random := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, 300<<10)
	for i := range content {
		content[i] = byte(random.Uint32()) // every value: a terminal would change some
	}
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	out := in(t, k, func(c *guest.Config) { c.Files = append(c.Files, file+":content") }, "output")
	if out.Stdout != string(content) {
		t.Errorf("stdout of %d bytes is not the %d written", len(out.Stdout), len(content))
	}
	if out.Stderr != "words\n" {
		t.Errorf("stderr: %q", out.Stderr)
	}
	if strings.Contains(out.Stdout+out.Stderr, "kernel says") {
		t.Error("the kernel's messages came along")
	}
	if out.Code != 3 {
		t.Errorf("exit %d, want 3", out.Code)
	}
	if out := guesttest.Run(t, k, nil, "trace", "--nonsense"); out.Code != 2 {
		t.Errorf("wrong usage: exit %d, want 2", out.Code)
	}
}

// Any static program runs in a guest, with pinwatch in its PATH: as pinwatch guest --exec,
// too, which takes the kernel out of a package.
func TestExec(t *testing.T) {
	t.Parallel()
	k := guesttest.First(t)[0]
	out := in(t, k, func(c *guest.Config) { c.Env = []string{"COLOUR=deep blue"} }, "surroundings", "--one", "two words", "")
	if want := "[\"--one\" \"two words\" \"\"] in /, uid 0, deep blue\npinwatch "; !strings.HasPrefix(out.Stdout, want) || out.Code != 3 {
		t.Errorf("%+v; want %q", out, want)
	}
	defer guesttest.TakeSlot()()
	dir := t.TempDir()
	deb := packageOf(t, k.Image, dir)
	cmd := exec.Command(guesttest.Binary(t), "guest", "--kernel", deb, "--exec", guesttest.TestBinary(t, k.Arch), "--", "-test.list", "Exec")
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
	var said bytes.Buffer
	cmd.Stderr = &said
	raw, err := cmd.Output()
	if want := "TestExec\n"; err != nil || string(raw) != want || !strings.HasPrefix(said.String(), "pinwatch: "+deb+": vmlinu") {
		t.Errorf("pinwatch guest --exec: %v, %q, %q; want %q", err, raw, &said, want)
	}
}

// packageOf is a package of Debian's with a kernel in it, made by Debian's own tool.
func packageOf(t *testing.T, image, dir string) string {
	t.Helper()
	file, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "tree")
	for name, content := range map[string][]byte{
		"DEBIAN/control":               []byte("Package: linux-image-test\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: a kernel\n"),
		"boot/" + filepath.Base(image): file,
	} {
		path := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "linux-image-test.deb")
	if said, err := exec.Command("dpkg-deb", "--build", "-Zzstd", "-z1", tree, out).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, said)
	}
	return out
}

// A module that the kernel refuses ends the guest before the command starts, with the errno
// and what the kernel said.
func TestModuleRefused(t *testing.T) {
	guesttest.Long(t)
	t.Parallel()
	k := guesttest.First(t)[0]
	file := filepath.Join(t.TempDir(), "empty.ko")
	if err := os.WriteFile(file, guest.ModuleImage("name=empty"), 0o644); err != nil {
		t.Fatal(err)
	}
	defer guesttest.TakeSlot()()
	cmd := exec.Command(guesttest.Binary(t), "guest", "--kernel", k.Image, "--module", file, "--", "version")
	said, _ := cmd.CombinedOutput()
	first, _, _ := strings.Cut(string(said), "\n")
	if want := "pinwatch: guest never ran its command: module empty.ko: the kernel refuses it: ENOEXEC (exec format error); its last message: "; cmd.ProcessState.ExitCode() != 125 || !strings.HasPrefix(first, want) || first == want {
		t.Errorf("exit %d, %q; want %q", cmd.ProcessState.ExitCode(), said, want)
	}
}

// Each way to have no exit code is told from the others.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	k := guesttest.First(t)[0]
	run := func(change func(*guest.Config), args ...string) error {
		var discard bytes.Buffer
		c := guest.Config{Kernel: k.Image, Binary: guesttest.BinaryFor(t, k.Arch), Args: args, Stdout: &discard, Stderr: &discard, Timeout: 2 * time.Minute}
		change(&c)
		defer guesttest.TakeSlot()()
		_, err := guest.Run(context.Background(), c)
		return err
	}
	for name, c := range map[string]struct {
		err    error
		change func(*guest.Config)
		args   []string
	}{
		"timeout": {guest.ErrTimeout, func(c *guest.Config) { c.Timeout = 10 * time.Second }, []string{"trace"}},
		"panic":   {guest.ErrPanic, func(c *guest.Config) { c.Exec = guesttest.TestBinary(t, k.Arch) }, []string{"crash"}},
		"no init": {guest.ErrNoInit, func(c *guest.Config) { c.Memory = "nonsense" }, []string{"version"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run(c.change, c.args...)
			var failure *guest.Error
			if !errors.Is(err, c.err) || !errors.As(err, &failure) {
				t.Fatalf("got %v; want %v", err, c.err)
			}
			if name == "panic" && (failure.Booting || !strings.Contains(failure.Detail, "sysrq")) {
				t.Errorf("got %+v; want the panic's own words", failure)
			}
		})
	}
}
