package reason

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/rule"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// returned are the errors of each call, as man pages and the kernel's sources have them. Of
// mappings and of what chargers are seen to do: those of the functions that are watched.
var returned = map[Call][]unix.Errno{
	MapData:         {unix.EINVAL, unix.EACCES, unix.ENODEV, unix.EPERM, unix.EAGAIN, unix.ENOMEM, unix.EBUSY},
	MapAUX:          {unix.EINVAL, unix.EACCES, unix.ENODEV, unix.EPERM, unix.EAGAIN, unix.ENOMEM, unix.EOPNOTSUPP},
	SplitBuffer:     {unix.EINVAL, unix.ENOMEM},
	SetupRing:       {unix.EPERM, unix.EACCES, unix.EINVAL, unix.EFAULT, unix.ENOMEM, unix.EAGAIN, unix.EMFILE, unix.ENFILE, unix.ENXIO, unix.EBADF},
	RegisterBuffers: {unix.EBADF, unix.EOPNOTSUPP, unix.EACCES, unix.EEXIST, unix.EBUSY, unix.EINVAL, unix.EFAULT, unix.EOVERFLOW, unix.ENOMEM},
	SendRing:        {unix.ENOMEM},
	RegisterUmem:    {unix.EBUSY, unix.EINVAL, unix.EFAULT, unix.ENOMEM, unix.ENOBUFS},
	SendZeroCopy:    {unix.ENOBUFS},
	CreateMap:       {unix.EPERM, unix.EACCES, unix.EINVAL, unix.E2BIG, unix.ENOMEM, unix.EBADF, unix.EFAULT, unix.EMFILE, unix.ENFILE, unix.ENOSPC, notSupported},
	UpdateMap: {unix.EPERM, unix.E2BIG, unix.ENOMEM, unix.EEXIST, unix.ENOENT, unix.EINVAL, unix.EBUSY, unix.EDEADLK, unix.ETIMEDOUT, unix.EFAULT, unix.EBADF, unix.ENOSPC,
		notSupported},
	LoadProgram: {unix.EPERM, unix.EACCES, unix.EINVAL, unix.E2BIG, unix.ENOMEM, unix.EBADF, unix.EFAULT, unix.EMFILE, unix.ENFILE, unix.ENOSPC, unix.EAGAIN, unix.ENOENT,
		unix.ESRCH, notSupported},
	TouchSecret:  {unix.EFAULT},
	MapVFIO:      {unix.ENOMEM},
	MapIOMMUFD:   {unix.ENOMEM},
	RegisterRDMA: {unix.ENOMEM},
	MapVDPA:      {unix.ENOMEM},
}

func TestEveryErrnoHasItsReasons(t *testing.T) {
	for call := range calls {
		var have []unix.Errno
		for _, r := range Table() {
			if r.Call == call && !slices.Contains(have, r.Errno) {
				have = append(have, r.Errno)
			}
		}
		want := slices.Clone(returned[call])
		slices.Sort(have)
		slices.Sort(want)
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("%v: errors that it returns (-) and that there are reasons for (+):\n%s", call, diff)
		}
		if call.String() == "" {
			t.Errorf("call %d has no name", call)
		}
	}
}

func (r Reason) id() string {
	return fmt.Sprintf("%v/%v/%s/%s-%s", r.Call, r.Errno, r.Name, r.Since, r.Until)
}

// Each row says what it is about, and can be told from the others.
func TestRowsAreComplete(t *testing.T) {
	seen := map[string]bool{}
	version, placeholder := regexp.MustCompile(`^(\d+\.\d+(\.\d+)?)?$`), regexp.MustCompile(`\{([^}]*)\}`)
	known := fullFacts().values()
	for _, r := range Table() {
		if seen[r.id()] {
			t.Errorf("%s: there are two", r.id())
		}
		seen[r.id()] = true
		if r.Errno == 0 || r.Name == "" || r.Function == "" || r.When == "" || r.holds == nil || r.Outcome == Unknown {
			t.Errorf("%s: something is not said: %+v", r.id(), r)
		}
		if !version.MatchString(r.Since) || !version.MatchString(r.Until) || r.Since != "" && r.Until != "" && !older(r.Since, r.Until) {
			t.Errorf("%s: since %q, until %q", r.id(), r.Since, r.Until)
		}
		if (r.Provocation == "") == (r.Unprovoked == "") {
			t.Errorf("%s: provoked by %q, not provoked because %q: want one of them", r.id(), r.Provocation, r.Unprovoked)
		}
		if r.Outcome == Limit && !r.Accounting {
			t.Errorf("%s: a limit of something else", r.id())
		}
		if r.Sentence(&Facts{}) == "" {
			t.Errorf("%s: nothing is said where no value was seen", r.id())
		}
		said := strings.Join(r.Say, "; ")
		if r.Accounting && strings.Contains(said, "no limit has a part in it") {
			t.Errorf("%s: says that no limit has a part in it", r.id())
		}
		for _, name := range placeholder.FindAllStringSubmatch(said, -1) {
			if _, ok := known[name[1]]; !ok {
				t.Errorf("%s: nothing is called %s", r.id(), name[0])
			}
		}
	}
}

func older(a, b string) bool {
	var an, bn [3]int
	fmt.Sscanf(strings.ReplaceAll(a, ".", " "), "%d %d %d", &an[0], &an[1], &an[2])
	fmt.Sscanf(strings.ReplaceAll(b, ".", " "), "%d %d %d", &bn[0], &bn[1], &bn[2])
	return slices.Compare(an[:], bn[:]) < 0
}

// again are provocations of a reason that another one has already: what they provoke is
// said with other sums.
var again = map[string]string{
	"perf-second-profile": "perf-limit",
	"perf-containers":     "perf-limit",
	"aux-unset":           "aux-inside",
	"buffers-huge":        "buffers-limit",
	"buffers-perf":        "buffers-limit",
	"send-outstanding":    "send-limit",
	"vfio-privileged":     "vfio-limit",
	"buffers-tagged":      "buffers-limit",

	"update-outside-cgroup": "update-cgroup",
	"rdma-privileged":       "rdma-limit",
	"vdpa-privileged":       "vdpa-limit",
	"iommufd-privileged":    "iommufd-limit",
	"iommufd-process":       "iommufd-limit",
}

// What can be provoked is, and what is provoked has a reason.
func TestProvocations(t *testing.T) {
	provoked, provocations := map[string]bool{}, map[string]bool{}
	for _, r := range Table() {
		provoked[r.Provocation] = true
	}
	for _, p := range slices.Concat(workload.Provocations(), workload.ModuleProvocations()) {
		provocations[p.Name] = true
		name, other := again[p.Name]
		if !other {
			name = p.Name
		}
		if !provoked[name] || other && provoked[p.Name] {
			t.Errorf("%s: no reason is provoked by it", p.Name)
		}
	}
	for _, r := range Table() {
		if r.Provocation != "" && !provocations[r.Provocation] {
			t.Errorf("%s: there is no provocation %s", r.id(), r.Provocation)
		}
	}
}

func on[T any](v T) *T { return &v }

// fullFacts have a value for everything that a sentence may have.
func fullFacts() *Facts {
	f := &Facts{Cgroup: "/a", Ring: &rule.Ring{Entries: 1}, Map: &rule.Map{Type: unix.BPF_MAP_TYPE_ARRAY, KeySize: 4, ValueSize: 8, MaxEntries: 1}}
	fillIn(reflect.ValueOf(f).Elem(), func(field reflect.Value) {
		if field.Type() == reflect.TypeFor[*int64]() {
			field.Set(reflect.ValueOf(on(int64(7))))
		}
	})
	return f
}

func fillIn(facts reflect.Value, fill func(reflect.Value)) {
	for i := range facts.NumField() {
		fill(facts.Field(i))
	}
}

// What facts of a kind leave: the names of the rows, in the kernel's order.
func TestMatch(t *testing.T) {
	yes, no := on(true), on(false)
	n := func(v int64) *int64 { return &v }
	hash := func(value, entries uint32) *rule.Map {
		return &rule.Map{Type: unix.BPF_MAP_TYPE_HASH, KeySize: 4, ValueSize: value, MaxEntries: entries}
	}
	mapped := func(change func(*Facts)) Facts {
		f := Facts{Reached: yes, Pages: n(9), Inherit: no, CPU: n(-1), Shared: yes, Revoked: no, Existing: n(0), ExistingAUX: n(0), Asked: n(0), Held: n(0), Limit: n(16),
			CapIPCLock: no, Paranoid: n(2), Machine: n(512 << 20)}
		change(&f)
		return f
	}
	aux := func(change func(*Facts)) Facts {
		return mapped(func(f *Facts) {
			f.Existing, f.Pages, f.Offset, f.AUXOffset, f.AUXSize, f.AUXCapable = n(9), n(8), n(9*4096), n(9*4096), n(8*4096), yes
			change(f)
		})
	}
	charge := func(asked, held, limit int64, capable bool) Facts {
		return Facts{Asked: &asked, Held: &held, Limit: &limit, CapIPCLock: &capable}
	}
	accepted := func(f Facts, a bool) Facts { f.Accepted = &a; return f }
	umem := func(change func(*unix.XDPUmemReg)) Facts {
		u := unix.XDPUmemReg{Addr: 1 << 20, Len: 1 << 16, Size: 4096}
		change(&u)
		return Facts{Umem: &u}
	}
	for _, c := range []struct {
		call  Call
		errno unix.Errno
		facts Facts
		want  string
	}{
		{MapData, unix.EINVAL, Facts{}, "inherited private size other-size"},
		{MapData, unix.EINVAL, mapped(func(f *Facts) { f.Inherit = yes }), "inherited"},
		{MapData, unix.EINVAL, mapped(func(f *Facts) { f.Inherit, f.CPU, f.Shared = yes, n(0), no }), "private"},
		{MapData, unix.EINVAL, mapped(func(f *Facts) { f.Pages = n(8) }), "size"},
		{MapData, unix.EINVAL, mapped(func(f *Facts) { f.Existing = n(5) }), "other-size"},
		{MapData, unix.EINVAL, mapped(func(*Facts) {}), ""},
		{MapData, unix.EINVAL, Facts{Reached: no}, ""},
		{MapData, unix.EPERM, mapped(func(f *Facts) { f.Asked = n(17) }), "limit"},
		{MapData, unix.EPERM, mapped(func(f *Facts) { f.Asked, f.Paranoid = n(17), n(-1) }), "security"},
		{MapData, unix.EPERM, mapped(func(f *Facts) { f.Asked, f.CapIPCLock = n(17), yes }), "security"},
		{MapData, unix.EPERM, mapped(func(f *Facts) { f.Asked, f.Disturbed = n(17), true }), "limit"},
		{MapData, unix.EPERM, mapped(func(f *Facts) { f.Asked = n(16) }), "security"},
		{MapData, unix.EPERM, Facts{Reached: no, Locked: yes, Limit: n(0), CapIPCLock: no}, "locked-forbidden"},
		{MapData, unix.ENOMEM, mapped(func(f *Facts) { f.Pages = n(1<<31 + 1) }), "int"},
		{MapData, unix.ENOMEM, mapped(func(f *Facts) { f.Pages = n(524289) }), "largest"},
		{MapData, unix.ENOMEM, mapped(func(f *Facts) { f.Pages = n(262145) }), "machine"},
		{MapData, unix.ENOMEM, mapped(func(*Facts) {}), "memory page-tables"},
		{MapData, unix.ENOMEM, Facts{Reached: no}, "address-space"},
		{MapData, unix.EBUSY, mapped(func(f *Facts) { f.Redirected = yes }), "redirected"},
		{MapData, unix.ENODEV, mapped(func(*Facts) {}), ""},
		{MapData, unix.ENODEV, mapped(func(f *Facts) { f.Revoked = yes }), "revoked"},
		{MapAUX, unix.EINVAL, aux(func(f *Facts) { f.Existing = n(0) }), "no-data"},
		{MapAUX, unix.EINVAL, aux(func(f *Facts) { f.AUXOffset = n(4096) }), "inside"},
		{MapAUX, unix.EINVAL, aux(func(f *Facts) { f.Offset = n(10 * 4096) }), "elsewhere"},
		{MapAUX, unix.EINVAL, aux(func(f *Facts) { f.AUXSize = n(4096) }), "announced-size"},
		{MapAUX, unix.EINVAL, aux(func(f *Facts) { f.Pages, f.AUXSize = n(7), n(7*4096) }), "size"},
		{MapAUX, unix.EINVAL, aux(func(f *Facts) { f.ExistingAUX, f.ExistingAUXOffset = n(8), n(17*4096) }), "existing-offset"},
		{MapAUX, unix.EINVAL, aux(func(f *Facts) { f.ExistingAUX, f.ExistingAUXOffset = n(4), n(9*4096) }), "existing-size"},
		{MapAUX, unix.EINVAL, aux(func(*Facts) {}), "going"},
		{MapAUX, unix.EOPNOTSUPP, aux(func(f *Facts) { f.AUXCapable = no }), "unsupported"},
		{MapAUX, unix.EOPNOTSUPP, aux(func(*Facts) {}), ""},
		{MapAUX, unix.EPERM, aux(func(f *Facts) { f.Asked = n(17) }), "limit"},
		{SplitBuffer, unix.EINVAL, Facts{Split: yes, Over: no}, "split"},
		{SplitBuffer, unix.EINVAL, Facts{Split: yes, Over: yes}, "split-map"},
		{SplitBuffer, unix.ENOMEM, Facts{Split: yes, Over: yes}, "split"},
		{SplitBuffer, unix.EINVAL, Facts{Split: no}, ""},
		{SetupRing, unix.EPERM, Facts{RingDisabled: n(2)}, "disabled"},
		{SetupRing, unix.EPERM, Facts{RingDisabled: n(1), CapSysAdmin: no, RingGroup: no, Polls: no}, "group"},
		{SetupRing, unix.EPERM, Facts{RingDisabled: n(1), CapSysAdmin: yes, Polls: no}, "security"},
		{SetupRing, unix.EPERM, Facts{RingDisabled: n(0), Polls: no}, "security"},
		{SetupRing, unix.EPERM, Facts{Polls: no}, "disabled group"},
		{SetupRing, unix.EPERM, Facts{Polls: yes}, "disabled group polling"},
		{SetupRing, unix.EINVAL, Facts{Ring: &rule.Ring{}}, "flags none"},
		{SetupRing, unix.EINVAL, Facts{Ring: &rule.Ring{Entries: 32769}}, "flags entries"},
		{SetupRing, unix.EINVAL, Facts{Ring: &rule.Ring{Entries: 32769, Flags: 1 << 4}}, "flags"},
		{SetupRing, unix.EINVAL, Facts{Ring: &rule.Ring{Entries: 8, CompletionEntries: 4, Flags: rule.RingSetCQ}}, "flags completions"},
		{SetupRing, unix.ENOMEM, accepted(charge(1, 476, 128, false), false), "limit"},
		{SetupRing, unix.ENOMEM, charge(1, 476, 128, true), "cgroup memory"},
		{SetupRing, unix.ENOMEM, Facts{CapIPCLock: yes, CgroupRefused: yes}, "cgroup"},
		{SetupRing, unix.ENOMEM, Facts{CapIPCLock: yes, CgroupRefused: no}, "memory"},
		{RegisterBuffers, unix.ENOMEM, accepted(charge(2, 16, 16, false), false), "limit"},
		{RegisterBuffers, unix.ENOMEM, charge(2, 16, 16, false), "cgroup limit"},
		{RegisterBuffers, unix.ENOMEM, accepted(charge(2, 16, 16, false), true), "cgroup memory"},
		{RegisterBuffers, unix.EINVAL, Facts{Buffers: n(0)}, "number"},
		{RegisterBuffers, unix.EINVAL, Facts{Buffers: n(1025)}, "number files"},
		{RegisterBuffers, unix.EINVAL, Facts{Buffers: n(9)}, "files"},
		{RegisterBuffers, unix.EFAULT, Facts{BufferBytes: n(1<<30 + 1)}, "address large"},
		{RegisterBuffers, unix.EFAULT, Facts{BufferBytes: n(4096), CgroupRefused: yes, Pinned: no}, "address pages"},
		{RegisterBuffers, unix.EFAULT, Facts{BufferBytes: n(4096), CgroupRefused: no, Pinned: no}, "address unmapped"},
		{SendRing, unix.ENOMEM, accepted(charge(3, 15, 16, false), false), "limit"},
		{RegisterUmem, unix.ENOBUFS, charge(17, 0, 16, false), "limit"},
		{RegisterUmem, unix.ENOBUFS, charge(17, 0, 16, true), ""},
		{RegisterUmem, unix.EINVAL, umem(func(u *unix.XDPUmemReg) { u.Size = 1024 }), "chunk"},
		{RegisterUmem, unix.EINVAL, umem(func(u *unix.XDPUmemReg) { u.Size = 3000 }), "power"},
		{RegisterUmem, unix.EINVAL, umem(func(u *unix.XDPUmemReg) { u.Size, u.Flags = 3000, 1 }), "layout"},
		{RegisterUmem, unix.EINVAL, umem(func(u *unix.XDPUmemReg) { u.Addr++ }), "align"},
		{RegisterUmem, unix.EINVAL, umem(func(u *unix.XDPUmemReg) { u.Len = ^uint64(0) &^ 4095 }), "wraps"},
		{RegisterUmem, unix.EINVAL, umem(func(u *unix.XDPUmemReg) { u.Len = 0 }), "empty"},
		{RegisterUmem, unix.EINVAL, umem(func(u *unix.XDPUmemReg) { u.Len += 16 }), "rest"},
		{RegisterUmem, unix.EINVAL, umem(func(u *unix.XDPUmemReg) { u.Headroom = 4000 }), "headroom"},
		{RegisterUmem, unix.ENOMEM, Facts{Pinned: no}, "memory hole"},
		{SendZeroCopy, unix.ENOBUFS, accepted(charge(17, 0, 16, false), false), "limit"},
		{SendZeroCopy, unix.ENOBUFS, accepted(charge(17, 0, 16, false), true), "notification appended device"},
		{SendZeroCopy, unix.ENOBUFS, charge(17, 0, rule.Unlimited, false), "notification appended device"},
		{CreateMap, unix.EPERM, Facts{CapBPF: no, UnprivilegedBPF: no}, "capability"},
		{CreateMap, unix.EPERM, Facts{CapBPF: yes, CapSysAdmin: yes, Map: hash(4, 1), ChargesRlimit: no}, "security"},
		{CreateMap, unix.EPERM, func() Facts {
			f := charge(11, 11, 16, true)
			f.CapBPF, f.Map, f.ChargesRlimit = yes, hash(4, 1), yes
			return f
		}(), "limit"},
		{CreateMap, unix.EPERM, accepted(charge(11, 11, 16, false), false), "limit"},
		{CreateMap, unix.E2BIG, Facts{Map: hash(4<<20, 1), ChargesRlimit: no}, "later value"},
		{CreateMap, unix.E2BIG, Facts{Map: hash(4, 1<<30), ChargesRlimit: no, Machine: n(1 << 40)}, "later entries"},
		{CreateMap, unix.E2BIG, Facts{Map: &rule.Map{Type: unix.BPF_MAP_TYPE_CPUMAP, KeySize: 4, ValueSize: 4, MaxEntries: 1 << 20}, ChargesRlimit: no}, "later type-size"},
		{CreateMap, unix.E2BIG, Facts{Map: &rule.Map{Type: unix.BPF_MAP_TYPE_QUEUE, ValueSize: 4096, MaxEntries: 1 << 24}, ChargesRlimit: no}, "later type-size"},
		{CreateMap, unix.E2BIG, Facts{Map: &rule.Map{Type: unix.BPF_MAP_TYPE_CPUMAP, KeySize: 4, ValueSize: 4, MaxEntries: 1 << 20}, ChargesRlimit: yes}, "later type-size"},
		{CreateMap, unix.ENOMEM, Facts{Map: hash(256, 1<<21), Machine: n(512 << 20), CgroupRefused: no}, "machine"},
		{CreateMap, unix.ENOMEM, Facts{Map: hash(256, 1<<21), Machine: n(512 << 20), CgroupRefused: yes}, "cgroup"},
		{CreateMap, unix.ENOMEM, Facts{Map: hash(4, 8), Machine: n(512 << 20), CgroupRefused: no}, "memory"},
		{UpdateMap, unix.E2BIG, Facts{Map: hash(4, 8), Elements: n(8)}, "full"},
		{UpdateMap, unix.E2BIG, Facts{Map: hash(4, 8), Elements: n(7)}, ""},
		{UpdateMap, unix.EPERM, Facts{Frozen: yes}, "read-only"},
		{UpdateMap, unix.ENOMEM, Facts{CgroupRefused: yes}, "cgroup"},
		{UpdateMap, unix.ENOMEM, Facts{CgroupRefused: no}, "memory"},
		{UpdateMap, unix.ENOMEM, Facts{}, "cgroup memory"},
		{LoadProgram, unix.EPERM, Facts{CapBPF: no, UnprivilegedBPF: no}, "capability"},
		{LoadProgram, unix.EPERM, accepted(charge(1, 0, 0, false), false), "limit"},
		{LoadProgram, unix.EPERM, Facts{CapBPF: yes, CapPerfmon: yes, CapNetAdmin: yes, Accepted: yes, Verified: no}, "security"},
		{LoadProgram, unix.E2BIG, Facts{Instructions: n(0)}, "later instructions"},
		{LoadProgram, unix.EPERM, Facts{CapBPF: no, UnprivilegedBPF: yes, Verified: yes, Accepts: no}, "verifier"},
		{LoadProgram, unix.E2BIG, Facts{Verified: yes, Accepts: no}, "complexity"},
		{LoadProgram, unix.E2BIG, Facts{Instructions: n(2), Verified: no}, "later"},
		{LoadProgram, unix.EINVAL, Facts{Verified: yes, Accepts: no, CgroupRefused: yes}, "verifier"},
		{LoadProgram, unix.EINVAL, Facts{Verified: no, CgroupRefused: yes}, "cgroup"},
		{LoadProgram, unix.EINVAL, Facts{Verified: no, CgroupRefused: no}, "memory attributes"},
		{LoadProgram, unix.EINVAL, Facts{Verified: no, CgroupRefused: no, ChargesRlimit: yes}, "attributes"},
		{LoadProgram, unix.EINVAL, Facts{Verified: no, Allocated: yes}, "attributes"},
		{LoadProgram, unix.EINVAL, Facts{Verified: no, CgroupRefused: no, Allocated: no}, "memory"},
		{LoadProgram, unix.EINVAL, Facts{Verified: no, CgroupRefused: yes, Allocated: no}, "cgroup"},
		{LoadProgram, unix.E2BIG, Facts{Instructions: n(0), Later: no}, "instructions"},
		{CreateMap, unix.E2BIG, Facts{Map: hash(4<<20, 1), ChargesRlimit: no, Later: no}, "value"},
		{CreateMap, unix.E2BIG, Facts{Map: hash(4<<20, 1), ChargesRlimit: no, Later: yes}, "later value"},
		{CreateMap, unix.E2BIG, Facts{Map: &rule.Map{Type: unix.BPF_MAP_TYPE_XSKMAP, KeySize: 4, ValueSize: 4, MaxEntries: 1 << 29}, ChargesRlimit: yes, Later: no}, "rlimit-size"},
		{CreateMap, unix.E2BIG, Facts{Map: &rule.Map{Type: unix.BPF_MAP_TYPE_XSKMAP, KeySize: 4, ValueSize: 4, MaxEntries: 1 << 28}, ChargesRlimit: yes, Later: no}, "type-size"},
		{LoadProgram, unix.EACCES, Facts{Verified: yes, Accepts: no}, "verifier"},
		{LoadProgram, unix.EACCES, Facts{Verified: no}, "security"},
		{LoadProgram, unix.ENOMEM, Facts{CgroupRefused: yes}, "cgroup"},
		{TouchSecret, unix.EFAULT, charge(1, 16, 16, true), "limit"},
		{MapVFIO, unix.ENOMEM, charge(1, 16, 16, false), "limit"},
		{MapVDPA, unix.ENOMEM, charge(1, 16, 16, true), "limit"},
		{MapIOMMUFD, unix.ENOMEM, charge(1, 16, 16, true), "memory"},
		{MapIOMMUFD, unix.EIO, Facts{}, ""},
	} {
		c.facts.Call, c.facts.Errno = c.call, c.errno
		var got []string
		for _, r := range Match(&c.facts) {
			got = append(got, r.Name)
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%v: %v, %s: %q; want %q", c.call, c.errno, sentences(&c.facts), got, c.want)
		}
	}
}

func sentences(f *Facts) string {
	var all []string
	for _, r := range Match(f) {
		all = append(all, r.Sentence(f))
	}
	return strings.Join(all, " | ")
}

// exclude are rows of which one is false where the other is true.
var exclude = [][2]string{
	{"disabled", "group"}, {"split", "split-map"}, {"pages", "unmapped"}, {"large", "unmapped"}, {"empty", "large"}, {"none", "entries"},
	{"key", "value"}, {"value", "percpu"}, {"percpu", "entries"}, {"machine", "cgroup"}, {"locked-forbidden", "limit"},
}

// Whatever was seen, what is left is consistent: nothing that was seen not to hold, nothing
// after what was seen to, no two that exclude each other, and where the kernel's own
// accounting was seen to refuse, that alone.
func TestMatchIsConsistent(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	numbers := []int64{-1, 0, 1, 2, 7, 8, 9, 16, 4096, 8 * 4096, 9 * 4096, 1 << 20, 1<<30 + 1, 1 << 40}
	number := func() int64 { return numbers[random.IntN(len(numbers))] }
	anything := func(field reflect.Value) {
		if random.IntN(3) == 0 {
			return // unseen
		}
		switch field.Type() {
		case reflect.TypeFor[*int64]():
			field.Set(reflect.ValueOf(on(number())))
		case reflect.TypeFor[*bool]():
			field.Set(reflect.ValueOf(on(random.IntN(2) == 0)))
		case reflect.TypeFor[*rule.Ring]():
			field.Set(reflect.ValueOf(&rule.Ring{Entries: uint32(number()), CompletionEntries: uint32(number()), Flags: random.Uint32() & 31}))
		case reflect.TypeFor[*unix.XDPUmemReg]():
			field.Set(reflect.ValueOf(&unix.XDPUmemReg{Addr: uint64(number()), Len: uint64(number()), Size: uint32(number()), Headroom: uint32(number())}))
		case reflect.TypeFor[*rule.Map]():
			field.Set(reflect.ValueOf(&rule.Map{Type: random.Uint32N(28), KeySize: uint32(number()), ValueSize: uint32(number()), MaxEntries: uint32(number()), Flags: random.Uint32() & 1}))
		}
	}
	matched, table := map[string]bool{}, Table()
	for range 20_000 {
		f := &Facts{Call: Call(random.IntN(int(calls)))}
		errnos := returned[f.Call]
		f.Errno = errnos[random.IntN(len(errnos))]
		fillIn(reflect.ValueOf(f).Elem(), anything)
		list := Match(f)
		for i, r := range list {
			matched[r.id()] = true
			holds := r.Holds(f)
			if holds == No || holds == Yes && i != len(list)-1 || r.Call != f.Call || r.Errno != f.Errno {
				t.Fatalf("%s is %d of %d, and holds: %d\n%+v", r.id(), i+1, len(list), holds, f)
			}
			if holds == Yes && r.Outcome == Limit && f.Accepted != nil && len(list) != 1 && r.Accounting {
				t.Fatalf("%s is not alone, and the accounting was seen: %+v", r.id(), f)
			}
		}
		excluded(t, table, f)
	}
	for _, r := range Table() {
		if !matched[r.id()] {
			t.Errorf("%s: nothing that may be seen lets it be", r.id())
		}
	}
}

// excluded fails where rows that exclude each other are both seen to hold.
func excluded(t *testing.T, table []Reason, f *Facts) {
	held := map[string]bool{}
	for _, r := range table {
		if r.Call == f.Call && r.Errno == f.Errno && r.Holds(f) == Yes {
			held[r.Name] = true
		}
	}
	for _, pair := range exclude {
		if held[pair[0]] && held[pair[1]] {
			t.Fatalf("%v: %v: %s and %s hold at once\n%+v", f.Call, f.Errno, pair[0], pair[1], f)
		}
	}
}
