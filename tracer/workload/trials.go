package workload

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/child"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// Trials predicts what the kernel will say to random mappings under random
// settings, and tries them. It changes sysctls, limits and CPUs, and puts them
// back.
type Trials struct {
	Seed   uint64
	Count  int
	Source *snapshot.Source
	// NoCPUs leaves the CPUs online: taking one down is slow.
	NoCPUs bool
	// PMU is one with an AUX area, which is mapped as well; "": data areas only.
	PMU string
}

// TrialSummary counts what the trials met.
type TrialSummary struct {
	Version    int            `json:"v"`
	Source     string         `json:"source"`
	Trials     int            `json:"trials"`
	Outcomes   map[string]int `json:"outcomes"` // by errno's name, "ok" for none
	AUX        int            `json:"aux"`      // trials of an AUX area
	Exempt     int            `json:"exempt"`   // past the limit and yet allowed
	Boundary   int            `json:"boundary"` // within one page of the limit
	Mismatches []Mismatch     `json:"mismatches"`
}

// Mismatch is a prediction that did not come true.
type Mismatch struct {
	Trial      int           `json:"trial"`
	Settings   rule.Settings `json:"settings"`
	Caller     rule.Caller   `json:"caller"`
	Area       rule.Area     `json:"area"`
	Pages      int64         `json:"pages"`
	Predicted  rule.Outcome  `json:"predicted"`
	Errno      int           `json:"errno"`
	PinnedVM   int64         `json:"pinned_vm_pages"` // after
	WantPinned int64         `json:"want_pinned_vm_pages"`
}

// eventsPerMapper is how many buffers one process of the trials can hold.
const eventsPerMapper = 12

// Run runs the trials and writes a summary to out. A mismatch is an error.
func (t *Trials) Run(ctx context.Context, out io.Writer) error {
	restore, err := t.remember()
	if err != nil {
		return err
	}
	defer restore()
	var mappers []*mapper
	defer func() {
		for _, m := range mappers {
			m.end()
		}
	}()
	for _, kind := range mapperKinds() {
		m, err := startMapper(ctx, kind, t.PMU)
		if err != nil {
			return fmt.Errorf("start %s: %w", kind.name, err)
		}
		mappers = append(mappers, m)
	}
	random := rand.New(rand.NewPCG(t.Seed, 0))
	summary := TrialSummary{Version: 1, Outcomes: map[string]int{}, Mismatches: []Mismatch{}}
	for summary.Trials < t.Count && ctx.Err() == nil {
		if err := t.settings(random, summary.Trials); err != nil {
			return err
		}
		if err := t.trial(ctx, random, mappers[random.IntN(len(mappers))], &summary); err != nil {
			return fmt.Errorf("trial %d: %w", summary.Trials, err)
		}
		summary.Trials++
	}
	if err := json.NewEncoder(out).Encode(summary); err != nil {
		return err
	}
	if n := len(summary.Mismatches); n > 0 {
		return fmt.Errorf("%d of %d predictions were wrong", n, summary.Trials)
	}
	return ctx.Err()
}

// remember notes what the trials change; the returned function puts it back.
func (t *Trials) remember() (func(), error) {
	var restore []func()
	for _, path := range []string{mlockPath, paranoidPath} {
		again, err := keep(path)
		if err != nil {
			return nil, err
		}
		restore = append(restore, again)
	}
	for cpu := 1; !t.NoCPUs; cpu++ {
		again, err := keep(cpuPath(cpu))
		if err != nil {
			break
		}
		restore = append(restore, again)
	}
	return func() {
		for _, again := range restore {
			again()
		}
	}, nil
}

func cpuPath(cpu int) string { return fmt.Sprintf("/sys/devices/system/cpu/cpu%d/online", cpu) }

// settings changes something host-wide, now and then.
func (t *Trials) settings(random *rand.Rand, trial int) error {
	if trial%4 == 0 {
		kib := pick(random, 0, 3, 4, 16, 64, 132, 260, 516, 516, 1024, -1, -8)
		if err := os.WriteFile(mlockPath, []byte(strconv.Itoa(kib)), 0); err != nil {
			return err
		}
	}
	if trial%3 == 0 {
		level := pick(random, -1, 0, 1, 2, 2, 3)
		if err := os.WriteFile(paranoidPath, []byte(strconv.Itoa(level)), 0); err != nil {
			return err
		}
	}
	if trial%32 == 31 && !t.NoCPUs {
		cpu := 1 + random.IntN(3)
		err := os.WriteFile(cpuPath(cpu), []byte(strconv.Itoa(random.IntN(2))), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return nil
}

func pick[T any](random *rand.Rand, of ...T) T { return of[random.IntN(len(of))] }

// trial lets a process do one random thing, and compares a mapping with what was
// predicted of it.
func (t *Trials) trial(ctx context.Context, random *rand.Rand, m *mapper, sum *TrialSummary) error {
	if len(m.mapped) == eventsPerMapper || len(m.mapped) > 0 && random.IntN(3) == 0 {
		if err := m.unmap(random); err != nil {
			return err
		}
	}
	if m.kind.capable {
		if _, err := m.order("cap %d", random.IntN(2)); err != nil {
			return err
		}
	}
	area, event, pages := rule.Data, m.free[0], int64(1)<<random.IntN(8)+1
	if bare := m.withoutAUX(); t.PMU != "" && len(bare) > 0 && random.IntN(2) == 0 {
		area, event, pages = rule.AUX, pick(random, bare...), pages-1
		sum.AUX++
	}
	if random.IntN(16) == 0 {
		pages += int64(pick(random, -1, 1, 2))
	}
	if err := t.limit(ctx, random, m, area, pages); err != nil {
		return err
	}
	snap, err := t.Source.Take(ctx)
	if err != nil {
		return err
	}
	sum.Source = snap.Source
	settings := snap.Settings()
	caller, _, err := advice.Caller(snap, advice.Ask{PID: uint32(m.pid())})
	if err != nil {
		return err
	}
	predicted := settings.Limits().Map(caller, area, pages)
	errno, pinned, err := m.mapNew(area, event, pages)
	if err != nil {
		return err
	}
	sum.count(settings, caller, predicted, errno)
	want := caller.PinnedVM
	if errno == 0 {
		want += predicted.Extra
	}
	if errno != predicted.Errno || pinned != want {
		sum.Mismatches = append(sum.Mismatches, Mismatch{sum.Trials, settings, caller, area, pages, predicted, int(errno), pinned, want})
	}
	return nil
}

func (s *TrialSummary) count(settings rule.Settings, caller rule.Caller, predicted rule.Outcome, errno unix.Errno) {
	name := "ok"
	if errno != 0 {
		name = rule.ErrnoName(errno)
	}
	s.Outcomes[name]++
	if errno == 0 && predicted.Over > 0 && settings.Limits().Exempt(caller) {
		s.Exempt++
	}
	if predicted.Errno != unix.EINVAL && predicted.Over >= -1 && predicted.Over <= 1 {
		s.Boundary++
	}
}

// limit sets the process's limit: often to what the mapping will need, or a page
// more or less.
func (t *Trials) limit(ctx context.Context, random *rand.Rand, m *mapper, area rule.Area, pages int64) error {
	limit := uint64(random.IntN(300))
	if random.IntN(2) == 0 {
		snap, err := t.Source.Take(ctx)
		if err != nil {
			return err
		}
		caller, _, err := advice.Caller(snap, advice.Ask{PID: uint32(m.pid())})
		if err != nil {
			return err
		}
		limit = uint64(max(0, snap.Settings().Limits().Map(caller, area, pages).Locked+int64(pick(random, -1, 0, 1))))
	}
	bytes := limit*uint64(os.Getpagesize()) + uint64(random.IntN(os.Getpagesize()))
	if random.IntN(16) == 0 {
		bytes = unix.RLIM_INFINITY
	}
	return unix.Prlimit(m.pid(), unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil)
}

// mapperKind is a sort of process: who it runs as, and with which capabilities.
type mapperKind struct {
	name    string
	uid     uint32
	capable bool // has CAP_IPC_LOCK, and can give it up and take it again
	userns  bool // has all capabilities, in a user namespace of its own
}

// mapperKinds are two processes of most users, so that they hold allowance of
// each other.
func mapperKinds() []mapperKind {
	return []mapperKind{
		{name: "a user", uid: 2001},
		{name: "the same user", uid: 2001},
		{name: "a capable user", uid: 2002, capable: true},
		{name: "the same without", uid: 2002},
		{name: "root of a user namespace", uid: 2003, userns: true},
		{name: "its user outside", uid: 2003},
		{name: "root without", uid: 0},
		{name: "root", uid: 0, capable: true},
	}
}

// mapper is a process that maps as it is told.
type mapper struct {
	kind   mapperKind
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	mapped []int        // events that have a buffer
	aux    map[int]bool // those that have an AUX area, too
	free   []int
}

func startMapper(ctx context.Context, kind mapperKind, pmu string) (*mapper, error) {
	events, err := openEvents(pmu, eventsPerMapper)
	if err != nil {
		return nil, err
	}
	m := &mapper{kind: kind, aux: map[int]bool{}, cmd: child.Command(ctx, mapperChild, nil)}
	for i, fd := range events {
		file := os.NewFile(uintptr(fd), "event")
		defer file.Close()
		m.cmd.ExtraFiles = append(m.cmd.ExtraFiles, file)
		m.free = append(m.free, 3+i)
	}
	m.cmd.Stderr = os.Stderr
	m.cmd.SysProcAttr = kind.attributes()
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	m.out = bufio.NewReader(out)
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	_, err = m.order("cap %d", map[bool]int{true: 1}[kind.capable || kind.userns])
	return m, err
}

func (k mapperKind) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: k.uid, Gid: k.uid}}
	if k.capable {
		a.AmbientCaps = []uintptr{unix.CAP_IPC_LOCK}
	}
	if k.userns {
		a.Cloneflags = unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(k.uid), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(k.uid), Size: 1}}
		a.Credential = &syscall.Credential{NoSetGroups: true}
	}
	return a
}

func (m *mapper) pid() int { return m.cmd.Process.Pid }

func (m *mapper) end() {
	m.in.Close()
	m.cmd.Wait()
}

// order tells the process to do something, and returns its answer.
func (m *mapper) order(format string, args ...any) (string, error) {
	if _, err := fmt.Fprintf(m.in, format+"\n", args...); err != nil {
		return "", fmt.Errorf("%s: %w", m.kind.name, err)
	}
	answer, err := m.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s has ended: %w", m.kind.name, err)
	}
	return strings.TrimSpace(answer), nil
}

// withoutAUX are the events that have a buffer and no AUX area.
func (m *mapper) withoutAUX() (events []int) {
	for _, event := range m.mapped {
		if !m.aux[event] {
			events = append(events, event)
		}
	}
	return events
}

// mapNew maps an area of an event, and returns pinned_vm after it as /proc shows
// it.
func (m *mapper) mapNew(area rule.Area, event int, pages int64) (errno unix.Errno, pinned int64, err error) {
	verb := "map"
	if area == rule.AUX {
		verb = "aux"
	}
	answer, err := m.order("%s %d %d", verb, event, pages)
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(answer, "%d %d", &errno, &pinned); err != nil {
		return 0, 0, fmt.Errorf("%s answers %q: %w", m.kind.name, answer, err)
	}
	switch {
	case errno != 0:
	case area == rule.AUX:
		m.aux[event] = true
	default:
		m.mapped = append(m.mapped, event)
		m.free = slices.DeleteFunc(m.free, func(free int) bool { return free == event })
	}
	return errno, pinned, nil
}

func (m *mapper) unmap(random *rand.Rand) error {
	i := random.IntN(len(m.mapped))
	if answer, err := m.order("unmap %d", m.mapped[i]); err != nil || answer != "0" {
		return fmt.Errorf("%s: unmap: %q %w", m.kind.name, answer, err)
	}
	delete(m.aux, m.mapped[i])
	m.free = append(m.free, m.mapped[i])
	m.mapped = append(m.mapped[:i], m.mapped[i+1:]...)
	return nil
}

// serveMapper is the process's side: it maps and unmaps the events that it was given,
// and gives up and takes CAP_IPC_LOCK.
func serveMapper(in io.Reader, out io.Writer) error {
	runtime.LockOSThread()
	areas := map[int][][]byte{}
	orders := bufio.NewScanner(in)
	for orders.Scan() {
		answer, err := obey(orders.Text(), areas)
		if err != nil {
			return fmt.Errorf("%s: %w", orders.Text(), err)
		}
		if _, err := fmt.Fprintln(out, answer); err != nil {
			return err
		}
	}
	return orders.Err()
}

// obey does as it is told. areas are those of each event that are mapped, the data
// area first.
func obey(order string, areas map[int][][]byte) (answer string, err error) {
	var verb string
	var fd, pages int
	fmt.Sscan(order, &verb, &fd, &pages)
	var area []byte
	switch verb {
	case "cap":
		return "0", raise(cap.IPC_LOCK, fd == 1)
	case "unmap":
		for _, area := range areas[fd] {
			if err := unix.Munmap(area); err != nil {
				return "", err
			}
		}
		delete(areas, fd)
		return "0", nil
	case "aux":
		area, err = mapAUX(fd, areas[fd][0], pages)
	default:
		area, err = unix.Mmap(fd, 0, pages*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	var errno unix.Errno
	if err == nil {
		areas[fd] = append(areas[fd], area)
	} else if !errors.As(err, &errno) {
		return "", err
	}
	kib, err := kernel.VmPin("self")
	return fmt.Sprintf("%d %d", errno, kib*1024/int64(os.Getpagesize())), err
}

// raise makes a capability effective, or not, as far as it is permitted.
func raise(c cap.Value, effective bool) error {
	set := cap.GetProc()
	if permitted, err := set.GetFlag(cap.Permitted, c); err != nil || !permitted {
		return err
	}
	if err := set.SetFlag(cap.Effective, effective, c); err != nil {
		return err
	}
	return set.SetProc()
}
