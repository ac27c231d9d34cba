package top

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The pictures in the READMEs are what the screen shows. UPDATE_GOLDEN=1 takes them anew.
func TestReadmePictures(t *testing.T) {
	time.Local = time.UTC
	table := replayed(t, "several-users-cumulative.jsonl", 56, 120, 13)
	table.opts.Paused = true
	page := press(t, replayed(t, "several-users-cumulative.jsonl", 0, 100, 40), "2", "enter")
	_, chart, _ := strings.Cut(plain(page), "LOCKED from")
	chart, _, _ = strings.Cut("LOCKED from"+chart, "\n\nWho holds")
	for _, in := range []struct{ path, behind, picture string }{
		{"README.md", "gives\n\n", plain(table)},
		{"README.md", "refused:\n\n", chart},
		{"../../README.md", "on a page of `pinwatch top`:\n\n", chart},
	} {
		raw, err := os.ReadFile(in.path)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, found := strings.Cut(string(raw), in.behind+"```\n")
		_, after, closed := strings.Cut(rest, "\n```\n")
		if !found || !closed {
			t.Fatalf("%s has no picture behind %q", in.path, in.behind)
		}
		want := before + in.behind + "```\n" + in.picture + "\n```\n" + after
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(in.path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if diff := cmp.Diff(string(raw), want); diff != "" {
			t.Errorf("%s:\n%s", in.path, diff)
		}
	}
}
