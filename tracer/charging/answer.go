// Package charging explains those that charge locked memory beside perf_mmap(), by the rule
// of each: what a request will be answered, and why one was refused.
//
// All amounts are pages unless a name says otherwise.
package charging

import (
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/remedy"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// Request is what somebody is to be asked for beside perf buffers, before it happens.
type Request struct {
	Charger rule.Charger
	What    string // one of what is asked for, in words
	Pages   int64  // that one asks for
	PID     uint32 // who asks; 0: any new process of UID
	UID     uint32
	Limit   int64 // as in Ask
	Memory  int64 // bytes that the machine has; 0: not known
	// Map is the BPF map that is asked for; nil: something else.
	Map *MapRequest
	// Smaller says what so many pages would be enough for; "": for nothing, or it is not
	// known.
	Smaller func(pages int64) string
}

// MapRequest is a BPF map that is to be created.
type MapRequest struct {
	rule.Map
	On      rule.MapMachine
	Machine int64 // bytes of memory that the machine has
	// Cgroups are the creator's memory cgroup and those above it, from the innermost.
	Cgroups []CgroupRoom
}

// CgroupRoom is a memory cgroup and what it has room for, in bytes.
type CgroupRoom struct {
	Path    string `json:"path"`
	Current int64  `json:"current_bytes"`
	Max     int64  `json:"max_bytes"` // -1: no limit
	V1      bool   `json:"v1"`        // of a hierarchy of v1
}

// Answer is the answer to a Request. Amounts are pages but where a name says
// otherwise.
type Answer struct {
	Version  int            `json:"v"`
	Subject  advice.Subject `json:"subject"`
	Request  string         `json:"request"`
	Charger  string         `json:"charger"`
	Function string         `json:"function"` // of the kernel's, that decides
	Errno    string         `json:"errno"`    // of its refusals
	Waived   bool           `json:"waived"`   // CAP_IPC_LOCK lifts the limit
	Counter  string         `json:"counter"`  // that the request is held against the limit with
	Page     uint32         `json:"page_bytes"`
	Asked    int64          `json:"asked_pages"`
	Held     int64          `json:"held_pages"`
	// Estimated: the counter could not be read.
	Estimated bool  `json:"held_estimated"`
	Limit     int64 `json:"limit_pages"`
	Over      int64 `json:"over_pages"` // negative: so many are left
	// Bytes and Cgroups are of what a memory cgroup is charged; else 0 and empty.
	Bytes   int64        `json:"asked_bytes"`
	Cgroups []CgroupRoom `json:"cgroups"`

	Verdict Verdict `json:"verdict"`
	// Fits is how many such requests succeed, one after the other; -1: any number.
	Fits     int64           `json:"fits"`
	Holders  []UserHolder    `json:"holders"`
	Unowned  int64           `json:"unowned_pages"` // of Held, without a holder that was found
	Remedies []remedy.Remedy `json:"remedies"`
	Source   string          `json:"source"`
	Unknown  []string        `json:"unknown"`
}

// What decides over a request.
const (
	ByMemlock = "RLIMIT_MEMLOCK"
	ByCgroup  = "memory.max"
	BySize    = "size" // the object is larger than the kernel takes
	ByMachine = "the machine's memory"
)

// Verdict is what the kernel says.
type Verdict struct {
	Allowed bool   `json:"allowed"`
	Certain bool   `json:"certain"` // else what could not be seen decides
	Errno   string `json:"errno"`   // "" where allowed
	By      string `json:"by"`      // one of the constants above; "" where allowed
	Why     string `json:"why"`     // in words, where it is not the sum
	Exempt  bool   `json:"exempt"`  // CAP_IPC_LOCK lifts the limit
}

// UserHolder is a process that holds a part of a user's counter.
type UserHolder struct {
	PID   uint32 `json:"pid"`
	Comm  string `json:"comm"`
	What  string `json:"what"` // HolderPerf or HolderRing
	Pages int64  `json:"pages"`
}

// What a holder holds pages with.
const (
	HolderPerf = "perf buffers"
	HolderRing = "io_uring buffers"
)

// Explain answers a request from a snapshot.
func Explain(s *snapshot.Snapshot, facts *snapshot.Facts, r Request) (*Answer, error) {
	caller, uid, err := advice.Caller(s, advice.Ask{PID: r.PID, UID: r.UID, Limit: r.Limit})
	if err != nil {
		return nil, err
	}
	x := &Answer{Version: 1, Subject: advice.SubjectOf(s, r.PID, uid), Request: r.What, Charger: r.Charger.Name, Function: r.Charger.Function,
		Errno: rule.ErrnoName(r.Charger.Errno), Waived: r.Charger.Waived, Counter: r.Charger.Counter.String(), Page: s.PageSize, Asked: r.Pages, Limit: caller.LockLimit,
		Holders: []UserHolder{}, Cgroups: []CgroupRoom{}, Remedies: []remedy.Remedy{}, Unknown: append([]string{}, s.Degraded...), Source: s.Source}
	x.Verdict = Verdict{Allowed: true, Certain: true}
	if note := advice.Assumed(s, advice.Ask{UID: r.UID}); r.PID == 0 && note != "" {
		x.Unknown = append(x.Unknown, note)
	}
	if r.Map != nil && !x.size(r.Map, facts.BPF) {
		return x, nil
	}
	if r.Charger.Counter == rule.CgroupMemory {
		x.cgroups(r.Map)
		return x, nil
	}
	x.hold(s, uid)
	x.charge(s, r, caller)
	x.beyondMachine(r)
	if r.Map != nil && facts.BPF != kernel.BPFRlimit {
		x.Verdict.Certain = false
	}
	return x, nil
}

// size reports whether the kernel takes a map of this size, whatever the limits.
func (x *Answer) size(m *MapRequest, bpf kernel.BPFAccounting) bool {
	errno, by := "E2BIG", BySize
	mem, known := m.Memory(m.On)
	uncounted := known && mem.TooMuchToCharge(m.On.PageSize)
	is := m.Size(m.On, m.Machine)
	why := sizeWords(m.Map, is, mem, m.Machine)
	switch {
	case m.KeyBeyondStack() && bpf == kernel.BPFRlimit:
		why = sizeWords(m.Map, rule.MapKeyTooLarge, mem, m.Machine)
	case uncounted && bpf == kernel.BPFRlimit && (is == rule.MapFits || is == rule.MapLargerThanMachine):
		why = "no map may have 4 GiB on this kernel"
	case is == rule.MapFits:
		return true
	case is == rule.MapPercpuTooLarge:
		errno = "E2BIG or ENOMEM"
	case is == rule.MapLargerThanMachine:
		errno, by = "ENOMEM", ByMachine
		if uncounted && (m.Type == unix.BPF_MAP_TYPE_QUEUE || m.Type == unix.BPF_MAP_TYPE_STACK) {
			errno = "E2BIG or ENOMEM" // 6.12 counts their bytes in 32 bits, 6.1 does not
		}
	}
	x.Verdict = Verdict{Certain: true, Errno: errno, By: by, Why: why + ": no limit has a part in it"}
	return false
}

// sizeWords says what is wrong with a map's size; "": nothing.
func sizeWords(m rule.Map, is rule.MapSize, mem rule.MapMemory, machine int64) string {
	switch is {
	case rule.MapKeyTooLarge:
		return fmt.Sprintf("a key of %s is larger than the kernel takes", remedy.Count(int64(m.KeySize), "byte"))
	case rule.MapValueTooLarge:
		return fmt.Sprintf("a value of %s is larger than the kernel takes", remedy.Count(int64(m.ValueSize), "byte"))
	case rule.MapPercpuTooLarge:
		return fmt.Sprintf("a value of %s is larger than what the kernel allocates for each CPU (32 KiB)", remedy.Count(int64(m.ValueSize), "byte"))
	case rule.MapTooMany:
		return fmt.Sprintf("%s are more than the kernel counts", remedy.Count(int64(m.MaxEntries), "element"))
	case rule.MapLargerThanMachine:
		return fmt.Sprintf("one piece of it has %s, and the machine has %s", remedy.Count(mem.Largest, "byte"), remedy.Count(machine, "byte"))
	}
	return ""
}

// cgroups holds a map against the memory cgroups. The kernel gives back what it can, such
// as a page cache, before it refuses: only what is larger than a limit is certain.
func (x *Answer) cgroups(m *MapRequest) {
	x.Limit, x.Fits = rule.Unlimited, rule.NoLimit
	mem, known := m.Memory(m.On)
	if !known {
		x.Verdict.Certain = false
		x.Unknown = append(x.Unknown, "what a map of this type takes")
		return
	}
	x.Bytes, x.Cgroups = mem.Created, append(x.Cgroups, m.Cgroups...)
	if mem.Full > mem.Created {
		x.Unknown = append(x.Unknown, fmt.Sprintf("how much it comes to: %s when it is created, %s with all of its elements, which are charged as they come", remedy.Count(mem.Created, "byte"), remedy.Count(mem.Full, "byte")))
	}
	for _, g := range m.Cgroups {
		if g.Max < 0 {
			continue
		}
		room := g.Max - g.Current
		if fits := room / max(1, x.Bytes); x.Fits < 0 || fits < x.Fits {
			x.Fits = max(0, fits)
		}
		if x.Bytes <= room || !x.Verdict.Allowed && x.Verdict.Certain {
			continue
		}
		usage, limit := cgroup.MemoryFiles(g.V1)
		x.Verdict = Verdict{Errno: x.Errno, By: ByCgroup, Certain: x.Bytes > g.Max,
			Why: fmt.Sprintf("%s of %s is %s, and with the map %s: more than %s, %s", usage, g.Path, remedy.Count(g.Current, "byte"), remedy.Count(g.Current+x.Bytes, "byte"), limit, remedy.Count(g.Max, "byte"))}
		if !x.Verdict.Certain {
			x.Verdict.Why += "; the kernel frees what it can (page cache) before it refuses"
		}
		x.Remedies = append(x.Remedies, remedy.MemoryMax(g.Path, g.V1, g.Current+x.Bytes))
	}
}

// HoldersOf is who holds a user's locked_vm, in an answer to nothing else.
func HoldersOf(s *snapshot.Snapshot, uid uint32) *Answer {
	x := &Answer{Subject: advice.Subject{UID: uid, OutsideUID: -1}, Page: s.PageSize}
	x.hold(s, uid)
	return x
}

// hold finds who holds the user's counter.
func (x *Answer) hold(s *snapshot.Snapshot, uid uint32) {
	u, ok := s.User(uid)
	separate := s.SplitCounter || s.Accounting.Separate
	var rings int64
	if !separate {
		for _, h := range advice.Holders(s, uid) {
			x.Holders = append(x.Holders, UserHolder{h.PID, h.Comm, HolderPerf, h.UserPart})
		}
	}
	for _, ring := range s.IOUring {
		if p, ok := s.Process(ring.PID); ok && p.UID == uid && ring.Pages > 0 && !p.CapIPCLock {
			x.Holders = append(x.Holders, UserHolder{p.PID, p.Comm, HolderRing, ring.Pages})
			rings += ring.Pages
		}
	}
	slices.SortStableFunc(x.Holders, func(a, b UserHolder) int { return cmp.Compare(b.Pages, a.Pages) })
	x.Estimated = s.Source == snapshot.SourceProc || ok && !u.Known
	switch {
	case ok && u.Known:
		x.Held = u.LockedVM
	case separate:
		x.Held = rings
	case ok:
		x.Held = u.PerfLocked + rings
	}
	x.Unowned = x.Held
	for _, h := range x.Holders {
		x.Unowned -= h.Pages
	}
	if x.Estimated {
		x.Unknown = append(x.Unknown, "locked_vm of the user: it cannot be read here, and AF_XDP, MSG_ZEROCOPY and BPF objects before Linux 5.11 are not in the estimate")
	}
}

// charge holds the request against RLIMIT_MEMLOCK.
func (x *Answer) charge(s *snapshot.Snapshot, r Request, caller rule.Caller) {
	c := rule.Charge{Asked: r.Pages, Held: x.Held, Limit: caller.LockLimit, Exempt: r.Charger.Waived && caller.CapIPCLock}
	x.Over, x.Fits = c.Over(), c.Fits()
	x.Verdict.Exempt = c.Exempt
	x.Verdict.Certain = !x.Estimated || c.Exempt
	if !c.Refused() {
		return
	}
	x.Verdict.Allowed, x.Verdict.Errno, x.Verdict.By = false, rule.ErrnoName(r.Charger.Errno), ByMemlock
	x.Verdict.Certain = x.Verdict.Certain || r.Pages > c.Limit // whatever else is held
	x.Remedies = chargeRemedies(c, r, x.Holders, s.PageSize)
}

// beyondMachine doubts what would need more memory than the machine has, and leaves of the
// remedies what needs less.
func (x *Answer) beyondMachine(r Request) {
	if r.Map != nil || r.Memory == 0 || r.Pages <= r.Memory/int64(x.Page) {
		return
	}
	x.Unknown = append(x.Unknown, fmt.Sprintf("where the memory is to come from: %s are asked for, and the machine has %s", remedy.Count(r.Pages*int64(x.Page), "byte"), remedy.Count(r.Memory, "byte")))
	x.Verdict.Certain = x.Verdict.Certain && !x.Verdict.Allowed
	x.Remedies = slices.DeleteFunc(x.Remedies, func(r remedy.Remedy) bool { return r.Name != remedy.SmallerRequest })
}

// chargeRemedies are the smallest changes that let a refused request succeed. Each is held
// against the rule first.
func chargeRemedies(c rule.Charge, r Request, holders []UserHolder, pageSize uint32) (list []remedy.Remedy) {
	add := func(rank int, one remedy.Remedy) {
		one.Rank = rank
		list = append(list, one)
	}
	with := func(change func(*rule.Charge)) bool {
		changed := c
		change(&changed)
		return !changed.Refused()
	}
	if room := c.Limit - max(0, c.Held); r.Smaller != nil && c.Held >= 0 && room > 0 && room < c.Asked {
		if what := r.Smaller(room); what != "" {
			add(0, remedy.Remedy{Name: remedy.SmallerRequest, Change: what, Price: "less at a time", Pages: room, Brief: what})
		}
	}
	if r.Charger.Counter == rule.UserLockedVM && c.Held != 0 && with(func(c *rule.Charge) { c.Held = 0 }) {
		add(1, remedy.OwnUser("run it as a user who holds nothing else"))
	}
	need := c.Suffices(1)
	if with(func(c *rule.Charge) { c.Limit = need }) {
		add(3, remedy.Memlock(need, pageSize, r.PID, "enough for this one"))
	}
	for _, h := range slices.Backward(holders) {
		if h.PID == r.PID || h.Pages <= 0 || !with(func(c *rule.Charge) { c.Held -= h.Pages }) {
			continue
		}
		add(4, remedy.Remedy{Name: remedy.End, Pages: h.Pages, Price: "what that process does", Shell: fmt.Sprintf("kill %d", h.PID), Brief: fmt.Sprintf("%s fewer of %s of process %d", remedy.Count(c.Over(), "page"), h.What, h.PID),
			Change: fmt.Sprintf("end process %d, or let it give back %s: it holds %s with %s", h.PID, remedy.Count(c.Over(), "page"), remedy.Count(h.Pages, "page"), h.What)})
		break
	}
	if r.Charger.Waived {
		add(5, remedy.Capability())
	}
	slices.SortStableFunc(list, func(a, b remedy.Remedy) int { return cmp.Compare(a.Rank, b.Rank) })
	return list
}

// CgroupsOf are a process's memory cgroup and those above it, from the innermost.
func CgroupsOf(tree *cgroup.Tree, path string) (list []CgroupRoom) {
	for ; path != ""; path = above(path) {
		m, err := tree.Memory(path)
		if err != nil {
			continue // the root of v2 has no limit
		}
		g := CgroupRoom{Path: path, Current: m.Current, Max: -1, V1: m.V1}
		if m.Max < cgroup.Unlimited {
			g.Max = m.Max
		}
		list = append(list, g)
	}
	return list
}

func above(path string) string {
	if path == "/" {
		return ""
	}
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			return path[:i]
		}
	}
	return "/"
}
