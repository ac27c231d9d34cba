package output

import (
	"fmt"
	"io"
	"strings"

	"github.com/olekukonko/tablewriter/tw"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/advice"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// RequestAdvice writes the answer to a request, as text or as one JSON object.
func RequestAdvice(w io.Writer, x *charging.Answer, asJSON bool) error {
	return writeAdvice(w, x, asJSON, requestText(x))
}

func requestText(x *charging.Answer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, by %s\n\n%s\n", x.Request, adviceWho(&x.Subject), requestVerdict(x))
	switch by := x.Verdict.By; {
	case by == charging.BySize || by == charging.ByMachine:
	case x.Bytes != 0:
		requestCgroups(&b, x)
	case x.Asked != 0:
		requestSum(&b, x)
		requestHolders(&b, x, "")
	}
	adviceRemedies(&b, x.Remedies)
	adviceUnknown(&b, x.Unknown)
	return b.String()
}

func requestVerdict(x *charging.Answer) string {
	v := &x.Verdict
	refused := "REFUSED with " + v.Errno
	if !v.Certain {
		refused = "NOT KNOWN: by what can be seen from here refused with " + v.Errno
	}
	switch {
	case v.Allowed && !v.Certain:
		return "NOT KNOWN: allowed by what can be seen from here: " + requestFits(x.Fits)
	case v.Allowed && v.Exempt && x.Over > 0:
		return fmt.Sprintf("ALLOWED: %s past RLIMIT_MEMLOCK, which CAP_IPC_LOCK lifts. %s", format.Pages(x.Over, x.Page), requestFits(x.Fits))
	case v.Allowed:
		return "ALLOWED: " + requestFits(x.Fits)
	case v.By == charging.ByMemlock && x.Held < 0 && x.Over <= 0:
		return fmt.Sprintf("%s: the user's counter is negative (%s), which the kernel takes for more than any limit.", refused, format.Count(x.Held, "page"))
	case v.By == charging.ByMemlock:
		return fmt.Sprintf("%s: RLIMIT_MEMLOCK is exceeded by %s. %s", refused, format.Pages(x.Over, x.Page), requestFits(x.Fits))
	}
	return fmt.Sprintf("%s: %s.", refused, format.Printable(v.Why))
}

func requestFits(n int64) string {
	switch n {
	case rule.NoLimit:
		return "No limit holds: any number of such requests fits."
	case 0:
		return "No such request fits."
	case 1:
		return "1 such request fits."
	}
	return fmt.Sprintf("%d such requests fit, one after the other.", n)
}

// requestSum is the rule with the numbers filled in.
func requestSum(b *strings.Builder, x *charging.Answer) {
	fmt.Fprintf(b, "\nThe rule of %s(), in pages of %s:\n", x.Function, format.Bytes(int64(x.Page)))
	line := func(name, value, how string) { fmt.Fprintf(b, "  %-10s = %8s   %s\n", name, value, how) }
	estimated := ""
	if x.Estimated {
		estimated = " (estimated)"
	}
	line("asked", fmt.Sprint(x.Asked), "pages of the request")
	line("held", fmt.Sprint(x.Held), fmt.Sprintf("%s, uid %d%s", x.Counter, x.Subject.UID, estimated))
	if x.Limit >= rule.Unlimited {
		line("lock_limit", "none", "RLIMIT_MEMLOCK")
	} else {
		line("lock_limit", fmt.Sprint(x.Limit), "RLIMIT_MEMLOCK "+format.Bytes(x.Limit*int64(x.Page)))
	}
	fmt.Fprintf(b, "  %s when asked + held > lock_limit%s\n", x.Errno, waiver(x))
}

func waiver(x *charging.Answer) string {
	switch {
	case !x.Waived:
		return "; no capability lifts it"
	case x.Verdict.Exempt:
		return ", and no CAP_IPC_LOCK (here: CAP_IPC_LOCK)"
	}
	return ", and no CAP_IPC_LOCK (here: none)"
}

func requestHolders(b *strings.Builder, x *charging.Answer, when string) {
	if x.Held == 0 {
		return
	}
	if when != "" {
		when = " (" + when + ")"
	}
	fmt.Fprintf(b, "\nWho holds the %s of locked_vm of uid %d%s:\n", format.Count(x.Held, "page"), x.Subject.UID, when)
	perf := false
	if len(x.Holders) > 0 {
		var t strings.Builder
		table := format.Table(&t, 2, []tw.Align{tw.AlignRight, tw.AlignLeft, tw.AlignRight, tw.AlignLeft}, "PID", "COMM", "PAGES", "WITH")
		for _, h := range x.Holders[:min(len(x.Holders), mostHolders)] {
			perf = perf || h.What == charging.HolderPerf
			table.Append(fmt.Sprint(h.PID), format.Printable(h.Comm), fmt.Sprint(h.Pages), h.What)
		}
		table.Render() // into memory: it cannot fail
		b.WriteString(indent(t.String(), "  "))
		if more := len(x.Holders) - mostHolders; more > 0 {
			fmt.Fprintf(b, "  and %d more\n", more)
		}
	}
	if perf {
		b.WriteString("  Perf buffers within perf's own allowance (perf_event_mlock_kb) are charged to this counter, and not held against RLIMIT_MEMLOCK: they may exceed it.\n")
	}
	switch {
	case x.Unowned > 0 && x.Source == advice.SourceRecording:
		fmt.Fprintf(b, "  %s: the recording has no holder: it is older, or is not traced, or a leak.\n", format.Pages(x.Unowned, x.Page))
	case x.Unowned > 0:
		fmt.Fprintf(b, "  %s: no holder was found: AF_XDP, iommufd, sends under way, BPF objects before Linux 5.11, a process that is not visible from here, or a leak.\n", format.Pages(x.Unowned, x.Page))
	}
}

func requestCgroups(b *strings.Builder, x *charging.Answer) {
	fmt.Fprintf(b, "\nCharged to the memory cgroup, in bytes, about %d:\n", x.Bytes)
	if len(x.Cgroups) == 0 {
		b.WriteString("  no memory cgroup has a limit here\n")
	}
	for _, g := range x.Cgroups {
		usage, file := cgroup.MemoryFiles(g.V1)
		limit := "no limit"
		if g.Max >= 0 {
			limit = fmt.Sprintf("%s %d: room for %d", file, g.Max, max(0, g.Max-g.Current))
		}
		fmt.Fprintf(b, "  %s: %s %d, %s\n", format.Printable(g.Path), usage, g.Current, limit)
	}
	b.WriteString("  RLIMIT_MEMLOCK has no part in it.\n")
}
