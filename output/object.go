package output

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// The subsystems, as rows and --only name them. The charges of BPF objects to
// memory cgroups are a subsystem of their own, for they cost more to watch.
const (
	subsystemPerf  = "perf"
	subsystemBPF   = "bpf"
	subsystemMemcg = "memcg"
	// others stands for io_uring, xdp and the rest, whose rows have their own names.
	subsystemOthers = "others"
)

// Subsystems are the names that --only takes.
func Subsystems() []string {
	return []string{subsystemPerf, subsystemBPF, subsystemMemcg, subsystemOthers}
}

func subsystemOf(e *ledger.Entry) string {
	switch {
	case e.Charger != ledger.NoCharger:
		return e.Charger.String()
	case e.Object == nil:
		return subsystemPerf
	case e.Kind == ledger.Growth:
		return subsystemMemcg
	}
	return subsystemBPF
}

// objectColumn is a column of rows about BPF objects; elsewhere it is zero.
func objectColumn[T integers](name string, field func(*ledger.Object) *T) Column {
	return integer(name, func(r *Row) *T { return field(r.object()) })
}

func objectText(name string, field func(*ledger.Object) *string) Column {
	return text(name, func(r *Row) string { return *field(r.object()) }).
		read(func(r *Row, b []byte) error { return json.Unmarshal(b, field(r.object())) })
}

// object is the row's object. A row that has none gets one that is discarded.
func (r *Row) object() *ledger.Object {
	if r.Object == nil {
		return &ledger.Object{}
	}
	return r.Object
}

func objectColumns() []Column {
	columns := []Column{
		text("object", func(r *Row) string { return objectKind(r.Object) }).read(parseObjectKind),
		objectColumn("object_key", func(o *ledger.Object) *uint64 { return &o.Key }),
		objectColumn("object_id", func(o *ledger.Object) *uint32 { return &o.ID }),
		objectColumn("object_type", func(o *ledger.Object) *uint32 { return &o.Type }),
		text("object_type_name", func(r *Row) string { return objectType(r.Object) }),
		objectText("object_name", func(o *ledger.Object) *string { return &o.Name }),
		objectColumn("key_size_bytes", func(o *ledger.Object) *uint32 { return &o.KeySize }),
		objectColumn("value_size_bytes", func(o *ledger.Object) *uint32 { return &o.ValueSize }),
		objectColumn("max_entries", func(o *ledger.Object) *uint32 { return &o.MaxEntries }),
		objectColumn("map_flags", func(o *ledger.Object) *uint32 { return &o.Flags }),
		text("regime", func(r *Row) string { return regime(r.Object) }).read(parseRegime),
		boolean("memcg_watched", func(r *Row) *bool { return &r.object().Watched }),
		boolean("memcg_freed_later", func(r *Row) *bool { return &r.object().Later }),
		derived("memcg_charged_bytes", func(r *Row) int64 { return r.object().Charged() }),
	}
	for i := range 2 {
		prefix := fmt.Sprintf("memcg_payer%d_", i+1)
		columns = append(columns,
			objectColumn(prefix+"cgroup_id", func(o *ledger.Object) *uint64 { return &o.Payers[i].CgroupID }),
			objectColumn(prefix+"page_bytes", func(o *ledger.Object) *int64 { return &o.Payers[i].Pages }),
			objectColumn(prefix+"object_bytes", func(o *ledger.Object) *int64 { return &o.Payers[i].Objects }),
			objectText(prefix+"cgroup", func(o *ledger.Object) *string { return &o.Payers[i].Cgroup }))
	}
	columns = append(columns,
		objectColumn("memcg_further_bytes", func(o *ledger.Object) *int64 { return &o.FurtherBytes }),
		objectColumn("memcg_unpaid_bytes", func(o *ledger.Object) *int64 { return &o.UnpaidBytes }),
		objectColumn("memcg_map_cgroup_id", func(o *ledger.Object) *uint64 { return &o.MapCgroupID }),
		objectText("memcg_map_cgroup", func(o *ledger.Object) *string { return &o.MapCgroup }),
		objectColumn("memcg_limit_cgroup_id", func(o *ledger.Object) *uint64 { return &o.LimitCgroupID }),
		objectText("memcg_limit_cgroup", func(o *ledger.Object) *string { return &o.LimitCgroup }),
		objectColumn("memcg_usage_bytes", func(o *ledger.Object) *int64 { return &o.UsageBytes }),
		objectColumn("memcg_limit_bytes", func(o *ledger.Object) *int64 { return &o.LimitBytes }))
	for i := range columns {
		columns[i].object = true
	}
	return columns
}

func objectKind(o *ledger.Object) string {
	switch {
	case o == nil:
		return ""
	case o.Program:
		return "prog"
	}
	return "map"
}

// parseObjectKind makes the row one about an object. Its column stands before
// those of the object's values.
func parseObjectKind(r *Row, b []byte) error {
	var name string
	if err := json.Unmarshal(b, &name); err != nil || name == "" {
		return err
	}
	r.Object = &ledger.Object{Program: name == "prog"}
	return nil
}

func objectType(o *ledger.Object) string {
	switch {
	case o == nil:
		return ""
	case o.Program:
		return ebpf.ProgramType(o.Type).String()
	}
	return ebpf.MapType(o.Type).String()
}

func regime(o *ledger.Object) string {
	switch {
	case o == nil:
		return ""
	case o.Rlimit:
		return "rlimit"
	}
	return "memcg"
}

func parseRegime(r *Row, b []byte) error {
	var name string
	err := json.Unmarshal(b, &name)
	r.object().Rlimit = name == "rlimit"
	return err
}

func objectID(o *ledger.Object) string {
	if o.ID == 0 {
		return "-"
	}
	return objectKind(o)[:1] + fmt.Sprint(o.ID)
}

// objectPages is what the row is about: pages charged to the user, or bytes
// charged to cgroups, in pages.
func (r *Row) objectPages() int64 {
	if r.Object.Rlimit || r.PageSize == 0 {
		return r.Object.Pages
	}
	bytes, page := r.Object.Charged(), int64(r.PageSize)
	if bytes < 0 {
		return -((page - 1 - bytes) / page)
	}
	return (bytes + page - 1) / page
}

// describeObject names an object and its size.
func describeObject(o *ledger.Object) string {
	s := objectType(o) + " " + objectKind(o)
	if o.ID != 0 {
		s += fmt.Sprintf(" %d", o.ID)
	}
	if o.Name != "" {
		s += fmt.Sprintf(" %q", Printable(o.Name))
	}
	if !o.Program {
		s += fmt.Sprintf(" (key %d, value %d bytes, max_entries %d)", o.KeySize, o.ValueSize, o.MaxEntries)
	}
	return s
}

// explainObject says what a row about a BPF object means.
func explainObject(r *Row) string {
	o := r.Object
	s := describeObject(o)
	switch {
	case r.Kind == ledger.Refusal:
		s += ": " + explainObjectRefusal(r)
	case o.Rlimit:
	case o.Watched:
		s += ": " + explainPayers(r)
	case o.MapCgroupID != 0 && r.Kind == ledger.Charge:
		s += fmt.Sprintf(": charged to %s; how much: --only bpf,memcg", cgroupName(o.MapCgroup, o.MapCgroupID))
	}
	s = strings.TrimSuffix(s, ".") + "."
	if r.Verdict != ledger.OK {
		s += " " + explainObjectVerdict(r)
	}
	return s
}

// explainPayers says who was charged how much.
func explainPayers(r *Row) string {
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
		parts = append(parts, fmt.Sprintf("%d bytes %s %s (%d for pages, %d by slab and percpu)",
			sign*(p.Pages+p.Objects), verb, cgroupName(p.Cgroup, p.CgroupID), sign*p.Pages, sign*p.Objects))
	}
	if o.FurtherBytes != 0 {
		parts = append(parts, fmt.Sprintf("%d bytes to further cgroups", o.FurtherBytes))
	}
	if o.UnpaidBytes != 0 && r.Kind != ledger.Refund {
		parts = append(parts, fmt.Sprintf("%d bytes that no cgroup pays for", o.UnpaidBytes))
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
	limit := "no limit"
	if o.LimitBytes >= 0 {
		limit = "memory.max " + Bytes(o.LimitBytes)
	}
	return fmt.Sprintf("memory.current %s, %s", Bytes(o.UsageBytes), limit)
}

// explainObjectRefusal says who refused, and what helps.
func explainObjectRefusal(r *Row) string {
	o := r.Object
	name := errnoName(r.Errno)
	switch {
	case o.Rlimit && r.Entry.AboutMemory():
		s := fmt.Sprintf("%s: locked_vm of uid %d %d + %d = %s > RLIMIT_MEMLOCK %s; no capability lifts this limit.", name,
			r.Payer(), r.User.Before, o.Pages, amount(r.Demand(), r.PageSize), amount(r.Caller.LockLimit, r.PageSize))
		if r.PageSize != 0 {
			s += fmt.Sprintf(" Remedies: ulimit -l %d (KiB), or fewer or smaller maps of this user.", r.Demand()*int64(r.PageSize)/1024)
		}
		return s
	case !o.Rlimit && r.Entry.AboutMemory() && o.LimitCgroupID != 0:
		s := fmt.Sprintf("%s: %s is at its limit: %s. Remedies: a higher memory.max, or a smaller map.", name,
			cgroupName(o.LimitCgroup, o.LimitCgroupID), usage(o))
		if stays := o.PageBytes(); stays != 0 {
			s += fmt.Sprintf(" %s of the attempt were still to be freed when it returned.", Bytes(stays))
		}
		return s
	case !o.Rlimit && r.Entry.AboutMemory():
		return name + ": no memory, or a memory cgroup at its limit (which one: --only bpf,memcg)."
	case r.Errno == rule.EPERM:
		return name + ": not about memory: it needs CAP_BPF, or a security module refuses."
	}
	return name + ": not about memory."
}

func explainObjectVerdict(r *Row) string {
	var s string
	switch r.Verdict {
	case ledger.Overcharge:
		s = fmt.Sprintf("overcharge: the object records %d pages, and the user's counter moved by %d.", r.ExpectedUser, r.ChargedUser)
	case ledger.Leak:
		s = fmt.Sprintf("leak: %s stay charged.", amount(r.Excess, r.PageSize))
	case ledger.Underflow:
		s = fmt.Sprintf("underflow: %s more were given back than were charged.", amount(r.Excess, r.PageSize))
	case ledger.WrongRefusal:
		s = fmt.Sprintf("wrong-refusal: locked_vm and what was asked for are within RLIMIT_MEMLOCK, or the refused call left %d pages charged.", r.ChargedUser)
	default:
		s = ruleOf(r)
	}
	if r.Uncertain {
		s += " Uncertain: something else may have moved the counter, or memory is on its way back."
	}
	return s
}

// cgroupName is a cgroup's path, or its id where the path is not known.
func cgroupName(path string, id uint64) string {
	if path == "" {
		return fmt.Sprintf("cgroup %d", id)
	}
	return Printable(path)
}

// explainAccount says what another charger did.
func explainAccount(r *Row) string {
	if r.Kind == ledger.Refusal {
		return fmt.Sprintf("%s: %s: locked_vm of uid %d is %d, RLIMIT_MEMLOCK %s: at the limit if it asked for more than the rest.", r.Charger, errnoName(r.Errno),
			r.Payer(), r.User.Before, amount(r.Caller.LockLimit, r.PageSize))
	}
	verb, sign := "charged to", int64(1)
	if r.Kind == ledger.Refund {
		verb, sign = "given back to", -1
	}
	s := fmt.Sprintf("%s: %d pages %s uid %d", r.Charger, sign*r.ChargedUser, verb, r.Payer())
	if r.ChargedPinned != 0 {
		s += fmt.Sprintf(", %d to the process", sign*r.ChargedPinned)
	}
	if r.Uncertain {
		s += "; another call moved the user's counter meanwhile"
	}
	return s + "."
}
