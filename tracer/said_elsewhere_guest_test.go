//go:build guest

package tracer_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/remedy"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// contains wants some words in a text, and others not.
func contains(t *testing.T, where, text string, words, never []string) {
	t.Helper()
	text = strings.Join(strings.Fields(text), " ")
	text = strings.ReplaceAll(text, "- ", "-") // a line breaks there, too
	for _, w := range words {
		if !strings.Contains(text, strings.ReplaceAll(w, "- ", "-")) {
			t.Errorf("%s does not say %q: %s", where, w, text)
		}
	}
	for _, w := range never {
		if strings.Contains(text, w) {
			t.Errorf("%s says %q: %s", where, w, text)
		}
	}
}

// explained wants the same of explain -- COMMAND, as text and as JSON.
func (s saying) explained(t *testing.T, state *snapshot.Source, e *ledger.Entry) {
	t.Helper()
	words, aboutPerf := s.advice, s.advice != nil
	if !aboutPerf {
		words = s.says
	}
	x := output.NewExplainer(nil, false, snapshot.Options{}, state, kernel.BPFUnknown)
	var texts [2]string
	for i, asJSON := range []bool{false, true} {
		var out bytes.Buffer
		sink := *x
		sink.Out, sink.AsJSON = &out, asJSON
		if err := sink.Enter(e); err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(nil, 0); err != nil {
			t.Fatal(err)
		}
		if sink.Refused != 1 {
			t.Errorf("explain counts %d refusals", sink.Refused)
		}
		texts[i] = out.String()
	}
	never := append([]string{"not for want of locked memory"}, s.never...)
	about, _, _ := strings.Cut(texts[0], "What else refuses") // where other calls are named
	contains(t, "explain", about, append([]string{"REFUSED with "}, words...), never)
	contains(t, "explain", texts[0], []string{"1 refusal was seen"}, nil)
	var said struct {
		Errno, Outcome, Note string
		Verdict              struct{ Errno, Limit string }
		Over                 int64 `json:"over_pages"`
		Remedies             []remedy.Remedy
	}
	if err := json.Unmarshal([]byte(texts[1]), &said); err != nil {
		t.Fatalf("%v: %s", err, texts[1])
	}
	if aboutPerf {
		said.Errno, said.Outcome = said.Verdict.Errno, "limit"
	} else {
		contains(t, "explain --json", said.Note, words, s.never)
	}
	if said.Outcome != s.outcome {
		t.Errorf("explain --json: %s; want %s", said.Outcome, s.outcome)
	}
	if offered := strings.Contains(texts[0], "What would help"); offered != (len(said.Remedies) > 0) || s.exact && !offered {
		t.Errorf("%d remedies in JSON; as text: %v", len(said.Remedies), offered)
	}
}

// shown wants the same of top's page about the row.
func (s saying) shown(t *testing.T, e *ledger.Entry) {
	t.Helper()
	m, err := top.New(top.Options{View: "events", Interval: 1})
	if err != nil {
		t.Fatal(err)
	}
	shown := row.Of(e)
	for _, msg := range []tea.Msg{tea.WindowSizeMsg{Width: 120, Height: 400}, top.Entries{Rows: []*row.Row{&shown}}, top.Tick{NowNS: e.TimeNS}, tea.KeyPressMsg{Code: tea.KeyEnter}} {
		m, _ = m.Update(msg)
	}
	screen := ansi.Strip(m.View())
	_, page, ok := strings.Cut(screen, "What it means")
	page, _, values := strings.Cut(page, "All values")
	if !ok || !values {
		t.Fatal(screen)
	}
	contains(t, "top", page, s.says, s.never)
}
