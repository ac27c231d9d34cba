package command

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/pinwatch/pinwatch/output/gate"
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

// ownStatus passes on how a traced command ended.
func ownStatus(err error) error {
	if status := gate.StatusOf(err); status != 0 {
		return exitStatus(status)
	}
	return nil
}
