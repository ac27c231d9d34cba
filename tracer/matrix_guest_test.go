//go:build guest

package tracer_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// combination is a way to run a trace.
type combination struct {
	attach, transport string
	// types is a script that takes the kernel's BTF away, and leaves it in a file;
	// the trace is given that file.
	types string
}

func (c combination) String() string {
	s := c.attach + "/" + c.transport
	if c.types != "" {
		s += "/no-BTF"
	}
	return s
}

// hideBTF makes a kernel look as one that was built without types.
const hideBTF = "[ -e /tmp/types ] || { busybox cp /sys/kernel/btf/vmlinux /tmp/types && busybox mount -t tmpfs none /sys/kernel/btf; }"

// combinations are all there are, those that change the guest last: without types of
// its own the kernel is not read by typed loads, and together the last is the path of
// a kernel from before 5.2.
var combinations = []combination{
	{"kprobe", "ringbuf", ""},
	{"kprobe", "perf", ""},
	{"fentry", "ringbuf", ""},
	{"fentry", "perf", ""},
	{"auto", "auto", ""},
	{"kprobe", "ringbuf", hideBTF},
	{"kprobe", "perf", hideBTF},
}

// edges are buffers mapped and unmapped in the less usual ways.
const edges = "pinwatch trace --only perf --transport perf --include-self --json -- pinwatch workload edges"

// missing is what a series lacks, and how pinwatch says so; "" where it must be
// able to.
func (c combination) missing(series string) (what, words string) {
	if c.attach == "fentry" && series == "5.10" {
		return "its BTF does not describe perf_mmap, so there is no fentry", "attach Tracing/"
	}
	return "", ""
}

// marked runs a command between two markers; its words come after the second.
func marked(name, command string) string {
	return fmt.Sprintf("echo '== %s'; %s 2>/tmp/words; echo \"== $?\"; busybox cat /tmp/words\n", name, command)
}

// unmark parts what marked commands printed.
func unmark(t *testing.T, out guesttest.Result, want int) (results []guesttest.Result) {
	t.Helper()
	parts := strings.Split(out.Stdout, "== ")[1:]
	if len(parts) != 2*want {
		t.Fatalf("%d parts of output; want %d\n%s%s", len(parts), 2*want, out.Stdout, out.Stderr)
	}
	for pair := range slices.Chunk(parts, 2) {
		var r guesttest.Result
		_, r.Stdout, _ = strings.Cut(pair[0], "\n")
		code, words, _ := strings.Cut(pair[1], "\n")
		r.Stderr = words
		if _, err := fmt.Sscan(code, &r.Code); err != nil {
			t.Fatalf("exit code %q: %v", code, err)
		}
		results = append(results, r)
	}
	return results
}

// trace runs a trace in this way, with more arguments.
func (c combination) trace(arguments string) string {
	command := fmt.Sprintf("pinwatch trace --attach %s --transport %s ", c.attach, c.transport)
	if c.types != "" {
		return c.types + "\n" + marked(c.String(), command+"--btf /tmp/types "+arguments)
	}
	return marked(c.String(), command+arguments)
}

// command traces what the matrix runs.
func (c combination) command() string {
	arguments := tracedWorkload()
	if !guesttest.All() && c.attach != "auto" && (c.types == "" || c.transport != "perf") {
		arguments = "--only perf " + arguments // the others start slowly: all of them everywhere is for make test-kernels
	}
	return c.trace(arguments)
}

// matrix is what became of every kernel and combination: the one table of
// make test-kernels.
var matrix struct {
	mu    sync.Mutex
	rows  []string
	cells map[string]string // by row and combination
}

// addRow adds a kernel. The rows stand in the order that they are added in.
func addRow(name string) {
	matrix.mu.Lock()
	defer matrix.mu.Unlock()
	matrix.rows = append(matrix.rows, name)
}

// setCell says what became of a combination: "skip: why" and "FAIL: how" explain
// themselves below the table.
func setCell(row string, c combination, result string) {
	matrix.mu.Lock()
	defer matrix.mu.Unlock()
	if matrix.cells == nil {
		matrix.cells = map[string]string{}
	}
	matrix.cells[row+" "+c.String()] = result
}

// table is one line per kernel, and one for each cell that is not a pass. A cell
// that no test came to is a "?".
func table() string {
	var b strings.Builder
	line := func(first string, cell func(c combination) string) {
		fmt.Fprintf(&b, "%-22s", first)
		for _, c := range combinations {
			fmt.Fprintf(&b, " %-21s", cell(c))
		}
		b.WriteString("\n")
	}
	line("KERNEL", combination.String)
	var notes []string
	for _, row := range matrix.rows {
		line(row, func(c combination) string {
			result, why, explained := strings.Cut(matrix.cells[row+" "+c.String()], ": ")
			if explained {
				notes = append(notes, fmt.Sprintf("%s, %s: %s: %s", row, c, result, why))
			}
			return cmp.Or(result, "?")
		})
	}
	for _, note := range notes {
		b.WriteString(note + "\n")
	}
	for _, f := range findings {
		fmt.Fprintf(&b, "finding, %s: %s (testdata/findings)\n", strings.Join(f.Series, " "), f.Name)
	}
	return b.String()
}

// writeTable writes the table to the file that PINWATCH_TABLE names.
func writeTable() error {
	file := os.Getenv("PINWATCH_TABLE")
	if file == "" || len(matrix.rows) == 0 {
		return nil
	}
	return os.WriteFile(file, []byte(table()), 0o644)
}

// Every kernel, in every way to attach and with every transport, reports the same
// and agrees with the witnesses. What a kernel lacks is known beforehand, and said
// by pinwatch.
func TestMatrix(t *testing.T) {
	t.Parallel()
	shell := guesttest.Shell(t)
	script := marked("edges", edges)
	for _, c := range combinations {
		script += c.command()
	}
	for _, k := range guesttest.WithOldest(t, guesttest.Newest(t)) {
		addRow(k.String())
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			out := guesttest.Run(t, k, shell, "workload", "run-as", "--", "sh", "-c", script)
			results := unmark(t, out, 1+len(combinations))
			t.Run("edges", func(t *testing.T) { edgesAgree(t, results[0], k.Series == "5.10" /* the only one before 5.11 */) })
			for i, c := range combinations {
				t.Run(c.String(), func(t *testing.T) {
					setCell(k.String(), c, "FAIL: see above")
					result := results[i+1]
					if lacks, said := c.missing(k.Series); lacks != "" {
						if result.Code != 1 || !strings.Contains(result.Stderr, said) ||
							!strings.Contains(result.Stderr, "not supported") || !strings.Contains(result.Stderr, "use another kernel, or another --attach") {
							t.Fatalf("exit %d, want %q: %s", result.Code, said, result.Stderr)
						}
						setCell(k.String(), c, "skip: "+lacks)
						t.Skip(lacks)
					}
					if traceAgrees(t, result); !t.Failed() {
						setCell(k.String(), c, "pass")
					}
				})
			}
		})
	}
}

// edgesAgree checks the trace of the edges: the same rows on every kernel, but
// that older ones let a part be unmapped. What pinwatch itself is charged for the
// perf array comes first.
func edgesAgree(t *testing.T, out guesttest.Result, old bool) {
	t.Helper()
	if said := strings.Contains(out.Stderr, "this kernel charges BPF objects to their user"); said != old {
		t.Errorf("BPF objects charged to users: said %v, want %v: %s", said, old, out.Stderr)
	}
	var steps, own, got []string
	var vmPin int
	var page int64
	for line := range strings.Lines(out.Stdout) {
		var r struct {
			Step   string `json:"step"`
			VmPin  int    `json:"vm_pin_kib"`
			Own    bool   `json:"own"`
			Kind   string `json:"kind"`
			UID    uint32 `json:"uid"`
			Pages  int64  `json:"user_extra_pages"`
			User   int64  `json:"charged_user_pages"`
			Pinned int64  `json:"charged_pinned_pages"`
			Errno  int32  `json:"errno"`
			Result string `json:"verdict"`
			Sure   string `json:"certainty"`
			Page   int64  `json:"page_size_bytes"`
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		page = max(page, r.Page)
		switch text := fmt.Sprintf("%s uid %d: %d pages, %+d %+d, errno %d, %s %s", r.Kind, r.UID, r.Pages, r.User, r.Pinned, r.Errno, r.Result, r.Sure); {
		case r.Step != "":
			steps, vmPin = append(steps, r.Step), r.VmPin
		case r.Own:
			own = append(own, fmt.Sprintf("%s of %d", r.Kind, -min(0, r.User+r.Pinned)+max(0, r.User+r.Pinned)))
		case r.Kind != "summary":
			got = append(got, text)
		}
	}
	if page == 0 {
		t.Fatalf("no rows:\n%s", out.Stderr)
	}
	allowance := cpus * (512<<10 + page) / page // perf_event_mlock_kb is 512 KiB and a page
	line := func(kind string, uid, pages, sign int64, errno int) string {
		return fmt.Sprintf("%s uid %d: %d pages, %+d %+d, errno %d, ok exact", kind, uid, pages, sign*allowance, sign*(1025-allowance), errno)
	}
	want := []string{
		line("refusal", 0, 1<<21*(page/4096)+1, 0, 12),
		line("charge", 65534, 1025, 1, 0),
		line("refund", 65534, 1025, -1, 0),
		line("charge", 65534, 1025, 1, 0),
		line("unmapping", 65534, 1025, 0, 0),
	}
	if old {
		want = append(want, line("unmapping", 65534, 1, 0, 0), line("refund", 65534, 1024, -1, 0))
	} else {
		want = append(want, line("refund", 65534, 1025, -1, 0))
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("rows: %s\n%s", diff, out.Stderr)
	}
	if out.Code != 0 || len(steps) != 6 || vmPin != 0 {
		t.Errorf("exit %d, steps %v, VmPin %d kB at the end\n%s", out.Code, steps, vmPin, out.Stderr)
	}
	// A ring for each CPU, of 256 KiB and the control page, then the small ones of
	// the start go, of 32 KiB.
	rings := func(kind string, bytes int64) []string {
		return slices.Repeat([]string{fmt.Sprintf("%s of %d", kind, bytes/page+1)}, cpus)
	}
	wantOwn := slices.Concat(rings("charge", 256<<10), rings("refund", 32<<10))
	if diff := gocmp.Diff(wantOwn, own); diff != "" {
		t.Errorf("pinwatch itself: %s", diff)
	}
}
