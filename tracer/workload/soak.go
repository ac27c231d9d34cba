package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/child"
)

// Soak makes processes of several users map, unmap, share, fork, exit and die
// at random, while sysctls and limits change. It needs root, and changes
// perf_event_mlock_kb and perf_event_paranoid, which it puts back.
type Soak struct {
	Seed      uint64
	Duration  time.Duration
	Processes int           // per user, at a time
	UIDs      []int         // users
	Share     bool          // pass buffers to other processes
	Sysctls   bool          // change sysctls
	Life      time.Duration // of a process, about
}

const (
	mlockPath    = "/proc/sys/kernel/perf_event_mlock_kb"
	paranoidPath = "/proc/sys/kernel/perf_event_paranoid"
)

// Run runs until the time is over or ctx ends, and leaves nothing mapped.
func (s *Soak) Run(ctx context.Context, out io.Writer) (err error) {
	for _, path := range []string{mlockPath, paranoidPath} {
		restore, err := keep(path)
		if err != nil {
			return err
		}
		defer restore()
	}
	// Ordinary users may open events for themselves at level 2.
	if err := os.WriteFile(paranoidPath, []byte("2"), 0); err != nil {
		return fmt.Errorf("soak: %w (needs root)", err)
	}
	all, cancel := context.WithTimeout(ctx, s.Duration)
	defer cancel()
	sockets, err := datagramSockets(len(s.UIDs) * s.Processes)
	if err != nil {
		return err
	}
	// A user's counter lives as long as a process of the user does. One that
	// does nothing keeps it to the end.
	for _, uid := range s.UIDs {
		idle := child.Command(context.Background(), soakWorkerChild, soakWorker{UID: uid, Idle: true})
		idle.Stderr = os.Stderr
		if err := idle.Start(); err != nil {
			return err
		}
		defer func() { idle.Process.Kill(); idle.Wait() }()
		// A further mapping while nothing else is under way shows what the
		// kernel does with those.
		if err := mapOne(uid, 1); err != nil {
			return err
		}
	}
	var wait sync.WaitGroup
	failures := make(chan error, len(s.UIDs)*s.Processes)
	var started [64]uint64 // processes, by slot
	for slot := range len(s.UIDs) * s.Processes {
		wait.Go(func() {
			for n := uint64(0); all.Err() == nil; n++ {
				started[slot%len(started)]++
				if err := s.worker(all, slot, n, sockets); err != nil {
					failures <- err
					cancel()
					return
				}
			}
		})
	}
	if s.Sysctls {
		wait.Go(func() { s.changeSysctls(all) })
	}
	wait.Wait()
	for _, pair := range sockets {
		drainSocket(pair[0])
		unix.Close(pair[0])
		unix.Close(pair[1])
	}
	// A last mapping of every user, with nothing else under way: what the
	// counters say now is what stayed charged.
	for _, uid := range s.UIDs {
		if err := mapOne(uid, 0); err != nil {
			return err
		}
	}
	var processes uint64
	for _, n := range started {
		processes += n
	}
	fmt.Fprintf(out, "soak: seed %d, %d processes of %d users\n", s.Seed, processes, len(s.UIDs))
	close(failures)
	return <-failures
}

// mapOne maps and unmaps one small buffer as a user, and so many more times.
func mapOne(uid, again int) error {
	p := PerfBuffers{UID: uid, Memlock: 512 << 10, Pages: 1, Max: 1, Again: again, Quiet: true}
	if err := p.Command(context.Background()).Run(); err != nil {
		return fmt.Errorf("map a buffer as uid %d: %w", uid, err)
	}
	return nil
}

// keep remembers a sysctl; the returned function puts it back.
func keep(path string) (restore func(), err error) {
	old, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return func() { os.WriteFile(path, old, 0) }, nil
}

// datagramSockets makes a socket pair for each slot: one end receives, the
// other is for everybody who sends to that slot.
func datagramSockets(n int) (pairs [][2]int, err error) {
	for range n {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair)
	}
	return pairs, nil
}

// worker runs one process in a slot. It ends by itself, or is killed, with
// whatever it has mapped.
func (s *Soak) worker(ctx context.Context, slot int, n uint64, sockets [][2]int) error {
	random := rand.New(rand.NewPCG(s.Seed, uint64(slot)<<32|n))
	life := time.Duration(float64(s.Life) * (0.2 + 1.6*random.Float64()))
	w := soakWorker{UID: s.UIDs[slot%len(s.UIDs)], Seed: random.Uint64(), Share: s.Share}
	killed := random.IntN(2) == 0
	if !killed {
		w.Life = life
	}
	cmd := child.Command(context.Background(), soakWorkerChild, w)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	own, err := unix.Dup(sockets[slot][0])
	if err != nil {
		return err
	}
	peer, err := unix.Dup(sockets[random.IntN(len(sockets))][1])
	if err != nil {
		return err
	}
	files := []*os.File{os.NewFile(uintptr(own), "receive"), os.NewFile(uintptr(peer), "send")}
	cmd.ExtraFiles = files
	err = cmd.Start()
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	kill := time.After(life)
	if !killed {
		kill = nil
	}
	select {
	case <-kill:
	case <-ctx.Done():
	case err := <-done:
		return err
	}
	cmd.Process.Kill()
	<-done
	return nil
}

func (s *Soak) changeSysctls(ctx context.Context) {
	random := rand.New(rand.NewPCG(s.Seed, 1<<63))
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(random.IntN(200)) * time.Millisecond):
		}
		os.WriteFile(mlockPath, []byte(strconv.Itoa(random.IntN(300))), 0)
		level := "2"
		if random.IntN(4) == 0 {
			level = "-1"
		}
		os.WriteFile(paranoidPath, []byte(level), 0)
	}
}

// soakWorker is one process of a Soak.
type soakWorker struct {
	UID   int
	Seed  uint64
	Share bool
	Life  time.Duration // 0: until killed
	Idle  bool          // do nothing
}

// The descriptors that a worker inherits.
const (
	receiveFD = 3
	sendFD    = 4
)

// run maps and unmaps at random, in several threads, until its life is over. It
// leaves mapped what is mapped.
func (w soakWorker) run() error {
	if err := unix.Setresuid(w.UID, w.UID, w.UID); err != nil {
		return fmt.Errorf("become uid %d: %w", w.UID, err)
	}
	for w.Idle {
		time.Sleep(time.Hour) // to wait for nothing at all would be a deadlock
	}
	const threads = 3
	end := make(chan struct{})
	if w.Life > 0 {
		time.AfterFunc(w.Life, func() { close(end) })
	}
	var wait sync.WaitGroup
	failures := make(chan error, threads)
	for i := range uint64(threads) {
		wait.Go(func() {
			p := player{random: rand.New(rand.NewPCG(w.Seed, i)), share: w.Share}
			for {
				select {
				case <-end:
					return
				default:
				}
				if err := p.step(); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wait.Wait()
	close(failures)
	if err := <-failures; err != nil {
		return err
	}
	if w.Seed%3 == 0 {
		// What is mapped goes with the mm, at exec and not at exit.
		return child.Exec(nothingChild, nil)
	}
	return nil
}

// player is one thread's events and mappings.
type player struct {
	random   *rand.Rand
	share    bool
	events   []int
	mappings []mapping
}

type mapping struct {
	addr  uintptr
	bytes uintptr
	pages int // of the buffer, even where a part was unmapped
	event int
}

// step does one thing at random. The kernel may refuse it: that is part of the
// exercise. An error is what should not happen.
func (p *player) step() error {
	switch p.random.IntN(13) {
	case 0, 1, 2:
		return p.open()
	case 3, 4:
		p.again()
	case 5, 6, 7:
		return p.unmap()
	case 8:
		p.redirect()
	case 9:
		p.odd()
	case 10:
		if p.share {
			p.exchange()
		}
	case 11:
		p.limit()
	case 12:
		return p.fork()
	}
	if len(p.mappings) > 40 {
		return p.unmap()
	}
	time.Sleep(time.Duration(p.random.IntN(3)) * time.Millisecond)
	return nil
}

func (p *player) pages() int { return 1<<p.random.IntN(5) + 1 }

func (p *player) open() error {
	fds, err := openEvents("", 1)
	if err != nil {
		if errors.Is(err, unix.EMFILE) {
			return nil
		}
		return err
	}
	p.events = append(p.events, fds[0])
	p.mmap(fds[0], p.pages())
	if len(p.events) > 60 {
		unix.Close(p.events[0]) // its mappings live on
		p.events = p.events[1:]
	}
	return nil
}

func (p *player) mmap(event, pages int) {
	bytes := uintptr(pages * os.Getpagesize())
	addr, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED, uintptr(event), 0)
	if errno == 0 {
		p.mappings = append(p.mappings, mapping{addr, bytes, pages, event})
	}
}

// some returns one of the mappings, or nil without any.
func (p *player) some() *mapping {
	if len(p.mappings) == 0 {
		return nil
	}
	return &p.mappings[p.random.IntN(len(p.mappings))]
}

// again maps the buffer of a mapping once more.
func (p *player) again() {
	if m := p.some(); m != nil {
		p.mmap(m.event, m.pages)
	}
}

func (p *player) unmap() error {
	m := p.some()
	if m == nil {
		return nil
	}
	addr, bytes := m.addr, m.bytes
	*m = p.mappings[len(p.mappings)-1]
	p.mappings = p.mappings[:len(p.mappings)-1]
	if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, addr, bytes, 0); errno != 0 {
		return fmt.Errorf("munmap: %w", errno)
	}
	return nil
}

// redirect sends a new event's records to a mapped buffer, and maps that.
func (p *player) redirect() {
	m := p.some()
	if m == nil {
		return
	}
	fds, err := openEvents("", 1)
	if err != nil {
		return
	}
	p.events = append(p.events, fds[0])
	if unix.IoctlSetInt(fds[0], unix.PERF_EVENT_IOC_SET_OUTPUT, m.event) == nil {
		p.mmap(fds[0], m.pages)
	}
}

// odd asks for what must fail, and for what few programs do.
func (p *player) odd() {
	m := p.some()
	if m == nil {
		return
	}
	page := uintptr(os.Getpagesize())
	switch p.random.IntN(5) {
	case 0:
		p.mmap(m.event, m.pages+1)
	case 1: // no power of two
		p.mmap(m.event, 4)
	case 2: // an AUX area that nobody has announced
		unix.Syscall6(unix.SYS_MMAP, 0, page, unix.PROT_READ, unix.MAP_SHARED, uintptr(m.event), m.bytes)
	case 3: // a part: refused since 6.1, and before it the rest stays
		if m.bytes == page {
			return
		}
		if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, m.addr+m.bytes-page, page, 0); errno == 0 {
			m.bytes -= page
		}
	case 4:
		m.move()
	}
}

// move moves a mapping to another address, which charges nothing. It takes the
// new address first, and never goes back: other threads may have taken the old.
func (m *mapping) move() {
	there, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, m.bytes, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0), 0)
	if errno != 0 {
		return
	}
	const flags = unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED
	if _, _, errno = unix.Syscall6(unix.SYS_MREMAP, m.addr, m.bytes, m.bytes, flags, there, 0); errno != 0 {
		unix.Syscall(unix.SYS_MUNMAP, there, m.bytes, 0)
		return
	}
	m.addr = there
}

// exchange gives an event to another process, or takes and maps one.
func (p *player) exchange() {
	if m := p.some(); m != nil && p.random.IntN(2) == 0 {
		unix.Sendmsg(sendFD, []byte{byte(m.pages)}, unix.UnixRights(m.event), nil, unix.MSG_DONTWAIT)
		return
	}
	var pages [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(receiveFD, pages[:], oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return
	}
	for _, fd := range rights(oob[:n]) {
		p.mmap(fd, int(pages[0]))
		p.events = append(p.events, fd)
	}
}

func rights(oob []byte) []int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, _ := unix.ParseUnixRights(&messages[0])
	return fds
}

func drainSocket(fd int) {
	for {
		oob := make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 1), oob, unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		for _, fd := range rights(oob[:n]) {
			unix.Close(fd)
		}
	}
}

// fork makes a child, which has none of the mappings, and lets it go on to
// something else.
func (p *player) fork() error {
	if p.random.IntN(20) > 0 {
		return nil
	}
	return child.Command(context.Background(), nothingChild, nil).Run()
}

// limit changes the process's own soft limit.
func (p *player) limit() {
	var now unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &now) != nil {
		return
	}
	now.Cur = min(now.Max, uint64(p.random.IntN(200))<<12)
	unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &now, nil)
}
