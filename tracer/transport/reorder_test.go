package transport

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var epoch = time.Unix(1000, 0)

// drain pops what can go at a time, as text.
func drain(q *queue, now time.Time) (got string) {
	for {
		raw, ok := q.pop(now)
		if !ok {
			return got
		}
		got += string(raw)
	}
}

func TestQueue(t *testing.T) {
	type arrival struct {
		order uint64
		raw   string
	}
	for name, c := range map[string]struct {
		arrivals []arrival
		atOnce   string // what goes out without waiting
		later    string // and after holdBack
		lost     uint64
	}{
		"in order":                  {[]arrival{{1, "a"}, {2, "b"}, {3, "c"}}, "abc", "", 0},
		"out of order":              {[]arrival{{3, "c"}, {1, "a"}, {2, "b"}}, "abc", "", 0},
		"not yet":                   {[]arrival{{1, "a"}, {3, "c"}}, "a", "c", 1},
		"two took one number":       {[]arrival{{2, "b"}, {2, "c"}, {3, "d"}}, "bcd", "", 0},
		"and one of them waits":     {[]arrival{{2, "b"}, {3, "d"}}, "", "bd", 1},
		"three took one number":     {[]arrival{{3, "a"}, {3, "b"}, {3, "c"}}, "abc", "", 0},
		"gap":                       {[]arrival{{1, "a"}, {5, "e"}, {6, "f"}, {4, "d"}}, "a", "def", 2},
		"an early one behind a gap": {[]arrival{{9, "i"}, {1, "a"}}, "a", "i", 7},
	} {
		t.Run(name, func(t *testing.T) {
			var q queue
			for _, a := range c.arrivals {
				q.push(a.order, []byte(a.raw), epoch)
			}
			if got := drain(&q, epoch); got != c.atOnce {
				t.Errorf("at once %q; want %q", got, c.atOnce)
			}
			if got := drain(&q, epoch.Add(holdBack-1)); got != "" {
				t.Errorf("%q went out too soon", got)
			}
			if got := drain(&q, epoch.Add(holdBack)); got != c.later {
				t.Errorf("later %q; want %q", got, c.later)
			}
			if q.lost != c.lost {
				t.Errorf("%d lost; want %d", q.lost, c.lost)
			}
		})
	}
}

// What was lost counts from the record on that comes after it, although all gaps are given up
// at once.
func TestQueueLossHasItsPlace(t *testing.T) {
	var q queue
	for _, order := range []uint64{2, 3, 7, 7, 8, 9, 11} {
		q.push(order, []byte("x"), epoch)
	}
	var got []uint64
	for {
		if _, ok := q.pop(epoch.Add(holdBack)); !ok {
			break
		}
		got = append(got, q.lost)
	}
	if diff := cmp.Diff([]uint64{1, 1, 3, 3, 3, 3, 4}, got); diff != "" {
		t.Error(diff)
	}
}

// A record that comes after its place was given up still goes out.
func TestQueueLate(t *testing.T) {
	var q queue
	q.push(2, []byte("b"), epoch)
	late := epoch.Add(holdBack)
	if got := drain(&q, late); got != "b" {
		t.Fatalf("got %q", got)
	}
	q.push(1, []byte("a"), late)
	q.push(3, []byte("c"), late)
	if got := drain(&q, late); got != "ac" {
		t.Errorf("got %q; want ac", got)
	}
	q.push(9, []byte("i"), late)
	q.release()
	if got := drain(&q, late); got != "i" {
		t.Errorf("at the end: %q", got)
	}
}

// However the CPUs' rings are read, records whose programs did not overlap come
// out in order, all of them, and nothing waits for time to pass.
func TestQueueKeepsOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		// Programs on four CPUs add to the count, and read it some time after.
		type program struct {
			order        uint64
			begun, ended int
		}
		const cpus = 4
		var count uint64
		var running [cpus]*program
		var rings [cpus][]*program
		for step := range 200 {
			cpu := random.IntN(cpus)
			switch p := running[cpu]; {
			case p == nil:
				count++
				running[cpu] = &program{begun: step}
			case p.order == 0:
				p.order = count
			default:
				p.ended = step
				rings[cpu] = append(rings[cpu], p)
				running[cpu] = nil
			}
		}
		for cpu, p := range running { // the others end
			if p != nil {
				if p.order == 0 {
					p.order = count
				}
				p.ended = 1000
				rings[cpu] = append(rings[cpu], p)
			}
		}
		all := slices.Concat(rings[:]...)
		var q queue
		var out []*program
		for left := len(all); left > 0; left-- {
			cpu := random.IntN(cpus)
			for len(rings[cpu]) == 0 {
				cpu = (cpu + 1) % cpus
			}
			p := rings[cpu][0]
			rings[cpu] = rings[cpu][1:]
			q.push(p.order, []byte{byte(slices.Index(all, p))}, epoch)
			for raw, ok := q.pop(epoch); ok; raw, ok = q.pop(epoch) {
				out = append(out, all[raw[0]])
			}
		}
		if diff := cmp.Diff(len(all), len(out)); diff != "" || q.lost != 0 {
			t.Fatalf("records: %s, %d lost", diff, q.lost)
		}
		for i, a := range out {
			for _, b := range out[:i] {
				if a.ended < b.begun {
					t.Fatalf("%+v came after %+v", *a, *b)
				}
			}
		}
	}
}
