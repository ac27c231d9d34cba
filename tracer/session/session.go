// Package session is a trace as a command has it: the tracer, what was mapped before,
// the traced command, and what was lost. It owns the ledger and feeds the sinks.
package session

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/self"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// Options say what to trace.
type Options struct {
	Tracer   tracer.Options
	Snapshot snapshot.Options
	// NoSnapshot leaves out what was mapped before: for a trace whose subject begins
	// after it.
	NoSnapshot bool
	// Command makes the command that is run once the trace is open, and whose end ends
	// the trace; its context ends with the trace. nil: none.
	Command func(context.Context) *exec.Cmd
}

// Session is an open trace. Close it.
type Session struct {
	*tracer.Tracer
	// State is the state of the host at any time; nil without a snapshot.
	State   *snapshot.Source
	command func(context.Context) *exec.Cmd // nil: none
	notes   []string                        // what is not known of the time before
}

// Open opens a session. It collects garbage more eagerly and returns memory to the
// system afterwards: parsing the kernel's types needs many times the memory of tracing.
func Open(ctx context.Context, opts Options) (*Session, error) {
	defer debug.FreeOSMemory()
	defer debug.SetGCPercent(debug.SetGCPercent(70))
	if opts.Command != nil {
		// Orphans of the command stay below this process, and so its own.
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("become the command's subreaper: %w", err)
		}
		opts.Tracer.CommandParent = os.Getpid()
	}
	opts.Tracer.Cache = btf.NewCache()
	opts.Snapshot.Cache = opts.Tracer.Cache
	opts.Tracer.Payer = self.New()
	opts.Snapshot.Payer = opts.Tracer.Payer
	s := &Session{command: opts.Command} // and not the types, which take many times its memory
	if !opts.NoSnapshot {
		// The iterators' programs are loaded before there is a trace, and freed after
		// it: it would see them.
		var err error
		if s.State, err = snapshot.Open(opts.Snapshot); err != nil {
			return nil, err
		}
	}
	var err error
	if s.Tracer, err = tracer.Open(opts.Tracer); err != nil {
		s.closeState()
		return nil, err
	}
	if s.State != nil {
		s.startFrom(ctx)
	}
	return s, nil
}

// startFrom has the trace begin with what is mapped already. The probes are attached by
// now, so nothing is missed between the snapshot and them. Without a snapshot a trace
// begins with nothing, and says so.
func (s *Session) startFrom(ctx context.Context) {
	now, err := s.State.Take(ctx)
	if err != nil {
		s.notes = append(s.notes, fmt.Sprintf("what was mapped before is not known: %v", err))
		return
	}
	preexisting := now.Preexisting()
	foreign := slices.ContainsFunc(now.Buffers, func(b snapshot.Buffer) bool { return b.PID != uint32(os.Getpid()) })
	if len(preexisting) == 0 && foreign {
		s.notes = append(s.notes, fmt.Sprintf("%d mappings that are older than the trace are not known well enough for a verdict (that takes BPF iterators: Linux %s)", len(now.Buffers), kernel.Iterators().Since))
	}
	s.StartWith(preexisting)
}

// Degraded says what this kernel or this user does not allow, and what that means.
func (s *Session) Degraded() []string { return slices.Concat(s.Tracer.Degraded(), s.notes) }

func (s *Session) closeState() {
	if s.State != nil {
		s.State.Close()
	}
}

// Close ends a session.
func (s *Session) Close() {
	s.Tracer.Close()
	s.closeState()
}

// CommandError is how the traced command ended, if not well. The trace is whole all
// the same.
type CommandError struct {
	Name    string
	Err     error // of package exec
	Stopped bool  // it was ended with the trace, before it had ended itself
}

func (e *CommandError) Error() string { return e.Name + ": " + e.Err.Error() }

// Unwrap returns the error of package exec.
func (e *CommandError) Unwrap() error { return e.Err }

// Run runs the command, and has the ledger feed the sinks until it ends, or ctx does.
// A *CommandError says that the command failed, and nothing else did.
func (s *Session) Run(ctx context.Context, sinks ...pipeline.Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var command *exec.Cmd
	var stopped atomic.Bool
	ended := make(chan error, 1)
	if s.command != nil {
		var err error
		if command, err = s.start(ctx, &stopped); err != nil {
			return err
		}
		go func() {
			ended <- command.Wait()
			cancel()
		}()
	} else {
		ended <- nil
	}
	sinks = append(slices.Clip(sinks), seen{})
	if err := pipeline.Run(s.Events(ctx), func() uint64 { return s.Losses().Total() }, sinks...); err != nil {
		return err
	}
	cancel() // a sink may have had enough
	if err := <-ended; err != nil {
		return &CommandError{command.Args[0], err, stopped.Load()}
	}
	return nil
}

// start starts the command, and notes whether it was stopped with the trace.
func (s *Session) start(ctx context.Context, stopped *atomic.Bool) (*exec.Cmd, error) {
	cmd := s.command(ctx)
	cmd.Cancel = func() error {
		err := cmd.Process.Signal(unix.SIGTERM)
		stopped.Store(err == nil)
		return err
	}
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run the command: %w", err)
	}
	return cmd, nil
}
