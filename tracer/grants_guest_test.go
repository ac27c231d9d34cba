//go:build guest

package tracer_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// granted is what works with which capabilities, by kernel: a paragraph for each series that is
// different from the one before it.
const granted = "testdata/grants.txt"

// grants are capabilities that somebody may have got, from few to all that help.
var grants = []string{"", "cap_bpf", "cap_perfmon", "cap_bpf,cap_perfmon", "cap_bpf,cap_perfmon,cap_syslog", "cap_sys_admin", "cap_sys_admin,cap_syslog"}

// What works with which grants is what the table says, at upstream's level of
// perf_event_paranoid and at Debian's: what is watched and how, what is not, or why nothing is.
func TestGrants(t *testing.T) {
	if !guesttest.All() {
		t.Skip("runs with make test-kernels")
	}
	guests.Test(t, guesttest.Ends, func(t *testing.T, k guesttest.Kernel) {
		var table strings.Builder
		for _, level := range []string{"2", "3"} {
			guesttest.Set(t, settings+"paranoid", level)
			for _, caps := range grants {
				r := guesttest.Command(t, "pinwatch", "workload", "run-as", "--uid", "65534", "--caps", caps, "--", "pinwatch", "trace", "--duration", "50ms").Run()
				fmt.Fprintf(&table, "%s  %-32s %s\n", level, strings.ToUpper(strings.ReplaceAll(caps, "cap_", "")), grantedBy(r))
			}
		}
		raw, err := os.ReadFile(granted)
		if err != nil {
			t.Fatal(err)
		}
		series := "\n" + k.Upstream() + "\n"
		_, want, _ := strings.Cut("\n"+string(raw), series)
		want, _, _ = strings.Cut(want, "\n\n")
		if strings.TrimSpace(want) != strings.TrimSpace(table.String()) {
			t.Errorf("%s has another table:%s%s", granted, series, &table)
		}
	})
}

// grantedBy is what a trace says of what it watches, in a line.
func grantedBy(r guesttest.Result) string {
	var said []string
	for line := range strings.Lines(r.Stderr) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "pinwatch: ")
		if what, is := strings.CutPrefix(line, "watching "); is {
			said = append(said, strings.TrimSuffix(what, " (Ctrl-C ends it)"))
		} else if strings.Contains(line, "not watched") || strings.Contains(line, "hidden") || r.Code != 0 {
			said = append(said, line)
		}
	}
	return strings.Join(said, " | ")
}
