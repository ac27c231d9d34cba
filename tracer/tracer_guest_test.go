//go:build guest

package tracer_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
	"github.com/pinwatch/pinwatch/tracer/probe"
	"github.com/pinwatch/pinwatch/tracer/self"
	"github.com/pinwatch/pinwatch/tracer/transport"
)

// The sysctls, the online CPUs and the paranoid level are read live: a change
// counts from the next event on, in one and the same trace.
func TestSettingsAreLive(t *testing.T) { guests.Test(t, guesttest.Newest, settingsAreLive) }

func settingsAreLive(t *testing.T, k guesttest.Kernel) {
	tr := begin(t, tracer.Options{})
	one := func() { load(t, "perf-buffers", "--max", "1", "--quiet") }
	level := strings.TrimSpace(read(t, settings+"paranoid")) // Debian's or upstream's
	one()
	guesttest.Set(t, settings+"mlock_kb", "1024")
	one()
	setCPU(t, 3, false)
	one()
	guesttest.Set(t, settings+"paranoid", "-1")
	one()
	tr.stop()

	var got []string
	for _, e := range tr.children() {
		if limits := e.Buffer.Limits; e.Kind == ledger.Charge {
			got = append(got, fmt.Sprintf("%d %d %d", limits.Allowance, limits.OnlineCPUs, limits.Paranoid))
		}
	}
	page := int64(os.Getpagesize())
	first, mib := (512<<10+page)/page*4, 1<<20/page
	want := []string{fmt.Sprintf("%d 4 %s", first, level), fmt.Sprintf("%d 4 %s", 4*mib, level), fmt.Sprintf("%d 3 %s", 3*mib, level), fmt.Sprintf("%d 3 -1", 3*mib)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%s", diff, strings.Join(tr.Degraded(), "\n"))
	}
}

// With the named capabilities alone, and with the kernel's symbols hidden, the
// trace is degraded and says so, and the numbers are the same.
func TestLeastPrivilege(t *testing.T) { guests.Test(t, guesttest.Newest, leastPrivilege) }

func leastPrivilege(t *testing.T, k guesttest.Kernel) {
	old := k.Before("5.11")
	caps := "cap_bpf,cap_perfmon"
	as := func(t *testing.T, args ...string) *guesttest.Cmd {
		t.Helper()
		return guesttest.Command(t, "pinwatch", append([]string{"workload", "run-as", "--uid", "1001", "--caps", caps, "--", "pinwatch", "trace"}, args...)...)
	}
	if old {
		// Its BPF objects are held against RLIMIT_MEMLOCK.
		if r := as(t).Run(); r.Code != 1 || !strings.Contains(r.Stderr, "grant CAP_SYS_RESOURCE, or ulimit -l unlimited") {
			t.Errorf("RLIMIT_MEMLOCK is not explained: exit %d: %s", r.Code, r.Stderr)
		}
		caps += ",cap_sys_resource"
	}
	t.Run("Debian's level", func(t *testing.T) {
		guesttest.Set(t, settings+"paranoid", "3")
		if r := as(t, "--only", "perf", "--attach", "kprobe").Run(); r.Code != 1 || !strings.Contains(r.Stderr, "perf_event_paranoid is 3") {
			t.Errorf("not explained: exit %d: %s", r.Code, r.Stderr)
		}
		if old {
			return // it has no fentry
		}
		want := "using fentry, because attach kprobe to perf_mmap:"
		switch {
		case !k.Before("6.14"):
			want = "perf buffers mapped and unmapped: session, "
		case !k.Before("6.10"):
			want = "using session, because attach kprobe to perf_mmap:"
		}
		without := caps
		caps += ",cap_syslog" // for BPF objects
		r := watches(t, as(t))
		caps = without
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("it leaves %q, which was not used: %+v", want, r)
		}
		if !k.Before("6.10") && strings.Contains(r.Stderr, "not watched") {
			t.Errorf("sessions are on all functions: %s", r.Stderr)
		}
	})
	t.Run("upstream's level", func(t *testing.T) {
		guesttest.Set(t, settings+"paranoid", "2")
		if r := watches(t, as(t, "--only", "perf")); !strings.Contains(r.Stderr, "kernel symbols are hidden (no CAP_SYSLOG") {
			t.Errorf("with CAP_BPF and CAP_PERFMON: %+v", r)
		}
		// BPF objects take symbols: asked for alone, they are not silently left out.
		if r := as(t, "--only", "bpf", "--duration", "1s").Run(); r.Code != 1 || !strings.Contains(r.Stderr, "watch BPF objects: ") || strings.Contains(r.Stderr, "watching") {
			t.Errorf("BPF objects alone: %+v", r)
		}
	})
	t.Run("hidden", hiddenSymbols)
}

// watches lets a trace begin and ends it, when it has seen nothing.
func watches(t *testing.T, c *guesttest.Cmd) guesttest.Result {
	t.Helper()
	c.Start().WaitFor("watching")
	r := c.Stop(os.Interrupt)
	if r.Code != 0 || !strings.Contains(r.Stdout, "verdict: none") {
		t.Errorf("%s: %+v", c, r)
	}
	return r
}

// hiddenSymbols has a trace that cannot read settings in the kernel hear of one that is
// changed. It is a process of its own, which has not seen the symbols.
func hiddenSymbols(t *testing.T) {
	const pages = 256 // for each of 4 CPUs
	guesttest.Set(t, "/proc/sys/kernel/kptr_restrict", "2")
	c := guesttest.Command(t, "pinwatch", "trace", "--only", "perf", "--json").Start()
	c.WaitFor("watching")
	guesttest.Set(t, settings+"mlock_kb", fmt.Sprint(pages*os.Getpagesize()>>10))
	made := 0
	for late := time.Now().Add(patience); ; {
		load(t, "perf-buffers", "--max", "1", "--quiet")
		made += 2
		entries := recorded(t, c.Said())
		if n := len(entries); n > 0 && entries[n-1].Buffer.Limits.Allowance == 4*pages {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("the allowance is not %d pages:\n%s", 4*pages, c.Said())
		}
	}
	r := c.Stop(unix.SIGTERM)
	if entries := recorded(t, r.Stdout); r.Code != 0 || len(entries) != made || !strings.Contains(r.Stderr, "kernel symbols are hidden (") {
		t.Errorf("%d entries of %d calls; exit %d: %s", len(entries), made, r.Code, r.Stderr)
	}
}

// recorded is what the ledger makes of JSON lines.
func recorded(t *testing.T, text string) (entries []ledger.Entry) {
	t.Helper()
	l := ledger.New()
	whole := text[:strings.LastIndexByte(text, '\n')+1]
	for event, err := range recording.NewReader(strings.NewReader(whole)).Events() {
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		entries = append(entries, l.Apply(event))
	}
	return entries
}

// A command is traced alone, with its children; filters choose among events.
func TestFilters(t *testing.T) { guests.Test(t, guesttest.First, filters) }

func filters(t *testing.T, _ guesttest.Kernel) {
	all := begin(t, tracer.Options{})
	some := guesttest.Command(t, "pinwatch", "trace", "--only", "perf", "--json", "--uid", "1001", "--", "/proc/"+fmt.Sprint(os.Getpid())+"/exe")
	some.Env = append(os.Environ(), twoUsersVariable+"=1")
	stdin, err := some.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	some.Start().WaitFor(twoUsersMapped)
	load(t, "perf-buffers", "--max", "1", "--quiet", "--uid", "1003") // a stranger
	stdin.Close()
	r := some.Wait()
	all.stop()

	byUID := func(entries []ledger.Entry) map[uint32]int {
		count := map[uint32]int{}
		for _, e := range entries {
			if e.Caller.UID != 0 && !self.Reserved(e.Caller.UID) { // else the other trace tests its probes
				count[e.Caller.UID]++
			}
		}
		return count
	}
	if diff := cmp.Diff(map[uint32]int{1001: 4, 1002: 2, 1003: 2}, byUID(all.children())); diff != "" {
		t.Errorf("all of it: %s", diff)
	}
	if diff := cmp.Diff(map[uint32]int{1001: 4}, byUID(recorded(t, r.Stdout))); diff != "" || r.Code != 0 {
		t.Errorf("a user of the command's: %s\nexit %d: %s", diff, r.Code, r.Stderr)
	}
}

// What is done in a cgroup is told apart from what is done elsewhere.
func TestCgroupFilter(t *testing.T) { guests.Test(t, guesttest.First, cgroupFilter) }

func cgroupFilter(t *testing.T, _ guesttest.Kernel) {
	group := guesttest.Cgroup(t, "web.slice")
	c := guesttest.Command(t, "pinwatch", "trace", "--only", "bpf", "--transport", "perf", "--json", "--cgroup", group).Start()
	c.WaitFor("watching")
	makeMaps(t, "--name", "outside")
	makeMaps(t, "--name", "inside", "--cgroup", group)
	c.WaitUntil("a map", func(stdout, _ string) bool { return strings.Contains(stdout, `"inside"`) })
	r := c.Stop(os.Interrupt)
	entries := recorded(t, r.Stdout)
	if inside := named(entries, "inside"); len(inside) == 0 || inside[0].Caller.Cgroup != strings.TrimPrefix(group, "/sys/fs/cgroup") {
		t.Errorf("in the cgroup: %+v", inside)
	}
	if outside := named(entries, "outside"); len(outside) > 0 || r.Code != 0 {
		t.Errorf("outside: %+v; exit %d: %s", outside, r.Code, r.Stderr)
	}
}

// The command that TestFilters traces is this program, told by a variable. It has two users
// map, says so, and ends with its standard input.
const (
	twoUsersVariable = "PINWATCH_TEST_TWO_USERS"
	twoUsersMapped   = "two users have mapped"
)

func twoUsers() error {
	for _, args := range [][]string{{"--max", "2", "--uid", "1001"}, {"--max", "1", "--uid", "1002"}} {
		cmd := exec.Command("pinwatch", append([]string{"workload", "perf-buffers", "--quiet"}, args...)...)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, twoUsersMapped)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// What a machine lacks is said in one line: what is needed, what it has, what
// to do. (TestMatrix has what kernels lack.)
func TestClearErrors(t *testing.T) {
	guests.Test(t, guesttest.First, func(t *testing.T, _ guesttest.Kernel) {
		for _, c := range []struct {
			name string
			uid  uint32
			args []string
			want []string
		}{
			{"no capabilities", 65534, nil,
				[]string{"uid 65534", "lacks CAP_BPF (to load BPF programs) and CAP_PERFMON", "run it as root, or grant them"}},
			{"no such types", 0, []string{"--btf", "/nowhere"},
				[]string{"--btf /nowhere", "no such file"}},
			{"no such cgroup", 0, []string{"--cgroup", "/nowhere"},
				[]string{"cgroup /nowhere: there is none in the v2 hierarchy", "tried /sys/fs/cgroup/nowhere"}},
			{"no such command", 0, []string{"--", "nowhere"},
				[]string{"run the command", "nowhere"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				cmd := guesttest.Command(t, "pinwatch", append([]string{"trace"}, c.args...)...)
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
				r := cmd.Run()
				for _, want := range c.want {
					if !strings.Contains(r.Stderr, want) {
						t.Errorf("stderr lacks %q: %s", want, r.Stderr)
					}
				}
				if strings.Contains(r.Stderr, "MEMLOCK may be too low") { // cilium/ebpf guesses so of every EPERM
					t.Errorf("a guess: %s", r.Stderr)
				}
				if r.Code != 1 {
					t.Errorf("exit %d; want 1", r.Code)
				}
			})
		}
	})
}

// No program takes the kernel long to verify: they are loaded at every start, and a million
// instructions are refused. A loop with a branch is soon half of that.
func TestProgramsAreVerifiedSoon(t *testing.T) {
	guests.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) {
		if k.Before("5.16") {
			t.Skip("this kernel does not say")
		}
		most := uint32(10000) // instructions
		if k.Before("6.4") {
			most = 20000 // fewer states are found to be alike
		}
		if !k.Before("6.14") {
			most = 15000 // sessions are two programs in one
		}
		opts := everything()
		opts.Memcg = true
		begin(t, opts)
		n := 0
		for id := ebpf.ProgramID(0); ; n++ {
			var err error
			if id, err = ebpf.ProgramGetNextID(id); err != nil {
				break // there are no more
			}
			p, err := ebpf.NewProgramFromID(id)
			if err != nil {
				t.Fatal(err)
			}
			info, err := p.Info()
			if err != nil {
				t.Fatal(err)
			}
			if verified, ok := info.VerifiedInstructions(); !ok || verified > most {
				t.Errorf("%s: %d instructions; want %d at most", info.Name, verified, most)
			}
			p.Close()
		}
		if n < 30 {
			t.Errorf("%d programs are loaded", n)
		}
	})
}

// Where sessions follow all returns, few links are on all functions: each costs a start, and a
// stop, a way through all functions of the kernel.
func TestFewLinks(t *testing.T) {
	guests.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) {
		if k.Before("6.14") {
			t.Skip("sessions do not follow all returns: each function has a link of its own")
		}
		begin(t, everything())
		links, functions := 0, 0
		it := new(link.Iterator)
		defer it.Close()
		for it.Next() {
			info, err := it.Link.Info()
			if err != nil {
				t.Fatal(err)
			}
			if multi := info.KprobeMulti(); multi != nil {
				links++
				functions += int(multi.Count)
			}
		}
		if err := it.Err(); err != nil || links > 9 || functions < links+10 {
			t.Errorf("%d links are on %d functions: %v", links, functions, err)
		}
	})
}

// Lockdown is named, whatever of a trace it is that fails first (5.10: a program that calls
// bpf_probe_read(), with EINVAL).
func TestLockdown(t *testing.T) {
	kernels := func(t *testing.T) (list []guesttest.Kernel) {
		for _, k := range guesttest.OldestOrAll(t) {
			list = append(list, k.With("locked-down", "lockdown=confidentiality"))
		}
		return list
	}
	guests.Test(t, kernels, func(t *testing.T, _ guesttest.Kernel) {
		for _, only := range []string{"perf", "bpf", "others"} {
			r := guesttest.Command(t, "pinwatch", "trace", "--only", only, "--duration", "1ms").Run()
			if r.Code != 1 || !strings.Contains(r.Stderr, "kernel lockdown is in confidentiality mode, which forbids reading kernel memory: boot with lockdown=integrity or none") {
				t.Errorf("--only %s: exit %d: %s", only, r.Code, r.Stderr)
			}
		}
	})
}

// No call is too many when many are under way at once and kept at the same place. Not by
// kprobes: a kretprobe holds no more than ten returns at a time, and the rest is lost.
func TestCrowd(t *testing.T) {
	guesttest.Long(t)
	guests.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) {
		t.Run("session", crowdBySessions)
		t.Run("fentry", crowdByFentry)
	})
}

// crowdBySessions has nothing lost at all.
func crowdBySessions(t *testing.T) {
	const processes = 1000
	guesttest.Set(t, "/proc/sys/kernel/pid_max", fmt.Sprint(4<<20))
	tr, err := open(t, tracer.Options{Attach: probe.AttachSession})
	if err != nil {
		guesttest.Missing(t, sessionsSince(), "kprobe sessions", err)
	}
	tr.run()
	load(t, "crowd", "--processes", fmt.Sprint(processes))
	tr.stop()
	if n := len(tr.children()); n != 2*processes || tr.lost != 0 {
		t.Errorf("%d entries, %d lost; want %d entries and none lost\n%s", n, tr.lost, 2*processes, tr.Losses())
	}
}

// crowdByFentry: the kernel skips a fentry program where it interrupts itself: few, and
// counted.
func crowdByFentry(t *testing.T) {
	const processes, times, made = 24, 3, 2 * 24 * 3
	tr, err := open(t, tracer.Options{Attach: probe.AttachFentry})
	if err != nil {
		guesttest.Missing(t, "5.16", "fentry on perf_mmap", err)
	}
	tr.run()
	for range times {
		load(t, "crowd", "--processes", fmt.Sprint(processes))
	}
	tr.stop()
	losses := tr.Losses()
	missed := made - len(tr.children())
	if missed > made/10 || missed > int(tr.lost) || missed == 0 && tr.lost != 0 || losses.InFlightFull != 0 {
		t.Errorf("%d entries, %d lost; want %d entries\n%s", made-missed, tr.lost, made, losses)
	}
}

// One that is killed leaves nothing where sessions are, and elsewhere probes in tracefs, which
// the next one takes away, and nobody else's.
func TestKilled(t *testing.T) {
	guests.Test(t, guesttest.OldestOrAll, func(t *testing.T, k guesttest.Kernel) {
		const events = "/sys/kernel/tracing/kprobe_events"
		others := "p:kprobes/of_others do_exit\n"
		f, err := os.OpenFile(events, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(others); err != nil {
			t.Fatal(err)
		}
		f.Close()
		left := func(args ...string) int {
			c := guesttest.Command(t, "pinwatch", append([]string{"trace"}, args...)...).Start()
			c.WaitFor("watching")
			c.Stop(unix.SIGKILL)
			return strings.Count(read(t, events), "\n") - 1
		}
		if n := left(); !k.Before("6.14") && n != 0 {
			t.Errorf("%d probes are left:\n%s", n, read(t, events))
		}
		if n := left("--attach", "kprobe"); n == 0 {
			t.Error("none is left of kprobes: nothing to take away")
		}
		run(t, "pinwatch", "trace", "--only", "perf", "--duration", "1ms")
		if got := read(t, events); got != others {
			t.Errorf("after the next start:\n%s\nwant what others have:\n%s", got, others)
		}
	})
}

// Nothing is lost unnoticed: with a tiny buffer that nobody reads, seen and lost add up.
func TestLossIsCounted(t *testing.T) {
	guests.Test(t, guesttest.First, func(t *testing.T, _ guesttest.Kernel) {
		for _, name := range []string{transport.Ringbuf, transport.PerfArray} {
			t.Run(name, func(t *testing.T) {
				tr, err := open(t, tracer.Options{BufferBytes: uint32(os.Getpagesize()), Transport: name})
				if err != nil {
					t.Fatal(err)
				}
				load(t, "perf-buffers", "--quiet", "--max", "100", "--pages", "1")
				var summary lastRow
				tr.sinks = []pipeline.Sink{output.NewStream(&summary, &row.Filter{})}
				tr.run()
				tr.stop()
				if seen := uint64(len(tr.children())); tr.lost == 0 || seen+tr.lost != 200 {
					t.Errorf("%d entries and %d lost; 200 calls were made", seen, tr.lost)
				}
				if !summary.Summary || summary.Lost != tr.lost || !summary.Uncertain {
					t.Errorf("the summary is uncertain: %v, and tells of %d lost: events were", summary.Uncertain, summary.Lost)
				}
			})
		}
	})
}

// CPUs go and come under a trace by the perf event array, which has a ring for each.
func TestCPUsGoAndCome(t *testing.T) {
	guests.Test(t, guesttest.Ends, func(t *testing.T, _ guesttest.Kernel) {
		t.Run("in time", hotplug)
		t.Run("without a ring", ringless)
	})
}

// lastRow is a writer that keeps the summary's row.
type lastRow struct{ row.Row }

func (*lastRow) Write(*row.Row) error { return nil }

func (*lastRow) Flush() error { return nil }

// Close keeps it.
func (l *lastRow) Close(r *row.Row, _ ledger.Summary) error {
	l.Row = *r
	return nil
}

// hotplug has a CPU come that was offline when the trace began, and go and come again: it has
// a ring of the perf array in time, or what it sends is kept until then.
func hotplug(t *testing.T) {
	setCPU(t, 1, false)
	tr := begin(t, tracer.Options{Transport: transport.PerfArray})
	calls := 0
	work := func() {
		for _, cpu := range []int{1, 0} {
			onCPU(t, cpu, func() { load(t, "perf-buffers", "--max", "1", "--quiet") })
			calls += 2
		}
	}
	setCPU(t, 1, true)
	work()
	time.Sleep(time.Second) // until it has a ring
	work()
	setCPU(t, 1, false)
	time.Sleep(time.Second)
	setCPU(t, 1, true)
	work()
	setCPU(t, 1, false)
	setCPU(t, 1, true)
	work()
	tr.stop()
	if seen := len(tr.children()); seen != calls || tr.lost != 0 {
		t.Errorf("a CPU that comes and goes: %d entries and %d lost; want %d and none\n%s", seen, tr.lost, calls, tr.Losses())
	}
}

// ringless has a CPU send more than is kept while it has no ring, for nobody reads: the rest is
// lost, and counted once, at its place in the order; afterwards nothing is.
func ringless(t *testing.T) {
	const kept = 256
	tr, err := open(t, tracer.Options{Transport: transport.PerfArray})
	if err != nil {
		t.Fatal(err)
	}
	onCPU(t, 0, func() { load(t, "perf-buffers", "--max", "1", "--quiet") })
	setCPU(t, 1, false)
	setCPU(t, 1, true)
	onCPU(t, 1, func() { load(t, "perf-buffers", "--max", "200", "--pages", "1", "--quiet") })
	tr.run()
	time.Sleep(time.Second)
	onCPU(t, 1, func() { load(t, "perf-buffers", "--max", "1", "--quiet") })
	tr.stop()
	entries := tr.children()
	// What is kept may be others' records as well, of processes that end: then more is lost.
	const others = 8
	if all := uint64(len(entries)) + tr.lost; all != 2+400+2 || tr.lost < 400-kept || tr.lost > 400-kept+others {
		t.Fatalf("%d entries and %d lost; want %d in all, of them %d lost, or a few more\n%s", len(entries), tr.lost, 2+400+2, 400-kept, tr.Losses())
	}
	if first, last := entries[0].Lost, entries[len(entries)-1].Lost; first != 0 || last != tr.lost {
		t.Errorf("lost before the first entry: %d, and before the last: %d; want 0 and %d", first, last, tr.lost)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
