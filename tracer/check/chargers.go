package check

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// chargerExercises are about what else is charged as locked memory, or was: BPF
// objects, io_uring buffers and AF_XDP umems. Other processes of the same user
// are the witnesses: what the limits still let them have.
func chargerExercises() []Exercise {
	return []Exercise{
		{Name: "bpf-maps", Charges: ChargesObjects, About: "a BPF map of every type, created and released: to the last page before 5.11, within 256 pages of the cgroup since", Needs: needBPF, Do: func(s *Scene) {
			bpfRounds(s, "bpf-maps")
		}},
		{Name: "bpf-programs", Charges: ChargesObjects, About: "BPF programs of every type, one that the kernel rewrites to a larger one among them, loaded and released", Needs: needBPF, Do: func(s *Scene) {
			bpfRounds(s, "bpf-programs")
		}},
		{Name: "bpf-killed", Charges: ChargesObjects, About: "a process is killed while it creates BPF maps and programs", Needs: needBPF, Do: bpfKilled},
		{Name: "bpf-rlimit", Charges: ChargesObjects, About: "before 5.11: a BPF map past RLIMIT_MEMLOCK is refused with EPERM and charges nothing", Needs: needBPFByRlimit, Do: bpfRlimit},
		{Name: "memcg-limit", Charges: ChargesObjects, About: "since 5.11: a BPF map past the cgroup's memory.max is refused with ENOMEM and charges nothing", Needs: needBPFByMemcg, Do: memcgLimit},
		{Name: "bpf-map-updates", Charges: ChargesObjects, About: "since 5.11: elements of a BPF map up to the cgroup's memory.max, from where they are refused with ENOMEM; deleted, as many fit again", Needs: needBPFByMemcg, Do: bpfMapUpdates},
		{Name: "bpf-arena", Charges: ChargesObjects, About: "pages of a BPF arena, which come when they are touched: charged to the cgroup of its creator, and given back", Needs: needArena, Do: bpfArena},
		{Name: "io-uring-rings", Charges: ChargesOthers, About: "io_uring rings made, closed and killed with: a kernel that charges their pages to the user gives them back", Needs: needUring, Do: ioUringRings},
		{Name: "io-uring-memcg", Charges: ChargesOthers, About: "io_uring rings in a cgroup: charged to that, and given back", Needs: needUringMemcg, Do: ioUringMemcg},
		{Name: "io-uring-buffers", Charges: ChargesOthers, About: "io_uring buffers registered, unregistered, refused halfway, and killed with", Needs: needUring, Do: ioUring},
		{Name: "af-xdp-umem", Charges: ChargesOthers, About: "an AF_XDP umem registered up to the limit, released, refused, and killed with", Needs: needXDP, Do: afXDP},
		{Name: "secretmem", Charges: ChargesOthers, About: "secret memory touched up to the limit, closed, and killed with: since 7.2 its user is charged", Needs: needSecretmem, Do: secretMemory},
	}
}

// bpfCaps are what BPF wants; none of them lifts a limit of locked memory.
func bpfCaps() []string { return []string{"cap_bpf", "cap_perfmon", "cap_net_admin", "cap_sys_admin"} }

// regime is who a kernel charges for BPF objects, by what it does.
type regime struct {
	rlimit bool   // the user, held against RLIMIT_MEMLOCK (before 5.11)
	memcg  bool   // the cgroup
	none   string // why it cannot be told, or is neither
}

// findRegime tries: a process without any limit creates a map of 4 MiB.
func (r *run) findRegime() (g regime) {
	dir := ""
	if r.memory {
		dir = filepath.Join(r.cgroup, "regime")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return regime{none: err.Error()}
		}
		defer removeCgroup(dir)
	}
	p, err := r.start(dir, false, 0)
	if err != nil {
		return regime{none: err.Error()}
	}
	defer p.end()
	if err := p.limit(0); err != nil {
		return regime{none: err.Error()}
	}
	before, _ := memoryCurrent(dir)
	m, err := p.ask(request{Op: "bpf-map", Pages: 4 << 20 / page()}, -1)
	after, _ := memoryCurrent(dir)
	switch errno := unix.Errno(m.Errno); {
	case err != nil:
		return regime{none: "requires BPF: " + err.Error()}
	case errno == unix.EPERM:
		return regime{rlimit: true}
	case errno != 0:
		return regime{none: "requires BPF: " + errno.Error()}
	case !r.memory && r.noCG != "":
		return regime{none: r.noCG}
	case !r.memory:
		return regime{none: "requires the memory controller of cgroup2 in " + cgroupRoot + "/cgroup.subtree_control (with --invasive it is put there for the time)"}
	case after-before < 3<<20:
		return regime{none: "this kernel charges BPF objects to nobody (CONFIG_MEMCG_KMEM, cgroup.memory=nokmem or nobpf)"}
	}
	return regime{memcg: true}
}

func needBPF(r *run) string { return r.regime().none }

func needBPFByRlimit(r *run) string {
	if r.regime().memcg {
		return "this kernel charges BPF objects to cgroups, not to users (5.11)"
	}
	return r.regime().none
}

func needBPFByMemcg(r *run) string {
	if r.regime().rlimit {
		return "this kernel charges BPF objects to users, not to cgroups (before 5.11)"
	}
	return r.regime().none
}

// settleTime is how long the kernel may take for what it frees later: maps,
// rings and umems go by way of RCU and work queues.
const settleTime = 5 * time.Second

// settleReads is how often a witness is read at least: one that takes seconds, as filling a map
// does on an emulated CPU that others want, has as much of a chance.
const settleReads = 5

// settle reads a witness until it says what is expected, or the time is over,
// and returns what it said last.
func (s *Scene) settle(done func(int64) bool, read func() int64) int64 {
	end := time.Now().Add(settleTime)
	for reads := 1; ; reads++ {
		value := read()
		if done(value) || reads >= settleReads && time.Now().After(end) {
			return value
		}
		s.check(s.ctx.Err())
		time.Sleep(10 * time.Millisecond)
	}
}

// expectSettled expects as many pages to fit, in the end, as do while nothing is charged.
func (s *Scene) expectSettled(witness string, expected int64, read func() int64) {
	s.ExpectRoom(witness, true, expected, s.settle(func(v int64) bool { return v == expected }, read))
}

// expectLess expects that fewer fit, in the end, while something is charged.
func (s *Scene) expectLess(witness string, expected int64, read func() int64) {
	s.ExpectRoom(witness, false, expected, s.settle(func(v int64) bool { return v == expected }, read))
}

// settleRoom waits until the kernel has given back to the user what it does
// later, so that what is measured at the end stays.
func (s *Scene) settleRoom() {
	s.settle(func(v int64) bool { return v == s.model.room(s.users[0]) }, func() int64 {
		return s.roomOf(0)
	})
}

// fit counts the maps of 64 pages that a process may create before the kernel
// refuses, and releases them.
func (p *process) fit() int64 {
	var n int64
	for ; n < 200; n++ {
		m, err := p.ask(request{Op: "bpf-map", Pages: 64}, -1)
		p.s.check(err)
		if m.Errno != 0 {
			break
		}
		p.s.charged++
	}
	_, err := p.ask(request{Op: "bpf-release"}, -1)
	p.s.check(err)
	return n
}

const fitWitness = "BPF maps of 64 pages that fit before EPERM, times 64"

// bpfRounds creates and releases, and lets the process go with what it holds:
// once to see what the kernel keeps for later, and then each way once.
func bpfRounds(s *Scene, op string) {
	s.bpf(func(p *process, first bool) {
		for round := range 2 {
			m, err := p.ask(request{Op: op}, -1)
			s.check(err)
			if first && len(m.Notes) > 0 {
				s.say("not here: %s", strings.Join(m.Notes, ", "))
			}
			if m.Value == 0 {
				s.Skip("this kernel refuses all: %s", strings.Join(m.Notes, ", "))
			}
			s.charged += m.Value
			s.say("%s: %d created", op, m.Value)
			if first || round == 1 {
				break
			}
			_, err = p.ask(request{Op: "bpf-release"}, -1)
			s.check(err)
			s.say("all released")
		}
		p.Exit()
	})
}

func bpfKilled(s *Scene) {
	s.bpf(func(p *process, _ bool) {
		s.say("creator creates and releases maps and programs")
		s.check(p.send(request{Op: "bpf-churn", Pages: mapPages, N: 8}, -1))
		time.Sleep(50 * time.Millisecond)
		p.Kill()
	})
}

// bpf lets two processes do something with BPF objects, and holds what is charged
// after the second one against what was after the first.
func (s *Scene) bpf(do func(p *process, first bool)) {
	rlimit := s.run.regime().rlimit
	cgroup := s.sub("bpf")
	var witness *process
	var before int64
	if rlimit {
		witness = s.Process(Who{Name: "other", Limit: 4096, Caps: bpfCaps()})
		before = witness.fit() * 64
	}
	for _, first := range []bool{true, false} {
		do(s.Process(Who{Name: "creator", Limit: 32768, Caps: bpfCaps(), Cgroup: cgroup}), first)
		if !rlimit && first {
			before = s.baseline(cgroup)
		}
	}
	if rlimit {
		s.expectSettled(fitWitness, before, func() int64 { return witness.fit() * 64 })
		s.settleRoom() // the witness's maps go later, too
		return
	}
	s.atRest(cgroup, before)
}

func bpfRlimit(s *Scene) {
	p := s.Process(Who{Name: "creator", Limit: 256, Caps: bpfCaps()})
	other := s.Process(Who{Name: "other", Limit: 4096, Caps: bpfCaps()})
	fits := other.fit() * 64
	for range 8 {
		m, err := p.ask(request{Op: "bpf-map", Pages: 512}, -1)
		s.check(err)
		s.say("creator creates a map of 512 pages with a limit of 256")
		s.read(unix.Errno(m.Errno) == unix.EPERM, Witness{Witness: "the kernel says " + errnoName(unix.Errno(m.Errno)) + " instead of EPERM", SeenPages: 512})
	}
	s.expectSettled(fitWitness, fits, func() int64 { return other.fit() * 64 })
	s.settleRoom()
}

func needUring(r *run) string {
	switch errno := r.try(request{Op: "uring"}); errno {
	case 0:
		return ""
	case unix.EPERM:
		return "io_uring is forbidden (kernel.io_uring_disabled, or seccomp)"
	default:
		return "requires io_uring (CONFIG_IO_URING): " + errnoName(errno)
	}
}

func needXDP(r *run) string {
	if errno := r.try(request{Op: "umem", Pages: 1}); errno != 0 {
		return "requires AF_XDP (CONFIG_XDP_SOCKETS): " + errnoName(errno)
	}
	return ""
}

// try does one thing in a process of its own, and says how it ended.
func (r *run) try(what request) unix.Errno {
	p, err := r.start("", false, 0)
	if err != nil {
		return unix.EIO
	}
	defer p.end()
	m, err := p.ask(what, -1)
	if err != nil && m.Errno == 0 {
		return unix.EIO
	}
	return unix.Errno(m.Errno)
}

// uringFits is how many pages can be registered with a ring before the kernel
// refuses. What is expected is tried first.
func (p *process) uringFits(ring, most, expected int64) int64 {
	low, high := int64(0), most+1 // low fits, high does not
	for low+1 < high {
		middle := (low + high) / 2
		switch {
		case low < expected && expected < high:
			middle = expected
		case low == expected:
			middle = low + 1
		}
		m, err := p.ask(request{Op: "register", FD: int(ring), Pages: middle}, -1)
		p.s.check(err)
		switch unix.Errno(m.Errno) {
		case 0:
			low = middle
			p.s.charged++
			_, err := p.ask(request{Op: "unregister", FD: int(ring)}, -1)
			p.s.check(err)
		case unix.ENOMEM:
			high = middle
		default:
			p.s.check(errnoError("register io_uring buffers", m))
		}
	}
	return low
}

// ring makes an io_uring.
func (p *process) ring() int64 {
	m, err := p.ask(request{Op: "uring"}, -1)
	p.s.check(err)
	p.s.check(errnoError("io_uring_setup", m))
	p.s.say("%s makes an io_uring", p.name)
	return m.Value
}

// entriesOfRing are those of a ring that takes pages enough to be seen.
const entriesOfRing = 1024

// ioUringRings has rings held against the user's limit, where they are: since 6.14 some
// kernels charge them, and others charge the cgroup alone.
func ioUringRings(s *Scene) {
	const limit = 128
	const witness = "pages that another process can register before ENOMEM"
	p, other := s.Process(Who{Name: "owner", Limit: limit}), s.Process(Who{Name: "other", Limit: limit})
	theirs := other.ring()
	fits := func(expected int64) int64 { return other.uringFits(theirs, limit, expected) }
	alone := fits(limit)
	atRest := func() int64 { return fits(alone) }
	create := func() int64 {
		m, err := p.ask(request{Op: "uring", Pages: entriesOfRing}, -1)
		s.check(err)
		s.check(errnoError("io_uring_setup", m))
		pages, err := strconv.ParseInt(m.Notes[2], 10, 64)
		s.check(err)
		s.say("owner makes an io_uring of %d pages", pages)
		switch seen := atRest(); seen {
		case alone:
			s.say("no user is charged for it")
			s.ExpectRoom(witness, true, alone, seen)
		default:
			s.ExpectRoom(witness, false, alone-pages, seen)
		}
		s.look()
		return m.Value
	}
	_, err := p.ask(request{Op: "close", FD: int(create())}, -1)
	s.check(err)
	s.say("owner closes it")
	s.expectSettled(witness, alone, atRest)
	create()
	p.Kill()
	s.expectSettled(witness, alone, atRest)
	other.Kill()
	s.settleRoom()
}

// uringPins finds out whether io_uring charges the process beside the user: in
// pinned_vm, since 5.9. The kernel's types tell, where they are known, and else the first
// buffer does: what comes later must be like it.
func (p *process) uringPins() bool {
	if types, err := kernel.LoadTypes(p.s.run.opts.Tracer.BTF, nil); err == nil {
		if spec, err := types.Spec(); err == nil && kernel.HasMember(spec, "io_ring_ctx") {
			pins := uringPinsBy(spec)
			p.s.say("io_uring charges the process as well: %v, by the kernel's types", pins)
			return pins
		}
	}
	pin, err := p.vmPin()
	p.s.check(err)
	pins := pin != p.by.mm.pages
	p.s.say("io_uring charges the process as well: %v, by what VmPin says", pins)
	return pins
}

// uringPinsBy tells it from types: as long as io_uring charged the user alone, what says
// that it does was called account_mem (5.3 and 5.8 have it, 5.10 has not).
func uringPinsBy(spec *btf.Spec) bool { return !kernel.HasMember(spec, "io_ring_ctx", "account_mem") }

// register registers a buffer, and tells the model: by most kernels it is charged to the
// process as well.
func (p *process) register(ring, pages int64) {
	m, err := p.ask(request{Op: "register", FD: int(ring), Pages: pages}, -1)
	p.s.check(err)
	p.s.check(errnoError("register io_uring buffers", m))
	p.s.say("%s registers a buffer of %d pages", p.name, pages)
	p.s.charged++
	if p.s.pins == nil {
		pins := p.uringPins()
		p.s.pins = &pins
	}
	if *p.s.pins {
		p.by.mm.pages += pages
	}
	p.s.charging = true
	p.s.look()
}

func ioUring(s *Scene) {
	const limit, pages = 64, 8
	const witness = "pages that another process can register before ENOMEM"
	p, other := s.Process(Who{Name: "registrar", Limit: limit}), s.Process(Who{Name: "other", Limit: limit})
	theirs := other.ring()
	read := func(expected int64) func() int64 {
		return func() int64 { return other.uringFits(theirs, limit, expected) }
	}
	alone := read(limit)()
	ring := p.ring()
	fits := read(alone)() // the ring itself is charged by some kernels

	p.register(ring, pages)
	s.ExpectRoom(witness, false, fits-pages, read(fits-pages)())
	_, err := p.ask(request{Op: "unregister", FD: int(ring)}, -1)
	s.check(err)
	s.say("registrar unregisters it")
	if *s.pins {
		p.by.mm.pages -= pages
	}
	s.expectSettled(witness, fits, read(fits))
	s.look()

	m, err := p.ask(request{Op: "register", FD: int(ring), Pages: pages, N: 1}, -1)
	s.check(err)
	s.say("registrar registers a buffer of %d pages and one that is not there", pages)
	if m.Errno == 0 {
		s.check(fmt.Errorf("the kernel registered a buffer that is not there"))
	}
	s.expectSettled(witness, fits, read(fits))
	s.look()

	p.register(ring, pages)
	p.Kill()
	s.expectSettled(witness, alone, read(alone))
	other.Kill()
	s.settleRoom()
}

// needSecretmem asks for secret memory that is charged to a user: up to 7.1 it is held
// against the process's own limit alone.
func needSecretmem(r *run) string {
	if reason := needXDP(r); reason != "" {
		return reason // without a witness
	}
	if errno := r.try(request{Op: "secretmem", Pages: 1}); errno != 0 {
		return "requires memfd_secret(2) (CONFIG_SECRETMEM): " + errnoName(errno)
	}
	spec, err := btf.LoadKernelSpec()
	var state *btf.Struct
	if err != nil || spec.TypeByName("secretmem_inode_state", &state) != nil {
		return "this kernel charges secret memory to no user (7.2)"
	}
	return ""
}

// secretMemory has a umem as the witness: what the limit of the user still allows.
func secretMemory(s *Scene) {
	const limit, secret = 16, 6
	const witness = "pages of a umem that fit the limit"
	who := Who{Name: "owner", Limit: limit, Caps: []string{"cap_net_raw"}}
	p := s.Process(who)
	who.Name = "other"
	other := s.Process(who)
	room := func() int64 {
		for pages := int64(limit); pages > 0; pages-- {
			m, err := other.ask(request{Op: "umem", Pages: pages}, -1)
			s.check(err)
			if m.Errno == 0 {
				_, err := other.ask(request{Op: "close", FD: int(m.Value)}, -1)
				s.check(err)
				return pages
			}
		}
		return 0
	}
	// What the witness had goes later, and so it may not fit at once.
	fd := -1
	touch := func() int64 {
		m, err := p.ask(request{Op: "secretmem", Pages: secret}, -1)
		s.check(err)
		if m.Errno != 0 {
			return 0
		}
		s.charged++
		fd = int(m.Value)
		return secret
	}
	s.expectSettled(witness, limit, room)
	s.expectSettled("pages of secret memory that fit the limit", secret, touch)
	s.say("owner touches %d pages of secret memory", secret)
	s.expectLess(witness, limit-secret, room)
	_, err := p.ask(request{Op: "close", FD: fd}, -1)
	s.check(err)
	s.say("owner closes it")
	s.expectSettled(witness, limit, room)
	s.expectSettled("pages of secret memory that fit the limit", secret, touch)
	s.say("owner touches %d pages of secret memory", secret)
	p.Kill()
	s.expectSettled(witness, limit, room)
	other.Kill()
	s.settleRoom()
}

func afXDP(s *Scene) {
	const limit = 16
	const witness = "pages of a umem that fit the limit"
	who := Who{Name: "owner", Limit: limit, Caps: []string{"cap_net_raw"}}
	p := s.Process(who)
	who.Name = "other"
	other := s.Process(who)
	// register makes a umem of some pages: how many of them it got.
	register := func(p *process, pages int64) (got int64, socket int) {
		m, err := p.ask(request{Op: "umem", Pages: pages}, -1)
		s.check(err)
		if m.Errno == 0 {
			s.charged++
			return pages, int(m.Value)
		}
		if unix.Errno(m.Errno) != unix.ENOBUFS {
			s.check(errnoError("register a umem", m))
		}
		return 0, -1
	}
	again := func() int64 {
		got, socket := register(other, limit)
		if socket >= 0 {
			_, err := other.ask(request{Op: "close", FD: socket}, -1)
			s.check(err)
		}
		return got
	}
	got, socket := register(p, limit)
	s.say("owner registers a umem of %d pages", limit)
	s.ExpectRoom(witness, true, limit, got)
	got, _ = register(other, 1)
	s.say("other registers a umem of 1 page")
	s.ExpectRoom(witness, false, 0, got)
	_, err := p.ask(request{Op: "close", FD: socket}, -1)
	s.check(err)
	s.say("owner closes it")
	s.expectSettled(witness, limit, again)

	m, err := p.ask(request{Op: "umem", Pages: limit, N: 1}, -1)
	s.check(err)
	s.say("owner registers a umem that is not there")
	if m.Errno == 0 {
		s.check(fmt.Errorf("the kernel registered a umem that is not there"))
	}
	s.expectSettled(witness, limit, again)

	// What the other one closed goes later, and the owner's must fit again.
	s.expectSettled(witness, limit, func() int64 { got, _ := register(p, limit); return got })
	s.say("owner registers a umem of %d pages", limit)
	p.Kill()
	s.expectSettled(witness, limit, again)
	other.Kill()
	s.settleRoom()
}
