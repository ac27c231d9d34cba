package command_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/output/command"
	"github.com/pinwatch/pinwatch/output/gate"
	"github.com/pinwatch/pinwatch/output/objects"
	"github.com/pinwatch/pinwatch/output/report"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/output/top"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/probe"
	"github.com/pinwatch/pinwatch/tracer/transport"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// result is what a command came to.
type result struct {
	status   int
	out, err string
}

// run runs a command in this process.
func run(t *testing.T, in string, args ...string) result {
	t.Helper()
	var out, err bytes.Buffer
	status := command.Main(context.Background(), args, command.Streams{In: strings.NewReader(in), Out: &out, Err: &err})
	return result{status, out.String(), err.String()}
}

func recording(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "testdata", "recordings", "published-overcharge.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestReplayIntoBuffer(t *testing.T) {
	got := run(t, recording(t), "replay", "-")
	if got.status != 0 || got.err != "" {
		t.Errorf("status %d, stderr %q", got.status, got.err)
	}
	for _, want := range []string{"wrong-refusal", "overcharged: 112998 pages (441.4 MiB)", "verdict: this kernel accounts locked memory wrong: overcharge 4, wrong-refusal 2"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("no %q in\n%s", want, got.out)
		}
	}
}

// A flag with names takes those and no other, and the shell completes them.
func TestEnumeratedFlags(t *testing.T) {
	var types []string
	for _, list := range [][]string{bpfobj.MapTypes(), bpfobj.ProgramTypes()} {
		types = append(types, list...)
	}
	for _, test := range []struct {
		command string
		flag    string
		names   []string
	}{
		{"trace", "transport", transport.Names()},
		{"trace", "attach", probe.AttachNames()},
		{"trace", "only", row.Watchable()},
		{"trace", "fail-on", gate.Causes()},
		{"record x", "fail-on", gate.Causes()},
		{"record x", "transport", transport.Names()},
		{"record x", "attach", probe.AttachNames()},
		{"record x", "only", row.Watchable()},
		{"top", "transport", transport.Names()},
		{"top", "attach", probe.AttachNames()},
		{"top", "view", top.ViewNames()},
		{"top", "sort", top.ColumnNames("processes")},
		{"top --view users", "sort", top.ColumnNames("users")},
		{"doctor", "transport", transport.Names()},
		{"doctor", "attach", probe.AttachNames()},
		{"explain", "source", []string{"auto", "proc"}},
		{"maps", "sort", objects.Sorts()},
		{"maps", "type", types},
		{"maps", "by", objects.Groupings()},
		{"check", "format", report.Formats()},
		{"check", "exit", check.ExitConventions()},
		{"check", "scenario", check.Names()},
		{"workload bpf-maps", "type", workload.BPFMapTypes()},
		{"workload trials", "source", []string{"auto", "proc"}},
	} {
		t.Run(test.command+" --"+test.flag, func(t *testing.T) {
			args := strings.Fields(test.command)
			got := run(t, "", append(args, "--"+test.flag, "pigeon")...)
			if got.status != 2 || got.out != "" {
				t.Errorf("status %d, want 2; stdout %q", got.status, got.out)
			}
			if !strings.Contains(got.err, "pigeon") || !strings.Contains(got.err, test.names[0]) && test.flag != "scenario" {
				t.Errorf("not what is wrong, or what is right: %q", got.err)
			}
			complete := append(append([]string{"__complete"}, args...), "--"+test.flag, "")
			lines := strings.Split(run(t, "", complete...).out, "\n")
			for _, name := range test.names {
				if !slices.Contains(lines, name) {
					t.Errorf("%q is not among the completions %q", name, lines)
				}
			}
		})
	}
}

func TestCompletionOfSeveralNames(t *testing.T) {
	for typed, want := range map[string]string{
		"":          "perf bpf memcg others :4",
		"m":         "memcg :4",
		"bpf,":      "bpf,perf bpf,memcg bpf,others :4",
		"bpf,o":     "bpf,others :4",
		"pigeon,bp": "pigeon,bpf :4",
	} {
		got := strings.Join(strings.Fields(run(t, "", "__complete", "trace", "--only", typed).out), " ")
		if got != want {
			t.Errorf("%q is completed as %q, want %q", typed, got, want)
		}
	}
}

// What a flag was called before still works, and says what it is called now.
func TestRenamedFlags(t *testing.T) {
	in := recording(t)
	usage := regexp.MustCompile(`pinwatch ([0-9.]+% CPU )?\d+ MiB`) // that top shows of itself
	for _, test := range []struct {
		args     []string
		old, now string
	}{
		{[]string{"replay", "-"}, "own", "include-self"},
		{[]string{"replay", "-"}, "broken", "violations"},
		{[]string{"top", "--replay", "-"}, "bytes", "in-bytes"},
		{[]string{"trace", "--help"}, "own", "include-self"},
		{[]string{"maps", "--help"}, "bytes", "in-bytes"},
		{[]string{"workload", "perf-buffers", "--help"}, "again=1", "remaps=1"},
	} {
		before, after := run(t, in, append(test.args, "--"+test.old)...), run(t, in, append(test.args, "--"+test.now)...)
		before.out, after.out = usage.ReplaceAllString(before.out, ""), usage.ReplaceAllString(after.out, "")
		if before.status != 0 || after.status != 0 || before.out != after.out {
			t.Errorf("%v: --%s: %+v\n--%s: %+v", test.args, test.old, before, test.now, after)
		}
		if after.err != "" {
			t.Errorf("%v --%s: %q", test.args, test.now, after.err)
		}
		if test.args[len(test.args)-1] == "--help" {
			continue
		}
		if want := fmt.Sprintf("pinwatch: --%s is now called --%s\n", test.old, test.now); before.err != want {
			t.Errorf("%v --%s: %q, want %q", test.args, test.old, before.err, want)
		}
	}
	if got := run(t, in, "replay", "--violations", "--pid", "1", "-"); strings.Contains(got.out, "ilarouter") {
		t.Errorf("--pid has no effect:\n%s", got.out)
	}
}

// The commands that trace have one flag for the size of the buffer, and one text.
func TestBufferFlag(t *testing.T) {
	line := func(cmd, flag string) string {
		for line := range strings.Lines(run(t, "", cmd, "--help").out) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "--"+flag {
				return strings.Join(fields, " ")
			}
		}
		t.Errorf("%s has no --%s", cmd, flag)
		return ""
	}
	for _, flag := range []string{"buffer-kib", "transport", "attach", "btf"} {
		want := line("trace", flag)
		for _, cmd := range []string{"record", "top"} {
			if got := line(cmd, flag); got != want {
				t.Errorf("%s: %q\ntrace: %q", cmd, got, want)
			}
		}
	}
	if got := line("trace", "buffer-kib"); strings.Contains(got, "(default") {
		t.Errorf("a size that suits one transport alone: %q", got)
	}
	for _, size := range []string{"-1", "3", "4194304", "much"} {
		if got := run(t, "", "top", "--buffer-kib", size); got.status != 2 {
			t.Errorf("--buffer-kib %s: %+v", size, got)
		}
	}
}

// Everything in the help is where somebody looks for it.
func TestHelp(t *testing.T) {
	got := run(t, "", "--help")
	for _, want := range []string{
		"Trace this kernel, or replay a trace:\n  agent", "Ask about this machine:\n  doctor", "Check a kernel:\n  check", "Develop and try:\n  guest",
	} {
		if !strings.Contains(got.out, want) {
			t.Errorf("no %q in\n%s", want, got.out)
		}
	}
	for _, hidden := range []string{"check-actor", "check-watchdog"} {
		if got := run(t, "", hidden); got.status != 2 {
			t.Errorf("%s is a command: %+v", hidden, got)
		}
	}
	for _, hidden := range []string{"sharer", "soak-worker", "mapper"} {
		if got := run(t, "", "workload", hidden); got.status != 2 {
			t.Errorf("workload %s is a command: %+v", hidden, got)
		}
	}
}
