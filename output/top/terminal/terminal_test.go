package terminal_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/output/top/terminal"
)

// These tests run the real program in a real terminal: tmux. Keys are sent, and
// the screen is read back.

// sourceEnv makes the test binary run a source that panics, in the terminal of
// its parent.
const sourceEnv = "PINWATCH_TEST_SOURCE"

func TestMain(m *testing.M) {
	if how := os.Getenv(sourceEnv); how != "" {
		err := terminal.Run(context.Background(), top.Options{Title: "test", Interval: time.Second}, panicking(how), os.Stdout, nil)
		fmt.Println("Run returned:", strings.SplitN(fmt.Sprint(err), "\n", 2)[0])
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// panicking is a source that makes something panic when a key asks for a pause.
type panicking string

func (how panicking) Run(ctx context.Context, orders <-chan top.Action, send func(tea.Msg)) error {
	<-orders
	if how == "source" {
		panic("in the source")
	}
	send(top.Entries{Rows: []*row.Row{nil}}) // the model cannot stand that
	<-ctx.Done()
	return nil
}

// tmux is a terminal with a shell in it.
type tmux struct {
	t      *testing.T
	socket string
}

// start opens a terminal of a size. The shell's prompt is "ready>".
func start(t *testing.T, width, height int, env ...string) tmux {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Fatal("tmux is not installed: apt-get install tmux, or make test-unit, which does it")
	}
	x := tmux{t, filepath.Join(t.TempDir(), "tmux")}
	args := []string{"-f", "/dev/null", "-u", "new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height)}
	for _, e := range append([]string{"TZ=UTC", "ENV=", "HISTFILE=", "LC_ALL=C.UTF-8", "XDG_CONFIG_HOME=" + t.TempDir()}, env...) {
		args = append(args, "-e", e)
	}
	x.do(append(args, "PS1=ready\\> exec bash --norc --noprofile -i")...)
	t.Cleanup(func() { exec.Command("tmux", "-S", x.socket, "kill-server").Run() })
	x.do("set-option", "-g", "status", "off")
	x.shows("ready>")
	return x
}

func (x tmux) do(args ...string) string {
	x.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", x.socket}, args...)...).CombinedOutput()
	if err != nil {
		x.t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// types types a line into the shell.
func (x tmux) types(line string) { x.do("send-keys", "-l", line); x.do("send-keys", "Enter") }

func (x tmux) keys(keys ...string) { x.do(append([]string{"send-keys"}, keys...)...) }

func (x tmux) screen() string { return x.do("capture-pane", "-p") }

// shows waits until the screen shows all of some texts.
func (x tmux) shows(texts ...string) {
	x.t.Helper()
	x.wait(fmt.Sprintf("the screen never showed %q", texts), func(screen string) bool {
		for _, text := range texts {
			if !strings.Contains(screen, text) {
				return false
			}
		}
		return true
	})
}

// hides waits until the screen no longer shows a text.
func (x tmux) hides(text string) {
	x.t.Helper()
	x.wait(fmt.Sprintf("the screen still shows %q", text), func(screen string) bool { return !strings.Contains(screen, text) })
}

func (x tmux) wait(failure string, good func(string) bool) {
	x.t.Helper()
	var screen string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if screen = x.screen(); good(screen) {
			return
		}
	}
	x.t.Fatalf("%s:\n%s", failure, strings.TrimRight(screen, "\n"))
}

// sane says that the shell has its terminal back: it echoes, in lines, on the
// main screen with a cursor.
func (x tmux) sane() {
	x.t.Helper()
	x.shows("ready>")
	x.hides("allowance: ")
	x.types("clear; stty -a | grep -q -w -- '-icanon' || stty -a | grep -q -w -- '-echo' || echo it is s'a'ne")
	x.shows("it is sane")
	if flags := strings.TrimSpace(x.do("display-message", "-p", "#{alternate_on} #{cursor_flag}")); flags != "0 1" {
		x.t.Errorf("alternate screen and cursor: %s; want 0 1", flags)
	}
}

func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "pinwatch")
	cmd := exec.Command("go", "build", "-o", bin, ".")
	cmd.Dir = filepath.Join("..", "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

func recordingFile(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "..", "testdata", "recordings", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRealTerminal(t *testing.T) {
	bin := build(t)
	replay := bin + " top --replay " + recordingFile(t, "several-users-cumulative.jsonl") + " --speed 0"

	t.Run("views", func(t *testing.T) {
		t.Parallel()
		x := start(t, 100, 30)
		x.types(replay)
		x.shows("KERNEL ACCOUNTS WRONG: overcharge 14, wrong-refusal 2", "[1 processes]", "sampler", "END", "q quit")
		x.keys("2")
		x.shows("[2 users]", "1002")
		x.keys("Tab", "Tab", "Tab")
		x.shows("[5 events]", "wrong-refusal")
		x.keys("/", "q", "p")
		x.shows("filter: qp", "nothing matches the filter")
		x.keys("Escape")
		x.shows("rows: 111")
		x.keys("/")
		x.keys("-l", "wrong")
		x.keys("Enter")
		x.shows(`rows: 2 with "wrong"`)
		x.keys("Enter")
		x.shows("What it means", "this kernel asks for")
		x.keys("Escape")
		x.shows(`rows: 2 with "wrong"`)
		x.keys("?")
		x.shows("Keys", "Ctrl-Z")
		x.keys("q")
		x.sane()
	})
	t.Run("step", func(t *testing.T) {
		t.Parallel()
		x := start(t, 100, 30)
		x.types(replay + " --paused")
		x.shows("PAUSED", "not begun")
		x.keys("n", "n", ".")
		x.shows("event 3 at", "rows: 1")
		x.keys("p")
		x.shows("event 111 at", "END")
		x.keys("C-c")
		x.sane()
	})
	t.Run("back", func(t *testing.T) {
		t.Parallel()
		x := start(t, 120, 30)
		x.types(replay)
		x.shows("event 111 at", "END")
		x.keys("N")
		x.shows("event 110 at", "PAUSED")
		x.keys(":")
		x.keys("-l", "#30")
		x.shows("go to: #30")
		x.keys("Enter")
		x.shows("event 30 at", "PAUSED")
		x.keys("p")
		x.shows("event 111 at", "END")
		x.keys("q")
		x.sane()
	})
	// Whose the mouse is, the terminal knows.
	t.Run("mouse", func(t *testing.T) {
		t.Parallel()
		x := start(t, 120, 30)
		x.types(replay)
		x.shows("END")
		mouse := func() string { return strings.TrimSpace(x.do("display-message", "-p", "#{mouse_any_flag}")) }
		if got := mouse(); got != "0" {
			t.Errorf("the mouse is asked for from the start: %s", got)
		}
		x.keys("m")
		x.shows("Shift and the mouse select text")
		if got := mouse(); got != "1" {
			t.Errorf("the mouse is not asked for: %s", got)
		}
		x.keys("q")
		x.sane()
		if got := mouse(); got != "0" {
			t.Errorf("the mouse is not given back: %s", got)
		}
	})
	t.Run("kept", func(t *testing.T) {
		t.Parallel()
		x := start(t, 120, 30, "XDG_CONFIG_HOME="+t.TempDir())
		x.types(replay)
		x.shows("END", "[1 processes]")
		x.keys("2", "b", "W")
		x.shows("saved in ", "pinwatch/top.conf")
		x.keys("q")
		x.sane()
		x.types("clear; " + replay)
		x.shows("END", "[2 users]", "2.0 MiB")
		x.keys("q")
		x.sane()
	})
	t.Run("without Unicode", func(t *testing.T) {
		t.Parallel()
		x := start(t, 120, 30, "LC_ALL=C")
		x.types(replay)
		x.shows("END", "uid 1002 0 ", "#######", "[1 processes]")
		if screen := x.screen(); strings.ContainsAny(screen, "█▁·▼✗") {
			t.Errorf("not in ASCII:\n%s", screen)
		}
		x.keys("q")
		x.sane()
	})
	t.Run("resize", func(t *testing.T) {
		t.Parallel()
		x := start(t, 120, 30)
		x.types(replay)
		x.shows("END", "OVERCHARGED")
		x.do("resize-window", "-x", "30", "-y", "6")
		x.hides("OVERCHARGED")
		x.shows("ACCOUNTS WRONG", "PINNED_VM")
		x.do("resize-window", "-x", "1", "-y", "1")
		x.do("resize-window", "-x", "150", "-y", "40")
		x.shows("OVERCHARGED", "q quit", "CGROUP")
		x.keys("q")
		x.sane()
	})
	for _, signal := range []string{"TERM", "INT", "HUP"} {
		t.Run("SIG"+signal, func(t *testing.T) {
			t.Parallel()
			x := start(t, 100, 30)
			x.types(replay + "; echo code $?")
			x.shows("END")
			signalChild(x, signal)
			x.shows("code 0")
			x.sane()
		})
	}
	// Ctrl-Z, a stop from outside, and one that cannot be caught.
	for name, stop := range map[string]func(x tmux){
		"Ctrl-Z":  func(x tmux) { x.keys("C-z") },
		"SIGTSTP": func(x tmux) { signalChild(x, "TSTP") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := start(t, 100, 30)
			x.types(replay)
			x.shows("END", "allowance: ")
			for range 2 {
				stop(x)
				x.sane()
				x.types("fg")
				x.shows("END", "allowance: ", "q quit")
			}
			x.keys("2")
			x.shows("[2 users]")
			x.keys("q")
			x.sane()
		})
	}
	t.Run("SIGSTOP", func(t *testing.T) {
		t.Parallel()
		x := start(t, 100, 30)
		x.types(replay)
		x.shows("END", "allowance: ")
		signalChild(x, "STOP")
		x.shows("Stopped")
		x.types("fg")
		x.shows("END", "allowance: ")
		x.hides("Stopped")
		x.keys("2")
		x.shows("[2 users]")
		x.keys("q")
		x.sane()
	})
	// Without a shell nobody could continue it: Ctrl-Z is ignored.
	t.Run("nobody to continue", func(t *testing.T) {
		t.Parallel()
		x := start(t, 100, 30)
		x.types("exec " + replay)
		x.shows("END")
		x.keys("C-z", "3")
		x.shows("[3 cgroups]")
		x.keys("q")
	})
	t.Run("colours", func(t *testing.T) {
		t.Parallel()
		for env, want := range map[string]bool{"TERM=screen": true, "TERM=screen-256color": true, "TERM=xterm-16color": true, "NO_COLOR=1": false} {
			x := start(t, 100, 30, env)
			x.types("export " + env + "; " + replay)
			x.shows("END")
			screen := x.do("capture-pane", "-e", "-p")
			if got := strings.Contains(screen, "\x1b[31m") || strings.Contains(screen, ";31m") || strings.Contains(screen, ";31;"); got != want {
				t.Errorf("%s: red on the screen: %v\n%q", env, got, screen)
			}
			x.keys("q")
			x.sane()
		}
	})
	t.Run("no screen", func(t *testing.T) {
		t.Parallel()
		x := start(t, 150, 30)
		x.types("TERM=dumb " + replay + " && echo d'on'e")
		x.shows("processes: 6", "done")
		x.types("clear; " + replay + " --batch | head -n 4 && echo d'on'e")
		x.shows("KERNEL ACCOUNTS WRONG", "done")
	})
}

func signalChild(x tmux, signal string) {
	x.t.Helper()
	shell := strings.TrimSpace(x.do("display-message", "-p", "#{pane_pid}"))
	if out, err := exec.Command("pkill", "-"+signal, "-P", shell).CombinedOutput(); err != nil {
		x.t.Fatalf("send SIG%s: %v %s", signal, err, out)
	}
}

// The terminal is put back after a panic, wherever it is, and somebody reads of
// it.
func TestPanic(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for how, want := range map[string]string{"source": "Run returned: panic: in the source", "model": "program experienced a panic"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			x := start(t, 200, 50)
			x.types(sourceEnv + "=" + how + " " + self + " 2>" + filepath.Join(t.TempDir(), "stack"))
			x.shows("allowance: ")
			x.keys("p")
			x.shows(want)
			x.sane()
		})
	}
}
