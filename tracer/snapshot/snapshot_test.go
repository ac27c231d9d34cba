package snapshot

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// tree makes a procfs and a sysfs of files, and of links where the content starts
// with "-> ".
func tree(t *testing.T, files map[string]string) Options {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return Options{Proc: filepath.Join(root, "proc"), Sys: filepath.Join(root, "sys"), NoIterators: true}
}

func machine() map[string]string {
	return map[string]string{
		"proc/sys/kernel/perf_event_mlock_kb": "516\n",
		"proc/sys/kernel/perf_event_paranoid": "2\n",
		"sys/devices/system/cpu/online":       "0-2,4\n",
	}
}

const limits = `Limit                     Soft Limit           Hard Limit           Units     
Max processes             3913                 3913                 processes 
Max locked memory         524288               unlimited            bytes     
`

func TestFromProc(t *testing.T) {
	if os.Getpagesize() != 4096 {
		t.Skip("the numbers are of 4 KiB pages")
	}
	files := machine()
	for name, content := range map[string]string{
		// A kernel thread has no VmPin.
		"proc/2/status":  "Name:\tkthreadd\nUid:\t0\t0\t0\t0\n",
		"proc/10/status": "Name:\ta\\nb\\\\c\nUid:\t1000\t0\t0\t0\nVmPin:\t      16 kB\nCapEff:\t0000000000004000\n",
		"proc/10/limits": limits, "proc/10/cgroup": "1:cpu:/x\n0::/user.slice\n", "proc/10/ns/user": "-> " + initialUserNamespace,
		"proc/10/maps": `555000-556000 r-xp 00000000 08:01 42  /bin/[perf_event]
7f0000000000-7f0000041000 rw-s 00000000 00:0f 1052                       anon_inode:[perf_event]
7f0000050000-7f0000060000 rw-s 00041000 00:0f 1052                       anon_inode:[perf_event]
`,
		"proc/10/fd/0": "-> /dev/null", "proc/10/fd/7": "-> anon_inode:[io_uring]",
		"proc/10/fdinfo/7": "pos:\t0\nSqMask:\t0x7\nUserBufs:\t2\n    0: 0x7f0000000800/4096\n    1: 0x7f0000002000/4096\nPollList:\n",
		// In a user namespace of its own the capability does not count. A negative
		// counter is printed as a huge number.
		"proc/11/status": "Name:\tother\nUid:\t1000\t1000\t1000\t1000\nVmPin:\t18446744073709551600 kB\nCapEff:\t000001ffffffffff\n",
		"proc/11/limits": strings.Replace(limits, "524288   ", "unlimited", 1), "proc/11/cgroup": "0::/\n", "proc/11/ns/user": "-> user:[4026532000]",
		"proc/11/maps": "", "proc/11/fd/0": "-> /dev/null",
	} {
		files[name] = content
	}
	s, err := Take(context.Background(), tree(t, files))
	if err != nil {
		t.Fatal(err)
	}
	s.TimeNS, s.Degraded, s.BPF, s.lastID = 0, nil, BPFObjects{}, 0
	s.uids, s.Enclosed = uidMaps{}, false // of whoever runs the test
	want := &Snapshot{
		Source: SourceProc, PageSize: 4096, OnlineCPUs: 4, MlockKiB: 516, Paranoid: 2,
		Processes: []Process{
			{PID: 10, Comm: "a\nb\\c", UID: 1000, CgroupPath: "/user.slice", PinnedVM: 4, LockLimit: 128, Known: true, CapIPCLock: true, Buffers: 1, BufferPages: 81},
			{PID: 11, Comm: "other", UID: 1000, CgroupPath: "/", PinnedVM: -4, LockLimit: rule.Unlimited, Known: true},
		},
		Users: []User{{UID: 1000, Processes: 2, PerfLocked: 77, LockedVM: 77}},
		Buffers: []Buffer{
			{PID: 10, ID: 1, Pages: 65, PayerUID: 1000, Mappings: 1},
			{PID: 10, ID: 2, Area: rule.AUX, Pages: 16, PayerUID: 1000, Mappings: 1},
		},
		IOUring: []IOUring{{PID: 10, FD: 7, Buffers: 2, Pages: 3}},
	}
	s.Names = nil // of this machine
	if diff := cmp.Diff(want, s, cmp.AllowUnexported(Snapshot{}, Process{}, Buffer{}, uidMaps{})); diff != "" {
		t.Error(diff)
	}
	if s.Allowance() != 516 {
		t.Errorf("allowance %d", s.Allowance())
	}
}

// What is missing is an error that says what.
func TestNoPerf(t *testing.T) {
	files := machine()
	delete(files, "proc/sys/kernel/perf_event_mlock_kb")
	if _, err := Take(context.Background(), tree(t, files)); err == nil || !strings.Contains(err.Error(), "CONFIG_PERF_EVENTS") {
		t.Errorf("%v", err)
	}
}

func record(buffer uint64, pid uint32, pages, extra int64) bpf.SnapshotBuffer {
	return bpf.SnapshotBuffer{Buffer: buffer, Mm: uint64(pid) << 8, Pid: pid, DataPages: pages, DataExtra: extra,
		PayerUid: 1000, Flags: bpf.SnapshotBufferFlagBUFFER_PAYER, Mappings: 1}
}

// Records become buffers: each once per process, with small numbers for
// identities, and a part of a mapping is no further one.
func TestBuilder(t *testing.T) {
	s := &Snapshot{PageSize: 4096}
	b := newBuilder(s, sizes{})
	for _, pid := range []uint32{10, 10, 11} { // a second thread of 10
		b.process(&bpf.SnapshotProcess{Pid: pid, Mm: uint64(pid) << 8, Uid: 1000, PinnedVm: 4, LockLimit: 1 << 20, PerfLocked: 516, LockedVm: 600})
	}
	shared, own := record(0xb, 10, 65, 4), record(0xc, 11, 3, 3)
	shared.Mappings = 3
	shared.AuxMappings, shared.AuxPages = 1, 16
	aux := shared
	aux.Flags |= bpf.SnapshotBufferFlagBUFFER_AUX
	other := shared
	other.Pid = 11
	foreign := record(0xd, 12, 9, 0) // its process is not listed
	foreign.PayerUid, foreign.PayerPerfLocked = 7, 9
	foreign.Flags |= bpf.SnapshotBufferFlagBUFFER_PAYER_COUNTERS
	for _, r := range []bpf.SnapshotBuffer{shared, shared, aux, other, own, foreign} {
		b.mapping(&r)
	}
	s.countUsers()
	s.sort()
	want := &Snapshot{PageSize: 4096,
		Processes: []Process{
			{PID: 10, UID: 1000, PinnedVM: 4, LockLimit: 256, Known: true, Buffers: 1, BufferPages: 81},
			{PID: 11, UID: 1000, PinnedVM: 4, LockLimit: 256, Known: true, Buffers: 2, BufferPages: 68},
		},
		Users: []User{
			{UID: 7, PerfLocked: 9, Known: true, BufferPages: 9},
			{UID: 1000, Processes: 2, PerfLocked: 516, LockedVM: 600, Known: true, BufferPages: 61 + 16},
		},
		Buffers: []Buffer{
			{PID: 10, ID: 1, Pages: 65, Extra: 4, ExtraKnown: true, PayerUID: 1000, PayerKnown: true, Mappings: 2},
			{PID: 10, ID: 1, Area: rule.AUX, Pages: 16, ExtraKnown: true, PayerUID: 1000, PayerKnown: true, Mappings: 1},
			{PID: 11, ID: 1, Pages: 65, Extra: 4, ExtraKnown: true, PayerUID: 1000, PayerKnown: true, Mappings: 2},
			{PID: 11, ID: 2, Pages: 3, Extra: 3, ExtraKnown: true, PayerUID: 1000, PayerKnown: true, Mappings: 1},
			{PID: 12, ID: 3, Pages: 9, ExtraKnown: true, PayerUID: 7, PayerKnown: true, Mappings: 1},
		},
	}
	if diff := cmp.Diff(want, s, cmpopts.IgnoreUnexported(Snapshot{}, Process{}, Buffer{})); diff != "" {
		t.Error(diff)
	}
	// Who paid is known of what one listed process alone has mapped.
	paid := map[uint64]uint64{}
	for _, o := range s.Preexisting() {
		if o.Buffer.Area == rule.Data {
			paid[o.Buffer.Key] = o.Process.Owner
		}
	}
	if diff := cmp.Diff(map[uint64]uint64{0xb: 0, 0xc: 11 << 8, 0xd: 0}, paid); diff != "" {
		t.Error(diff)
	}
}

// Where there is no iterator of mappings, descriptors tell what they were
// charged, as far as that is certain.
func TestMatch(t *testing.T) {
	maps := func(pages ...int64) (list []Buffer) {
		for _, n := range pages {
			list = append(list, Buffer{PID: 10, Pages: n, Mappings: 1})
		}
		return list
	}
	for name, c := range map[string]struct {
		open   []bpf.SnapshotBuffer
		mapped []Buffer
		extras []int64 // -1: not known
		ids    []uint64
	}{
		"as many":       {[]bpf.SnapshotBuffer{record(1, 10, 65, 0), record(2, 10, 65, 4), record(3, 10, 9, 9)}, maps(65, 9, 65), []int64{0, 9, 4}, []uint64{1, 3, 2}},
		"event closed":  {[]bpf.SnapshotBuffer{record(1, 10, 65, 0)}, maps(9, 65), []int64{-1, 0}, []uint64{0, 1}},
		"too many open": {[]bpf.SnapshotBuffer{record(1, 10, 65, 0), record(2, 10, 65, 4)}, maps(65), []int64{-1}, []uint64{0}},
		"but alike":     {[]bpf.SnapshotBuffer{record(1, 10, 65, 4), record(2, 10, 65, 4)}, maps(65), []int64{4}, []uint64{0}},
		"twice open":    {[]bpf.SnapshotBuffer{record(1, 10, 65, 4), record(1, 10, 65, 4)}, maps(65), []int64{4}, []uint64{1}},
		"of another":    {[]bpf.SnapshotBuffer{record(1, 11, 65, 4)}, maps(65), []int64{-1}, []uint64{0}},
		"freed":         {[]bpf.SnapshotBuffer{{Buffer: 1, Pid: 10, DataPages: 65, Mappings: -7}}, maps(65), []int64{-1}, []uint64{0}},
	} {
		var d descriptors
		for i := range c.open {
			d.add(&c.open[i])
		}
		var extras []int64
		var ids []uint64
		for _, b := range d.match(10, c.mapped) {
			if !b.ExtraKnown {
				b.Extra = -1
			}
			extras = append(extras, b.Extra)
			ids = append(ids, b.identity)
		}
		if diff := cmp.Diff(c.extras, extras) + cmp.Diff(c.ids, ids); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestInspect(t *testing.T) {
	files := map[string]string{
		"proc/10/status":               "Name:\ta\nCapPrm:\t0000000000004000\nCapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t1\nSeccomp:\t2\n",
		"proc/10/ns/user":              "-> user:[4026532000]",
		"sys/kernel/security/lsm":      "capability,apparmor",
		"sys/kernel/security/lockdown": "none [integrity] confidentiality\n",
	}
	f := Inspect(tree(t, files), 10)
	f.HardLimit = 0
	want := &Facts{CapPermitted: 1 << 14, CapBounding: 1<<41 - 1, CapsKnown: true, UserNSKnown: true, NoNewPrivs: true,
		Seccomp: SeccompFilter, LSMs: []string{"capability", "apparmor"}, LSMsKnown: true, Lockdown: "integrity"}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Error(diff)
	}
	files["proc/10/status"] = "CapPrm:\t0\nCapEff:\t0\nCapBnd:\t0\nNoNewPrivs:\t0\n"
	if f = Inspect(tree(t, files), 10); f.Seccomp != SeccompOff {
		t.Errorf("a kernel without CONFIG_SECCOMP has no filters: %d", f.Seccomp)
	}
	f = Inspect(Options{Proc: "/nowhere", Sys: "/nowhere"}, 10)
	f.HardLimit = 0
	if diff := cmp.Diff(&Facts{Seccomp: SeccompUnknown}, f); diff != "" {
		t.Errorf("nothing can be read: %s", diff)
	}
}

// What a refresh of this host costs, for whoever wants to know: start the
// processes and map the buffers first.
func BenchmarkTake(b *testing.B) {
	source, err := Open(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer source.Close()
	var last *Snapshot
	for b.Loop() {
		if last, err = source.Take(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(last.Processes)), "processes")
	b.ReportMetric(float64(len(last.Buffers)), "mappings")
	b.Logf("from %s", last.Source)
}

// Where no file shows a user's counter, it is estimated as this kernel accounts: either
// less what the processes pay, or all of it.
func TestEstimates(t *testing.T) {
	processes := []Process{
		{UID: 7, PinnedVM: 74, BufferPages: 36},
		{UID: 7, PinnedVM: 4, BufferPages: 20},
		{UID: 7, PinnedVM: -8, BufferPages: 2, hidden: true}, // a refund that was another's
	}
	for scheme, want := range map[rule.Scheme]int64{
		rule.SchemeUnknown: 18, rule.SchemeSplit: 18, rule.SchemeCumulative: 58, rule.SchemeTwice: 58,
		rule.SchemeUnclamped: -12, // 36 - 74 + 20 - 4 + 2 + 8: negative, as there it is
	} {
		s := Snapshot{Processes: slices.Clone(processes)}
		s.Accounting.Scheme = scheme
		s.countUsers()
		if u := s.Users[0]; u.PerfLocked != want || u.LockedVM != want || u.Hidden != 1 || u.Known {
			t.Errorf("%s: %+v; want %d", scheme, u, want)
		}
	}
	s := Snapshot{Users: []User{{UID: 7, PerfLocked: 36, Known: true}}, Buffers: []Buffer{
		{Pages: 9, Extra: 14, ExtraKnown: true, PayerUID: 7, PayerKnown: true}, {Pages: 9, ExtraKnown: true, PayerUID: 7, PayerKnown: true}}}
	s.Accounting.Scheme = rule.SchemeCumulative
	if s.countUsers(); s.Users[0].BufferPages != 18 || s.Users[0].PerfLocked != 36 {
		t.Errorf("of a counter that can be read: %+v", s.Users[0])
	}
}

// In a user namespace of its own, users have other uids than the kernel charges.
func TestUserNamespace(t *testing.T) {
	for name, c := range map[string]struct {
		ns, maps string
		own      bool
		outside  map[uint32]int64
	}{
		"initial":    {initialUserNamespace, "0 0 4294967295\n", false, map[uint32]int64{0: -1, 1000: -1}},
		"own":        {"user:[4026532000]", "         0       1000          1\n         1     100000      65536\n", true, map[uint32]int64{0: 1000, 1: 100000, 65536: 165535, 65537: -1}},
		"not mapped": {"user:[4026532000]", "", true, map[uint32]int64{0: -1}},
	} {
		files := machine()
		files["proc/self/ns/user"], files["proc/self/uid_map"] = "-> "+c.ns, c.maps
		s, err := Take(context.Background(), tree(t, files))
		if err != nil {
			t.Fatal(err)
		}
		if s.OwnUserNamespace() != c.own || s.Enclosed != c.own {
			t.Errorf("%s: own %v, enclosed %v", name, s.OwnUserNamespace(), s.Enclosed)
		}
		for uid, want := range c.outside {
			if got := s.Outside(uid); got != want {
				t.Errorf("%s: uid %d is %d; want %d", name, uid, got, want)
			}
		}
	}
}
