// Package known holds what a check finds against a list of the failures that are known
// already, and makes such lists.
package known

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pinwatch/pinwatch/testdata/findings"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Entry is a failure that is known: a scenario, on some kernels.
type Entry struct {
	Kernels  []string // see covers; any of them
	Scenario string
	Verdicts []string
	// Witnesses are the verdicts of the witnesses alone, which decide where there is no
	// tracer; none: not known.
	Witnesses []string
	Name      string // by which it is told
	where     string // it stands, by which it is told without a name
}

// List is a list of known failures.
type List []Entry

// Stock is the name of the list of what stock kernels are known to get wrong.
const Stock = "stock"

// Load reads a list by its name: Stock, or a file.
func Load(name string) (List, error) {
	if name == Stock {
		return ofFindings(findings.Stock()), nil
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return Parse(name, string(raw))
}

// ofFindings is the list of what findings have scenarios fail.
func ofFindings(all []findings.Finding) (l List) {
	for _, f := range all {
		for _, scenario := range f.Scenarios {
			name, only, some := strings.Cut(scenario, "@")
			kernels := f.Series
			if some {
				kernels = strings.Split(only, "+")
			}
			l = append(l, Entry{Kernels: kernels, Scenario: name, Verdicts: []string{f.Verdict}, Witnesses: f.Witnesses, Name: f.Name})
		}
	}
	return l
}

// Parse reads the text of a file, as Write writes it. What is behind a # in a line of the
// list is its name; a line that has none is named by where it stands.
func Parse(file, text string) (l List, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, name, _ := strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		where := fmt.Sprintf("%s:%d", file, n)
		if len(fields) < 3 || len(fields) > 4 {
			return nil, fmt.Errorf("%s: want kernels, a scenario, verdicts, and perhaps those of the witnesses alone", where)
		}
		e := Entry{Kernels: strings.Split(fields[0], ","), Scenario: fields[1], Verdicts: strings.Split(fields[2], ","), Name: strings.TrimSpace(name), where: where}
		if len(fields) == 4 {
			e.Witnesses = strings.Split(fields[3], ",")
		}
		if err := e.valid(); err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		l = append(l, e)
	}
	return l, nil
}

// valid says what is wrong with an entry that would never match.
func (e *Entry) valid() error {
	if _, err := check.Choose([]string{e.Scenario}); err != nil {
		return err
	}
	for _, v := range slices.Concat(e.Verdicts, e.Witnesses) {
		if v == ledger.OK.String() || check.Impact(v) == "" {
			return fmt.Errorf("unknown verdict %q", v)
		}
	}
	for _, k := range e.Kernels {
		from, to, ranged := strings.Cut(k, "..")
		if ranged && (!isVersion(from) || !isVersion(to)) {
			return fmt.Errorf("%q: want two versions, such as 6.16..7.3", k)
		}
		if k == "" {
			return errors.New("a kernel without a name")
		}
	}
	return nil
}

// covers reports whether an entry is about a kernel, by its release: "*" is all; "6.12" and
// "6.12.107" are those whose version begins so; "6.16..7.3" those from the one to the
// other, both of them included; anything else is a release as uname -r has it.
func (e *Entry) covers(release string) bool {
	version := numbers(release)
	return slices.ContainsFunc(e.Kernels, func(k string) bool {
		from, to, ranged := strings.Cut(k, "..")
		switch {
		case k == "*" || k == release:
			return true
		case len(version) == 0:
			return false
		case ranged:
			return compare(version, numbers(from)) >= 0 && compare(version, numbers(to)) <= 0
		}
		return isVersion(k) && compare(version, numbers(k)) == 0
	})
}

// compare compares a version with one that may have fewer numbers, by as many.
func compare(version, with []int) int {
	return slices.Compare(version[:min(len(version), len(with))], with)
}

// numbers are those that a release begins with.
func numbers(release string) (list []int) {
	end := strings.IndexFunc(release, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end >= 0 {
		release = release[:end]
	}
	for part := range strings.SplitSeq(release, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			break
		}
		list = append(list, n)
	}
	return list
}

func isVersion(s string) bool {
	var parts []string
	for _, n := range numbers(s) {
		parts = append(parts, strconv.Itoa(n))
	}
	return s != "" && strings.Join(parts, ".") == s
}

// Mark marks in a report what is known, and what is listed and did not come.
func (l List) Mark(r *check.Report) {
	for i := range r.Kernels {
		k := &r.Kernels[i]
		k.Gone = []check.Gone{}
		for j := range k.Scenarios {
			sc := &k.Scenarios[j]
			about := l.about(k, sc)
			sc.Known = explained(about, sc)
			for _, e := range about {
				if gone := e.gone(sc); len(gone) > 0 {
					k.Gone = append(k.Gone, check.Gone{Scenario: sc.Name, Verdicts: gone, Known: cmp.Or(e.Name, e.where)})
				}
			}
		}
	}
}

// about are the entries about a scenario on a kernel.
func (l List) about(k *check.Kernel, sc *check.Scenario) (about List) {
	for _, e := range l {
		if e.Scenario == sc.Name && e.covers(k.Release) {
			about = append(about, e)
		}
	}
	return about
}

// knows reports whether an entry has a verdict of a fail.
func (e *Entry) knows(verdict string, sc *check.Scenario) bool {
	return slices.Contains(e.Verdicts, verdict) || !sc.Evidence.Tracer.Watched && slices.Contains(e.Witnesses, verdict)
}

// explained names the entries that have all verdicts of a fail; "": they do not.
func explained(about List, sc *check.Scenario) string {
	if sc.Result != check.Fail {
		return ""
	}
	var told []string
	for _, v := range sc.Verdicts {
		at := slices.IndexFunc(about, func(e Entry) bool { return e.knows(v, sc) })
		if at < 0 {
			return ""
		}
		if name := cmp.Or(about[at].Name, about[at].where); !slices.Contains(told, name) {
			told = append(told, name)
		}
	}
	return strings.Join(told, ", ")
}

// names are those that entries have for a fail; "": they have none.
func (l List) names(sc *check.Scenario) string {
	var names []string
	for _, e := range l {
		if e.Name != "" && !slices.Contains(names, e.Name) && slices.ContainsFunc(sc.Verdicts, func(v string) bool { return e.knows(v, sc) }) {
			names = append(names, e.Name)
		}
	}
	return strings.Join(names, ", ")
}

// gone are the verdicts of an entry that did not come. Without the tracer it takes a pass,
// by witnesses that would have seen it, to know.
func (e *Entry) gone(sc *check.Scenario) []string {
	switch {
	case sc.Result == check.Skip:
		return nil
	case !sc.Evidence.Tracer.Watched && (sc.Result == check.Fail || len(e.Witnesses) == 0):
		return nil
	}
	return slices.DeleteFunc(slices.Clone(e.Verdicts), func(v string) bool {
		return slices.Contains(sc.Verdicts, v) || slices.ContainsFunc(sc.Evidence.Tracer.Broken, func(b check.Broken) bool { return b.Verdict == v })
	})
}
