// Gotest shows what go test -json says, as it goes: a line per test that took a
// second, everything about one that failed, go's own line per package, what the
// scripts of testdata say, and of each guest how long its tests took. When that has been
// nothing for a while, it says what runs.
//
//	go test -json ./... | gotest
//
// go test itself shows nothing of several packages until the first of them ends.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	slow  = 1.0              // s, from which a test that passed is worth a line
	quiet = 20 * time.Second // after which it says what runs
)

func main() {
	lines := make(chan string)
	go func() {
		defer close(lines)
		in := bufio.NewReader(os.Stdin)
		for {
			line, err := in.ReadString('\n')
			if line != "" {
				lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	newShow(os.Stdout, time.Now).follow(lines, quiet)
}

// event is a line of go test -json: see go doc test2json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64 // s
}

// test is one that has begun and not ended.
type test struct {
	said   []string  // what it printed
	since  time.Time // when it began, or went on after a pause
	paused bool      // it waits for its turn, in parallel with others
}

type show struct {
	out    io.Writer
	now    func() time.Time
	begun  time.Time
	tests  map[[2]string]*test // by package and name
	guests map[string]bool     // what was said of each
}

func newShow(out io.Writer, now func() time.Time) *show {
	return &show{out: out, now: now, begun: now(), tests: map[[2]string]*test{}, guests: map[string]bool{}}
}

// follow shows the lines until there are no more.
func (s *show) follow(lines <-chan string, quiet time.Duration) {
	for {
		select {
		case line, more := <-lines:
			if !more {
				return
			}
			s.line(line)
		case <-time.After(quiet):
			s.running()
		}
	}
}

// line shows a line of go test, which is JSON, but for errors of go itself.
func (s *show) line(line string) {
	var e event
	if json.Unmarshal([]byte(line), &e) != nil {
		io.WriteString(s.out, line)
		return
	}
	if e.Test == "" {
		s.pkg(e)
		return
	}
	key := [2]string{e.Package, e.Test}
	t := s.tests[key]
	if t == nil {
		t = &test{since: s.now()}
		s.tests[key] = t
	}
	switch e.Action {
	case "pause":
		t.paused = true
	case "cont":
		t.paused, t.since = false, s.now()
	case "output":
		s.output(t, e.Output)
	case "pass", "skip":
		if e.Elapsed >= slow {
			fmt.Fprintf(s.out, "--- %s: %s (%.0fs)\n", strings.ToUpper(e.Action), e.Test, e.Elapsed)
		}
		delete(s.tests, key)
	case "fail":
		io.WriteString(s.out, strings.Join(t.said, ""))
		delete(s.tests, key)
	}
}

// pkg shows what is no single test's: errors of the compiler, and how a package
// ended.
func (s *show) pkg(e event) {
	switch e.Action {
	case "output", "build-output":
		if e.Output != "PASS\n" {
			io.WriteString(s.out, e.Output)
		}
	case "fail": // a package that died leaves tests that never ended
		for _, key := range slices.SortedFunc(maps.Keys(s.tests), func(a, b [2]string) int { return strings.Compare(a[1], b[1]) }) {
			if key[0] == e.Package {
				io.WriteString(s.out, strings.Join(s.tests[key].said, ""))
				delete(s.tests, key)
			}
		}
	}
}

// script matches a line that a script of testdata says of its progress.
var script = regexp.MustCompile(`^[a-z]+\.sh: `)

// guest matches the line on a guest, which each of its tests says.
var guest = regexp.MustCompile(`^ *a guest with Linux `)

func (s *show) output(t *test, text string) {
	if guest.MatchString(text) && !s.guests[text] {
		s.guests[text] = true
		io.WriteString(s.out, text)
	}
	switch {
	case strings.HasPrefix(text, "=== "):
	case script.MatchString(text):
		io.WriteString(s.out, text)
	default:
		t.said = append(t.said, text)
	}
}

// running shows which tests run, and for how long.
func (s *show) running() {
	var names []string
	for key, t := range s.tests {
		if !t.paused && !s.hasSubtests(key) {
			names = append(names, fmt.Sprintf("%s (%.0fs)", key[1], s.now().Sub(t.since).Seconds()))
		}
	}
	slices.Sort(names)
	what := "no test yet: go compiles"
	if len(names) > 0 {
		what = "running " + strings.Join(names, ", ")
	}
	fmt.Fprintf(s.out, "    %.0fs: %s\n", s.now().Sub(s.begun).Seconds(), what)
}

// hasSubtests reports whether a test has any that have not ended, be it that they wait for
// their turn: it says no more than they do.
func (s *show) hasSubtests(key [2]string) bool {
	for other := range s.tests {
		if other[0] == key[0] && strings.HasPrefix(other[1], key[1]+"/") {
			return true
		}
	}
	return false
}
