package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/check"
)

// The parts of JUnit's XML that CI servers read. Other elements are optional.
type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Time     seconds      `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Errors     int             `xml:"errors,attr"`
	Skipped    int             `xml:"skipped,attr"`
	Time       seconds         `xml:"time,attr"`
	Properties []junitProperty `xml:"properties>property"`
	Cases      []junitCase     `xml:"testcase"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	ClassName string        `xml:"classname,attr"`
	Name      string        `xml:"name,attr"`
	Time      seconds       `xml:"time,attr"`
	Failure   *junitOutcome `xml:"failure"`
	Error     *junitOutcome `xml:"error"`
	Skipped   *junitOutcome `xml:"skipped"`
}

// seconds are shown with three places, from milliseconds.
type seconds int64

func (s seconds) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%d.%03d", s/1000, s%1000), nil
}

type junitOutcome struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Text    string `xml:",chardata"`
}

// junit writes one suite per kernel, and one case per scenario.
func junit(w io.Writer, r *check.Report) error {
	all := junitSuites{Name: "pinwatch check"}
	for i, name := range KernelNames(r) {
		s := suite(&r.Kernels[i], name)
		all.Tests += s.Tests
		all.Failures += s.Failures
		all.Errors += s.Errors
		all.Skipped += s.Skipped
		all.Time += s.Time
		all.Suites = append(all.Suites, s)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", " ")
	if err := encoder.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func suite(k *check.Kernel, name string) junitSuite {
	s := junitSuite{Name: name, Time: seconds(k.DurationMS), Properties: []junitProperty{
		{"release", k.Release}, {"arch", k.Arch}, {"page_bytes", fmt.Sprint(k.PageBytes)}, {"tracer", k.Tracer}, {"tracer_error", k.TracerError},
	}}
	class := "pinwatch." + strings.ReplaceAll(name, ".", "_") // a point would start a package
	for i := range k.Scenarios {
		sc := &k.Scenarios[i]
		c := junitCase{ClassName: class, Name: sc.Name, Time: seconds(sc.DurationMS)}
		switch {
		case sc.Known != "":
			// There is no expected failure in JUnit: this is how other tools tell one.
			c.Skipped = &junitOutcome{Message: "known as " + sc.Known, Type: strings.Join(sc.Verdicts, ","), Text: evidence(sc)}
			s.Skipped++
		case sc.Result == check.Fail:
			c.Failure = &junitOutcome{Message: sc.Reason, Type: strings.Join(sc.Verdicts, ","), Text: evidence(sc)}
			s.Failures++
		case sc.CouldNotRun:
			c.Error = &junitOutcome{Message: sc.Reason}
			s.Errors++
		case sc.Result == check.Skip:
			c.Skipped = &junitOutcome{Message: sc.Reason}
			s.Skipped++
		}
		s.Cases = append(s.Cases, c)
	}
	if k.Error != "" {
		s.Cases = append(s.Cases, junitCase{ClassName: class, Name: "kernel", Error: &junitOutcome{Message: strings.SplitN(k.Error, "\n", 2)[0], Text: k.Error}})
		s.Errors++
	}
	s.Tests = len(s.Cases)
	return s
}

// evidence is all that there is to say about a fail, one line each.
func evidence(sc *check.Scenario) string {
	e := &sc.Evidence
	lines := []string{"invariants broken: " + strings.Join(sc.Verdicts, ", ")}
	for i := range e.Tracer.Broken {
		lines = append(lines, "tracer: "+e.Tracer.Broken[i].String())
	}
	for i := range e.Broken {
		lines = append(lines, "witness: "+e.Broken[i].String())
	}
	if !e.Agree {
		lines = append(lines, "tracer and witness do not agree")
	}
	lines = append(lines, "hurts "+e.Hurts)
	return strings.Join(append(lines, e.Reproduce...), "\n")
}
