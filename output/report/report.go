// Package report writes what pinwatch check found: as a table, as JSON, as KTAP, as JUnit
// XML, as Markdown, as annotations of GitHub's or for KCIDB; and how far it is.
package report

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/check"
)

// The formats of a check's report.
const (
	FormatTable    = "table"
	FormatJSON     = "json"
	FormatKTAP     = "ktap"
	FormatJUnit    = "junit"
	FormatMarkdown = "markdown"
	FormatGitHub   = "github"
	FormatKCIDB    = "kcidb"
)

// Formats are the names of the formats.
func Formats() []string {
	return []string{FormatTable, FormatJSON, FormatKTAP, FormatJUnit, FormatMarkdown, FormatGitHub, FormatKCIDB}
}

// Writer finds the writer of a format.
func Writer(name string) (func(io.Writer, *check.Report) error, error) {
	write := map[string]func(io.Writer, *check.Report) error{
		FormatTable: writeTable, FormatJSON: writeJSON, FormatKTAP: ktap, FormatJUnit: junit, FormatMarkdown: markdown, FormatGitHub: github, FormatKCIDB: kcidb,
	}[name]
	if write == nil {
		return nil, fmt.Errorf("%s is no format of a report", name)
	}
	if name == FormatJSON {
		return write, nil // as it was found
	}
	return func(w io.Writer, r *check.Report) error { return write(w, printable(r)) }, nil
}

func writeJSON(w io.Writer, r *check.Report) error { return encode(w, r) }

// encode writes JSON of several lines.
func encode(w io.Writer, value any) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(value); err != nil {
		return err
	}
	_, err := w.Write(format.EscapeJSON(b.Bytes()))
	return err
}

// List writes what scenarios there are.
func List(w io.Writer, exercises []check.Exercise) error {
	table := format.Table(w, 2, nil, "SCENARIO", "INVASIVE", "ABOUT")
	for _, e := range exercises {
		invasive := ""
		if e.Invasive {
			invasive = "yes"
		}
		if err := table.Append(e.Name, invasive, e.About); err != nil {
			return err
		}
	}
	return table.Render()
}

// writeTable writes scenarios down and kernels across, and below that what there
// is to say.
func writeTable(w io.Writer, r *check.Report) error {
	names := KernelNames(r)
	if len(ScenarioNames(r)) == 0 {
		_, err := io.WriteString(w, conclude(r, names))
		return err
	}
	table := format.Table(w, 2, nil, append([]string{"SCENARIO"}, names...)...)
	for _, name := range ScenarioNames(r) {
		cells := []string{name}
		for i := range r.Kernels {
			cells = append(cells, Cell(&r.Kernels[i], name))
		}
		if err := table.Append(cells); err != nil {
			return err
		}
	}
	if err := table.Render(); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n"+conclude(r, names))
	return err
}

const cellFail = "FAIL"

// Cell is how a scenario fared on a kernel, in a word.
func Cell(k *check.Kernel, name string) string {
	sc := find(k, name)
	switch {
	case sc == nil || sc.CouldNotRun:
		return "?"
	case sc.New():
		return cellFail
	case sc.Result == check.Fail:
		return "known"
	}
	return sc.Result
}

func find(k *check.Kernel, name string) *check.Scenario {
	for i := range k.Scenarios {
		if k.Scenarios[i].Name == name {
			return &k.Scenarios[i]
		}
	}
	return nil
}

// ScenarioNames are those of all kernels, in their order.
func ScenarioNames(r *check.Report) (names []string) {
	for _, k := range r.Kernels {
		for _, sc := range k.Scenarios {
			if !slices.Contains(names, sc.Name) {
				names = append(names, sc.Name)
			}
		}
	}
	return names
}

// KernelNames are short names that tell the kernels apart: the version, the
// architecture where there are several, and the page size where it is not 4 KiB.
func KernelNames(r *check.Report) []string {
	names := make([]string, len(r.Kernels))
	for i, k := range r.Kernels {
		version, _, _ := strings.Cut(k.Release, "+")
		version, _, _ = strings.Cut(version, "-cloud")
		name := format.Printable(version)
		if k.Arch != r.Kernels[0].Arch {
			name += " " + k.Arch
		}
		if k.PageBytes > 4096 {
			name += fmt.Sprintf(" %dK", k.PageBytes>>10)
		}
		names[i] = name
	}
	for i := range names { // the same kernel with other parameters
		if n := slices.Index(names, names[i]); n < i {
			names[i] += fmt.Sprintf(" (%d)", i+1)
		}
	}
	return names
}

// conclude says in sentences what broke, what could not run, and where behaviour
// changed.
func conclude(r *check.Report, names []string) string {
	var b strings.Builder
	writeFails(&b, r, names)
	writeGone(&b, r, names)
	writeSkips(&b, r, names)
	for i := range r.Kernels {
		k := &r.Kernels[i]
		if k.Error != "" {
			fmt.Fprintf(&b, "%s could not be checked: %s\n", names[i], printableLines(k.Error))
		}
		if k.Log != "" {
			fmt.Fprintf(&b, "%s: the kernel's messages are in %s\n", names[i], format.Printable(k.Log))
		}
		if k.TracerError != "" {
			fmt.Fprintf(&b, "%s: no tracer, the witnesses alone decided: %s\n", names[i], format.Printable(k.TracerError))
		}
	}
	for _, sentence := range Changes(r, names) {
		b.WriteString(sentence + "\n")
	}
	b.WriteString(totals(r, names))
	return b.String()
}

// printableLines is a text of several lines without what is not for terminals.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = format.Printable(lines[i])
	}
	return strings.Join(lines, "\n")
}

// grouped collects values under keys, in the order in which the keys came.
type grouped struct {
	keys   []string
	values map[string][]string
}

func (g *grouped) add(key, value string) {
	if g.values == nil {
		g.values = map[string][]string{}
	}
	if g.values[key] == nil {
		g.keys = append(g.keys, key)
	}
	if !slices.Contains(g.values[key], value) {
		g.values[key] = append(g.values[key], value)
	}
}

// writeFails says of each scenario that fails on which kernels, what was expected
// and seen, and how to see it again; and then whom the broken invariants hurt.
func writeFails(b *strings.Builder, r *check.Report, names []string) {
	var hurt grouped
	for _, scenario := range ScenarioNames(r) {
		var kernels grouped
		first := map[string]*check.Scenario{}
		for i := range r.Kernels {
			sc := find(&r.Kernels[i], scenario)
			if sc == nil || sc.Result != check.Fail {
				continue
			}
			what := strings.Join(sc.Verdicts, ", ")
			if !sc.Evidence.Agree {
				what += " (tracer and witness do not agree)"
			}
			what += "\n" // a part of the key that is told at the end
			if sc.Known != "" {
				what += ", known as " + format.Printable(sc.Known)
			}
			if first[what] == nil {
				first[what] = sc
			}
			kernels.add(what, names[i])
			for _, name := range sc.Verdicts {
				if whom := check.Impact(name); whom != "" {
					hurt.add(name+" hurts "+whom, "")
				}
			}
		}
		for _, what := range kernels.keys {
			verdicts, known, _ := strings.Cut(what, "\n")
			fmt.Fprintf(b, "%s: %s on %s%s\n", scenario, verdicts, strings.Join(kernels.values[what], ", "), known)
			if first[what].New() {
				writeEvidence(b, first[what])
			}
		}
	}
	for _, whom := range hurt.keys {
		b.WriteString(whom + "\n")
	}
}

func goneLine(g *check.Gone) string {
	return fmt.Sprintf("%s: known as %s, and no %s", g.Scenario, format.Printable(g.Known), strings.Join(g.Verdicts, ", "))
}

// writeGone says what is listed as known and did not come.
func writeGone(b *strings.Builder, r *check.Report, names []string) {
	var gone grouped
	for i := range r.Kernels {
		for _, g := range r.Kernels[i].Gone {
			gone.add(goneLine(&g)+" on ", names[i])
		}
	}
	for _, what := range gone.keys {
		b.WriteString(what + strings.Join(gone.values[what], ", ") + "\n")
	}
}

// writeEvidence says what was expected and seen on the first of the kernels.
func writeEvidence(b *strings.Builder, sc *check.Scenario) {
	e := &sc.Evidence
	switch {
	case len(e.Broken) > 0:
		fmt.Fprintf(b, "    witness: %s\n", format.Printable(e.Broken[0].String()))
	case len(e.Tracer.Broken) > 0:
		fmt.Fprintf(b, "    witness: ok\n    tracer: %s\n", e.Tracer.Broken[0].String())
	}
	if !e.Agree && len(e.Tracer.Broken) == 0 {
		b.WriteString("    tracer: ok\n")
	}
	if len(e.Reproduce) == 2 {
		fmt.Fprintf(b, "    calls: %s\n    again: %s\n", format.Printable(e.Reproduce[0]), format.Printable(e.Reproduce[1]))
	}
}

// writeSkips says what was not run and why, scenarios and kernels of one reason
// together.
func writeSkips(b *strings.Builder, r *check.Report, names []string) {
	var reasons grouped
	on := map[string]*grouped{}
	for i := range r.Kernels {
		for _, sc := range r.Kernels[i].Scenarios {
			if sc.Result != check.Skip {
				continue
			}
			if on[sc.Reason] == nil {
				on[sc.Reason] = &grouped{}
			}
			reasons.add(sc.Reason, sc.Name)
			on[sc.Reason].add("", names[i])
		}
	}
	for _, reason := range reasons.keys {
		where := ""
		if len(r.Kernels) > 1 {
			where = " on " + strings.Join(on[reason].values[""], ", ")
		}
		fmt.Fprintf(b, "skipped%s: %s: %s\n", where, strings.Join(reasons.values[reason], ", "), format.Printable(reason))
	}
}

// Changes says where behaviour changed from one kernel to the next, in the order
// given, each architecture for itself. Scenarios that changed alike share a
// sentence.
func Changes(r *check.Report, names []string) (sentences []string) {
	var alike grouped
	for _, name := range ScenarioNames(r) {
		for _, arch := range architectures(r) {
			if h := history(r, names, name, arch); h != "" {
				alike.add(h, name)
			}
		}
	}
	for _, h := range alike.keys {
		sentences = append(sentences, "behaviour changed in "+strings.Join(alike.values[h], ", ")+": "+h+".")
	}
	return sentences
}

func architectures(r *check.Report) (list []string) {
	for _, k := range r.Kernels {
		if !slices.Contains(list, k.Arch) {
			list = append(list, k.Arch)
		}
	}
	return list
}

// span is a number of kernels, one after the other, on which a scenario fared alike.
type span struct {
	first, last       string
	tracer, witnesses string // the outcome by all that there was with a tracer, "": on none; and by the last one's witnesses alone
	all               bool   // all of them were traced
}

// fared is how a scenario fared on a kernel.
func fared(sc *check.Scenario, kernel string) span {
	outcome := func(verdicts []string) string {
		if len(verdicts) == 0 {
			return check.Pass
		}
		return strings.Join(verdicts, " and ")
	}
	s := span{first: kernel, last: kernel, witnesses: outcome(sc.Evidence.WitnessVerdicts), all: sc.Evidence.Tracer.Watched}
	switch {
	case s.all && sc.Result == check.Fail:
		s.tracer = outcome(sc.Verdicts)
	case s.all:
		s.tracer = check.Pass
	}
	return s
}

// join takes in the next kernel, unless it is seen to differ, by what looked on at both:
// the tracer, where it did so on both, else the witnesses.
func (s *span) join(next *span) bool {
	switch both := s.tracer != "" && next.tracer != ""; {
	case both && s.tracer != next.tracer, !both && s.witnesses != next.witnesses:
		return false
	}
	s.last, s.witnesses, s.all = next.last, next.witnesses, s.all && next.all
	s.tracer = cmp.Or(s.tracer, next.tracer)
	return true
}

func (s *span) String() string {
	what, on := s.witnesses, " on "+s.first
	switch {
	case s.all:
		what = s.tracer
	case s.tracer != "" && s.tracer != what:
		what += ", by the tracer " + s.tracer + ","
	}
	if s.first != s.last {
		on = " from " + s.first + " to " + s.last
	}
	return what + on
}

// history tells how a scenario fared from kernel to kernel; "": always alike, as far as
// can be compared.
func history(r *check.Report, names []string, scenario, arch string) string {
	var spans []span
	var untraced []string
	traced := false
	for i := range r.Kernels {
		k := &r.Kernels[i]
		sc := find(k, scenario)
		if k.Arch != arch || sc == nil || sc.Result == check.Skip {
			continue
		}
		next := fared(sc, names[i])
		traced = traced || next.all
		if !next.all {
			untraced = append(untraced, names[i])
		}
		if n := len(spans); n == 0 || !spans[n-1].join(&next) {
			spans = append(spans, next)
		}
	}
	if len(spans) < 2 {
		return ""
	}
	var parts []string
	for i := range spans {
		parts = append(parts, spans[i].String())
	}
	h := strings.Join(parts, ", ")
	if traced && len(untraced) > 0 {
		h += " (no tracer on " + strings.Join(untraced, ", ") + ": compared by the witnesses there)"
	}
	return h
}

// totals counts, and says what the counts mean.
func totals(r *check.Report, names []string) string {
	var b strings.Builder
	for i := range r.Kernels {
		k := &r.Kernels[i]
		n := map[string]int{}
		for _, sc := range k.Scenarios {
			if sc.CouldNotRun {
				n["?"]++
				continue
			}
			n[sc.Result]++
			if sc.Known != "" {
				n["known"]++
			}
		}
		fmt.Fprintf(&b, "%s: %d pass, %d fail", names[i], n[check.Pass], n[check.Fail])
		if n["known"] > 0 {
			fmt.Fprintf(&b, " (%d known)", n["known"])
		}
		fmt.Fprintf(&b, ", %d skip", n[check.Skip])
		if n["?"] > 0 {
			fmt.Fprintf(&b, ", %d could not run", n["?"])
		}
		switch {
		case n[check.Fail] > n["known"]:
			b.WriteString(": this kernel accounts locked memory wrong")
		case n[check.Fail] > 0:
			b.WriteString(": this kernel accounts locked memory wrong, as is known")
		case n[check.Pass] > 0 && k.Error == "" && n["?"] == 0:
			b.WriteString(": what was checked holds")
		}
		b.WriteString("\n")
	}
	return b.String()
}
