//go:build guest

package tracer_test

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// attempts is how often it is traced at most where the kernel skips kprobes.
const attempts = 4

// objectTrace is a trace of BPF objects.
type objectTrace struct{ *trace }

// traceObjects traces while a test makes BPF objects. Where the kernel skipped kprobes that is
// done again: while a process updates a map, a kernel that can be preempted skips them on
// its CPU, and counts that, the more often the busier this machine is. All other losses are
// failures, as are those of the last trace.
func traceObjects(t *testing.T, opts tracer.Options, during func(objectTrace)) (tr objectTrace) {
	t.Helper()
	for attempt := 1; ; attempt++ {
		tr = objectTrace{begin(t, opts)}
		during(tr)
		tr.stop()
		if attempt == attempts || !tr.skipped() {
			break
		}
	}
	if s := &tr.summary; tr.lost != 0 || s.Broken() {
		t.Errorf("%s; %+v", tr.Losses(), s)
	}
	return tr
}

// skipped reports whether events were lost for nothing but that the kernel skipped kprobes, and
// says that it is traced once more.
func (tr *trace) skipped() bool {
	losses := tr.Losses()
	if tr.lost == 0 || losses.MissedProbe != losses.Total() {
		return false
	}
	tr.t.Logf("%s: tracing once more", losses)
	return true
}

// named are the entries of the test's objects of a name.
func named(entries []ledger.Entry, name string) (list []ledger.Entry) {
	for _, e := range entries {
		if e.Object != nil && e.Object.Name == name && !e.Caller.Self {
			list = append(list, e)
		}
	}
	return list
}

// awaitFreed waits until so many objects of a name are freed: the kernel does that later.
func (tr objectTrace) awaitFreed(name string, count int) {
	tr.t.Helper()
	tr.until(func(entries []ledger.Entry) bool {
		return kindsOf(named(entries, name))[ledger.Refund] >= count
	})
}

func kindsOf(entries []ledger.Entry) map[ledger.Kind]int {
	kinds := map[ledger.Kind]int{}
	for _, e := range entries {
		kinds[e.Kind]++
	}
	return kinds
}

// makeMaps has a process make BPF maps, and returns what it saw.
func makeMaps(t *testing.T, args ...string) []workload.BPFStep {
	t.Helper()
	return lines[workload.BPFStep](t, load(t, append([]string{"bpf-maps", "--json"}, args...)...))
}

// step is the first of a name.
func step(t *testing.T, steps []workload.BPFStep, name string) workload.BPFStep {
	t.Helper()
	for _, s := range steps {
		if s.Step == name {
			return s
		}
	}
	t.Fatalf("no step %q in %d steps: %+v", name, len(steps), steps)
	return workload.BPFStep{}
}

// tolerance is by how much memory.stat may be late. Every CPU keeps up to 64
// pages of changes to itself (MEMCG_CHARGE_BATCH), and it is brought up to date
// when what they have told adds up to 64 pages per CPU. And the rest of a page
// that is charged by the byte.
func tolerance(k guesttest.Kernel) int64 { return (2*cpus*64 + 1) * k.PageKiB() << 10 }

// mapType is a type of map, and how the workload makes a large one.
type mapType struct{ kind, size string }

// flags are those of the workload.
func (m mapType) flags(more ...string) []string {
	return slices.Concat([]string{"--type", m.kind, "--name", m.name()}, strings.Fields(m.size), more)
}

// name is the type in the letters that the kernel takes for an object's.
func (m mapType) name() string { return strings.ReplaceAll(m.kind, "-", "_") }

// What cgroups are charged for a map must agree with the cgroup's own
// memory.stat, for every type, over sizes that it cannot overlook.
func TestMemcgAgreesWithMemoryStat(t *testing.T) {
	maps := []mapType{
		{"array", "--entries 4096 --value-size 4096"},
		{"percpu-array", "--entries 500000"},
		{"hash", "--entries 131072 --value-size 64"},
		{"hash-noprealloc", "--entries 100000 --value-size 1000 --update 10000"},
		{"lru", "--entries 131072 --value-size 64"},
		{"lpm-trie", "--entries 100000 --value-size 1000 --update 10000"},
		{"ringbuf", "--entries 16777216"},
		{"stack-trace", "--entries 16384"},
		{"array-of-maps", "--entries 2000000"},
		{"task-storage", "--value-size 1000 --update 1 --count 200"},
	}
	if !guesttest.All() { // one that is charged at once, by the CPU, by and by, mapped, and to others
		maps = slices.DeleteFunc(maps, func(m mapType) bool {
			return !slices.Contains([]string{"array", "percpu-array", "hash-noprealloc", "ringbuf", "task-storage"}, m.kind)
		})
	}
	guests.Test(t, memcgKernels, func(t *testing.T, k guesttest.Kernel) {
		groups := map[string]string{}
		for _, m := range maps {
			groups[m.kind] = guesttest.Cgroup(t, m.kind)
		}
		steps := map[string][]workload.BPFStep{}
		tr := traceObjects(t, tracer.Options{BPF: true, Memcg: true}, func(tr objectTrace) {
			for _, m := range maps {
				steps[m.kind] = makeMaps(t, m.flags("--cgroup", groups[m.kind])...)
				// While one process updates maps, kernels that can be preempted skip kprobes on
				// its CPU (and pinwatch counts that as lost): the frees get time of their own.
				tr.awaitFreed(m.name(), step(t, steps[m.kind], "created").Count)
			}
		})
		for _, m := range maps {
			t.Run(m.kind, func(t *testing.T) {
				agreesWithMemoryStat(t, named(tr.entries, m.name()), steps[m.kind], tolerance(k))
			})
		}
	})
}

// memcgKernels are those that charge BPF objects to cgroups.
func memcgKernels(t *testing.T) []guesttest.Kernel {
	return slices.DeleteFunc(guesttest.Newest(t), func(k guesttest.Kernel) bool { return k.Before("5.11") })
}

func agreesWithMemoryStat(t *testing.T, entries []ledger.Entry, steps []workload.BPFStep, tolerance int64) {
	var charged, page int64
	var payer uint64
	for _, e := range entries {
		o := e.Object
		if o.Rlimit || e.Verdict != ledger.OK || o.Payers[1].CgroupID != 0 {
			t.Errorf("%+v, %+v", e, o)
		}
		switch e.Kind {
		case ledger.Charge:
			payer = e.Caller.CgroupID // the creator's own cgroup
			charged += o.Charged()
			page += o.Payers[0].Pages
		case ledger.Growth:
			charged += o.Charged()
		case ledger.Refund:
			page += o.Payers[0].Pages
		}
		if o.Charged() != 0 && o.Payers[0].CgroupID != payer {
			t.Errorf("paid by cgroup %d, made in %d", o.Payers[0].CgroupID, payer)
		}
	}
	before, after := step(t, steps, "start"), step(t, steps, "created")
	if kinds := kindsOf(entries); kinds[ledger.Charge] != after.Count || kinds[ledger.Refund] != after.Count {
		t.Fatalf("entries %v for %d maps", kinds, after.Count)
	}
	// An interrupt may free something else of the same cgroup meanwhile, such as
	// the stack of the process that has ended.
	if page > 0 || page < -1<<20 {
		t.Errorf("%d bytes of pages did not come back", page)
	}
	witness := after.MemoryKernel - before.MemoryKernel
	if before.MemoryKernel < 0 || charged <= 0 {
		t.Errorf("charged %d bytes; memory.stat %d and %d", charged, before.MemoryKernel, after.MemoryKernel)
	}
	if off := charged - witness; off > tolerance || off < -tolerance {
		t.Errorf("charged %d bytes; kernel in memory.stat grew by %d", charged, witness)
	}
	t.Logf("charged %d bytes, memory.stat %d, memlock %d, %d that no cgroup pays for",
		charged, witness, step(t, steps, "create").Memlock, entries[0].Object.UnpaidBytes)
}

// Where BPF objects are charged to users, what the trace says must agree with how
// many of them fit before the kernel refuses.
func TestRlimitAgreesWithRefusals(t *testing.T) {
	kernels := func(t *testing.T) []guesttest.Kernel { return guesttest.Fetch(t, "5.10") }
	guests.Test(t, kernels, func(t *testing.T, _ guesttest.Kernel) {
		const memlockKiB = 512
		maps := []mapType{
			{"array", "--entries 4096"},
			{"percpu-array", "--entries 512"},
			{"hash", "--entries 200"},
			{"hash-noprealloc", "--entries 2000"},
			{"lru", "--entries 200"},
			{"lpm-trie", "--entries 500"},
			{"ringbuf", "--entries 16384"},
			{"stack-trace", "--entries 16"},
			{"array-of-maps", "--entries 2000"},
		}
		// The inner map of an array of maps is root's, whose limit pinwatch's own BPF
		// objects exceed.
		unlimitMemlock(t)
		steps := map[string][]workload.BPFStep{}
		tr := traceObjects(t, tracer.Options{BPF: true}, func(tr objectTrace) {
			for i, m := range maps {
				steps[m.kind] = makeMaps(t, m.flags("--count", "0", "--memlock-kib", strconv.Itoa(memlockKiB), "--uid", strconv.Itoa(2000+i))...)
				tr.awaitFreed(m.name(), step(t, steps[m.kind], "refused").Count)
			}
		})
		for _, m := range maps {
			t.Run(m.kind, func(t *testing.T) {
				agreesWithRefusal(t, named(tr.entries, m.name()), step(t, steps[m.kind], "refused"), memlockKiB)
			})
		}
	})
}

// unlimitMemlock lifts RLIMIT_MEMLOCK of this process and its children until the test ends.
func unlimitMemlock(t *testing.T) {
	t.Helper()
	var old unix.Rlimit
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &unlimited, &old); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &old, nil) })
}

func agreesWithRefusal(t *testing.T, entries []ledger.Entry, refused workload.BPFStep, memlockKiB int64) {
	var balance, pages int64
	for _, e := range entries {
		balance += e.ChargedUser
		// Several workers free at once where freeing waits for something.
		if !e.Object.Rlimit || e.Verdict != ledger.OK || e.Uncertain && e.Kind != ledger.Refund {
			t.Errorf("%+v, %+v", e, e.Object)
		}
		if e.Kind == ledger.Charge {
			pages = e.ChargedUser
		}
		if e.Kind == ledger.Refusal && e.Errno != int32(unix.EPERM) {
			t.Errorf("refused with errno %d", e.Errno)
		}
	}
	if balance != 0 {
		t.Errorf("charges and refunds leave %d pages", balance)
	}
	if refused.ErrnoName != "EPERM" || pages == 0 || int64(refused.Count) != memlockKiB/4/pages {
		t.Errorf("%d maps of %d pages fit in %d KiB (%s)", refused.Count, pages, memlockKiB, refused.ErrnoName)
	}
	if kinds := kindsOf(entries); kinds[ledger.Charge] != refused.Count || kinds[ledger.Refund] != refused.Count || kinds[ledger.Refusal] != 1 {
		t.Errorf("entries %v; %d maps fit", kinds, refused.Count)
	}
}

// Who fills a map does not pay for it, and who is refused is told by whom.
func TestMemcgPayers(t *testing.T) {
	guests.Test(t, memcgKernels, func(t *testing.T, k guesttest.Kernel) {
		t.Run("filled", func(t *testing.T) { creatorPays(t, k) })
		t.Run("refused", func(t *testing.T) { cgroupRefuses(t, k) })
		t.Run("small", smallMaps)
	})
}

// processesComeAndGo has processes start and end in some cgroups, one after the other on one CPU, until
// stop is called: RCU gives the pages of their page tables back, in interrupts of whoever runs there.
func processesComeAndGo(t *testing.T, cpu int, cgroups ...string) (stop func()) {
	t.Helper()
	var dirs []*os.File
	for _, cgroup := range cgroups {
		dir, err := os.Open(cgroup)
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	enough, ended := make(chan struct{}), make(chan struct{})
	comeAndGo := func() {
		for i := 0; ; i++ {
			select {
			case <-enough:
				return
			default:
			}
			empty := exec.Command("busybox", "true")
			empty.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dirs[i%len(dirs)].Fd())}
			if err := empty.Run(); err != nil {
				t.Errorf("%v: %v", empty, err)
				return
			}
		}
	}
	go func() {
		defer close(ended)
		if err := stayOnCPU(cpu, comeAndGo); err != nil {
			t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() {
		close(enough)
		<-ended
		for _, dir := range dirs {
			dir.Close()
		}
	})
	t.Cleanup(stop)
	return stop
}

// creatorPays has a process of one cgroup fill a map that was made in another one, while
// processes of the latter and of a third come and go.
func creatorPays(t *testing.T, k guesttest.Kernel) {
	a, b, c := guesttest.Cgroup(t, "a"), guesttest.Cgroup(t, "b"), guesttest.Cgroup(t, "c")
	pinned := filepath.Join("/sys/fs/bpf", "m")
	var grewA, grewB int64
	tr := traceObjects(t, tracer.Options{BPF: true, Memcg: true}, func(tr objectTrace) {
		makeMaps(t, "--type", "hash-noprealloc", "--name", "filled", "--entries", "100000", "--value-size", "1000", "--cgroup", a, "--pin", pinned)
		grewA, grewB = -kernelMemory(t, a), -kernelMemory(t, b)
		stop := processesComeAndGo(t, 0, a, c)
		onCPU(t, 0, func() { makeMaps(t, "--from", pinned, "--update", "10000", "--cgroup", b) })
		stop()
		grewA, grewB = grewA+kernelMemory(t, a), grewB+kernelMemory(t, b)
		if err := os.Remove(pinned); err != nil {
			t.Error(err)
		}
		tr.awaitFreed("filled", 1)
	})
	var grown int64
	var payer uint64
	for _, e := range named(tr.entries, "filled") {
		switch e.Kind {
		case ledger.Charge:
			payer = e.Caller.CgroupID
		case ledger.Growth:
			grown += e.Object.Charged()
			// The elements are objects of the slab allocator's, and none is given back.
			if p := e.Object.Payers; p[0].CgroupID != payer || p[0].Pages != 0 || p[1].CgroupID != 0 {
				t.Errorf("growth paid not by cgroup %d alone, where it was made: %+v", payer, e.Object)
			}
		}
	}
	if off := grown - grewA; off > tolerance(k) || off < -tolerance(k) || grown < 5<<20 || grewB > 1<<20 {
		t.Errorf("grew by %d bytes; memory.stat of the creator's cgroup by %d, of the other one's by %d", grown, grewA, grewB)
	}
}

var kernelLine = regexp.MustCompile(`(?m)^kernel (\d+)$`)

// kernelMemory is what a cgroup's own memory.stat has for the kernel, in bytes.
func kernelMemory(t *testing.T, cgroup string) int64 {
	t.Helper()
	match := kernelLine.FindStringSubmatch(read(t, filepath.Join(cgroup, "memory.stat")))
	if match == nil {
		t.Fatalf("%s: memory.stat has no line of the kernel's", cgroup)
	}
	n, err := strconv.ParseInt(match[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// cgroupRefuses has a cgroup that is too small for a map.
func cgroupRefuses(t *testing.T, k guesttest.Kernel) {
	const limit = 8000000
	group := guesttest.Cgroup(t, "c")
	var said []workload.BPFStep
	tr := traceObjects(t, tracer.Options{BPF: true, Memcg: true}, func(tr objectTrace) {
		// Since 6.18 what failed is freed by a worker: until then the cgroup is full,
		// and the workload may be killed before it can say what it saw.
		r := guesttest.Command(t, "pinwatch", "workload", "bpf-maps", "--json", "--type", "array", "--name", "refused",
			"--entries", "4096", "--value-size", "4096", "--cgroup", group, "--memory-max-bytes", fmt.Sprint(limit)).Run()
		said = lines[workload.BPFStep](t, r.Stdout)
		tr.until(func(entries []ledger.Entry) bool { return len(named(entries, "refused")) > 0 })
	})
	entries, page := named(tr.entries, "refused"), k.PageKiB()<<10
	if len(entries) != 1 || entries[0].Kind != ledger.Refusal || entries[0].Errno != int32(unix.ENOMEM) || entries[0].Verdict != ledger.OK ||
		entries[0].Object.LimitCgroupID == 0 || entries[0].Object.LimitBytes != limit/page*page {
		t.Errorf("memory.max: %+v", entries)
	}
	if len(said) > 1 {
		if refused := step(t, said, "refused"); refused.ErrnoName != "ENOMEM" || refused.Count != 0 {
			t.Errorf("the workload saw %+v", refused)
		}
	}
	stays := kernelMemory(t, group)
	for late := time.Now().Add(patience); stays > 1<<20 && time.Now().Before(late); time.Sleep(50 * time.Millisecond) {
		stays = kernelMemory(t, group)
	}
	if stays > 1<<20 {
		t.Errorf("%d bytes stay charged after the refusal", stays)
	}
}

func smallMaps(t *testing.T) {
	types := []string{"array", "percpu-array", "hash", "lru", "queue", "stack-trace", "array-of-maps", "ringbuf"}
	group := guesttest.Cgroup(t, "d")
	tr := traceObjects(t, tracer.Options{BPF: true, Memcg: true}, func(tr objectTrace) {
		for _, kind := range types {
			makeMaps(t, "--type", kind, "--name", "small", "--cgroup", group)
		}
		tr.awaitFreed("small", len(types))
	})
	entries := slices.DeleteFunc(named(tr.entries, "small"), func(e ledger.Entry) bool { return e.Kind == ledger.Closing })
	for _, e := range entries {
		if e.Verdict != ledger.OK {
			t.Errorf("%+v, %+v", e, e.Object)
		}
	}
	if len(entries) != 2*len(types) {
		t.Errorf("%d entries for %d small maps made and freed", len(entries), len(types))
	}
}

// Ten thousand maps come and go, and every one is seen.
func TestManyMaps(t *testing.T) {
	guesttest.Long(t)
	guests.Test(t, guesttest.Newest, func(t *testing.T, _ guesttest.Kernel) {
		const many = 10000
		tr := begin(t, tracer.Options{BPF: true})
		load(t, "bpf-maps", "--type", "array", "--name", "many", "--count", strconv.Itoa(many), "--close", "--quiet", "--memlock-kib", "65536")
		objectTrace{tr}.awaitFreed("many", many)
		tr.stop()
		if kinds := kindsOf(named(tr.entries, "many")); kinds[ledger.Charge] != many || kinds[ledger.Refund] != many || tr.lost != 0 {
			t.Errorf("%v of %d maps; %s", kinds, many, tr.Losses())
		}
	})
}

// With all that shares locked_vm busy, a user's counter is explained to the last
// page: what is charged is all given back, and nothing is left to "not traced".
func TestOtherChargers(t *testing.T) {
	// With the oldest, where BPF objects share the counter too.
	guests.Test(t, guesttest.Ends, explainsOthers)
}

func explainsOthers(t *testing.T, _ guesttest.Kernel) {
	const uid = 2003
	tr := traceObjects(t, everything(), func(tr objectTrace) {
		r := guesttest.Command(t, "pinwatch", "workload", "chargers", "--uid", strconv.Itoa(uid), "--duration", "2s").Run()
		if r.Code != 0 {
			t.Errorf("exit %d: %s", r.Code, r.Stderr)
		}
		if none := regexp.MustCompile(`(?m)^workload: (\w+) 0\b.*$`).FindString(r.Stderr); none != "" || !strings.Contains(r.Stderr, "workload: perf ") {
			t.Errorf("a charger was not exercised: %s", none)
		}
		// The kernel gives back in workers of its own.
		tr.until(func([]ledger.Entry) bool {
			now := tr.Latest()
			return now != nil && settled(&now.Summary, uid)
		})
	})
	if !settled(&tr.summary, uid) {
		t.Errorf("not explained: %+v", tr.summary)
	}
	// The workload's umems have 16 pages each, and whatever overlaps a call of theirs, it is
	// entered with these.
	overlapped := 0
	for _, e := range tr.entries {
		if e.Charger != "xdp" || e.Payer() != uid || e.Errno != 0 || e.Unknown() {
			continue
		}
		if e.User.Shared {
			overlapped++
		}
		if want := map[ledger.Kind]int64{ledger.Charge: 16, ledger.Refund: -16}[e.Kind]; e.ChargedUser != want {
			t.Errorf("%v of a umem of 16 pages: %d charged, %+v", e.Kind, e.ChargedUser, e.User)
		}
	}
	if overlapped == 0 {
		t.Error("nothing overlapped a umem")
	}
}

// settled reports whether a counter of a user's is explained, and nothing is charged to it.
func settled(s *ledger.Summary, uid uint32) bool {
	return slices.ContainsFunc(s.Users, func(u ledger.Balance) bool {
		return u.UID == uid && u.Counter == 0 && u.Live == 0 && u.Over == 0 && u.Preexisting+u.Base == 0 && u.Unexplained() == 0
	})
}

// RCU ends many programs in one interrupt, which may come upon a BPF program: then kprobes and
// sessions are skipped at all of them.
func TestProgramsEndInInterrupts(t *testing.T) {
	guesttest.Long(t)
	guests.Test(t, guesttest.Newest, func(t *testing.T, _ guesttest.Kernel) {
		const rounds, programs, name = 8, 50, "interrupted"
		unlimitMemlock(t)
		tr := begin(t, tracer.Options{BPF: true})
		done := make(chan struct{})
		var busy sync.WaitGroup
		defer busy.Wait()
		idle := sync.OnceFunc(func() { close(done) })
		defer idle()
		for range runtime.NumCPU() {
			busy.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						unix.Syscall(unix.SYS_BPF, math.MaxUint32, 0, 0) // no command, but a probe's program runs
					}
				}
			})
		}
		for range rounds {
			var made []*ebpf.Program
			for range programs {
				p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.SocketFilter, License: "GPL",
					Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				made = append(made, p)
			}
			for _, p := range made {
				p.Close()
			}
		}
		ended := func(entries []ledger.Entry) (n int) {
			for _, e := range entries {
				if e.Kind == ledger.Refund && e.Object != nil && e.Object.Name == name {
					n++
				}
			}
			return n
		}
		tr.until(func(entries []ledger.Entry) bool { return ended(entries) == rounds*programs })
		idle()
		tr.stop()
		if n := ended(tr.entries); n != rounds*programs || tr.lost != 0 {
			t.Errorf("%d of %d programs ended; %s", n, rounds*programs, tr.Losses())
		}
	})
}
