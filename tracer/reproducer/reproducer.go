// Package reproducer writes a program of perf calls as one C file that anybody can compile
// and run: it makes the calls, and reads the witnesses that are not pinwatch's.
package reproducer

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/pinwatch/pinwatch/testdata/findings"
	"github.com/pinwatch/pinwatch/tracer/check"
	"github.com/pinwatch/pinwatch/tracer/explore"
)

// The forms.
const (
	C         = "c"
	Kselftest = "kselftest"
	Report    = "report" // text for a mailing list, with the C file
)

// Forms are their names.
func Forms() []string { return []string{C, Kselftest, Report} }

//go:embed reproducer.c.tmpl
var text string

// Source is what a file is written from.
type Source struct {
	Name    string // of the scenario; "program" for one that has none
	About   string
	Program *check.Program
}

// Of is the source of a scenario.
func Of(e *check.Exercise) (*Source, error) {
	p, err := e.Program()
	return &Source{Name: e.Name, About: e.About, Program: p}, err
}

// file is what the template takes.
type file struct {
	*Source
	Emit       string
	Processes  []string // their names in C
	Events     []string
	Mappings   []string
	Objects    []string
	Users      int
	MlockPages int64
	Calls      []string
	AUX        string
	NeedsAUX   bool
}

// mostUsers is how many users a program may have.
const mostUsers = 4

// blank is where something between empty lines was left out.
var blank = regexp.MustCompile(`\n{3,}`)

// Write writes the C file in one of the forms.
func (s *Source) Write(w io.Writer, form string) error {
	f, err := s.file(form)
	if err != nil {
		return err
	}
	filled, err := f.fill(text)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, blank.ReplaceAllString(filled, "\n\n"))
	return err
}

// Check says what is in the way of writing it.
func (s *Source) Check() error {
	_, err := s.file(C)
	return err
}

func (s *Source) file(form string) (*file, error) {
	f := &file{Source: s, Emit: form, MlockPages: s.Program.MlockPages}
	for _, o := range s.Program.Steps {
		for _, n := range []int{o.Process, o.Event, o.To, o.Mapping, o.User, o.Object} {
			if n < 0 || n > 1<<10 {
				return nil, errors.New("a program's processes, events, mappings and objects have numbers from 0 to 1024")
			}
		}
		f.Users = max(f.Users, o.User%mostUsers+1)
		f.Processes = named(f.Processes, o.Process, "p")
		if o.Name != "" && s.Name != programName { // a file's names may be anything
			f.Processes[o.Process] = o.Name
		}
		switch o.Call {
		case check.CallOpen, check.CallMap, check.CallMapAUX, check.CallMirror, check.CallRedirect, check.CallGive, check.CallRace, check.CallTogether, check.CallClose:
			f.Events = named(f.Events, o.Event, "e")
		}
		switch o.Call {
		case check.CallMap, check.CallMapAUX, check.CallUnmap, check.CallCover, check.CallMove, check.CallProtect:
			f.Mappings = named(f.Mappings, o.Mapping, "m")
		case check.CallMirror:
			f.Mappings = named(named(f.Mappings, o.Mapping, "m"), o.To, "m")
		case check.CallRedirect:
			f.Events = named(f.Events, o.To, "e")
		case check.CallGive, check.CallRace:
			f.Processes = named(f.Processes, o.To, "p")
		}
		if check.OfObject(o.Call) {
			f.Objects = named(f.Objects, o.Object, "o")
		}
		f.NeedsAUX = f.NeedsAUX || o.AUX
	}
	if f.Users == 0 {
		return nil, errors.New("a program without steps has nothing to reproduce")
	}
	var aux []string
	f.NeedsAUX = f.NeedsAUX && s.Name != programName // whose steps are left out where they cannot be made
	for _, o := range s.Program.Steps {
		call, err := f.call(o)
		if err != nil {
			return nil, err
		}
		f.Calls = append(f.Calls, call)
		if o.AUX {
			aux = append(aux, fmt.Sprintf("[%s] = 1", f.Events[o.Event]))
		}
	}
	f.AUX = strings.Join(aux, ", ")
	return f, nil
}

// named has a name for the nth and all before it.
func named(names []string, n int, letter string) []string {
	for len(names) <= n {
		names = append(names, fmt.Sprintf("%s%d", letter, len(names)))
	}
	return names
}

// call is a step in C.
func (f *file) call(o check.Op) (string, error) {
	bit := map[bool]int{true: 1}
	p := f.Processes[o.Process]
	limit := fmt.Sprint(o.Limit)
	if o.Limit < 0 {
		limit = "NO_LIMIT"
	}
	event := func() string { return p + ", " + f.Events[o.Event] }
	object := func() string { return p + ", " + f.Objects[o.Object] }
	part := func() string { return fmt.Sprintf("%s, %s, %d, %d", p, f.Mappings[o.Mapping], o.At, o.Pages) }
	var name, args string
	switch o.Call {
	case check.CallStart:
		name, args = "start", fmt.Sprintf("%s, %d, %s, %d", p, o.User%mostUsers, limit, bit[o.IPCLock])
	case check.CallOpen:
		name, args = "open_event", event()
	case check.CallMap:
		name, args = "map", fmt.Sprintf("%s, %s, %d", event(), f.Mappings[o.Mapping], o.Pages)
	case check.CallMapAUX:
		name, args = "map_aux", fmt.Sprintf("%s, %s, %d", event(), f.Mappings[o.Mapping], o.Pages)
	case check.CallMirror:
		name, args = "mirror", fmt.Sprintf("%s, %s, %s, %d", event(), f.Mappings[o.Mapping], f.Mappings[o.To], o.Pages)
	case check.CallRedirect:
		name, args = "redirect", event()+", "+f.Events[o.To]
	case check.CallGive:
		name, args = "give", event()+", "+f.Processes[o.To]
	case check.CallClose:
		name, args = "close_event", event()
	case check.CallUnmap:
		name, args = "unmap", part()
	case check.CallCover:
		name, args = "map_over", part()
	case check.CallMove:
		name, args = "remap", part()
	case check.CallProtect:
		name, args = "read_only", part()
	case check.CallStorm:
		name, args = "threads", fmt.Sprintf("%s, %d, -1, %d", p, o.Value, o.Pages)
	case check.CallTogether:
		name, args = "threads", fmt.Sprintf("%s, %d, %s, %d", p, o.Value, f.Events[o.Event], o.Pages)
	case check.CallRace:
		name, args = "race", fmt.Sprintf("%s, %s, %s, %d", p, f.Processes[o.To], f.Events[o.Event], o.Pages)
	case check.CallFork:
		name, args = "fork_child", p
	case check.CallExec:
		name, args = "exec", p
	case check.CallExit:
		name, args = "do_exit", p
	case check.CallKill:
		name, args = "do_kill", p
	case check.CallLimit:
		name, args = "limit", p+", "+limit
	case check.CallIPCLock:
		name, args = "ipc_lock", fmt.Sprintf("%s, %d", p, bit[o.IPCLock])
	case check.CallFill:
		name, args = "fill", fmt.Sprintf("%s, %d", p, o.Pages)
	case check.CallRelease:
		name, args = "release", p
	case check.CallMeasure:
		name = "measure"
	case check.CallMlock:
		name, args = "mlock_pages", fmt.Sprint(o.Pages)
	case check.CallParanoid:
		name, args = "set_paranoid", fmt.Sprint(o.Value)
	case check.CallCPU:
		name, args = "last_cpu", fmt.Sprint(o.Value)
	case check.CallRestore:
		name = "settings_back"
	case check.CallRing:
		name, args = "ring", object()
	case check.CallRegister:
		name, args = "register_buffer", fmt.Sprintf("%s, %d", object(), o.Pages)
	case check.CallUnregister:
		name, args = "unregister_buffer", object()
	case check.CallUmem:
		name, args = "umem", fmt.Sprintf("%s, %d", object(), o.Pages)
	case check.CallSend:
		name, args = "send_zerocopy", fmt.Sprintf("%s, %d", object(), o.Pages)
	case check.CallBPFMap:
		name, args = "bpf_map", fmt.Sprintf("%s, %d", object(), o.Pages)
	case check.CallDrop:
		name, args = "drop", object()
	default:
		return "", fmt.Errorf("a program has no call %q", o.Call)
	}
	if args != "" {
		name += ", " + args
	}
	return name, nil
}

// Uses reports whether the program makes one of the calls.
func (f *file) Uses(calls ...string) bool {
	return slices.ContainsFunc(f.Program.Steps, func(o check.Op) bool { return slices.Contains(calls, o.Call) })
}

// Parts reports whether it names mappings after they were made.
func (f *file) Parts() bool {
	return f.Uses(check.CallUnmap, check.CallCover, check.CallMove, check.CallProtect, check.CallMirror)
}

// Maps reports whether it maps anything that is seen after the call.
func (f *file) Maps() bool {
	return f.Uses(check.CallMap, check.CallMapAUX, check.CallMirror, check.CallFill)
}

// Settings reports whether it changes the machine's.
func (f *file) Settings() bool {
	return f.MlockPages > 0 || f.Uses(check.CallMlock, check.CallParanoid, check.CallCPU)
}

// HasAUX reports whether it opens an event with an AUX area.
func (f *file) HasAUX() bool { return f.AUX != "" }

func (f *file) KTAP() bool { return f.Emit == Kselftest }

// File is the file's name, without its end.
func (f *file) File() string { return f.Name }

// Head is the comment at the file's beginning.
func (f *file) Head() (lines []string) {
	about := f.About
	if about == "" {
		about = "a program of calls"
	}
	lines = append(lines, Wrapped(f.Name+": "+about+".")...)
	add := func(paragraph string) { lines = append(append(lines, ""), Wrapped(paragraph)...) }
	add("Expected: " + Expected)
	if len(f.Objects) > 0 {
		add(ofOthers)
	}
	for _, k := range f.known() {
		where := ""
		if k.Where != "" {
			where = " (" + k.Where + ")"
		}
		add(fmt.Sprintf("Known on Linux %s as %s%s: %s No fix is known to whoever wrote this.", strings.Join(k.Series, ", "), k.Verdict, where, k.Says))
	}
	for _, fix := range findings.Fixed() {
		if slices.Contains(fix.Scenarios, f.Name) {
			add(fmt.Sprintf("A bug of the past that it provokes: %s, fixed by commit %s.", fix.Says, strings.Join(fix.Commits, ", ")))
		}
	}
	if f.Uses(check.CallRace, check.CallTogether, check.CallStorm) {
		add("Calls are made at the same time, 10 times: another number is the argument.")
	}
	if f.Uses(check.CallRace) { // of one process, its mmap_lock keeps them apart
		for _, k := range findings.Stock() {
			if k.Log != "" {
				add(fmt.Sprintf("On Linux %s it may crash the kernel: %s Run it where that does no harm.", strings.Join(k.Series, ", "), k.Says))
			}
		}
	}
	if f.Settings() {
		add("It changes settings of the whole machine, and puts them back.")
	}
	return lines
}

// Expected is what the accounting is meant to be.
const Expected = "perf_mmap() charges an area of a buffer once, when it is first mapped: to the user (user->locked_vm) what still fits " +
	"perf_event_mlock_kb times the online CPUs, the rest to the process (mm->pinned_vm). Whoever unmaps it last, perf_mmap_close() gives both back to those " +
	"who were charged. VmPin of /proc/PID/status is pinned_vm; how many more pages fit before EPERM, with an RLIMIT_MEMLOCK of 0, is what locked_vm leaves of the allowance."

// ofOthers is what is meant of what else is charged to a user.
const ofOthers = "io_uring's buffers (and its rings, on some kernels), AF_XDP umems, sends with MSG_ZEROCOPY and, before 5.11, BPF maps are charged to user->locked_vm while they live, " +
	"and refused where that would exceed RLIMIT_MEMLOCK; with CAP_IPC_LOCK only BPF maps are. A buffer of io_uring is in pinned_vm, too. How many pages another process " +
	"of the user can register before ENOMEM is what they leave of its limit. Which counter perf_mmap() charges is tried first."

// known is a finding of stock kernels, on the series that have it.
type known struct {
	findings.Finding
	Series []string
}

// known are the findings that the calls come to.
func (s *Source) known() (list []known) {
	form := explore.FormOf(*s.Program)
	for _, k := range findings.Stock() {
		series := k.Series
		if s.Name == programName {
			if !explore.Shows(&k, form) {
				continue
			}
		} else if series = showing(&k, s.Name); series == nil {
			continue
		}
		list = append(list, known{k, series})
	}
	return list
}

// programName is the name of what is no scenario.
const programName = "program"

// Since says on which series the findings were shown that the calls come to, and on which
// they were not, by runs of one scenario side by side.
func (s *Source) Since() (list []string) {
	for _, k := range s.known() {
		line := fmt.Sprintf("Known as %s: shown on Linux %s", k.Name, strings.Join(k.Series, ", "))
		if s.Name != programName {
			without := slices.DeleteFunc(examined(), func(series string) bool { return slices.Contains(k.Series, series) })
			if len(without) > 0 {
				line += "; not on " + strings.Join(without, ", ") + ", by runs side by side"
			}
		}
		list = append(list, line+".")
	}
	return list
}

// examined are the series that were looked into, in their order: all have a finding.
func examined() (series []string) {
	for _, k := range findings.Stock() {
		for _, one := range k.Series {
			if !slices.Contains(series, one) {
				series = append(series, one)
			}
		}
	}
	slices.SortFunc(series, func(a, b string) int {
		var x, y [2]int
		fmt.Sscanf(a, "%d.%d", &x[0], &x[1])
		fmt.Sscanf(b, "%d.%d", &y[0], &y[1])
		return slices.Compare(x[:], y[:])
	})
	return series
}

// showing are the series on which a scenario fails because of a finding.
func showing(k *findings.Finding, scenario string) []string {
	for _, entry := range k.Scenarios {
		name, only, some := strings.Cut(entry, "@")
		switch {
		case name != scenario:
		case some:
			return strings.Split(only, "+")
		default:
			return k.Series
		}
	}
	return nil
}

// Wrapped breaks a paragraph into lines for a comment, or for mail.
func Wrapped(paragraph string) (lines []string) {
	const width = 76
	line := ""
	for _, w := range strings.Fields(paragraph) {
		if line != "" && len(line)+1+len(w) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimSpace(line + " " + w)
	}
	return append(lines, line)
}
