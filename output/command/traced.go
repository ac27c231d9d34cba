package command

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"

	"github.com/pinwatch/pinwatch/tracer/session"
)

// program makes the command that is traced; nil where there is none.
func (s *Streams) program(args []string) func(context.Context) *exec.Cmd {
	if len(args) == 0 {
		return nil
	}
	return func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = s.In, s.Out, s.Err
		return cmd
	}
}

// ended says what a trace lost, and how the traced command ended, if not well. Neither
// is a failure of the trace.
func (s *Streams) ended(t *session.Session, err error) error {
	if losses := t.Losses(); losses.Total() > 0 {
		fmt.Fprintf(s.Err, "pinwatch: lost events: %s\n", losses)
	}
	var command *session.CommandError
	if errors.As(err, &command) {
		fmt.Fprintf(s.Err, "pinwatch: %v\n", command)
		return nil
	}
	return err
}

// ownStatus passes on how a traced command ended: its exit status, or 128 and the number
// of the signal that ended it, as shells have it.
func ownStatus(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return nil
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitStatus(128 + int(status.Signal()))
	}
	return exitStatus(exit.ExitCode())
}
