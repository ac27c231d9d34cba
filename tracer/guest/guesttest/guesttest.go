// Package guesttest runs tests in guests: Guests runs a package's own tests there, and
// Run a pinwatch command.
package guesttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pinwatch/pinwatch/tracer/guest"
)

// Kernel is a fetched kernel.
type Kernel struct {
	Series  string // such as "6.1", or "6.12-16k" with pages of 16 KiB
	Release string
	Image   string
	Arch    string // "amd64" or "arm64"
	// Variant names Parameters, which it is booted with besides the usual ones.
	Variant, Parameters string
	// Modules are loaded, names with spaces between; it is of a series such as
	// "6.12-generic" then, and the machine has an IOMMU.
	Modules string
	// Module is a file: what makes the known-bad kernel of a stock one. "": it is one.
	Module string
}

// String is the series, with the architecture where that is not the usual one, and the
// variant if there is one.
func (k Kernel) String() string {
	name := k.Series
	if k.Arch != "amd64" {
		name = k.Arch + "/" + name
	}
	if k.Variant != "" {
		name += "/" + k.Variant
	}
	return name
}

// With is the kernel booted with more parameters, which have a name.
func (k Kernel) With(variant, parameters string) Kernel {
	k.Variant, k.Parameters = variant, parameters
	return k
}

// Upstream is the series without the flavour: "6.12" for "6.12-16k".
func (k Kernel) Upstream() string {
	series, _, _ := strings.Cut(k.Series, "-")
	return series
}

// moduleDir is where the modules of a generic kernel were unpacked.
func (k Kernel) moduleDir() (string, error) {
	for _, below := range []string{"lib", "usr/lib"} {
		for _, top := range []string{".", ".."} {
			dir := filepath.Join(filepath.Dir(k.Image), top, below, "modules", k.Release)
			if _, err := os.Stat(filepath.Join(dir, "kernel")); err == nil {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("kernel %s has no modules beside %s", k.Release, k.Image)
}

// ComparesInline reports whether the kernel compares io_uring's registered buffers with the
// limit in the middle of a larger function, where no probe sees it (seen on Debian's kernels).
func (k Kernel) ComparesInline() bool {
	return k.Before("5.11") || !k.Before("6.19") && k.Before("7.2")
}

// Before reports whether the kernel is from before a version, such as "5.11".
func (k Kernel) Before(version string) bool { return older(k.Release, version) }

// PageKiB is how large its pages are: 16 KiB for "6.12-16k".
func (k Kernel) PageKiB() int64 {
	if strings.HasSuffix(k.Series, "-16k") {
		return 16
	}
	return 4
}

// DefaultSeries is what `make test` runs in. PINWATCH_SERIES names others, such as
// "5.10 newest arm64/6.12-16k".
const DefaultSeries = "6.1 6.12 newest"

const seriesVariable = "PINWATCH_SERIES"

// All reports whether PINWATCH_SERIES names the kernels: whether everything is to run in
// all of them, as for make test-kernels.
func All() bool { return os.Getenv(seriesVariable) != "" }

// Root is the top of the source tree.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

// Kernels fetches the kernels to test in.
func Kernels(t *testing.T) (all []Kernel) {
	t.Helper()
	if !All() {
		return Fetch(t, DefaultSeries)
	}
	for _, series := range strings.Fields(os.Getenv(seriesVariable)) {
		arch, name, found := strings.Cut(series, "/")
		if !found {
			arch, name = "amd64", series
		}
		all = append(all, fetch(t, arch, name)...)
	}
	return all
}

// Newest is the last of those alone, for what need not be seen in all of them at every
// change; or all that were asked for.
func Newest(t *testing.T) []Kernel {
	t.Helper()
	all := Kernels(t)
	if All() {
		return all
	}
	return all[len(all)-1:]
}

// First is the first of those alone, for what does not depend on the kernel.
func First(t *testing.T) []Kernel {
	t.Helper()
	return Kernels(t)[:1]
}

// Oldest is 5.10 alone, which differs most.
func Oldest(t *testing.T) []Kernel {
	t.Helper()
	return Fetch(t, "5.10")
}

// OldestOrAll is 5.10 alone, or all that were asked for.
func OldestOrAll(t *testing.T) []Kernel {
	t.Helper()
	if All() {
		return Kernels(t)
	}
	return Oldest(t)
}

// Long is for a test that only make test-kernels runs: others see most of what it sees.
func Long(t *testing.T) {
	t.Helper()
	if !All() {
		t.Skip("runs with make test-kernels")
	}
}

// WithOldest adds 5.10, which differs most, where it is not among some kernels.
func WithOldest(t *testing.T, kernels []Kernel) []Kernel {
	t.Helper()
	if slices.ContainsFunc(kernels, func(k Kernel) bool { return k.Series == "5.10" }) {
		return kernels
	}
	return append(Oldest(t), kernels...)
}

// Ends are the oldest of the kernels, which differs most, and the newest; or all that were asked for.
func Ends(t *testing.T) []Kernel {
	t.Helper()
	if All() {
		return Kernels(t)
	}
	return WithOldest(t, Newest(t))
}

// Fetch fetches the amd64 kernels of some series. What cannot be had fails the test.
func Fetch(t *testing.T, series string) []Kernel {
	t.Helper()
	return fetch(t, "amd64", series)
}

// Accountings are those that the known-bad kernel has. The first is its own.
var Accountings = []string{"right", "cumulative", "twice", "unclamped", "aux-full", "aux-either"}

// KnownBad builds what gives a kernel the accounting of the past, and gives it one of
// Accountings.
func KnownBad(t *testing.T, accounting string) Kernel {
	t.Helper()
	k := kernels(t, "known-bad/build.sh")[0]
	k.Arch = "amd64"
	return k.With(accounting, "known_bad.accounting="+accounting)
}

// config boots the kernel.
func (k Kernel) config() guest.Config {
	c := guest.Config{Kernel: k.Image, Append: k.Parameters}
	if k.Module != "" {
		c.Modules = []string{k.Module}
	}
	return c
}

// Flags are those by which pinwatch check and pinwatch guest boot the kernel.
func (k Kernel) Flags() []string {
	flags := []string{"--kernel", k.Image}
	if k.Module != "" {
		flags = append(flags, "--module", k.Module)
	}
	if k.Parameters != "" {
		flags = append(flags, "--append", k.Parameters)
	}
	return flags
}

// Pinners builds the modules that pin memory and that no fetched kernel has, for one of
// Debian's.
func Pinners(t *testing.T) Kernel {
	t.Helper()
	k := kernels(t, "pinners/build.sh")[0]
	k.Arch = "amd64"
	return k
}

func fetch(t *testing.T, arch, series string) []Kernel {
	t.Helper()
	list := kernels(t, append([]string{"kernels/fetch.sh", "--arch", arch}, strings.Fields(series)...)...)
	for i := range list {
		list[i].Arch = arch
	}
	return list
}

// scripts are what the scripts that were run have printed. To ask for the newest
// kernel takes seconds.
var scripts sync.Map // func() (string, error), by command line

// kernels runs a script of testdata, once, that prints kernels.
func kernels(t *testing.T, script ...string) (kernels []Kernel) {
	t.Helper()
	run, _ := scripts.LoadOrStore(strings.Join(script, " "), sync.OnceValues(func() (string, error) {
		var complaints bytes.Buffer
		cmd := exec.Command(filepath.Join(Root(), "testdata", script[0]), script[1:]...)
		cmd.Stderr = io.MultiWriter(os.Stderr, &complaints) // a build takes minutes, and says how far it is
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("%s: %w\n%s", strings.Join(script, " "), err, complaints.String())
		}
		return string(out), err
	}))
	out, err := run.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		k := Kernel{Series: fields[0], Release: fields[1], Image: fields[2]}
		if len(fields) > 3 {
			k.Module = fields[3]
		}
		kernels = append(kernels, k)
	}
	return kernels
}

// built are static pinwatches, by architecture, each built once and beside each
// other.
var built = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "pinwatch-test-") })

var builders = map[string]func() (string, error){
	"amd64": sync.OnceValues(func() (string, error) { return build("amd64") }),
	"arm64": sync.OnceValues(func() (string, error) { return build("arm64") }),
}

// removeBuilt removes them when all tests have ended.
func removeBuilt() {
	if dir, err := built(); err == nil {
		os.RemoveAll(dir)
	}
}

func build(arch string) (string, error) {
	dir, err := built()
	if err != nil {
		return "", err
	}
	name := "pinwatch"
	if arch != runtime.GOARCH {
		name += "-" + arch
	}
	binary := filepath.Join(dir, name)
	// As the tests are built: with -trimpath all packages would be compiled once more.
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", binary, ".")
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.New(string(out))
	}
	return binary, nil
}

// Binary builds a static pinwatch for this machine, once.
func Binary(t *testing.T) string {
	t.Helper()
	return BinaryFor(t, runtime.GOARCH)
}

// BinaryFor builds a static pinwatch for an architecture, once. It lies beside the
// one for this machine, where that finds it.
func BinaryFor(t *testing.T, arch string) string {
	t.Helper()
	binary, err := binaryFor(arch)
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

func binaryFor(arch string) (string, error) {
	binary, err := builders[arch]()
	if err != nil {
		return "", fmt.Errorf("build pinwatch: %w", err)
	}
	return binary, nil
}

// toolFiles are a program of this machine's and the libraries that it is linked with.
func toolFiles(name string) (files []string, err error) {
	tool, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("%w: the Makefile says which package has it", err)
	}
	libraries, err := exec.Command("ldd", tool).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", tool, err)
	}
	files = append(files, tool+":bin/"+name)
	for _, file := range regexp.MustCompile(`/\S+`).FindAllString(string(libraries), -1) {
		files = append(files, file+":"+file)
	}
	return files, nil
}

// shellFiles are a busybox as sh, and the users that it wants, kept in a directory.
func shellFiles(arch, dir string) ([]string, error) {
	busybox, err := findBusybox(arch)
	if err != nil {
		return nil, err
	}
	passwd := filepath.Join(dir, "passwd")
	if err := os.WriteFile(passwd, []byte("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"), 0o644); err != nil {
		return nil, err
	}
	return []string{busybox + ":bin/busybox", busybox + ":bin/sh", passwd + ":etc/passwd"}, nil
}

// findBusybox finds a static busybox for the guests of an architecture.
func findBusybox(arch string) (string, error) {
	if arch == runtime.GOARCH {
		busybox, err := exec.LookPath("busybox")
		if err != nil {
			return "", fmt.Errorf("%w: apt-get install busybox-static", err)
		}
		return busybox, nil
	}
	out, err := exec.Command(filepath.Join(Root(), "testdata", "kernels", "fetch.sh"), "--arch", arch, "--busybox").Output()
	if err != nil {
		return "", fmt.Errorf("fetch a busybox for %s: %w", arch, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Result is what came back from a guest, or what a command left.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a pinwatch command in a guest. An emulated guest that dies is tried
// once more, and then it is a failure.
func Run(t *testing.T, k Kernel, change func(*guest.Config), args ...string) Result {
	t.Helper()
	defer TakeSlot()()
	for attempt := 1; ; attempt++ {
		var stdout, stderr bytes.Buffer
		config := k.config()
		config.Binary, config.Args, config.Timeout = BinaryFor(t, k.Arch), args, 3*time.Minute
		config.Stdout, config.Stderr = &stdout, &stderr
		if change != nil {
			change(&config)
		}
		code, err := guest.Run(context.Background(), config)
		if err == nil {
			return Result{stdout.String(), stderr.String(), code}
		}
		var died *guest.Error
		if attempt == 2 || !errors.As(err, &died) {
			t.Fatalf("guest %s: pinwatch %s: %v\nstderr: %s", k.Release, strings.Join(args, " "), err, stderr.String())
		}
		t.Logf("guest %s died, trying once more: %v", k.Release, err)
	}
}

// Check runs pinwatch check on this machine, one guest at a time. What it says is logged.
func Check(t *testing.T, args ...string) Result {
	t.Helper()
	defer TakeSlot()()
	cmd := exec.Command(Binary(t), append([]string{"check", "--timeout", "5m", "--parallel", "1"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	t.Log(stderr.String())
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}
