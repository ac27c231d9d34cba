// Package explored is what check does about random programs: its flags, and exploring a
// kernel, or several in guests, with progress on stderr and the report on stdout.
package explored

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output/report"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/explore"
)

// Help is what check says of them.
const Help = `With --explore it runs random programs of calls instead of scenarios, for the given
time on each kernel, against the same model and witnesses. A program that breaks an
invariant is shrunk to the shortest that still does, run again, and compared with what
stock kernels are known for. The same --seed gives the same programs. In a guest a
program that crashes the kernel or hangs it is found too. --program plays one again.
`

// Flags are those of check that are about random programs.
type Flags struct {
	Duration time.Duration // 0: no exploring
	seed     uint64
	most     uint64 // programs; 0: as many as the time allows
	from     uint64 // for the check that runs this one, like oneByOne
	oneByOne bool
	file     string
	number   int64 // below 0: none
}

// Add adds them.
func (x *Flags) Add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.DurationVar(&x.Duration, "explore", 0, "run random programs of calls for this time, on each kernel")
	f.Uint64Var(&x.seed, "seed", 1, "of the random programs: the same seed gives the same ones")
	f.Uint64Var(&x.most, "programs", 0, "explore at most so many programs; 0: as many as the time allows")
	f.Int64Var(&x.number, "program-number", -1, "play the program of --seed that has this `number`, as it is")
	f.StringVar(&x.file, "program", "", "play the program in this `file`: the JSON that --explore writes of a finding")
	f.Uint64Var(&x.from, "from", 0, "begin with the program of this number")
	f.BoolVar(&x.oneByOne, "one-by-one", false, "leave out the steps in which calls are made at the same time")
	f.MarkHidden("from")
	f.MarkHidden("one-by-one")
	for _, other := range []string{"scenario", "list"} {
		cmd.MarkFlagsMutuallyExclusive("explore", "program", "program-number", other)
	}
}

// Played is the program that was asked for, as the one scenario; nil: none was. Guests get
// it as a file, which done removes.
func (x *Flags) Played(g *check.Guests) (list []check.Exercise, done func(), err error) {
	done = func() {}
	p, err := x.chosen()
	if err != nil || p == nil {
		return nil, done, err
	}
	if len(g.Kernels) > 0 {
		raw, err := json.Marshal(p)
		if err != nil {
			return nil, done, err
		}
		f, err := os.CreateTemp("", "pinwatch-program-")
		if err != nil {
			return nil, done, err
		}
		g.Program, done = f.Name(), func() { os.Remove(f.Name()) }
		_, err = f.Write(raw)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, done, err
		}
	}
	return []check.Exercise{p.Exercise()}, done, nil
}

// chosen is the program that was asked for; nil: none was.
func (x *Flags) chosen() (*check.Program, error) {
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

// Command is one exploring.
type Command struct {
	Flags
	Out, Err io.Writer
	Write    func(w io.Writer, r *explore.Report, flags []string) error
	Guests   check.Guests // with the types of the running kernel, where there are none
	InGuest  bool
	Invasive bool
}

// Run explores the given kernels, or the running one, and writes the report.
func (c *Command) Run(ctx context.Context) (sum check.Report, err error) {
	if c.InGuest {
		return sum, c.forHost(ctx)
	}
	progress := report.NewProgress(c.Err, max(1, len(c.Guests.Kernels)))
	defer progress.Clear()
	var found explore.Report
	if len(c.Guests.Kernels) > 0 {
		g := explore.Guests{Guests: c.Guests, Seed: c.seed, First: c.from, Most: c.most, Duration: c.Duration}
		g.Progress, g.Done = progress.Say, progress.Done
		g.Found = func(release string, f *explore.Finding) { progress.Note(release, report.FindingLine(f)) }
		found, err = g.Run(ctx)
	} else {
		var x explore.Explored
		x, err = c.here(ctx, &explore.Explorer{
			Announce: func(n uint64, x *explore.Explored) { progress.Say("here", x.Progress(n)) },
			Found:    func(f *explore.Finding) { progress.Note("here", report.FindingLine(f)) },
		})
		found = explore.Report{Version: explore.Version, Kernels: []explore.Explored{x}}
	}
	if err != nil {
		return sum, err
	}
	progress.Clear()
	if err := c.Write(c.Out, &found, c.Guests.Flags); err != nil && !errors.Is(err, unix.EPIPE) {
		return sum, err
	}
	return found.Check(), nil
}

// here explores the running kernel.
func (c *Command) here(ctx context.Context, e *explore.Explorer) (explore.Explored, error) {
	opts := check.Options{Tracer: c.Guests.Tracer, Invasive: c.Invasive, Apart: c.InGuest}
	var err error
	if opts.Tracer.BTF, err = check.TypesHere(c.Guests.BTF); err != nil {
		return explore.Explored{}, err
	}
	e.Seed, e.First, e.Most, e.OneByOne = c.seed, c.from, c.most, c.oneByOne
	return e.Here(ctx, opts, c.Duration)
}

// forHost explores the kernel of a guest, and tells the host how it goes.
func (c *Command) forHost(ctx context.Context) error {
	debug.SetGCPercent(400) // the guest has memory, and nothing else to do with it
	say := json.NewEncoder(c.Out)
	x, err := c.here(ctx, &explore.Explorer{
		Announce: func(n uint64, x *explore.Explored) { fmt.Fprintf(c.Err, "%s%s\n", explore.Prefix, x.Progress(n)) },
		Found:    func(f *explore.Finding) { say.Encode(explore.Message{Finding: f}) },
		Ended:    func(x *explore.Explored) { say.Encode(explore.Message{Explored: x}) },
	})
	if err != nil {
		x.Error = err.Error()
		say.Encode(explore.Message{Explored: &x})
	}
	return err
}
