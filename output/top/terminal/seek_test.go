package terminal_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/output/top/terminal"
)

// seeker is a replay of a recording, and the view of it.
type seeker struct {
	t      *testing.T
	model  top.Model
	orders chan top.Action
	msgs   chan tea.Msg
}

// seek starts a replay, paused before its first event. again says whether there is a way back.
func seek(t *testing.T, again bool) *seeker {
	t.Helper()
	path := filepath.Join("..", "..", "..", "testdata", "recordings", "several-users-cumulative.jsonl")
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if !again {
		path = "-"
	}
	return seekIn(t, path, file)
}

// seekIn does it with any recording.
func seekIn(t *testing.T, path string, standard io.Reader) *seeker {
	t.Helper()
	recorded, err := recording.Open(path, standard, time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { recorded.Close() })
	replay := &terminal.Replay{Recorded: recorded, Speed: 0, Paused: true, Interval: 500 * time.Millisecond}
	s := &seeker{t: t, orders: make(chan top.Action, 8), msgs: make(chan tea.Msg, 8)}
	if s.model, err = top.New(top.Options{Replay: true, Paused: true, Speed: 1, Interval: time.Second, All: true}); err != nil {
		t.Fatal(err)
	}
	s.model, _ = s.model.Update(tea.WindowSizeMsg{Width: 200, Height: 40})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	t.Cleanup(func() { cancel(); <-ended })
	go func() {
		defer close(ended)
		err := replay.Run(ctx, s.orders, func(m tea.Msg) {
			select {
			case s.msgs <- m:
			case <-ctx.Done():
			}
		})
		if err != nil {
			t.Error(err)
		}
	}()
	return s
}

// until takes news until one satisfies.
func (s *seeker) until(last func(tea.Msg) bool) {
	s.t.Helper()
	for {
		select {
		case m := <-s.msgs:
			s.model, _ = s.model.Update(m)
			if last(m) {
				return
			}
		case <-time.After(time.Minute):
			s.t.Fatalf("nothing comes; the screen is\n%s", ansi.Strip(s.model.View()))
		}
	}
}

// press presses keys, as the terminal does, and gives the orders that come of them.
func (s *seeker) press(keys ...string) *seeker {
	s.t.Helper()
	for _, k := range keys {
		msg := tea.KeyPressMsg{Code: []rune(k)[0], Text: k}
		if k == "enter" {
			msg = tea.KeyPressMsg{Code: tea.KeyEnter}
		}
		var action top.Action
		if s.model, action = s.model.Update(msg); action == (top.Action{}) {
			continue
		}
		s.orders <- action
		switch {
		case action.Seek.By != top.SeekNone:
			s.until(func(m tea.Msg) bool { _, ok := m.(top.Sought); return ok })
		case action.Step:
			s.until(func(m tea.Msg) bool { _, ok := m.(top.Entries); return ok })
		case action.Resume:
			s.until(func(m tea.Msg) bool { _, ok := m.(top.Ended); return ok })
		}
	}
	return s
}

func (s *seeker) goTo(place string) *seeker {
	s.t.Helper()
	return s.press(append(append([]string{":"}, strings.Split(place, "")...), "enter")...)
}

// screen is what is seen, without what pinwatch itself takes and how it got there.
func (s *seeker) screen() string {
	lines := strings.Split(ansi.Strip(s.model.View()), "\n")
	title, _, _ := strings.Cut(lines[0], " · ")
	_, at, _ := strings.Cut(lines[0], "event ")
	at, _, _ = strings.Cut(at, " · ")
	traffic, _, _ := strings.Cut(lines[2], " · pinwatch")
	lines[0], lines[2] = title+at, traffic
	return strings.Join(lines, "\n")
}

// However one comes to a place in a recording, it looks the same: by its steps, by its number, by
// its time, from the start or from the end.
func TestSeek(t *testing.T) {
	time.Local = time.UTC
	steps := seek(t, true)
	for range 30 {
		steps.press("n")
	}
	want := steps.screen()
	if !strings.Contains(want, "30 at 10:48:36.") {
		t.Fatalf("30 steps:\n%s", want)
	}
	_, at, _ := strings.Cut(strings.SplitN(want, "\n", 2)[0], "30 at ")
	for name, s := range map[string]*seeker{
		"number":                seek(t, true).goTo("#30"),
		"time":                  seek(t, true).goTo("#1").goTo(at),
		"the end, and back":     seek(t, true).press("p").goTo("30"),
		"one more, and back":    seek(t, true).goTo("31").press("N"),
		"three more, and back":  seek(t, true).goTo("33").press(",", "N", "N"),
		"back, and forward":     seek(t, true).goTo("29").press("n"),
		"the end, and its time": seek(t, true).press("p").goTo(at),
		"without a way back":    seek(t, false).goTo("7").goTo("30"),
		"a part, then forward":  seek(t, true).goTo("1%").goTo("30"),
	} {
		if diff := cmp.Diff(want, s.screen()); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	// Before all of it, and at its end.
	s := seek(t, true).goTo("#2").press("N", "N")
	if !strings.Contains(ansi.Strip(s.model.View()), "not begun") {
		t.Errorf("before the first event:\n%s", s.model.View())
	}
	if s.press("n"); !strings.HasPrefix(strings.SplitN(s.screen(), "\n", 2)[0], "pinwatch top  1 at") {
		t.Errorf("the first event:\n%s", s.screen())
	}
	if s.goTo("100%"); !strings.Contains(ansi.Strip(s.model.View()), "event 111 at") {
		t.Errorf("100%%:\n%s", s.model.View())
	}
	half := seek(t, true).goTo("50%")
	if title := strings.SplitN(half.screen(), "\n", 2)[0]; !strings.Contains(title, " at 10:48:3") {
		t.Errorf("50%%: %s", title)
	}
}

// Where there is no way back, that is said, and nothing is lost.
func TestNoWayBack(t *testing.T) {
	s := seek(t, false).goTo("12")
	was := s.screen()
	s.press("N")
	if view := ansi.Strip(s.model.View()); !strings.Contains(view, "no way back: it is the standard input") {
		t.Errorf("%s", view)
	}
	if s.press("x"); s.screen() != was {
		t.Errorf("%s", cmp.Diff(was, s.screen()))
	}
	if s.press("n"); !strings.HasPrefix(s.screen(), "pinwatch top  13 at") {
		t.Errorf("%s", s.screen())
	}
}

// ring is the directory of an agent that was killed and started again.
func ring(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for i, name := range []string{"several-users-cumulative.jsonl", "several-users-6.12.jsonl"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "..", "testdata", "recordings", name))
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Unix(1795258114+16*int64(i), 0)
		w, err := recording.Create(filepath.Join(dir, recording.PartName(uint64(i+1), begun)))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(string(text), "\n")
		h := recording.Header{Version: 2, Kind: "header", TimeNS: begun.UnixNano(), Run: name}
		if err := errors.Join(h.Write(w), onlyErr(io.WriteString(w, strings.Join(lines[:len(lines)-2], ""))), w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func onlyErr(_ int, err error) error { return err }

// A gap is said on the screen for as long as what is shown is after it. What was known before it
// is forgotten, the events that happened are there, and one gets over it in both directions.
func TestSeekOverGap(t *testing.T) {
	time.Local = time.UTC
	dir := ring(t)
	const gap = "! recording: gap: nothing is recorded between 2026-11-21 10:48:39 (the last that is there) and 2026-11-21 10:48:50: the agent did not end"
	title := func(s *seeker) string { return strings.SplitN(s.screen(), "\n", 2)[0] }
	s := seekIn(t, dir, nil).goTo("#111")
	before := s.screen()
	if strings.Contains(before, "gap") || !strings.Contains(title(s), " 111 at 10:48:39.") {
		t.Errorf("before the gap:\n%s", before)
	}
	if s.press("n"); !strings.Contains(s.screen(), gap) || !strings.Contains(title(s), " 112 at 10:48:50.") {
		t.Errorf("after it:\n%s", s.screen())
	}
	after := s.screen()
	if view := ansi.Strip(s.model.View()); strings.Contains(view, "sampler") || !strings.Contains(view, "agent") {
		t.Errorf("what is known after it:\n%s", view)
	}
	if s.press("N"); s.screen() != before {
		t.Errorf("back:\n%s", cmp.Diff(before, s.screen()))
	}
	for name, place := range map[string]string{"number": "#112", "time": "2026-11-21 10:48:50.801"} {
		if got := seekIn(t, dir, nil).goTo("100%").goTo(place).screen(); got != after {
			t.Errorf("%s:\n%s", name, cmp.Diff(after, got))
		}
	}
	if events := s.press("n", "5"); !strings.Contains(ansi.Strip(events.model.View()), "10:48:39.") {
		t.Errorf("the events before it:\n%s", events.screen())
	}
}
