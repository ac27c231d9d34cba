// Package session is a trace as a command has it: the tracer, what was mapped before,
// the traced command, and what was lost.
package session

import (
	"context"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"runtime/debug"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// Session is an open trace, what it knows of the time before it, and the command
// that it is about, if any.
type Session struct {
	*tracer.Tracer
	State   *snapshot.Source
	command []string
}

// Open opens a session. It makes less garbage at a time, and gives the memory for
// the kernel's types back: reading them takes many times more than tracing.
func Open(ctx context.Context, opts tracer.Options, before snapshot.Options, command []string) (*Session, error) {
	defer debug.FreeOSMemory()
	defer debug.SetGCPercent(debug.SetGCPercent(25))
	if len(command) > 0 {
		// Orphans of the command stay below this process, and so its own.
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("become the command's subreaper: %w", err)
		}
		opts.CommandParent = os.Getpid()
	}
	opts.Cache = btf.NewCache()
	before.Cache = opts.Cache
	// The iterators' programs are loaded before there is a trace, and freed after it:
	// it would see them.
	state, err := snapshot.Open(before)
	if err != nil {
		return nil, err
	}
	t, err := tracer.Open(opts)
	if err != nil {
		state.Close()
		return nil, err
	}
	t.StartFrom(ctx, state)
	return &Session{t, state, command}, nil
}

// Close ends a session.
func (s *Session) Close() {
	s.Tracer.Close()
	s.State.Close()
}

// Run runs the command and has the events used until it ends, or ctx does, and says
// what was lost.
func (s *Session) Run(ctx context.Context, use func(iter.Seq2[ledger.Event, error]) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(s.command) > 0 {
		wait, err := start(ctx, s.command)
		if err != nil {
			return err
		}
		go func() { wait(); cancel() }()
	}
	err := use(s.Events(ctx))
	if losses := s.Losses(); losses.Total() > 0 {
		fmt.Fprintf(os.Stderr, "pinwatch: lost events: %s\n", losses)
	}
	return err
}

// start runs a command; the returned function waits for it and says how it
// ended, if not well.
func start(ctx context.Context, command []string) (func(), error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run the command: %w", err)
	}
	return func() {
		if err := cmd.Wait(); err != nil {
			fmt.Fprintf(os.Stderr, "pinwatch: %s: %v\n", command[0], err)
		}
	}, nil
}
