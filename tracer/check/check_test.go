package check

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// The model says what the accounting is meant to be: the numbers are worked out
// by hand.
func TestModel(t *testing.T) {
	m := model{allowance: 10, paranoid: 2}
	var user, mm, other payer
	by := caller{user: &user, mm: &mm, limit: 5}
	want := func(step string, toUser, toMM int64) {
		t.Helper()
		if user.pages != toUser || mm.pages != toMM {
			t.Errorf("%s: user %d, process %d; want %d and %d", step, user.pages, mm.pages, toUser, toMM)
		}
	}
	inside, errno := m.charge(by, 9)
	if errno != 0 {
		t.Fatal(errno)
	}
	want("within the allowance", 9, 0)
	if user.areas != 1 {
		t.Errorf("%d areas; want 1", user.areas)
	}
	across, _ := m.charge(by, 3)
	want("across its end", 10, 2)
	past, _ := m.charge(by, 3)
	want("past it, up to the limit", 10, 5)
	if _, errno := m.charge(by, 1); errno != unix.EPERM {
		t.Errorf("one page beyond the limit: %v", errno)
	}
	want("refused", 10, 5)
	by.ipcLock = true
	extra, _ := m.charge(by, 1)
	want("with CAP_IPC_LOCK", 10, 6)
	extra.unmap()
	past.again()
	past.unmap()
	want("one of two mappings gone", 10, 5)
	if !past.live() {
		t.Error("a mapping is left")
	}
	past.unmap()
	across.unmap()
	want("refunds are what was charged", 9, 0)
	inside.unmap()
	want("at rest", 0, 0)
	if user.areas != 0 {
		t.Errorf("%d areas at rest", user.areas)
	}

	m.paranoid = -1
	if _, errno := m.charge(caller{user: &user, mm: &other}, 11); errno != 0 || user.pages != 10 || other.pages != 1 {
		t.Errorf("perf_event_paranoid -1: %v, user %d, process %d", errno, user.pages, other.pages)
	}
	// Lowered below what is charged: nothing of the history is charged again.
	m = model{allowance: 4, paranoid: 2}
	var fresh payer
	if _, errno := m.charge(caller{user: &user, mm: &fresh, limit: 9}, 9); errno != 0 || user.pages != 10 || fresh.pages != 9 {
		t.Errorf("sysctl lowered: %v, user %d, process %d", errno, user.pages, fresh.pages)
	}
	if got := m.room(&user); got != 0 {
		t.Errorf("room %d of a user that has more than its allowance", got)
	}
}

// A buffer is charged until the last mapping of either of its areas is gone, also of a part;
// an event leaves it with its own last mapping, and then makes a new one.
func TestBuffers(t *testing.T) {
	m := model{allowance: 10, paranoid: 2}
	p := &process{by: caller{user: &payer{}, mm: &payer{}, limit: unlimited}}
	mapped := func(e *perfEvent, which int, pages int64) *Mapping {
		got := &Mapping{p: p, pages: pages, event: e, buffer: e.buffer, which: which}
		if e.buffer != nil && e.buffer.areas[which].live() {
			got.kept()
			return got
		}
		a, errno := m.charge(p.by, pages)
		if errno != 0 {
			t.Fatal(errno)
		}
		if err := got.made(a); err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := func(step string, user, mm int64) {
		t.Helper()
		if p.by.user.pages != user || p.by.mm.pages != mm {
			t.Errorf("%s: user %d, process %d; want %d and %d", step, p.by.user.pages, p.by.mm.pages, user, mm)
		}
	}
	e, other := &perfEvent{}, &perfEvent{}
	data := mapped(e, 0, 9)
	aux := mapped(e, 1, 4)
	want("data and AUX", 10, 3)
	data.gone()
	want("the AUX area keeps the data", 10, 3)
	again := mapped(e, 0, 9)
	aux.gone()
	want("AUX gone", 9, 0)
	other.join(e.buffer)
	third := mapped(other, 0, 9)
	want("a redirected event maps it", 9, 0)
	again.gone()
	if e.buffer != nil || other.buffer == nil {
		t.Error("the event that maps it no more leaves it, and the other one keeps it")
	}
	fresh := mapped(e, 0, 3)
	want("a buffer of its own", 10, 2)
	third.without(3, 3)
	if len(p.maps) != 3 || third.pages != 3 {
		t.Fatalf("out of the middle: %d mappings, the first of %d pages", len(p.maps), third.pages)
	}
	third.gone()
	want("one of two parts gone", 10, 2)
	p.maps[len(p.maps)-1].without(0, 1)
	want("a page of the other one gone", 10, 2)
	p.maps[len(p.maps)-1].gone()
	want("both gone", 1, 2)
	if other.buffer != nil || other.mappings != 0 {
		t.Error("the buffer is gone, and an event still has it")
	}
	fresh.gone()
	want("at rest", 0, 0)
	if len(p.maps) != 0 || p.by.user.areas != 0 {
		t.Errorf("%d mappings, %d areas at rest", len(p.maps), p.by.user.areas)
	}
}

// Sizes are ones that perf accepts, and add up.
func TestSizes(t *testing.T) {
	for pages := int64(0); pages < 1500; pages++ {
		var sum int64
		for _, size := range sizes(pages) {
			if data := size - 1; data&(data-1) != 0 {
				t.Fatalf("%d pages: %d is no size of a buffer", pages, size)
			}
			sum += size
		}
		if sum != pages {
			t.Fatalf("%d pages: the sizes %v add up to %d", pages, sizes(pages), sum)
		}
	}
}

func TestExitCode(t *testing.T) {
	scenario := func(result string, couldNot bool) Scenario { return Scenario{Result: result, CouldNotRun: couldNot} }
	pass, fail, skip, broken := scenario(Pass, false), scenario(Fail, false), scenario(Skip, false), scenario(Skip, true)
	known := Scenario{Result: Fail, Known: "a finding"}
	ran := func(list ...Scenario) Kernel { return Kernel{Scenarios: list} }
	dead := Kernel{Error: "guest kernel panicked"}
	for _, c := range []struct {
		name                    string
		kernels                 []Kernel
		named                   bool
		normal, bisect, kselftt int
	}{
		{"all hold", []Kernel{ran(pass, pass)}, false, 0, 0, 0},
		{"one broken", []Kernel{ran(pass, fail)}, false, 3, 1, 1},
		{"some skipped", []Kernel{ran(pass, skip)}, false, 0, 0, 0},
		{"a named one skipped", []Kernel{ran(pass, skip)}, true, 0, 125, 4},
		{"a named one skipped, another broken", []Kernel{ran(fail, skip)}, true, 3, 1, 1},
		{"all skipped", []Kernel{ran(skip, skip)}, false, 0, 125, 4},
		{"one could not run", []Kernel{ran(pass, broken)}, false, 1, 125, 1},
		{"one could not run, another broken", []Kernel{ran(fail, broken)}, false, 3, 1, 1},
		{"a known one", []Kernel{ran(pass, known)}, false, 0, 0, 0},
		{"nothing but a known one", []Kernel{ran(known)}, true, 0, 0, 0},
		{"a known one, and a new one", []Kernel{ran(known, fail)}, false, 3, 1, 1},
		{"a known one, another could not run", []Kernel{ran(known, broken)}, false, 1, 125, 1},
		{"a known one, a named one skipped", []Kernel{ran(known, skip)}, true, 0, 125, 4},
		{"a known one, the other kernel panics", []Kernel{ran(known), dead}, false, 1, 125, 1},
		{"panic", []Kernel{dead}, false, 1, 125, 1},
		{"one of two kernels panics", []Kernel{ran(pass), dead}, false, 1, 125, 1},
		{"one panics, the other is broken", []Kernel{ran(fail), dead}, false, 3, 1, 1},
		{"nothing", nil, false, 1, 125, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Report{Kernels: c.kernels}
			for convention, want := range map[string]int{ExitDefault: c.normal, ExitBisect: c.bisect, ExitKselftest: c.kselftt} {
				if got, err := r.ExitCode(convention, c.named); err != nil || got != want {
					t.Errorf("%s: %d, %v; want %d", convention, got, err, want)
				}
			}
		})
	}
	if _, err := new(Report).ExitCode("nonsense", false); err == nil {
		t.Error("an unknown convention is an error")
	}
}

// The names are for other people's scripts: they stay. A new scenario is added
// here, and none goes.
func TestNames(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "testdata", "check", "scenarios.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range Exercises() {
		names = append(names, e.Name)
		if e.About == "" || e.Do == nil || strings.ToLower(e.Name) != e.Name || strings.ContainsAny(e.Name, " _,") {
			t.Errorf("%+v: wants a name in kebab-case, a description and something to do", e.Name)
		}
	}
	if diff := cmp.Diff(strings.Fields(string(raw)), names); diff != "" {
		t.Error(diff)
	}
}

func TestChoose(t *testing.T) {
	list, err := Choose([]string{"redirect", "map-once"})
	if err != nil || len(list) != 2 || list[0].Name != "redirect" {
		t.Errorf("got %v, %v", list, err)
	}
	for wrong, want := range map[string]string{"map-onec": "map-once", "sysctl": "sysctl-lowered", "two-processes": "two-processes-payer-first", "aux": "aux-within-allowance"} {
		_, err := Choose([]string{wrong})
		if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %s named", wrong, err, want)
		}
	}
}

// A fail names what is broken, and says whether tracer and witness agree.
func TestConclude(t *testing.T) {
	witness := []Witness{{Witness: "VmPin of the payer", When: "payer unmaps 9 pages", ExpectedPages: 0, SeenPages: 9, reading: kept}}
	broken := []Broken{{Verdict: "misdirected-refund", Certainty: certain, Count: 1, Kind: "refund", ExcessPages: 9}, {Verdict: "wrong-refusal", Certainty: certain, Count: 3}}
	doubt := []Broken{{Verdict: "underflow", Certainty: uncertain, Count: 1}, {Verdict: "wrong-refusal", Certainty: certain, Count: 3}}
	for _, c := range []struct {
		name     string
		evidence Evidence
		traced   bool
		result   string
		verdicts []string
		agree    bool
		reason   string
	}{
		{"clean", Evidence{Tracer: Watched{Watched: true}}, true, Pass, nil, true, ""},
		{"both", Evidence{Broken: witness, Tracer: Watched{Watched: true, Broken: broken}}, true, Fail, []string{"misdirected-refund"}, true, "expected 0 pages, seen 9"},
		{"tracer alone", Evidence{Tracer: Watched{Watched: true, Broken: broken}}, true, Fail, []string{"misdirected-refund"}, false, "witness: ok; they do not agree"},
		{"witness alone", Evidence{Broken: witness, Tracer: Watched{Watched: true}}, true, Fail, []string{"leak"}, false, "tracer: ok; witness: VmPin"},
		{"tracer uncertain, witness sure", Evidence{Broken: witness, Tracer: Watched{Watched: true, Broken: doubt}}, true, Fail, []string{"underflow"}, true, "uncertain"},
		{"tracer uncertain alone", Evidence{Tracer: Watched{Watched: true, Broken: doubt[:1]}}, true, Pass, nil, true, ""},
		{"no tracer", Evidence{Broken: witness}, false, Fail, []string{"leak"}, true, "witness: VmPin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sc := Scenario{Name: "x", Evidence: c.evidence}
			sc.conclude(c.traced)
			if sc.Result != c.result || sc.Evidence.Agree != c.agree || !strings.Contains(sc.Reason, c.reason) {
				t.Errorf("got %s, agree %v, %q", sc.Result, sc.Evidence.Agree, sc.Reason)
			}
			if diff := cmp.Diff(c.verdicts, sc.Verdicts); diff != "" {
				t.Error(diff)
			}
			if sc.Result == Fail && (sc.Evidence.Hurts == "" || len(sc.Evidence.Reproduce) != 2) {
				t.Errorf("a fail says whom it hurts and how to see it: %+v", sc.Evidence)
			}
		})
	}
}

// Witnesses alone name what they saw, and no more: a charge is too much when the call that
// makes it shows it, a leak is what does not come back.
func TestNamed(t *testing.T) {
	const room = "pages of the allowance that fit before EPERM"
	pin := func(who string, expected, seen, before int64, charging bool) Witness {
		return Witness{Witness: vmPinOf + who, ExpectedPages: expected, SeenPages: seen, reading: chargeReading(seen, seen-expected, before, charging)}
	}
	fit := func(expected, seen int64, rest bool) Witness {
		return Witness{Witness: room, ExpectedPages: expected, SeenPages: seen, reading: roomReading(expected, seen, rest)}
	}
	refused := Witness{Witness: "mmap of the mapper says EPERM instead of ok", ExpectedPages: 9}
	for _, c := range []struct {
		name   string
		broken []Witness
		right  []string // in the end
		want   string
	}{
		{"charged the history, and given back", []Witness{pin("mapper", 9, 37, 0, true), pin("mapper", 0, 19, 28, false), fit(500, 480, false)}, []string{vmPinOf + "mapper", room}, "overcharge"},
		{"charged the history, and killed", []Witness{pin("mapper", 9, 37, 0, true)}, nil, "overcharge"},
		{"within the allowance, and charged to the process", []Witness{pin("mapper", 0, 9, 0, true)}, []string{vmPinOf + "mapper"}, "overcharge"},
		{"the user is charged too much, and given back", []Witness{fit(500, 480, false)}, []string{room}, "overcharge"},
		{"the user is charged, and it does not come back", []Witness{fit(507, 498, false), fit(516, 507, true)}, nil, "leak"},
		{"the process keeps it", []Witness{pin("payer", 0, 9, 0, false)}, nil, "leak"},
		{"charged too much, and it does not come back", []Witness{pin("payer", 9, 18, 0, true), fit(516, 507, true)}, nil, "overcharge leak"},
		{"it came back later than it should", []Witness{pin("payer", 0, 9, 0, false)}, []string{vmPinOf + "payer"}, "mischarge"},
		{"what one lacks another one has", []Witness{pin("payer", 0, 9, 0, false), pin("sharer", 0, -9, 0, false)}, nil, "misdirected-refund"},
		{"and what was charged was too much", []Witness{fit(516, 507, false), pin("payer", 0, 9, 0, false), pin("sharer", 0, -9, 0, false)}, []string{room}, "overcharge misdirected-refund"},
		{"one process twice is not two", []Witness{pin("payer", 9, 18, 0, true), pin("payer", 9, 0, 9, true)}, nil, "overcharge"},
		{"below zero", []Witness{pin("sharer", 0, -9, 0, false)}, nil, "underflow"},
		{"more fits than is allowed", []Witness{fit(516, 525, true)}, nil, "underflow"},
		{"given back too early", []Witness{pin("mapper", 18, 9, 0, false)}, nil, "underflow"},
		{"charged to nobody while it is mapped", []Witness{pin("mapper", 9, 0, 0, true)}, nil, "mischarge"},
		{"more fits while something is mapped", []Witness{fit(500, 509, false)}, []string{room}, "mischarge"},
		{"refused", []Witness{refused}, nil, "wrong-refusal"},
		{"refused for what was charged too much", []Witness{pin("mapper", 9, 37, 0, true), refused}, nil, "overcharge"},
		{"all fine", nil, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			right := map[string]bool{}
			for _, name := range c.right {
				right[name] = true
			}
			got := named(c.broken, right)
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %q; want %q", got, c.want)
			}
			for _, name := range got {
				if Impact(name) == "" {
					t.Errorf("%s hurts nobody", name)
				}
			}
		})
	}
}

// The watchdog puts back what it was told of, the last first, and lets an order
// be that was cut off.
func TestWatchdog(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sysctl")
	if err := os.WriteFile(path, []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	var in strings.Builder
	orders := json.NewEncoder(&in)
	orders.Encode(order{Path: path, Value: "first"})
	orders.Encode(order{Path: path, Value: "second"})
	in.WriteString(`{"path":"` + path + `","val`)
	if err := Watchdog(strings.NewReader(in.String())); err != nil {
		t.Fatal(err)
	}
	if raw, _ := os.ReadFile(path); string(raw) != "first" {
		t.Errorf("got %q; want what the first order says", raw)
	}
	if err := Watchdog(strings.NewReader(`{"path":"` + dir + `/none/at-all","value":"1"}`)); err == nil {
		t.Error("what cannot be put back is an error")
	}
}

// Programs are what the kernel takes, and weigh enough together: at a page each, what
// the two rounds of a scenario leave behind is more than what is tolerated.
func TestPrograms(t *testing.T) {
	list := programs()
	for _, p := range list {
		if len(p.code) == 0 || len(p.code)%asm.InstructionSize != 0 {
			t.Errorf("%s: %d bytes of instructions", p.kind, len(p.code))
		}
	}
	if pages := 2 * programCopies * len(list); pages <= tolerance {
		t.Errorf("%d programs; a leak of up to %d pages is tolerated", pages, tolerance)
	}
}

// The kernel frees BPF objects, and ends rings, in workers that are nobody's: the
// events are the scenario's all the same, and what does not come is a leak.
func TestAtRest(t *testing.T) {
	const uid = 0x7fc00001
	s := &Scene{uids: []int{uid, uid + 1}, charged: 2}
	object := func(key uint64) *ledger.Object { return &ledger.Object{Key: key} }
	create := func(uid uint32, key uint64) ledger.Event {
		return ledger.Event{Op: ledger.Create, Caller: ledger.Caller{UID: uid}, Object: object(key), PageSize: 4096}
	}
	free := func(key uint64) ledger.Event {
		return ledger.Event{Op: ledger.Free, Object: object(key), PageSize: 4096}
	}
	ring := func(worker, before, after int64) ledger.Event {
		return ledger.Event{Op: ledger.Account, Charger: "io_uring", Caller: ledger.Caller{UID: uint32(worker)}, User: ledger.Reading{Owner: uid, Before: before, After: after}}
	}
	for _, c := range []struct {
		name   string
		events []ledger.Event
		sure   []string
		unsure []string
		missed bool
	}{
		{"all freed", []ledger.Event{create(uid, 1), create(uid, 2), free(1), free(2)}, nil, nil, false},
		{"one is left", []ledger.Event{create(uid, 1), create(uid, 2), free(2)}, nil, []string{"leak"}, false},
		{"another's of the same address", []ledger.Event{create(uid, 1), free(1), create(uid, 2), free(2), create(77, 1)}, nil, nil, false},
		{"one was not seen", []ledger.Event{create(uid, 1), free(1)}, nil, nil, true},
		{"a ring's end by a worker", []ledger.Event{ring(uid, 0, 8), ring(uid, 8, 16), ring(0, 16, 0)}, nil, nil, false},
		{"a ring's end that leaves something", []ledger.Event{ring(uid, 0, 8), ring(uid, 8, 16), ring(0, 16, 8)}, nil, []string{"leak"}, false},
		{"a ring's end that gives too much", []ledger.Event{ring(uid, 0, 8), ring(uid, 8, 16), ring(0, 16, -8)}, []string{"underflow"}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			own := s.own(c.events)
			w := judge(own, 0)
			if diff := cmp.Diff(c.sure, w.verdicts(certain)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.unsure, w.verdicts(uncertain)); diff != "" {
				t.Error(diff)
			}
			if missed := s.missed(own); (missed != "") != c.missed {
				t.Errorf("missed: %q", missed)
			}
		})
	}
}

// A loss is counted to the scenario in which it happened: what the marker between them tells
// apart to one, else to both neighbours, and what is nowhere to be seen to all.
func TestLossIsPlaced(t *testing.T) {
	const marker = 100
	scenes := []*Scene{{uids: []int{101, 102}}, {uids: []int{103, 104}}, {uids: []int{105, 106}}}
	m := marks{scenes: scenes, marker: marker}
	type event struct {
		uid  uint32
		lost uint64
	}
	free := func(e event) ledger.Event {
		return ledger.Event{Op: ledger.Free, Lost: e.lost, Object: &ledger.Object{}}
	}
	for _, c := range []struct {
		name     string
		events   []event // uid 0: a BPF object that is freed
		lost     uint64
		want     [3]uint64
		unplaced uint64
	}{
		{"none", []event{{101, 0}, {marker, 0}, {103, 0}, {marker, 0}, {105, 0}, {marker, 0}}, 0, [3]uint64{}, 0},
		{"within one", []event{{101, 0}, {marker, 0}, {103, 0}, {104, 2}, {marker, 2}, {105, 2}, {marker, 2}}, 2, [3]uint64{0, 2, 0}, 0},
		{"at its end", []event{{101, 0}, {marker, 0}, {103, 0}, {marker, 0}, {marker, 0}, {105, 0}, {marker, 3}}, 3, [3]uint64{0, 0, 3}, 0},
		{"at its beginning", []event{{101, 0}, {marker, 0}, {marker, 0}, {103, 1}, {marker, 1}, {105, 1}, {marker, 1}}, 1, [3]uint64{0, 1, 0}, 0},
		{"a mark is lost as well", []event{{101, 0}, {103, 4}, {marker, 4}, {105, 4}, {marker, 4}}, 4, [3]uint64{4, 4, 0}, 0},
		{"all of one", []event{{101, 0}, {marker, 0}, {marker, 9}, {105, 9}, {marker, 9}}, 9, [3]uint64{0, 9, 0}, 0},
		{"each its own", []event{{101, 1}, {marker, 1}, {103, 3}, {marker, 3}, {105, 3}, {marker, 7}}, 7, [3]uint64{1, 2, 4}, 0},
		{"after an object that goes late", []event{{101, 0}, {marker, 0}, {103, 0}, {0, 0}, {103, 2}, {marker, 2}, {0, 2}, {105, 2}, {marker, 2}}, 2, [3]uint64{0, 2, 0}, 0},
		{"found with an object that goes late", []event{{101, 0}, {marker, 0}, {0, 2}, {103, 2}, {marker, 2}, {105, 2}, {marker, 2}}, 2, [3]uint64{0, 2, 0}, 0},
		{"nowhere", []event{{101, 0}, {marker, 0}, {103, 0}, {marker, 0}, {105, 0}, {marker, 0}}, 5, [3]uint64{}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			var events []ledger.Event
			for _, e := range c.events {
				if e.uid == 0 {
					events = append(events, free(e))
					continue
				}
				events = append(events, ledger.Event{Op: ledger.Map, Lost: e.lost, Caller: ledger.Caller{UID: e.uid}})
			}
			placed, unplaced := m.place(events, c.lost)
			got := [3]uint64{placed[scenes[0]], placed[scenes[1]], placed[scenes[2]]}
			if got != c.want || unplaced != c.unplaced {
				t.Errorf("got %v and %d nowhere; want %v and %d", got, unplaced, c.want, c.unplaced)
			}
		})
	}
}

// What a ring is charged, by what its parameters say: 1024 entries, and 2048 completions.
func TestUringPages(t *testing.T) {
	for features, want := range map[uint32]int64{
		0:                                 26, // 5.3.1
		uringSingleMmap:                   32, // 5.4 to 5.11
		uringSingleMmap | uringAttributes: 26,
	} {
		p := uringParams{sqEntries: 1024, cqEntries: 2048, features: features, sqArray: 320, cqCQEs: 320}
		if features != 0 {
			p.sqArray, p.cqCQEs = 64+16*2048, 64 // one region, the completions first
		}
		if _, _, got := p.pages(4096); got != want {
			t.Errorf("features %#x: %d pages; want %d", features, got, want)
		}
	}
}

// Whether io_uring charges the process is told by the kernel's types.
func TestUringPins(t *testing.T) {
	for member, want := range map[string]bool{"account_mem": false, "limit_mem": true} {
		ring := &btf.Struct{Name: "io_ring_ctx", Size: 4, Members: []btf.Member{{Name: member, Type: &btf.Int{Name: "int", Size: 4}}}}
		path := filepath.Join(t.TempDir(), "types")
		writeTypes(t, path, ring)
		spec, err := btf.LoadSpec(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := uringPinsBy(spec); got != want {
			t.Errorf("%s: %v", member, got)
		}
	}
}

// Kernels of another architecture are booted first, and reported where they were
// named.
func TestForeignKernelsFirst(t *testing.T) {
	dir := t.TempDir()
	image := func(name string, at int, magic string) string {
		head := make([]byte, 0x210)
		copy(head[at:], magic)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, head, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	amd64, arm64 := image("bzImage", 0x202, "HdrS"), image("Image", 0x38, "ARM\x64")
	foreign := arm64
	native := amd64
	if runtime.GOARCH == "arm64" {
		foreign, native = amd64, arm64
	}
	g := Guests{Kernels: []string{native, "missing", foreign, native, foreign}}
	if got, want := g.order(), []int{2, 4, 0, 1, 3}; !slices.Equal(got, want) {
		t.Errorf("order %v; want %v", got, want)
	}
}
