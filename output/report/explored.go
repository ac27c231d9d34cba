package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/explore"
)

// ExploredWriter writes a report of random programs in one of the formats. The flags are
// those that were given, so that a program can be seen again.
func ExploredWriter(name string) (func(w io.Writer, r *explore.Report, flags []string) error, error) {
	switch name {
	case FormatTable:
		return writeExplored, nil
	case FormatJSON:
		return func(w io.Writer, r *explore.Report, _ []string) error {
			return format.WriteJSON(w, r)
		}, nil
	}
	return nil, fmt.Errorf("--format %s: with --explore, want %s or %s", name, FormatTable, FormatJSON)
}

// FindingLine is a finding in a line.
func FindingLine(f *explore.Finding) string {
	s := fmt.Sprintf("%s by program %d, after %d programs and %.1f s, %d steps of %d, again %d of %d times", f.Name, f.Number, f.AfterPrograms,
		float64(f.AfterMS)/1000, len(f.Program.Steps), f.Steps, f.Failed, f.Runs)
	if !f.Sure() {
		s += ", not to be relied on"
	}
	if f.Known != "" {
		s += ", known as " + f.Known
	}
	return format.Printable(s)
}

// writeExplored writes the findings of each kernel, each with its program.
func writeExplored(w io.Writer, r *explore.Report, flags []string) error {
	var b strings.Builder
	for i := range r.Kernels {
		x := &r.Kernels[i]
		name := format.Printable(x.Release)
		for j := range x.Findings {
			writeFinding(&b, name, &x.Findings[j], x, flags)
		}
		for j := range x.Doubts {
			writeFinding(&b, name, &x.Doubts[j], x, flags)
		}
		if x.Why != "" {
			fmt.Fprintf(&b, "%s: %d programs could not run, the first: %s\n", name, x.CouldNotRun, format.Printable(x.Why))
		}
	}
	for i := range r.Kernels {
		x := &r.Kernels[i]
		name, seconds := format.Printable(x.Release), float64(x.DurationMS)/1000
		if x.Error != "" {
			fmt.Fprintf(&b, "%s could not be explored: %s\n", name, format.Printable(x.Error))
			if x.Programs == 0 {
				continue
			}
		}
		if x.TracerError != "" {
			fmt.Fprintf(&b, "%s: without the tracer, the witnesses alone decide: %s\n", name, format.Printable(x.TracerError))
		}
		runs := float64(x.Programs+x.Tries) / max(seconds, 0.001)
		fmt.Fprintf(&b, "%s: %d findings in %d programs of seed %d, with %d runs to shrink them, %.0f s, %.1f runs per second; %d programs passed by that do what was found already\n",
			name, len(x.Findings), x.Programs, x.Seed, x.Tries, seconds, runs, x.PassedBy)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeFinding(b *strings.Builder, where string, f *explore.Finding, x *explore.Explored, flags []string) {
	fmt.Fprintf(b, "%s: %s\n", where, FindingLine(f))
	if f.Program.MlockPages > 0 {
		fmt.Fprintf(b, "    perf_event_mlock_kb is %d pages\n", f.Program.MlockPages)
	}
	for _, o := range f.Program.Steps {
		fmt.Fprintf(b, "    %s\n", format.Printable(o.String()))
	}
	fmt.Fprintf(b, "    seen: %s\n", format.Printable(f.Reason))
	if f.Log != "" {
		for line := range strings.Lines(f.Log) {
			fmt.Fprintf(b, "    kernel: %s\n", format.Printable(strings.TrimSpace(line)))
		}
	}
	if f.Hurts != "" {
		fmt.Fprintf(b, "    it hurts %s\n", format.Printable(f.Hurts))
	}
	raw, err := json.Marshal(f.Program)
	if err == nil {
		fmt.Fprintf(b, "    program: %s\n", format.EscapeJSON(raw))
	}
	args := flags
	if x.Image != "" {
		args = append([]string{"--kernel", x.Image}, flags...)
	}
	fmt.Fprintf(b, "    whole: %s\n", check.CommandLine(append(args[:len(args):len(args)], "--program-number", fmt.Sprint(f.Number))))
}
