package page

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/report"
	"github.com/pinwatch/pinwatch/tracer/check"
)

// matrix is what the page of a check shows.
type matrix struct {
	Title     string   `json:"title"`
	Broken    bool     `json:"broken"`
	Verdict   string   `json:"verdict"`
	Kernels   []tested `json:"kernels"`
	Scenarios []string `json:"scenarios"`
	Cells     [][]cell `json:"cells"` // by scenario, by kernel
	Changes   []string `json:"changes"`
}

// tested is a kernel, and what there is to say of all of its scenarios.
type tested struct {
	Name  string   `json:"name"`
	Notes []string `json:"notes"`
}

// cell is how a scenario fared on a kernel.
type cell struct {
	Result    string   `json:"result"` // as in the table; "": it did not run there
	Verdicts  []string `json:"verdicts"`
	Changed   bool     `json:"changed"` // against the kernel before, of the same architecture
	Evidence  []string `json:"evidence"`
	Reproduce []string `json:"reproduce"`
}

// Check writes the page of what a check found.
func Check(out io.Writer, title string, r *check.Report) error {
	names := report.KernelNames(r)
	m := &matrix{Title: format.Printable(title), Kernels: []tested{}, Scenarios: []string{}, Cells: [][]cell{}, Changes: printable(report.Changes(r, names))}
	failed, partly := []string{}, []string{}
	for i := range r.Kernels {
		k := &r.Kernels[i]
		m.Kernels = append(m.Kernels, tested{names[i], notesOf(k)})
		if slices.ContainsFunc(k.Scenarios, func(s check.Scenario) bool { return s.Result == check.Fail }) {
			failed = append(failed, names[i])
		}
		if k.Error != "" || slices.ContainsFunc(k.Scenarios, func(s check.Scenario) bool { return s.CouldNotRun }) {
			partly = append(partly, names[i])
		}
	}
	for _, scenario := range report.ScenarioNames(r) {
		m.Scenarios = append(m.Scenarios, format.Printable(scenario))
		cells := []cell{}
		last := map[string]*check.Scenario{} // by architecture
		for i := range r.Kernels {
			k := &r.Kernels[i]
			at := slices.IndexFunc(k.Scenarios, func(s check.Scenario) bool { return s.Name == scenario })
			if at < 0 {
				cells = append(cells, cell{Evidence: []string{}, Verdicts: []string{}, Reproduce: []string{}})
				continue
			}
			sc := &k.Scenarios[at]
			c := cell{Result: format.Printable(report.Cell(k, scenario)), Verdicts: printable(sc.Verdicts), Evidence: evidence(sc), Reproduce: printable(sc.Evidence.Reproduce)}
			if sc.Result != check.Skip {
				c.Changed = changed(last[k.Arch], sc)
				last[k.Arch] = sc
			}
			cells = append(cells, c)
		}
		m.Cells = append(m.Cells, cells)
	}
	m.Broken, m.Verdict = len(failed) > 0, fmt.Sprintf("no broken rule was found on %s", format.Count(len(names), "kernel"))
	if m.Broken {
		m.Verdict = fmt.Sprintf("%d of %s wrong: %s", len(failed), format.Count(len(names), "kernel")+" account locked memory", strings.Join(failed, ", "))
	}
	if len(partly) > 0 {
		m.Verdict += "; not everything could be checked on " + strings.Join(partly, ", ")
	}
	return write(out, checkFrame, checkProgram, m)
}

// changed reports whether two kernels differ, as far as the same looked on at both.
func changed(before, now *check.Scenario) bool {
	switch {
	case before == nil:
		return false
	case before.Evidence.Tracer.Watched && now.Evidence.Tracer.Watched:
		return before.Result != now.Result || !slices.Equal(before.Verdicts, now.Verdicts)
	}
	return !slices.Equal(before.Evidence.WitnessVerdicts, now.Evidence.WitnessVerdicts)
}

// notesOf says of a kernel what is not of one scenario.
func notesOf(k *check.Kernel) []string {
	notes := []string{"Linux " + k.Release + ", " + k.Arch}
	for _, more := range []struct{ what, text string }{{"image", k.Image}, {"tracer", k.Tracer}, {"no tracer, the witnesses alone decided", k.TracerError}, {"could not be checked", k.Error}, {"the kernel's messages", k.Log}} {
		if more.text != "" {
			notes = append(notes, more.what+": "+more.text)
		}
	}
	return printable(notes)
}

// evidence is what a result rests on, in lines.
func evidence(sc *check.Scenario) []string {
	e := &sc.Evidence
	lines := []string{}
	if sc.Reason != "" {
		lines = append(lines, sc.Reason)
	}
	if sc.Known != "" {
		lines = append(lines, "known as "+sc.Known)
	}
	if e.WitnessesRead > 0 {
		lines = append(lines, fmt.Sprintf("%d of %s of witnesses differ from what is right", len(e.Broken), format.Count(e.WitnessesRead, "reading")))
	}
	for i := range e.Broken {
		lines = append(lines, "witness: "+e.Broken[i].String())
	}
	if e.Tracer.Watched {
		lines = append(lines, fmt.Sprintf("the tracer saw %s, %d lost, %d uncertain; accounting: %s", format.Count(e.Tracer.Events, "event"), e.Tracer.Lost, e.Tracer.Uncertain, e.Tracer.Scheme))
	}
	for i := range e.Tracer.Broken {
		lines = append(lines, "tracer: "+e.Tracer.Broken[i].String())
	}
	if !e.Agree {
		lines = append(lines, "tracer and witnesses do not agree")
	}
	if e.Hurts != "" {
		lines = append(lines, "hurts: "+e.Hurts)
	}
	return printable(append(lines, e.Notes...))
}

// printable are texts that others have chosen, line by line.
func printable(texts []string) []string {
	lines := []string{}
	for _, text := range texts {
		for line := range strings.Lines(text) {
			lines = append(lines, format.Printable(strings.TrimSuffix(line, "\n")))
		}
	}
	return lines
}
