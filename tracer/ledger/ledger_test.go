package ledger

import (
	"testing"

	"github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// kernel is the accounting of one kernel version, as its source states it, on
// simulated counters: enough to test the ledger's arithmetic. What real kernels
// do is tested in guests.
type kernel struct {
	extra func(before, pages, limit int64) int64 // charged to the process
	user  func(pages, extra int64) int64         // charged to the user

	userLocked map[uint32]int64
	pinned     map[uint64]int64
	charged    map[uint64][2]int64 // by buffer: user, process
	limit      int64
	lockLimit  int64
}

func newKernel(extra func(before, pages, limit int64) int64, user func(pages, extra int64) int64) *kernel {
	return &kernel{extra: extra, user: user, userLocked: map[uint32]int64{}, pinned: map[uint64]int64{},
		charged: map[uint64][2]int64{}, limit: 4, lockLimit: 1000}
}

// The historical behaviours, see the table of variants in the documentation of
// the known-bad kernel.
func clamped(before, pages, limit int64) int64 {
	return max(0, min(before, limit)+pages-limit)
}
func cumulative(before, pages, limit int64) int64 { return max(0, before+pages-limit) }
func unclamped(before, pages, limit int64) int64  { return max(0, before+pages-limit) }
func always(pages, _ int64) int64                 { return pages }
func rest(pages, extra int64) int64               { return pages - extra }

// mmap returns the event of a process mapping a buffer of its uid.
func (k *kernel) mmap(uid uint32, mm, buffer uint64, pages int64) Event {
	before, pinned := k.userLocked[uid], k.pinned[mm]
	extra := k.extra(before, pages, k.limit)
	e := Event{
		Op: Map, PageSize: 4096,
		Caller:  k.caller(uid, mm),
		User:    Reading{Owner: uint64(uid), Before: before},
		Process: Reading{Owner: mm, Before: pinned},
		Buffer:  Buffer{Pages: pages, Extra: extra, Limits: k.limits()},
	}
	if pinned+extra > k.lockLimit {
		_, e.Buffer.Extra = rule.Split(pages, before, k.limit) // what the tracer can know
		e.Errno, e.User.After, e.Process.After = rule.EPERM, before, pinned
		return e
	}
	k.userLocked[uid] += k.user(pages, extra)
	k.pinned[mm] += extra
	k.charged[buffer] = [2]int64{k.user(pages, extra), extra}
	e.Buffer.Key, e.Buffer.Mappings.After = buffer, 1
	e.User.After, e.Process.After = k.userLocked[uid], k.pinned[mm]
	return e
}

func (k *kernel) caller(uid uint32, mm uint64) Caller {
	return Caller{PID: uint32(mm), UID: uid, LockLimit: k.lockLimit}
}

func (k *kernel) limits() Limits { return Limits{Allowance: k.limit, Paranoid: 2, OnlineCPUs: 1} }

// mmapAgain returns the event of a process mapping a buffer a second time, for which
// the user is charged.
func (k *kernel) mmapAgain(uid uint32, mm, buffer uint64, charged int64) Event {
	before, pinned := k.userLocked[uid], k.pinned[mm]
	k.userLocked[uid] += charged
	return Event{
		Op: Map, PageSize: 4096,
		Caller:  k.caller(uid, mm),
		User:    Reading{Owner: uint64(uid), Before: before, After: before + charged},
		Process: Reading{Owner: mm, Before: pinned, After: pinned},
		Buffer: Buffer{Key: buffer, Existing: true, Pages: k.charged[buffer][0] + k.charged[buffer][1],
			Mappings: Count{Before: 1, After: 2}, Limits: k.limits()},
	}
}

// munmapOne returns the event of one of a buffer's two mappings going, for which the
// user is given something back.
func (k *kernel) munmapOne(uid uint32, mm, buffer uint64, refunded int64) Event {
	e := k.mmapAgain(uid, mm, buffer, -refunded)
	e.Op, e.Buffer.Existing, e.Buffer.Mappings = Unmap, false, Count{Before: 2, After: 1}
	e.Buffer.Recorded = k.recorded(buffer)
	return e
}

// recorded is what a buffer without an AUX area records.
func (k *kernel) recorded(buffer uint64) [2]Recorded {
	c := k.charged[buffer]
	return [2]Recorded{rule.Data: {Pages: c[0] + c[1], Extra: c[1]}}
}

// munmap returns the event of the last mapping of a buffer going in mm.
func (k *kernel) munmap(uid uint32, mm, buffer uint64) Event {
	c := k.charged[buffer]
	e := Event{
		Op:      Unmap,
		Caller:  k.caller(uid, mm),
		User:    Reading{Owner: uint64(uid), Before: k.userLocked[uid]},
		Process: Reading{Owner: mm, Before: k.pinned[mm]},
		Buffer:  Buffer{Key: buffer, Extra: c[1], Mappings: Count{Before: 1}, Recorded: k.recorded(buffer), Limits: k.limits()},
	}
	k.userLocked[uid] -= c[0]
	k.pinned[mm] -= c[1]
	e.User.After, e.Process.After = k.userLocked[uid], k.pinned[mm]
	return e
}

func TestVariants(t *testing.T) {
	for _, c := range []struct {
		name     string
		extra    func(before, pages, limit int64) int64
		user     func(pages, extra int64) int64
		verdicts []Verdict
		excess   []int64
	}{
		// 9-page buffers against an allowance of 4 pages.
		{"V3, right", clamped, rest, []Verdict{OK, OK, OK}, []int64{0, 0, 0}},
		{"V0, cumulative", cumulative, always, []Verdict{Overcharge, Overcharge, Overcharge}, []int64{5, 14, 23}},
		{"V0b, user counted twice", clamped, always, []Verdict{Overcharge, Overcharge, Overcharge}, []int64{5, 9, 9}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, l := newKernel(c.extra, c.user), New()
			for i := range c.verdicts {
				e := l.Apply(k.mmap(1000, 1, uint64(i+1), 9))
				if e.Kind != Charge || e.Verdict != c.verdicts[i] || e.Excess != c.excess[i] || e.Uncertain {
					t.Errorf("mapping %d: %v %v, excess %d, uncertain %v; want charge %v, excess %d",
						i+1, e.Kind, e.Verdict, e.Excess, e.Uncertain, c.verdicts[i], c.excess[i])
				}
			}
			for i := range c.verdicts {
				if e := l.Apply(k.munmap(1000, 1, uint64(i+1))); e.Kind != Refund || e.Verdict != OK {
					t.Errorf("unmapping %d: %v %v; want refund ok", i+1, e.Kind, e.Verdict)
				}
			}
			if s := l.Summary(); s.Live != 0 || s.LiveUser != 0 || s.LivePinned != 0 {
				t.Errorf("at rest: %+v", s)
			}
		})
	}
}

// A sysctl that was lowered makes V2 give the user a negative part.
func TestSysctlLowered(t *testing.T) {
	k, l := newKernel(unclamped, rest), New()
	k.limit = 100
	if e := l.Apply(k.mmap(1000, 1, 1, 65)); e.Verdict != OK {
		t.Fatalf("within the allowance: %v", e.Verdict)
	}
	k.limit = 4
	e := l.Apply(k.mmap(1000, 1, 2, 9))
	if e.Verdict != Overcharge || e.ChargedPinned != 70 || e.ChargedUser != -61 || e.Excess != 61 {
		t.Errorf("got %v, charged %d and %d, excess %d; want overcharge, -61 and 70, 61", e.Verdict, e.ChargedUser, e.ChargedPinned, e.Excess)
	}
}

func TestRefusal(t *testing.T) {
	k, l := newKernel(clamped, rest), New()
	k.lockLimit = 14
	for i := range uint64(2) { // 5, then 14 pages of the process
		l.Apply(k.mmap(1000, 1, i+1, 9))
	}
	refused := k.mmap(1000, 1, 3, 9)
	if e := l.Apply(refused); e.Kind != Refusal || e.Verdict != OK {
		t.Errorf("at the limit: %v %v; want refusal ok", e.Kind, e.Verdict)
	}
	for name, change := range map[string]func(*Event){
		"has CAP_IPC_LOCK":  func(e *Event) { e.Caller.CapIPCLock = true },
		"paranoid is -1":    func(e *Event) { e.Buffer.Limits.Paranoid = -1 },
		"within the limit":  func(e *Event) { e.Caller.LockLimit = 23 },
		"left it charged":   func(e *Event) { e.Process.After += 9 },
		"left user charged": func(e *Event) { e.User.After += 9 },
	} {
		wrong := refused
		change(&wrong)
		if e := l.Apply(wrong); e.Verdict != WrongRefusal {
			t.Errorf("%s: %v; want wrong-refusal", name, e.Verdict)
		}
	}
	other := refused
	other.Errno = 22
	if e := l.Apply(other); e.Verdict != OK || e.Kind != Refusal {
		t.Errorf("EINVAL: %v %v; want refusal ok", e.Kind, e.Verdict)
	}
	if s := l.Summary(); s.Refused != 6 || s.Failures[0] != (refusal.Failure{Errno: rule.EPERM, Calls: 6, First: 3}) {
		t.Errorf("refused %d, %+v; want 6, the first was event 3", s.Refused, s.Failures)
	}
}

// Fits must say how many calls succeed, by the simulated kernel's own count.
func TestFits(t *testing.T) {
	for name, extra := range map[string]func(before, pages, limit int64) int64{"clamped": clamped, "cumulative": cumulative} {
		user := rest
		if name == "cumulative" {
			user = always
		}
		k, l := newKernel(extra, user), New()
		k.limit, k.lockLimit = 40, 500
		var entries []Entry
		for i := uint64(1); ; i++ {
			e := l.Apply(k.mmap(1000, 1, i, 9))
			if e.Kind == Refusal {
				break
			}
			entries = append(entries, e)
		}
		// The behaviour must have been seen before it can be foretold.
		for i, e := range entries {
			if past := e.ChargedPinned > 9; name == "cumulative" && !past {
				continue
			}
			if want := int64(len(entries) - 1 - i); e.Fits != want {
				t.Errorf("%s: after mapping %d: fits %d; want %d", name, i+1, e.Fits, want)
			}
		}
	}
}

func TestFitsWithoutLimit(t *testing.T) {
	for name, change := range map[string]func(*Event){
		"CAP_IPC_LOCK": func(e *Event) { e.Caller.CapIPCLock = true },
		"paranoid -1":  func(e *Event) { e.Buffer.Limits.Paranoid = -1 },
		"unlimited":    func(e *Event) { e.Caller.LockLimit = rule.Unlimited },
	} {
		ev := newKernel(clamped, rest).mmap(1000, 1, 1, 9)
		change(&ev)
		if e := New().Apply(ev); e.Fits != -1 {
			t.Errorf("%s: fits %d; want -1", name, e.Fits)
		}
	}
}

func TestFurtherMappings(t *testing.T) {
	k, l := newKernel(clamped, rest), New()
	l.Apply(k.mmap(1000, 1, 1, 9))
	further := k.mmapAgain(1000, 1, 1, 0)
	if e := l.Apply(further); e.Kind != Mapping || e.Verdict != OK || e.BufferID != 1 {
		t.Errorf("further mapping: %v %v, buffer %d", e.Kind, e.Verdict, e.BufferID)
	}
	double := further
	double.Process.After += 9
	if e := l.Apply(double); e.Verdict != DoubleCharge || e.Excess != 9 {
		t.Errorf("charged again: %v, excess %d; want double-charge, 9", e.Verdict, e.Excess)
	}
	first := k.munmapOne(1000, 1, 1, 0)
	if e := l.Apply(first); e.Kind != Unmapping || e.Verdict != OK {
		t.Errorf("first of two unmapped: %v %v; want unmapping ok", e.Kind, e.Verdict)
	}
}

func TestRefunds(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*Event)
		verdict Verdict
		excess  int64
		foreign int64 // by what is not traced, for all that is known: the verdict is uncertain then
	}{
		{"whole", func(*Event) {}, OK, 0, 0},
		{"part of the process's stays", func(e *Event) { e.Process.After += 2 }, Leak, 2, 2},
		{"the user's stays", func(e *Event) { e.User.After += 4 }, Leak, 4, 0},
		{"too much", func(e *Event) { e.Process.After -= 3 }, Underflow, 3, -3},
		{"all to the process", func(e *Event) { e.Process.After -= 4 }, Underflow, 4, 0},
		{"nothing", func(e *Event) { e.User.After += 4; e.Process.After += 5 }, Leak, 9, 0},
		{"to another process", func(e *Event) { e.Process.Owner, e.Caller.PID = 2, 2 }, MisdirectedRefund, 5, 0},
		{"to another user", func(e *Event) { e.User.Owner = 7 }, MisdirectedRefund, 4, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, l := newKernel(clamped, rest), New()
			l.Apply(k.mmap(1000, 1, 1, 9))
			ev := k.munmap(1000, 1, 1)
			c.change(&ev)
			e := l.Apply(ev)
			if e.Kind != Refund || e.Verdict != c.verdict || e.Excess != c.excess || e.Uncertain != (c.foreign != 0) {
				t.Errorf("got %v %v, excess %d, uncertain %v; want refund %v, %d", e.Kind, e.Verdict, e.Excess, e.Uncertain, c.verdict, c.excess)
			}
			if s := l.Summary(); s.ForeignPinned != c.foreign {
				t.Errorf("%d pages of the process's by others, want %d", s.ForeignPinned, c.foreign)
			}
		})
	}
}

// The data area and its AUX area may come back in one call. A kernel that forgets what
// the user was charged for one of them is known for it: the verdict is certain.
func TestRefundOfBothAreas(t *testing.T) {
	for _, c := range []struct {
		name     string
		given    int64 // back to the user, which paid 1 and 3
		verdict  Verdict
		doubtful bool
	}{
		{"both", 4, OK, false},
		{"the user's part of AUX stays", 1, Leak, false},
		{"the user's part of the data area stays", 3, Leak, false},
		{"nothing", 0, Leak, false},
		{"all of the AUX area", 1 + 9, Underflow, false},
		{"an amount of no kernel", 2, Leak, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, l := newKernel(clamped, rest), New()
			l.Apply(k.mmap(1000, 1, 1, 1))
			aux := k.mmap(1000, 1, 1, 9)
			aux.Buffer.Area = rule.AUX
			l.Apply(aux)
			last := k.munmap(1000, 1, 1)
			last.Buffer.Area, last.Buffer.AUXMappings.Before = rule.AUX, 1
			last.Buffer.Recorded = [2]Recorded{rule.Data: {Pages: 1}, rule.AUX: {Pages: 9, Extra: 6}}
			last.User.After = last.User.Before - c.given
			if e := l.Apply(last); e.Kind != Refund || e.Verdict != c.verdict || e.Uncertain != c.doubtful {
				t.Errorf("got %v %v, uncertain %v; want %v, %v", e.Kind, e.Verdict, e.Uncertain, c.verdict, c.doubtful)
			}
		})
	}
}

// Two threads unmap one buffer at the same time, and both find it gone at their
// return. One refunded it, whichever is reported first.
func TestConcurrentUnmap(t *testing.T) {
	for name, entered := range map[string][2]int32{"both found two": {2, 2}, "the last first": {1, 2}, "the last last": {2, 1}} {
		t.Run(name, func(t *testing.T) {
			k, l := newKernel(clamped, rest), New()
			l.Apply(k.mmap(1000, 1, 1, 9))
			l.Apply(k.mmapAgain(1000, 1, 1, 0))
			end := k.munmap(1000, 1, 1)
			end.User.Shared, end.Process.Shared, end.Buffer.Shared = true, true, true
			for _, mappings := range entered {
				end.Buffer.Mappings.Before = mappings
				if e := l.Apply(end); e.Verdict != OK {
					t.Errorf("%v %v", e.Kind, e.Verdict)
				}
			}
			l.Apply(k.mmap(1000, 1, 2, 9)) // an undisturbed reading
			l.Apply(k.munmap(1000, 1, 2))
			s := l.Summary()
			if s.Kinds[Refund] != 2 || s.Kinds[Unmapping] != 1 || s.Users[0].Unexplained() != 0 || s.ForeignUser != 0 || s.ForeignPinned != 0 {
				t.Errorf("%d refunds, %d of several; want 2 and 1; %+v", s.Kinds[Refund], s.Kinds[Unmapping], s.Users)
			}
		})
	}
}

// A buffer that is older than the trace is known by its own record alone.
func TestOlderBuffer(t *testing.T) {
	k, l := newKernel(clamped, rest), New()
	k.mmap(1000, 1, 1, 9)
	if e := l.Apply(k.munmap(1000, 1, 1)); e.Kind != Refund || e.Verdict != OK || e.ChargedPinned != -5 || e.BufferID != 0 {
		t.Errorf("got %v %v, %d pages, buffer %d; want refund ok, -5, 0", e.Kind, e.Verdict, e.ChargedPinned, e.BufferID)
	}
}

// Addresses are used again: by another buffer, and by another process.
func TestReuse(t *testing.T) {
	k, l := newKernel(clamped, rest), New()
	for i := range uint64(3) {
		ev := k.mmap(1000, 1, 1, 9)
		ev.Caller.PID = 100 + uint32(i)
		e := l.Apply(ev)
		if e.BufferID != i+1 || e.ProcessID != i+1 || e.Verdict != OK {
			t.Errorf("round %d: buffer %d, process %d, %v", i, e.BufferID, e.ProcessID, e.Verdict)
		}
		ev = k.munmap(1000, 1, 1)
		ev.Caller.PID = 100 + uint32(i)
		l.Apply(ev)
	}
}

// Another call on the same counters makes the difference worthless, unless the
// buffer's own record proves it.
func TestOverlap(t *testing.T) {
	k, l := newKernel(clamped, rest), New()
	ev := k.mmap(1000, 1, 1, 9)
	ev.User.Shared, ev.User.After = true, ev.User.After+100
	if e := l.Apply(ev); e.Verdict != OK || !e.Uncertain {
		t.Errorf("overlap: %v, uncertain %v; want ok, uncertain", e.Verdict, e.Uncertain)
	}
	k, l = newKernel(cumulative, always), New()
	ev = k.mmap(1000, 1, 1, 9)
	l.Apply(ev)
	ev = k.mmap(1000, 1, 2, 9)
	ev.User.Shared, ev.Process.Shared = true, true
	if e := l.Apply(ev); e.Verdict != Overcharge || e.Uncertain {
		t.Errorf("cumulative under overlap: %v, uncertain %v; want overcharge, exact", e.Verdict, e.Uncertain)
	}
}

// A kernel that charges further mappings and never gives that back is found out
// when the first such buffer is gone, and known from then on.
func TestDoubleChargeStays(t *testing.T) {
	k, l := newKernel(clamped, rest), New()
	k.limit = 100
	again := func(buffer uint64, refunded int64) (mapped, unmapped, last Entry) {
		l.Apply(k.mmap(1000, 1, buffer, 9))
		mapped = l.Apply(k.mmapAgain(1000, 1, buffer, 9))
		unmapped = l.Apply(k.munmapOne(1000, 1, buffer, refunded))
		last = l.Apply(k.munmap(1000, 1, buffer))
		return mapped, unmapped, last
	}
	mapped, unmapped, last := again(1, 9)
	if mapped.Verdict != DoubleCharge || !mapped.Uncertain || unmapped.Verdict != OK || last.Verdict != OK {
		t.Errorf("comes back: %v (uncertain %v), %v, %v; want double-charge uncertain, ok, ok", mapped.Verdict, mapped.Uncertain, unmapped.Verdict, last.Verdict)
	}
	mapped, unmapped, last = again(2, 0)
	if !mapped.Uncertain || unmapped.Verdict != OK || last.Verdict != DoubleCharge || last.Excess != 9 || last.Uncertain {
		t.Errorf("stays: %v, %v, %v with %d; want uncertain, ok, double-charge 9", mapped.Verdict, unmapped.Verdict, last.Verdict, last.Excess)
	}
	if mapped, _, _ = again(3, 0); mapped.Verdict != DoubleCharge || mapped.Uncertain {
		t.Errorf("once known: %v, uncertain %v; want double-charge, exact", mapped.Verdict, mapped.Uncertain)
	}
}

// What stays charged twice ends with the user's last process: a counter that begins at nothing
// has nothing wrong in it, and what is refused then is refused rightly.
func TestDoubleChargeEndsWithTheUser(t *testing.T) {
	k, l := newKernel(clamped, rest), New()
	k.limit = 100
	l.Apply(k.mmap(1000, 1, 1, 9))
	l.Apply(k.mmapAgain(1000, 1, 1, 9))
	l.Apply(k.munmapOne(1000, 1, 1, 0))
	l.Apply(k.munmap(1000, 1, 1))
	k.userLocked[1000], k.limit, k.lockLimit = 0, 0, 8
	e := l.Apply(k.mmap(1000, 2, 2, 9))
	if e.Kind != Refusal || e.Verdict != OK || e.UserOver != 0 {
		t.Errorf("%v %v, %d too many in the counter; want refusal, ok, none", e.Kind, e.Verdict, e.UserOver)
	}
}

// The tracer's own buffers are accounted like all others, and counted apart.
func TestOwn(t *testing.T) {
	k, l := newKernel(clamped, rest), New()
	k.limit = 12
	own := k.mmap(0, 7, 1, 9)
	own.Caller.Self = true
	l.Apply(own)
	if e := l.Apply(k.mmap(0, 8, 2, 9)); e.Verdict != OK || e.Uncertain || e.ChargedUser != 3 {
		t.Errorf("%v, uncertain %v, %d to the user; want ok, exact, 3", e.Verdict, e.Uncertain, e.ChargedUser)
	}
	s := l.Summary()
	if s.Events != 1 || s.Own != 1 || s.Live != 1 || s.LiveUser != 3 || s.LivePinned != 6 || s.OwnUser != 9 || s.OwnPinned != 0 {
		t.Errorf("%+v", s)
	}
	if u := s.Users[0]; u.Live != 3 || u.Own != 9 || u.Self || u.Counter != 12 || u.Unexplained() != 0 {
		t.Errorf("the user: %+v", u)
	}
	own = k.munmap(0, 7, 1)
	own.Caller.Self = true
	l.Apply(own)
	if s := l.Summary(); s.Own != 2 || s.OwnUser != 0 || s.Events != 1 || s.Users[0].Unexplained() != 0 {
		t.Errorf("after the unmapping: %+v", s)
	}
}

// On a kernel with the cumulative bug the tracer's own buffers are overcharged as well: that is
// no finding of the trace, decides no accounting, and stays explained.
func TestOwnIsInNoTotal(t *testing.T) {
	k, l := newKernel(cumulative, always), New()
	k.limit = 12
	for i := range uint64(4) {
		own := k.mmap(0, 1, 1+i, 9)
		own.Caller.Self = true
		if e := l.Apply(own); i > 1 && e.Verdict != Overcharge {
			t.Fatalf("own buffer %d: %v", i, e.Verdict)
		}
	}
	s := l.Summary()
	if s.Overcharged != 0 || s.Broken() || s.Events != 0 || s.LiveUser != 0 || s.Scheme != rule.SchemeUnknown || s.OwnUser != 36 {
		t.Errorf("%+v", s)
	}
	if u := s.Users[0]; u.Own != 36 || u.Over != 0 || u.Live != 0 || u.Unexplained() != 0 {
		t.Errorf("the user: %+v", u)
	}
	theirs := l.Apply(k.mmap(0, 2, 50, 3))
	if s := l.Summary(); theirs.Verdict != Overcharge || s.Overcharged != theirs.Excess || theirs.UserOvercharge != theirs.Excess || s.Scheme != rule.SchemeCumulative {
		t.Errorf("a buffer of another process: %v, %d pages; summary %+v", theirs.Verdict, theirs.Excess, s)
	}
}

// Something that is not traced moves the user's counter while a buffer is charged its user's
// history: what is kept is what the buffer will give back, and no accounting is seen in it.
func TestOverchargeBesideForeign(t *testing.T) {
	l := New()
	ev := Event{Op: Map, PageSize: 4096, User: Reading{Owner: 5, Before: 1000, After: 355}, Process: Reading{Owner: 1, After: 549},
		Buffer: Buffer{Key: 1, Pages: 65, Extra: 549, Mappings: Count{Before: 0, After: 1}, Limits: Limits{Allowance: 516}}}
	e := l.Apply(ev)
	s := l.Summary()
	if e.Verdict != Overcharge || e.ChargedUser != 65 || s.LiveUser != 65 || s.Scheme != rule.SchemeUnknown || s.ForeignUser != -710 || s.Users[0].Unexplained() != 0 {
		t.Errorf("%v, %d to the user; %+v", e.Verdict, e.ChargedUser, s)
	}
}
