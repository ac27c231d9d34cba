package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/explore"
	"github.com/pinwatch/pinwatch/tracer/remedy"
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
	s := fmt.Sprintf("%s by program %d, after %s and %.1f s, %s of %d, again %d of %d times", f.Name, f.Number, count(f.AfterPrograms, "program"),
		float64(f.AfterMS)/1000, count(uint64(len(f.Program.Steps)), "step"), f.Steps, f.Failed, f.Runs)
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
			fmt.Fprintf(&b, "%s: %s could not run, the first: %s\n", name, count(x.CouldNotRun, "program"), format.Printable(x.Why))
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
		fmt.Fprintf(&b, "%s: %s in %s of seed %d, with %s to shrink them, %.0f s, %.1f runs per second; passed by, for they do what was found already: %s\n",
			name, count(uint64(len(x.Findings)), "finding"), count(x.Programs, "program"), x.Seed, count(x.Tries, "run"), seconds, runs, count(x.PassedBy, "program"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func count(n uint64, of string) string { return remedy.Count(int64(n), of) }

func writeFinding(b *strings.Builder, where string, f *explore.Finding, x *explore.Explored, flags []string) {
	fmt.Fprintf(b, "%s: %s\n", where, FindingLine(f))
	if f.Program.MlockPages > 0 {
		fmt.Fprintf(b, "    perf_event_mlock_kb is %s\n", remedy.Count(f.Program.MlockPages, "page"))
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
