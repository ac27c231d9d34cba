package check

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// What is charged to a cgroup has memory.current for its witness, which counts in batches of
// 64 pages for each CPU.

// tolerance is by how many pages a cgroup's memory.current may be off when all of
// it is gone: slabs and page tables stay for a while. What leaks in a scenario
// is a multiple of it.
const tolerance = 256

// rest is memory.current of an empty cgroup, in pages. Lowering the limit makes
// the kernel give back what it keeps in stock for the cgroup on each CPU.
func (s *Scene) rest(cgroup string) int64 {
	s.check(os.WriteFile(filepath.Join(cgroup, "memory.max"), []byte("0"), 0))
	left := s.current(cgroup)
	s.check(os.WriteFile(filepath.Join(cgroup, "memory.max"), []byte("max"), 0))
	return left
}

// baseline is what stays charged to an empty cgroup after the first time, once
// that changes no more: caches that later times use again.
func (s *Scene) baseline(cgroup string) int64 {
	last := int64(-1)
	left := s.settle(func(v int64) bool {
		same := v == last
		last = v
		time.Sleep(50 * time.Millisecond)
		return same
	}, func() int64 { return s.rest(cgroup) })
	s.say("the empty cgroup is charged %d pages", left)
	return left
}

// atRest expects an empty cgroup to be charged no more than before.
func (s *Scene) atRest(cgroup string, before int64) {
	left := s.settle(func(v int64) bool { return v <= before+tolerance/2 }, func() int64 { return s.rest(cgroup) })
	s.say("the empty cgroup is charged %d pages", left)
	s.Evidence.WitnessesRead++
	if left > before+tolerance {
		s.broke(Witness{Witness: fmt.Sprintf("memory.current of the empty cgroup (%d pages more are tolerated)", tolerance), ExpectedPages: before, SeenPages: left, reading: kept})
	}
}

// current is memory.current in pages.
func (s *Scene) current(cgroup string) int64 {
	bytes, err := memoryCurrent(cgroup)
	s.check(err)
	return bytes / page()
}

// sub makes another cgroup of the scenario.
func (s *Scene) sub(name string) string {
	if s.run.cgroup == "" {
		return ""
	}
	dir := filepath.Join(s.run.cgroup, strconv.Itoa(s.uids[0])+"-"+name)
	s.check(os.Mkdir(dir, 0o755))
	s.subs = append(s.subs, dir)
	return dir
}

// limitCgroup sets memory.max, in pages.
func (s *Scene) limitCgroup(cgroup string, pages int64) {
	s.check(os.WriteFile(filepath.Join(cgroup, "memory.max"), strconv.AppendInt(nil, pages*page(), 10), 0))
}

// expectCharged expects a cgroup to be charged so many pages, at the least and at the most.
func (s *Scene) expectCharged(cgroup string, least, most int64) {
	seen := s.settle(func(v int64) bool { return least-tolerance <= v && v <= most+tolerance }, func() int64 { return s.current(cgroup) })
	s.say("the cgroup is charged %d pages", seen)
	w := Witness{Witness: fmt.Sprintf("memory.current of the cgroup (%d pages are tolerated)", tolerance), ExpectedPages: least, SeenPages: seen, reading: tooLittle}
	if seen > most {
		w.ExpectedPages, w.reading = most, tooMuch
	}
	s.read(least-tolerance <= seen && seen <= most+tolerance, w)
}

// inside has a child of the process do something in a cgroup.
func (p *process) inside(cgroup string, r request) message {
	dir, err := os.Open(cgroup)
	p.s.check(err)
	defer dir.Close()
	m, err := p.ask(r, int(dir.Fd()))
	p.s.check(err)
	return m
}

func memcgLimit(s *Scene) {
	cgroup := s.sub("bpf")
	// What a refused map had taken is given back by a worker (defer_vm_area_cleanup() of
	// vmalloc, where kernels have it). Meanwhile nothing is left in the cgroup, not even for
	// an answer: so a child creates the map, and the creator, who may put it there by
	// CAP_DAC_OVERRIDE, is elsewhere.
	p := s.Process(Who{Name: "creator", Caps: append(bpfCaps(), "cap_dac_override")})
	// The child should end by itself, and not for want of a page.
	s.check(os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.pid), []byte("-1000"), 0))
	s.limitCgroup(cgroup, s.current(cgroup)+8<<20/page())
	s.say("memory.max becomes 8 MiB more than what is used")
	create := func(mib int64) unix.Errno {
		m := p.inside(cgroup, request{Op: "bpf-map-inside", Pages: mib << 20 / page()})
		return unix.Errno(m.Errno)
	}
	for range 3 {
		errno := create(16)
		s.say("a child of the creator, in the cgroup, creates a map of 16 MiB")
		s.read(errno == unix.ENOMEM, Witness{Witness: "the kernel says " + errnoName(errno) + " instead of ENOMEM", SeenPages: 16 << 20 / page()})
	}
	errno := unix.Errno(s.settle(func(errno int64) bool { return errno != int64(unix.ENOMEM) }, func() int64 { return int64(create(2)) }))
	s.charged++
	s.say("a child of the creator, in the cgroup, creates a map of 2 MiB")
	s.read(errno == 0, Witness{Witness: "the kernel says " + errnoName(errno) + ": what was refused stays charged", ExpectedPages: 2 << 20 / page(), reading: kept})
	p.Exit()
	s.atRest(cgroup, tolerance) // a map that stays charged is sixteen times that
}

// madeInside has a process of a cgroup make a map, and gives it to another one, which is
// elsewhere: in the cgroup there is no more than the map, whoever uses it.
func (s *Scene) madeInside(cgroup, op string, pages int64) (holder *process, fd int) {
	holder = s.Process(Who{Name: "holder", Caps: bpfCaps()})
	creator := s.Process(Who{Name: "creator", Caps: bpfCaps(), Cgroup: cgroup})
	m, err := creator.ask(request{Op: op, Pages: pages}, -1)
	s.check(err)
	s.check(errnoError(op, m))
	s.charged++
	sent, err := creator.ask(request{Op: "send", FD: int(m.Value)}, -1)
	s.check(err)
	defer unix.Close(sent.fd)
	got, err := holder.ask(request{Op: "receive"}, sent.fd)
	s.check(err)
	s.say("creator, in the cgroup, makes a %s and passes it to the holder, which is elsewhere", op)
	creator.Exit()
	return holder, int(got.Value)
}

// bpfMapUpdates has elements of 4 KiB: how many fit is what memory.max leaves.
func bpfMapUpdates(s *Scene) {
	perPage := max(1, page()/4096)
	pages := max(1024, 2048/perPage) // fewer are too few for the tolerance, more take an emulated guest too long
	elements, tolerated := pages*perPage, tolerance*perPage
	cgroup := s.sub("bpf")
	holder, fd := s.madeInside(cgroup, "bpf-hash", 2*elements)
	s.settle(func(v int64) bool { return v <= tolerance }, func() int64 { return s.current(cgroup) })
	s.limitCgroup(cgroup, pages)
	s.say("memory.max becomes %d pages", pages)
	fill := func() int64 {
		m, err := holder.ask(request{Op: "bpf-update", FD: fd, N: int(2 * elements)}, -1)
		s.check(err)
		if m.Errno != 0 && unix.Errno(m.Errno) != unix.ENOMEM {
			s.check(errnoError("BPF_MAP_UPDATE_ELEM", m))
		}
		_, err = holder.ask(request{Op: "bpf-delete", FD: fd, N: int(m.Value)}, -1)
		s.check(err)
		return m.Value
	}
	first := fill()
	s.say("holder updates elements of 4 KiB: %d fit", first)
	s.read(first <= elements+tolerated, Witness{Witness: "elements of 4 KiB that fit the cgroup before ENOMEM", ExpectedPages: pages, SeenPages: first / perPage, reading: tooLittle})
	s.read(first >= elements/2, Witness{Witness: "elements of 4 KiB that fit the cgroup", ExpectedPages: pages, SeenPages: first / perPage, reading: tooMuch})
	again := s.settle(func(v int64) bool { return v >= first-tolerated }, fill)
	s.say("holder deletes them, and updates again: %d fit", again)
	s.read(again >= first-tolerated, Witness{Witness: fmt.Sprintf("elements of 4 KiB that fit again (%d pages fewer are tolerated)", tolerance), ExpectedPages: first / perPage, SeenPages: again / perPage, reading: kept})
	holder.Kill()
	s.atRest(cgroup, tolerance)
}

func needArena(r *run) string {
	if reason := needBPFByMemcg(r); reason != "" {
		return reason
	}
	switch errno := r.try(request{Op: "bpf-arena", Pages: 1}); errno {
	case 0:
		return ""
	case unix.ENOMEM: // seen on 7.3 in a guest whose CPU had no cx16, and not in one that had
		return "this kernel makes no BPF arena: ENOMEM, as newer kernels say on a CPU without cmpxchg16b, such as that of an emulated amd64 guest"
	default:
		return "requires BPF arenas (6.9): " + errnoName(errno)
	}
}

func bpfArena(s *Scene) {
	const pages = 4096
	cgroup := s.sub("bpf")
	holder, fd := s.madeInside(cgroup, "bpf-arena", pages)
	m, err := holder.ask(request{Op: "touch", FD: fd, Pages: pages}, -1)
	s.check(err)
	s.check(errnoError("touch an arena", m))
	s.say("holder touches %d pages of it", pages)
	s.expectCharged(cgroup, pages, pages)
	holder.Kill()
	s.atRest(cgroup, tolerance)
}

func needUringMemcg(r *run) string {
	if reason := needBPFByMemcg(r); reason != "" {
		return reason
	}
	return needUring(r)
}

// ioUringMemcg makes rings in children, which are alone in the cgroup.
func ioUringMemcg(s *Scene) {
	const entries, rings = 16384, 4
	cgroup := s.sub("rings")
	p := s.Process(Who{Name: "creator", Limit: unlimited, Caps: []string{"cap_dac_override"}})
	m, err := p.ask(request{Op: "uring", Pages: entries}, -1) // to see how large they are
	s.check(err)
	s.check(errnoError("io_uring_setup", m))
	var least, most int64
	_, err = fmt.Sscan(m.Notes[0]+" "+m.Notes[1], &least, &most)
	s.check(err)
	var children []int64
	for range rings {
		m := p.inside(cgroup, request{Op: "uring-inside", Pages: entries})
		s.check(errnoError("io_uring_setup", m))
		children = append(children, m.Value)
		s.say("a child of the creator, in the cgroup, makes an io_uring of %d pages", least)
	}
	s.expectCharged(cgroup, rings*least, rings*most)
	for _, child := range children {
		_, err := p.ask(request{Op: "end-child", N: int(child)}, -1)
		s.check(err)
	}
	s.say("the children are killed")
	s.atRest(cgroup, tolerance)
	p.Kill()
	s.settleRoom()
}
