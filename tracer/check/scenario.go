package check

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Exercise is one scenario of the table: what it does to a kernel.
type Exercise struct {
	Name     string // kebab-case, and never changed
	About    string
	Invasive bool // changes settings of the whole machine
	// Needs says what is missing for it here; "": nothing.
	Needs func(*run) string
	Do    func(*Scene)
	// Charges is what it has charged besides perf buffers.
	Charges Charges
	program *Program // that it plays; nil: it plays none
}

// Charges are what a scenario has charged besides perf buffers, and the tracer
// watches by probes of their own.
type Charges string

const (
	ChargesNothing Charges = ""
	ChargesObjects Charges = "BPF objects"
	ChargesOthers  Charges = "other chargers"
	ChargesUsers   Charges = "whatever else users are charged for"
)

// Exercises are all scenarios, in the order in which they run.
func Exercises() []Exercise {
	list := perfExercises()
	list = append(list, settingExercises()...)
	list = append(list, auxExercises()...)
	return append(list, chargerExercises()...)
}

// Names are the names of all scenarios.
func Names() (names []string) {
	for _, e := range Exercises() {
		names = append(names, e.Name)
	}
	return names
}

// Choose takes the named ones; without a name, all. An unknown name is an error
// that tells near ones.
func Choose(names []string) ([]Exercise, error) {
	all := Exercises()
	if len(names) == 0 {
		return all, nil
	}
	var list []Exercise
	for _, name := range names {
		found := false
		for _, e := range all {
			if e.Name == name {
				list, found = append(list, e), true
			}
		}
		if !found {
			return nil, fmt.Errorf("%w %q: did you mean %s? (--list lists all)", ErrUnknown, name, strings.Join(near(name, all), ", "))
		}
	}
	return list, nil
}

// near are the names that are closest to a mistyped one.
func near(name string, all []Exercise) []string {
	const most = 3
	var list []string
	for limit := 0; len(list) < most; limit++ {
		for _, e := range all {
			if len(list) < most && distance(name, e.Name) == limit {
				list = append(list, e.Name)
			}
		}
	}
	return list
}

// distance is the number of single-letter edits between two words (Levenshtein);
// a word that the other one contains is near.
func distance(a, b string) int {
	if a != "" && strings.Contains(b, a) {
		return 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// small is a buffer that fits any allowance: eight data pages and the control
// page.
const small = 9

// perfExercises map and unmap perf buffers.
func perfExercises() []Exercise {
	return []Exercise{
		{Name: "map-once", About: "one buffer within the allowance", Do: func(s *Scene) {
			m := s.Process(Who{Name: "mapper", Limit: 64}).Open().Map(small)
			s.Measure()
			m.Unmap()
		}},
		{Name: "straddle-allowance", About: "a buffer that fits the allowance in part", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 64})
			p.Fill(4)
			m := p.Open().Map(small)
			s.Measure()
			p.Release()
			m.Unmap()
		}},
		{Name: "past-allowance", About: "several buffers past the allowance, each charged for itself and not for the history", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 4096})
			p.Fill(2)
			var maps []*Mapping
			for range 5 {
				maps = append(maps, p.Open().Map(small))
			}
			p.Release()
			for _, m := range maps {
				m.Unmap()
			}
		}},
		{Name: "limit-exact", About: "the last page of RLIMIT_MEMLOCK fits, one page more is refused and charges nothing", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 2 * small})
			p.Fill(0)
			p.Open().Map(small)
			last := p.Open().Map(small)
			p.Open().Map(1)
			last.Unmap()
			p.Open().Map(small + 8)
			p.Open().Map(small)
			p.Release()
		}},
		{Name: "limit-lowered", About: "RLIMIT_MEMLOCK lowered below what is mapped: refused, and the refunds are right", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 64})
			p.Fill(0)
			m := p.Open().Map(small)
			p.Limit(4)
			p.Open().Map(1)
			p.Release()
			m.Unmap()
			p.Open().Map(1)
		}},
		{Name: "cap-ipc-lock", About: "CAP_IPC_LOCK lifts the limit, and the charge is the same", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Caps: []string{"cap_ipc_lock"}})
			p.Fill(0)
			m := p.Open().Map(small)
			p.Release()
			m.Unmap()
		}},
		{Name: "cap-missing", About: "every other capability does not lift the limit", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Caps: []string{"cap_sys_admin", "cap_sys_resource", "cap_perfmon", "cap_sys_ptrace"}})
			p.Fill(0)
			p.Open().Map(1)
		}},
		{Name: "cap-user-namespace", About: "CAP_IPC_LOCK in a user namespace of one's own does not lift the limit", Needs: needUserNS, Do: func(s *Scene) {
			opener := s.Process(Who{Name: "opener"})
			p := s.Process(Who{Name: "mapper", UserNS: true})
			for _, size := range sizes(s.model.allowance) {
				opener.Open().Give(p).Map(size)
			}
			opener.Open().Give(p).Map(small)
		}},
		{Name: "map-twice", About: "one event mapped twice is charged once; the first mapping goes first", Do: func(s *Scene) { mapTwice(s, 0) }},
		{Name: "map-twice-reverse", About: "one event mapped twice is charged once; the second mapping goes first", Do: func(s *Scene) { mapTwice(s, 1) }},
		{Name: "map-twice-past-allowance", About: "one event mapped twice, charged to the process", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 64})
			p.Fill(0)
			e := p.Open()
			first, second := e.Map(small), e.Map(small)
			p.Release()
			first.Unmap()
			second.Unmap()
		}},
		{Name: "redirect", About: "events redirected into one buffer are charged once", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 64})
			e := p.Open()
			m := e.Map(small)
			for range 3 {
				p.Open().Redirect(e)
			}
			s.Measure()
			m.Unmap()
		}},
		{Name: "redirect-mapped", About: "a redirected event maps the buffer too (EBUSY since 6.19), and unmaps last", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 64})
			p.Fill(4)
			e, other := p.Open(), p.Open()
			m := e.Map(small)
			other.Redirect(e)
			again := other.Map(small, unix.EBUSY)
			p.Release()
			m.Unmap()
			again.Unmap()
		}},
		{Name: "two-processes-payer-first", About: "two processes map a buffer past the allowance; the one that paid unmaps first", Do: func(s *Scene) { twoProcesses(s, true) }},
		{Name: "two-processes-payer-last", About: "two processes map a buffer past the allowance; the one that paid unmaps last", Do: func(s *Scene) { twoProcesses(s, false) }},
		{Name: "fd-passed", About: "an event is passed on, and only the receiver maps it: the receiver pays", Do: func(s *Scene) {
			opener, p := s.Process(Who{Name: "opener"}), s.Process(Who{Name: "receiver", Limit: 64})
			p.Fill(4)
			e := opener.Open().Give(p)
			opener.Exit()
			m := e.Map(small)
			p.Release()
			m.Unmap()
		}},
		{Name: "fd-passed-opener-exits", About: "a mapped event is passed on and mapped; its opener, who paid from the allowance, exits first", Do: func(s *Scene) { openerExits(s, small) }},
		{Name: "fd-passed-opener-exits-past-allowance", About: "the same past the allowance: the refund is not the receiver's", Do: func(s *Scene) { openerExits(s, 0) }},
		{Name: "exit-mapped", About: "exit with buffers mapped gives all back", Do: func(s *Scene) { ends(s, (*process).Exit) }},
		{Name: "kill-mapped", About: "SIGKILL with buffers mapped gives all back", Do: func(s *Scene) { ends(s, (*process).Kill) }},
		{Name: "exec-mapped", About: "exec with buffers mapped gives all back", Do: func(s *Scene) { ends(s, (*process).Exec) }},
		{Name: "fork-mapped", About: "fork with a buffer mapped: the child has none and pays nothing", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 64})
			p.Fill(4)
			m := p.Open().Map(small)
			p.Fork()
			p.Release()
			m.Unmap()
		}},
		{Name: "partial-unmap", About: "a part of a buffer unmapped: refused, or refunded with the rest (CVE-2025-38563)", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 64})
			p.Fill(4)
			m := p.Open().Map(small)
			m.UnmapPart(1)
			m.UnmapPart(4)
			p.Release()
			m.Unmap()
		}},
		{Name: "remap", About: "mremap moves a buffer: nothing more is charged, and all is refunded", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 64})
			p.Fill(4)
			m := p.Open().Map(small)
			m.Move()
			m.Move()
			p.Release()
			m.Unmap()
		}},
		{Name: "remap-part", About: "mremap of parts of a buffer: refused, or all is refunded in the end", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 64})
			p.Fill(4)
			m := p.Open().Map(small)
			m.MovePart(0, 1)
			m.MovePart(2, 3)
			m.MovePart(1, m.pages-1)
			p.Release()
			m.Unmap()
		}},
		{Name: "remap-resize", About: "mremap to fewer pages is refused, or refunded with the rest; to more it is refused", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 64})
			p.Fill(4)
			m := p.Open().Map(small)
			m.Grow(2*small - 1)
			m.Shrink(5)
			p.Release()
			m.Unmap()
		}},
		{Name: "mirror-map", About: "a buffer mapped twice side by side, over the control page of the second: refused (CVE-2025-38563), or charged once", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 64})
			p.Fill(4)
			first, second := p.Open().Mirror(small)
			p.Release()
			first.Unmap()
			second.Unmap()
		}},
		{Name: "mprotect", About: "mprotect of a buffer, and of a part of it, changes no charge", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 64})
			p.Fill(4)
			m := p.Open().Map(small)
			m.Protect(4)
			m.Protect(small)
			p.Release()
			m.Unmap()
		}},
		{Name: "two-users", About: "each user has an allowance of its own", Do: func(s *Scene) {
			first, second := s.Process(Who{Name: "first", Limit: 64}), s.Process(Who{Name: "second", User: 1, Limit: 64})
			first.Fill(4)
			a := first.Open().Map(small)
			b := second.Open().Map(small)
			s.Measure()
			second.Fill(0)
			c := second.Open().Map(small)
			second.Release()
			first.Release()
			a.Unmap()
			b.Unmap()
			c.Unmap()
		}},
		{Name: "shared-allowance", About: "two processes of one user share its allowance, and not their limits", Do: func(s *Scene) {
			first, second := s.Process(Who{Name: "first", Limit: small}), s.Process(Who{Name: "second", Limit: small})
			first.Fill(0)
			a := second.Open().Map(small)
			first.Open().Map(small)
			second.Open().Map(1)
			first.Release()
			second.Open().Map(small).Unmap()
			a.Unmap()
		}},
		{Name: "threads", About: "many threads map and unmap their own buffers at once, across the allowance's end", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 4096})
			p.Fill(2 * small)
			p.Storm(nil, 4, 10, small)
			// What the threads were charged is gone again: these stay to be seen.
			maps := []*Mapping{p.Open().Map(small), p.Open().Map(small), p.Open().Map(small)}
			p.Release()
			for _, m := range maps {
				m.Unmap()
			}
		}},
		{Name: "race-map-unmap", About: "threads map and unmap one and the same buffer at once (CVE-2026-23248, CVE-2026-89791)", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 4096})
			p.Storm(p.Open(), 4, 10, small)
			s.Measure()
		}},
		{Name: "wrong-geometry", About: "wrong sizes, offsets and flags are refused and charge nothing", Do: wrongGeometry},
		{Name: "too-large", About: "a buffer that the kernel cannot allocate charges nothing", Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: unlimited})
			p.Open().Refused("maps more than any kernel allocates", request{Bytes: uintptr((tooLarge + 1) * page())}, unix.ENOMEM)
			p.Open().Map(small).Unmap()
			s.Measure()
		}},
	}
}

// tooLarge is a number of pages whose list alone is larger than what kmalloc
// gives, with any page size: the allocation fails before it takes memory.
const tooLarge = 1 << 24

func mapTwice(s *Scene, first int) {
	p := s.Process(Who{Name: "mapper", Limit: 64})
	e := p.Open()
	maps := []*Mapping{e.Map(small), e.Map(small)}
	s.Measure()
	maps[first].Unmap()
	maps[1-first].Unmap()
}

func twoProcesses(s *Scene, payerFirst bool) {
	payer, sharer := s.Process(Who{Name: "payer", Limit: 64}), s.Process(Who{Name: "sharer", Limit: 64})
	payer.Fill(0)
	e := payer.Open()
	paid := e.Map(small)
	shared := e.Give(sharer).Map(small)
	payer.Release()
	if payerFirst {
		paid, shared = shared, paid
	}
	shared.Unmap()
	paid.Unmap()
}

// openerExits leaves some pages of the allowance for the buffer.
func openerExits(s *Scene, leave int64) {
	opener, receiver := s.Process(Who{Name: "opener", Limit: 64}), s.Process(Who{Name: "receiver", Limit: 64})
	opener.Fill(leave)
	e := opener.Open()
	e.Map(small)
	m := e.Give(receiver).Map(small)
	opener.Exit()
	s.Measure()
	m.Unmap()
}

// ends lets a process end with a buffer mapped within, across and past the
// allowance.
func ends(s *Scene, end func(*process)) {
	p := s.Process(Who{Name: "mapper", Limit: 64})
	p.Fill(4)
	p.Open().Map(small)
	p.Open().Map(small)
	p.Release()
	end(p)
}

func wrongGeometry(s *Scene) {
	p := s.Process(Who{Name: "mapper", Limit: 64})
	p.Fill(4)
	bytes := uintptr(small * page())
	p.Open().Refused("maps 3 data pages", request{Bytes: uintptr(4 * page())}, unix.EINVAL)
	p.Open().Refused("maps a buffer private", request{Bytes: bytes, Flags: unix.MAP_PRIVATE}, unix.EINVAL)
	p.Open().Refused("maps a buffer at an offset", request{Bytes: bytes, Offset: uintptr(page())}, unix.EINVAL)
	e := p.Open()
	m := e.Map(small)
	e.Refused("maps the buffer with another size", request{Bytes: uintptr(5 * page())}, unix.EINVAL)
	e.Refused("maps an AUX area that was not announced", request{Bytes: uintptr(4 * page()), Offset: bytes}, unix.EINVAL)
	p.Release()
	m.Unmap()
}

// settingExercises change what the accounting depends on between two mappings.
func settingExercises() []Exercise {
	return []Exercise{
		{Name: "paranoid-minus-one", About: "perf_event_paranoid -1 lifts the limit, and the charge is the same", Invasive: true, Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper"})
			p.Fill(0)
			p.Open().Map(1)
			s.during(paranoidPath, "-1", func() { p.Open().Map(small) })
			p.Open().Map(1)
			p.Release()
		}},
		{Name: "sysctl-lowered", About: "perf_event_mlock_kb lowered below what is mapped: the next buffer is charged to the process, no counter underflows", Invasive: true, Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 4096})
			older := p.Open().Map(sizes(max(1, s.model.allowance/4))[0])
			s.during(mlockPath, fmt.Sprint(page()/1024), func() {
				newer := p.Open().Map(small)
				older.Unmap()
				s.Measure()
				newer.Unmap()
			})
		}},
		{Name: "sysctl-raised", About: "perf_event_mlock_kb raised: the next buffer is charged to the user again, and each refund is what its charge was", Invasive: true, Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 4096})
			p.Fill(4)
			older := p.Open().Map(small)
			s.during(mlockPath, fmt.Sprint(2*s.mlockKiB()), func() {
				newer := p.Open().Map(small)
				p.Release()
				older.Unmap()
				newer.Unmap()
			})
		}},
		{Name: "cpu-offline", About: "a CPU goes offline between two mappings: the allowance shrinks, no counter underflows", Invasive: true, Needs: needHotplug, Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 4096})
			p.Fill(4)
			s.during(s.host.hotplug(), "0", func() {
				m := p.Open().Map(small)
				p.Release()
				m.Unmap()
			})
		}},
	}
}

// during changes a setting for some steps, and puts it back.
func (s *Scene) during(path, value string, do func()) {
	if s.written != nil {
		s.written.during(s, path, value, do)
		return
	}
	old := s.setting(path)
	defer func() {
		// Also when a step ended the scenario: the next one wants it as it was.
		s.check(s.host.set(path, old))
		s.refresh()
		s.say("%s is %s again", filepath.Base(path), old)
	}()
	s.check(s.host.set(path, value))
	s.refresh()
	s.say("%s becomes %s", filepath.Base(path), value)
	do()
}

// setting is what a setting of the machine is.
func (s *Scene) setting(path string) string {
	raw, err := os.ReadFile(path)
	s.check(err)
	return strings.TrimSpace(string(raw))
}

// mlockKiB is perf_event_mlock_kb.
func (s *Scene) mlockKiB() (kib int64) {
	if s.written != nil {
		return writtenKiB
	}
	fmt.Sscan(s.setting(mlockPath), &kib)
	return kib
}

// auxExercises map AUX areas.
func auxExercises() []Exercise {
	aux := func(name, about string, do func(*Scene, *Event)) Exercise {
		return Exercise{Name: name, About: about, Needs: needAUX, Do: func(s *Scene) {
			p := s.Process(Who{Name: "mapper", Limit: 4096, AUX: s.run.aux})
			do(s, p.OpenAUX())
		}}
	}
	return []Exercise{
		aux("aux-within-allowance", "an AUX area within the allowance", func(s *Scene, e *Event) {
			data := e.Map(small)
			area := e.MapAUX(data, 8)
			s.Measure()
			area.Unmap()
			s.Measure()
			data.Unmap()
		}),
		aux("aux-straddle-allowance", "an AUX area that fits the allowance in part: both parts come back", func(s *Scene, e *Event) {
			data := e.Map(small)
			e.p.Fill(4)
			area := e.MapAUX(data, 8)
			e.p.Release()
			area.Unmap()
			s.Measure()
			data.Unmap()
		}),
		aux("aux-past-allowance", "an AUX area past the allowance", func(s *Scene, e *Event) {
			data := e.Map(small)
			e.p.Fill(0)
			area := e.MapAUX(data, 8)
			e.p.Release()
			area.Unmap()
			s.Measure()
			data.Unmap()
		}),
		aux("aux-data-first", "the data area goes before its AUX area", func(s *Scene, e *Event) {
			data := e.Map(small)
			e.p.Fill(4)
			area := e.MapAUX(data, 8)
			e.p.Release()
			data.Unmap()
			area.Unmap()
		}),
		aux("aux-too-large", "an AUX area that the kernel cannot allocate charges nothing", func(s *Scene, e *Event) {
			e.p.Limit(unlimited)
			data := e.Map(small)
			e.announce(data, tooLarge)
			e.Refused("maps an AUX area larger than any kernel allocates", request{Bytes: uintptr(tooLarge * page()), Offset: uintptr(small * page())}, unix.ENOMEM, unix.EINVAL)
			s.Measure()
			data.Unmap()
		}),
	}
}

func needUserNS(*run) string {
	raw, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	switch {
	case err != nil:
		return "requires user namespaces (CONFIG_USER_NS)"
	case strings.TrimSpace(string(raw)) == "0":
		return "user.max_user_namespaces is 0"
	}
	return ""
}

func needHotplug(r *run) string {
	if r.host.hotplug() == "" {
		return "requires a second CPU that can go offline (CONFIG_HOTPLUG_CPU)"
	}
	return ""
}

// hotplug is the file that takes the last CPU offline; "": there is none.
func (h *host) hotplug() string {
	found, _ := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/online")
	for i := len(found) - 1; i >= 0; i-- {
		if raw, err := os.ReadFile(found[i]); err == nil && strings.TrimSpace(string(raw)) == "1" && !strings.Contains(found[i], "/cpu0/") {
			return found[i]
		}
	}
	return ""
}

func needAUX(r *run) string {
	if r.aux == 0 {
		return "requires a PMU with an AUX area: " + strings.Join(auxPMUs(), ", ")
	}
	return ""
}

// auxPMUs are PMUs that are known to have an AUX area. arm_spe and intel_bts are
// left out: they refuse events of a single task or need real buffers of their own.
func auxPMUs() []string { return []string{"aux_test", "intel_pt", "cs_etm"} }
