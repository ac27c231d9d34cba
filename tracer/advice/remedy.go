package advice

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Remedy is one change that lets the mappings succeed, with the exact setting.
// A setting is "" where it has no place there.
type Remedy struct {
	Name       string `json:"name"`
	Change     string `json:"change"`
	Price      string `json:"price"`
	HostWide   bool   `json:"host_wide"`
	Pages      int64  `json:"pages"`   // what the setting is to be: of a limit, of a buffer; 0 where it has none
	Buffers    int64  `json:"buffers"` // for how many such buffers a limit is enough; 0 where that is no question
	Shell      string `json:"shell"`
	Systemd    string `json:"systemd"`
	Docker     string `json:"docker"`
	Kubernetes string `json:"kubernetes"`

	brief string // the setting alone, for a row's note; "" where a row has no room for it
	rank  int    // small changes first
}

// The names of the remedies that a row's note has room for.
const (
	nameMemlock    = "RLIMIT_MEMLOCK"
	nameAllowance  = "perf_event_mlock_kb"
	nameCapability = "CAP_IPC_LOCK"
	nameSmaller    = "smaller buffer"
)

// remedies are the smallest changes that let all buffers of an ask succeed.
func remedies(s rule.Settings, c rule.Caller, ask Ask) []Remedy {
	list := []Remedy{}
	add := func(rank int, r *Remedy) {
		if r != nil {
			r.rank = rank
			list = append(list, *r)
		}
	}
	add(0, smaller(s, c, ask))
	add(1, ownUser(s, c, ask))
	add(2, newProcessRemedy(s, c, ask))
	add(3, limit(s, c, ask))
	add(5, capability())
	add(6, allowance(s, c, ask))
	add(7, paranoid())
	return list
}

// succeed reports whether all buffers of an ask can be mapped.
func succeed(s rule.Settings, c rule.Caller, ask Ask) bool {
	done, _ := s.Limits().MapMany(c, ask.Area, ask.Pages, ask.Buffers)
	return done == ask.Buffers
}

// smaller is the largest buffer that fits as often as asked for.
func smaller(s rule.Settings, c rule.Caller, ask Ask) *Remedy {
	for pages := rule.Largest(ask.Area, ask.Pages-1); pages > 1; pages = rule.Largest(ask.Area, pages-1) {
		ask.Pages = pages
		if !succeed(s, c, ask) {
			continue
		}
		bytes := bytesOf(s, pages-rule.Control(ask.Area))
		what := fmt.Sprintf("mmap of %d pages: %d bytes of data and the control page", pages, bytes)
		option := fmt.Sprintf("perf record --mmap-pages=%d", pages-1)
		if ask.Area == rule.AUX {
			what = fmt.Sprintf("mmap of %d pages: %d bytes", pages, bytes)
			option = fmt.Sprintf("perf record --mmap-pages=,%d", pages)
		}
		return &Remedy{Name: nameSmaller, Pages: pages, brief: "a buffer of " + count(pages, "page"), Change: "buffers of " + count(pages, "page"),
			Price: "more events are lost in bursts", Shell: what + "; " + option}
	}
	return nil
}

// ownUser helps where others have used the allowance up.
func ownUser(s rule.Settings, c rule.Caller, ask Ask) *Remedy {
	if c.UserLocked == 0 {
		return nil
	}
	c.UserLocked = 0
	if !succeed(s, c, ask) {
		return nil
	}
	return &Remedy{Name: "user of its own", Change: "run it as a user that maps no other buffers",
		Price:   "another uid's rights to files and processes",
		Shell:   "setpriv --reuid UID --regid GID --clear-groups COMMAND",
		Systemd: "DynamicUser=yes, or User=NAME", Docker: "--user UID:GID",
		Kubernetes: "securityContext: {runAsUser: UID}"}
}

// newProcessRemedy helps where the process's own counter is in the way.
func newProcessRemedy(s rule.Settings, c rule.Caller, ask Ask) *Remedy {
	if c.PinnedVM == 0 {
		return nil
	}
	change := "map them in another process: pinned_vm is counted for each"
	if c.PinnedVM < 0 {
		change = "restart the process: its pinned_vm is negative, by refunds that were another process's"
	}
	c.PinnedVM = 0
	if !succeed(s, c, ask) {
		return nil
	}
	return &Remedy{Name: "new process", Change: change, Price: "the process's other mappings end with it"}
}

// limit raises RLIMIT_MEMLOCK.
func limit(s rule.Settings, c rule.Caller, ask Ask) *Remedy {
	free := c
	free.LockLimit = rule.Unlimited
	done, last := s.Limits().MapMany(free, ask.Area, ask.Pages, ask.Buffers)
	if done < ask.Buffers {
		return nil // a negative pinned_vm exceeds every limit
	}
	bytes := bytesOf(s, last.Locked)
	c.LockLimit = last.Locked
	enough := s.Limits().Fits(c, ask.Area, ask.Pages)
	r := &Remedy{Name: nameMemlock, Pages: last.Locked, Buffers: enough,
		Change:     fmt.Sprintf("RLIMIT_MEMLOCK of %d bytes (%s): enough for %s%s", bytes, count(last.Locked, "page"), suchBuffers(enough), nextCosts(s, c, ask, enough)),
		Price:      "this process may pin so much; not host-wide. Beyond the hard limit it takes CAP_SYS_RESOURCE",
		Shell:      fmt.Sprintf("ulimit -l %d", (bytes+1023)/1024),
		Systemd:    fmt.Sprintf("LimitMEMLOCK=%d", bytes),
		Docker:     fmt.Sprintf("--ulimit memlock=%d:%d", bytes, bytes),
		Kubernetes: fmt.Sprintf("pods have no field for it. On the node, CRI-O: default_ulimits = [\"memlock=%d:%d\"]; containerd: LimitMEMLOCK=%d in containerd.service", bytes, bytes, bytes),
	}
	r.brief = r.Shell + " (KiB)"
	if s.Accounting.Scheme == rule.SchemeCumulative {
		r.brief += fmt.Sprintf(", enough for %s", suchBuffers(enough))
	}
	if ask.PID != 0 {
		r.Shell = fmt.Sprintf("prlimit --pid %d --memlock=%d (now), or %s (before it starts)", ask.PID, bytes, r.Shell)
	}
	return r
}

// nextCosts says what each call after those that a limit is enough for takes of it, where
// that is more than its own pages.
func nextCosts(s rule.Settings, c rule.Caller, ask Ask, enough int64) string {
	const many = 1 << 16 // then the next one is one of many
	if s.Accounting.Scheme != rule.SchemeCumulative || enough < 0 || enough > many {
		return ""
	}
	c.LockLimit = rule.Unlimited
	ask.Buffers = enough + 1
	if next := try(s.Limits(), c, ask).last.Extra; next > ask.Pages {
		return fmt.Sprintf("; this kernel takes %s of it for the next one, and more for each after that", count(next, "page"))
	}
	return ""
}

func suchBuffers(n int64) string {
	return fmt.Sprintf("%d such buffer%s", n, map[bool]string{false: "s"}[n == 1])
}

// capability lifts the limit.
func capability() *Remedy {
	return &Remedy{Name: nameCapability, brief: "CAP_IPC_LOCK (effective, initial user namespace)", Change: "CAP_IPC_LOCK, effective, in the initial user namespace",
		Price:      "the process may pin any amount of memory; not host-wide. In a user namespace of its own it does not count",
		Shell:      "setcap cap_ipc_lock+ep PROGRAM, or setpriv --inh-caps +ipc_lock --ambient-caps +ipc_lock COMMAND",
		Systemd:    "AmbientCapabilities=CAP_IPC_LOCK",
		Docker:     "--cap-add IPC_LOCK (effective for uid 0; else with file capabilities; without userns-remap)",
		Kubernetes: `securityContext: {capabilities: {add: ["IPC_LOCK"]}} (effective for uid 0; else with file capabilities; not with hostUsers: false)`,
	}
}

// allowance raises perf_event_mlock_kb.
func allowance(s rule.Settings, c rule.Caller, ask Ask) *Remedy {
	room := c.LockLimit - c.PinnedVM
	if c.UserLocked < 0 || c.PinnedVM < 0 || room < 0 {
		return nil // more allowance does not help
	}
	if s.Accounting.Scheme == rule.SchemeCumulative {
		room = 0 // hold all that the user has: past it each call costs that
	}
	need := c.UserLocked + ask.Pages*ask.Buffers - room
	cpus := int64(s.OnlineCPUs)
	kib := (need + cpus - 1) / cpus * (int64(s.PageSize) / 1024)
	raised := s
	raised.MlockKiB = int(kib)
	if kib > math.MaxInt32 || !succeed(raised, c, ask) {
		return nil
	}
	setting := fmt.Sprintf("kernel.perf_event_mlock_kb=%d", kib)
	return &Remedy{Name: nameAllowance, HostWide: true, brief: "sysctl " + setting, Pages: raised.UserLockLimit(),
		Change:     fmt.Sprintf("%s: an allowance of %s%s", setting, count(raised.UserLockLimit(), "page"), holdsAll(s, c)),
		Price:      fmt.Sprintf("host-wide: every user may pin %d KiB × %d CPUs", kib, cpus),
		Shell:      "sysctl -w " + setting,
		Systemd:    setting + " in /etc/sysctl.d/90-perf.conf",
		Docker:     "on the host: it is in no namespace",
		Kubernetes: "on the node: it is in no namespace, and securityContext.sysctls refuses it",
	}
}

// holdsAll says why an allowance is as large as it is, where a smaller one would cost the
// history.
func holdsAll(s rule.Settings, c rule.Caller) string {
	if s.Accounting.Scheme != rule.SchemeCumulative {
		return ""
	}
	return fmt.Sprintf(", which holds the %s of the user and the new ones: this kernel charges no history to a process then", count(c.UserLocked, "page"))
}

// paranoid lifts the limit for everybody.
func paranoid() *Remedy {
	const setting = "kernel.perf_event_paranoid=-1"
	return &Remedy{Name: "perf_event_paranoid", HostWide: true, Change: setting,
		Price:   "host-wide: everybody may pin any amount of memory, and trace the kernel and all users",
		Shell:   "sysctl -w " + setting,
		Systemd: setting + " in /etc/sysctl.d/90-perf.conf",
		Docker:  "on the host: it is in no namespace", Kubernetes: "on the node: it is in no namespace",
	}
}

// endHolder is the smallest holder whose end lets the mappings succeed.
func (x *Explanation) endHolder(s rule.Settings, c rule.Caller) []Remedy {
	ask := Ask{Area: x.area(), Pages: x.Pages, Buffers: x.Buffers}
	for _, h := range slices.Backward(x.Holders) {
		freed := c
		freed.UserLocked -= h.UserPart
		if h.PID == x.Subject.PID || h.UserPart <= 0 || !succeed(s, freed, ask) {
			continue
		}
		return []Remedy{{Name: "end a holder", Pages: h.UserPart, rank: 4,
			Change: fmt.Sprintf("end process %d, or let it unmap: it holds %s of the allowance", h.PID, count(h.UserPart, "page")),
			Price:  "what that process does", Shell: fmt.Sprintf("kill %d", h.PID)}}
	}
	return nil
}

// geometryRemedies are the sizes next to one that is no power of two.
func geometryRemedies(ask Ask) []Remedy {
	list := []Remedy{}
	below := rule.Largest(ask.Area, max(ask.Pages, 2))
	above := below
	if below < ask.Pages {
		above = 2*(below-rule.Control(ask.Area)) + rule.Control(ask.Area)
	}
	for _, pages := range slices.Compact([]int64{below, above}) {
		list = append(list, Remedy{Name: "size", Pages: pages,
			Change: fmt.Sprintf("a buffer of %s", count(pages, "page"))})
	}
	return list
}

func (x *Explanation) sortRemedies() {
	slices.SortStableFunc(x.Remedies, func(a, b Remedy) int { return cmp.Compare(a.rank, b.rank) })
}

func bytesOf(s rule.Settings, pages int64) int64 { return pages * int64(s.PageSize) }

func count(n int64, of string) string {
	if n == 1 {
		return "1 " + of
	}
	if strings.HasSuffix(of, "s") {
		of += "e"
	}
	return fmt.Sprintf("%d %ss", n, of)
}
