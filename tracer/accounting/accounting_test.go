package accounting

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/child"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

func TestMain(m *testing.M) {
	child.Init(Children())
	os.Exit(m.Run())
}

// simulated is a kernel of a known accounting, with the throwaway user's counters.
type simulated struct {
	limits   rule.Limits
	remaps   bool
	separate bool
	noRing   bool
	caller   rule.Caller
	buffers  []rule.Outcome
	pages    []int64
}

func (s *simulated) Map(pages int64) (int, int64, error) {
	o := s.limits.Map(s.caller, rule.Data, pages)
	if o.Errno != 0 {
		return 0, 0, o.Errno
	}
	s.caller = s.caller.Charged(o)
	s.buffers = append(s.buffers, o)
	s.pages = append(s.pages, pages)
	return len(s.buffers) - 1, o.Extra, nil
}

func (s *simulated) Again(buffer int) error {
	if s.remaps {
		s.caller.UserLocked += s.pages[buffer]
	}
	return nil
}

func (s *simulated) Unmap(buffer int) error {
	s.caller.UserLocked -= s.buffers[buffer].UserPart
	s.caller.PinnedVM -= s.buffers[buffer].Extra
	return nil
}

func (s *simulated) Pin(pages int64) error {
	if s.noRing {
		return unix.ENOSYS
	}
	if !s.separate {
		s.caller.UserLocked += pages
	}
	return nil
}

// The experiment tells the known accountings apart, on whatever allowance, and says of
// the rest what it could not see.
func TestObserve(t *testing.T) {
	schemes := []rule.Scheme{rule.SchemeSplit, rule.SchemeCumulative, rule.SchemeTwice, rule.SchemeUnclamped}
	for _, allowance := range []int64{2, 3, 4, 36, 516, 4644} {
		for n := range 8 * len(schemes) {
			s := &simulated{remaps: n&1 != 0, separate: n&2 != 0, noRing: n&4 != 0,
				limits: rule.Limits{Allowance: allowance, Paranoid: 2, Scheme: schemes[n/8]}, caller: rule.Caller{LockLimit: rule.Unlimited}}
			f, err := observe(s, allowance)
			if err != nil {
				t.Fatalf("%+v: %v", s, err)
			}
			want := Finding{By: ByExperiment, Accounting: rule.Accounting{Scheme: s.limits.Scheme, Remaps: s.remaps}}
			if above := s.remaps || !s.noRing && !s.separate; !above && want.Scheme == rule.SchemeUnclamped {
				want.Scheme = rule.SchemeSplit // and the doubt is said
			} else if want.Scheme == rule.SchemeSplit {
				want.Clamps = above
			}
			if s.limits.Scheme == rule.SchemeSplit || s.limits.Scheme == rule.SchemeUnclamped {
				want.Separate = s.separate && !s.noRing
			}
			if f != want {
				t.Errorf("%d pages, %s, %+v: %+v; want %+v", allowance, s.limits.Scheme, *s, f, want)
			}
			if (f.Doubt() != "") != (f.Scheme == rule.SchemeSplit && !f.Clamps) {
				t.Errorf("%+v: doubt %q", f, f.Doubt())
			}
		}
	}
}

// What cannot be told is no finding.
func TestObserveNothing(t *testing.T) {
	if _, err := observe(&simulated{}, 1); err == nil || !strings.Contains(err.Error(), "too small") {
		t.Errorf("%v", err)
	}
	charged := &simulated{limits: rule.Limits{Allowance: 516}, caller: rule.Caller{UserLocked: 3, LockLimit: rule.Unlimited}}
	if f, err := observe(charged, 516); err == nil {
		t.Errorf("a user that was charged before: %+v", f)
	}
	refused := &simulated{limits: rule.Limits{Allowance: 516, Paranoid: 2}, caller: rule.Caller{LockLimit: 1}}
	if f, err := observe(refused, 516); !errors.Is(err, unix.EPERM) {
		t.Errorf("no room: %+v, %v", f, err)
	}
}

// The experiment on the kernel that runs this: it succeeds, or says what it needs.
func TestTry(t *testing.T) {
	f, err := Try(t.Context())
	if err != nil && !strings.Contains(err.Error(), "CAP_SETUID") && !strings.Contains(err.Error(), "perf") {
		t.Error(err)
	}
	if err == nil && (f.By != ByExperiment || f.Scheme == rule.SchemeUnknown) {
		t.Errorf("%+v", f)
	}
	t.Logf("%+v, %v", f, err)
}

func memory(t *testing.T) Memory {
	t.Helper()
	dir := t.TempDir()
	boot := filepath.Join(dir, "boot_id")
	write(t, boot, "one\n")
	return Memory{Dir: filepath.Join(dir, "run"), Boot: boot, Owner: uint32(os.Geteuid())}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What was seen is remembered for the boot, and the experiment made once.
func TestRemembered(t *testing.T) {
	m := memory(t)
	made := 0
	try := func(context.Context) (Finding, error) {
		made++
		return Finding{By: ByExperiment, Accounting: rule.Accounting{Scheme: rule.SchemeCumulative, Remaps: true}}, nil
	}
	for range 3 {
		if f := m.find(t.Context(), try); f.Scheme != rule.SchemeCumulative || !f.Remaps || f.By != ByExperiment {
			t.Errorf("%+v", f)
		}
	}
	if made != 1 {
		t.Errorf("%d experiments", made)
	}
	write(t, m.Boot, "two\n")
	if f, ok := m.Recall(); ok {
		t.Errorf("after a boot: %+v", f)
	}
	m.find(t.Context(), try)
	if made != 2 {
		t.Errorf("%d experiments after a boot", made)
	}
}

// What somebody else may have written is not believed, and neither is what makes no sense.
func TestNotBelieved(t *testing.T) {
	for name, spoil := range map[string]func(m Memory) error{
		"a directory that others can write": func(m Memory) error { return os.Chmod(m.Dir, 0o777) },
		"a file that others can write":      func(m Memory) error { return os.Chmod(m.path(), 0o666) },
		"a link": func(m Memory) error {
			if err := os.Rename(m.path(), m.path()+"2"); err != nil {
				return err
			}
			return os.Symlink(m.path()+"2", m.path())
		},
		"no JSON": func(m Memory) error { return os.WriteFile(m.path(), []byte("{"), 0o644) },
		"another version": func(m Memory) error {
			return os.WriteFile(m.path(), []byte(`{"v":2,"boot_id":"one","by":"experiment","scheme":"split"}`), 0o644)
		},
		"a scheme unknown": func(m Memory) error {
			return os.WriteFile(m.path(), []byte(`{"v":1,"boot_id":"one","by":"experiment","scheme":"fancy"}`), 0o644)
		},
		"seen by nobody": func(m Memory) error {
			return os.WriteFile(m.path(), []byte(`{"v":1,"boot_id":"one","by":"nobody","scheme":"split"}`), 0o644)
		},
		"another boot":      func(m Memory) error { return os.WriteFile(m.Boot, []byte("other"), 0o644) },
		"a boot without id": func(m Memory) error { return os.Remove(m.Boot) },
		"removed":           func(m Memory) error { return os.RemoveAll(m.Dir) },
	} {
		m := memory(t)
		m.learn(Finding{By: ByExperiment, Accounting: rule.Accounting{Scheme: rule.SchemeTwice}})
		if _, ok := m.Recall(); !ok {
			t.Fatal("nothing is remembered")
		}
		if err := spoil(m); err != nil {
			t.Fatal(err)
		}
		if f, ok := m.Recall(); ok {
			t.Errorf("%s: %+v", name, f)
		}
	}
	m := memory(t)
	m.learn(Finding{By: ByExperiment, Accounting: rule.Accounting{Scheme: rule.SchemeTwice}})
	m.Owner++
	if f, ok := m.Recall(); ok {
		t.Errorf("another's file: %+v", f)
	}
}

// Where nothing can be written down or seen, the answer says what it rests on.
func TestAssumed(t *testing.T) {
	m := memory(t)
	write(t, m.Dir, "no directory")
	f := m.find(t.Context(), func(context.Context) (Finding, error) { return Finding{}, errors.New("needs CAP_SETUID") })
	if f.Seen() || f.Scheme != rule.SchemeUnknown || !strings.Contains(f.Basis(), "assumed: split") || !strings.Contains(f.Basis(), "needs CAP_SETUID") {
		t.Errorf("%+v: %s", f, f.Basis())
	}
	seen := Finding{By: ByExperiment, Accounting: rule.Accounting{Scheme: rule.SchemeTwice}}
	if f := m.find(t.Context(), func(context.Context) (Finding, error) { return seen, nil }); f != seen {
		t.Errorf("not writable: %+v", f)
	}
}

// A trace counts where there was no experiment, and tells of what that cannot see.
func TestTraced(t *testing.T) {
	experiment := func(scheme rule.Scheme, clamps bool) *Finding {
		return &Finding{By: ByExperiment, Accounting: rule.Accounting{Scheme: scheme}, Clamps: clamps}
	}
	for _, c := range []struct {
		before *Finding
		traced []rule.Scheme
		want   string
	}{
		{nil, []rule.Scheme{rule.SchemeUnknown, rule.SchemeOther, rule.SchemeEither}, "nobody unknown"},
		{nil, []rule.Scheme{rule.SchemeEither, rule.SchemeCumulative, rule.SchemeEither}, "trace cumulative"},
		{experiment(rule.SchemeSplit, true), []rule.Scheme{rule.SchemeTwice, rule.SchemeUnclamped}, "experiment split"},
		{experiment(rule.SchemeSplit, false), []rule.Scheme{rule.SchemeUnclamped, rule.SchemeSplit}, "experiment unclamped"},
		{experiment(rule.SchemeTwice, false), []rule.Scheme{rule.SchemeUnclamped}, "experiment twice"},
	} {
		m := memory(t)
		if c.before != nil {
			m.learn(*c.before)
		}
		for _, scheme := range c.traced {
			m.traced(scheme)
		}
		f := m.find(t.Context(), func(context.Context) (Finding, error) { return Finding{}, errors.New("none") })
		if got := fmt.Sprint(f.By, " ", f.Scheme); got != c.want {
			t.Errorf("%+v: %s; want %s", c, got, c.want)
		}
		// The experiment again does not forget what only a trace can see.
		if c.want == "experiment unclamped" {
			if f := m.learn(*c.before); f.Scheme != rule.SchemeUnclamped {
				t.Errorf("forgotten: %+v", f)
			}
		}
	}
}
