package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/reproducer"
)

// WriteMail writes what came of one scenario or program as a mailing list takes it, with
// what reproduces it.
func WriteMail(w io.Writer, s *reproducer.Source, r *check.Report) error {
	var b strings.Builder
	r = printable(r)
	names := KernelNames(r)
	writeSubject(&b, s, r)
	b.WriteString("Kernels\n\n")
	for i := range r.Kernels {
		fmt.Fprintf(&b, "  %s: %s\n", names[i], mailOutcome(&r.Kernels[i], s.Name))
	}
	b.WriteString("\nExpected\n\n")
	for _, line := range reproducer.Wrapped(reproducer.Expected) {
		b.WriteString("  " + line + "\n")
	}
	writeSeen(&b, s, r, names)
	writeSince(&b, s, r, names)
	fmt.Fprintf(&b, "\n%s.c, which does it without pinwatch\n\n", s.Name)
	if err := s.Write(&b, reproducer.C); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeSubject names what is broken, of all kernels.
func writeSubject(b *strings.Builder, s *reproducer.Source, r *check.Report) {
	var broken []string
	for i := range r.Kernels {
		if sc := find(&r.Kernels[i], s.Name); sc != nil && sc.Result == check.Fail {
			for _, verdict := range sc.Verdicts {
				if !slices.Contains(broken, verdict) {
					broken = append(broken, verdict)
				}
			}
		}
	}
	what := "locked memory is accounted right"
	switch {
	case len(broken) > 0:
		what = strings.Join(broken, ", ")
	case !ran(r, s.Name):
		what = "not known, nothing ran"
	}
	fmt.Fprintf(b, "Subject: perf mmap accounting: %s (%s)\n\n", what, s.Name)
	if s.About != "" {
		b.WriteString(strings.Join(reproducer.Wrapped(s.Name+": "+s.About+"."), "\n") + "\n\n")
	}
}

// ran reports whether a scenario passed or failed anywhere.
func ran(r *check.Report, name string) bool {
	for i := range r.Kernels {
		if sc := find(&r.Kernels[i], name); sc != nil && sc.Result != check.Skip {
			return true
		}
	}
	return false
}

// mailOutcome is how a kernel fared.
func mailOutcome(k *check.Kernel, name string) string {
	sc := find(k, name)
	switch {
	case k.Error != "":
		return "could not be checked: " + format.Printable(k.Error)
	case sc == nil:
		return "did not run"
	case sc.Result == check.Fail:
		return strings.Join(sc.Verdicts, ", ")
	case sc.Result == check.Skip:
		return "skipped: " + format.Printable(sc.Reason)
	}
	return "right"
}

// writeSeen says what witnesses saw where it failed: once for all kernels that saw the same.
func writeSeen(b *strings.Builder, s *reproducer.Source, r *check.Report, names []string) {
	var seen, hurt, calls grouped
	for i := range r.Kernels {
		sc := find(&r.Kernels[i], s.Name)
		if sc == nil || sc.Result != check.Fail {
			continue
		}
		e := &sc.Evidence
		var lines []string
		for j := range e.Broken {
			lines = append(lines, "    "+format.Printable(e.Broken[j].String()))
		}
		for j := range e.Tracer.Broken {
			lines = append(lines, "    tracer: "+e.Tracer.Broken[j].String())
		}
		seen.add(strings.Join(lines, "\n"), names[i])
		hurt.add(e.Hurts, names[i])
		calls.add(strings.Join(e.Reproduce[:min(1, len(e.Reproduce))], ""), names[i])
	}
	if len(seen.keys) == 0 {
		return
	}
	b.WriteString("\nCalls\n\n")
	for _, call := range strings.Split(calls.keys[0], "; ") {
		b.WriteString("  " + format.Printable(call) + "\n")
	}
	b.WriteString("\nSeen\n\n")
	for _, what := range seen.keys {
		fmt.Fprintf(b, "  %s:\n%s\n", strings.Join(seen.values[what], ", "), what)
	}
	b.WriteString("\nWho is hurt\n\n")
	for _, whom := range hurt.keys {
		for _, line := range reproducer.Wrapped(whom) {
			b.WriteString("  " + line + "\n")
		}
	}
}

// writeSince says since when by these runs, and by those that are known.
func writeSince(b *strings.Builder, s *reproducer.Source, r *check.Report, names []string) {
	var lines []string
	for _, arch := range architectures(r) {
		if h := history(r, names, s.Name, arch); h != "" {
			lines = append(lines, "Here: "+h+".")
		}
	}
	lines = append(lines, s.Since()...)
	if len(lines) == 0 {
		return
	}
	b.WriteString("\nSince when\n\n")
	for _, paragraph := range lines {
		for _, line := range reproducer.Wrapped(paragraph) {
			b.WriteString("  " + line + "\n")
		}
	}
}
