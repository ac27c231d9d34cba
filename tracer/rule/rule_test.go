package rule

import (
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

// four is a machine whose users may have 516 pages.
var four = Settings{PageSize: 4096, MlockKiB: 516, OnlineCPUs: 4, Paranoid: 2}

func with(s Settings, change func(*Settings)) Settings {
	change(&s)
	return s
}

func TestUserLockLimit(t *testing.T) {
	for _, c := range []struct {
		s    Settings
		want int64
	}{
		{four, 516},
		{with(four, func(s *Settings) { s.PageSize = 65536; s.MlockKiB = 576 }), 36},
		{with(four, func(s *Settings) { s.MlockKiB = 3 }), 0},
		{with(four, func(s *Settings) { s.MlockKiB = 519 }), 516}, // whole pages only
		{with(four, func(s *Settings) { s.MlockKiB = 0 }), 0},
		{with(four, func(s *Settings) { s.MlockKiB = -1 }), -4},
	} {
		if got := c.s.UserLockLimit(); got != c.want {
			t.Errorf("%+v: %d; want %d", c.s, got, c.want)
		}
	}
}

func TestMap(t *testing.T) {
	for name, c := range map[string]struct {
		settings Settings
		caller   Caller
		area     Area
		pages    int64
		want     Outcome
	}{
		"inside the allowance": {four, Caller{LockLimit: 128}, Data, 65,
			Outcome{UserPart: 65, Over: -128}},
		"split": {four, Caller{UserLocked: 455, LockLimit: 128}, Data, 65,
			Outcome{UserPart: 61, Extra: 4, Locked: 4, Over: -124}},
		"past it": {four, Caller{UserLocked: 516, PinnedVM: 4, LockLimit: 128}, Data, 65,
			Outcome{Extra: 65, Locked: 69, Over: -59}},
		"the last page": {four, Caller{UserLocked: 516, PinnedVM: 63, LockLimit: 128}, Data, 65,
			Outcome{Extra: 65, Locked: 128}},
		"one too many": {four, Caller{UserLocked: 516, PinnedVM: 64, LockLimit: 128}, Data, 65,
			Outcome{Errno: unix.EPERM, Extra: 65, Locked: 129, Over: 1}},
		"capability": {four, Caller{UserLocked: 516, PinnedVM: 64, LockLimit: 128, CapIPCLock: true}, Data, 65,
			Outcome{Extra: 65, Locked: 129, Over: 1}},
		"paranoid -1": {with(four, func(s *Settings) { s.Paranoid = -1 }), Caller{UserLocked: 516, PinnedVM: 64, LockLimit: 128}, Data, 65,
			Outcome{Extra: 65, Locked: 129, Over: 1}},
		"paranoid 0 is not -1": {with(four, func(s *Settings) { s.Paranoid = 0 }), Caller{UserLocked: 516, LockLimit: 0}, Data, 65,
			Outcome{Errno: unix.EPERM, Extra: 65, Locked: 65, Over: 65}},
		// Other pinners of the process count against the same limit, whatever is
		// left of the allowance.
		"pinned beyond the limit": {four, Caller{PinnedVM: 129, LockLimit: 128}, Data, 2,
			Outcome{Errno: unix.EPERM, UserPart: 2, Locked: 129, Over: 1}},
		"no limit": {four, Caller{UserLocked: 516, PinnedVM: 1 << 40, LockLimit: Unlimited}, Data, 65,
			Outcome{Extra: 65, Locked: 1<<40 + 65, Over: 1<<40 + 65 - Unlimited}},
		"the sysctl was lowered": {with(four, func(s *Settings) { s.MlockKiB = 4 }), Caller{UserLocked: 516, LockLimit: 128}, Data, 65,
			Outcome{Extra: 65, Locked: 65, Over: -63}},
		"no allowance": {with(four, func(s *Settings) { s.MlockKiB = 0 }), Caller{LockLimit: 2}, Data, 2,
			Outcome{Extra: 2, Locked: 2}},
		"negative sysctl": {with(four, func(s *Settings) { s.MlockKiB = -1 }), Caller{UserLocked: 1 << 30}, Data, 65,
			Outcome{UserPart: 65}},
		"negative pinned_vm": {four, Caller{PinnedVM: -100, LockLimit: 128}, Data, 65,
			Outcome{Errno: unix.EPERM, UserPart: 65, Locked: -100, Over: -228}},
		"negative pinned_vm, made up for": {four, Caller{UserLocked: 516, PinnedVM: -10, LockLimit: 128}, Data, 65,
			Outcome{Extra: 65, Locked: 55, Over: -73}},
		"negative user counter": {four, Caller{UserLocked: -1, LockLimit: 128}, Data, 65,
			Outcome{Extra: 65, Locked: 65, Over: -63}},
		"control page alone": {four, Caller{LockLimit: 128}, Data, 1,
			Outcome{UserPart: 1, Over: -128}},
		"not a power of two": {four, Caller{LockLimit: 128}, Data, 64, Outcome{Errno: unix.EINVAL}},
		"nothing":            {four, Caller{LockLimit: 128}, Data, 0, Outcome{Errno: unix.EINVAL}},
		"AUX":                {four, Caller{UserLocked: 500, LockLimit: 128}, AUX, 64, Outcome{UserPart: 16, Extra: 48, Locked: 48, Over: -80}},
		"AUX has no control page": {four, Caller{LockLimit: 128}, AUX, 65,
			Outcome{Errno: unix.EINVAL}},
		// The published trace: 36 CPUs, a limit of 131072 pages.
		"the history, up to 5.3": {Settings{PageSize: 4096, MlockKiB: 516, OnlineCPUs: 36, Paranoid: 2, Accounting: Accounting{Scheme: SchemeCumulative}},
			Caller{UserLocked: 32898, PinnedVM: 112998, LockLimit: 131072}, Data, 3,
			Outcome{Errno: unix.EPERM, UserPart: 3, Extra: 28257, Locked: 141255, Over: 10183}},
	} {
		if got := c.settings.Limits().Map(c.caller, c.area, c.pages); got != c.want {
			t.Errorf("%s: %+v; want %+v", name, got, c.want)
		}
	}
}

func TestMapMany(t *testing.T) {
	// The workload of the README: 9 buffers of 65 pages fit, the tenth does not.
	done, last := four.Limits().MapMany(Caller{LockLimit: 128}, Data, 65, 12)
	if done != 9 || last.Errno != unix.EPERM || last.Over != 6 {
		t.Errorf("%d, then %+v", done, last)
	}
	if done, last := four.Limits().MapMany(Caller{LockLimit: 128}, Data, 65, 9); done != 9 || last.Errno != 0 {
		t.Errorf("%d, then %+v", done, last)
	}
}

func TestFits(t *testing.T) {
	for name, c := range map[string]struct {
		settings Settings
		caller   Caller
		pages    int64
		want     int64
	}{
		"both":             {four, Caller{LockLimit: 128}, 65, 9},
		"capability":       {four, Caller{LockLimit: 128, CapIPCLock: true}, 65, NoLimit},
		"paranoid":         {with(four, func(s *Settings) { s.Paranoid = -1 }), Caller{}, 65, NoLimit},
		"no rlimit":        {four, Caller{LockLimit: Unlimited}, 65, NoLimit},
		"negative sysctl":  {with(four, func(s *Settings) { s.MlockKiB = -8 }), Caller{}, 65, NoLimit},
		"none":             {four, Caller{UserLocked: 516}, 65, 0},
		"negative pinned":  {four, Caller{PinnedVM: -100, LockLimit: 128}, 65, 0},
		"negative, but ok": {four, Caller{UserLocked: 516, PinnedVM: -10, LockLimit: 128}, 65, 2},
		"wrong size":       {four, Caller{LockLimit: 128}, 64, 0},
	} {
		if got := c.settings.Limits().Fits(c.caller, Data, c.pages); got != c.want {
			t.Errorf("%s: %d; want %d", name, got, c.want)
		}
	}
}

func TestLargest(t *testing.T) {
	for _, c := range []struct {
		area        Area
		pages, want int64
	}{{Data, 128, 65}, {Data, 129, 129}, {Data, 2, 2}, {Data, 1, 0}, {Data, -5, 0}, {Data, 59, 33}, {Data, 65, 65}, {Data, 64, 33}, {AUX, 59, 32}, {AUX, 128, 128}, {AUX, 1, 1}, {AUX, 0, 0}} {
		if got := Largest(c.area, c.pages); got != c.want {
			t.Errorf("area %d, %d pages: %d; want %d", c.area, c.pages, got, c.want)
		}
	}
}

func TestRoom(t *testing.T) {
	for _, c := range []struct {
		name                     string
		pages, allowance, locked int64
		limit, pinned            int64
		capIPCLock               bool
		want                     int64
	}{
		{"untouched", 129, 516, 0, 128, 0, false, 4},
		{"allowance gone", 129, 516, 516, 2048, 0, false, 15},
		{"over the allowance", 129, 516, 900, 2048, 2000, false, 0},
		{"limit lowered below what is pinned", 1, 516, 0, 10, 11, false, 0},
		{"no limit", 129, 516, 516, 0, 0, true, NoLimit},
		{"no size", 0, 516, 0, 10, 0, false, 0},
		{"a size that no buffer has", 100, 516, 0, 0, 0, false, 5},
	} {
		l := Limits{Allowance: c.allowance, Paranoid: 2}
		if got := l.Room(Caller{UserLocked: c.locked, PinnedVM: c.pinned, LockLimit: c.limit, CapIPCLock: c.capIPCLock}, c.pages); got != c.want {
			t.Errorf("%s: %d; want %d", c.name, got, c.want)
		}
	}
}

// The intent: exactly the pages are charged, to the user what fits and never more.
func TestSplit(t *testing.T) {
	for _, c := range []struct{ pages, before, allowance, user, process int64 }{
		{65, 0, 516, 65, 0}, {65, 451, 516, 65, 0}, {65, 455, 516, 61, 4}, {65, 516, 516, 0, 65}, {65, 900, 516, 0, 65}, {65, -10, 0, 10, 55}, {65, 0, 0, 0, 65}, {65, 900, -4, 65, 0},
	} {
		if user, process := Split(c.pages, c.before, c.allowance); user != c.user || process != c.process {
			t.Errorf("%+v: %d, %d", c, user, process)
		}
	}
}

// RLIM_INFINITY is no limit, however large pages are.
func TestUnlimited(t *testing.T) {
	for _, kib := range []uint64{4, 16, 64} {
		if pages := int64(math.MaxUint64 / (kib << 10)); pages < Unlimited {
			t.Errorf("pages of %d KiB: %d of them are a limit", kib, pages)
		}
	}
}
