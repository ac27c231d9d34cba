package explore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/testdata/findings"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/guest"
)

// op makes a step of a word and numbers: of what a call needs, in the order of its words.
func start(p int) check.Op    { return check.Op{Call: check.CallStart, Process: p, Limit: 64} }
func open(p, e int) check.Op  { return check.Op{Call: check.CallOpen, Process: p, Event: e} }
func unmap(p, m int) check.Op { return check.Op{Call: check.CallUnmap, Process: p, Mapping: m} }
func kill(p int) check.Op     { return check.Op{Call: check.CallKill, Process: p} }
func mapping(p, e, m int, pages int64) check.Op {
	return check.Op{Call: check.CallMap, Process: p, Event: e, Mapping: m, Pages: pages}
}
func give(p, e, to int) check.Op {
	return check.Op{Call: check.CallGive, Process: p, Event: e, To: to}
}

func program(steps ...check.Op) check.Program { return check.Program{Steps: steps} }

// The same seed gives the same programs, for ever: the text of one is kept here. Who
// changes the generator changes it, and says so.
func TestGenerateIsDeterministic(t *testing.T) {
	seen := map[string]bool{}
	for number := range uint64(200) {
		p := Generate(7, number)
		if diff := cmp.Diff(p, Generate(7, number)); diff != "" {
			t.Fatal(diff)
		}
		seen[text(p)] = true
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back check.Program
		if err := json.Unmarshal(raw, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, back); diff != "" {
			t.Fatalf("JSON keeps a program: %s", diff)
		}
	}
	if len(seen) < 190 {
		t.Errorf("of 200 programs just %d are different", len(seen))
	}
	if cmp.Equal(Generate(7, 1), Generate(8, 1)) {
		t.Error("seeds do not matter")
	}
}

// Every call comes about, and what is generated can be made: few steps name what is not
// there.
func TestGenerateMakesSense(t *testing.T) {
	calls, steps, left := map[string]int{}, 0, 0
	for number := range uint64(500) {
		p := Generate(1, number)
		steps += len(p.Steps)
		left += len(clean(p).Steps)
		for _, o := range p.Steps {
			calls[o.Call]++
			if o.String() == o.Call {
				t.Fatalf("%q is not put into words", o.Call)
			}
		}
	}
	for _, call := range []string{check.CallStart, check.CallOpen, check.CallMap, check.CallMapAUX, check.CallRedirect, check.CallGive, check.CallClose, check.CallUnmap,
		check.CallCover, check.CallMove, check.CallProtect, check.CallFork, check.CallStorm, check.CallRace, check.CallExec, check.CallExit, check.CallKill, check.CallLimit, check.CallIPCLock,
		check.CallFill, check.CallRelease, check.CallMeasure, check.CallMlock, check.CallParanoid, check.CallCPU, check.CallMirror,
		check.CallRing, check.CallRegister, check.CallUnregister, check.CallUmem, check.CallSend, check.CallBPFMap, check.CallDrop} {
		if calls[call] == 0 {
			t.Errorf("%s: in none of 500 programs", call)
		}
	}
	if left*10 < steps*9 {
		t.Errorf("of %d steps %d can be made", steps, left)
	}
}

func TestClean(t *testing.T) {
	full := program(start(0), start(1), open(0, 0), mapping(0, 0, 0, 3), give(0, 0, 1), mapping(1, 0, 1, 3), unmap(1, 1), unmap(0, 0))
	for name, c := range map[string]struct {
		without int // a step
		want    []check.Op
	}{
		"all":        {-1, full.Steps},
		"no process": {0, []check.Op{start(1)}},
		"no event":   {2, []check.Op{start(0), start(1)}},
		"no mapping": {3, []check.Op{start(0), start(1), open(0, 0), give(0, 0, 1), mapping(1, 0, 1, 3), unmap(1, 1)}},
		"not given":  {4, []check.Op{start(0), start(1), open(0, 0), mapping(0, 0, 0, 3), unmap(0, 0)}},
	} {
		t.Run(name, func(t *testing.T) {
			p := full
			if c.without >= 0 {
				p.Steps = slices.Delete(slices.Clone(full.Steps), c.without, c.without+1)
			}
			if diff := cmp.Diff(c.want, clean(p).Steps); diff != "" {
				t.Error(diff)
			}
		})
	}
	killed := program(start(0), open(0, 0), mapping(0, 0, 0, 3), kill(0), unmap(0, 0), mapping(0, 0, 1, 3))
	if got := clean(killed); len(got.Steps) != 4 {
		t.Errorf("a process that was killed goes on: %v", got.Steps)
	}
}

func ring(p, o int) check.Op { return check.Op{Call: check.CallRing, Process: p, Object: o} }
func drop(p, o int) check.Op { return check.Op{Call: check.CallDrop, Process: p, Object: o} }
func register(p, o int) check.Op {
	return check.Op{Call: check.CallRegister, Process: p, Object: o, Pages: 3}
}

// What names an object goes with it, and no one else's will do.
func TestObjectsOfPrograms(t *testing.T) {
	unregister := check.Op{Call: check.CallUnregister, Object: 7}
	umem := check.Op{Call: check.CallUmem, Object: 7, Pages: 4}
	for name, c := range map[string]struct{ steps, want []check.Op }{
		"all":             {[]check.Op{start(0), ring(0, 7), register(0, 7), unregister, drop(0, 7)}, []check.Op{start(0), ring(0, 7), register(0, 7), unregister, drop(0, 7)}},
		"no ring":         {[]check.Op{start(0), register(0, 7), unregister, drop(0, 7)}, []check.Op{start(0)}},
		"another's":       {[]check.Op{start(0), start(1), ring(1, 7), register(0, 7), drop(0, 7)}, []check.Op{start(0), start(1), ring(1, 7)}},
		"a umem":          {[]check.Op{start(0), umem, register(0, 7), unregister, drop(0, 7)}, []check.Op{start(0), umem, drop(0, 7)}},
		"nothing in it":   {[]check.Op{start(0), ring(0, 7), unregister}, []check.Op{start(0), ring(0, 7)}},
		"closed":          {[]check.Op{start(0), ring(0, 7), drop(0, 7), register(0, 7), drop(0, 7)}, []check.Op{start(0), ring(0, 7), drop(0, 7)}},
		"ended, and more": {[]check.Op{start(0), ring(0, 7), kill(0), register(0, 7)}, []check.Op{start(0), ring(0, 7), kill(0)}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, clean(program(c.steps...)).Steps); diff != "" {
				t.Error(diff)
			}
		})
	}
	form := FormOf(program(start(0), start(3), ring(3, 7), register(3, 7), kill(3)))
	want := []string{"ring p1 o0", "register p1 o0", "drop p1 o0"}
	if diff := cmp.Diff(want, form.Strings()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(form, ParseForm(form.Strings())); diff != "" {
		t.Error(diff)
	}
	longer := FormOf(program(start(0), ring(0, 1), ring(0, 2), register(0, 2), open(0, 0), mapping(0, 0, 0, 3), drop(0, 2)))
	if !form.within(longer) {
		t.Error("one ring of another process is as good")
	}
	if other := FormOf(program(start(0), ring(0, 1), ring(0, 2), register(0, 1), drop(0, 2))); form.within(other) {
		t.Error("the ring that is closed is another one")
	}
}

// A mirror makes two mappings, which go one by one.
func TestMirrorsOfPrograms(t *testing.T) {
	mirror := check.Op{Call: check.CallMirror, Event: 2, Mapping: 4, To: 5, Pages: 3}
	form := FormOf(program(start(0), open(0, 2), mirror, unmap(0, 5), unmap(0, 4)))
	want := []string{"map p0 e0 m0", "map p0 e0 m1", "unmap p0 m1", "unmap p0 m0"}
	if diff := cmp.Diff(want, form.Strings()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(form, ParseForm(form.Strings())); diff != "" {
		t.Error(diff)
	}
}

// twice is a kernel that charges twice what is mapped twice, misdirected one whose refund
// goes to the process that unmaps last.
func twice(p check.Program) []string {
	mapped := map[int]int{}
	for _, o := range clean(p).Steps {
		if o.Call == check.CallMap {
			if mapped[o.Event]++; mapped[o.Event] > 1 {
				return []string{"double-charge"}
			}
		}
	}
	return nil
}

func misdirected(p check.Program) []string {
	var first check.Op
	full, found := false, false
	for _, o := range clean(p).Steps {
		switch {
		case o.Call == check.CallFill || o.Call == check.CallMlock && o.Pages < 2:
			full = true
		case o.Call == check.CallMap && !found:
			first, found = o, true
		case o.Call == check.CallMap && full && o.Event == first.Event && o.Process != first.Process:
			for _, later := range p.Steps {
				if later.Call == check.CallUnmap && later.Mapping == first.Mapping || later.Call == check.CallKill && later.Process == first.Process {
					return []string{"misdirected-refund"}
				}
			}
		}
	}
	return nil
}

// Shrunk, a program is as short as it can be, and still fails.
func TestShrink(t *testing.T) {
	noise := []check.Op{{Call: check.CallMeasure}, start(2), open(2, 5), mapping(2, 5, 7, 17), {Call: check.CallMlock, Pages: 8}}
	for name, c := range map[string]struct {
		kernel func(check.Program) []string
		steps  []check.Op
		want   []check.Op
	}{
		"twice": {twice, slices.Concat(noise, []check.Op{start(0), open(0, 1), mapping(0, 1, 1, 9)}, noise[:1], []check.Op{mapping(0, 1, 2, 9), unmap(0, 1)}),
			[]check.Op{start(0), open(0, 0), mapping(0, 0, 0, 1), mapping(0, 0, 1, 1)}},
		"twice, by two processes": {twice, []check.Op{start(1), start(0), open(0, 1), mapping(0, 1, 1, 9), give(0, 1, 1), mapping(1, 1, 2, 9), kill(1)},
			[]check.Op{start(0), open(0, 0), mapping(0, 0, 0, 1), mapping(0, 0, 1, 1)}},
		"misdirected, by a setting and a kill": {misdirected, slices.Concat(noise[:4], []check.Op{{Call: check.CallMlock}, start(0), start(1), open(0, 0), mapping(0, 0, 0, 5), give(0, 0, 1), mapping(1, 0, 1, 5), kill(0)}),
			[]check.Op{{Call: check.CallMlock}, start(0), start(1), open(0, 0), mapping(0, 0, 0, 1), give(0, 0, 1), mapping(1, 0, 1, 1), unmap(0, 0)}},
	} {
		t.Run(name, func(t *testing.T) {
			tries := 0
			_, simple := Shrink(check.Program{Steps: c.steps}, 200, func(p check.Program) bool {
				tries++
				return c.kernel(p) != nil
			})
			if diff := cmp.Diff(c.want, simple.Steps); diff != "" {
				t.Errorf("after %d tries: %s", tries, diff)
			}
			if tries > 100 {
				t.Errorf("%d tries for %d steps", tries, len(c.steps))
			}
		})
	}
}

// Nothing that fails is asked of more than was allowed, and what does not fail again stays
// as it is.
func TestShrinkGivesUp(t *testing.T) {
	p := program(start(0), open(0, 0), mapping(0, 0, 0, 9), mapping(0, 0, 1, 9))
	asked := 0
	short, simple := Shrink(p, 3, func(check.Program) bool { asked++; return false })
	if asked > 3 || !cmp.Equal(short, p) || !cmp.Equal(simple, p) {
		t.Errorf("asked %d times: %v", asked, simple.Steps)
	}
}

func TestForm(t *testing.T) {
	shared := program(start(3), open(3, 2), mapping(3, 2, 4, 9), start(1), give(3, 2, 1), mapping(1, 2, 9, 9), kill(3))
	form := FormOf(shared)
	if diff := cmp.Diff([]string{"map p0 e0 m0", "map p1 e0 m1", "unmap p0 m0"}, form.Strings()); diff != "" {
		t.Fatal(diff)
	}
	for name, c := range map[string]struct {
		of   check.Program
		want bool
	}{
		"itself":                   {shared, true},
		"with more around":         {program(start(0), open(0, 0), mapping(0, 0, 0, 3), open(0, 1), mapping(0, 1, 1, 5), start(1), give(0, 0, 1), give(0, 1, 1), mapping(1, 1, 2, 5), unmap(0, 0), unmap(0, 1)), true},
		"of one process":           {program(start(0), open(0, 0), mapping(0, 0, 0, 3), mapping(0, 0, 1, 3), unmap(0, 0)), false},
		"of two buffers":           {program(start(0), start(1), open(0, 0), open(1, 1), mapping(0, 0, 0, 3), mapping(1, 1, 1, 3), unmap(0, 0)), false},
		"the other one goes first": {program(start(0), open(0, 0), mapping(0, 0, 0, 3), start(1), give(0, 0, 1), mapping(1, 0, 1, 3), unmap(1, 1)), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := form.within(FormOf(c.of)); got != c.want {
				t.Errorf("within: %t", got)
			}
		})
	}
}

// A form in words is that form.
func TestParseForm(t *testing.T) {
	for number := range uint64(100) {
		form := FormOf(Generate(2, number))
		if diff := cmp.Diff(form, ParseForm(form.Strings())); diff != "" {
			t.Fatal(diff)
		}
	}
}

// The forms of the known findings are such as programs have.
func TestKnownForms(t *testing.T) {
	double := FormOf(program(start(0), open(0, 0), mapping(0, 0, 0, 1), mapping(0, 0, 1, 1)))
	// The allowance is full of another buffer: that is the same one.
	refund := FormOf(program(start(0), start(1), open(0, 5), mapping(0, 5, 5, 9), open(0, 0), mapping(0, 0, 0, 1), give(0, 0, 1), mapping(1, 0, 1, 1), unmap(0, 0)))
	for verdict, form := range map[string]Form{"double-charge": double, "misdirected-refund": refund} {
		known := knownAs(findings.Stock(), &Finding{Verdict: verdict, Form: form.Strings()})
		if known == "" {
			t.Errorf("%s, %s: is not known", verdict, strings.Join(form.Strings(), "; "))
		}
	}
	if got := KnownOf("6.1.0-50-cloud-amd64"); len(got) != 2 || got[0].Verdict != "misdirected-refund" || len(KnownOf("6.16.12")) != 2 || KnownOf("nonsense") != nil {
		t.Error("what a series is known for is found by the release")
	}
}

// fake is a kernel with some bugs, as a Try.
func fake(kernels ...func(check.Program) []string) func(*check.Program) (check.Scenario, error) {
	return func(p *check.Program) (check.Scenario, error) {
		sc := check.Scenario{Result: check.Pass}
		for _, k := range kernels {
			if v := k(*p); v != nil {
				sc.Result, sc.Verdicts = check.Fail, append(sc.Verdicts, v...)
				sc.Evidence.Broken = []check.Witness{{Witness: "EPERM"}}
				sc.Evidence.WitnessVerdicts = sc.Verdicts
			}
		}
		return sc, nil
	}
}

func explored(t *testing.T, seed, most uint64, try func(*check.Program) (check.Scenario, error)) Explored {
	t.Helper()
	e := Explorer{Seed: seed, Most: most, Known: findings.Stock(), Try: try, Announce: func(uint64, *Explored) {}}
	x, err := e.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// A kernel's bugs are found, each once, and what is known is known.
func TestExplorer(t *testing.T) {
	x := explored(t, 3, 2000, fake(twice, misdirected))
	names := map[string]string{}
	for _, f := range x.Findings {
		names[f.Name] = f.Known
		if f.Runs != runsAgain || f.Failed != runsAgain || f.Met == 0 {
			t.Errorf("%s: met %d times, failed %d of %d times", f.Name, f.Met, f.Failed, f.Runs)
		}
	}
	for verdict, known := range map[string]string{"double-charge": "double-charge-of-further-mappings"} {
		if names[verdict] != known {
			t.Errorf("%s is known as %q; want %q", verdict, names[verdict], known)
		}
	}
	if _, found := names["misdirected-refund"]; !found || len(x.Doubts) != 0 {
		t.Errorf("found %v, and %d doubts", names, len(x.Doubts))
	}
	if x.PassedBy == 0 || x.Programs+x.PassedBy != 2000 {
		t.Errorf("%d programs, %d passed by", x.Programs, x.PassedBy)
	}
	again := explored(t, 3, 2000, fake(twice, misdirected))
	if a, b := programsOf(x), programsOf(again); !slices.Equal(a, b) {
		t.Errorf("the same seed found %v and then %v", a, b)
	}
	if x := explored(t, 3, 500, fake()); len(x.Findings)+len(x.Doubts) != 0 || x.Programs != 500 {
		t.Errorf("a kernel without a bug: %+v", x)
	}
}

func programsOf(x Explored) (list []string) {
	for _, f := range x.Findings {
		list = append(list, f.Name+text(f.Program))
	}
	return list
}

// What does not come again, or what the tracer alone saw, is a doubt and no finding.
func TestDoubts(t *testing.T) {
	n := 0
	once := func(p check.Program) []string {
		if n++; n == 20 {
			return []string{"leak"}
		}
		return nil
	}
	if x := explored(t, 1, 50, fake(once)); len(x.Findings) != 0 || len(x.Doubts) != 1 || x.Doubts[0].Failed != 0 {
		t.Errorf("findings %v, doubts %v", x.Findings, x.Doubts)
	}
	alone := func(p *check.Program) (check.Scenario, error) {
		sc, err := fake(twice)(p)
		sc.Evidence.Broken, sc.Evidence.Tracer = nil, check.Watched{Watched: true, Broken: []check.Broken{{Verdict: "double-charge"}}}
		return sc, err
	}
	if x := explored(t, 1, 100, alone); len(x.Findings) != 0 || len(x.Doubts) == 0 {
		t.Errorf("findings %v, doubts %v", x.Findings, x.Doubts)
	}
}

// A tracer that is gone ends it, and says at which program.
func TestExplorerEnds(t *testing.T) {
	e := Explorer{Seed: 1, Try: func(*check.Program) (check.Scenario, error) { return check.Scenario{}, errors.New("gone") }, Announce: func(uint64, *Explored) {}}
	if _, err := e.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "program 0: gone") {
		t.Errorf("%v", err)
	}
}

// A program that crashes or hangs the kernel is found by what the guest said last, seen
// again in a guest of its own, and exploring goes on behind it.
func TestCrash(t *testing.T) {
	image := filepath.Join(t.TempDir(), "bzImage")
	head := make([]byte, 1024)
	copy(head[514:], "HdrS")
	if err := os.WriteFile(image, head, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		deadly  uint64
		crashes int // how often; then never again
		err     error
		want    string
		doubt   bool
	}{
		"panic":         {7, 9, &guest.Error{Kind: guest.ErrPanic, Detail: "Kernel panic - not syncing: Fatal exception"}, Crash, false},
		"hang":          {7, 9, &guest.Error{Kind: guest.ErrTimeout}, Hang, false},
		"just once":     {7, 1, &guest.Error{Kind: guest.ErrPanic}, Crash, true},
		"none":          {99, 0, nil, "", false},
		"while booting": {0, 0, &guest.Error{Kind: guest.ErrPanic, Booting: true}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			var began []string
			nothing := func(string, string) {}
			g := Guests{Guests: check.Guests{Kernels: []string{image}, Timeout: time.Minute, Progress: nothing, Done: nothing}, Found: func(string, *Finding) {}, Seed: 5, Most: 20, Duration: time.Minute}
			g.boot = func(_ context.Context, cfg guest.Config) (int, error) {
				flag := func(name string) (n uint64) {
					fmt.Sscan(cfg.Args[slices.Index(cfg.Args, name)+1], &n)
					return n
				}
				first, most := flag("--from"), flag("--programs")
				began = append(began, fmt.Sprint(first, "+", most))
				var failure *guest.Error
				if errors.As(c.err, &failure) && failure.Booting {
					return 0, c.err
				}
				x := Explored{Kernel: check.Kernel{Release: "6.1.0"}, Seed: flag("--seed"), First: first}
				for n := first; n < first+most && n < 20; n++ {
					fmt.Fprintf(cfg.Stderr, "%s%s\n", Prefix, x.Progress(n))
					if n == c.deadly && c.crashes > 0 {
						c.crashes--
						fmt.Fprintf(cfg.Console, "hello\r\nBUG: kernel NULL pointer dereference\r\nRIP: perf_mmap_close\r\n")
						return 0, c.err
					}
					x.Programs++
				}
				return 0, json.NewEncoder(cfg.Stdout).Encode(Message{Explored: &x})
			}
			r, err := g.Run(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			x := r.Kernels[0]
			if name == "while booting" {
				if x.Error == "" || len(x.Findings)+len(x.Doubts) > 0 {
					t.Errorf("%+v", x)
				}
				return
			}
			list := x.Findings
			if c.doubt {
				list = x.Doubts
			}
			switch {
			case len(x.Findings)+len(x.Doubts) != len(list) || len(list) > 1 || (c.want != "") != (len(list) == 1):
				t.Fatalf("findings %+v, doubts %+v", x.Findings, x.Doubts)
			case c.want == "":
				if !slices.Equal(began, []string{"0+20"}) || x.Programs != 20 {
					t.Errorf("guests %v, %d programs", began, x.Programs)
				}
				return
			}
			f := list[0]
			if f.Verdict != c.want || f.Number != 7 || !strings.HasPrefix(f.Log, "BUG: ") || !cmp.Equal(f.Program, Generate(5, 7)) {
				t.Errorf("%+v", f)
			}
			if !slices.Equal(began, []string{"0+20", "7+1", "8+12"}) {
				t.Errorf("guests began with %v", began)
			}
			if x.Programs != 19 || x.Release != "6.1.0" || x.Error != "" {
				t.Errorf("%d programs of %s: %s", x.Programs, x.Release, x.Error)
			}
		})
	}
}

// A crash that did not come again by the same program, but by another one, is one.
func TestCrashAgain(t *testing.T) {
	x := Explored{}
	f := Finding{Verdict: Crash, Number: 4, Runs: 1, Certain: true, Met: 1, Log: "BUG: x\nRIP"}
	x.add(f)
	other := Finding{Verdict: Crash, Number: 9, Certain: true, Log: "BUG: x\nother"}
	old := x.take(&other)
	if old == nil || len(x.Doubts) != 0 {
		t.Fatalf("%+v of %+v", old, x)
	}
	old.Runs, old.Failed = old.Runs+1, old.Failed+1
	x.add(*old)
	if len(x.Findings) != 1 || x.take(&Finding{Verdict: Crash, Log: "BUG: y"}) != nil {
		t.Errorf("%+v", x)
	}
}
