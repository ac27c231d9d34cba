package explore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/remedy"
)

// Version is the version of the report.
const Version = 1

// Report is what came of exploring some kernels.
type Report struct {
	Version int        `json:"v"`
	Kernels []Explored `json:"kernels"`
}

// What a kernel does that it survives in no way: named like a verdict.
const (
	Crash = "kernel-crash"
	Hang  = "kernel-hang"
)

// Guests say how to explore kernels that are booted in QEMU.
type Guests struct {
	check.Guests
	Seed, First, Most uint64
	Duration          time.Duration // of each kernel, starts left out
	Found             func(release string, f *Finding)

	boot func(context.Context, guest.Config) (int, error) // nil: guest.Run
}

// Run explores the kernels, several at a time.
func (g *Guests) Run(ctx context.Context) (Report, error) {
	r := Report{Version: Version, Kernels: make([]Explored, len(g.Kernels))}
	err := g.Each(ctx, func(i int) {
		r.Kernels[i] = g.one(ctx, g.Kernels[i])
		g.Done(r.Kernels[i].Release, r.Kernels[i].State())
	})
	return r, err
}

// State says in a few words how a kernel fared.
func (x *Explored) State() string {
	if x.Error != "" {
		return "could not be explored: " + strings.SplitN(x.Error, "\n", 2)[0]
	}
	s := fmt.Sprintf("%s, %s", remedy.Count(int64(x.Programs), "program"), remedy.Count(int64(len(x.Findings)), "finding"))
	if x.CouldNotRun > 0 {
		s += fmt.Sprintf(", %d could not run", x.CouldNotRun)
	}
	return s
}

// Check is a report such as of scenarios, for the exit status: a fail for each finding.
func (r *Report) Check() check.Report {
	sum := check.Report{Version: check.Version}
	for _, x := range r.Kernels {
		k := x.Kernel
		for range x.Findings {
			k.Scenarios = append(k.Scenarios, check.Scenario{Result: check.Fail})
		}
		if x.Programs > x.CouldNotRun {
			k.Scenarios = append(k.Scenarios, check.Scenario{Result: check.Pass})
		}
		sum.Kernels = append(sum.Kernels, k)
	}
	return sum
}

// one explores one kernel: in one guest, and in one more after each crash. What crashes it
// twice in one way would do so again and again: after that, nothing is done at once.
func (g *Guests) one(ctx context.Context, image string) Explored {
	all := Explored{Seed: g.Seed, First: g.First, Findings: []Finding{}, Doubts: []Finding{}}
	all.Image, all.Release, all.Scenarios, all.Gone = image, check.ReleaseOf(image), []check.Scenario{}, []check.Gone{}
	for first, left, deaths := g.First, g.Duration, 0; ; deaths++ {
		ask := asked{first: first, left: left, oneByOne: deaths >= 2}
		if g.Most > 0 {
			ask.most = g.Most - (first - g.First)
		}
		t := g.guest(ctx, image, ask, &all)
		all.merge(&t.out)
		left -= t.explored
		if t.died == nil {
			return all
		}
		if ctx.Err() != nil || !t.announced {
			all.Error = t.died.Error()
			return all
		}
		f := t.finding(g.Seed)
		f.AfterPrograms, f.AfterMS, f.Runs = all.Programs, (g.Duration - left).Milliseconds(), 1
		if old := all.take(&f); old != nil {
			// That it came by another program is as good as that it came again.
			old.Met, old.Runs, old.Failed = old.Met+1, old.Runs+1, old.Failed+1
			all.add(*old)
		} else {
			t := g.guest(ctx, image, asked{first: t.number, most: 1, left: g.Timeout}, &all)
			if t.died != nil && t.announced {
				f.Failed = 1
			}
			f.Known = knownAs(KnownOf(all.Release), &f)
			g.Found(all.Release, all.add(f))
		}
		first = t.number + 1
		if left <= 0 || g.Most > 0 && first >= g.First+g.Most || deaths == mostDeaths {
			return all
		}
	}
}

// mostDeaths is how often a kernel is booted again.
const mostDeaths = 6

// finding is a program that the guest died of.
func (t *trial) finding(seed uint64) Finding {
	f := Finding{Verdict: t.verdict(), Number: t.number, Program: Generate(seed, t.number), Form: []string{}, Met: 1, Certain: true, Log: t.log()}
	f.Reason, _, _ = strings.Cut(t.died.Error(), "\n")
	f.Steps = len(f.Program.Steps)
	return f
}

// same is a finding that is there already: of one form, or with the same first words of the
// kernel; nil: there is none.
func (x *Explored) same(f *Finding) *Finding {
	words := func(f *Finding) string { first, _, _ := strings.Cut(f.Log, "\n"); return first }
	for _, list := range [][]Finding{x.Findings, x.Doubts} {
		for i := range list {
			if old := &list[i]; old.Verdict == f.Verdict && slices.Equal(old.Form, f.Form) && words(old) == words(f) {
				return old
			}
		}
	}
	return nil
}

// take takes a finding that is the same out of the list; nil: there is none.
func (x *Explored) take(f *Finding) *Finding {
	old := x.same(f)
	if old == nil {
		return nil
	}
	taken := *old
	gone := func(f Finding) bool { return f.Name == taken.Name && f.Number == taken.Number }
	list := x.list(taken.Sure())
	*list = slices.DeleteFunc(*list, gone)
	return &taken
}

// add adds a finding, under a name of its own.
func (x *Explored) add(f Finding) *Finding {
	list := x.list(f.Sure())
	same := 1
	for _, old := range *list {
		if old.Verdict == f.Verdict {
			same++
		}
	}
	if f.Name = f.Verdict; same > 1 {
		f.Name = fmt.Sprintf("%s-%d", f.Verdict, same)
	}
	*list = append(*list, f)
	return &(*list)[len(*list)-1]
}

func (x *Explored) list(sure bool) *[]Finding {
	if sure {
		return &x.Findings
	}
	return &x.Doubts
}

// merge adds what came of one more guest.
func (x *Explored) merge(o *Explored) {
	before := x.DurationMS
	if o.Release != "" {
		o.Image, o.DurationMS = x.Image, o.DurationMS+x.DurationMS
		x.Kernel = o.Kernel
	}
	x.Programs, x.PassedBy, x.Tries, x.CouldNotRun = x.Programs+o.Programs, x.PassedBy+o.PassedBy, x.Tries+o.Tries, x.CouldNotRun+o.CouldNotRun
	if x.Why == "" {
		x.Why = o.Why
	}
	for _, f := range slices.Concat(o.Findings, o.Doubts) {
		if old := x.same(&f); old != nil {
			old.Met += f.Met
		} else {
			f.AfterPrograms, f.AfterMS = f.AfterPrograms+x.Programs-o.Programs, f.AfterMS+before
			x.add(f)
		}
	}
	x.DurationMS = max(x.DurationMS, o.DurationMS)
}

// quiet is how long a guest may say nothing while it explores: no program takes that long,
// and a call that does not come back is given up by the explorer before.
const quiet = 2 * time.Minute

// trial is one guest that explores.
type trial struct {
	out       Explored
	announced bool
	number    uint64        // of the program under way
	explored  time.Duration // since the first one
	died      error         // nil: it came to its end
	hangs     bool
	console   bytes.Buffer
}

// asked is what a guest is to explore.
type asked struct {
	first, most uint64
	left        time.Duration
	oneByOne    bool
}

// guest explores in a guest. What is known is not told again.
func (g *Guests) guest(ctx context.Context, image string, ask asked, known *Explored) (t *trial) {
	t = &trial{}
	release := check.ReleaseOf(image)
	c, _, err := g.Machine(&known.Kernel)
	if err != nil {
		t.died = err
		return t
	}
	g.Progress(release, "booting")
	ctx, end := context.WithCancel(ctx)
	defer end()
	// An oops ends the guest: what runs after it says nothing of the kernel.
	c.Append = strings.TrimSpace(c.Append + " oops=panic")
	c.Args = append(c.Args, "--explore", ask.left.String(), "--seed", fmt.Sprint(g.Seed), "--from", fmt.Sprint(ask.first), "--programs", fmt.Sprint(ask.most))
	if ask.oneByOne {
		c.Args = append(c.Args, "--one-by-one")
	}
	c.Timeout = ask.left + g.Timeout + quiet
	var began time.Time
	silence := time.AfterFunc(time.Hour, func() { t.hangs = true; end() })
	silence.Stop()
	defer silence.Stop()
	ended := false
	var said []string
	stdout := lines(func(line []byte) {
		var m Message
		if json.Unmarshal(line, &m) == nil {
			if m.Finding != nil {
				t.out.add(*m.Finding)
				if known.same(m.Finding) == nil {
					g.Found(release, m.Finding)
				}
			}
			if m.Explored != nil {
				t.out, ended = *m.Explored, true
				end()
			}
		}
	})
	stderr := lines(func(line []byte) {
		state, ok := strings.CutPrefix(string(line), Prefix)
		if !ok {
			said = append(said, string(line))
			return
		}
		if !t.announced {
			began = time.Now()
		}
		t.announced = true
		silence.Reset(quiet)
		fmt.Sscanf(state, "program %d: %d programs", &t.number, &t.out.Programs)
		g.Progress(release, state)
	})
	c.Stdout, c.Stderr, c.Console = stdout, stderr, &t.console
	boot := g.boot
	if boot == nil {
		boot = guest.Run
	}
	_, err = boot(ctx, c)
	if t.announced {
		t.explored = time.Since(began)
	}
	switch {
	case ended:
	case err != nil:
		t.died = err
		t.out.DurationMS = t.explored.Milliseconds()
	default:
		t.died = fmt.Errorf("the explorer in the guest ended: %s", strings.Join(said, "; "))
		t.announced = false // an error of ours, and not of the kernel
	}
	return t
}

// verdict is what became of a guest that died.
func (t *trial) verdict() string {
	if t.hangs || errors.Is(t.died, guest.ErrTimeout) {
		return Hang
	}
	return Crash
}

var trouble = regexp.MustCompile(`BUG: |Oops|general protection|Kernel panic|WARNING: |rcu: INFO|hung_task|blocked for more than`)

// log is what the kernel said, from the first trouble on.
func (t *trial) log() string {
	text := strings.ReplaceAll(t.console.String(), "\r", "")
	if at := trouble.FindStringIndex(text); at != nil {
		text = text[at[0]:]
	} else {
		text = text[max(0, len(text)-mostLog):]
	}
	return text[:min(len(text), mostLog)]
}

// mostLog is how much of a kernel's messages is kept, in bytes.
const mostLog = 4 << 10

// Message is a line that an explorer in a guest says to the host.
type Message struct {
	Finding  *Finding  `json:"finding"`
	Explored *Explored `json:"explored"`
}

// Prefix marks a line that says which program is under way.
const Prefix = "progress: "

// lines calls a function with each line.
func lines(each func([]byte)) io.Writer { return &lineWriter{each: each} }

type lineWriter struct {
	mu   sync.Mutex
	rest []byte
	each func([]byte)
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, b...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(b), nil
		}
		w.each(bytes.TrimSuffix(line, []byte("\r")))
		w.rest = rest
	}
}
