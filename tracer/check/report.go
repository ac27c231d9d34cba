package check

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// Version is the version of the report. It changes when a field changes its
// name, type or meaning.
const Version = 1

// The results of a scenario.
const (
	Pass = "pass"
	Fail = "fail"
	Skip = "skip"
)

// Report is what a check found, of one kernel or of several.
type Report struct {
	Version int      `json:"v"`
	Kernels []Kernel `json:"kernels"`
}

// ReportOf is a report on one kernel.
func ReportOf(k Kernel) Report { return Report{Version: Version, Kernels: []Kernel{k}} }

// Kernel is what a check found of one kernel.
type Kernel struct {
	Image   string `json:"image"` // booted; "": the running kernel
	Release string `json:"release"`
	Arch    string `json:"arch"`
	// Error says why the kernel could not be checked, or not to the end; "": it was.
	Error string `json:"error"`
	// NoImage is of those errors that the kernel cannot be had.
	NoImage bool `json:"-"`
	// Log is the file with the kernel's messages, where they were kept.
	Log string `json:"log"`
	// Tracer is how the tracer watched; "": it could not be opened, TracerError
	// says why, and the witnesses alone decided.
	Tracer      string `json:"tracer"`
	TracerError string `json:"tracer_error"`
	PageBytes   int64  `json:"page_bytes"`
	// TracerMS is how long the tracer took to open, and DurationMS how long all
	// took, in milliseconds of the kernel's own clock.
	TracerMS   int64      `json:"tracer_ms"`
	DurationMS int64      `json:"duration_ms"`
	Scenarios  []Scenario `json:"scenarios"`
	// Gone are the failures that are listed as known for this kernel, and did not come.
	Gone []Gone `json:"known_gone"`
}

// Gone is a failure that is listed as known, and did not come.
type Gone struct {
	Scenario string   `json:"scenario"`
	Verdicts []string `json:"verdicts"`
	Known    string   `json:"known"`
}

// Scenario is what came of one scenario.
type Scenario struct {
	Name   string `json:"name"`
	Result string `json:"result"` // Pass, Fail or Skip
	// CouldNotRun marks a skip that is for no want of a feature: something went
	// wrong, and Reason says what.
	CouldNotRun bool `json:"could_not_run"`
	// Verdicts names the invariants that are broken.
	Verdicts []string `json:"verdicts"`
	Evidence Evidence `json:"evidence"`
	Reason   string   `json:"reason"` // of a fail or a skip; "" of a pass
	// Known names what lists a fail as known; "": nothing does.
	Known string `json:"known"`
	// DurationMS is how long it took, in milliseconds of the kernel's own clock.
	DurationMS int64 `json:"duration_ms"`
}

// Evidence is what a result rests on. Amounts are pages.
type Evidence struct {
	AllowancePages int64     `json:"allowance_pages"`
	WitnessesRead  int       `json:"witnesses_read"` // readings compared with the intent
	Broken         []Witness `json:"witnesses"`      // those that differ
	// WitnessVerdicts names what the witnesses alone saw to be broken: by that, kernels
	// are compared of which one was not traced.
	WitnessVerdicts []string `json:"witness_verdicts"`
	Tracer          Watched  `json:"tracer"`
	// Agree reports whether tracer and witnesses came to the same result. Without a
	// tracer they do.
	Agree     bool     `json:"agree"`
	Hurts     string   `json:"hurts"`     // whom a broken invariant hurts
	Reproduce []string `json:"reproduce"` // two lines
	Notes     []string `json:"notes"`

	right map[string]bool // witnesses whose last reading was as expected
}

// Watched is what the tracer saw of a scenario.
type Watched struct {
	Watched   bool     `json:"watched"`
	Events    uint64   `json:"events"`
	Lost      uint64   `json:"lost"`
	Uncertain uint64   `json:"uncertain"`
	Scheme    string   `json:"era"` // how the kernel was seen to account
	Broken    []Broken `json:"broken"`
}

// Broken is a verdict of the ledger: how often, and the first time.
type Broken struct {
	Verdict             string `json:"verdict"`
	Certainty           string `json:"certainty"` // "exact" or "uncertain", as in a trace
	Count               uint64 `json:"count"`
	Kind                string `json:"kind"`
	PID                 uint32 `json:"pid"`
	UID                 uint32 `json:"uid"`
	UserExtraPages      int64  `json:"user_extra_pages"`
	ExpectedUserPages   int64  `json:"expected_user_pages"`
	ChargedUserPages    int64  `json:"charged_user_pages"`
	ExpectedPinnedPages int64  `json:"expected_pinned_pages"`
	ChargedPinnedPages  int64  `json:"charged_pinned_pages"`
	ExcessPages         int64  `json:"excess_pages"`
}

const (
	certain   = "exact"
	uncertain = "uncertain"
)

// verdicts names those of one certainty.
func (w *Watched) verdicts(certainty string) (names []string) {
	for _, b := range w.Broken {
		if b.Certainty == certainty && !slices.Contains(names, b.Verdict) {
			names = append(names, b.Verdict)
		}
	}
	return names
}

// Certain reports whether the tracer is certain that something is broken.
func (w *Watched) Certain() bool { return len(w.verdicts(certain)) > 0 }

// judge runs a scenario's events through a ledger of their own.
func judge(events []ledger.Event, lost uint64) Watched {
	w := Watched{Watched: true, Lost: lost, Broken: []Broken{}}
	l := ledger.New()
	first := map[ledger.Verdict]ledger.Entry{}
	for _, ev := range events {
		e := l.Apply(ev)
		// The entry that is certain says more than one that had to wait.
		if old, seen := first[e.Verdict]; !seen || old.Uncertain && !e.Uncertain {
			first[e.Verdict] = e
		}
	}
	s := l.Summary()
	w.Events, w.Uncertain, w.Scheme = s.Events, s.Uncertain(), s.Scheme.String()
	for v := ledger.OK + 1; int(v) < ledger.Verdicts; v++ {
		certainty, count := certain, s.Verdicts[v]
		if count == 0 {
			certainty, count = uncertain, s.Doubtful[v]
		}
		if count == 0 {
			continue
		}
		e := first[v]
		w.Broken = append(w.Broken, Broken{
			Verdict: v.String(), Certainty: certainty, Count: count, Kind: e.Kind.String(), PID: e.Caller.PID, UID: e.Caller.UID, UserExtraPages: e.Asked(),
			ExpectedUserPages: e.ExpectedUser, ChargedUserPages: e.ChargedUser,
			ExpectedPinnedPages: e.ExpectedPinned, ChargedPinnedPages: e.ChargedPinned, ExcessPages: e.Excess,
		})
	}
	w.Broken = append(w.Broken, atRest(&s)...)
	return w
}

// atRest says what is left at the end of a scenario of what BPF objects, io_uring
// and others were charged. Perf buffers have their verdicts at each refund. The
// kernel frees these in its own time, and a busy machine takes more of it than the
// scenario waited: what is left is a doubt, which only a witness makes sure.
func atRest(s *ledger.Summary) (left []Broken) {
	if s.Objects > 0 {
		left = append(left, Broken{Verdict: ledger.Leak.String(), Certainty: uncertain, Count: uint64(s.Objects), Kind: "charge of a BPF object that is not freed", ChargedUserPages: s.LiveUser, ExcessPages: s.LiveUser + s.ObjectBytes/page()})
	}
	for _, u := range s.Users {
		if u.Others == 0 {
			continue
		}
		verdict, certainty := ledger.Leak, uncertain
		if u.Others < 0 {
			verdict, certainty = ledger.Underflow, certain
		}
		left = append(left, Broken{Verdict: verdict.String(), Certainty: certainty, Count: 1, Kind: "charge that does not come back", UID: u.UID, ChargedUserPages: u.Others, ExcessPages: max(u.Others, -u.Others)})
	}
	return left
}

// New reports whether it is a fail that is not known.
func (sc *Scenario) New() bool { return sc.Result == Fail && sc.Known == "" }

// conclude makes a result of what witnesses and tracer say. What the tracer is
// not certain of counts where a witness saw something too.
func (sc *Scenario) conclude(traced bool) {
	e := &sc.Evidence
	e.WitnessVerdicts = append([]string{}, named(e.Broken, e.right)...)
	sure, unsure := e.Tracer.verdicts(certain), e.Tracer.verdicts(uncertain)
	witness, tracer := len(e.Broken) > 0, len(sure) > 0
	e.Agree = !traced || !e.Tracer.Watched || witness == (tracer || witness && len(unsure) > 0)
	if !witness && !tracer {
		sc.Result = Pass
		return
	}
	sc.Result = Fail
	sc.Verdicts = sure
	if list := causes(sure); len(list) > 0 {
		sc.Verdicts = list
	} else if list := causes(unsure); len(list) > 0 {
		sc.Verdicts = list
	} else if len(sure) == 0 {
		sc.Verdicts = e.WitnessVerdicts
	}
	e.Hurts = impact(sc.Verdicts)
	e.Reproduce = []string{strings.Join(e.Notes, "; "), ""}
	e.Notes = []string{}
	sc.Reason = e.reason()
}

// causes are verdicts without the wrong refusals: those follow from a counter
// that the others left too high, and stay in the evidence.
func causes(verdicts []string) []string {
	return slices.DeleteFunc(slices.Clone(verdicts), func(v string) bool { return v == ledger.WrongRefusal.String() })
}

// again makes the last line of a reproduction: the command that runs the scenario with
// some arguments, for a shell.
func (sc *Scenario) again(args []string) {
	if len(sc.Evidence.Reproduce) != 2 {
		return
	}
	if sc.Name != programName { // which the arguments name
		args = append(slices.Clone(args), "--scenario", sc.Name)
	}
	sc.Evidence.Reproduce[1] = CommandLine(args)
}

// CommandLine is a check with some arguments, for a shell.
func CommandLine(args []string) string {
	return shellLine(append([]string{"pinwatch", "check"}, args...))
}

func shellLine(command []string) string {
	words := make([]string, len(command))
	for i, word := range command {
		words[i] = quoted(word)
	}
	return strings.Join(words, " ")
}

// quoted is a word as a shell takes it.
func quoted(word string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)) || strings.ContainsRune("-_./,:=+@%", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// reason says in a sentence what is broken: expected and seen, in pages.
func (e *Evidence) reason() string {
	var parts []string
	if len(e.Tracer.Broken) > 0 {
		var list []string
		for i := range e.Tracer.Broken {
			list = append(list, e.Tracer.Broken[i].String())
		}
		parts = append(parts, "tracer: "+strings.Join(list, ", "))
	} else if e.Tracer.Watched {
		parts = append(parts, "tracer: ok")
	}
	if len(e.Broken) > 0 {
		w := e.Broken[0]
		s := "witness: " + w.String()
		if more := len(e.Broken) - 1; more > 0 {
			s += fmt.Sprintf(" (and %d more)", more)
		}
		parts = append(parts, s)
	} else {
		parts = append(parts, "witness: ok")
	}
	if !e.Agree {
		parts = append(parts, "they do not agree")
	}
	return strings.Join(parts, "; ")
}

func (w *Witness) String() string {
	return fmt.Sprintf("%s: expected %d pages, seen %d, after: %s", w.Witness, w.ExpectedPages, w.SeenPages, w.When)
}

func (b *Broken) String() string {
	s := fmt.Sprintf("%s of %d pages at a %s (user: expected %d, seen %d; process: expected %d, seen %d)", b.Verdict, b.ExcessPages, b.Kind,
		b.ExpectedUserPages, b.ChargedUserPages, b.ExpectedPinnedPages, b.ChargedPinnedPages)
	if b.Certainty == uncertain {
		s += ", uncertain"
	}
	if b.Count > 1 {
		s += fmt.Sprintf(", %d times", b.Count)
	}
	return s
}

// impact is whom broken invariants hurt, by their names.
func impact(verdicts []string) string {
	var list []string
	for _, name := range verdicts {
		if whom := Impact(name); whom != "" {
			list = append(list, whom)
		}
	}
	return strings.Join(list, "; ")
}

// How to make an exit code of a report.
const (
	ExitDefault   = "default"
	ExitBisect    = "bisect"
	ExitKselftest = "kselftest"
)

// ExitConventions are the names of those.
func ExitConventions() []string { return []string{ExitDefault, ExitBisect, ExitKselftest} }

// ExitCode is a report's exit code by one of the conventions. named says that
// scenarios were asked for by name: one that cannot run then leaves the question
// open. A fail that is known counts as a pass.
//
//	default    0 all hold, 3 one is broken, 1 could not run
//	bisect     0 good, 1 bad, 125 cannot be tested
//	kselftest  0 pass, 1 fail or could not run, 4 skip
func (r *Report) ExitCode(convention string, named bool) (int, error) {
	var broken, absent, failed, skipped, passed bool
	for _, k := range r.Kernels {
		absent, failed = absent || k.NoImage, failed || k.Error != ""
		for _, sc := range k.Scenarios {
			switch {
			case sc.New():
				broken = true
			case sc.CouldNotRun:
				failed = true
			case sc.Result == Skip:
				skipped = true
			default:
				passed = true
			}
		}
	}
	open := skipped && (named || !passed)
	codes := map[string][5]int{ // all hold, broken, could not run, open, no image
		ExitDefault:   {0, 3, 1, 0, 2},
		ExitBisect:    {0, 1, 125, 125, 125},
		ExitKselftest: {0, 1, 1, 4, 1},
	}
	code, ok := codes[convention]
	switch {
	case !ok:
		return 0, fmt.Errorf("--exit %s: want %s, %s or %s", convention, ExitDefault, ExitBisect, ExitKselftest)
	case broken:
		return code[1], nil
	case absent:
		return code[4], nil
	case failed || !passed && !skipped:
		return code[2], nil
	case open:
		return code[3], nil
	}
	return code[0], nil
}

// ErrUnknown says that a scenario was asked for that there is not.
var ErrUnknown = errors.New("unknown scenario")
