package report

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output/format"
)

// Progress shows how far the work on several things is: on a terminal in one
// line that is written again and again, elsewhere by a line for each that is
// done.
type Progress struct {
	mu       sync.Mutex
	w        io.Writer
	width    int // of the terminal in columns; 0: it is none
	names    []string
	states   map[string]string
	finished int
	total    int
}

// NewProgress returns the progress of a number of things.
func NewProgress(w io.Writer, total int) *Progress {
	p := &Progress{w: w, states: map[string]string{}, total: total}
	f, ok := w.(*os.File)
	if !ok {
		return p
	}
	if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && os.Getenv("TERM") != "dumb" {
		p.width = max(40, int(size.Col))
	}
	return p
}

// Say takes the state of one thing.
func (p *Progress) Say(name, state string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.states[name]; !known {
		p.names = append(p.names, name)
	}
	p.states[name] = state
	if p.width > 0 {
		p.draw()
	}
}

// Done says how one thing ended.
func (p *Progress) Done(name, state string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished++
	delete(p.states, name)
	p.line(name, state)
}

// Note says something of one thing that goes on.
func (p *Progress) Note(name, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(name, what)
}

// line writes a line that stays.
func (p *Progress) line(name, state string) {
	if p.width > 0 {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
	fmt.Fprintf(p.w, "pinwatch: %s: %s\n", format.Printable(name), format.Printable(state))
	if p.width > 0 {
		p.draw()
	}
}

// Clear takes the line away.
func (p *Progress) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.width > 0 {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

func (p *Progress) draw() {
	var parts []string
	for _, name := range p.names {
		if state, ok := p.states[name]; ok {
			parts = append(parts, format.Printable(name)+" "+format.Printable(state))
		}
	}
	line := []rune(fmt.Sprintf("%d of %d done; %s", p.finished, p.total, strings.Join(parts, "; ")))
	if len(line) >= p.width {
		line = line[:p.width-1]
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", string(line))
}
