package rule

import (
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// machine is perf_mmap() as the kernels have it, word for word, in the kernel's own
// arithmetic: the rules are held against it, one call at a time.
type machine struct {
	scheme       Scheme
	limit        uint64 // user_lock_limit
	user, pinned uint64
	lockLimit    uint64
	exempt       bool
}

// mmap charges a first mapping.
func (m *machine) mmap(userExtra uint64) unix.Errno {
	var extra uint64
	userLocked := m.user
	if m.scheme == SchemeSplit || m.scheme == SchemeTwice { // 003461559ef7
		userLocked = min(userLocked, m.limit)
	}
	userLocked += userExtra
	pays := userExtra
	if userLocked > m.limit {
		extra = userLocked - m.limit
		if m.scheme == SchemeSplit || m.scheme == SchemeUnclamped { // d44248a41337
			pays -= extra
		}
	}
	if m.pinned+extra > m.lockLimit && !m.exempt {
		return unix.EPERM
	}
	m.user += pays
	m.pinned += extra
	return 0
}

var known = []Scheme{SchemeSplit, SchemeCumulative, SchemeTwice, SchemeUnclamped}

// However the numbers are, the rules say of each scheme what the kernel does: call by
// call, how many fit, and what is charged then.
func TestRulesAreTheKernels(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	between := func(from, to int64) int64 { return from + random.Int64N(to-from) }
	refused := map[Scheme]int{}
	for range 4000 {
		scheme := known[random.IntN(len(known))]
		s := Settings{PageSize: 4096 << (2 * random.IntN(3)), MlockKiB: int(between(-70, 3000)), OnlineCPUs: int(between(1, 9)),
			Paranoid: int(between(-1, 4)), Accounting: Accounting{Scheme: scheme}}
		c := Caller{UserLocked: between(-300, 6000), PinnedVM: between(-200, 2000), LockLimit: between(0, 3000), CapIPCLock: random.IntN(8) == 0}
		if random.IntN(8) == 0 {
			c.LockLimit = between(1<<20, 1<<24)
		}
		pages := int64(1)<<random.IntN(8) + 1
		l := s.Limits()
		m := machine{scheme: scheme, limit: uint64(l.Allowance), user: uint64(c.UserLocked), pinned: uint64(c.PinnedVM), lockLimit: uint64(c.LockLimit), exempt: l.Exempt(c)}
		fits := l.Fits(c, Data, pages)
		const most = 5000
		var done int64
		for ; done < most; done++ {
			o := l.Map(c, Data, pages)
			errno := m.mmap(uint64(pages))
			if o.Errno != errno {
				t.Fatalf("%s: %+v %+v, call %d: %v; the kernel says %v", scheme, l, c, done+1, o.Errno, errno)
			}
			if errno != 0 {
				break
			}
			if c = c.Charged(o); uint64(c.UserLocked) != m.user || uint64(c.PinnedVM) != m.pinned {
				t.Fatalf("%s: %+v, call %d: charged to %+v; the kernel has %+v", scheme, l, done+1, c, m)
			}
		}
		if fits < most && fits != NoLimit && fits != done || fits >= most && done < most || fits == NoLimit && done < most {
			t.Fatalf("%s: %+v: %d fit; %d could be mapped", scheme, l, fits, done)
		}
		if done < most {
			refused[scheme]++
		}
	}
	for _, scheme := range known {
		if refused[scheme] < 200 {
			t.Errorf("%s was refused %d times", scheme, refused[scheme])
		}
	}
}

// A counter that a bug has left far below zero is no endless loop.
func TestRoomOfAbsurdCounters(t *testing.T) {
	for _, scheme := range known {
		l := Limits{Allowance: 516, Paranoid: 2, Scheme: scheme}
		l.Room(Caller{UserLocked: -1 << 50, PinnedVM: 1 << 45, LockLimit: 1 << 49}, 1)
	}
}

// The published machine: 36 CPUs, 32886 pages held, each buffer of 3 pages charges the
// whole history, and a limit ten times as large lets eleven times as many through.
func TestPublishedMachine(t *testing.T) {
	l := Settings{PageSize: 4096, MlockKiB: 516, OnlineCPUs: 36, Paranoid: 2, Accounting: Accounting{Scheme: SchemeCumulative}}.Limits()
	c := Caller{UserLocked: 32886, LockLimit: 131072}
	var pinned []int64
	at := c
	for o := l.Map(at, Data, 3); o.Errno == 0; o = l.Map(at, Data, 3) {
		at = at.Charged(o)
		pinned = append(pinned, at.PinnedVM)
	}
	for i, want := range []int64{28245, 56493, 84744, 112998} {
		if len(pinned) != 4 || pinned[i] != want {
			t.Fatalf("pinned_vm %v", pinned)
		}
	}
	if got := l.Intended().Fits(c, Data, 3); got != 131072/3 {
		t.Errorf("intended: %d", got)
	}
	if got := l.Fits(Caller{UserLocked: 32886, LockLimit: 1310720}, Data, 3); got != 46 {
		t.Errorf("a limit ten times as large: %d", got)
	}
}

func TestSchemeOf(t *testing.T) {
	for name, c := range map[string]struct {
		pages, before, allowance, user, process int64
		want                                    Scheme
	}{
		"it fits":              {3, 0, 516, 3, 0, SchemeUnknown},
		"the intent":           {3, 515, 516, 1, 2, SchemeSplit},
		"the history":          {3, 520, 516, 3, 7, SchemeCumulative},
		"no history yet":       {3, 516, 516, 3, 3, SchemeEither},
		"not the history":      {3, 520, 516, 3, 3, SchemeTwice},
		"lowered":              {3, 520, 516, -4, 7, SchemeUnclamped},
		"lowered, clamped":     {3, 520, 516, 0, 3, SchemeSplit},
		"something unheard-of": {3, 520, 516, 1, 1, SchemeOther},
	} {
		if got := SchemeOf(c.pages, c.before, c.allowance, c.user, c.process); got != c.want {
			t.Errorf("%s: %s; want %s", name, got, c.want)
		}
	}
	if SchemeCumulative.Seen(SchemeEither) != SchemeCumulative || SchemeTwice.Seen(SchemeEither) != SchemeTwice || SchemeUnclamped.Seen(SchemeSplit) != SchemeUnclamped || SchemeEither.Seen(SchemeCumulative) != SchemeCumulative {
		t.Error("the less telling one stays")
	}
}

// Names are read back, and every scheme that has a bug says where it is put right.
func TestSchemeNames(t *testing.T) {
	for s := range Scheme(Schemes) {
		text, _ := s.MarshalText()
		var back Scheme
		if err := back.UnmarshalText(text); err != nil || back != s || s.Meaning() == "" {
			t.Errorf("%s: %s, %v", text, back, err)
		}
		if (s.Bug() == "") != (s.Fixed() == "") {
			t.Errorf("%s: %q, %q", s, s.Bug(), s.Fixed())
		}
	}
	var s Scheme
	if s.UnmarshalText([]byte("fancy")) == nil {
		t.Error("fancy is a scheme")
	}
}
