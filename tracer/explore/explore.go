package explore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pinwatch/pinwatch/testdata/findings"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/remedy"
)

// Finding is a program that breaks an invariant, as short as it could be made.
type Finding struct {
	Name    string `json:"name"`    // the verdict, and from the second form of it on a number
	Verdict string `json:"verdict"` // as in a trace; CrashVerdict and its like for the kernel's own messages
	// Known is what this kernel is known for, where it is that; "": it is new.
	Known   string        `json:"known"`
	Program check.Program `json:"program"`
	Form    []string      `json:"form"` // what it does with buffers, apart from sizes
	Number  uint64        `json:"number"`
	Steps   int           `json:"steps"` // of the program with that number, before it was shrunk
	// Runs is how often the short program was run again, and Failed how often it failed.
	Runs   int `json:"runs"`
	Failed int `json:"failed"`
	// Met is in how many programs it was met.
	Met           uint64 `json:"met"`
	AfterPrograms uint64 `json:"after_programs"`
	AfterMS       int64  `json:"after_ms"` // since exploring began, shrinking left out
	Reason        string `json:"reason"`
	Hurts         string `json:"hurts"`
	Log           string `json:"log"` // the kernel's messages, of a crash
	// Certain says that a witness saw it, and the tracer where one looked on.
	Certain bool `json:"certain"`

	forms []Form // of programs that came to it
}

// Sure reports whether there is something to rely on: it was certain, and came again every
// time; a crash, once.
func (f *Finding) Sure() bool {
	return f.Certain && (f.stable() || f.Verdict == Crash && f.Failed > 0)
}

func (f *Finding) stable() bool { return f.Failed == f.Runs }

// covers reports whether a program of some form comes to the finding, for all that is known.
func (f *Finding) covers(form Form) bool {
	return slices.ContainsFunc(f.forms, func(part Form) bool { return part.within(form) })
}

// Explored is what came of exploring one kernel.
type Explored struct {
	check.Kernel
	Seed     uint64 `json:"seed"`
	First    uint64 `json:"first"`    // number of the first program
	Programs uint64 `json:"programs"` // that were run
	PassedBy uint64 `json:"passed_by"`
	Tries    uint64 `json:"tries"` // besides, to shrink programs and to see them again
	// CouldNotRun counts the programs of which nothing is said, and Why says it of the first.
	CouldNotRun uint64    `json:"could_not_run"`
	Why         string    `json:"why"`
	Findings    []Finding `json:"findings"`
	// Doubts are those that only the tracer saw, or only a witness, or that did not come
	// again: nothing to rely on.
	Doubts []Finding `json:"doubts"`
}

// Explorer explores the running kernel.
type Explorer struct {
	Seed  uint64
	First uint64 // number of the first program
	Most  uint64 // programs; 0: as many as the time allows
	// OneByOne leaves out the steps in which calls are made at the same time.
	OneByOne bool
	// AsItIs leaves perf_event_mlock_kb as the machine has it.
	AsItIs bool
	Known  []Known
	// Try runs a program.
	Try func(*check.Program) (check.Scenario, error)
	// Announce is called before a program runs, Found when a finding is shrunk, and Ended
	// when all is said, before the probes are taken off; any but Announce may be nil.
	Announce func(number uint64, x *Explored)
	Found    func(*Finding)
	Ended    func(*Explored)

	out       Explored
	began     time.Time
	shrinking time.Duration
	repeats   map[string]int // shrunk to what was known already, by verdict
}

const (
	triesToShrink = 150
	runsAgain     = 3
	// mostForms is of how many forms a verdict is reported, and mostRepeats how often a
	// program is shrunk to one that is known already.
	mostForms   = 8
	mostRepeats = 8
	// One program in so many is run although it does what was found already.
	tiresome = 3
)

// Run runs programs until ctx ends. What was under way then is finished.
func (e *Explorer) Run(ctx context.Context) (x Explored, err error) {
	e.began, e.repeats = time.Now(), map[string]int{}
	defer func() { x.DurationMS = time.Since(e.began).Milliseconds() }()
	e.out.Seed, e.out.First, e.out.Findings, e.out.Doubts = e.Seed, e.First, []Finding{}, []Finding{}
	for n := e.First; ctx.Err() == nil && (e.Most == 0 || n-e.First < e.Most); n++ {
		p := Generate(e.Seed, n)
		if e.AsItIs {
			p.MlockPages = 0
		}
		if e.OneByOne {
			p = oneByOne(p)
		}
		if n%tiresome != 0 && e.found(FormOf(p)) != nil {
			e.out.PassedBy++
			continue
		}
		e.announce(n)
		if err := e.one(n, p); err != nil {
			return e.out, fmt.Errorf("program %d: %w", n, err)
		}
	}
	return e.out, nil
}

// announce says that a program is about to run.
func (e *Explorer) announce(n uint64) {
	e.out.DurationMS = time.Since(e.began).Milliseconds()
	e.Announce(n, &e.out)
}

// one runs a program.
func (e *Explorer) one(n uint64, p check.Program) error {
	sc, err := e.Try(&p)
	if err != nil {
		return err
	}
	e.out.Programs++
	if sc.CouldNotRun {
		e.out.CouldNotRun++
		if e.out.Why == "" {
			e.out.Why = fmt.Sprintf("program %d: %s", n, sc.Reason)
		}
	}
	for _, v := range verdicts(&sc) {
		if f := e.explained(FormOf(p), v, certain(&sc)); f != nil {
			f.Met++
			continue
		}
		if err := e.shrink(n, p, v, &sc); err != nil {
			return err
		}
	}
	return nil
}

// verdicts are the names of what a program breaks: the tracer's, where it is certain.
func verdicts(sc *check.Scenario) []string {
	if len(sc.Evidence.Broken) > 0 && !sc.Evidence.Tracer.Certain() {
		return sc.Evidence.WitnessVerdicts
	}
	return sc.Verdicts
}

// certain reports whether a fail was seen by a witness, and by the tracer where one
// looked on.
func certain(sc *check.Scenario) bool {
	e := &sc.Evidence
	return len(e.Broken) > 0 && (!e.Tracer.Watched || len(e.Tracer.Broken) > 0)
}

// found is a finding that a program of some form comes to, for all that is known; nil: none.
func (e *Explorer) found(form Form) *Finding {
	for i := range e.out.Findings {
		if f := &e.out.Findings[i]; f.covers(form) {
			return f
		}
	}
	return nil
}

// explained is the finding by which a program breaks an invariant; nil: none that is known.
func (e *Explorer) explained(form Form, verdict string, certain bool) *Finding {
	list := *e.out.list(certain)
	var last *Finding
	forms := 0
	for i := range list {
		f := &list[i]
		if f.Verdict != verdict {
			continue
		}
		if f.covers(form) {
			return f
		}
		forms, last = forms+1, f
	}
	if forms >= mostForms || e.repeats[verdict] >= mostRepeats {
		return last
	}
	return nil
}

// shrink makes a finding of a program that broke an invariant the first time.
func (e *Explorer) shrink(n uint64, p check.Program, verdict string, first *check.Scenario) (err error) {
	began, sure := time.Now(), certain(first)
	defer func() { e.shrinking += time.Since(began) }()
	after := time.Since(e.began) - e.shrinking
	var last check.Scenario
	fails := func(q check.Program) bool {
		if err != nil {
			return false
		}
		e.out.Tries++
		e.announce(n)
		var sc check.Scenario
		if sc, err = e.Try(&q); err != nil || !slices.Contains(verdicts(&sc), verdict) || certain(&sc) != sure {
			return false
		}
		last = sc
		return true
	}
	f := Finding{Verdict: verdict, Number: n, Steps: len(p.Steps), Met: 1, AfterPrograms: e.out.Programs, AfterMS: after.Milliseconds(), Certain: sure}
	again := func(p check.Program) bool {
		f.Program, f.Runs, f.Failed = p, 0, 0
		for f.Runs < runsAgain && f.stable() && err == nil {
			f.Runs++
			if fails(p) {
				f.Failed++
			}
		}
		return f.stable() && err == nil
	}
	// What does not come every time cannot be shrunk: a step would be dropped because it did
	// not come that time. So is what needs calls at the same time, sooner or later.
	if quiet := oneByOne(p); again(clean(quiet)) {
		short, simple := Shrink(quiet, triesToShrink, fails)
		f.forms = []Form{FormOf(simple), FormOf(short)}
		f.Form = f.forms[0].Strings()
		again(simple)
	} else {
		if len(quiet.Steps) < len(p.Steps) {
			again(clean(p))
		}
		f.Form = atOnce(p).Strings()
		f.forms = []Form{atOnce(p)}
	}
	if err != nil {
		return err
	}
	if last.Reason == "" {
		last = *first
	}
	f.Reason, f.Hurts = last.Reason, check.Impact(verdict)
	e.add(f)
	return nil
}

// oneByOne is a program without the steps in which calls are made at the same time.
func oneByOne(p check.Program) check.Program {
	p.Steps = slices.DeleteFunc(slices.Clone(p.Steps), func(o check.Op) bool { return o.Call == check.CallRace || o.Call == check.CallStorm })
	return p
}

// atOnce is the form of a program in which calls at the same time matter: the first of
// those, or all where there is none.
func atOnce(p check.Program) Form {
	form := FormOf(p)
	for _, call := range []string{check.CallRace, check.CallStorm} {
		for _, o := range form {
			if o.Call == call {
				o.Process, o.Event, o.To = 0, 0, 1
				return Form{o}
			}
		}
	}
	return form
}

// add adds a finding, if it is none that is there already.
func (e *Explorer) add(f Finding) {
	list := *e.out.list(f.Sure())
	for i := range list {
		if old := &list[i]; old.Verdict == f.Verdict && (slices.Equal(old.Form, f.Form) || !old.stable() && !f.stable()) {
			old.Met++
			old.forms = append(old.forms, f.forms...)
			e.repeats[f.Verdict]++
			return
		}
	}
	f.Known = knownAs(e.Known, &f)
	if added := e.out.add(f); e.Found != nil {
		e.Found(added)
	}
}

// Progress says how far exploring is, with a program under way: Guests read it.
func (x *Explored) Progress(number uint64) string {
	rate := float64(x.Programs+x.Tries) / max(1, float64(x.DurationMS)/1000)
	return fmt.Sprintf("program %d: %s, %s to shrink, %.1f per second, %s", number, remedy.Count(int64(x.Programs), "program"), remedy.Count(int64(x.Tries), "run"), rate, remedy.Count(int64(len(x.Findings)), "finding"))
}

// Known is what a kernel is known to get wrong, of testdata/findings.
type Known = findings.Finding

// KnownOf is what the series of a release is known to get wrong.
func KnownOf(release string) []Known {
	part := strings.SplitN(release, ".", 3)
	if len(part) < 3 {
		return nil
	}
	series := part[0] + "." + part[1]
	return slices.DeleteFunc(findings.Stock(), func(k Known) bool { return !slices.Contains(k.Series, series) })
}

// Shows reports whether a form has one that comes to a known finding as its part.
func Shows(k *Known, form Form) bool {
	return slices.ContainsFunc(k.Forms, func(part string) bool { return ParseForm(strings.Split(part, "; ")).within(form) })
}

// knownAs is the name of what a finding is known as; "": it is new.
func knownAs(known []Known, f *Finding) string {
	form := ParseForm(f.Form)
	for _, k := range known {
		switch {
		case k.Verdict != f.Verdict:
		case k.Log != "" && strings.Contains(f.Log, k.Log), Shows(&k, form):
			return k.Name
		}
	}
	return ""
}

// Strings are the steps of a form in words.
func (f Form) Strings() (list []string) {
	for _, o := range f {
		words := []string{o.Call}
		if !ofMachine(o.Call) {
			words = append(words, fmt.Sprintf("p%d", o.Process))
		}
		switch {
		case maps(o.Call):
			words = append(words, fmt.Sprintf("e%d m%d", o.Event, o.Mapping))
		case o.Call == check.CallRedirect:
			words = append(words, fmt.Sprintf("e%d e%d", o.Event, o.To))
		case o.Call == check.CallRace:
			words = append(words, fmt.Sprintf("p%d e%d", o.To, o.Event))
		case usesMapping(o.Call):
			words = append(words, fmt.Sprintf("m%d", o.Mapping))
		case check.OfObject(o.Call):
			words = append(words, fmt.Sprintf("o%d", o.Object))
		}
		list = append(list, strings.Join(words, " "))
	}
	return list
}

// ParseForm is what Strings put into words.
func ParseForm(list []string) (f Form) {
	for _, step := range list {
		call, names, _ := strings.Cut(step, " ")
		o := check.Op{Call: call}
		switch {
		case ofMachine(call):
		case maps(call):
			fmt.Sscanf(names, "p%d e%d m%d", &o.Process, &o.Event, &o.Mapping)
		case call == check.CallRedirect:
			fmt.Sscanf(names, "p%d e%d e%d", &o.Process, &o.Event, &o.To)
		case call == check.CallRace:
			fmt.Sscanf(names, "p%d p%d e%d", &o.Process, &o.To, &o.Event)
		case usesMapping(call):
			fmt.Sscanf(names, "p%d m%d", &o.Process, &o.Mapping)
		case check.OfObject(call):
			fmt.Sscanf(names, "p%d o%d", &o.Process, &o.Object)
		default:
			fmt.Sscanf(names, "p%d", &o.Process)
		}
		f = append(f, o)
	}
	return f
}
