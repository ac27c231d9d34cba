package terminal

import (
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"time"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// stops puts the terminal back before a SIGTSTP stops pinwatch, and takes it
// again after SIGCONT, whatever stopped it.
type stops struct {
	stop, cont chan os.Signal
	// suspended says that bubbletea waits for SIGCONT, and will itself take the
	// terminal again.
	suspended *atomic.Bool
}

func newStops() stops {
	return stops{make(chan os.Signal, 1), make(chan os.Signal, 1), new(atomic.Bool)}
}

// filter sees every message before it acts.
func (s stops) filter(_ tea.Model, msg tea.Msg) tea.Msg {
	switch msg.(type) {
	case tea.SuspendMsg:
		if !canStop() {
			return nil
		}
		s.suspended.Store(true)
	case tea.ResumeMsg:
		s.suspended.Store(false)
	}
	return msg
}

// handle waits for the signals until the returned function is called.
//
// To suspend, bubbletea puts the terminal back, sends SIGTSTP to its process
// group, and waits for SIGCONT. Here that SIGTSTP is caught like any other, and
// Go cannot give it its default again once it was: SIGSTOP does what it would.
func (s stops) handle(program *tea.Program) (end func()) {
	done := make(chan struct{})
	signal.Notify(s.stop, unix.SIGTSTP)
	signal.Notify(s.cont, unix.SIGCONT)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-s.stop:
				if s.suspended.Load() {
					unix.Kill(unix.Getpid(), unix.SIGSTOP)
				} else {
					program.Send(tea.Suspend())
				}
			case <-s.cont:
				if !s.suspended.Load() {
					retake(program)
				}
			}
		}
	}()
	return func() {
		signal.Stop(s.stop)
		signal.Stop(s.cont)
		close(done)
	}
}

// retake takes the terminal again after a SIGSTOP, which cannot be caught: it is
// in whatever state the shell left it. Bubbletea does that after a command that
// had the terminal; this one does nothing with it.
func retake(program *tea.Program) {
	program.Send(tea.Exec(noCommand{}, func(err error) tea.Msg {
		if err != nil {
			return tea.QuitMsg{} // there is no terminal any more
		}
		return nil
	})())
}

// noCommand is a command that does nothing, for a moment: bubbletea's old renderer
// stops the ticker of the new one if that comes before it has ended.
type noCommand struct{}

func (noCommand) Run() error          { time.Sleep(50 * time.Millisecond); return nil }
func (noCommand) SetStdin(io.Reader)  {}
func (noCommand) SetStdout(io.Writer) {}
func (noCommand) SetStderr(io.Writer) {}

// canStop says that somebody is there to continue a stopped process: a parent
// of another process group in this session, such as a shell. The kernel ignores
// SIGTSTP where there is none, and then nothing would come back from waiting.
func canStop() bool {
	group, session := unix.Getpgrp(), sessionOf(0)
	for pid := unix.Getppid(); pid > 1; pid = parentOf(pid) {
		if g, err := unix.Getpgid(pid); err != nil || g != group {
			return err == nil && sessionOf(pid) == session
		}
	}
	return false
}

func sessionOf(pid int) int {
	session, err := unix.Getsid(pid)
	if err != nil {
		return -1
	}
	return session
}

// parentOf is a process's parent by /proc; 0 where that cannot be read.
func parentOf(pid int) int {
	fields, err := kernel.ProcessStat(pid)
	if err != nil || len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}
