package charging

import (
	"testing"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/remedy"
	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/snapshot"
)

// host has a profiler of uid 1000 with 476 pages of perf buffers, and an agent.
func host() *snapshot.Snapshot {
	return &snapshot.Snapshot{Source: snapshot.SourceIterators, PageSize: 4096, OnlineCPUs: 4, MlockKiB: 516,
		Processes: []snapshot.Process{
			{PID: 10, Comm: "profiler", UID: 1000, LockLimit: 128, Known: true, BufferPages: 476},
			{PID: 11, Comm: "agent", UID: 1000, LockLimit: 128, Known: true},
			{PID: 12, Comm: "root", UID: 0, LockLimit: 128, Known: true, CapIPCLock: true}},
		Users:   []snapshot.User{{UID: 0, Known: true}, {UID: 1000, PerfLocked: 476, LockedVM: 476, Known: true}},
		Buffers: []snapshot.Buffer{{PID: 10, ID: 1, Pages: 476, ExtraKnown: true, PayerUID: 1000, PayerKnown: true}}}
}

func TestExplain(t *testing.T) {
	const page = 4096
	for name, c := range map[string]struct {
		request  Request
		pid      uint32
		split    bool // perf has a counter of its own
		allowed  bool
		over     int64
		fits     int64
		remedies map[string]int64 // by name: pages
	}{
		"buffers behind perf's":       {BuffersRequest(7*page, page), 11, false, false, 355, 0, map[string]int64{remedy.Limit: 483, "end a holder": 476, "user of its own": 0, remedy.Capable: 0}},
		"buffers beside perf's":       {BuffersRequest(7*page, page), 11, true, true, -121, 18, nil},
		"umem of root":                {UmemRequest(1<<30, page), 12, false, true, 262144 - 128, rule.NoLimit, nil},
		"send that never fits":        {SendRequest(1<<20, page), 11, true, false, 258 - 128, 0, map[string]int64{remedy.Limit: 258, "smaller request": 128, remedy.Capable: 0}},
		"the largest send that fits":  {SendRequest(127*page-1, page), 11, true, true, 0, 1, nil},
		"one byte more than the last": {SendRequest(127*page, page), 11, true, false, 1, 0, map[string]int64{remedy.Limit: 129, "smaller request": 128, remedy.Capable: 0}},
	} {
		t.Run(name, func(t *testing.T) {
			s := host()
			if c.split {
				s.SplitCounter, s.Users[1].LockedVM = true, 0
			}
			c.request.PID = c.pid
			x, err := Explain(s, &snapshot.Facts{}, c.request)
			if err != nil {
				t.Fatal(err)
			}
			if x.Verdict.Allowed != c.allowed || !x.Verdict.Certain || x.Over != c.over || x.Fits != c.fits {
				t.Errorf("%+v, over %d, fits %d", x.Verdict, x.Over, x.Fits)
			}
			got := map[string]int64{}
			for _, r := range x.Remedies {
				got[r.Name] = r.Pages
			}
			for name, pages := range c.remedies {
				if got[name] != pages {
					t.Errorf("remedy %s of %d pages, want %d", name, got[name], pages)
				}
			}
			if len(got) != len(c.remedies) {
				t.Errorf("remedies %v, want %v", got, c.remedies)
			}
		})
	}
}

// More than the machine has is promised to nobody, and no limit is said to be enough for it.
func TestExplainBeyondMachine(t *testing.T) {
	for pid, allowed := range map[uint32]bool{11: false, 12: true} {
		s := host()
		s.SplitCounter, s.Users[1].LockedVM = true, 0
		r := UmemRequest(2<<30, 4096)
		r.PID, r.Memory = pid, 1<<30
		x, err := Explain(s, &snapshot.Facts{}, r)
		if err != nil {
			t.Fatal(err)
		}
		if x.Verdict.Allowed != allowed || x.Verdict.Certain == allowed || len(x.Unknown) != 1 {
			t.Errorf("process %d: %+v, %q", pid, x.Verdict, x.Unknown)
		}
		if !allowed && (len(x.Remedies) != 1 || x.Remedies[0].Pages != 128) {
			t.Errorf("process %d: %+v; want a smaller one alone", pid, x.Remedies)
		}
	}
}

// A map is held against memory cgroups, or a user, or nothing but its own size.
func TestExplainMap(t *testing.T) {
	ask := func(text string, a kernel.BPFAccounting, groups ...CgroupRoom) *Answer {
		m, err := ParseMap(text)
		if err != nil {
			t.Fatal(err)
		}
		r, err := CreateRequest(MapRequest{Map: m, On: rule.MapMachine{PageSize: 4096, PossibleCPUs: 4}, Machine: 1 << 30, Cgroups: groups}, a)
		if err != nil {
			t.Fatal(err)
		}
		r.PID = 11
		x, err := Explain(host(), &snapshot.Facts{BPF: a}, r)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	small := CgroupRoom{Path: "/a", Current: 1 << 20, Max: 2 << 20}
	for name, c := range map[string]struct {
		x                *Answer
		allowed, certain bool
		by, errno        string
	}{
		"no limit":               {ask("hash:8:256:1000", kernel.BPFMemcg, CgroupRoom{Path: "/", Max: -1}), true, true, "", ""},
		"more than the cgroup":   {ask("array:4:8:1M", kernel.BPFMemcg, small), false, true, ByCgroup, "ENOMEM"},
		"more than is free":      {ask("array:4:8:150K", kernel.BPFMemcg, small), false, false, ByCgroup, "ENOMEM"},
		"too large for a CPU":    {ask("percpu_array:4:40K:1", kernel.BPFMemcg), false, true, BySize, "E2BIG or ENOMEM"},
		"more than the machine":  {ask("hash:8:1K:4M", kernel.BPFMemcg), false, true, ByMachine, "ENOMEM"},
		"a key beyond the stack": {ask("hash:600:4:10", kernel.BPFRlimit), false, true, BySize, "E2BIG"},
		"a large key since 5.11": {ask("hash:600:4:10", kernel.BPFMemcg), true, true, "", ""},
		"64 GiB in an array":     {ask("array:4:4K:16M", kernel.BPFMemcg), false, true, ByMachine, "ENOMEM"},
		"64 GiB in a queue":      {ask("queue:0:4K:16M", kernel.BPFMemcg), false, true, ByMachine, "E2BIG or ENOMEM"}, // 7.3 and 6.1
		"64 GiB before 5.11":     {ask("array:4:4K:16M", kernel.BPFRlimit), false, true, BySize, "E2BIG"},
		"64 GiB later, on 5.10":  {ask("lpm_trie:8:4K:16M", kernel.BPFRlimit), false, true, BySize, "E2BIG"},
		"before 5.11":            {ask("hash:9:1:500", kernel.BPFRlimit), false, true, ByMemlock, "EPERM"},
	} {
		if v := c.x.Verdict; v.Allowed != c.allowed || v.Certain != c.certain || v.By != c.by || v.Errno != c.errno {
			t.Errorf("%s: %+v", name, v)
		}
	}
	for _, text := range []string{"", "hash", "hash:1:2", "nothing:1:2:3", "hash:x:2:3", "hash:1:2:8G", "hash+what:1:2:3"} {
		if m, err := ParseMap(text); err == nil {
			t.Errorf("%q is %+v", text, m)
		}
	}
}
