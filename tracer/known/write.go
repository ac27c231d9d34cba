package known

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// Of is the list of what fails in a report, whether it was known or not, with the names that
// a list has for it. What could not be checked may fail as well: there is no list of such a
// report.
func Of(r *check.Report, named List) (l List, err error) {
	if len(r.Kernels) == 0 {
		return nil, errors.New("nothing was checked")
	}
	for i := range r.Kernels {
		k := &r.Kernels[i]
		if k.Error != "" {
			return nil, fmt.Errorf("%s could not be checked", k.Release)
		}
		for j := range k.Scenarios {
			sc := &k.Scenarios[j]
			switch {
			case sc.CouldNotRun:
				return nil, fmt.Errorf("%s could not run on %s", sc.Name, k.Release)
			case sc.Result == check.Fail:
				e := Entry{Kernels: []string{kernelOf(r, k, sc)}, Scenario: sc.Name, Verdicts: sc.Verdicts, Witnesses: sc.Evidence.WitnessVerdicts}
				if sc.Known != "" {
					e.Name = named.about(k, sc).names(sc)
				}
				l = l.with(e)
			}
		}
	}
	return l, nil
}

// with is the list with one more entry, which joins one that is the same on other kernels.
func (l List) with(e Entry) List {
	for i := range l {
		o := &l[i]
		if o.Scenario == e.Scenario && slices.Equal(o.Verdicts, e.Verdicts) && slices.Equal(o.Witnesses, e.Witnesses) && o.Name == e.Name {
			if !slices.Contains(o.Kernels, e.Kernels[0]) {
				o.Kernels = append(o.Kernels, e.Kernels[0])
			}
			return l
		}
	}
	return append(l, e)
}

// kernelOf is how a list names a kernel on which a scenario fails: by its series, which lasts
// longer than a release, unless another release of it fared otherwise.
func kernelOf(r *check.Report, k *check.Kernel, sc *check.Scenario) string {
	version := numbers(k.Release)
	if len(version) < 2 {
		return k.Release
	}
	series := fmt.Sprintf("%d.%d", version[0], version[1])
	for i := range r.Kernels {
		o := &r.Kernels[i]
		if o.Release == k.Release || compare(numbers(o.Release), version[:2]) != 0 {
			continue
		}
		same := func(other check.Scenario) bool {
			return other.Name == sc.Name && slices.Equal(other.Verdicts, sc.Verdicts)
		}
		if !slices.ContainsFunc(o.Scenarios, same) {
			return k.Release
		}
	}
	return series
}

const about = `# Failures of pinwatch check that are known: pinwatch check --known FILE
#
# KERNELS    * is all; 6.12 and 6.12.107 are those whose version begins so; 6.16..7.3 those
#            from the one to the other, both included; else a release as uname -r has it.
#            Several are parted by commas.
# SCENARIO   pinwatch check --list lists them.
# VERDICTS   that are known. A fail with another one is new.
# WITNESSES  what the witnesses alone call it, where there is no tracer; may be left out.
# Behind a # is the name by which it is told.
#
`

// Write writes the file of a list, which Parse reads.
func (l List) Write(w io.Writer) error {
	if _, err := io.WriteString(w, about); err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "# KERNELS\tSCENARIO\tVERDICTS\tWITNESSES\t# NAME\n")
	for _, e := range l {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s", strings.Join(e.Kernels, ","), e.Scenario, strings.Join(e.Verdicts, ","), strings.Join(e.Witnesses, ","))
		if e.Name != "" {
			fmt.Fprintf(table, "\t# %s", e.Name)
		}
		fmt.Fprintln(table)
	}
	return table.Flush()
}
