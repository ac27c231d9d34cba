package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output/report"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/explore"
)

// exploreFlags are those of check that are about random programs.
type exploreFlags struct {
	duration time.Duration
	seed     uint64
	most     uint64 // programs; 0: as many as the time allows
	from     uint64 // for the check that runs this one, like oneByOne
	oneByOne bool
	file     string
	number   int64 // below 0: none
}

func (x *exploreFlags) add(f *pflag.FlagSet) {
	f.DurationVar(&x.duration, "explore", 0, "run random programs of calls for this time, on each kernel")
	f.Uint64Var(&x.seed, "seed", 1, "of the random programs: the same seed gives the same ones")
	f.Uint64Var(&x.most, "programs", 0, "explore at most so many programs; 0: as many as the time allows")
	f.Int64Var(&x.number, "program-number", -1, "play the program of --seed that has this `number`, as it is")
	f.StringVar(&x.file, "program", "", "play the program in this `file`: the JSON that --explore writes of a finding")
	f.Uint64Var(&x.from, "from", 0, "begin with the program of this number")
	f.BoolVar(&x.oneByOne, "one-by-one", false, "leave out the steps in which calls are made at the same time")
	f.MarkHidden("from")
	f.MarkHidden("one-by-one")
}

// chosen is the program that was asked for; nil: none was.
func (x *exploreFlags) chosen() (*check.Program, error) {
	var p check.Program
	switch {
	case x.file != "":
		raw, err := os.ReadFile(x.file)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &p); err != nil || len(p.Steps) == 0 {
			return nil, errors.Join(fmt.Errorf("--program %s: want the JSON of a program, with steps", x.file), err)
		}
	case x.number >= 0:
		p = explore.Generate(x.seed, uint64(x.number))
	default:
		return nil, nil
	}
	return &p, nil
}

// programFile writes a program to a file for guests, which done removes.
func programFile(p *check.Program) (name string, done func(), err error) {
	raw, err := json.Marshal(p)
	if err != nil {
		return "", nil, err
	}
	f, err := os.CreateTemp("", "pinwatch-program-")
	if err != nil {
		return "", nil, err
	}
	done = func() { os.Remove(f.Name()) }
	if _, err := f.Write(raw); err != nil {
		done()
		return "", nil, errors.Join(err, f.Close())
	}
	return f.Name(), done, f.Close()
}

// runExplore explores the given kernels, or the running one.
func runExplore(ctx context.Context, o *checkOptions) error {
	write, err := report.ExploredWriter(o.format)
	if err != nil {
		return usageError{err}
	}
	var found explore.Report
	switch {
	case o.inGuest:
		return exploreForHost(ctx, o)
	case len(o.guests.Kernels) > 0:
		found, err = exploreGuests(ctx, o)
	default:
		var one explore.Explored
		one, err = exploreHere(ctx, o)
		found = explore.Report{Version: explore.Version, Kernels: []explore.Explored{one}}
	}
	if err != nil {
		return err
	}
	if err := write(o.Out, &found, o.flags); err != nil && !errors.Is(err, unix.EPIPE) {
		return err
	}
	sum := found.Check()
	code, err := sum.ExitCode(o.exit, false)
	if err == nil && code != 0 {
		return exitStatus(code)
	}
	return err
}

func exploreGuests(ctx context.Context, o *checkOptions) (explore.Report, error) {
	progress := report.NewProgress(o.Err, len(o.guests.Kernels))
	defer progress.Clear()
	o.guests.Progress, o.guests.Done = progress.Say, progress.Done
	o.guests.BTF, o.guests.Flags, o.guests.Tracer = o.btf, o.flags, o.tracing.options()
	o.guests.Binaries = map[string]string{"arm64": o.arm64}
	g := explore.Guests{Guests: o.guests, Seed: o.explore.seed, First: o.explore.from, Most: o.explore.most, Duration: o.explore.duration}
	g.Found = func(release string, f *explore.Finding) { progress.Note(release, report.FindingLine(f)) }
	return g.Run(ctx)
}

// exploreThis explores the running kernel.
func exploreThis(ctx context.Context, o *checkOptions, e *explore.Explorer) (explore.Explored, error) {
	types, err := check.TypesHere(o.btf)
	if err != nil {
		return explore.Explored{}, err
	}
	o.tracing.btf = types
	e.Seed, e.First, e.Most, e.OneByOne = o.explore.seed, o.explore.from, o.explore.most, o.explore.oneByOne
	return e.Here(ctx, check.Options{Tracer: o.tracing.options(), Invasive: o.invasive, Apart: o.inGuest}, o.explore.duration)
}

// exploreHere explores the running kernel for its user.
func exploreHere(ctx context.Context, o *checkOptions) (explore.Explored, error) {
	progress := report.NewProgress(o.Err, 1)
	defer progress.Clear()
	return exploreThis(ctx, o, &explore.Explorer{
		Announce: func(n uint64, x *explore.Explored) { progress.Say("program", x.Progress(n)) },
		Found:    func(f *explore.Finding) { progress.Note("found", report.FindingLine(f)) },
	})
}

// exploreForHost explores the kernel of a guest, and tells the host how it goes.
func exploreForHost(ctx context.Context, o *checkOptions) error {
	debug.SetGCPercent(400) // as tellHost
	say := json.NewEncoder(o.Out)
	x, err := exploreThis(ctx, o, &explore.Explorer{
		Announce: func(n uint64, x *explore.Explored) { fmt.Fprintf(o.Err, "%s%s\n", explore.Prefix, x.Progress(n)) },
		Found:    func(f *explore.Finding) { say.Encode(explore.Message{Finding: f}) },
		Ended:    func(x *explore.Explored) { say.Encode(explore.Message{Explored: x}) },
	})
	if err != nil {
		x.Error = err.Error()
		say.Encode(explore.Message{Explored: &x})
	}
	return err
}
