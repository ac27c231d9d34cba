//go:build guest

package tracer_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// saying is what must be said of a provocation.
type saying struct {
	refuse  string
	errno   unix.Errno // 0: this kernel does not refuse
	outcome string
	says    []string
	never   []string
	// exact: the limit that is offered is the smallest one.
	exact bool
	// advice is what explain -- COMMAND says, where that has another form than a row.
	advice []string
}

// sayings are those of a kernel.
func sayings(k guesttest.Kernel) []saying {
	sends := 64 / k.PageKiB() // the limit, in pages
	list := []saying{
		{"perf-limit", unix.EPERM, "limit", []string{"extra 3581", "1533 pages (6.0 MiB) over", "on each of 4 CPUs", "ulimit -l 63488", "perf_event_mlock_kb=14340", "buffers of 513 pages"}, nil, true,
			[]string{"RLIMIT_MEMLOCK is exceeded by 1533 pages", "on each of 4 CPUs", "ulimit -l 63488", "kernel.perf_event_mlock_kb=14340", "buffers of 513 pages"}},
		{"perf-second-profile", unix.EPERM, "limit", []string{"pinned_vm 0 + extra 129", "on each of 4 CPUs", "ulimit -l 2064", "perf_event_mlock_kb=1016,"}, nil, true,
			[]string{"RLIMIT_MEMLOCK is exceeded by 113 pages", "on each of 4 CPUs", "ulimit -l 2064", "perf_event_mlock_kb=1016:"}},
		{"perf-containers", unix.EPERM, "limit", []string{"on each of 4 CPUs", "ulimit -l 1040", "CAP_IPC_LOCK"}, []string{"BPF"}, true,
			[]string{"on each of 4 CPUs", "ulimit -l 1040", "CAP_IPC_LOCK"}},
		{"perf-inherited", unix.EINVAL, "other_rule", []string{"bound to no CPU takes no buffer"}, []string{"power of two", "Remedies"}, false, nil},
		{"perf-private", unix.EINVAL, "other_rule", []string{"MAP_SHARED"}, []string{"power of two"}, false, nil},
		{"perf-size", unix.EINVAL, "other_rule", []string{"a power of two of data pages", "8 pages"}, []string{"inherited"}, false, nil},
		{"perf-other-size", unix.EINVAL, "other_rule", []string{"it has 9 pages, and 5 pages were asked for"}, []string{"power of two"}, false, nil},
		{"perf-largest", unix.ENOMEM, "other_rule", []string{fmt.Sprintf("more than %d data pages", map[int64]int{4: 1 << 18, 16: 1 << 21}[k.PageKiB()])}, []string{"found no memory", "Remedies"}, false, nil},
		{"aux-no-data", unix.EINVAL, "other_rule", []string{"goes with a data area"}, nil, false, nil},
		{"aux-unset", unix.EINVAL, "other_rule", []string{"aux_offset is 0 bytes"}, nil, false, nil},
		{"aux-unsupported", unix.EOPNOTSUPP, "other_rule", []string{"has no AUX areas"}, nil, false, nil},
		{"aux-limit", unix.EPERM, "limit", []string{"501 pages (2.0 MiB) over", "the event's PMU has no AUX areas"}, []string{"Remedies"}, false,
			[]string{"RLIMIT_MEMLOCK is exceeded by 501 pages", "the event's PMU has no AUX areas"}},
		{"send-limit", unix.ENOBUFS, "limit", []string{fmt.Sprintf("0 pages + %d pages = %[1]d pages > %d pages, over by 1 page", sends+1, sends), fmt.Sprintf("ulimit -l %d", 4*(sends+1)), fmt.Sprintf("sends of at most %d bytes", 64<<10-k.PageKiB()<<10-1)}, []string{"optmem_max", "another uid", "if it asked"}, true, nil},
		{"send-outstanding", unix.ENOBUFS, "limit", []string{fmt.Sprintf("%d pages + %[1]d pages = %d pages > %d pages", sends/2+1, sends+2, sends)}, []string{"optmem_max", "another uid"}, true, nil},
		{"umem-limit", unix.ENOBUFS, "limit", []string{"0 pages + 17 pages = 17 pages > 16 pages", "ulimit -l 68", "a umem of at most 16 pages"}, nil, true, nil},
		{"map-capability", unix.EPERM, "other_rule", []string{"it takes CAP_BPF"}, []string{"MEMLOCK may be", "Remedies"}, false, nil},
		{"map-machine", unix.ENOMEM, "no_memory", []string{"larger than the machine"}, []string{"at its limit", "Remedies"}, false, nil},
	}
	other := func(old, since string, oldCase, newCase saying) {
		if k.Before(since) {
			oldCase.refuse = old
			list = append(list, oldCase)
			return
		}
		newCase.refuse = old
		list = append(list, newCase)
	}
	percpu := saying{errno: unix.ENOMEM, outcome: "other_rule", says: []string{"32 KiB at most"}, never: []string{"at its limit", "Remedies", "one of these"}}
	later := percpu
	later.errno = unix.E2BIG
	other("map-percpu", "6.1", percpu, later)
	other("map-rlimit", "5.11", saying{errno: unix.EPERM, outcome: "limit", says: []string{"11 pages + 11 pages = 22 pages > 16 pages", "Of the 11 held, 11 are BPF objects that process", "ulimit -l 88", "no capability lifts this limit"}, never: []string{"another uid", "CAP_IPC_LOCK"}, exact: true}, saying{})
	other("update-cgroup", "5.11", saying{}, saying{errno: unix.ENOMEM, outcome: "limit", says: []string{"a memory cgroup ", "/pinwatch-refuse", "memory.max"}, never: []string{"RLIMIT_MEMLOCK"}})
	other("update-outside-cgroup", "5.11", saying{}, saying{errno: unix.ENOMEM, outcome: "limit", says: []string{"a memory cgroup ", "; it is /pinwatch-refuse", "memory.max"}, never: []string{"RLIMIT_MEMLOCK"}})
	other("map-cgroup", "5.11", saying{}, saying{errno: unix.ENOMEM, outcome: "limit", says: []string{"a memory cgroup ", "/pinwatch-refuse", "memory.max"}, never: []string{"RLIMIT_MEMLOCK"}})
	list = append(list, ringSayings(k)...)
	for i := range list {
		inPagesOf(k, list[i].says)
		inPagesOf(k, list[i].advice)
	}
	return list
}

var (
	limitSaid  = regexp.MustCompile(`(ulimit -l |mlock_kb=)(\d+)`)
	amountSaid = regexp.MustCompile(`(\d+) pages \(\S+ MiB\)`)
)

// inPagesOf makes KiB and MiB that were written for pages of 4 KiB those of a kernel's pages.
func inPagesOf(k guesttest.Kernel, words []string) {
	for i := range words {
		words[i] = limitSaid.ReplaceAllStringFunc(words[i], func(said string) string {
			of := limitSaid.FindStringSubmatch(said)
			kib, _ := strconv.ParseInt(of[2], 10, 64)
			return of[1] + fmt.Sprint(kib*k.PageKiB()/4)
		})
		words[i] = amountSaid.ReplaceAllStringFunc(words[i], func(said string) string {
			pages, _ := strconv.ParseInt(amountSaid.FindStringSubmatch(said)[1], 10, 64)
			return fmt.Sprintf("%d pages (%.1f MiB)", pages, float64(pages*k.PageKiB())/1024)
		})
	}
}

// ringSayings are those of io_uring, which each kernel charges otherwise.
func ringSayings(k guesttest.Kernel) []saying {
	charges := !k.Before("6.16") && k.Before("7.2")
	apart, unseen := k.Series == "7.3" || k.Upstream() == "6.12", k.ComparesInline()
	ring := saying{refuse: "ring-limit"}
	if charges {
		ring = saying{"ring-limit", unix.ENOMEM, "limit", []string{"476 pages + 1 page = 477 pages > 128 pages", "476 are perf buffers of process", "allowance lets it have beyond the limit",
			"another uid", "ulimit -l 1912", "350 pages fewer of perf buffers", "CAP_IPC_LOCK"}, []string{"if it asked", "one of these"}, true, nil}
	}
	perf := saying{refuse: "buffers-perf"}
	limits := saying{"buffers-limit", unix.ENOMEM, "limit", []string{"16 pages + 2 pages = 18 pages > 16 pages", "not aligned touches one page more", "ulimit -l 72"}, []string{"another uid", "one of these"}, true, nil}
	hugePages := hugePages(k)
	huge := saying{"buffers-huge", unix.ENOMEM, "limit", []string{fmt.Sprintf("0 pages + %d pages = %[1]d pages > 256 pages", hugePages), "a huge page counts whole", fmt.Sprintf("ulimit -l %d", 4*hugePages)}, []string{"one of these"}, true, nil}
	sum := "476 pages + 1 page = 477 pages > 128 pages"
	switch {
	case unseen && charges:
		limits.says, limits.never = []string{"2 pages + 18 pages = 20 pages > 16 pages", "ulimit -l 80"}, nil
		huge.says, huge.outcome, huge.never, huge.exact = []string{"a huge page counts whole"}, "unknown", []string{"did not refuse"}, false
	case unseen:
		sum = "476 pages + 7 pages = 483 pages > 128 pages"
		limits.says, limits.outcome, limits.never = []string{"0 pages + 18 pages = 18 pages > 16 pages", "ulimit -l 72"}, "limit", nil
		huge.says, huge.outcome, huge.never, huge.exact = []string{"a huge page counts whole"}, "unknown", []string{"did not refuse"}, false
	case charges:
		limits.says, huge.says = []string{"> 16 pages", "ulimit -l 80"}, []string{"> 256 pages", fmt.Sprintf("ulimit -l %d", 4*hugePages+8)}
	}
	if !apart && !charges {
		perf = saying{"buffers-perf", unix.ENOMEM, "limit", []string{sum, "476 are perf buffers of process", "ulimit -l 1932"}, nil, true, nil}
	}
	setup := saying{"ring-cgroup", unix.ENOMEM, "limit", []string{"a memory cgroup ", "; it is /pinwatch-refuse", "RLIMIT_MEMLOCK did not refuse: the caller has CAP_IPC_LOCK"}, []string{"if it asked", "ulimit", "one of these"}, false, nil}
	split, over := saying{refuse: "perf-split-unmap"}, saying{refuse: "perf-split-map"}
	if k.Series != "5.10" {
		split = saying{"perf-split-unmap", unix.EINVAL, "other_rule", []string{"does not let a perf buffer's mapping be split", "no limit has a part in it"}, nil, false, nil}
		over = split
		over.refuse, over.says = "perf-split-map", append(over.says, "side by side")
	}
	if k.Series == "6.1" {
		over.errno, over.says = unix.ENOMEM, append(over.says, "or ENOMEM")
	}
	tagged := saying{"buffers-tagged", unix.ENOMEM, "limit", []string{"pages > 16 pages"}, []string{"another uid", "one of these", "32 buffers"}, true, nil}
	if !unseen {
		tagged.says = append(tagged.says, "if all 2 buffers are like the refused one")
	}
	list := []saying{ring, limits, tagged, huge, setup, split, over}
	if !charges { // where the ring is refused already
		list = append(list, perf)
	}
	return list
}

// last is the attempt that decided.
func last(t *testing.T, r guesttest.Result) workload.Attempt {
	t.Helper()
	attempts := lines[workload.Attempt](t, r.Stdout)
	if r.Code != 0 || len(attempts) == 0 {
		t.Fatalf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	return attempts[len(attempts)-1]
}

func (s saying) check(t *testing.T, r guesttest.Result, refusals []ledger.Entry) {
	if got := unix.Errno(last(t, r).Errno); got != s.errno {
		t.Errorf("%v; want %v\n%s", got, s.errno, r.Stdout)
	}
	if len(refusals) == 0 {
		if s.errno != 0 {
			t.Error("it has no row")
		}
		return
	}
	e := &refusals[len(refusals)-1]
	shown := row.Of(e)
	note := output.Explain(&shown)
	t.Log(note)
	if s.errno == 0 {
		t.Error("it was not refused")
		return
	}
	if outcome := charging.OfRefusal(e).Outcome.String(); outcome != s.outcome || len(refusals) != 1 {
		t.Errorf("%d rows, %s; want 1, %s", len(refusals), outcome, s.outcome)
	}
	for _, words := range s.says {
		if !strings.Contains(note, words) {
			t.Errorf("does not say %q", words)
		}
	}
	for _, words := range s.never {
		if strings.Contains(note, words) {
			t.Errorf("says %q", words)
		}
	}
	_, remedies, offered := strings.Cut(note, "Remedies")
	if offered {
		s.apply(t, e, remedies)
	} else if s.exact {
		t.Error("no remedy is offered")
	}
}

var (
	limitOffered   = regexp.MustCompile(`ulimit -l (\d+)`)
	settingOffered = regexp.MustCompile(`kernel\.perf_event_mlock_kb=(\d+)`)
	sizeOffered    = regexp.MustCompile(`a? ?buffers? of (\d+) pages`)
	sendOffered    = regexp.MustCompile(`sends of at most (\d+) bytes`)
	memoryOffered  = regexp.MustCompile(`memory\.max (\d+) of`)
	umemOffered    = regexp.MustCompile(`a umem of at most (\d+) pages`)
)

// mapCgroupLeft is what the cgroup has left, in bytes, where an array of 16 MiB is provoked.
const mapCgroupLeft = 8 << 20

// apply applies each of the remedies that are offered.
func (s saying) apply(t *testing.T, e *ledger.Entry, remedies string) {
	number := func(of *regexp.Regexp) (n int) {
		if found := of.FindStringSubmatch(remedies); found != nil {
			fmt.Sscan(found[1], &n)
		}
		return n
	}
	page := int(e.PageSize)
	if kib := number(limitOffered); kib > 0 {
		s.succeeds(t, "--memlock-kib", fmt.Sprint(kib))
		if got := s.again(t, "--memlock-kib", fmt.Sprint(kib-page/1024)); s.exact && got == 0 {
			t.Errorf("a limit of %d KiB is enough, and %d were offered", kib-page/1024, kib)
		}
	}
	if pages := number(sizeOffered); pages > 0 && strings.HasPrefix(s.refuse, "perf-") {
		s.succeeds(t, "--pages", fmt.Sprint(pages-1))
	}
	if bytes := number(sendOffered); bytes > 0 {
		s.succeeds(t, "--pages", fmt.Sprint(bytes/page))
	}
	if pages := number(umemOffered); pages > 0 {
		s.succeeds(t, "--pages", fmt.Sprint(pages))
	}
	if strings.Contains(remedies, "CAP_IPC_LOCK") {
		s.succeeds(t, "--cap", "cap_ipc_lock")
	}
	if strings.Contains(remedies, "another uid") {
		s.succeeds(t, "--uid", "65533")
	}
	if bytes := number(memoryOffered); bytes > 0 {
		more := bytes - int(e.Object.LimitBytes) + mapCgroupLeft
		s.succeeds(t, "--pages", fmt.Sprint(more/page))
	}
	// The containers that are there would be charged otherwise if they came again.
	if kib := number(settingOffered); kib > 0 && s.refuse != "perf-containers" {
		guesttest.Set(t, settings+"mlock_kb", fmt.Sprint(kib))
		s.succeeds(t)
	}
}

// again provokes again with a remedy. What was freed before is given back late.
func (s saying) again(t *testing.T, flags ...string) unix.Errno {
	t.Helper()
	time.Sleep(200 * time.Millisecond)
	r := guesttest.Command(t, "pinwatch", append([]string{"workload", "refuse", "--json", s.refuse}, flags...)...).Run()
	return unix.Errno(last(t, r).Errno)
}

func (s saying) succeeds(t *testing.T, flags ...string) {
	t.Helper()
	if errno := s.again(t, flags...); errno != 0 {
		t.Errorf("with %v it fails with %v", flags, errno)
	}
}
