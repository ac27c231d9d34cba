package advice

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/pinwatch/pinwatch/tracer/remedy"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// remedies are the smallest changes that let all buffers of an ask succeed.
func remedies(s rule.Settings, c rule.Caller, ask Ask) []remedy.Remedy {
	list := []remedy.Remedy{}
	add := func(rank int, r *remedy.Remedy) {
		if r != nil {
			r.Rank = rank
			list = append(list, *r)
		}
	}
	add(0, smaller(s, c, ask))
	if tooLarge(s, ask) || beyondMachine(s, ask) {
		return list
	}
	add(1, ownUser(s, c, ask))
	add(2, newProcessRemedy(s, c, ask))
	add(3, limit(s, c, ask))
	capable := remedy.Capability()
	add(5, &capable)
	add(6, allowance(s, c, ask))
	add(7, paranoid())
	return list
}

// tooLarge reports whether the kernel takes no buffer of that size, whatever the limits.
func tooLarge(s rule.Settings, ask Ask) bool {
	if ask.Area == rule.AUX {
		return ask.Pages > rule.LargestAUX(uint64(s.PageSize))
	}
	return ask.Pages-rule.Control(ask.Area) > rule.LargestData(uint64(s.PageSize))
}

// beyondMachine reports whether the machine has not so much memory, whatever the limits.
func beyondMachine(s rule.Settings, ask Ask) bool {
	return ask.Machine > 0 && ask.Pages > ask.Machine/int64(s.PageSize)/max(1, ask.Buffers+ask.Same)
}

// succeed reports whether all buffers of an ask can be mapped.
func succeed(s rule.Settings, c rule.Caller, ask Ask) bool {
	if tooLarge(s, ask) || beyondMachine(s, ask) {
		return false
	}
	done, _ := s.Limits().MapMany(c, ask.Area, ask.Pages, ask.Buffers)
	return done == ask.Buffers
}

// smaller is the largest buffer that fits as often as asked for. Those of the same size
// that are there already are to be as small.
func smaller(s rule.Settings, c rule.Caller, ask Ask) *remedy.Remedy {
	c.UserLocked -= ask.SameUser
	c.PinnedVM -= ask.SamePinned
	ask.Buffers += ask.Same
	ask.Same = 0
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
		brief := "a buffer of " + count(pages, "page")
		if ask.Buffers > 1 {
			brief = "buffers of " + count(pages, "page")
		}
		return &remedy.Remedy{Name: remedy.Smaller, Pages: pages, Brief: brief, Change: "buffers of " + count(pages, "page"),
			Price: "more events are lost in bursts", Shell: what + "; " + option}
	}
	return nil
}

// ownUser helps where others have used the allowance up.
func ownUser(s rule.Settings, c rule.Caller, ask Ask) *remedy.Remedy {
	if c.UserLocked == 0 {
		return nil
	}
	c.UserLocked = 0
	if !succeed(s, c, ask) {
		return nil
	}
	r := remedy.OwnUser("run it as a user that maps no other buffers")
	return &r
}

// newProcessRemedy helps where the process's own counter is in the way.
func newProcessRemedy(s rule.Settings, c rule.Caller, ask Ask) *remedy.Remedy {
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
	return &remedy.Remedy{Name: "new process", Change: change, Price: "the process's other mappings end with it"}
}

// limit raises RLIMIT_MEMLOCK.
func limit(s rule.Settings, c rule.Caller, ask Ask) *remedy.Remedy {
	free := c
	free.LockLimit = rule.Unlimited
	done, last := s.Limits().MapMany(free, ask.Area, ask.Pages, ask.Buffers)
	if done < ask.Buffers {
		return nil // a negative pinned_vm exceeds every limit
	}
	c.LockLimit = last.Locked
	enough := s.Limits().Fits(c, ask.Area, ask.Pages)
	r := remedy.Memlock(last.Locked, s.PageSize, ask.PID, fmt.Sprintf("enough for %s%s", suchBuffers(enough), nextCosts(s, c, ask, enough)))
	r.Buffers = enough
	if s.Accounting.Scheme == rule.SchemeCumulative {
		r.Brief += fmt.Sprintf(", enough for %s", suchBuffers(enough))
	}
	return &r
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

// allowance raises perf_event_mlock_kb.
func allowance(s rule.Settings, c rule.Caller, ask Ask) *remedy.Remedy {
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
	grows := defaultGrows(s, raised, ask)
	return &remedy.Remedy{Name: remedy.Allowance, HostWide: true, Brief: "sysctl " + setting + grows, Pages: raised.UserLockLimit(),
		Change:     fmt.Sprintf("%s: an allowance of %s%s%s", setting, count(raised.UserLockLimit(), "page"), holdsAll(s, c), grows),
		Price:      fmt.Sprintf("host-wide: every user may pin %d KiB × %d CPUs", kib, cpus),
		Shell:      "sysctl -w " + setting,
		Systemd:    setting + " in /etc/sysctl.d/90-perf.conf",
		Docker:     "on the host: it is in no namespace",
		Kubernetes: "on the node: it is in no namespace, and securityContext.sysctls refuses it",
	}
}

// perfDefault is the data pages of the buffers that perf maps unless -m says otherwise: the
// largest power of two that the setting has room for beside a control page
// (tools/perf/util/mmap.c).
func perfDefault(s rule.Settings) int64 {
	bytes := int64(s.MlockKiB)*1024 - int64(s.PageSize)
	return rule.Largest(rule.AUX, bytes/int64(s.PageSize))
}

// defaultGrows says what else takes part of a larger allowance: the default size of perf's
// own buffers, where the buffers have that size, comes from the same setting.
func defaultGrows(before, after rule.Settings, ask Ask) string {
	data := ask.Pages - rule.Control(ask.Area)
	if ask.Area != rule.Data || data != perfDefault(before) || perfDefault(after) == data {
		return ""
	}
	return fmt.Sprintf(" (perf itself: with -m %d, for its default size grows with the setting)", data)
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
func paranoid() *remedy.Remedy {
	const setting = "kernel.perf_event_paranoid=-1"
	return &remedy.Remedy{Name: "perf_event_paranoid", HostWide: true, Change: setting,
		Price:   "host-wide: everybody may pin any amount of memory, and trace the kernel and all users",
		Shell:   "sysctl -w " + setting,
		Systemd: setting + " in /etc/sysctl.d/90-perf.conf",
		Docker:  "on the host: it is in no namespace", Kubernetes: "on the node: it is in no namespace",
	}
}

// endHolder is the smallest holder whose end lets the mappings succeed.
func (x *Explanation) endHolder(s rule.Settings, c rule.Caller) []remedy.Remedy {
	ask := Ask{Area: x.area(), Pages: x.Pages, Buffers: x.Buffers, Machine: x.Machine}
	for _, h := range slices.Backward(x.Holders) {
		freed := c
		freed.UserLocked -= h.UserPart
		if h.PID == x.Subject.PID || h.UserPart <= 0 || !succeed(s, freed, ask) {
			continue
		}
		return []remedy.Remedy{{Name: remedy.End, Pages: h.UserPart, Rank: 4,
			Change: fmt.Sprintf("end process %d, or let it unmap: it holds %s of the allowance", h.PID, count(h.UserPart, "page")),
			Price:  "what that process does", Shell: fmt.Sprintf("kill %d", h.PID)}}
	}
	return nil
}

// geometryRemedies are the sizes next to one that is no power of two.
func geometryRemedies(ask Ask) []remedy.Remedy {
	list := []remedy.Remedy{}
	below := rule.Largest(ask.Area, max(ask.Pages, 2))
	above := below
	if below < ask.Pages {
		above = 2*(below-rule.Control(ask.Area)) + rule.Control(ask.Area)
	}
	for _, pages := range slices.Compact([]int64{below, above}) {
		list = append(list, remedy.Remedy{Name: "size", Pages: pages,
			Change: fmt.Sprintf("a buffer of %s", count(pages, "page"))})
	}
	return list
}

func (x *Explanation) sortRemedies() {
	slices.SortStableFunc(x.Remedies, func(a, b remedy.Remedy) int { return cmp.Compare(a.Rank, b.Rank) })
}

func bytesOf(s rule.Settings, pages int64) int64 { return pages * int64(s.PageSize) }

// count is a number of things in words.
func count(n int64, of string) string { return remedy.Count(n, of) }
