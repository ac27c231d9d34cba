// Package terminal runs the view of package top: it owns the terminal, brings
// the news of a live kernel or of a recording, and does what the keys ask for.
package terminal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"

	tea "charm.land/bubbletea/v2"

	"github.com/charmbracelet/x/term"

	"github.com/pinwatch/pinwatch/output/top"
)

// Source brings news until ctx ends: it calls send with the messages of package
// top. Orders are what the user wants of it.
type Source interface {
	Run(ctx context.Context, orders <-chan top.Action, send func(tea.Msg)) error
}

// Run shows a source on the terminal until the user quits or ctx ends. The
// terminal is put back whatever happens. Settings that are to be kept go to save.
func Run(ctx context.Context, opts top.Options, source Source, out *os.File, save func(settings string) (where string, err error)) error {
	model, err := top.New(opts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	orders := make(chan top.Action, 64)
	stops := newStops()
	program := tea.NewProgram(screen{model, orders, save},
		// Signals end ctx; what they are is main's affair.
		tea.WithContext(ctx), tea.WithoutSignalHandler(), tea.WithOutput(out),
		tea.WithFilter(stops.filter))
	defer stops.handle(program)()
	failed := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() {
		err := guarded(func() error { return source.Run(ctx, orders, program.Send) })
		if err != nil {
			failed <- err
			program.Quit()
		}
	})
	_, err = program.Run()
	quitByContext := ctx.Err() != nil
	cancel()
	running.Wait()
	select {
	case sourceErr := <-failed:
		return sourceErr
	default:
	}
	if quitByContext && errors.Is(err, tea.ErrProgramKilled) && !errors.Is(err, tea.ErrProgramPanic) {
		return nil // a signal, as good as a quit
	}
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	return nil
}

// guarded turns a panic into an error, so that the terminal is put back before
// anybody reads of it.
func guarded(run func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return run()
}

// screen makes the model one of bubbletea's.
type screen struct {
	model  top.Model
	orders chan<- top.Action
	save   func(settings string) (string, error)
}

func (s screen) Init() tea.Cmd { return nil }

func (s screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	var action top.Action
	s.model, action = s.model.Update(msg)
	switch {
	case action == top.Action{}:
		return s, nil
	case action.Quit:
		return s, tea.Quit
	case action.Suspend:
		return s, tea.Suspend
	case action.Save != "":
		return s, func() tea.Msg {
			where, err := s.save(action.Save)
			if err != nil {
				return top.Notice("not saved: " + err.Error())
			}
			return top.Notice("saved in " + where)
		}
	}
	select {
	case s.orders <- action:
	default: // the source is busy with more orders than anybody can type
	}
	return s, nil
}

func (s screen) View() tea.View {
	view := tea.NewView(s.model.View())
	view.AltScreen = true
	if s.model.Mouse() {
		view.MouseMode = tea.MouseModeCellMotion
	}
	return view
}

// Batch writes plain tables instead: count screens of the views, one per
// interval; 0: as many as come of a live kernel, and the last one of a recording.
func Batch(ctx context.Context, opts top.Options, source Source, views []string, count int, w io.Writer) error {
	model, err := top.New(opts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	msgs := make(chan tea.Msg)
	send := func(msg tea.Msg) {
		select {
		case msgs <- msg:
		case <-ctx.Done():
		}
	}
	failed := make(chan error, 1)
	go func() {
		failed <- guarded(func() error { return source.Run(ctx, nil, send) })
		close(msgs)
	}()
	written := 0
	for msg := range msgs {
		model, _ = model.Update(msg)
		_, tick := msg.(top.Tick)
		_, ended := msg.(top.Ended)
		if !ended && !(tick && (!opts.Replay || count > 0)) {
			continue
		}
		if written > 0 {
			fmt.Fprintln(w)
		}
		if err := model.Batch(w, views); err != nil {
			return err
		}
		if written++; ended || written == count {
			cancel()
			<-failed // the caller may ask the source's reader how far it came
			return nil
		}
	}
	err = <-failed
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// ASCII reports whether the locale says that the terminal cannot show more. Without any
// locale there is nothing against it.
func ASCII() bool {
	locale := cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG"))
	name := strings.ReplaceAll(strings.ToUpper(locale), "-", "")
	return locale != "" && !strings.Contains(name, "UTF8")
}

// Is says whether a file is a terminal that can show a screen.
func Is(f *os.File) bool {
	name := os.Getenv("TERM")
	return term.IsTerminal(f.Fd()) && name != "" && name != "dumb"
}
