package guesttest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pinwatch/pinwatch/tracer/guest"
)

// Guests are where a package's tests run, if they are to see a kernel:
//
//	var guests = guesttest.Guests{Tools: []string{"bpftool"}}
//
//	func TestMain(m *testing.M) { os.Exit(guests.Main(m)) }
//
//	func TestMaps(t *testing.T) {
//		guests.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) {
//			... // in a guest that runs k, as root
//		})
//	}
//
// Every kernel is booted once, or a few times for many tests. It runs the package's own test
// binary, with the tests that want this kernel, one after the other; the package's testdata lies where they
// expect it. What became of each is replayed on the host as TestMaps/6.12 with its
// subtests: -run, -skip, -v and -json work as anywhere.
//
// The tests in a guest share a machine: each leaves it as it was, or fails.
type Guests struct {
	Tools   []string      // programs of this machine's that the tests run
	Shell   bool          // they run sh and busybox
	Files   []string      // more files, as HOSTPATH:GUESTPATH
	Env     []string      // names of the host's variables that the tests read
	Timeout time.Duration // of all tests on a kernel; 0: 10 minutes
	Memory  string        // of a guest; "": 1G

	mu    sync.Mutex
	batch *batch // which tests enlist in
}

// place is where a test binary runs. Its environment says so in a guest.
type place struct {
	Kernel Kernel `json:"kernel"`
	Host   string `json:"host"` // architecture of the host
}

const placeVariable = "PINWATCH_GUEST_TEST"

// here is where this process runs; false on the host.
func here() (p place, inside bool) {
	text, inside := os.LookupEnv(placeVariable)
	if !inside {
		return p, false
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		panic(fmt.Sprintf("%s=%s: %v", placeVariable, text, err))
	}
	return p, true
}

// Main runs the package's tests, on the host or in a guest, and returns the exit code.
func (g *Guests) Main(m *testing.M) int {
	// A package that starts itself as a child would otherwise test itself again.
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		fmt.Fprintf(os.Stderr, "guesttest: %s is no command of a test binary\n", strings.Join(os.Args[1:], " "))
		return 2
	}
	defer removeBuilt()
	return m.Run()
}

// Test runs a test in guests: in all of some kernels. It makes t parallel, so that
// every test of the package has said what it wants before the first kernel boots.
func (g *Guests) Test(t *testing.T, kernels func(*testing.T) []Kernel, test func(*testing.T, Kernel)) {
	t.Helper()
	if p, inside := here(); inside {
		leavesNoTrace(t)
		test(t, p.Kernel)
		return
	}
	if strings.Contains(t.Name(), "/") {
		t.Fatal("guests.Test is for a test, not for a subtest")
	}
	for _, k := range kernels(t) {
		name := t.Name()
		t.Run(k.String(), func(t *testing.T) { // those that -run and -skip choose
			b, run := g.enlist(name, k)
			t.Parallel()
			b.begin()
			run.replay(t)
		})
	}
	t.Parallel()
}

// batch is the tests that share guests: those that enlist before the first one starts.
// With -count there is one for each round.
type batch struct {
	guests *Guests
	runs   []*run // in the order of their kernels' coming
	begun  bool
}

func (g *Guests) enlist(test string, k Kernel) (*batch, *run) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.batch == nil || g.batch.begun {
		g.batch = &batch{guests: g}
	}
	b := g.batch
	i := slices.IndexFunc(b.runs, func(r *run) bool { return r.kernel == k && len(r.tests) < mostTests })
	if i < 0 {
		i = len(b.runs)
		b.runs = append(b.runs, &run{guests: g, kernel: k, results: map[string]*result{}, notes: map[string][]string{}, done: make(chan struct{})})
	}
	b.runs[i].tests = append(b.runs[i].tests, test)
	return b, b.runs[i]
}

// begin has the kernels booted one after the other, as there are slots, unless that has
// begun: those with most tests first, so that no long one is left alone at the end.
func (b *batch) begin() {
	b.guests.mu.Lock()
	defer b.guests.mu.Unlock()
	if b.begun {
		return
	}
	b.begun = true
	order := slices.Clone(b.runs)
	slices.SortStableFunc(order, func(a, b *run) int { return cmp.Compare(len(b.tests), len(a.tests)) })
	go func() {
		for _, r := range order {
			free := TakeSlot()
			go func() {
				defer free()
				r.boot()
			}()
		}
	}()
}

// mostTests is how many tests share a guest: with more of them the other slots would be idle
// in the end.
const mostTests = 14

// run is a package's tests on a kernel, or some of them.
type run struct {
	guests *Guests
	kernel Kernel
	tests  []string

	done    chan struct{} // closed when the rest is known
	results map[string]*result
	notes   map[string][]string // to a test, besides its result
	err     error               // why some results are missing
	code    int                 // of the test binary
	stderr  string
}

const defaultTimeout = 10 * time.Minute

// boot runs the tests. If the guest dies it does so once more, for those that have
// not ended: an emulated one dies now and then.
func (r *run) boot() {
	defer close(r.done)
	for attempt := 1; ; attempt++ {
		r.err = r.once(r.unfinished())
		var died *guest.Error
		if attempt == 2 || !errors.As(r.err, &died) {
			return
		}
		r.note(r.unfinished(), "the guest died, trying once more: %v", r.err)
	}
}

func (r *run) note(tests []string, format string, args ...any) {
	for _, name := range tests {
		r.notes[name] = append(r.notes[name], fmt.Sprintf(format, args...))
	}
}

// unfinished are the tests that have no result yet.
func (r *run) unfinished() []string {
	return slices.DeleteFunc(slices.Clone(r.tests), func(name string) bool {
		return r.results[name] != nil && r.results[name].outcome != ""
	})
}

// once boots the kernel and runs some tests.
func (r *run) once(tests []string) error {
	dir, err := os.MkdirTemp("", "pinwatch-test-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var stdout, stderr bytes.Buffer
	config, err := r.config(dir, tests)
	if err != nil {
		return err
	}
	config.Stdout, config.Stderr = &stdout, &stderr
	begun := time.Now()
	code, err := guest.Run(context.Background(), config)
	took := time.Since(begun)
	r.code, r.stderr = code, stderr.String()
	results, parseErr := parseResults(stdout.Bytes())
	for _, result := range results {
		r.results[result.name] = result
	}
	var each []string // which tests make a guest slow
	for _, name := range tests {
		if result := r.results[name]; result != nil {
			name = fmt.Sprintf("%s %.0f s", name, result.seconds)
		}
		each = append(each, name)
	}
	r.note(tests, "a guest with Linux %s, %.1f s: %s", r.kernel.Release, took.Seconds(), strings.Join(each, ", "))
	return cmp.Or(err, parseErr)
}

func (r *run) config(dir string, tests []string) (guest.Config, error) {
	g, arch := r.guests, r.kernel.Arch
	timeout := cmp.Or(g.Timeout, defaultTimeout)
	where, err := json.Marshal(place{Kernel: r.kernel, Host: runtime.GOARCH})
	if err != nil {
		return guest.Config{}, err
	}
	c := r.kernel.config()
	c.Memory, c.Files = g.Memory, slices.Clone(g.Files)
	c.Args = []string{"-test.v=test2json", "-test.paniconexit0", "-test.run=" + pattern(flag.Lookup("test.run").Value.String(), r.kernel, tests),
		"-test.timeout=" + timeout.String(), fmt.Sprintf("-test.short=%v", testing.Short())}
	c.Env = []string{placeVariable + "=" + string(where), seriesVariable + "=" + os.Getenv(seriesVariable)}
	c.Timeout = timeout + 2*time.Minute // after the test binary, which says where it hangs
	if r.kernel.Modules != "" {
		c.Modules, c.IOMMU = append(c.Modules, strings.Fields(r.kernel.Modules)...), true
		if c.ModuleDir, err = r.kernel.moduleDir(); err != nil {
			return c, err
		}
	}
	for _, name := range g.Env {
		c.Env = append(c.Env, name+"="+os.Getenv(name))
	}
	if c.Binary, err = binaryFor(arch); err != nil {
		return c, err
	}
	if c.Exec, err = testBinary(arch); err != nil {
		return c, err
	}
	testdata, err := filesBelow("testdata")
	if err != nil {
		return c, err
	}
	c.Files = append(c.Files, testdata...)
	for _, name := range g.Tools {
		if arch != runtime.GOARCH {
			break // LookPath skips what wants it
		}
		files, err := toolFiles(name)
		if err != nil {
			return c, err
		}
		for _, file := range files {
			if !slices.Contains(c.Files, file) { // tools share libraries
				c.Files = append(c.Files, file)
			}
		}
	}
	if g.Shell {
		files, err := shellFiles(arch, dir)
		if err != nil {
			return c, err
		}
		c.Files = append(c.Files, files...)
	}
	return c, nil
}

// pattern is for -test.run in the guest: the tests, and what was asked for below them,
// where that is said simply. (On the host it comes below the kernel's name.)
func pattern(asked string, k Kernel, tests []string) string {
	names := "^(" + strings.Join(tests, "|") + ")$"
	elements, above := strings.Split(asked, "/"), 2+strings.Count(k.String(), "/")
	if strings.ContainsAny(asked, "|([\\") || len(elements) <= above {
		return names
	}
	return names + "/" + strings.Join(elements[above:], "/")
}

// filesBelow are the files of a directory, for the same place in a guest.
func filesBelow(dir string) (files []string, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files = append(files, path+":"+path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return files, err
}

// testBinaries are those of this package, by architecture.
var testBinaries sync.Map // func() (string, error)

// TestBinary is the package's test binary for the guests of an architecture.
func TestBinary(t *testing.T, arch string) string {
	t.Helper()
	binary, err := testBinary(arch)
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// testBinary is the package's test binary for guests: this very program if they can run
// it, or one that is built once.
func testBinary(arch string) (string, error) {
	build, _ := testBinaries.LoadOrStore(arch, sync.OnceValues(func() (string, error) {
		self, err := os.Executable()
		if err != nil || guest.CheckProgram(self, arch) == nil {
			return self, err
		}
		dir, err := built()
		if err != nil {
			return "", err
		}
		binary := filepath.Join(dir, strings.TrimSuffix(filepath.Base(self), ".test")+"-"+arch+".test")
		cmd := exec.Command("go", "test", "-c", "-tags", "guest", "-ldflags", "-s -w", "-o", binary, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build the test binary: %w\n%s", err, out)
		}
		return binary, nil
	}))
	return build.(func() (string, error))()
}
