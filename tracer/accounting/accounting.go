// Package accounting finds out how this kernel accounts for perf buffers: it lets a
// throwaway user map a few past its allowance, by the witness of VmPin alone, and
// remembers what it saw for the boot. It needs no BPF, and goes by no version.
package accounting

import (
	"cmp"
	"context"
	"fmt"

	"github.com/pinwatch/pinwatch/tracer/rule"
)

// Finding is how this kernel accounts, and what says so.
type Finding struct {
	rule.Accounting
	By By
	// Why it was not seen, and what that needs; "" where it was.
	Why string
	// Clamps: the kernel was seen to charge a user that is above its allowance no
	// history. Where it was not, SchemeSplit may be SchemeUnclamped.
	Clamps bool
}

// By says who saw it.
type By string

// Who can have seen it.
const (
	Nobody       By = "nobody" // it is assumed
	ByExperiment By = "experiment"
	ByTrace      By = "trace"
)

// Assume is what is assumed where nothing could be seen: the intended rule.
func Assume(why string) Finding { return Finding{By: Nobody, Why: why} }

// Seen reports whether it was.
func (f *Finding) Seen() bool { return f.By == ByExperiment || f.By == ByTrace }

// Basis says what the finding rests on.
func (f *Finding) Basis() string {
	switch f.By {
	case ByExperiment:
		return "seen in an experiment with a throwaway user, since this boot"
	case ByTrace:
		return "seen in a trace, since this boot"
	}
	return fmt.Sprintf("assumed: split, as kernels since 5.3.9 and 5.4 do; not seen here: %s", cmp.Or(f.Why, "nobody has looked"))
}

// Doubt is what was not seen of a user that holds more than its allowance, as it does
// after the sysctl was lowered; "": nothing.
func (f *Finding) Doubt() string {
	if !f.Seen() || f.Scheme != rule.SchemeSplit || f.Clamps {
		return ""
	}
	return "whether this kernel charges the history of a user that is above its allowance (as 5.5.0 did) was not seen: nothing here could bring a throwaway user there"
}

// Find says how this kernel accounts: as remembered for this boot, else by an experiment,
// which is then remembered. Where neither can be, it is assumed, and the finding says why.
func Find(ctx context.Context) Finding { return Default().find(ctx, Try) }

// Again makes the experiment, whatever is remembered.
func Again(ctx context.Context) Finding {
	m := Default()
	f, err := Try(ctx)
	if err != nil {
		return m.find(ctx, func(context.Context) (Finding, error) { return f, err })
	}
	return m.learn(f)
}

// find is Find, with its experiment.
func (m Memory) find(ctx context.Context, try func(context.Context) (Finding, error)) Finding {
	old, known := m.Recall()
	if known && old.By == ByExperiment {
		return old
	}
	f, err := try(ctx)
	switch {
	case err == nil:
		return m.learn(f)
	case known:
		return old
	}
	return Assume(err.Error())
}

// learn remembers a finding, together with what a trace can have seen and the experiment
// could not: whether there is a history above the allowance.
func (m Memory) learn(f Finding) Finding {
	old, known := m.Recall()
	if known && old.Scheme == rule.SchemeUnclamped && f.Scheme == rule.SchemeSplit && !f.Clamps {
		f.Scheme = rule.SchemeUnclamped
	}
	m.remember(f) // best effort: without it the next one tries again
	return f
}

// Traced remembers the scheme that a trace saw, where it says more than what is remembered.
func Traced(scheme rule.Scheme) { Default().traced(scheme) }

func (m Memory) traced(scheme rule.Scheme) {
	if scheme == rule.SchemeUnknown || scheme == rule.SchemeOther || scheme == rule.SchemeEither {
		return // an experiment tells more
	}
	old, known := m.Recall()
	switch {
	case !known:
		old = Finding{By: ByTrace}
	case old.By == ByTrace:
		scheme = old.Scheme.Seen(scheme)
	case old.Scheme != rule.SchemeSplit || scheme != rule.SchemeUnclamped || old.Clamps:
		return // the experiment was alone with its counter
	}
	if known && old.Scheme == scheme {
		return
	}
	old.Scheme = scheme
	m.remember(old)
}
