package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Options say how to check the running kernel.
type Options struct {
	Tracer    tracer.Options
	Exercises []Exercise
	Invasive  bool
	Progress  func(name string, n, of int) // called before each scenario; may be nil
}

// run is a check of the running kernel.
type run struct {
	ctx    context.Context
	opts   Options
	host   *host
	cgroup string // the check's own; ""
	noCG   string // why there is none
	memory bool   // cgroups have the memory controller
	aux    uint32 // PMU type with an AUX area; 0: none
	uid    int    // the next throwaway uid
	model  model
	regime func() regime // of BPF objects; found out once
	actors string        // their cgroup, where they have none of their own; ""
	idle   []*process    // actors that wait for the next scenario
}

// Run exercises the running kernel. An error says why that could not be done at
// all.
func Run(ctx context.Context, opts Options) (k Kernel, err error) {
	k = Kernel{Release: release(), Arch: runtime.GOARCH, PageBytes: page(), Scenarios: []Scenario{}}
	if err := able(); err != nil {
		return k, err
	}
	began := time.Now()
	defer func() { k.DurationMS = time.Since(began).Milliseconds() }()
	r := &run{ctx: ctx, opts: opts, uid: 0x7fc00000 + os.Getpid()%0x1000*0x200, aux: auxPMU()}
	if r.model, err = readModel(); err != nil {
		return k, fmt.Errorf("%w: requires a kernel with CONFIG_PERF_EVENTS", err)
	}
	if r.host, err = newHost(opts.Invasive); err != nil {
		return k, err
	}
	defer func() { err = errors.Join(err, r.host.close()) }()
	if r.cgroup, r.memory, err = r.host.newCgroup(); err != nil {
		r.noCG = err.Error()
	} else {
		// A cgroup whose children have controllers can hold no processes itself.
		r.actors = filepath.Join(r.cgroup, "actors")
		if err := os.Mkdir(r.actors, 0o755); err != nil {
			return k, err
		}
	}
	defer func() {
		for _, p := range r.idle {
			p.end()
		}
	}()
	r.regime = sync.OnceValue(r.findRegime)
	k.Scenarios, err = r.all(ctx, &k)
	return k, err
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

// pass runs some of the scenarios, and returns those to run again.
func (r *run) pass(ctx context.Context, k *Kernel, results []Scenario, todo []int) (again []int, err error) {
	w, err := r.watch(ctx, k)
	if err != nil {
		k.TracerError = err.Error()
	}
	scenes := make([]*Scene, len(results))
	for n, i := range todo {
		e := r.opts.Exercises[i]
		if r.opts.Progress != nil {
			r.opts.Progress(e.Name, n+1, len(todo))
		}
		results[i], scenes[i] = r.one(ctx, e)
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
	for _, i := range todo {
		sc, scene := &results[i], scenes[i]
		if sc.Result == Skip {
			if sc.CouldNotRun {
				again = append(again, i)
			}
			continue
		}
		traced := w != nil && err == nil && !r.opts.Exercises[i].Alone
		if traced {
			var s ledger.Summary
			sc.Evidence.Tracer, s = judge(scene.own(events), lost)
			made := int64(s.Kinds[ledger.Charge] + s.Kinds[ledger.Mapping])
			if lost > 0 || made != scene.mappings {
				sc.Result, sc.CouldNotRun = Skip, true
				sc.Reason = fmt.Sprintf("could not run: the tracer saw %d mappings of %d, and lost %d events", made, scene.mappings, lost)
				again = append(again, i)
				continue
			}
		}
		sc.conclude(traced)
	}
	return again, nil
}

// one runs a scenario's body. The result is open until the tracer's events were
// judged, unless it is a skip.
func (r *run) one(ctx context.Context, e Exercise) (sc Scenario, s *Scene) {
	sc = Scenario{Name: e.Name, Result: Skip, Verdicts: []string{}, Evidence: Evidence{
		AllowancePages: r.model.allowance, Broken: []Witness{}, Agree: true, Reproduce: []string{}, Notes: []string{}, Tracer: Watched{Era: "unknown", Broken: []Broken{}},
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
	const users = 4
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
	p, err := start(r.ctx, cgroup, w.UserNS, uid)
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

// own are a scene's events: those of its users.
func (s *Scene) own(events []ledger.Event) (list []ledger.Event) {
	first, last := uint32(s.uids[0]), uint32(s.uids[len(s.uids)-1])
	for _, e := range events {
		if first <= e.UID && e.UID <= last || first <= e.Payer && e.Payer <= last {
			e.Lost = 0
			list = append(list, e)
		}
	}
	return list
}

// watch opens the trace that stays open over all scenarios.
func (r *run) watch(ctx context.Context, k *Kernel) (*watch, error) {
	began := time.Now()
	t, err := tracer.Open(r.opts.Tracer)
	k.TracerMS += time.Since(began).Milliseconds()
	if err != nil {
		return nil, err
	}
	k.Tracer, k.TracerError = t.Attached(), ""
	w := &watch{tracer: t}
	ctx, w.cancel = context.WithCancel(ctx)
	w.wait.Go(func() {
		for e, err := range t.Events(ctx) {
			if err != nil {
				w.err = err
				return
			}
			w.events = append(w.events, e)
		}
	})
	return w, nil
}

// watch collects the events of a trace.
type watch struct {
	tracer *tracer.Tracer
	cancel context.CancelFunc
	wait   sync.WaitGroup
	events []ledger.Event
	err    error
}

// stop ends the trace, and returns what it saw. It does nothing without one.
func (w *watch) stop() (events []ledger.Event, lost uint64, err error) {
	if w == nil {
		return nil, 0, nil
	}
	w.cancel()
	w.wait.Wait()
	lost = w.tracer.Losses().Total()
	w.tracer.Close()
	return w.events, lost, w.err
}

// auxPMU finds a PMU that has an AUX area.
func auxPMU() uint32 {
	for _, name := range auxPMUs() {
		raw, err := os.ReadFile("/sys/bus/event_source/devices/" + name + "/type")
		if err != nil {
			continue
		}
		if kind, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 32); err == nil {
			return uint32(kind)
		}
	}
	return 0
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
