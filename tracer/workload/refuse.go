package workload

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/child"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Refuse has the kernel refuse something in one of the ways that it knows, and says with
// which errno: the witness for what pinwatch says of it.
type Refuse struct {
	Name       string        // of a provocation; see Provocations
	UID        int           // to become; -1: who the provocation wants
	MemlockKiB int64         // RLIMIT_MEMLOCK; -1: what the provocation wants
	Pages      int           // of the thing that is asked for; 0: what the provocation wants
	Count      int           // of such things; 0: what the provocation wants
	Caps       []string      // to keep besides those that the provocation keeps
	Cgroup     string        // directory of a v2 cgroup, created if missing, for those that need one
	Hold       time.Duration // before it ends, and lets go what it got
	JSON       bool
	List       bool // write what there is

	out      io.Writer
	holders  []*held
	releases []func()
}

// RefuseHelp says what it does.
const RefuseHelp = `Has the kernel refuse something in one of the ways that it knows, and says what was
asked for and with which errno the kernel answered: the witness for what pinwatch says
of it. "refuse --list" has all of them. Each sets the limits and the user that it needs;
--uid, --memlock-kib, --pages and --count change what is asked for. Needs root, and
some change a sysctl or a cgroup, which they put back: for guests and test machines.

Exit status: 0 if it came to the attempt, whatever the kernel said to that.`

// Flags adds the flags.
func (r *Refuse) Flags(f *pflag.FlagSet) {
	f.BoolVar(&r.List, "list", false, "list what can be provoked")
	f.IntVar(&r.UID, "uid", -1, "user to become; -1: who the provocation wants")
	f.Int64Var(&r.MemlockKiB, "memlock-kib", -1, "RLIMIT_MEMLOCK in KiB; -1: what the provocation wants")
	f.IntVar(&r.Pages, "pages", 0, "pages, or entries of a ring; 0: what the provocation wants")
	f.IntVar(&r.Count, "count", 0, "number of things; 0: what the provocation wants")
	f.StringSliceVar(&r.Caps, "cap", nil, "capabilities to keep besides, such as cap_ipc_lock")
	f.StringVar(&r.Cgroup, "cgroup", "", "directory of a v2 cgroup for those that need one; created if missing")
	f.DurationVar(&r.Hold, "hold", 0, "time before it ends and lets go what it got")
	f.BoolVar(&r.JSON, "json", false, "write JSON lines")
}

// Main is the command.
func (r *Refuse) Main(ctx context.Context, out io.Writer, args []string) error {
	if r.List {
		return listProvocations(out, r.JSON)
	}
	if len(args) == 0 {
		return errors.New("which provocation? --list has them")
	}
	r.Name = args[0]
	return r.Run(ctx, out)
}

// Attempt is one system call, by the witness of its errno.
type Attempt struct {
	Case    string `json:"case"`
	Call    string `json:"call"`
	What    string `json:"what"`
	Control bool   `json:"control"` // it is there to succeed, and not what is provoked
	Asked   int64  `json:"asked_pages"`
	Errno   int    `json:"errno"`
	Name    string `json:"errno_name"` // "" for none
}

// Provocation is a way to be refused.
type Provocation struct {
	Name  string
	About string
	do    func(*Refuse) error
}

// Provocations are all there are.
func Provocations() []Provocation {
	return slices.Concat(perfProvocations(), auxProvocations(), ringProvocations(), umemProvocations(), sendProvocations(), mapProvocations(), callProvocations())
}

// Run provokes.
func (r *Refuse) Run(ctx context.Context, out io.Writer) (err error) {
	list := slices.Concat(Provocations(), ModuleProvocations())
	i := slices.IndexFunc(list, func(p Provocation) bool { return p.Name == r.Name })
	if i < 0 {
		return fmt.Errorf("no provocation is called %q: --list has them", r.Name)
	}
	r.out = out
	defer func() { err = errors.Join(err, r.end()) }()
	if err := list[i].do(r); err != nil {
		return fmt.Errorf("%s: %w", r.Name, err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(r.Hold):
	}
	return nil
}

// end lets everything go.
func (r *Refuse) end() (err error) {
	for _, release := range slices.Backward(r.releases) {
		release()
	}
	for _, h := range r.holders {
		err = errors.Join(err, h.end())
	}
	return err
}

// finally has something done at the end.
func (r *Refuse) finally(do func()) { r.releases = append(r.releases, do) }

// attempt is one that a provocation is about to make.
type attempt struct {
	call, what string
	asked      int64 // pages; 0: that is not the point
	control    bool
}

// try makes an attempt, and says what came of it.
func (r *Refuse) try(a attempt, do func() unix.Errno) (unix.Errno, error) {
	errno := do()
	said := Attempt{Case: r.Name, Call: a.call, What: a.what, Control: a.control, Asked: a.asked, Errno: int(errno), Name: rule.ErrnoName(errno)}
	if r.JSON {
		return errno, json.NewEncoder(r.out).Encode(said)
	}
	result := said.Name
	if errno == 0 {
		result = "ok"
	}
	pages := ""
	if a.asked > 0 {
		pages = fmt.Sprintf(" (%s)", count(a.asked, "page"))
	}
	_, err := fmt.Fprintf(r.out, "workload: %s: %s%s: %s\n", a.call, a.what, pages, result)
	return errno, err
}

func count(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// provoke is try for the attempt that is the last.
func (r *Refuse) provoke(a attempt, do func() unix.Errno) error {
	_, err := r.try(a, do)
	return err
}

// control is an attempt that must succeed for what follows to make sense.
func (r *Refuse) control(a attempt, do func() unix.Errno) error {
	a.control = true
	errno, err := r.try(a, do)
	if err == nil && errno != 0 {
		err = fmt.Errorf("%s: %s: %w", a.call, a.what, errno)
	}
	return err
}

// errnoOf is the errno of a call's error.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		return unix.EIO
	}
	return errno
}

// become sets the limit, in pages, and becomes the user with just some capabilities, both
// unless the flags want others. A uid of -1 stays root with all of them.
func (r *Refuse) become(uid int, limit int64, caps ...string) error {
	if r.UID >= 0 {
		uid = r.UID
	}
	bytes := uint64(limit) * uint64(os.Getpagesize())
	switch {
	case r.MemlockKiB >= 0:
		bytes = uint64(r.MemlockKiB) << 10
	case limit < 0:
		bytes = unix.RLIM_INFINITY
	}
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: bytes, Max: bytes}, nil); err != nil {
		return fmt.Errorf("set RLIMIT_MEMLOCK: %w", err)
	}
	if uid < 0 {
		return nil
	}
	return (&RunAs{UID: uid, Caps: slices.Concat([]string{}, caps, r.Caps)}).become()
}

// noLimit is what become takes for no limit.
const noLimit = -1

func (r *Refuse) pages(otherwise int) int {
	if r.Pages > 0 {
		return r.Pages
	}
	return otherwise
}

func (r *Refuse) count(otherwise int) int {
	if r.Count > 0 {
		return r.Count
	}
	return otherwise
}

// holder is a process that maps perf buffers, and holds them until its input ends.
type holder struct {
	UID     int
	Memlock int64 // pages
	Pages   int   // data pages of each
	Count   int
}

func (h holder) run(in io.Reader, out io.Writer) error {
	events, err := openEvents("", h.Count)
	if err != nil {
		return err
	}
	r := Refuse{UID: -1, MemlockKiB: -1}
	if err := r.become(h.UID, h.Memlock); err != nil {
		return err
	}
	for i, fd := range events {
		if _, errno := mapEvent(fd, h.Pages+1); errno != 0 {
			return fmt.Errorf("map buffer %d of %d: %w", i+1, h.Count, errno)
		}
	}
	if _, err := fmt.Fprintln(out, "held"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// held is a holder's process.
type held struct {
	in  io.Closer
	end func() error
}

// hold starts a holder, and waits until it has what it shall hold.
func (r *Refuse) hold(h holder) error {
	cmd := child.Command(context.Background(), holderChild, h)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.holders = append(r.holders, &held{in, func() error { in.Close(); return cmd.Wait() }})
	if said, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return fmt.Errorf("a holder of perf buffers has ended: %q %w", said, err)
	}
	return nil
}

// mapEvent maps so many pages of an event, shared.
func mapEvent(fd, pages int) (data []byte, errno unix.Errno) {
	data, err := unix.Mmap(fd, 0, pages*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return data, errnoOf(err)
}

// openEvent opens a software event of this process. cpu -1: on any.
func openEvent(config uint64, inherit bool, cpu int) (int, error) {
	attr := kernel.DummyEvent()
	attr.Config = config
	if inherit {
		attr.Bits |= unix.PerfBitInherit
	}
	fd, err := unix.PerfEventOpen(attr, 0, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("perf_event_open: %w (needs root)", err)
	}
	return fd, nil
}

// sysctl sets a file of /proc/sys until the end. Not ok: this kernel has none such.
func (r *Refuse) sysctl(name, value string) (ok bool, err error) {
	file := filepath.Join("/proc/sys", name)
	before, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return false, fmt.Errorf("set %s to %s: %w", file, value, err)
	}
	r.finally(func() { os.WriteFile(file, before, 0) })
	return true, nil
}

// cgroup is the directory of the one that those provocations use that need one.
func (r *Refuse) cgroup() string {
	if r.Cgroup != "" {
		return r.Cgroup
	}
	return "/sys/fs/cgroup/pinwatch-refuse"
}

// join moves this process to a cgroup with some controllers, until the end.
func (r *Refuse) join(controllers ...string) (dir string, err error) {
	dir = r.cgroup()
	parent := filepath.Dir(dir)
	control := filepath.Join(parent, "cgroup.subtree_control")
	before, err := os.ReadFile(control)
	if err != nil {
		return "", fmt.Errorf("%w: requires cgroup v2", err)
	}
	for _, name := range controllers {
		if slices.Contains(strings.Fields(string(before)), name) {
			continue
		}
		if err := os.WriteFile(control, []byte("+"+name), 0); err != nil {
			return "", fmt.Errorf("%w: requires the %s controller of cgroup v2", err, name)
		}
		r.finally(func() { os.WriteFile(control, []byte("-"+name), 0) })
	}
	r.finally(func() { leave(dir) })
	if err := (&BPFMaps{Cgroup: dir, MemoryMax: -1}).join(); err != nil {
		return "", err
	}
	// While a limit holds, Go can start no thread.
	return dir, SpareThreads(8)
}

// within does something in a cgroup that may have so many bytes more than it has then. The
// limit is lifted afterwards, by a process that is not in there: this one can have no memory
// until it is, not even for what wants to lift it.
func (r *Refuse) within(more int64, do func()) error {
	more = int64(r.pages(int(more)/os.Getpagesize()) * os.Getpagesize())
	l, err := newLifter(filepath.Join(r.cgroup(), "memory.max"))
	if err != nil {
		return err
	}
	r.finally(l.end)
	dir, err := r.join("memory")
	if err != nil {
		return err
	}
	current, err := readNumber(filepath.Join(dir, "memory.current"))
	if err != nil {
		return err
	}
	// The kernel shall refuse, and not end this process.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return err
	}
	runtime.GC() // what Go needs, it has
	if err := os.WriteFile(filepath.Join(dir, "memory.max"), fmt.Append(nil, current+more), 0); err != nil {
		return err
	}
	do()
	return l.lift()
}

// lifter is a process that lifts a limit when it is told to, or when who should tell it ends.
type lifter struct {
	tell, told int // pipes
	answer     [1]byte
	cmd        *exec.Cmd
}

func newLifter(limit string) (*lifter, error) {
	var in, out [2]int
	if err := errors.Join(unix.Pipe2(in[:], unix.O_CLOEXEC), unix.Pipe2(out[:], unix.O_CLOEXEC)); err != nil {
		return nil, err
	}
	l := &lifter{tell: in[1], told: out[0], cmd: child.Command(context.Background(), lifterChild, limit)}
	stdin, stdout := os.NewFile(uintptr(in[0]), "in"), os.NewFile(uintptr(out[1]), "out")
	defer stdin.Close()
	defer stdout.Close()
	l.cmd.Stdin, l.cmd.Stdout, l.cmd.Stderr = stdin, stdout, os.Stderr
	return l, l.cmd.Start()
}

// runLifter is that process.
func runLifter(limit string, in io.Reader, out io.Writer) error {
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	if err := os.WriteFile(limit, []byte("max"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_, err := out.Write([]byte{1})
	return err
}

// lift has the limit lifted, and waits for that. It allocates nothing: neither does the kernel
// for it, nor does Go, which cannot even notice that the thread waits.
func (l *lifter) lift() error {
	unix.RawSyscall(unix.SYS_CLOSE, uintptr(l.tell), 0, 0)
	l.tell = -1
	if n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(l.told), uintptr(unsafe.Pointer(&l.answer)), 1); n != 1 {
		return fmt.Errorf("the limit was not lifted: %w", errno)
	}
	return nil
}

func (l *lifter) end() {
	if l.tell >= 0 {
		unix.Close(l.tell)
	}
	unix.Close(l.told)
	l.cmd.Wait()
}

// leave moves this process to the parent of a cgroup, and removes it.
func leave(dir string) {
	os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.procs"), []byte("0"), 0)
	for range 50 {
		if os.Remove(dir) == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// SpareThreads has the runtime start threads, which it keeps for when it wants one: so
// many that wait in a system call at the same time cannot be fewer.
func SpareThreads(n int) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	var waiting, done sync.WaitGroup
	waiting.Add(n)
	for range n {
		done.Go(func() {
			waiting.Done()
			unix.Read(pipe[0], make([]byte, 1)) // until the pipe is closed
		})
	}
	waiting.Wait()
	unix.Close(pipe[1])
	done.Wait()
	return unix.Close(pipe[0])
}

// asUser does something on a thread of its own, which becomes a user without capabilities
// and ends: the others stay root, for what only root can put back.
func asUser(uid int, do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			if _, _, errno := unix.RawSyscall(call, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				result <- fmt.Errorf("become uid %d: %w (needs root)", uid, errno)
				return
			}
		}
		result <- do()
	}()
	return <-result
}

func readNumber(file string) (n int64, err error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(strings.TrimSpace(string(raw)), &n)
	return n, err
}

// listProvocations writes all of them.
func listProvocations(out io.Writer, asJSON bool) error {
	for _, p := range slices.Concat(Provocations(), ModuleProvocations()) {
		var err error
		if asJSON {
			err = json.NewEncoder(out).Encode(map[string]string{"name": p.Name, "about": p.About})
		} else {
			_, err = fmt.Fprintf(out, "%-22s %s\n", p.Name, p.About)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
