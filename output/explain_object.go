package output

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/output/row"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// describeObject names an object and its size.
func describeObject(o *ledger.Object) string {
	s := row.ObjectType(o) + " " + row.ObjectKind(o)
	if o.ID != 0 {
		s += fmt.Sprintf(" %d", o.ID)
	}
	if o.Name != "" {
		s += fmt.Sprintf(" %q", format.Printable(o.Name))
	}
	if !o.Program {
		s += fmt.Sprintf(" (key %d, value %d bytes, max_entries %d)", o.KeySize, o.ValueSize, o.MaxEntries)
	}
	return s
}

// explainObject says what a row about a BPF object means.
func explainObject(r *row.Row) string {
	o := r.Object
	s := describeObject(o)
	switch {
	case r.Kind == ledger.Refusal:
		s += ": " + explainObjectRefusal(r)
	case o.Rlimit:
	case o.Watched:
		s += ": " + explainPayers(r)
	case o.MapCgroupID != 0 && r.Kind == ledger.Charge:
		s += fmt.Sprintf(": charged to %s; how much: --only bpf,memcg", cgroupName(o.MapNames, o.MapCgroup, o.MapCgroupID))
	}
	s = strings.TrimSuffix(s, ".") + "."
	if r.Verdict != ledger.OK {
		s += " " + explainObjectVerdict(r)
	}
	return s
}

// explainPayers says who was charged how much.
func explainPayers(r *row.Row) string {
	o := r.Object
	var parts []string
	for _, p := range o.Payers {
		if p.CgroupID == 0 {
			continue
		}
		verb, sign := "charged to", int64(1)
		if p.Pages+p.Objects < 0 {
			verb, sign = "given back to", -1
		}
		parts = append(parts, fmt.Sprintf("%s %s %s (%d for pages, %d by slab and percpu)",
			format.Count(sign*(p.Pages+p.Objects), "byte"), verb, cgroupName(p.Names, p.Cgroup, p.CgroupID), sign*p.Pages, sign*p.Objects))
	}
	if o.FurtherBytes != 0 {
		parts = append(parts, format.Count(o.FurtherBytes, "byte")+" to further cgroups")
	}
	if o.UnpaidBytes != 0 && r.Kind != ledger.Refund {
		parts = append(parts, format.Count(o.UnpaidBytes, "byte")+" that no cgroup pays for")
	}
	if len(parts) == 0 {
		parts = []string{"nothing was charged to a cgroup"}
	}
	if r.Kind == ledger.Charge && o.LimitCgroupID != 0 {
		parts = append(parts, usage(o))
	}
	return strings.Join(parts, ", ")
}

func usage(o *ledger.Object) string {
	_, v1 := cgroup.SplitV1(o.LimitCgroupID)
	usage, file := cgroup.MemoryFiles(v1)
	limit := "no limit"
	if o.LimitBytes >= 0 {
		limit = file + " " + format.Bytes(o.LimitBytes)
	}
	return fmt.Sprintf("%s %s, %s", usage, format.Bytes(o.UsageBytes), limit)
}

// explainObjectRefusal says who refused, and what helps.
func explainObjectRefusal(r *row.Row) string {
	s := strings.TrimSuffix(charging.OfRefusal(&r.Entry).Text(), ".")
	if stays := r.Object.PageBytes(); stays != 0 && !r.Object.Rlimit {
		s += fmt.Sprintf(". %s of the attempt were still to be freed when it returned", format.Count(stays, "byte"))
	}
	return s
}

func explainObjectVerdict(r *row.Row) string {
	var s string
	switch r.Verdict {
	case ledger.Overcharge:
		s = fmt.Sprintf("overcharge: the object records %s, and the user's counter moved by %d.", format.Count(r.ExpectedUser, "page"), r.ChargedUser)
	case ledger.Leak:
		s = fmt.Sprintf("leak: %s stay charged.", format.Pages(r.Excess, r.PageSize))
	case ledger.Underflow:
		s = fmt.Sprintf("underflow: %s more were given back than were charged.", format.Pages(r.Excess, r.PageSize))
	case ledger.WrongRefusal:
		s = fmt.Sprintf("wrong-refusal: locked_vm and what was asked for are within RLIMIT_MEMLOCK, or the refused call left %s charged.", format.Count(r.ChargedUser, "page"))
	default:
		s = ruleOf(r)
	}
	if r.Uncertain {
		s += " Uncertain: something else may have moved the counter, or memory is on its way back."
	}
	return s
}

// cgroupName is what people call a cgroup, else its path, else its id.
func cgroupName(names container.Names, path string, id uint64) string {
	id, v1 := cgroup.SplitV1(id)
	unnamed := fmt.Sprintf("cgroup %d", id)
	if v1 {
		unnamed += " of v1"
	}
	return format.Printable(cmp.Or(names.String(), path, unnamed))
}

// explainAccount says what another charger did.
func explainAccount(r *row.Row) string {
	if r.Kind == ledger.Refusal {
		return fmt.Sprintf("%s, uid %d: %s", r.Charger, r.Payer(), charging.OfRefusal(&r.Entry).Text())
	}
	did := "did to"
	if r.Kind == ledger.Refund {
		did = "gave back to"
	}
	user := movement{r.ChargedUser, fmt.Sprintf("uid %d", r.Payer())}
	process := []movement{{r.ChargedPinned, "the process"}, {r.LockedVM.Delta(), "locked_vm of the process (VmLck)"}}
	if r.Unknown() {
		known := movements(process)
		if known != "" {
			known += "; "
		}
		return fmt.Sprintf("%s: %swhat this call %s uid %d, if anything, is not known: another call moved the user's counter meanwhile.", r.Charger, known, did, r.Payer())
	}
	if r.ChargedUser == 0 {
		process[0].counter = "pinned_vm of the process (VmPin)"
	}
	all := movements(append([]movement{user}, process...))
	if all == "" {
		all = "0 pages charged to " + user.counter
	}
	s := string(r.Charger) + ": " + all
	if r.Uncertain {
		s += "; another call moved the user's counter meanwhile"
	}
	return s + "."
}

// movement is what was charged to a counter; negative: given back.
type movement struct {
	pages   int64
	counter string
}

// movements says all that is not zero.
func movements(list []movement) (text string) {
	for _, m := range list {
		switch n := max(m.pages, -m.pages); {
		case n == 0:
		case text == "":
			text = fmt.Sprintf("%s %s %s", format.Count(n, "page"), byDirection(m.pages), m.counter)
		default:
			text += fmt.Sprintf(", %d to %s", n, m.counter)
		}
	}
	return text
}

// byDirection says what was done with pages.
func byDirection(pages int64) string {
	if pages < 0 {
		return "given back to"
	}
	return "charged to"
}
