package terminal_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/output/top/terminal"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
)

// The kinds that bpfobj tells of are whole on the screen, not cut off.
func TestObjectKindsAreShown(t *testing.T) {
	list := terminal.Objects(func(context.Context) (*bpfobj.Listing, error) {
		return &bpfobj.Listing{Objects: []bpfobj.Object{{Kind: bpfobj.KindMap, ID: 1, Type: "hash"}, {Kind: bpfobj.KindProgram, ID: 2, Type: "kprobe"}}}, nil
	})
	objects, err := list(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := top.New(top.Options{View: "bpf"})
	if err != nil {
		t.Fatal(err)
	}
	m, _ = m.Update(tea.WindowSizeMsg{Width: 80, Height: 24})
	m, _ = m.Update(top.Objects(objects))
	m, _ = m.Update(top.Tick{NowNS: 1e18})
	words := strings.Fields(ansi.Strip(m.View()))
	for _, kind := range []string{bpfobj.KindMap, bpfobj.KindProgram} {
		if !slices.Contains(words, kind) {
			t.Errorf("no %q in\n%s", kind, m.View())
		}
	}
}
