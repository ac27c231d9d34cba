package check

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/evidence"
	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/image"
	"github.com/pinwatch/pinwatch/tracer/probe"
	"github.com/pinwatch/pinwatch/tracer/transport"
)

// Guests say how to check kernels that are booted in QEMU.
type Guests struct {
	Kernels   []string          // images, as image.Store takes them
	Binaries  map[string]string // pinwatch for the guest, by architecture; "": found by itself
	BTF       []string          // files with the kernels' types, for kernels that carry none: see types.go
	Tracer    tracer.Options    // how to attach, and the transport
	Flags     []string          // what else was asked for, so that a scenario can be seen again
	Scenarios []string          // names; none: all
	Program   string            // the file of a program, to be played instead; "": none
	Base      guest.Config      // CPUs, memory, parameters, accelerator
	Timeout   time.Duration     // per kernel
	KeepLog   bool
	Evidence  *evidence.Dir // where all is kept that a kernel leaves; nil: nowhere
	Parallel  int           // guests at a time; 0: as the machine's cores allow
	// Progress is called when a kernel's state changes, and Done with how it
	// ended. Both get the image's short name.
	Progress, Done func(name, state string)

	files map[string]fetched // of the kernels, by how they are named
}

// fetched is what came of fetching a kernel.
type fetched struct {
	file string
	err  error
}

// Fetch gets the kernels from where they are, before any of them boots. What is wrong with
// one is in its report.
func (g *Guests) Fetch(ctx context.Context, store image.Store) error {
	g.files = map[string]fetched{}
	for _, name := range g.Kernels {
		file, err := store.Get(ctx, name)
		if ctx.Err() != nil {
			return errInterrupted
		}
		g.files[name] = fetched{file, err}
	}
	return nil
}

// file is that of a kernel, which may have been fetched.
func (g *Guests) file(name string) (string, error) {
	if got, ok := g.files[name]; ok {
		return got.file, got.err
	}
	return name, nil
}

var errInterrupted = errors.New("interrupted")

// Run boots the kernels, several at a time, and checks each in its guest. What
// goes wrong with one is in its report.
func (g *Guests) Run(ctx context.Context) (Report, error) {
	r := Report{Version: Version, Kernels: make([]Kernel, len(g.Kernels))}
	err := g.Each(ctx, func(i int) { r.Kernels[i] = g.one(ctx, g.Kernels[i]) })
	return r, err
}

// Each does something with each kernel, by its number, with several at a time.
func (g *Guests) Each(ctx context.Context, do func(i int)) error {
	slots := make(chan struct{}, g.parallel())
	var wait sync.WaitGroup
	for _, i := range g.order() {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			if ctx.Err() == nil {
				do(i)
			}
		})
	}
	wait.Wait()
	if ctx.Err() != nil {
		return errInterrupted
	}
	return nil
}

// order is the order in which the kernels are booted: those of another architecture
// first, which take longest, so that no core waits for them at the end.
func (g *Guests) order() []int {
	var foreign, native []int
	for i, name := range g.Kernels {
		file, _ := g.file(name)
		if arch, err := image.Arch(file); err == nil && arch != runtime.GOARCH {
			foreign = append(foreign, i)
		} else {
			native = append(native, i)
		}
	}
	return append(foreign, native...)
}

// parallel is how many guests the cores allow: an emulated guest uses one.
func (g *Guests) parallel() int {
	if g.Parallel > 0 {
		return g.Parallel
	}
	return max(1, min(runtime.NumCPU(), len(g.Kernels)))
}

// one checks one kernel, and tells how that ended. An emulated guest that dies is tried once
// more.
func (g *Guests) one(ctx context.Context, name string) Kernel {
	kept, err := g.Evidence.Kernel(ReleaseOf(name))
	k := g.checked(ctx, name, kept)
	state := k.state()
	if err = errors.Join(err, kept.Close(ReportOf(k))); err != nil {
		state += "; its evidence is not whole: " + err.Error()
	}
	if !k.NoImage || err != nil { // which the report says
		g.Done(ReleaseOf(name), state)
	}
	return k
}

// checked checks one kernel, and keeps what it leaves.
func (g *Guests) checked(ctx context.Context, name string, kept *evidence.Kernel) Kernel {
	k := Kernel{Image: name, Scenarios: []Scenario{}, Gone: []Gone{}, Release: ReleaseOf(name)}
	var log bytes.Buffer
	file, err := g.kernel(&k)
	if err != nil {
		return k
	}
	types, note, err := g.types(name)
	if err != nil {
		k.Error = err.Error()
		return k
	}
	for attempt := 1; attempt <= 2; attempt++ {
		g.Progress(ReleaseOf(name), "booting")
		log.Reset()
		err = g.boot(ctx, &k, file, types, &log, kept)
		if err == nil {
			break
		}
		k.Error = err.Error()
		if ctx.Err() != nil {
			k.Error = "interrupted"
			break
		}
		var died *guest.Error
		if !errors.As(err, &died) || died.Booting || errors.Is(err, guest.ErrTimeout) {
			break
		}
	}
	if k.TracerError != "" && note != "" {
		k.TracerError += "; " + note
	}
	g.again(&k, types)
	if k.Error != "" || k.Failed() {
		k.Log = kept.Console()
		if k.Log == "" && g.KeepLog {
			k.Log = g.keep(k.Release, log.Bytes())
		}
	}
	return k
}

// kernel finds a kernel's file, and its architecture.
func (g *Guests) kernel(k *Kernel) (file string, err error) {
	if file, err = g.file(k.Image); err == nil {
		if k.Arch, err = image.Arch(file); err != nil {
			err = fmt.Errorf("kernel image %s: %w", k.Image, err)
		}
	}
	if err != nil {
		k.Error, k.NoImage = err.Error(), true
	}
	return file, err
}

// Failed reports whether an invariant is broken that is not known to be.
func (k *Kernel) Failed() bool {
	return slices.ContainsFunc(k.Scenarios, func(sc Scenario) bool { return sc.New() })
}

// CouldNotRun reports whether a scenario went wrong.
func (k *Kernel) CouldNotRun() bool {
	return slices.ContainsFunc(k.Scenarios, func(sc Scenario) bool { return sc.CouldNotRun })
}

// boot runs the check in a guest and takes its report.
func (g *Guests) boot(ctx context.Context, k *Kernel, file, types string, log *bytes.Buffer, kept *evidence.Kernel) error {
	// What comes after the report, the end of the trace and of the guest, takes a tenth
	// of the time and says nothing of the kernel's accounting. But evidence is to be whole.
	ctx, end := context.WithCancel(ctx)
	defer end()
	if kept != nil {
		end = func() {}
	}
	stdout := reportLine{whole: end}
	var stderr bytes.Buffer
	c := g.machine(file, k.Arch, types)
	c.Timeout, c.Stdout, c.Console = g.Timeout, &stdout, io.MultiWriter(log, kept)
	c.Booting = func(command []string) { kept.Booting(shellLine(command)) }
	if kept != nil {
		c.Args = append(c.Args, "--send-trace")
	}
	if len(g.Scenarios) > 0 {
		c.Args = append(c.Args, "--scenario", strings.Join(g.Scenarios, ","))
	}
	said := &progress{g: g, image: k.Image, rest: &stderr, kept: kept}
	c.Stderr = said
	if _, err := guest.Run(ctx, c); err != nil && !stdout.ended {
		if said.last != "" {
			return fmt.Errorf("at %s: %w", said.last, err)
		}
		return err
	}
	var report Report
	if err := json.Unmarshal(stdout.text, &report); err != nil || len(report.Kernels) != 1 {
		return fmt.Errorf("the check in the guest said nothing: %s", strings.TrimSpace(stderr.String()))
	}
	image := k.Image
	*k = report.Kernels[0]
	k.Image = image
	return nil
}

// machine is a guest that checks its kernel. More arguments may follow.
func (g *Guests) machine(file, arch, types string) guest.Config {
	c := g.Base
	c.Kernel, c.Arch, c.Binary = file, arch, g.Binaries[arch]
	c.Args = []string{"check", "--invasive", "--in-guest", "--attach", cmp.Or(g.Tracer.Attach, probe.AttachAuto), "--transport", cmp.Or(g.Tracer.Transport, transport.Auto)}
	if types != "" {
		c.Files = append(c.Files, types+":btf")
		c.Args = append(c.Args, "--btf", "/btf")
	}
	if g.Program != "" {
		c.Files = append(c.Files, g.Program+":program")
		c.Args = append(c.Args, "--program", "/program")
	}
	return c
}

// Machine is the guest for a kernel, and the file with its types; "": it has its own. More
// arguments may follow those of the guest.
func (g *Guests) Machine(k *Kernel) (c guest.Config, types string, err error) {
	file, err := g.kernel(k)
	if err != nil {
		return c, "", err
	}
	if types, _, err = g.types(k.Image); err != nil {
		return c, "", err
	}
	return g.machine(file, k.Arch, types), types, nil
}

// again has the reproductions boot the kernel as it was booted.
func (g *Guests) again(k *Kernel, types string) {
	args := []string{"--kernel", k.Image}
	if types != "" {
		args = append(args, "--btf", types)
	}
	for i := range k.Scenarios {
		k.Scenarios[i].again(append(args, g.Flags...))
	}
}

// reportLine is what the check in the guest prints: one line.
type reportLine struct {
	text  []byte
	ended bool
	whole func() // called at the line's end
}

func (r *reportLine) Write(b []byte) (int, error) {
	r.text = append(r.text, b...)
	if bytes.HasSuffix(b, []byte("\n")) {
		r.ended = true
		r.whole()
	}
	return len(b), nil
}

// progress passes on what the check in the guest says of its progress, and the trace that
// it sends, and keeps the rest.
type progress struct {
	g     *Guests
	image string
	line  []byte
	last  string // such as "12/47 redirect"
	rest  *bytes.Buffer
	kept  *evidence.Kernel
}

// progressPrefix marks a line of progress.
const progressPrefix = "progress: "

func (p *progress) Write(b []byte) (int, error) {
	p.line = append(p.line, b...)
	for {
		line, rest, found := bytes.Cut(p.line, []byte("\n"))
		if !found {
			return len(b), nil
		}
		if state, ok := strings.CutPrefix(string(line), progressPrefix); ok {
			p.last = state
			p.g.Progress(ReleaseOf(p.image), state)
		} else if !p.kept.Trace(string(line)) {
			p.rest.Write(append(line, '\n'))
		}
		p.line = rest
	}
}

// state says in a word how a kernel fared.
func (k *Kernel) state() string {
	if k.Error != "" {
		return "could not run: " + strings.SplitN(k.Error, "\n", 2)[0]
	}
	var n = map[string]int{}
	for _, sc := range k.Scenarios {
		n[sc.Result]++
	}
	return fmt.Sprintf("%d pass, %d fail, %d skip", n[Pass], n[Fail], n[Skip])
}

// keep writes a kernel's messages to a file of their own.
func (g *Guests) keep(release string, log []byte) string {
	f, err := os.CreateTemp("", "pinwatch-"+release+"-*.log")
	if err != nil {
		return ""
	}
	defer f.Close()
	if _, err := f.Write(log); err != nil {
		return ""
	}
	return f.Name()
}

// ReleaseOf is what a kernel image's name says of its release: it stands in until
// the kernel itself has said.
func ReleaseOf(image string) string {
	name := filepath.Base(image)
	for _, prefix := range []string{"vmlinuz-", "vmlinux-", "bzImage-"} {
		name = strings.TrimPrefix(name, prefix)
	}
	if strings.HasPrefix(name, "vmlinu") || name == "bzImage" || name == "Image" {
		return filepath.Base(filepath.Dir(image))
	}
	return name
}
