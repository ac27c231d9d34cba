package charging

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/accounting"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/ledger/object"
	"github.com/pinwatch/pinwatch/tracer/reason"
	"github.com/pinwatch/pinwatch/tracer/refusal"
	"github.com/pinwatch/pinwatch/tracer/remedy"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Refused is what is known of a call that failed: which of the kernel's own reasons the
// facts allow, and what helps.
type Refused struct {
	Errno   string
	Outcome reason.Outcome
	Reasons []reason.Reason // that the facts allow; of Outcome Unknown none, or those of several outcomes
	Facts   *reason.Facts
	Held    *ledger.Held // what the user's counter was held for; nil: not known
	// Unreleased is what the memory cgroup that refused was charged for what is closed.
	Unreleased []object.Closed
	// Remedies are of a limit; each was held against the rule.
	Remedies []remedy.Remedy

	futile string // why to lift the limit does not help; "": it does
	own    int64  // pages of Facts.Held that the call's own earlier parts were charged
	caller ledger.Caller
}

// OfRefusal explains a call that failed by what was seen of it. Of a call of which no
// table knows, nothing is said but that.
func OfRefusal(e *ledger.Entry) *Refused {
	r := &Refused{Errno: rule.ErrnoName(unix.Errno(e.Errno)), caller: e.Caller}
	call, known := callOf(e)
	if !known {
		return r
	}
	r.Facts = factsOf(e, call)
	if r.Facts.Counter == rule.UserLockedVM {
		r.Held = e.Held
	}
	if r.Facts.CgroupCurrent != nil {
		r.Unreleased = e.Unreleased
	}
	r.Reasons = reason.Match(r.Facts)
	for i, one := range r.Reasons {
		if i == 0 {
			r.Outcome = one.Outcome
		}
		if one.Outcome != r.Outcome {
			r.Outcome = reason.Unknown
		}
	}
	if e.Failed != nil && e.Failed.LastAsked > 0 {
		r.own = e.Failed.Asked - e.Failed.LastAsked
	}
	if r.futile = mapBeyond(e); r.futile == "" && r.Outcome == reason.Limit && (len(r.Reasons) == 1 || r.decided()) {
		r.Remedies = limitRemedies(e, r.Facts)
	}
	return r
}

// callOf is what failed.
func callOf(e *ledger.Entry) (call reason.Call, known bool) {
	function := ""
	if e.Failed != nil {
		function = e.Failed.Function
	}
	switch {
	case e.Op == ledger.Split:
		return reason.SplitBuffer, true
	case e.Object != nil:
		switch {
		case e.Op == ledger.Grow:
			return reason.UpdateMap, true
		case e.Object.Program:
			return reason.LoadProgram, true
		}
		return reason.CreateMap, true
	case e.Charger == ledger.NoCharger:
		if e.Buffer.Area == rule.AUX || e.Failed != nil && e.Failed.Mapping.Offset != 0 {
			return reason.MapAUX, true
		}
		return reason.MapData, true
	}
	switch function {
	case "io_uring_setup":
		return reason.SetupRing, true
	case "io_uring_register":
		buffers := e.Failed.Request == refusal.RegisterBuffers || e.Failed.Request == refusal.RegisterBuffers2 || e.Failed.Request == refusal.RegisterBuffersUpdate
		if !buffers && e.Failed.LastAsked > 0 {
			return reason.SetupRing, true // memory that it shares with a ring is charged as that of a new one
		}
		return reason.RegisterBuffers, buffers
	case "xdp_umem_create":
		return reason.RegisterUmem, true
	case "mm_account_pinned_pages":
		return reason.SendZeroCopy, true
	case "__io_account_mem":
		return reason.SendRing, true
	case refusal.VFIOMap:
		return reason.MapVFIO, true
	case refusal.RDMAGet:
		return reason.RegisterRDMA, true
	case refusal.IOMMUFDPin:
		return reason.MapIOMMUFD, true
	case refusal.VDPAMap:
		return reason.MapVDPA, true
	}
	return 0, false
}

// factsOf are the facts of an entry. What it does not have stays unseen.
func factsOf(e *ledger.Entry, call reason.Call) *reason.Facts {
	f := &reason.Facts{Call: call, Errno: unix.Errno(e.Errno), PageSize: uint64(e.PageSize), Limit: &e.Caller.LockLimit,
		CapIPCLock: &e.Caller.CapIPCLock, Disturbed: e.User.Shared}
	if e.Failed != nil && e.Failed.MachineBytes != 0 {
		f.Machine = &e.Failed.MachineBytes
	}
	switch {
	case e.Object != nil:
		objectFacts(f, e)
	case e.Charger != ledger.NoCharger:
		chargerFacts(f, e)
	default:
		mappingFacts(f, e)
	}
	return f
}

func mappingFacts(f *reason.Facts, e *ledger.Entry) {
	yes, paranoid := true, int64(e.Buffer.Limits.Paranoid)
	f.Reached, f.Pages, f.Paranoid = &yes, &e.Buffer.Pages, &paranoid
	f.Asked, f.Held = &e.Buffer.Extra, &e.Process.Before
	f.Disturbed = f.Disturbed || e.Process.Shared || e.Buffer.Limits.Moved
	if e.Failed == nil {
		return
	}
	m := &e.Failed.Mapping
	page, cpu, shared := int64(max(1024, e.PageSize)), int64(m.CPU), !m.Private
	if f.Call == reason.SplitBuffer {
		f.Split = &yes
		if m.SystemCall >= 0 {
			over := m.SystemCall == unix.SYS_MMAP
			f.Over = &over
		}
		return
	}
	f.Inherit, f.CPU, f.Shared, f.Revoked, f.AUXCapable = &m.Inherited, &cpu, &shared, &m.Revoked, &m.AUXCapable
	f.Existing, f.ExistingAUX = &e.Buffer.Recorded[rule.Data].Pages, &e.Buffer.Recorded[rule.AUX].Pages
	offset, at, want, size := m.Offset*page, m.AUXOffset*page, int64(m.WantOffset), int64(m.WantSize)
	f.Offset, f.ExistingAUXOffset, f.AUXOffset, f.AUXSize = &offset, &at, &want, &size
}

func chargerFacts(f *reason.Facts, e *ledger.Entry) {
	c := e.Failed
	if c == nil {
		return
	}
	f.Counter = chargerOf(e).Counter
	if f.Call == reason.MapIOMMUFD {
		f.Counter = counterOfIOMMUFD(e)
	}
	switch {
	case c.LastAsked > 0:
		f.Asked, f.Held = &c.LastAsked, &c.LastHeld
	case c.Asked > 0:
		f.Asked, f.Held = &c.Asked, heldIn(e, f.Counter)
	}
	if f.Counter != rule.UserLockedVM {
		f.Disturbed = e.Process.Shared
	}
	if f.Call == reason.RegisterBuffers && c.Accounting == refusal.Unseen && !f.Exceeds() {
		f.Asked = nil // the arguments do not tell of huge pages: it may have been more
	}
	if f.Call == reason.MapVFIO {
		vfioFacts(f, c)
	} else {
		accepted(f, c.Accounting)
	}
	ringMaker(f, e)
	if c.Accounting != refusal.Refused {
		f.CgroupRefused = answer(c.Memory)
		refusing(f, c.Limit)
	}
	switch f.Call {
	case reason.RegisterBuffers:
		n := int64(c.Count)
		f.Buffers = &n
	case reason.SetupRing:
		// Since there is the setting, no kernel wants a privilege for polling.
		polls := c.Request&rule.RingPolls != 0 && c.RingsFor == refusal.RingsUnseen
		f.Polls = &polls
		// That all may make rings may be so only since: it rules nothing out.
		if c.RingsFor > refusal.RingsForAll {
			disabled := int64(c.RingsFor - refusal.RingsForAll)
			f.RingDisabled = &disabled
		}
	}
}

// vfioFacts are those of a call that asks for pages, of which those that are a device's are
// compared with nothing. Refused is that pages were pinned last, which are compared next.
func vfioFacts(f *reason.Facts, c *refusal.Call) {
	switch refuses := f.Exceeds() && (f.CapIPCLock == nil || !*f.CapIPCLock); {
	case c.Accounting != refusal.Refused && c.Accounting != refusal.Unseen:
		accepted(f, c.Accounting)
	case refuses && c.Accounting == refusal.Refused && !f.Disturbed:
		f.Accepted = new(bool)
	case refuses:
		f.Asked = nil // it may have been less
	}
}

// ringMaker puts the capability of who made a ring in the place of that of who uses it: the
// ring's decides.
func ringMaker(f *reason.Facts, e *ledger.Entry) {
	c := e.Failed
	switch {
	case f.Call != reason.RegisterBuffers && f.Call != reason.SendRing:
	case c.Exempt:
		f.CapIPCLock = &c.Exempt
	case c.Charged, c.Accounting != refusal.Unseen && c.LastAsked > 0:
		f.CapIPCLock = new(bool) // it compares for those alone that are charged
	case e.Caller.CapIPCLock:
		f.CapIPCLock = nil // not seen
	}
}

// heldIn is what a counter held before a call; nil: it has none such.
func heldIn(e *ledger.Entry, c rule.Counter) *int64 {
	switch c {
	case rule.UserLockedVM:
		return &e.User.Before
	case rule.ProcessPinnedVM:
		return &e.Process.Before
	case rule.ProcessLockedVM:
		return &e.LockedVM.Before
	}
	return nil
}

// counterOfIOMMUFD is the counter that iommufd held against the limit, which is the user's
// unless it was told to take the process's (IOMMU_OPTION_RLIMIT_MODE, or as vfio's
// container). Which of them is not seen, but that it refused is: a sum within the limit is
// not the one. CgroupMemory: it is not known.
func counterOfIOMMUFD(e *ledger.Entry) rule.Counter {
	exceeds := func(c rule.Counter) bool {
		return rule.Charge{Asked: e.Failed.Asked, Held: *heldIn(e, c), Limit: e.Caller.LockLimit}.Refused()
	}
	switch user, process := exceeds(rule.UserLockedVM), exceeds(rule.ProcessLockedVM); {
	case user && !process:
		return rule.UserLockedVM
	case process && !user:
		return rule.ProcessLockedVM
	}
	return rule.CgroupMemory
}

// accepted tells what the comparison with the limit came to.
func accepted(f *reason.Facts, a refusal.Accounting) {
	if refused := answer(a); refused != nil {
		accepted := !*refused
		f.Accepted = &accepted
	}
}

// answer is whether something refused. What would have been seen and was not asked has
// refused nothing.
func answer(a refusal.Accounting) *bool {
	if a == refusal.Unseen {
		return nil
	}
	refused := a == refusal.Refused
	return &refused
}

// refusing is the memory cgroup that did.
func refusing(f *reason.Facts, m refusal.MemoryLimit) {
	if f.CgroupRefused == nil || !*f.CgroupRefused || m.CgroupID == 0 {
		return
	}
	f.Cgroup, f.CgroupCurrent = m.Cgroup, &m.UsageBytes
	_, f.CgroupV1 = cgroup.SplitV1(m.CgroupID)
	if m.WantedBytes > 0 {
		f.CgroupWanted = &m.WantedBytes
	}
	if m.LimitBytes >= 0 {
		f.CgroupLimit = &m.LimitBytes
	}
}

func objectFacts(f *reason.Facts, e *ledger.Entry) {
	o := e.Object
	f.ChargesRlimit = &o.Rlimit
	if !o.Program {
		f.Map = &rule.Map{Type: o.Type, KeySize: o.KeySize, ValueSize: o.ValueSize, MaxEntries: o.MaxEntries, Flags: o.Flags}
	}
	if e.Failed != nil {
		f.On.PossibleCPUs = int(e.Failed.PossibleCPUs)
		accepted(f, e.Failed.Accounting)
		if e.Failed.Verifier != refusal.Unseen {
			called, accepts := e.Failed.Verifier != refusal.NotReached, e.Failed.Verifier == refusal.Passed
			f.Verified, f.Accepts = &called, &accepts
		}
		if refused := answer(e.Failed.Allocation); refused != nil {
			allocated := !*refused
			f.Allocated = &allocated
		}
		if e.Failed.AttributesKnown {
			f.Later = new(bool)
		}
	}
	if o.Rlimit {
		f.Held = &e.User.Before
		if o.Pages > 0 {
			f.Asked = &o.Pages
		}
	}
	f.CgroupRefused = &o.Refused
	if !o.Watched && !o.Refused && !o.Rlimit { // what charges users charges no cgroup
		f.CgroupRefused = nil // not seen by this
		if e.Failed != nil {
			f.CgroupRefused = answer(e.Failed.Memory)
		}
	}
	refusing(f, refusal.MemoryLimit{CgroupID: o.LimitCgroupID, Cgroup: o.LimitCgroup, UsageBytes: o.UsageBytes, LimitBytes: o.LimitBytes})
}

// mapBeyond says what refuses a BPF map next that a limit refused, whatever the limits; "":
// nothing that is known of.
func mapBeyond(e *ledger.Entry) string {
	if e.Op != ledger.Create || e.Object == nil || e.Object.Program || e.Failed == nil {
		return ""
	}
	m, on := mapOf(e)
	machine := e.Failed.MachineBytes
	mem, known := m.Memory(on)
	if words := sizeWords(m, m.Size(on, machine), mem, machine); words != "" {
		return words
	}
	if known && machine > 0 && mem.Created > machine {
		return fmt.Sprintf("it has %s, and the machine has %s", remedy.Count(mem.Created, "byte"), remedy.Count(machine, "byte"))
	}
	return ""
}

// mapOf is the BPF map that was to be created, and what its size depends on.
func mapOf(e *ledger.Entry) (rule.Map, rule.MapMachine) {
	o := e.Object
	return rule.Map{Type: o.Type, KeySize: o.KeySize, ValueSize: o.ValueSize, MaxEntries: o.MaxEntries, Flags: o.Flags},
		rule.MapMachine{PageSize: uint64(max(1024, e.PageSize)), PossibleCPUs: int(e.Failed.PossibleCPUs)}
}

// limitRemedies are what helps against a limit.
func limitRemedies(e *ledger.Entry, f *reason.Facts) []remedy.Remedy {
	if f.CgroupRefused != nil && *f.CgroupRefused {
		return cgroupRemedies(e, f)
	}
	if f.Asked == nil || f.Held == nil || f.Disturbed {
		return nil
	}
	r := Request{Charger: chargerOf(e), PID: 0}
	if e.Charger != ledger.NoCharger {
		r.Charger.Counter = f.Counter
	}
	page := uint64(max(1024, e.PageSize))
	switch f.Call {
	case reason.SendZeroCopy, reason.SendRing:
		r.Smaller = SendRequest(1, uint32(page)).Smaller
	case reason.RegisterUmem:
		r.Smaller = UmemRequest(1, uint32(page)).Smaller
	case reason.RegisterBuffers:
		r.Smaller = BuffersRequest(1, uint32(page)).Smaller
	case reason.MapVFIO, reason.RegisterRDMA, reason.MapVDPA:
		r.Smaller = func(pages int64) string { return fmt.Sprintf("at most %s at once", remedy.Count(pages, "page")) }
	}
	c, given := wholeCharge(e, f)
	holders, apart := othersOf(e, c)
	list := chargeRemedies(c, r, holders, uint32(page))
	if e.Failed != nil && (f.Call == reason.SendRing || e.Failed.Function == "io_uring_register") {
		list = ofRing(list, e)
	}
	if released := c; e.Held != nil && len(e.Held.Closed) > 0 {
		released.Held -= object.Pages(e.Held.Closed)
		if c.Refused() && !released.Refused() {
			again := remedy.Wait(object.Pages(e.Held.Closed), "page")
			if given != "" {
				again.Change += " (" + given + ")"
				again.Brief += " (" + given + ")"
			}
			list = slices.Insert(list, 0, again)
		}
	}
	if !apart {
		list = slices.DeleteFunc(list, func(r remedy.Remedy) bool { return r.Name == remedy.Apart })
	}
	for i := range list {
		if sums := list[i].Name == remedy.Limit || list[i].Name == remedy.End; sums && given != "" {
			list[i].Change += ", " + given
			list[i].Brief += " " + given
		}
	}
	return list
}

// ofRing has the capability with who makes the ring, and with whom it is made anew.
func ofRing(list []remedy.Remedy, e *ledger.Entry) []remedy.Remedy {
	for i := range list {
		switch r := &list[i]; r.Name {
		case remedy.Capable:
			r.Brief += " when the ring is made"
			r.Change += ", when the ring is made: that of who registers buffers or sends counts for nothing"
		case remedy.Apart:
			if e.Payer() != e.Caller.UID {
				r.Change = "have another user make the ring: its maker is charged"
				r.Brief = "a ring of another uid"
			}
		}
	}
	return list
}

func chargerOf(e *ledger.Entry) rule.Charger {
	switch {
	case e.Object != nil:
		return charger("bpf-rlimit")
	default:
		for _, c := range rule.Chargers() {
			if c.Name == string(e.Charger) {
				return c
			}
		}
	}
	return rule.Charger{Name: string(e.Charger)}
}

func cgroupRemedies(e *ledger.Entry, f *reason.Facts) []remedy.Remedy {
	if f.CgroupLimit == nil || f.Cgroup == "" {
		return nil
	}
	wanted, list := f.CgroupWanted, []remedy.Remedy{}
	if o := e.Object; e.Op == ledger.Create && o != nil && !o.Program && e.Failed != nil {
		asked, on := mapOf(e)
		if mem, ok := asked.Memory(on); ok {
			const whole = 1 << 20 // and the kernel's own headers and page tables
			list = append(list, remedy.MemoryMax(o.LimitCgroup, f.CgroupV1, o.LimitBytes+(mem.Created/whole+1)*whole))
			wanted = &mem.Created
		}
	}
	if len(list) == 0 {
		_, file := cgroup.MemoryFiles(f.CgroupV1)
		change := fmt.Sprintf("a higher %s of %s", file, f.Cgroup)
		list = append(list, remedy.Remedy{Name: "memory.max", Change: change, Brief: change, Price: "the cgroup may take so much of the machine's memory"})
	}
	if closed := object.Bytes(e.Unreleased); closed > 0 && wanted != nil && *f.CgroupCurrent-closed+*wanted <= *f.CgroupLimit {
		list = slices.Insert(list, 0, remedy.Wait(closed, "byte"))
	}
	return list
}

// ByUser reports whether it was the user's counter that was held against the limit.
func (r *Refused) ByUser() bool { return r.ByMemlock() && r.Facts.Counter == rule.UserLockedVM }

// ByMemlock reports whether RLIMIT_MEMLOCK refused, and it is known what was held against
// it.
func (r *Refused) ByMemlock() bool {
	return r.Outcome == reason.Limit && (r.Facts.CgroupRefused == nil || !*r.Facts.CgroupRefused) && r.Facts.Held != nil
}

// Names are those of the reasons that are left.
func (r *Refused) Names() []string {
	names := []string{}
	for _, one := range r.Reasons {
		names = append(names, one.Name)
	}
	return names
}

// decided reports whether the sum exceeds RLIMIT_MEMLOCK where the comparison itself was
// not seen: a cgroup that refused before it would have been one limit more.
func (r *Refused) decided() bool {
	n := len(r.Reasons)
	return r.Outcome == reason.Limit && n == 2 && r.Facts.Accepted == nil && r.Reasons[n-1].Name == "limit" && r.Reasons[n-1].Holds(r.Facts) == reason.Yes
}

// Brief are the settings alone that help, as a row's note has them.
func (r *Refused) Brief() (list []string) {
	for _, one := range r.Remedies {
		if one.Brief != "" {
			list = append(list, one.Brief)
		}
	}
	return list
}

// Brief are the settings alone that let a refused call succeed: of a perf buffer too.
func Brief(e *ledger.Entry) []string {
	if e.Charger == ledger.NoCharger && e.Object == nil && e.Op == ledger.Map && unix.Errno(e.Errno) == unix.EPERM {
		return advice.OfEntry(e, accounting.Finding{}).Brief()
	}
	return OfRefusal(e).Brief()
}

// Over is by how many pages RLIMIT_MEMLOCK was exceeded, if that is what refused; else 0.
func (r *Refused) Over() int64 {
	if r.Outcome != reason.Limit || r.Facts.Disturbed || !r.Facts.Exceeds() {
		return 0
	}
	return rule.Charge{Asked: *r.Facts.Asked, Held: *r.Facts.Held, Limit: *r.Facts.Limit}.Over()
}

// Text says what is known, in words: the reason, or those that are left; what was ruled
// out; what helps.
func (r *Refused) Text() string {
	var b strings.Builder
	b.WriteString(r.Errno + ": ")
	switch len(r.Reasons) {
	case 0:
		b.WriteString("why is not known")
	case 1:
		b.WriteString(r.Reasons[0].Sentence(r.Facts))
	default:
		if r.decided() {
			b.WriteString(r.Reasons[len(r.Reasons)-1].Sentence(r.Facts))
			break
		}
		var all []string
		for i, one := range r.Reasons {
			all = append(all, fmt.Sprintf("(%d) %s", i+1, one.Sentence(r.Facts)))
		}
		b.WriteString("one of these, and which is not known: " + strings.Join(all, ", or "))
	}
	b.WriteString(r.holders() + r.limitOf())
	if len(r.Unreleased) > 0 {
		// Up to: of what is just being released, a part may have come back already.
		fmt.Fprintf(&b, ". Of the %s that it had, up to %s", remedy.Count(*r.Facts.CgroupCurrent, "byte"), ClosedText(r.Unreleased))
	}
	if r.decided() {
		fmt.Fprintf(&b, ". The comparison itself was not seen: the call may have ended before it, where %s", r.Reasons[0].When)
	}
	b.WriteString(r.ruledOut())
	if r.Outcome == reason.Limit && r.futile != "" {
		b.WriteString(". To lift the limit does not help: " + r.futile)
	}
	if brief := r.Brief(); len(brief) > 0 {
		b.WriteString(". Remedies: " + strings.Join(brief, ", or "))
	}
	return b.String() + "."
}

// holders says what the trace knows of who holds the counter.
func (r *Refused) holders() string {
	if r.Held == nil || !r.ByUser() || *r.Facts.Held <= 0 {
		return ""
	}
	h, held := r.Held, *r.Facts.Held
	older := held - h.Buffers - h.Others - r.own
	if older < 0 { // calls are under way that have moved the counter, or what is not traced did
		return fmt.Sprintf(". Who holds the %d is not known to the page", held)
	}
	var parts []string
	if len(h.Closed) > 0 {
		parts = append(parts, ClosedText(h.Closed))
	}
	if h.PIDPages > 0 {
		part := fmt.Sprintf("%d are perf buffers of process %d", h.PIDPages, h.PID)
		if h.PIDPages > *r.Facts.Limit {
			part += ", which perf's allowance lets it have beyond the limit"
		}
		parts = append(parts, part)
	}
	if h.MakerPages > 0 {
		parts = append(parts, fmt.Sprintf("%d are BPF objects that process %d made", h.MakerPages, h.Maker))
	}
	if more := h.Buffers - h.PIDPages - h.MakerPages - h.ClosedObjects; more > 0 {
		parts = append(parts, fmt.Sprintf("%d are further perf buffers or BPF objects", more))
	}
	if others := h.Others - h.ClosedOthers; others > 0 {
		parts = append(parts, fmt.Sprintf("%d are of io_uring, AF_XDP, iommufd, secret memory, or sends under way", others))
	}
	if r.own > 0 {
		parts = append(parts, fmt.Sprintf("%d are this call's own, of its earlier parts", r.own))
	}
	olderClosed := object.Pages(h.Closed) - h.ClosedObjects - h.ClosedOthers
	if older -= olderClosed; older > 0 {
		parts = append(parts, fmt.Sprintf("%d were held before the trace began, or by what it does not watch", older))
	}
	late := ""
	if len(h.Closed) == 0 && (h.Others > 0 || h.MakerPages > 0) {
		late = "; what was closed a moment ago still counts: workers give rings and BPF maps back"
	}
	return fmt.Sprintf(". Of the %d held, %s%s", held, strings.Join(parts, ", "), late)
}

// limitOf says of whom the limit is that refused.
func (r *Refused) limitOf() string {
	if !r.ByMemlock() {
		return ""
	}
	text := ""
	for _, sentence := range whoseLimit(r.caller) {
		text += ". " + sentence
	}
	return text
}

// whoseLimit says of whom a limit is, as far as was seen: a process that has another one than
// its parent has it by itself, or by what started it.
func whoseLimit(c ledger.Caller) (sentences []string) {
	pages := func(n int64) string {
		if n >= rule.Unlimited {
			return "unlimited"
		}
		return remedy.Count(n, "page")
	}
	if c.ParentLimit > c.LockLimit {
		sentences = append(sentences, fmt.Sprintf("The limit is the process's own: that of its parent is %s, and was lowered for this process, by itself or by what started it", pages(c.ParentLimit)))
	}
	if c.HardLimit > c.LockLimit {
		sentences = append(sentences, fmt.Sprintf("Its hard limit is %s: up to that it may raise the limit by itself (setrlimit)", pages(c.HardLimit)))
	}
	return sentences
}

// MappingNotes are sentences of what else is known of a perf buffer that RLIMIT_MEMLOCK
// refused: what of the user's counter was closed before, and whose the limit is.
func MappingNotes(e *ledger.Entry) []string {
	sentences := []string{}
	if h := e.Held; h != nil && len(h.Closed) > 0 {
		sentences = append(sentences, fmt.Sprintf("Of the %s that its counter holds, %s", remedy.Count(e.User.Before, "page"), ClosedText(h.Closed)))
	}
	return append(sentences, whoseLimit(e.Caller)...)
}

// ruledOut says that a limit was not exceeded, and by how much, where that was seen and
// where nothing else is said of limits.
func (r *Refused) ruledOut() string {
	f := r.Facts
	if f == nil || r.ByMemlock() || r.Outcome == reason.OtherRule && len(r.Reasons) == 1 {
		return ""
	}
	var out []string
	switch {
	case f.CapIPCLock != nil && *f.CapIPCLock && waivable(f.Call):
		out = append(out, "RLIMIT_MEMLOCK did not refuse: "+r.lifted())
	case f.Accepted != nil && *f.Accepted:
		out = append(out, "RLIMIT_MEMLOCK did not refuse: the kernel's comparison was seen not to")
	case f.Asked != nil && f.Held != nil && !f.Disturbed:
		c := rule.Charge{Asked: *f.Asked, Held: *f.Held, Limit: *f.Limit}
		if c.Limit >= rule.Unlimited {
			out = append(out, "RLIMIT_MEMLOCK did not refuse: there is none")
		} else if !c.Refused() {
			out = append(out, fmt.Sprintf("RLIMIT_MEMLOCK did not refuse: %d + %d = %s of %d", c.Held, c.Asked, remedy.Count(c.Sum(), "page"), c.Limit))
		}
	}
	if f.CgroupRefused != nil && !*f.CgroupRefused {
		out = append(out, "no memory cgroup refused")
	}
	if len(out) == 0 {
		return ""
	}
	text := strings.Join(out, "; ")
	return ". " + strings.ToUpper(text[:1]) + text[1:]
}

// lifted says whose CAP_IPC_LOCK lifts the limit.
func (r *Refused) lifted() string {
	if r.Facts.Call == reason.RegisterBuffers || r.Facts.Call == reason.SendRing {
		return "the io_uring was made with CAP_IPC_LOCK"
	}
	return "the caller has CAP_IPC_LOCK"
}

// waivable reports whether CAP_IPC_LOCK lifts the limit of a call.
func waivable(c reason.Call) bool {
	switch c {
	case reason.CreateMap, reason.LoadProgram, reason.UpdateMap, reason.TouchSecret, reason.MapVDPA, reason.SplitBuffer:
		return false
	}
	return true
}
