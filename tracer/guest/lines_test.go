package guest

import (
	"strings"
	"sync"
	"testing"
)

// However the outputs arrive in pieces, their lines stay whole, and nothing is lost.
func TestWholeLines(t *testing.T) {
	var terminal strings.Builder
	var turn sync.Mutex
	out, err := &wholeLines{to: &terminal, turn: &turn}, &wholeLines{to: &terminal, turn: &turn}
	for _, piece := range []struct {
		to   *wholeLines
		text string
	}{{out, "TIME  KI"}, {err, "watching "}, {out, "ND\n12:00 cha"}, {err, "perf buffers\n"}, {err, "1/2\r2"}, {out, "rge\nno end"}, {err, "/2\n"}} {
		if n, e := piece.to.Write([]byte(piece.text)); n != len(piece.text) || e != nil {
			t.Fatal(n, e)
		}
	}
	out.Flush()
	err.Flush()
	if got, want := terminal.String(), "TIME  KIND\nwatching perf buffers\n1/2\r12:00 charge\n2/2\nno end"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
}
