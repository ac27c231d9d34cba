//go:build guest

package check_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/reproducer"
)

// emitted are the scenarios whose reproducers run: all, or what `make test` has time for.
func emitted() (list []check.Exercise) {
	few := []string{"map-once", "past-allowance", "two-processes-payer-first"}
	for _, e := range check.Exercises() {
		if _, err := e.Program(); err == nil && (guesttest.All() || slices.Contains(few, e.Name)) {
			list = append(list, e)
		}
	}
	return list
}

// program is one that --explore found and shrunk, as it writes it: the misdirected refund,
// which every kernel has.
const program = `{"mlock_pages":2,"steps":[{"call":"start","limit":64},{"call":"open"},{"call":"map","pages":9},{"call":"start","process":1,"limit":64},` +
	`{"call":"give","to":1},{"call":"map","process":1,"mapping":1,"pages":9},{"call":"unmap"}]}`

// others is one with all that is charged beside perf buffers: up to the limit and past it,
// beside a buffer that shares the counter with it, given back, and left behind by who is killed.
const others = `{"mlock_pages":2,"steps":[{"call":"start","limit":64},{"call":"ring"},{"call":"register","pages":8},{"call":"open"},{"call":"map","pages":9},` +
	`{"call":"umem","object":1,"pages":16},{"call":"send","object":2,"pages":4},{"call":"bpf-map","object":3,"pages":7},{"call":"measure"},` +
	`{"call":"register","pages":200},{"call":"unregister"},{"call":"register","pages":200},{"call":"umem","object":4,"pages":63},{"call":"send","object":5,"pages":8},` +
	`{"call":"drop","object":1},{"call":"start","process":1,"limit":9},{"call":"ring","process":1,"object":6},{"call":"register","process":1,"object":6,"pages":8},` +
	`{"call":"kill"},{"call":"register","process":1,"object":6,"pages":8},{"call":"limit","process":1,"limit":-1},{"call":"send","process":1,"object":7,"pages":2},{"call":"exec","process":1},{"call":"measure"}]}`

// inGuest is where the guest has the reproducers.
const inGuest = "/reproducers/"

// compile makes the reproducers, and has the guests take them.
func compile(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	one := func(name string, e *check.Exercise, form string) {
		s, err := reproducer.Of(e)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := s.Write(&text, form); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		cc := exec.Command("gcc", "-x", "c", "-O2", "-static", "-pthread", "-o", file, "-")
		cc.Stdin = strings.NewReader(text.String())
		if out, err := cc.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		guests.Files = append(guests.Files, file+":"+inGuest+name)
	}
	for _, e := range emitted() {
		one(e.Name, &e, reproducer.C)
		if e.Name == "two-processes-payer-first" {
			one("ktap", &e, reproducer.Kselftest)
		}
	}
	for name, text := range map[string]string{"program": program, "others": others} {
		var p check.Program
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Fatal(err)
		}
		e := p.Exercise()
		one(name, &e, reproducer.C)
		played := filepath.Join(dir, name+".json")
		if err := os.WriteFile(played, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		guests.Files = append(guests.Files, played+":"+inGuest+name+".json")
	}
	guests.Files = append(guests.Files, filepath.Join(guesttest.Root(), "testdata", "check", "known-bad.json")+":"+inGuest+"known-bad.json",
		filepath.Join(guesttest.Root(), "testdata", "findings", "findings.json")+":"+inGuest+"findings.json")
}

// What is emitted comes to the scenario's verdict by itself: with no tracer, and nothing of
// pinwatch's.
func TestEmitted(t *testing.T) {
	kernels := func(t *testing.T) []guesttest.Kernel {
		compile(t)
		if !guesttest.All() {
			return guesttest.Fetch(t, "6.12")
		}
		list := slices.DeleteFunc(guesttest.Kernels(t), func(k guesttest.Kernel) bool { return k.Arch != "amd64" }) // gcc is for this machine
		for _, name := range guesttest.Accountings {
			list = append(list, guesttest.KnownBad(t, name))
		}
		return list
	}
	guests.Test(t, kernels, func(t *testing.T, k guesttest.Kernel) {
		broken := brokenOn(t, k)
		for _, e := range emitted() {
			t.Run(e.Name, func(t *testing.T) {
				result := guesttest.Command(t, inGuest+e.Name).Run()
				want := 0
				switch {
				case strings.HasPrefix(e.Name, "aux-") && k.Variant == "":
					want = 4 // no PMU of a stock kernel in QEMU has an AUX area
				case broken[e.Name]:
					want = 1
				}
				if result.Code != want || want == 1 != strings.Contains(result.Stdout, "BUG: ") {
					t.Errorf("exit %d; want %d\n%s%s", result.Code, want, result.Stdout, result.Stderr)
				}
			})
		}
		const kept = "BUG: VmPin of p1: -1, expected 0, after finish()"
		if result := guesttest.Command(t, inGuest+"program").Run(); result.Code != 1 || !strings.Contains(result.Stdout, kept) {
			t.Errorf("program: exit %d, and wants %s\n%s", result.Code, kept, result.Stdout)
		}
		if k.Variant == "" {
			for _, run := range []*guesttest.Cmd{guesttest.Command(t, inGuest+"others"), guesttest.Command(t, "pinwatch", "check", "--invasive", "--program", inGuest+"others.json")} {
				if result := run.Run(); result.Code != 0 || !strings.Contains(result.Stdout, "register") && !strings.Contains(result.Stdout, "1 pass, 0 fail") {
					t.Errorf("others: exit %d\n%s%s", result.Code, result.Stdout, result.Stderr)
				}
			}
		}
		ktap := guesttest.Command(t, inGuest+"ktap").Run()
		if ktap.Code != 1 || !strings.HasPrefix(ktap.Stdout, "TAP version 13\n1..2\n") || !strings.Contains(ktap.Stdout, "\nnot ok 1 two-processes-payer-first: VmPin\n") {
			t.Errorf("exit %d\n%s", ktap.Code, ktap.Stdout)
		}
		// Whom nothing is allowed it cannot tell anything.
		cannot := guesttest.Command(t, "pinwatch", "workload", "run-as", "--uid", "65534", "--", inGuest+"map-once").Run()
		if cannot.Code != 4 || !strings.Contains(cannot.Stdout, "SKIP: open events and become another user") {
			t.Errorf("without privileges: exit %d\n%s%s", cannot.Code, cannot.Stdout, cannot.Stderr)
		}
	})
}

// brokenOn are the scenarios that are known to fail on a kernel.
func brokenOn(t *testing.T, k guesttest.Kernel) map[string]bool {
	t.Helper()
	var known []finding
	var variants map[string]map[string][]string
	for file, into := range map[string]any{"findings.json": &known, "known-bad.json": &variants} {
		raw, err := os.ReadFile(inGuest + file)
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	broken := map[string]bool{}
	series := k.Upstream()
	if k.Variant != "" {
		series = "6.1" // which it is made of
	}
	for name := range knownOf(known, series, nil) {
		broken[name] = true
	}
	for name := range variants[k.Variant] {
		broken[name] = true
	}
	return broken
}
