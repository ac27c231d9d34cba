//go:build guest

package tracer_test

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/reason"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// Each reason that can be provoked is: the kernel answers with the errno that the table has
// for it, by the witness of the program itself, and what is said of it names it, alone or as
// one of those that are left.
//
// What is said of refusals is right: the outcome, the sum, and nothing that would be false.
// The witness is the program's own errno: what is refused is explained, each remedy that is
// offered is applied and lets the whole program succeed, and a limit a page lower does not.
func TestReasons(t *testing.T) {
	guests.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) {
		unlimitMemlock(t)
		userPages(t, k)
		var names []string
		for _, p := range workload.Provocations() {
			if p.Name == "perf-redirected" && !k.Before("6.16") && k.Before("6.18") {
				continue // they charge the buffer twice and give it back once, which stays: a bug of its own
			}
			names = append(names, p.Name)
		}
		all := provokeAll(t, tracer.Options{BPF: true, Memcg: !k.Before("5.11"), Others: true}, names)
		for i, name := range all.names {
			t.Run(name, func(t *testing.T) {
				provoked{k, name}.check(t, all.results[i], all.refusals[i])
			})
		}
		for _, s := range sayings(k) {
			t.Run("said of "+s.refuse, func(t *testing.T) {
				i := slices.Index(all.names, s.refuse)
				s.check(t, all.results[i], all.refusals[i])
				for j := range all.refusals[i] {
					s.explained(t, all.State, &all.refusals[i][j])
					s.shown(t, &all.refusals[i][j])
				}
			})
		}
	})
}

// allProvoked is what became of provocations that were traced.
type allProvoked struct {
	objectTrace
	names    []string
	results  []guesttest.Result // what their programs said
	refusals [][]ledger.Entry   // what was seen refused of them
}

// provokeAll traces provocations, one after the other.
func provokeAll(t *testing.T, opts tracer.Options, names []string) *allProvoked {
	t.Helper()
	all := &allProvoked{names: names, results: make([]guesttest.Result, len(names)), refusals: make([][]ledger.Entry, len(names))}
	pids := make([]uint32, len(names))
	all.objectTrace = traceObjects(t, opts, func(objectTrace) {
		for i, name := range names {
			args := []string{"workload", "refuse", "--json", name}
			if strings.HasSuffix(name, "-cgroup") {
				args = append(args, "--hold", "500ms") // so that it is there when its path is looked for
			}
			c := guesttest.Command(t, "pinwatch", args...)
			all.results[i] = c.Run()
			pids[i] = uint32(c.Process.Pid)
		}
	})
	for i, pid := range pids {
		all.refusals[i] = slices.DeleteFunc(slices.Clone(all.entries), func(e ledger.Entry) bool {
			return e.Kind != ledger.Refusal || e.Caller.PID != pid
		})
	}
	return all
}

// That a memory cgroup refused is seen where their charges are not watched, too, and that none
// did. It is gone soon after, perhaps before its path is looked for.
func TestCgroupsThatRefuse(t *testing.T) {
	guesttest.Long(t)
	guests.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) {
		want := []struct {
			name    string
			outcome reason.Outcome
		}{
			{"ring-cgroup", reason.Limit}, {"map-machine", reason.NoMemory}, {"program-invalid", reason.OtherRule},
			{"map-cgroup", reason.Limit}, {"update-cgroup", reason.Limit}, {"program-cgroup", reason.Limit},
		}
		if k.Before("5.11") {
			want = want[:3] // no cgroup is charged for BPF objects
		}
		var names []string
		for _, w := range want {
			names = append(names, w.name)
		}
		opts := tracer.Options{BPF: true, Others: true}
		refusals := provokeAll(t, opts, names).refusals
		for i, w := range want {
			t.Run(w.name, func(t *testing.T) {
				// That an element was refused is derived where the charges are not watched, and now
				// and then (on arm64, always) the cgroup was seen to have room again by then.
				update := w.name == "update-cgroup"
				for attempt := 1; update && attempt < 3 && len(refusals[i]) == 1 && charging.OfRefusal(&refusals[i][0]).Outcome == reason.Unknown; attempt++ {
					refusals[i] = provokeAll(t, opts, names[i:i+1]).refusals[0]
				}
				if len(refusals[i]) != 1 {
					t.Fatalf("%d refusals", len(refusals[i]))
				}
				said := charging.OfRefusal(&refusals[i][0])
				text := said.Text()
				if t.Log(text); k.Arch == "arm64" && update && said.Outcome == reason.Unknown {
					return
				}
				if said.Outcome != w.outcome || len(said.Reasons) != 1 || strings.Contains(text, " bytes, memory.max ") != (w.outcome == reason.Limit) {
					t.Errorf("%v, want %v", said.Outcome, w.outcome)
				}
			})
		}
	})
}

// Of whom the limit is that refused is seen: one that a process was started with is nothing
// of its own, and one below its hard limit it may raise itself.
func TestWhoseLimit(t *testing.T) {
	guests.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) {
		unlimitMemlock(t)
		tr := begin(t, tracer.Options{Others: true, NotPerf: true})
		load(t, "call", "sends", "bytes=61440", "uid=2200", "memlock=4") // sets both limits itself
		soft := unix.Rlimit{Cur: uint64(4 * k.PageKiB() << 10), Max: unix.RLIM_INFINITY}
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &soft); err != nil {
			t.Fatal(err)
		}
		load(t, "call", "sends", "bytes=61440", "uid=2201", "memlock=-1")
		unlimitMemlock(t)
		tr.stop()
		for uid, want := range map[uint32]struct{ says, never string }{
			2200: {"that of its parent is unlimited", "hard limit"},
			2201: {"Its hard limit is unlimited", "its parent"},
		} {
			refusals := refusalsOf(tr.entries, uid)
			if len(refusals) != 1 {
				t.Fatalf("uid %d: %d refusals", uid, len(refusals))
			}
			text := charging.OfRefusal(&refusals[0]).Text()
			if !strings.Contains(text, want.says) || strings.Contains(text, want.never) {
				t.Errorf("uid %d: %s", uid, text)
			}
		}
	})
}

// provoked is a provocation on a kernel.
type provoked struct {
	kernel guesttest.Kernel
	name   string
}

// rows are those of the table that it provokes, of all kernels.
func (p provoked) rows() (list []reason.Reason) {
	for _, r := range reason.Table() {
		if r.Provocation == p.name {
			list = append(list, r)
		}
	}
	return list
}

// refuses reports whether this kernel has one of the rows, as mainline counts.
func (p provoked) refuses(rows []reason.Reason) bool {
	return slices.ContainsFunc(rows, func(r reason.Reason) bool {
		return (r.Since == "" || !p.kernel.Before(r.Since)) && (r.Until == "" || p.kernel.Before(r.Until))
	})
}

func (p provoked) check(t *testing.T, r guesttest.Result, refusals []ledger.Entry) {
	rows := p.rows()
	if len(rows) == 0 {
		return // one of a reason that another provocation has
	}
	attempt := last(t, r)
	errno := unix.Errno(attempt.Errno)
	if errno == unix.ENOSYS && attempt.Call == "memfd_secret" {
		return // it has to be asked for at boot before 6.5
	}
	if errno == 0 || attempt.Control {
		if p.refuses(rows) {
			t.Errorf("%s: %s: %v; the table has %s", attempt.Call, attempt.What, errno, rows[0].When)
		}
		return
	}
	i := slices.IndexFunc(rows, func(r reason.Reason) bool { return r.Errno == errno })
	if i < 0 && p.refuses(rows) {
		t.Errorf("%s: %s: %v; the table has %v", attempt.Call, attempt.What, errno, rows[0].Errno)
	}
	if len(refusals) == 0 {
		if i >= 0 && watched(rows[i]) {
			t.Errorf("%v, and there is no record of it", errno)
		}
		return
	}
	e := &refusals[len(refusals)-1]
	said := charging.OfRefusal(e)
	t.Log(said.Text())
	if unix.Errno(e.Errno) != errno && e.Op != ledger.Split {
		t.Errorf("recorded as %v; it is %v", unix.Errno(e.Errno), errno)
	}
	if i < 0 {
		return // this kernel has another reason
	}
	if !slices.ContainsFunc(said.Reasons, func(r reason.Reason) bool { return r.Provocation == p.name }) {
		t.Errorf("what is left of the reasons is not what was provoked: %s", rows[i].When)
	}
	if !watched(rows[i]) {
		t.Error("there is a record of it")
	}
}

// watched reports whether a refusal for that reason is one that is watched: what comes
// before perf is asked is not, nor what says that an element is there, and of those that
// charge beside it only what a limit can cause.
func watched(r reason.Reason) bool {
	switch r.Call {
	case reason.MapData, reason.MapAUX:
		return r.Function == "perf_mmap" || r.Function == "rb_alloc" || r.Function == "rb_alloc_aux" || r.Function == "perf_mmap_rb"
	case reason.SetupRing, reason.RegisterBuffers, reason.RegisterUmem:
		return slices.Contains([]unix.Errno{unix.EPERM, unix.ENOMEM, unix.ENOBUFS}, r.Errno)
	case reason.SendZeroCopy:
		return r.Function == "mm_account_pinned_pages"
	case reason.UpdateMap:
		return r.Errno == unix.ENOMEM
	case reason.TouchSecret:
		return false // a fault has no errno
	}
	return true
}
