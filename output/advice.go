package output

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/olekukonko/tablewriter/tw"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/remedy"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Advice writes an explanation, as text or as one JSON object.
func Advice(w io.Writer, x *advice.Explanation, asJSON bool) error {
	return writeAdvice(w, x, asJSON, AdviceText(x))
}

func writeAdvice(w io.Writer, x any, asJSON bool, text string) error {
	if asJSON {
		return format.WriteJSON(w, x)
	}
	_, err := io.WriteString(w, text)
	return err
}

// AdviceText is an explanation in words.
func AdviceText(x *advice.Explanation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n%s\n", adviceTitle(x), adviceVerdict(x))
	for _, sentence := range x.Notes {
		fmt.Fprintf(&b, "%s.\n", sentence)
	}
	if x.Verdict.Limit != advice.LimitGeometry && x.Verdict.Limit != advice.LimitOther {
		adviceRule(&b, x)
	}
	adviceAccounting(&b, x)
	adviceHolders(&b, x)
	if others := remediesFor(x); others != "" && len(x.Remedies) > 0 {
		fmt.Fprintf(&b, "\nThe event is bound to a CPU: the remedies are%s.\n", strings.TrimPrefix(others, ","))
	}
	adviceRemedies(&b, x.Remedies)
	adviceChecks(&b, x)
	adviceUnknown(&b, x.Unknown)
	return b.String()
}

func adviceUnknown(b *strings.Builder, unknown []string) {
	for i, what := range unknown {
		if i == 0 {
			b.WriteString("\nNot known, or less exact:\n")
		}
		fmt.Fprintf(b, "  %s\n", format.Printable(what))
	}
}

func adviceTitle(x *advice.Explanation) string {
	kind := "buffer"
	if x.Area == "aux" {
		kind = "AUX area"
	}
	if x.Buffers > 1 {
		kind += "s"
	}
	what := fmt.Sprintf("%d %s of %s", x.Buffers, kind, format.Pages(x.Pages, x.Numbers.PageBytes))
	return what + ", mapped by " + adviceWho(&x.Subject)
}

func adviceWho(s *advice.Subject) string {
	uid := fmt.Sprintf("uid %d", s.UID)
	if s.OutsideUID >= 0 {
		uid += fmt.Sprintf(" (%d outside of this user namespace)", s.OutsideUID)
	}
	who := "a new process of " + uid
	if s.PID != 0 {
		who = fmt.Sprintf("process %d (%s) of %s", s.PID, format.Printable(s.Comm), uid)
	}
	if names := s.Names.String(); names != "" {
		who += ", container " + format.Printable(names)
	} else if s.Container != "" {
		who += ", container " + format.Printable(s.Container)
	} else if s.Cgroup != "" && s.Cgroup != "/" {
		who += ", cgroup " + format.Printable(s.Cgroup)
	}
	return who
}

func adviceVerdict(x *advice.Explanation) string {
	v := &x.Verdict
	done := ""
	if x.Buffers > 1 && !v.Allowed {
		done = fmt.Sprintf(" after %d of %d buffers", v.Mapped, x.Buffers)
	}
	switch {
	case v.Allowed && !v.Certain:
		return fmt.Sprintf("NOT KNOWN: allowed by what can be seen from here: %s But what could not be seen (below) uses the same allowance: if it uses all of it, %s", adviceFits(x.Fits), lower(adviceFits(x.AtLeast)))
	case v.Allowed && v.Exempt != "":
		return fmt.Sprintf("ALLOWED: %s past RLIMIT_MEMLOCK, which %s lifts. %s", format.Pages(v.Over, x.Numbers.PageBytes), v.Exempt, adviceFits(x.Fits))
	case v.Allowed:
		return "ALLOWED: " + adviceFits(x.Fits)
	case v.Limit == advice.LimitMemlock:
		return fmt.Sprintf("REFUSED with EPERM%s: RLIMIT_MEMLOCK is exceeded by %s. %s%s", done, format.Pages(v.Over, x.Numbers.PageBytes), adviceFits(x.Fits), adviceFault(x)+beyondMachine(x))
	case v.Limit == advice.LimitNegative:
		return fmt.Sprintf("REFUSED with EPERM%s: pinned_vm of the process is negative (%s), which the kernel takes for more than any limit: this kernel refunded to this process what another one had paid.", done, format.Count(x.Numbers.PinnedVM, "page"))
	case v.Limit == advice.LimitLargest && v.Errno == "EPERM":
		return fmt.Sprintf("REFUSED with EPERM: RLIMIT_MEMLOCK is exceeded by %s. To lift the limit does not help: no kernel with pages of %s takes a buffer of so many: %s.", format.Pages(v.Over, x.Numbers.PageBytes), format.Bytes(int64(x.Numbers.PageBytes)), format.Pages(x.Pages, x.Numbers.PageBytes))
	case v.Limit == advice.LimitLargest:
		return fmt.Sprintf("REFUSED with %s: no kernel with pages of %s takes a buffer of so many: %s. No limit has a part in that, and to lift one does not help.", v.Errno, format.Bytes(int64(x.Numbers.PageBytes)), format.Pages(x.Pages, x.Numbers.PageBytes))
	case v.Limit == advice.LimitMachine:
		return fmt.Sprintf("REFUSED with %s, whatever the limits:%s %s", v.Errno, beyondMachine(x), adviceFits(x.Fits))
	case v.Limit == advice.LimitAUX:
		return fmt.Sprintf("REFUSED with %s: RLIMIT_MEMLOCK is exceeded by %s. To lift the limit does not help: the event's PMU has no AUX areas.", v.Errno, format.Pages(v.Over, x.Numbers.PageBytes))
	case v.Limit == advice.LimitGeometry:
		return fmt.Sprintf("REFUSED with EINVAL: %d pages are no size of a perf buffer, and no limit has a part in it. Data pages are a power of two, plus one control page, mapped shared and from offset 0; an AUX area is a power of two of pages, behind them; a buffer that exists can be mapped again in its own size only.", x.Pages)
	}
	return fmt.Sprintf("REFUSED with %s: not by the limits of locked memory, which would allow it. Look at what else can refuse.", v.Errno)
}

// beyondMachine says that the machine has not the memory for all that is wanted.
func beyondMachine(x *advice.Explanation) string {
	if !x.BeyondMachine {
		return ""
	}
	page := int64(x.Numbers.PageBytes)
	return fmt.Sprintf(" The machine has no memory for %s: %s, and it has %s.", format.Count(x.Wanted, "such buffer"), format.Bytes(x.Wanted*x.Pages*page), format.Bytes(x.Machine))
}

func adviceFault(x *advice.Explanation) string {
	if !x.KernelFault {
		return ""
	}
	return " This kernel is at fault: the intended rule allows it."
}

func adviceFits(n int64) string {
	switch n {
	case -1:
		return "No limit holds: any number of such buffers fits."
	case 0:
		return "No such buffer fits."
	case 1:
		return "1 such buffer fits."
	}
	return fmt.Sprintf("%d such buffers fit.", n)
}

// adviceRule is the rule of perf_mmap() with the numbers filled in.
func adviceRule(b *strings.Builder, x *advice.Explanation) {
	n := &x.Numbers
	which := "for this mapping"
	if x.Buffers > 1 {
		which = fmt.Sprintf("for buffer %d of %d", min(x.Verdict.Mapped+1, x.Buffers), x.Buffers)
	}
	fmt.Fprintf(b, "\nThe rule of perf_mmap() %s, in pages of %s:\n", which, format.Bytes(int64(n.PageBytes)))
	line := func(name string, value int64, how string) {
		fmt.Fprintf(b, "  %-15s = %8d   %s\n", name, value, how)
	}
	perCPU := int64(n.MlockKiB) * 1024 / int64(max(1, n.PageBytes))
	if n.UserLockLimit < 0 {
		fmt.Fprintf(b, "  %-15s = %8s   perf_event_mlock_kb %d: the kernel takes it for more than there is\n", "user_lock_limit", "none", n.MlockKiB)
	} else {
		line("user_lock_limit", n.UserLockLimit, fmt.Sprintf("perf_event_mlock_kb %d KiB = %d × %d CPUs online", n.MlockKiB, perCPU, n.OnlineCPUs))
	}
	estimated := ""
	if n.Estimated {
		estimated = " (estimated)"
	}
	beforeUser, beforePinned := "", ""
	if n.BeforeUser != 0 || n.BeforePinned != 0 {
		beforeUser = fmt.Sprintf(" + %d of the buffers before it", n.BeforeUser)
		beforePinned = fmt.Sprintf(" + %d of the buffers before it", n.BeforePinned)
	}
	line("user_locked", n.UserLocked+x.Pages, fmt.Sprintf("%d charged to uid %d%s%s + %d of this mapping", n.UserLocked-n.BeforeUser, x.Subject.UID, estimated, beforeUser, x.Pages))
	part := "the part of it beyond user_lock_limit, for the process"
	if n.Extra > x.Pages {
		part = "all of user_locked beyond user_lock_limit, for the process: the user's history, by this kernel's bug"
	}
	line("extra", n.Extra, part)
	line("locked", n.Locked, fmt.Sprintf("pinned_vm %d of the process%s + extra", n.PinnedVM-n.BeforePinned, beforePinned))
	if n.LockLimit >= rule.Unlimited {
		fmt.Fprintf(b, "  %-15s = %8s   RLIMIT_MEMLOCK\n", "lock_limit", "none")
	} else {
		line("lock_limit", n.LockLimit, fmt.Sprintf("RLIMIT_MEMLOCK %s", format.Bytes(n.LockLimit*int64(n.PageBytes))))
	}
	capability := "no CAP_IPC_LOCK"
	if n.CapIPCLock {
		capability = "CAP_IPC_LOCK"
	}
	fmt.Fprintf(b, "  EPERM when locked > lock_limit, perf_event_paranoid > -1 (it is %d), and no CAP_IPC_LOCK (here: %s)\n", n.Paranoid, capability)
}

// lower begins a sentence as the end of one.
func lower(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// adviceAccounting says by which rule this kernel goes, what says so, and what the
// intended one would give.
func adviceAccounting(b *strings.Builder, x *advice.Explanation) {
	a := &x.Accounting
	if a.Scheme == "" {
		return
	}
	said := format.Printable(a.Basis)
	if a.Seen {
		said = fmt.Sprintf("%s (%s); %s", a.Scheme, a.Meaning, said)
	}
	fmt.Fprintf(b, "\nThe accounting of this kernel: %s.\n", said)
	if a.FurtherMappings {
		b.WriteString("  A further mapping of a buffer charges its user again, and that is not given back: this kernel's bug.\n")
	}
	if a.Bug == "" || x.Verdict.Limit == advice.LimitMachine || x.Verdict.Limit == advice.LimitGeometry || x.Verdict.Limit == advice.LimitOther {
		return
	}
	n := &x.Intended
	verdict := "ALLOWED"
	if !n.Allowed {
		verdict = "REFUSED with " + n.Errno
		if x.Buffers > 1 {
			verdict += fmt.Sprintf(" after %d of %d buffers", n.Mapped, x.Buffers)
		}
	}
	fmt.Fprintf(b, "  By the intended rule (split): %s: extra %d, locked %d. %s\n", verdict, n.Extra, n.Locked, adviceFits(n.Fits))
	if x.KernelFault || n.Fits != x.Fits || n.Extra != x.Numbers.Extra {
		fmt.Fprintf(b, "  The difference is this kernel's bug: %s. Fixed %s.\n", a.Bug, a.Fixed)
	} else {
		fmt.Fprintf(b, "  This kernel's bug makes no difference here: %s. Fixed %s.\n", a.Bug, a.Fixed)
	}
	if t := &x.Tenfold; !x.Verdict.Allowed && t.Fits >= 0 && t.Fits < t.Intended {
		fmt.Fprintf(b, "  A limit ten times as large, %s, lets %d through here, and by the intended rule %d: each call costs the user's history.\n",
			format.Pages(t.LockLimit, x.Numbers.PageBytes), t.Fits, t.Intended)
	}
}

// mostHolders is how many are listed in text.
const mostHolders = 10

func adviceHolders(b *strings.Builder, x *advice.Explanation) {
	h := &x.Held
	when, asSeen, verb := "", "", "are"
	switch {
	case h.After:
		when = " now, shortly after"
	case h.Recorded:
		when, verb = " at that time", "were"
	}
	if h.Estimated {
		asSeen = " as far as can be seen"
	}
	share := fmt.Sprintf("%d of %d pages %s used%s (%.1f %%)", h.UserLocked, x.Numbers.UserLockLimit, verb, asSeen, h.Share)
	if x.Numbers.UserLockLimit < 0 {
		share = fmt.Sprintf("it has no end, and %s used%s", isOrAre(h.UserLocked), asSeen)
	}
	fmt.Fprintf(b, "\nThe allowance of uid %d%s: %s", x.Subject.UID, when, share)
	if len(x.Holders) == 0 {
		b.WriteString(".\n")
	} else {
		fmt.Fprintf(b, ", %d of them for buffers of:\n", h.Buffers)
		b.WriteString(holderTable(x.Holders))
	}
	switch {
	case h.UserLocked < 0:
		b.WriteString("  The counter is negative: the kernel has given back more than it charged, and takes the allowance for used up.\n")
	case h.Unowned > 0 && h.Recorded:
		others := ""
		if h.Others {
			others = "others that it names above, "
		}
		fmt.Fprintf(b, "  %s were charged and the recording has no buffer for them: %swhat is older than the recording or is not traced, or a leak.\n", format.Pages(h.Unowned, x.Numbers.PageBytes), others)
	case h.Unowned > 0 && h.Split:
		fmt.Fprintf(b, "  %s are charged and no buffer was found for them: buffers of a process that is not visible from here, or a leak.\n", format.Pages(h.Unowned, x.Numbers.PageBytes))
	case h.Unowned > 0:
		fmt.Fprintf(b, "  %s are charged and no buffer was found for them: io_uring (registered by this user: %d pages), AF_XDP, MSG_ZEROCOPY, BPF objects before Linux 5.11, buffers of a process that is not visible from here, or a leak.\n",
			format.Pages(h.Unowned, x.Numbers.PageBytes), h.IOUring)
	}
	if h.Split {
		fmt.Fprintf(b, "  locked_vm, a counter apart from perf's on this kernel: %s.\n", format.Count(h.LockedVM, "page"))
	}
}

// isOrAre is a number of pages with its verb.
func isOrAre(pages int64) string {
	if pages == 1 {
		return "1 page is"
	}
	return fmt.Sprintf("%d pages are", pages)
}

func holderTable(holders []advice.Holder) string {
	var b strings.Builder
	left, right := tw.AlignLeft, tw.AlignRight
	table := format.Table(&b, 2, []tw.Align{right, left, right, right, right, right, right, left},
		"PID", "COMM", "UID", "BUFFERS", "PAGES", "OF_USER", "SHARE", "CGROUP")
	for _, h := range holders[:min(len(holders), mostHolders)] {
		where := cmp.Or(h.Names.String(), h.Container, h.Cgroup)
		table.Append(fmt.Sprint(h.PID), format.Printable(h.Comm), fmt.Sprint(h.UID), fmt.Sprint(h.Buffers), fmt.Sprint(h.Pages),
			fmt.Sprint(h.UserPart), fmt.Sprintf("%.1f %%", h.Share), format.Printable(where))
	}
	table.Render() // into memory: it cannot fail
	text := indent(b.String(), "  ")
	b.Reset()
	b.WriteString(text)
	if more := len(holders) - mostHolders; more > 0 {
		fmt.Fprintf(&b, "  and %d more\n", more)
	}
	return b.String()
}

// indent moves lines to the right, and takes the blanks at their ends away.
func indent(text, by string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(by + strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}

func adviceRemedies(b *strings.Builder, remedies []remedy.Remedy) {
	for i, r := range remedies {
		if i == 0 {
			b.WriteString("\nWhat would help, the smallest change first:\n")
		}
		fmt.Fprintf(b, "  %d. %s\n", i+1, r.Change)
		for _, s := range []struct{ where, setting string }{
			{"price", r.Price}, {"shell", r.Shell}, {"systemd", r.Systemd}, {"Docker", r.Docker}, {"Kubernetes", r.Kubernetes},
		} {
			if s.setting != "" {
				fmt.Fprintf(b, "     %-12s%s\n", s.where+":", s.setting)
			}
		}
	}
}

func adviceChecks(b *strings.Builder, x *advice.Explanation) {
	for i, c := range x.Checks {
		if i == 0 {
			b.WriteString("\nWhat else refuses, and by which error:\n")
		}
		fmt.Fprintf(b, "  %s (%s): %s: %s", c.Name, c.Errno, c.State, c.Detail)
		if c.Remedy != "" {
			fmt.Fprintf(b, ". Remedy: %s", c.Remedy)
		}
		b.WriteString("\n")
	}
}
