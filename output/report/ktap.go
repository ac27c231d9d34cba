package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/check"
)

// ktap writes the Kernel Test Anything Protocol, version 1: the scenarios of one
// kernel, or a test for each of several kernels with its scenarios as subtests.
func ktap(w io.Writer, r *check.Report) error {
	var b strings.Builder
	b.WriteString("KTAP version 1\n")
	if len(r.Kernels) == 1 && r.Kernels[0].Error == "" {
		ktapKernel(&b, "", &r.Kernels[0])
	} else {
		fmt.Fprintf(&b, "1..%d\n", len(r.Kernels))
		for i, name := range KernelNames(r) {
			k := &r.Kernels[i]
			if len(k.Scenarios) > 0 {
				b.WriteString("  KTAP version 1\n")
				ktapKernel(&b, "  ", k)
			}
			ktapSummary(&b, i+1, name, k)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func ktapKernel(b *strings.Builder, indent string, k *check.Kernel) {
	fmt.Fprintf(b, "%s1..%d\n", indent, len(k.Scenarios))
	for i := range k.Scenarios {
		sc := &k.Scenarios[i]
		if sc.Result == check.Fail {
			for line := range strings.Lines(evidence(sc)) {
				fmt.Fprintf(b, "%s# %s\n", indent, format.Printable(strings.TrimSuffix(line, "\n")))
			}
		}
		fmt.Fprintf(b, "%s%s\n", indent, ktapLine(i+1, sc))
	}
	for i := range k.Gone {
		fmt.Fprintf(b, "%s# %s\n", indent, goneLine(&k.Gone[i]))
	}
}

func ktapLine(n int, sc *check.Scenario) string {
	switch {
	case sc.Known != "":
		return fmt.Sprintf("ok %d %s # XFAIL %s, known as %s", n, plainName(sc.Name), ktapText(strings.Join(sc.Verdicts, ", ")), ktapText(sc.Known))
	case sc.Result == check.Fail:
		return fmt.Sprintf("not ok %d %s # %s", n, plainName(sc.Name), ktapText(strings.Join(sc.Verdicts, ", ")))
	case sc.CouldNotRun:
		return fmt.Sprintf("not ok %d %s # ERROR %s", n, plainName(sc.Name), ktapText(sc.Reason))
	case sc.Result == check.Skip:
		return fmt.Sprintf("ok %d %s # SKIP %s", n, plainName(sc.Name), ktapText(sc.Reason))
	}
	return fmt.Sprintf("ok %d %s", n, plainName(sc.Name))
}

// ktapText is what may stand in a line.
func ktapText(s string) string {
	first, _, _ := strings.Cut(s, "\n")
	return strings.ReplaceAll(format.Printable(first), "#", "")
}

func ktapSummary(b *strings.Builder, n int, name string, k *check.Kernel) {
	name = plainName(name)
	switch {
	case k.Error != "":
		fmt.Fprintf(b, "not ok %d %s # ERROR %s\n", n, name, ktapText(k.Error))
	case k.Failed():
		fmt.Fprintf(b, "not ok %d %s\n", n, name)
	case k.CouldNotRun():
		fmt.Fprintf(b, "not ok %d %s # ERROR a scenario could not run\n", n, name)
	default:
		fmt.Fprintf(b, "ok %d %s\n", n, name)
	}
}
