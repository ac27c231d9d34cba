package guesttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// Cmd is a command that a test runs in a guest: pinwatch, or one of Guests.Tools. What
// goes wrong with it fails the test.
type Cmd struct {
	*exec.Cmd
	t              *testing.T
	stdout, stderr output
	ended          chan struct{}
}

// output is what a process has written, and whoever waits for some of it.
type output struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{} // closed by the next write
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.more)
	o.more = make(chan struct{})
	return o.text.Write(p)
}

// now is what was written, and a channel that is closed when there is more.
func (o *output) now() (text string, more <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String(), o.more
}

// Command prepares a command.
func Command(t *testing.T, name string, args ...string) *Cmd {
	t.Helper()
	c := &Cmd{Cmd: exec.CommandContext(t.Context(), name, args...), t: t, ended: make(chan struct{})}
	c.stdout.more, c.stderr.more = make(chan struct{}), make(chan struct{})
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	c.WaitDelay = 5 * time.Second // for what it leaves behind with its pipes
	return c
}

// Start starts the command. It is killed when the test ends.
func (c *Cmd) Start() *Cmd {
	c.t.Helper()
	if err := c.Cmd.Start(); err != nil {
		c.t.Fatalf("%s: %v", c, err)
	}
	go func() {
		defer close(c.ended)
		c.Cmd.Wait()
	}()
	c.t.Cleanup(func() { <-c.ended }) // the test's context has ended before
	return c
}

// patience is how long something that must happen may take in an emulated guest.
const patience = time.Minute

// WaitFor waits until the command has written some words, to stdout or stderr.
func (c *Cmd) WaitFor(words string) {
	c.t.Helper()
	c.WaitUntil(fmt.Sprintf("said %q", words), func(stdout, stderr string) bool {
		return strings.Contains(stdout, words) || strings.Contains(stderr, words)
	})
}

// WaitUntil waits until what the command has written until then is enough: until it has
// done what is wanted, in words that go after "has not".
func (c *Cmd) WaitUntil(what string, enough func(stdout, stderr string) bool) {
	c.t.Helper()
	late := time.After(patience)
	for ended := false; ; {
		stdout, moreOut := c.stdout.now()
		stderr, moreErr := c.stderr.now()
		if enough(stdout, stderr) {
			return
		}
		if ended {
			c.t.Fatalf("%s: exit %d, and has not %s\n%s%s", c, c.ProcessState.ExitCode(), what, stdout, stderr)
		}
		select {
		case <-moreOut:
		case <-moreErr:
		case <-c.ended:
			ended = true // and everything is written
		case <-late:
			c.t.Fatalf("%s: has not %s\n%s%s", c, what, stdout, stderr)
		}
	}
}

// Said is what the command has written to stdout.
func (c *Cmd) Said() string {
	text, _ := c.stdout.now()
	return text
}

// Ended reports whether the command has ended.
func (c *Cmd) Ended() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// Stop ends the command by a signal.
func (c *Cmd) Stop(signal os.Signal) Result {
	c.t.Helper()
	if err := c.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.t.Fatalf("%s: %v", c, err)
	}
	return c.Wait()
}

// Wait waits for the end of the command. Its code is -1 if a signal ended it.
func (c *Cmd) Wait() Result {
	c.t.Helper()
	<-c.ended
	stderr, _ := c.stderr.now()
	return Result{Stdout: c.Said(), Stderr: stderr, Code: c.ProcessState.ExitCode()}
}

// Run runs the command to its end.
func (c *Cmd) Run() Result {
	c.t.Helper()
	return c.Start().Wait()
}
