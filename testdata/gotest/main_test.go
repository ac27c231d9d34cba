package main

import (
	"strings"
	"testing"
	"time"
)

// What go test says of a package, and what is shown of it.
func TestShow(t *testing.T) {
	for _, c := range []struct{ name, said, want string }{
		{"a quick test passes",
			`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: noise\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- PASS: TestA (0.10s)\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p","Elapsed":0.1}
`, "ok  \tp\t0.1s\n"},
		{"a slow one",
			`{"Action":"run","Package":"p","Test":"TestA/b"}
{"Action":"output","Package":"p","Test":"TestA/b","Output":"build.sh: compiled 7 of 9 files\n"}
{"Action":"pass","Package":"p","Test":"TestA/b","Elapsed":12.3}
{"Action":"skip","Package":"p","Test":"TestC","Elapsed":2}
`, "build.sh: compiled 7 of 9 files\n--- PASS: TestA/b (12s)\n--- SKIP: TestC (2s)\n"},
		{"two in a guest",
			`{"Action":"output","Package":"p","Test":"TestA/b","Output":"a guest with Linux 9.9, 5.1 s: TestA 2 s, TestC 1 s\n"}
{"Action":"pass","Package":"p","Test":"TestA/b","Elapsed":0}
{"Action":"output","Package":"p","Test":"TestC/b","Output":"a guest with Linux 9.9, 5.1 s: TestA 2 s, TestC 1 s\n"}
{"Action":"pass","Package":"p","Test":"TestC/b","Elapsed":0}
`, "a guest with Linux 9.9, 5.1 s: TestA 2 s, TestC 1 s\n"},
		{"one fails",
			`{"Action":"output","Package":"p","Test":"TestA/b","Output":"=== RUN   TestA/b\n"}
{"Action":"output","Package":"p","Test":"TestA/b","Output":"    a_test.go:1: wrong\n"}
{"Action":"output","Package":"p","Test":"TestA/b","Output":"    --- FAIL: TestA/b (0.10s)\n"}
{"Action":"fail","Package":"p","Test":"TestA/b","Elapsed":0.1}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- FAIL: TestA (0.10s)\n"}
{"Action":"fail","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p","Elapsed":0.1}
`, "    a_test.go:1: wrong\n    --- FAIL: TestA/b (0.10s)\n--- FAIL: TestA (0.10s)\nFAIL\nFAIL\tp\t0.1s\n"},
		{"a package dies",
			`{"Action":"output","Package":"p","Test":"TestB","Output":"fatal error: all goroutines are asleep\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p","Elapsed":0.1}
`, "FAIL\tp\t0.1s\nfatal error: all goroutines are asleep\n"},
		{"what does not compile",
			`{"ImportPath":"p","Action":"build-output","Output":"./a.go:1:1: expected 'package'\n"}
go: some error of go's own
`, "./a.go:1:1: expected 'package'\ngo: some error of go's own\n"},
	} {
		var out strings.Builder
		s := newShow(&out, time.Now)
		for line := range strings.Lines(c.said) {
			s.line(line)
		}
		if out.String() != c.want {
			t.Errorf("%s:\n%s\nwant:\n%s", c.name, out.String(), c.want)
		}
	}
}

// It is never silent: it names what runs, but not what waits for its turn.
func TestQuiet(t *testing.T) {
	var out strings.Builder
	now := time.Now()
	s := newShow(&out, func() time.Time { return now })
	s.running()
	for line := range strings.Lines(`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/b"}
{"Action":"run","Package":"p","Test":"TestC"}
{"Action":"pause","Package":"p","Test":"TestC"}
{"Action":"run","Package":"p","Test":"TestD"}
{"Action":"run","Package":"p","Test":"TestD/e"}
{"Action":"pause","Package":"p","Test":"TestD/e"}
`) {
		s.line(line)
	}
	now = now.Add(30 * time.Second)
	s.running()
	if want := "    0s: no test yet: go compiles\n    30s: running TestA/b (30s)\n"; out.String() != want {
		t.Errorf("%q; want %q", out.String(), want)
	}

	lines := make(chan string)
	out.Reset()
	go func() {
		time.Sleep(50 * time.Millisecond)
		close(lines)
	}()
	s.follow(lines, 10*time.Millisecond)
	if !strings.Contains(out.String(), "running TestA/b") {
		t.Errorf("silent: %q", out.String())
	}
}
