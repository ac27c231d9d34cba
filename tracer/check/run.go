package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/session"
)

// Options say how to check the running kernel.
type Options struct {
	Tracer    tracer.Options
	Exercises []Exercise
	Invasive  bool
	Flags     []string // what was asked for, so that a scenario can be seen again
	// Apart keeps the checker to the first CPU and its actors off it. They take turns,
	// and an emulated CPU that stays with one process keeps its address translations.
	Apart    bool
	Progress func(what string, n, of int) // called before each scenario; may be nil
	// Judged is called when all is said, before the probes are taken off and settings
	// put back; may be nil.
	Judged func(Kernel)
	// Sink makes one that gets the whole of a trace, besides the check; nil: there is none.
	Sink func() (pipeline.Sink, error)
}

// TellHost has a check in a guest tell the one that booted it how it goes: a line on stderr
// for each scenario, and the report in one line on stdout.
func (o *Options) TellHost(stdout, stderr io.Writer) {
	o.Apart = true
	debug.SetGCPercent(400) // the guest has memory, and nothing else to do with it
	o.Progress = func(name string, n, of int) { fmt.Fprintf(stderr, "progress: %d/%d %s\n", n, of, name) }
	// A host that does not get it knows.
	o.Judged = func(k Kernel) { json.NewEncoder(stdout).Encode(ReportOf(k)) }
}

// run is a check of the running kernel.
type run struct {
	ctx     context.Context
	opts    Options
	host    *host
	cgroup  string // the check's own; ""
	noCG    string // why there is none
	memory  bool   // cgroups have the memory controller
	aux     uint32 // PMU type with an AUX area; 0: none
	uid     int    // the next throwaway uid
	model   model
	regime  func() regime // of BPF objects; found out once
	actors  string        // their cgroup, where they have none of their own; ""
	idle    []*process    // actors that wait for the next scenario
	session *session.Session
	habits  *habits     // nil: not found out yet
	own     unix.CPUSet // the checker's CPU, where it is kept apart
	others  unix.CPUSet // its actors'
}

// Run exercises the running kernel. An error says why that could not be done at
// all.
func Run(ctx context.Context, opts Options) (k Kernel, err error) {
	k = thisKernel()
	began := time.Now()
	r, err := newRun(ctx, opts)
	if err != nil {
		return k, err
	}
	defer func() { err = errors.Join(err, r.end()) }()
	k.Scenarios, err = r.all(ctx, &k)
	k.DurationMS = time.Since(began).Milliseconds()
	if err == nil && opts.Judged != nil {
		opts.Judged(k)
	}
	return k, err
}

// thisKernel is the running kernel, of which nothing is known yet.
func thisKernel() Kernel {
	return Kernel{Release: kernel.Release(), Arch: runtime.GOARCH, PageBytes: page(), Scenarios: []Scenario{}, Gone: []Gone{}}
}

// newRun makes what scenarios need on this machine. End it.
func newRun(ctx context.Context, opts Options) (r *run, err error) {
	if err := able(); err != nil {
		return nil, err
	}
	r = &run{ctx: ctx, opts: opts, uid: 0x7fc00000 + os.Getpid()%0x1000*0x200, aux: auxPMU()}
	if err := r.keepApart(); err != nil {
		return nil, err
	}
	if r.model, err = readModel(); err != nil {
		return nil, fmt.Errorf("%w: requires a kernel with CONFIG_PERF_EVENTS", err)
	}
	if r.host, err = newHost(opts.Invasive); err != nil {
		return nil, err
	}
	if r.cgroup, r.memory, err = r.host.newCgroup(); err != nil {
		r.noCG = err.Error()
	} else {
		// A cgroup whose children have controllers can hold no processes itself.
		r.actors = filepath.Join(r.cgroup, "actors")
		if err := os.Mkdir(r.actors, 0o755); err != nil {
			return nil, errors.Join(err, r.host.close())
		}
	}
	r.regime = sync.OnceValue(r.findRegime)
	return r, nil
}

// end takes the probes off and puts the machine back.
func (r *run) end() error {
	r.unwatch()
	for _, p := range r.idle {
		p.end()
	}
	return r.host.close()
}

// able says what is missing to run scenarios at all.
func able() error {
	var missing []string
	for _, name := range []string{"cap_setuid", "cap_setgid", "cap_setpcap", "cap_sys_admin", "cap_sys_resource", "cap_dac_override", "cap_kill"} {
		value, err := cap.FromName(name)
		if err != nil {
			return err
		}
		if has, err := cap.GetProc().GetFlag(cap.Effective, value); err != nil || !has {
			missing = append(missing, strings.ToUpper(name))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("check: requires %s, which this process lacks: run as root, in a container as a privileged one", strings.Join(missing, ", "))
	}
	return nil
}

// all runs the scenarios under one trace. What lost events, or events that were
// not seen, is run once more.
func (r *run) all(ctx context.Context, k *Kernel) ([]Scenario, error) {
	results := make([]Scenario, len(r.opts.Exercises))
	todo := make([]int, len(results))
	for i := range todo {
		todo[i] = i
	}
	for attempt := 1; len(todo) > 0 && attempt <= 2; attempt++ {
		again, err := r.pass(ctx, k, results, todo)
		if err != nil {
			return results, err
		}
		todo = again
	}
	return results, nil
}

// users is how many a scenario may have.
const users = 4

// pass runs some of the scenarios, and returns those to run again.
func (r *run) pass(ctx context.Context, k *Kernel, results []Scenario, todo []int) (again []int, err error) {
	r.say("the tracer's start", 0, len(todo))
	w, err := r.watch(ctx, k)
	if err != nil {
		k.TracerError = err.Error()
	}
	scenes := make([]*Scene, len(results))
	for n, i := range todo {
		e := r.opts.Exercises[i]
		r.say(e.Name, n+1, len(todo))
		results[i], scenes[i] = r.one(ctx, e)
		w.mark()
		if ctx.Err() != nil {
			break
		}
	}
	events, lost, err := w.stop()
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}
	if err != nil {
		k.TracerError = err.Error()
	}
	placed, unplaced := w.place(events, lost, scenes, todo)
	for _, i := range todo {
		sc, scene := &results[i], scenes[i]
		if sc.Result == Skip {
			if sc.CouldNotRun {
				again = append(again, i)
			}
			continue
		}
		traced := w != nil && err == nil && w.watches(r.opts.Exercises[i].Charges)
		if traced {
			own := scene.own(events)
			lost := placed[scene] + unplaced
			sc.Evidence.Tracer = judge(own, lost)
			if missed := scene.missed(own); lost > 0 || missed != "" {
				sc.Result, sc.CouldNotRun = Skip, true
				sc.Reason = fmt.Sprintf("could not run: the tracer lost %d events%s", lost, missed)
				again = append(again, i)
				continue
			}
		}
		sc.conclude(traced)
		sc.again(r.opts.Flags)
	}
	return again, nil
}

func (r *run) say(what string, n, of int) {
	if r.opts.Progress != nil {
		r.opts.Progress(what, n, of)
	}
}

// one runs a scenario's body. The result is open until the tracer's events were
// judged, unless it is a skip.
func (r *run) one(ctx context.Context, e Exercise) (sc Scenario, s *Scene) {
	sc = Scenario{Name: e.Name, Result: Skip, Verdicts: []string{}, Evidence: Evidence{
		AllowancePages: r.model.allowance, Broken: []Witness{}, WitnessVerdicts: []string{}, right: map[string]bool{}, Agree: true, Reproduce: []string{}, Notes: []string{}, Tracer: Watched{Scheme: "unknown", Broken: []Broken{}},
	}}
	switch {
	case e.Invasive && !r.opts.Invasive:
		sc.Reason = "changes settings of the whole machine: run with --invasive"
		return sc, nil
	case e.Needs != nil:
		if sc.Reason = e.Needs(r); sc.Reason != "" {
			return sc, nil
		}
	}
	s = &Scene{ctx: ctx, run: r, host: r.host, model: r.model, Evidence: sc.Evidence, off: map[*process]int64{}}
	for range users {
		s.uids = append(s.uids, r.uid)
		r.uid++
	}
	began := time.Now()
	err := s.play(e.Do)
	sc.DurationMS = time.Since(began).Milliseconds()
	sc.Evidence = s.Evidence
	sc.Evidence.Notes = s.calls
	switch {
	case s.skip != "":
		sc.Reason = s.skip
	case err != nil:
		sc.CouldNotRun, sc.Reason = true, "could not run: "+err.Error()
	default:
		sc.Result = ""
	}
	return sc, s
}

// process finds a process that has nothing to do, or starts one.
func (r *run) process(w Who, uid int) (*process, error) {
	if last := len(r.idle) - 1; last >= 0 && w.Cgroup == "" && !w.UserNS {
		p := r.idle[last]
		r.idle = r.idle[:last]
		return p, nil
	}
	cgroup := r.actors
	if w.Cgroup != "" {
		cgroup = w.Cgroup
	}
	p, err := r.start(cgroup, w.UserNS, uid)
	if err == nil {
		p.single = w.Cgroup != "" || w.UserNS
	}
	return p, err
}

// play runs a body, and leaves nothing behind.
func (s *Scene) play(do func(*Scene)) (err error) {
	defer func() {
		for _, dir := range s.subs {
			removeCgroup(dir)
		}
	}()
	defer s.end()
	defer func() {
		switch caught := recover().(type) {
		case nil:
		case stop:
			err = caught.err
		default:
			panic(caught)
		}
	}()
	s.refresh()
	before := s.model
	s.newUser()
	do(s)
	s.finish()
	s.refresh()
	if s.model != before {
		// The witnesses were held against limits that were no longer true.
		return errors.New("something else changed perf_event_mlock_kb, perf_event_paranoid or the online CPUs meanwhile")
	}
	return nil
}

// auxPMU finds a PMU that has an AUX area.
func auxPMU() uint32 {
	for _, name := range auxPMUs() {
		if kind, err := kernel.PMUType(name); err == nil {
			return kind
		}
	}
	return 0
}
