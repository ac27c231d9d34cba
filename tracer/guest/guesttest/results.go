package guesttest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Outcome is what became of a test, or of one of its subtests, in a guest.
type Outcome struct {
	Kernel  Kernel
	Subtest string // such as "kprobe/ringbuf"; "": the test itself
	Result  string // "pass", "skip" or "fail"; "": it did not end
	Words   string // the last ones, such as why it was skipped
}

// Outcomes are those of a test in all guests that it ran in, once they have ended.
func (g *Guests) Outcomes(test string) (list []Outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.batch == nil {
		return nil
	}
	for _, r := range g.batch.runs {
		if slices.Contains(r.tests, test) {
			<-r.done
			list = append(list, r.results[test].outcomes(r.kernel)...)
		}
	}
	return list
}

func (r *result) outcomes(k Kernel) (list []Outcome) {
	if r == nil {
		return nil
	}
	_, subtest, _ := strings.Cut(r.name, "/")
	list = append(list, Outcome{k, subtest, r.outcome, r.words()})
	for _, sub := range r.subs {
		list = append(list, sub.outcomes(k)...)
	}
	return list
}

// words are what the test said last, without the line of its source.
func (r *result) words() string {
	if len(r.output) == 0 {
		return ""
	}
	return strings.TrimSpace(sourceLine.ReplaceAllString(r.output[len(r.output)-1], ""))
}

var sourceLine = regexp.MustCompile(`^\s*\w+\.go:\d+: `)

// result is what became of a test in a guest.
type result struct {
	name    string // in full
	outcome string // "pass", "skip" or "fail"; "": it did not end
	seconds float64
	output  []string // lines
	subs    []*result
}

// event is a line of go tool test2json.
type event struct {
	Action, Test, Output string
	Elapsed              float64
}

// parseResults reads what a test binary wrote with -test.v=test2json. It returns the
// tests that are no subtests.
func parseResults(stdout []byte) (tests []*result, err error) {
	var complaints bytes.Buffer
	cmd := exec.Command("go", "tool", "test2json", "-t")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdout), &complaints
	lines, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool test2json: %w\n%s", err, complaints.String())
	}
	known := map[string]*result{}
	for decoder := json.NewDecoder(bytes.NewReader(lines)); ; {
		var e event
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			return tests, nil
		} else if err != nil {
			return nil, fmt.Errorf("go tool test2json: %w", err)
		}
		r := known[e.Test]
		switch {
		case e.Test == "": // of the whole package
		case e.Action == "run":
			r = &result{name: e.Test}
			known[e.Test] = r
			if parent := parentOf(known, e.Test); parent != nil {
				parent.subs = append(parent.subs, r)
			} else {
				tests = append(tests, r)
			}
		case r != nil:
			r.add(e)
		}
	}
}

// parentOf is the test that has this one as a subtest, whose own name may hold slashes.
func parentOf(known map[string]*result, name string) *result {
	for {
		slash := strings.LastIndexByte(name, '/')
		if slash < 0 {
			return nil
		}
		name = name[:slash]
		if parent := known[name]; parent != nil {
			return parent
		}
	}
}

func (r *result) add(e event) {
	switch e.Action {
	case "pass", "skip", "fail":
		r.outcome, r.seconds = e.Action, e.Elapsed
	case "output":
		if start := frame.FindString(e.Output); start == "" || !strings.HasPrefix(e.Output[len(start):], e.Test) {
			r.output = append(r.output, e.Output)
		}
	}
}

// frame is what stands before a test's name where it begins and ends: the host says
// that again.
var frame = regexp.MustCompile(`^(=== [A-Z]+ +|--- [A-Z]+: )`)

// replay lets a test of the host end as this one did.
func (r *result) replay(t *testing.T) {
	t.Helper()
	for _, line := range r.output {
		io.WriteString(t.Output(), strings.TrimPrefix(line, "    ")) // is indented again
	}
	fails := false
	for _, sub := range r.subs {
		fails = fails || sub.outcome != "pass" && sub.outcome != "skip"
		t.Run(strings.TrimPrefix(sub.name, r.name+"/"), sub.replay)
	}
	if r.outcome != "" {
		fmt.Fprintf(t.Output(), "%s in the guest after %.2f s\n", r.outcome, r.seconds)
	}
	switch {
	case r.outcome == "skip":
		t.SkipNow()
	case r.outcome == "fail" && !fails: // else -run and -skip chose among those that do
		t.Fail()
	case r.outcome == "":
		t.Error("did not end in the guest")
	}
}

// replay lets a kernel's subtest of a test end as the test did in the guest.
func (r *run) replay(t *testing.T) {
	t.Helper()
	<-r.done
	name, _, _ := strings.Cut(t.Name(), "/")
	for _, note := range r.notes[name] {
		fmt.Fprintln(t.Output(), note)
	}
	defer func() {
		if t.Failed() && r.stderr != "" {
			t.Logf("stderr of all tests on this kernel:\n%s", r.stderr)
		}
	}()
	result := r.results[name]
	if r.err != nil && (result == nil || result.outcome == "") {
		t.Errorf("guest %s: %v", r.kernel.Release, r.err)
	}
	if r.code != 0 && !r.explained() {
		t.Errorf("the test binary ended with exit code %d, though no test failed", r.code)
	}
	if result == nil {
		t.Fatal("did not run in the guest")
	}
	result.replay(t)
}

// explained reports whether a result tells why the test binary failed.
func (r *run) explained() bool {
	for _, name := range r.tests {
		if result := r.results[name]; result == nil || result.outcome == "fail" || result.outcome == "" {
			return true
		}
	}
	return false
}
