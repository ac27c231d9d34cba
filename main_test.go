package main

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/pinwatch/pinwatch/"

// floors are the rooms of the house from the ground up. A room imports only rooms of
// lower floors.
var floors = [][]string{
	{"tracer/cgroup/container"},
	{"tracer/rule", "tracer/refusal", "tracer/ledger/counter", "tracer/cgroup", "tracer/child", "tracer/evidence", "tracer/guest/fakeqemu", "tracer/image", "tracer/self", "output/lines", "output/hostile", "output/command/value", "output/top/trend"},
	{"bpf", "tracer/guest", "tracer/kernel", "tracer/ledger/call", "tracer/ledger/object", "tracer/reason", "tracer/remedy"},
	{"tracer/accounting", "tracer/ledger", "tracer/transport", "tracer/bpfobj", "tracer/guest/guesttest"},
	{"tracer/pipeline", "tracer/probe", "tracer/snapshot"},
	{"tracer", "tracer/advice"},
	{"tracer/charging"},
	{"tracer/session", "tracer/workload"},
	{"tracer/check", "tracer/doctor"},
	{"tracer/explore", "tracer/known"},
	{"tracer/reproducer"},
	{"output/format"},
	{"output/row", "output/report", "output/objects"},
	{"output/recording", "output/held"},
	{"output", "output/checked", "output/explored", "output/emitted", "output/gate", "output/metrics"},
	{"output/top", "output/page", "output/agent", "output/command/loads", "output/command/tracing"},
	{"output/top/terminal", "output/command/past"},
	{"output/command"},
	{"."},
}

// large rooms may have more than mostLines of Go that somebody wrote: tables of scenarios,
// workloads and views.
var large = []string{"tracer/check", "tracer/workload", "output/top"}

const mostLines = 1815

func floorOf(room string) int {
	return slices.IndexFunc(floors, func(rooms []string) bool { return slices.Contains(rooms, room) })
}

// sources are the files of the house that somebody wrote, tests and what only tests and
// benchmarks use left out, by their rooms.
func sources(t *testing.T) map[string][]string {
	rooms := map[string][]string{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && name != "." || d.Name() == "testdata") {
			return fs.SkipDir
		}
		generated := strings.HasSuffix(name, "_bpfel.go") || name == "gen.go"
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && !generated {
			rooms[path.Dir(name)] = append(rooms[path.Dir(name)], name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rooms
}

// The plan of the rooms holds: no import runs from a lower room to a higher one, or beside
// it, and no room is too large to be known.
func TestHouse(t *testing.T) {
	for room, files := range sources(t) {
		if floorOf(room) < 0 {
			t.Errorf("%s: a room of no floor: give it one, in floors", room)
		}
		lines := 0
		for _, file := range files {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			lines += bytes.Count(raw, []byte("\n"))
			f, err := parser.ParseFile(token.NewFileSet(), file, raw, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range f.Imports {
				name, _ := strconv.Unquote(spec.Path.Value)
				lower, ours := strings.CutPrefix(name, module)
				if ours && floorOf(lower) >= floorOf(room) {
					t.Errorf("%s imports %s, which is not on a lower floor", file, lower)
				}
			}
		}
		if lines > mostLines && !slices.Contains(large, room) {
			t.Errorf("%s has %d lines: more than %d", room, lines, mostLines)
		}
		if room == "." && lines >= 60 {
			t.Errorf("the entry has %d lines", lines)
		}
	}
}

// Of each direct dependency one line says what it is for.
func TestDependenciesAreExplained(t *testing.T) {
	raw, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("testdata/dist/DEPENDENCIES.md")
	if err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		path, version, is := strings.Cut(strings.TrimSpace(line), " ")
		if !is || !strings.HasPrefix(line, "\t") || strings.HasSuffix(version, "// indirect") {
			continue
		}
		needed[path] = true
		if !bytes.Contains(page, []byte("\n| "+path+" | ")) {
			t.Errorf("testdata/dist/DEPENDENCIES.md does not say what %s is for", path)
		}
	}
	if len(needed) == 0 {
		t.Error("go.mod has no dependency that this test can read")
	}
	for _, row := range regexp.MustCompile(`(?m)^\| ([a-z0-9.]+\.[a-z]+/\S+) \|`).FindAllSubmatch(page, -1) {
		if !needed[string(row[1])] {
			t.Errorf("testdata/dist/DEPENDENCIES.md says what %s is for, which go.mod does not need", row[1])
		}
	}
}
