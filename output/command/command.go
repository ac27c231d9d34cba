// Package command is the command line of pinwatch: a file for each command.
//
// A command is a struct of options, a constructor, whose flags fill it, and a run
// function, which takes the options and nothing else. What it reads and writes are
// Streams, so that tests run a command in their own process.
package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output/agent"
	"github.com/pinwatch/pinwatch/output/command/loads"
	"github.com/pinwatch/pinwatch/output/command/tracing"
	"github.com/pinwatch/pinwatch/output/command/value"
	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/child"
	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/image"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// The exit statuses. A command that has others documents them.
const (
	exitFailure = 1
	exitUsage   = 2
	exitNoTrace = 4   // of the agent: this machine cannot be traced, and starting again is of no use
	exitGuest   = 125 // a guest came to no exit status
	exitAbort   = 129 // git bisect run takes what is above 127 for its end, and less for a bad revision
)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

// exitStatus is a command's own exit status; there is nothing more to say.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// failure is the exit status of a command whose answer is no, where it is.
func failure(is bool) error {
	if is {
		return exitStatus(exitFailure)
	}
	return nil
}

// Children are the processes that commands start, for child.Init.
func Children() []child.Table {
	return []child.Table{accounting.Children(), check.Children(), kernel.Children(), workload.Children()}
}

// Main runs the command that the arguments ask for, without the program's name, and
// returns its exit status.
func Main(ctx context.Context, args []string, s Streams) int {
	root := newRoot(&s)
	root.SetArgs(slices.Concat([]string{}, args)) // nil would mean os.Args
	status, err := statusOf(root.ExecuteContext(ctx))
	if err != nil {
		fmt.Fprintf(s.Err, "pinwatch: %v\n", err)
	}
	if status == exitUsage && asksToBisect(args) {
		return exitAbort
	}
	return status
}

// asksToBisect reports whether the exit status is for git bisect, also where the command line
// cannot be understood.
func asksToBisect(args []string) bool {
	i := slices.Index(args, "--exit")
	return slices.Contains(args, "--exit="+check.ExitBisect) || i >= 0 && i+1 < len(args) && args[i+1] == check.ExitBisect
}

// statusOf returns the exit status that an error stands for, and what is left to say.
func statusOf(err error) (int, error) {
	var own exitStatus
	var usage usageError
	var died *guest.Error
	var absent *image.Error
	var untraceable *agent.CannotTrace
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &own):
		return int(own), nil
	case errors.Is(err, unix.EPIPE): // the reader has seen enough
		return 0, nil
	case errors.As(err, &usage), errors.As(err, &absent):
		return exitUsage, err
	case errors.As(err, &untraceable):
		return exitNoTrace, err
	case errors.As(err, &died):
		return exitGuest, err
	}
	return exitFailure, err
}

// The groups of commands in the help.
const (
	groupTrace   = "trace"
	groupAsk     = "ask"
	groupCheck   = "check"
	groupDevelop = "develop"
)

// Root is the command that all others are under, for man pages and completions.
func Root(s Streams) *cobra.Command { return newRoot(&s) }

func newRoot(s *Streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "pinwatch",
		Short: "Watch Linux charge locked memory",
		Long: `Pinwatch watches the kernel charge pages to user_struct.locked_vm and
mm_struct.pinned_vm, compares every charge with what the accounting is meant to
be, and tells who was charged, who was refused and why, and whether this kernel
gets it wrong. It changes no setting. Amounts are in pages.

Exit status: 0 fine, 1 failure, 2 wrong usage; that of a COMMAND that is run is passed on.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          help,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			cmd.Flags().Visit(func(f *pflag.Flag) { value.TellNewName(s.Err, f) })
		},
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.AddGroup(
		&cobra.Group{ID: groupTrace, Title: "Trace this kernel, or replay a trace:"},
		&cobra.Group{ID: groupAsk, Title: "Ask about this machine:"},
		&cobra.Group{ID: groupCheck, Title: "Check a kernel:"},
		&cobra.Group{ID: groupDevelop, Title: "Develop and try:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupTrace, newTrace(s), newRecord(s), newReplay(s), newTop(s), newReport(s), newAgent(s))
	add(groupAsk, newExplain(s), newMaps(s), newDoctor(s))
	add(groupCheck, newCheck(s))
	add(groupDevelop, newGuest(s), loads.New(s.Out, s.Err, loads.Snapshots{Flag: tracing.AddSource, Open: tracing.OpenSnapshot}))
	root.AddCommand(newFields(s), newVersion(s))
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return wrongUsage(c, wrongValue(err)) })
	finish(root)
	return root
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// finish gives all commands what they have in common: what is wrong with their
// arguments is wrong usage, and their flags complete their values.
func finish(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			err := c.ValidateFlagGroups()
			if err == nil {
				err = check(c, args)
			}
			if err != nil {
				return wrongUsage(c, err)
			}
			return nil
		}
	}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) { value.Complete(cmd, f) })
	for _, sub := range cmd.Commands() {
		finish(sub)
	}
}

// wrongUsage is an error in what a command was told.
func wrongUsage(c *cobra.Command, err error) error {
	return usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
}

// wrongValue says of a flag's value what is wrong with it, and of other errors what
// they say themselves.
func wrongValue(err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return fmt.Errorf("--%s %s: %w", invalid.GetFlag().Name, invalid.GetValue(), invalid.Unwrap())
	}
	return err
}

// commandAfterDash allows arguments only as a command behind --.
func commandAfterDash(cmd *cobra.Command, args []string) error {
	if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
		return fmt.Errorf("unexpected %q: a command to trace comes after --", args[0])
	}
	return nil
}

// indent moves a text to the right by two columns.
func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }
