package top

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The pictures in README.md are what the screen shows. UPDATE_GOLDEN=1 takes them anew.
func TestReadmePictures(t *testing.T) {
	time.Local = time.UTC
	table := replayed(t, "several-users-cumulative.jsonl", 56, 120, 13)
	table.opts.Paused = true
	page := press(t, replayed(t, "several-users-cumulative.jsonl", 0, 100, 40), "2", "enter")
	_, chart, _ := strings.Cut(plain(page), "LOCKED from")
	chart, _, _ = strings.Cut("LOCKED from"+chart, "\n\nWho holds")
	raw, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for begin, picture := range map[string]string{"gives\n\n```\n": plain(table), "refused:\n\n```\n": chart} {
		before, rest, found := strings.Cut(text, begin)
		_, after, closed := strings.Cut(rest, "\n```\n")
		if !found || !closed {
			t.Fatalf("README.md has no picture after %q", begin)
		}
		text = before + begin + picture + "\n```\n" + after
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile("README.md", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(raw), text); diff != "" {
		t.Error(diff)
	}
}
