package report

import (
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/check"
)

// markdown writes the table in GitHub's dialect, and below it what there is to say, as it is.
func markdown(w io.Writer, r *check.Report) error {
	names := KernelNames(r)
	var b strings.Builder
	b.WriteString("## pinwatch check\n\n")
	if scenarios := ScenarioNames(r); len(scenarios) > 0 {
		b.WriteString("| scenario |")
		for _, name := range names {
			fmt.Fprintf(&b, " %s |", code(name))
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(names)) + "\n")
		for _, scenario := range scenarios {
			name := scenario
			if !plainWord.MatchString(name) {
				name = code(name)
			}
			fmt.Fprintf(&b, "| %s |", name)
			for i := range r.Kernels {
				text := Cell(&r.Kernels[i], scenario)
				if text == cellFail {
					text = "**" + text + "**"
				}
				fmt.Fprintf(&b, " %s |", text)
			}
			b.WriteString("\n")
		}
		b.WriteString("\n")
	}
	text := conclude(r, names)
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	fmt.Fprintf(&b, "%s\n%s%s\n", fence, text, fence)
	_, err := io.WriteString(w, b.String())
	return err
}

// plainWord is what is no markup in any dialect.
var plainWord = regexp.MustCompile(`^[\w.-]+$`)

// code is a kernel's own word, such as its release: as code it is no markup.
func code(word string) string {
	return "`" + strings.NewReplacer("`", "'", "|", "\\|").Replace(word) + "`"
}

// github writes the workflow commands that GitHub makes annotations of: an error for what
// is broken and new or could not be checked, a notice for what is known.
func github(w io.Writer, r *check.Report) error {
	var b strings.Builder
	for i, name := range KernelNames(r) {
		k := &r.Kernels[i]
		if k.Error != "" {
			annotate(&b, "error", name+" could not be checked", k.Error)
		}
		for j := range k.Scenarios {
			sc := &k.Scenarios[j]
			title := sc.Name + " on " + name
			switch {
			case sc.New():
				annotate(&b, "error", title+": "+strings.Join(sc.Verdicts, ", "), evidence(sc))
			case sc.Result == check.Fail:
				annotate(&b, "notice", title+": "+strings.Join(sc.Verdicts, ", "), "known as "+sc.Known)
			case sc.CouldNotRun:
				annotate(&b, "error", title, sc.Reason)
			}
		}
		for j := range k.Gone {
			annotate(&b, "notice", k.Gone[j].Scenario+" on "+name, goneLine(&k.Gone[j]))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// annotate writes a workflow command. Lines and what parts its values are escaped, as the
// runner has it.
func annotate(b *strings.Builder, level, title, text string) {
	lines := strings.NewReplacer("%", "%25", "\n", "%0A")
	value := strings.NewReplacer("%", "%25", ":", "%3A", ",", "%2C")
	fmt.Fprintf(b, "::%s title=%s::%s\n", level, value.Replace(format.Printable("pinwatch: "+title)), lines.Replace(printableLines(text)))
}
