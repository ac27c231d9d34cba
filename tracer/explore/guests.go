package explore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/guest"
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
	s := fmt.Sprintf("%d programs, %d findings", x.Programs, len(x.Findings))
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

// one explores one kernel: in one guest, and in one more after each crash.
func (g *Guests) one(ctx context.Context, image string) Explored {
	all := Explored{Seed: g.Seed, First: g.First, Findings: []Finding{}, Doubts: []Finding{}}
	all.Image, all.Release, all.Scenarios = image, check.ReleaseOf(image), []check.Scenario{}
	for first, left := g.First, g.Duration; ; {
		most := g.Most
		if most > 0 {
			most -= first - g.First
		}
		t := g.guest(ctx, image, first, most, left)
		all.merge(&t.out)
		left -= t.explored
		if t.died == nil {
			return all
		}
		if ctx.Err() != nil || !t.announced {
			all.Error = t.died.Error()
			return all
		}
		f := Finding{Verdict: t.verdict(), Number: t.number, Program: Generate(g.Seed, t.number), Met: 1, AfterPrograms: all.Programs, AfterMS: (g.Duration - left).Milliseconds(), Log: t.log()}
		f.Name, f.Reason, f.Steps = f.Verdict, t.died.Error(), len(f.Program.Steps)
		again := g.guest(ctx, image, t.number, 1, g.Timeout)
		f.Runs, f.Certain = 1, true
		if again.died != nil && again.announced {
			f.Failed = 1
		}
		list := all.list(f.sure())
		*list = append(*list, f)
		if g.Found != nil {
			g.Found(all.Release, &f)
		}
		first = t.number + 1
		if left <= 0 || g.Most > 0 && first >= g.First+g.Most {
			return all
		}
	}
}

func (x *Explored) list(sure bool) *[]Finding {
	if sure {
		return &x.Findings
	}
	return &x.Doubts
}

// merge adds what came of one more guest.
func (x *Explored) merge(o *Explored) {
	if o.Release != "" {
		o.Image = x.Image
		x.Kernel = o.Kernel
	}
	x.Programs, x.PassedBy, x.Tries, x.CouldNotRun = x.Programs+o.Programs, x.PassedBy+o.PassedBy, x.Tries+o.Tries, x.CouldNotRun+o.CouldNotRun
	if x.Why == "" {
		x.Why = o.Why
	}
	x.Findings, x.Doubts = append(x.Findings, o.Findings...), append(x.Doubts, o.Doubts...)
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

// guest explores in a guest.
func (g *Guests) guest(ctx context.Context, image string, first, most uint64, left time.Duration) (t *trial) {
	t = &trial{}
	release := check.ReleaseOf(image)
	c, _, err := g.Machine(image)
	if err != nil {
		t.died = err
		return t
	}
	g.Progress(release, "booting")
	ctx, end := context.WithCancel(ctx)
	defer end()
	// An oops ends the guest: what runs after it says nothing of the kernel.
	c.Append = strings.TrimSpace(c.Append + " oops=panic")
	c.Args = append(c.Args, "--explore", left.String(), "--seed", fmt.Sprint(g.Seed), "--from", fmt.Sprint(first), "--programs", fmt.Sprint(most))
	c.Timeout = left + g.Timeout + quiet
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
				list := t.out.list(m.Finding.sure())
				*list = append(*list, *m.Finding)
				g.Found(release, m.Finding)
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
