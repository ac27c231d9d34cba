// Package guest boots a kernel image in QEMU with pinwatch itself as init, and
// runs a command in it: pinwatch, or any other static program.
//
// The guest has no root file system, no network, and no modules that were not asked for:
// its initramfs is that binary and what else is asked for. Serial ports, which every kernel has
// built in, carry the kernel's console, the command's stdout and stderr, and its
// exit code, each on a port of its own.
package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pinwatch/pinwatch/tracer/image"
)

// Config says what to boot and what to run.
type Config struct {
	Kernel string // image file
	Arch   string // "amd64" or "arm64"; "": that of the image
	Binary string // static pinwatch for the guest; "": BinaryFor its architecture
	// Exec is a static program that runs instead of pinwatch, such as a package's test
	// binary. It lies in /exec, and finds pinwatch in its PATH. "": pinwatch itself.
	Exec  string
	Args  []string // of the command
	Env   []string // more of its environment, as NAME=VALUE
	Files []string // more files, as HOSTPATH:GUESTPATH
	// Modules are loaded before the command starts, in this order: files (.ko, .ko.xz or
	// .ko.zst), or names of those in ModuleDir.
	Modules []string
	// ModuleDir is where modules are that go by name, and those that others depend on: such
	// as /lib/modules/RELEASE. "": none.
	ModuleDir string
	// IOMMU gives the machine one, and a PCI device for vfio; amd64 only.
	IOMMU  bool
	CPUs   int    // 0: 4
	Memory string // "": 1G
	Append string // more kernel parameters
	Accel  string // "": KVM after a trial, else TCG; or what QEMU's -accel takes
	// ICount is what QEMU's -icount takes, such as shift=0,sleep=off: the guest's
	// time then counts its instructions. Only emulated, with one CPU. "": real time.
	ICount  string
	Timeout time.Duration

	Stdout, Stderr io.Writer
	// Console gets the kernel's messages; nil: they are kept for the errors.
	Console io.Writer
	// Booting gets QEMU's command line, each time before it starts; nil: nobody wants to know.
	Booting func(command []string)
}

// What can come of a guest besides an exit code.
var (
	ErrTimeout = errors.New("guest timed out")
	ErrPanic   = errors.New("guest kernel panicked")
	ErrNoInit  = errors.New("guest never ran its command")
)

// Error is the end of a guest that brought no exit code back.
type Error struct {
	Kind    error // ErrTimeout, ErrPanic or ErrNoInit
	Booting bool  // it died before its init ran
	Detail  string
	Console string // the end of the kernel's messages
}

func (e *Error) Error() string {
	s := e.Kind.Error()
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Console != "" {
		s += "\n--- the kernel's last messages\n" + e.Console
	}
	return s
}

func (e *Error) Unwrap() error { return e.Kind }

// Run boots, runs and returns the command's exit code.
func Run(ctx context.Context, c Config) (code int, err error) {
	machine, err := c.machine()
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "pinwatch-guest-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)

	initramfs := filepath.Join(dir, "initramfs")
	if err := c.writeInitramfs(initramfs, machine); err != nil {
		return 0, fmt.Errorf("make the initramfs: %w", err)
	}
	accel := c.Accel
	if accel == "" {
		accel = chooseAccel(ctx, machine, c)
	}
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	var before error // how the last attempt ended
	for attempt := 1; ; attempt++ {
		code, err := c.boot(ctx, machine, accel, dir, initramfs)
		if before != nil && errors.Is(err, ErrTimeout) {
			return code, before // the time was up for one more attempt: that says less
		}
		// An emulated CPU sometimes dies while the kernel patches its own text
		// or initializes. Nothing of the command has run then.
		var failure *Error
		died := errors.As(err, &failure) && failure.Booting
		if !died || accel == "kvm" || attempt == bootAttempts || ctx.Err() != nil {
			return code, err
		}
		before = err
		fmt.Fprintf(c.Stderr, "pinwatch: the emulated guest died while booting; trying again\n")
	}
}

const (
	bootAttempts = 4
	// bootTime is how long an emulated guest may take to reach init: it needs
	// three to six seconds on a machine that is not busy.
	bootTime = time.Minute
)

// complaints is what QEMU says on stderr. When KVM cannot run the guest, QEMU
// says so and waits for ever: that ends it.
type complaints struct {
	strings.Builder
	alarm func()
}

func (c *complaints) Write(p []byte) (int, error) {
	n, err := c.Builder.Write(p)
	if strings.Contains(c.String(), "KVM internal error") {
		c.alarm()
	}
	return n, err
}

// control is what init says on its port: "ready", then "exit CODE" or "error
// TEXT".
type control struct {
	mu    sync.Mutex
	text  strings.Builder
	ready func() // called once
}

const readyLine = "ready\n"

func (c *control) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	had := strings.HasPrefix(c.text.String(), readyLine)
	c.text.Write(p)
	if !had && strings.HasPrefix(c.text.String(), readyLine) {
		c.ready()
	}
	return len(p), nil
}

// said is what came after "ready", and whether that came.
func (c *control) said() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.CutPrefix(c.text.String(), readyLine)
}

// console keeps the end of the kernel's messages.
type console struct {
	mu   sync.Mutex
	tail []byte
	more io.Writer
}

const consoleTail = 4 << 10

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail = append(c.tail, p...)
	if excess := len(c.tail) - consoleTail; excess > 0 {
		c.tail = c.tail[excess:]
	}
	if c.more != nil {
		return c.more.Write(p)
	}
	return len(p), nil
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.TrimSpace(strings.ReplaceAll(string(c.tail), "\r", ""))
}

func (c Config) boot(ctx context.Context, m machine, accel, dir, initramfs string) (int, error) {
	kernel := &console{more: c.Console}
	boot, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := bootTime
	if c.ICount != "" {
		limit *= 5 // counting instructions is that much slower
	}
	tooLong := time.AfterFunc(limit, cancel)
	defer tooLong.Stop()
	init := &control{ready: func() { tooLong.Stop() }}
	var turn sync.Mutex
	stdout, stderr := &wholeLines{to: c.Stdout, turn: &turn}, &wholeLines{to: c.Stderr, turn: &turn}
	sinks := []io.Writer{kernel, stdout, stderr, init}

	args := append([]string{}, m.args...)
	if c.IOMMU {
		args = append(args, m.iommu...)
	}
	args = append(args, "-accel", accel, "-cpu", m.cpu(accel), "-smp", strconv.Itoa(c.cpus()), "-m", c.memory(),
		"-display", "none", "-no-reboot", "-net", "none", "-nodefaults",
		"-kernel", c.Kernel, "-initrd", initramfs,
		"-append", strings.TrimSpace("console="+m.console+" panic=-1 loglevel=4"+m.hurry(accel)+c.wantsIOMMU()+" "+c.Append))
	if c.ICount != "" {
		args = append(args, "-icount", c.ICount)
	}
	var wait sync.WaitGroup
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
		wait.Wait()
	}()
	for i, sink := range sinks {
		path := filepath.Join(dir, "port"+strconv.Itoa(i))
		l, err := net.Listen("unix", path)
		if err != nil {
			return 0, err
		}
		listeners = append(listeners, l)
		args = append(args, "-chardev", fmt.Sprintf("socket,id=port%d,path=%s", i, path))
		wait.Go(func() {
			conn, err := l.Accept()
			if err != nil {
				return // QEMU ended before it connected
			}
			defer conn.Close()
			// A sink that fails, such as a closed pipe, must not block the guest.
			if _, err := io.Copy(sink, conn); err != nil {
				io.Copy(io.Discard, conn)
			}
		})
	}
	args = append(args, m.ports...)

	complaints := &complaints{alarm: cancel}
	qemu := exec.CommandContext(boot, m.qemu, args...)
	qemu.Stderr = complaints
	if c.Booting != nil {
		c.Booting(qemu.Args)
	}
	err := qemu.Run()
	for _, l := range listeners {
		l.Close()
	}
	wait.Wait()
	listeners = nil
	stdout.Flush() // as above: a sink that fails is the reader's affair
	stderr.Flush()
	said, ready := init.said()
	code, err := outcome(ctx, err, said, kernel.String(), complaints.String())
	if err != nil && !ready {
		var failure *Error
		if errors.As(err, &failure) {
			failure.Booting = true
		}
	}
	return code, err
}

// hurry is for emulated kernels. Without the parsing of certificates and the self-tests
// of cryptography they start with a third less instructions. Timers of a jiffy's
// precision spare them the interrupts of a Go runtime that sleeps for microseconds, and
// pages need not be zeroed twice. synchronize_rcu(), of which every probe takes some to
// come off, need not spare CPUs that nobody else wants.
func (m machine) hurry(accel string) string {
	if accel == "kvm" {
		return ""
	}
	return m.parameters + " initcall_blacklist=load_system_certificate_list,crypto_kdf108_init,crypto_algapi_init highres=off init_on_alloc=0 rcupdate.rcu_expedited=1"
}

var panicLine = regexp.MustCompile(`Kernel panic - not syncing: .*`)

// outcome tells an exit code from the ways to have none.
func outcome(ctx context.Context, qemuErr error, said, kernel, complaints string) (int, error) {
	if code, ok := strings.CutPrefix(strings.TrimSpace(said), "exit "); ok {
		return strconv.Atoi(code)
	}
	failure := &Error{Console: kernel}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		failure.Kind = ErrTimeout
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case panicLine.MatchString(kernel):
		failure.Kind, failure.Detail = ErrPanic, panicLine.FindString(kernel)
	case strings.HasPrefix(said, "error "):
		failure.Kind, failure.Detail = ErrNoInit, strings.TrimSpace(strings.TrimPrefix(said, "error "))
	default:
		failure.Kind, failure.Detail = ErrNoInit, strings.TrimSpace(complaints)
		if qemuErr != nil && failure.Detail == "" {
			failure.Detail = qemuErr.Error()
		}
	}
	return 0, failure
}

// wantsIOMMU is for kernels that leave one alone unless they are told to use it.
func (c Config) wantsIOMMU() string {
	if c.IOMMU {
		return " intel_iommu=on"
	}
	return ""
}

func (c Config) cpus() int {
	if c.CPUs == 0 {
		return 4
	}
	return c.CPUs
}

func (c Config) memory() string {
	if c.Memory == "" {
		return "1G"
	}
	return c.Memory
}

// machine is what differs between the architectures.
type machine struct {
	arch    string
	qemu    string
	args    []string
	iommu   []string // more of them, for a machine that has one
	console string   // of the kernel
	ports   []string // arguments that make the four chardevs serial ports
	devices [3]string
	tcgCPU  string
	// parameters of the kernel where it is emulated, each with a space before it.
	parameters string
}

func (m machine) cpu(accel string) string {
	if accel == "kvm" {
		return "host"
	}
	return m.tcgCPU
}

func machines() []machine {
	return []machine{{
		arch:    "amd64",
		qemu:    "qemu-system-x86_64",
		iommu:   []string{"-M", "q35,kernel-irqchip=split", "-device", "intel-iommu,intremap=on", "-device", "edu"},
		console: "ttyS0",
		ports:   []string{"-serial", "chardev:port0", "-serial", "chardev:port1", "-serial", "chardev:port2", "-serial", "chardev:port3"},
		devices: [3]string{"ttyS1", "ttyS2", "ttyS3"},
		// QEMU 7.2 loses the flags around cmpxchg16b when an interrupt comes at
		// the wrong moment, and the kernel returns to garbage in EFLAGS: 6.12, whose
		// slab allocator uses it on every path, died in one boot of five. Without
		// it: none of 25. Page tables of four levels are walked faster than five, and
		// without ERMS and FSRM the kernel clears and copies pages by words: by bytes
		// took a check a tenth longer.
		tcgCPU: "max,-cx16,-la57,-erms,-fsrm",
		// Older kernels take several CPUs without a TSC of constant rate for
		// unsynchronized, and then ask the HPET, a device of QEMU's, what time it is, each time.
		parameters: " tsc=reliable",
	}, {
		arch:    "arm64",
		qemu:    "qemu-system-aarch64",
		args:    []string{"-M", "virt"},
		console: "ttyAMA0",
		// The virt machine has one port of its own; the others sit on PCI.
		ports:   []string{"-serial", "chardev:port0", "-device", "pci-serial-4x,chardev1=port1,chardev2=port2,chardev3=port3"},
		devices: [3]string{"ttyS0", "ttyS1", "ttyS2"},
		// A core with 16K and 64K pages, which cortex-a72 lacks.
		tcgCPU: "neoverse-n1",
	}}
}

func (c Config) machine() (machine, error) {
	arch := c.Arch
	if arch == "" {
		var err error
		if arch, err = image.Arch(c.Kernel); err != nil {
			return machine{}, fmt.Errorf("kernel image %s: %w", c.Kernel, err)
		}
	}
	for _, m := range machines() {
		if m.arch != arch {
			continue
		}
		if c.IOMMU && m.iommu == nil {
			return machine{}, fmt.Errorf("a guest of %s with an IOMMU: requires amd64", arch)
		}
		if _, err := exec.LookPath(m.qemu); err != nil {
			return machine{}, fmt.Errorf("boot an %s kernel: requires %s, which is not installed: on Debian, apt-get install qemu-system-x86 (amd64) or qemu-system-arm (arm64)", arch, m.qemu)
		}
		return m, nil
	}
	return machine{}, fmt.Errorf("architecture %q: want amd64 or arm64", arch)
}

// BinaryFor finds the pinwatch that runs in a guest of an architecture: this very
// program, or one beside it that was built for the other one.
func BinaryFor(arch string) (string, error) {
	self, err := os.Executable()
	if err != nil || arch == runtime.GOARCH {
		return self, err
	}
	beside := filepath.Join(filepath.Dir(self), "pinwatch-"+arch)
	if _, err := os.Stat(beside); err != nil {
		return "", fmt.Errorf("%w: an %s guest requires a pinwatch for it: CGO_ENABLED=0 GOARCH=%s go build -o %s (make build-arm64), or name one", err, arch, arch, beside)
	}
	return beside, nil
}

// tcg emulates with one thread: with several, some kernels die patching their
// own text.
const tcg = "tcg,thread=single"

// chooseAccel takes KVM only where a trial with this very kernel shows that it
// works: the device may exist and yet fail on the first privileged instruction.
func chooseAccel(ctx context.Context, m machine, c Config) string {
	if m.arch != runtime.GOARCH {
		return tcg
	}
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return tcg
	}
	device.Close()
	if works, known := kvmTrials.load(c.Kernel); known {
		return accelOf(works)
	}
	trial := c
	trial.Accel, trial.Exec, trial.Args, trial.Files, trial.Modules = "kvm", "", []string{"version"}, nil, nil
	trial.Stdout, trial.Stderr, trial.Console, trial.Booting = io.Discard, io.Discard, nil, nil
	trial.Timeout = 10 * time.Second
	code, err := Run(ctx, trial)
	works := err == nil && code == 0
	kvmTrials.store(c.Kernel, works)
	return accelOf(works)
}

func accelOf(kvm bool) string {
	if kvm {
		return "kvm"
	}
	return tcg
}
