// Package child runs this program once more, as a process that does one thing.
//
// A package that needs such processes lists them, by name, in a Table; main passes
// all tables to Init before it does anything else. A child is recognised by its
// argv[0]: there is no command for it, and what it starts in turn inherits nothing.
// The tests of a package call Init from TestMain, and need no binary but their own.
package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Main is what a child does with its argument, which comes as JSON.
type Main func(argument string) error

// Table holds the children of a package by their names, which no other package uses.
type Table map[string]Main

// Of returns the Main of a function that takes what Command was given.
func Of[T any](run func(T) error) Main {
	return func(text string) error {
		var argument T
		if err := json.Unmarshal([]byte(text), &argument); err != nil {
			return fmt.Errorf("argument %q: %w", text, err)
		}
		return run(argument)
	}
}

const (
	// self starts the same program even where the file was replaced or removed, or is
	// in a directory that the child's user may not enter.
	self = "/proc/self/exe"
	// comm is how the kernel names the threads of a child. Without it they are "exe".
	comm = "pinwatch"
	// prefix marks an argv[0] of a child.
	prefix = comm + ":"
)

// Command returns a command that runs a child, with an argument that JSON can carry;
// nil: none. ps shows it as "pinwatch:NAME". Like any command it can be given streams
// and attributes before it starts.
func Command(ctx context.Context, name string, argument any) *exec.Cmd {
	cmd := exec.CommandContext(ctx, self)
	args, err := argv(name, argument)
	cmd.Args = args
	if err != nil {
		cmd.Err = err
	}
	return cmd
}

// Exec makes this process the child. It returns only on failure.
func Exec(name string, argument any) error {
	args, err := argv(name, argument)
	if err != nil {
		return err
	}
	return unix.Exec(self, args, os.Environ())
}

func argv(name string, argument any) ([]string, error) {
	text, err := json.Marshal(argument)
	if err != nil {
		return nil, fmt.Errorf("argument of child %s: %w", name, err)
	}
	return []string{prefix + name, string(text)}, nil
}

// Init does nothing in a process that is no child. A child it runs, and exits: with
// status 1, and its error on the standard error, where it failed.
func Init(tables ...Table) {
	name, ok := strings.CutPrefix(os.Args[0], prefix)
	if !ok {
		return
	}
	if err := run(name, os.Args[1:], tables); err != nil {
		fmt.Fprintf(os.Stderr, "pinwatch: %s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(name string, args []string, tables []Table) error {
	// Ctrl-C reaches a whole job: it is for the parent, which ends its children.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	rename()
	if len(args) != 1 {
		return fmt.Errorf("want 1 argument, got %d", len(args))
	}
	for _, table := range tables {
		if main, ok := table[name]; ok {
			return main(args[0])
		}
	}
	return errors.New("there is no such child")
}

// rename names the threads that there are; those to come take the name over. A
// failure costs nothing but the name.
func rename() {
	files, _ := filepath.Glob("/proc/self/task/*/comm")
	for _, file := range files {
		os.WriteFile(file, []byte(comm), 0)
	}
}
