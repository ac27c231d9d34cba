package probe

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"weak"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// fakeLink is attached to nothing, and remembers whether it was closed.
type fakeLink struct {
	link.Link
	open *[]string
	name string
}

func (l *fakeLink) Close() error {
	*l.open = slices.DeleteFunc(*l.open, func(name string) bool { return name == l.name })
	return nil
}

// fake is a set of probes that are attached to nothing: fails says why one cannot be.
func fake(probes []Probe, absent map[string]bool, fails func(Probe) error) (s *Set, open *[]string) {
	open = &[]string{}
	programs := map[string]*ebpf.Program{}
	for _, p := range probes {
		programs[p.loaded()] = new(ebpf.Program)
	}
	s = &Set{probes: probes, absent: absent, collection: &ebpf.Collection{Programs: programs},
		skipped: func(*ebpf.Program) uint64 { return 10 }, missed: func(link.Link) uint64 { return 1 }}
	s.attach = func(p Probe, _ *ebpf.Program) (link.Link, error) {
		if err := fails(p); err != nil {
			return nil, err
		}
		name := State{Symbol: p.Symbol, Return: p.ret}.String()
		*open = append(*open, name)
		return &fakeLink{open: open, name: name}, nil
	}
	return s, open
}

// An optional probe that fails, whatever for, takes with it the other one on its function
// and nothing else. It is said, unless the kernel is known to lack the function.
func TestOptionalProbesFailAlone(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		absent map[string]bool
		notes  int
	}{
		"no such function":             {os.ErrNotExist, nil, 0},
		"as old and new kernels say":   {unix.EINVAL, nil, 0},
		"the function is there":        {unix.EINVAL, map[string]bool{"b": false}, 1},
		"something else goes wrong":    {unix.EBUSY, nil, 1},
		"the library does not know it": {ebpf.ErrNotSupported, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, open := fake([]Probe{
				{Program: "1", Symbol: "a", ret: true, Optional: true}, {Program: "2", Symbol: "a", Optional: true},
				{Program: "3", Symbol: "b", ret: true, Optional: true}, {Program: "4", Symbol: "b", Optional: true},
				{Program: "5", Symbol: "c"},
			}, c.absent, func(p Probe) error {
				if p.Program == "4" {
					return fmt.Errorf("creating perf_kprobe PMU: %w", c.err)
				}
				return nil
			})
			if err := s.Attach(); err != nil {
				t.Fatal(err)
			}
			if want := []string{"the return of a", "a", "c"}; !slices.Equal(*open, want) {
				t.Errorf("attached: %v; want %v", *open, want)
			}
			if len(s.Notes()) != c.notes {
				t.Errorf("notes: %q; want %d", s.Notes(), c.notes)
			}
			s.Detach()
			if len(*open) != 0 {
				t.Errorf("still attached: %v", *open)
			}
		})
	}
}

// Where none can be attached, that is said once.
func TestNoneCanBeAttached(t *testing.T) {
	s, _ := fake([]Probe{{Program: "1", Symbol: "a", Optional: true}, {Program: "2", Symbol: "b", Optional: true}}, nil, func(Probe) error { return unix.EACCES })
	if err := s.Attach(); !errors.Is(err, unix.EACCES) {
		t.Error(err)
	}
}

// A required one takes all with it.
func TestRequiredProbesFailTogether(t *testing.T) {
	s, open := fake([]Probe{{Program: "1", Symbol: "a"}, {Program: "2", Symbol: "b"}}, nil, func(p Probe) error {
		if p.Symbol == "b" {
			return unix.EBUSY
		}
		return nil
	})
	if err := s.Attach(); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "b") || len(*open) != 0 {
		t.Errorf("%v; attached: %v", err, *open)
	}
}

// What the kernel's kprobes missed is counted for every probe but the hot ones, whatever
// subsystem it is of.
func TestMissedHitsAreCounted(t *testing.T) {
	s, _ := fake([]Probe{{Program: "1", Symbol: "a"}, {Program: "2", Symbol: "b", Optional: true}, {Program: "3", Symbol: "c", Hot: true}}, nil, func(Probe) error { return nil })
	if err := s.Attach(); err != nil {
		t.Fatal(err)
	}
	if got := s.Missed(); got != 22 {
		t.Errorf("%d missed; want 22", got)
	}
	var none *Set
	if none.Missed() != 0 || none.Attached() || none.Notes() != nil {
		t.Error("a set that is not there has something")
	}
}

// The tables name programs that are built in, and each has a function and, where that is
// entered, also its return.
func TestTables(t *testing.T) {
	perf, err := bpf.LoadPerf()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range backends() {
		for _, p := range b.Probes {
			if spec := perf.Programs[p.Program]; spec == nil || p.fromELF(spec).Symbol == "" {
				t.Errorf("%s: %s is not built in, or for no function", b, p.Program)
			}
		}
	}
	objects, err := bpf.LoadObjects()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range slices.Concat(objectProbes(true, true, false, Kernel{}), chosen(growthProbes(), false, Kernel{})) {
		if spec := objects.Programs[p.Program]; spec == nil || p.fromELF(spec).Symbol == "" {
			t.Errorf("%s is not built in, or for no function", p.Program)
		}
	}
	chargers, err := bpf.LoadChargers()
	if err != nil {
		t.Fatal(err)
	}
	list := Chargers(chargers, Kernel{})
	for i, p := range list {
		alone := p.Program == bpf.ChargersProgKretprobeVfioPin // there is nothing to know of its entry
		if !p.Optional || p.ret && !alone && (p.Symbol != list[i+1].Symbol || list[i+1].ret) {
			t.Errorf("%+v: not optional, or a return that is not followed by its entry", p)
		}
	}
	if len(list) < 30 {
		t.Errorf("%d probes on other chargers", len(list))
	}
}

// The kernel's types are megabytes, and of no use once the programs are loaded.
func TestTypesAreNotKept(t *testing.T) {
	cache := btf.NewCache()
	kept := weak.Make(cache)
	s, err := Load(&ebpf.CollectionSpec{}, nil, Kernel{Types: kernel.Types{Cache: cache}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	if kept.Value() != nil {
		t.Error("a set keeps the kernel's types")
	}
	s.Close()
}

func TestPlace(t *testing.T) {
	read := attacher{addresses: map[string]uint64{"first": 0x1000, "f": 0x1234, "beyond": 0x3000, "absent": 0}, text: text{0x1000, 0x2000}}
	asked := attacher{addresses: read.addresses}
	for _, c := range []struct {
		name     string
		a        attacher
		function string
		symbol   string
		offset   uint64
	}{
		{"in the kernel's text", read, "f", "_text", 0x234},
		{"where that begins", read, "first", "first", 0},
		{"in a module", read, "beyond", "beyond", 0},
		{"there is none", read, "absent", "absent", 0},
		{"not looked for", read, "other", "other", 0},
		{"a kernel that looks names up fast", asked, "f", "f", 0},
		{"nothing is known", attacher{}, "f", "f", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if symbol, offset := c.a.place(c.function); symbol != c.symbol || offset != c.offset {
				t.Errorf("%s+%#x; want %s+%#x", symbol, offset, c.symbol, c.offset)
			}
		})
	}
}
