// Package objects writes a listing of BPF objects, as a table or as JSON lines.
package objects

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/olekukonko/tablewriter/tw"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// version is the version of the JSON lines: since 2 a program is called prog.
const version = 2

// Options say which BPF objects to show, and how.
type Options struct {
	Sort         string // one of Sorts
	Types        []string
	Names        []string
	PIDs         []int
	Cgroup       string        // holders in it or below, or the payer
	Containers   cgroup.Wanted // of holders, or of the payer
	MapsOnly     bool
	ProgramsOnly bool
	Orphans      bool     // only those
	By           string   // one of Groupings: their sums instead; "": the objects
	Since        *Earlier // only what changed since; nil: all
	JSON         bool
	Bytes        bool // plain bytes in the table
}

// Sorts are the orders that objects can be shown in.
func Sorts() []string { return []string{"id", "memlock", "charged", "type", "name"} }

// Check says what cannot be meant.
func (o *Options) Check() error {
	if !slices.Contains(Sorts(), o.Sort) {
		return fmt.Errorf("--sort %q: want one of %s", o.Sort, strings.Join(Sorts(), ", "))
	}
	if o.MapsOnly && o.ProgramsOnly {
		return errors.New("--maps-only and --progs-only leave nothing")
	}
	return nil
}

// object is one that is shown, and how it changed.
type object struct {
	*bpfobj.Object
	change string // "": no earlier listing was compared
	growth int64  // of MEMLOCK, in bytes
}

// columnOf is one value of what has a row: in JSON and, with a header, in the table.
type columnOf[T any] struct {
	name   string
	value  func(*T) any
	header string
	left   bool
	cell   func(*T) string // nil: as in JSON
}

type column = columnOf[object]

// columns is the one list of an object's columns, as far as they are asked for.
func (o *Options) columns(bootID string) []column {
	size := o.size()
	all := objectColumns(size, bootID)
	if o.Since != nil {
		all = append(changeColumns(size), all...)
	}
	if o.Orphans {
		i := slices.IndexFunc(all, func(c column) bool { return c.name == "orphan" })
		all[i].header = "ORPHAN"
	}
	return all
}

// size is how the table writes bytes.
func (o *Options) size() func(int64) string {
	if o.Bytes {
		return func(n int64) string { return strconv.FormatInt(n, 10) }
	}
	return format.Bytes
}

func objectColumns(size func(int64) string, bootID string) []column {
	ofMap := func(value func(o *object) uint32, format string) func(o *object) string {
		return func(o *object) string {
			if o.Kind != bpfobj.KindMap {
				return ""
			}
			return fmt.Sprintf(format, value(o))
		}
	}
	keySize := func(o *object) uint32 { return o.KeySize }
	valueSize := func(o *object) uint32 { return o.ValueSize }
	entries := func(o *object) uint32 { return o.MaxEntries }
	flags := func(o *object) uint32 { return o.Flags }
	return []column{
		{name: "kind", value: func(o *object) any { return o.Kind }, header: "KIND", left: true},
		{name: "id", value: func(o *object) any { return o.ID }, header: "ID"},
		{name: "type", value: func(o *object) any { return o.Type }, header: "TYPE", left: true},
		{name: "name", value: func(o *object) any { return o.Name }, header: "NAME", left: true},
		{name: "key_size_bytes", value: func(o *object) any { return keySize(o) }, header: "KEY", cell: ofMap(keySize, "%d")},
		{name: "value_size_bytes", value: func(o *object) any { return valueSize(o) }, header: "VALUE", cell: ofMap(valueSize, "%d")},
		{name: "max_entries", value: func(o *object) any { return entries(o) }, header: "ENTRIES", cell: ofMap(entries, "%d")},
		{name: "flags", value: func(o *object) any { return flags(o) }, header: "FLAGS", cell: ofMap(flags, "%#x")},
		{name: "memlock_bytes", value: func(o *object) any { return o.Memlock }, header: "MEMLOCK",
			cell: func(o *object) string { return size(o.Memlock) }},
		{name: "charged_bytes", value: func(o *object) any { return o.Charged }, header: "CHARGED",
			cell: known(func(o *object) bool { return o.ChargedKnown }, func(o *object) string { return size(o.Charged) })},
		{name: "charged_known", value: func(o *object) any { return o.ChargedKnown }},
		{name: "regime", value: func(o *object) any { return o.Accounting }},
		{name: "uid", value: func(o *object) any { return o.UID }, header: "UID",
			cell: known(func(o *object) bool { return o.UIDKnown }, func(o *object) string { return strconv.FormatUint(uint64(o.UID), 10) })},
		{name: "uid_known", value: func(o *object) any { return o.UIDKnown }},
		{name: "cgroup", value: func(o *object) any { return o.Cgroup }, header: "CGROUP", left: true, cell: payer},
		{name: "cgroup_id", value: func(o *object) any { return o.CgroupID }},
		{name: "cgroup_known", value: func(o *object) any { return o.CgroupKnown }},
		{name: "container_id", value: func(o *object) any { return cgroup.Identify(o.Cgroup).ContainerID }},
		{name: "pod_uid", value: func(o *object) any { return cgroup.Identify(o.Cgroup).PodUID }},
		{name: "pod_name", value: func(o *object) any { return o.Names.Pod }},
		{name: "pod_namespace", value: func(o *object) any { return o.Names.Namespace }},
		{name: "container_name", value: func(o *object) any { return o.Names.Container }},
		{name: "uses", value: func(o *object) any { return list(o.Refs) }, header: "USES", left: true, cell: uses},
		{name: "links", value: func(o *object) any { return list(o.Links) }},
		{name: "pinned", value: func(o *object) any { return list(o.Pinned) }, header: "PINNED", left: true,
			cell: func(o *object) string { return strings.Join(o.Pinned, " ") }},
		{name: "holders", value: func(o *object) any { return list(o.Holders) }, header: "HOLDERS", left: true, cell: holders},
		{name: "references", value: func(o *object) any { return o.References }},
		{name: "references_known", value: func(o *object) any { return o.ReferencesKnown }},
		{name: "payer_gone", value: func(o *object) any { return o.PayerGone }},
		{name: "payer_gone_known", value: func(o *object) any { return o.PayerGoneKnown }},
		{name: "orphan", value: func(o *object) any { return list(o.Orphan) }, left: true, cell: orphan},
		{name: "boot_id", value: func(*object) any { return bootID }},
	}
}

// orphan says in words why an object is one.
func orphan(o *object) string {
	words := map[bpfobj.Reason]string{bpfobj.PinAlone: "a pin alone holds it", bpfobj.PayerGone: "payer's cgroup is gone", bpfobj.PayerNotHolder: "payer does not hold it"}
	var parts []string
	for _, reason := range o.Orphan {
		parts = append(parts, cmp.Or(words[reason], string(reason)))
	}
	return strings.Join(parts, "; ")
}

// list makes an absent list an empty one in JSON.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// known is a cell that stays empty where the value is not known.
func known(is func(o *object) bool, text func(o *object) string) func(o *object) string {
	return func(o *object) string {
		if !is(o) {
			return ""
		}
		return text(o)
	}
}

// payer is the container, or the cgroup, that is charged, and the id of a cgroup whose path is
// not known.
func payer(o *object) string {
	if o.CgroupKnown || o.CgroupID == 0 {
		return cmp.Or(o.Names.String(), o.Cgroup)
	}
	if o.PayerGoneKnown && o.PayerGone {
		return fmt.Sprintf("gone (id %d)", o.CgroupID)
	}
	return fmt.Sprintf("id %d", o.CgroupID)
}

// uses are a program's maps, or the programs that use a map.
func uses(o *object) string {
	if len(o.Refs) == 0 {
		return ""
	}
	word := "prog "
	if o.Kind == bpfobj.KindProgram {
		word = "map "
	}
	return word + short(o.Refs, ",", func(id uint32) string { return strconv.FormatUint(uint64(id), 10) })
}

func holders(o *object) string {
	parts := short(o.Holders, " ", func(h bpfobj.Holder) string {
		s := fmt.Sprintf("%d %s", h.PID, h.Comm)
		if h.FDs > 1 {
			s += fmt.Sprintf(" ×%d", h.FDs)
		}
		return s
	})
	if len(o.Links) == 0 {
		return parts
	}
	links := "link " + short(o.Links, ",", func(id uint32) string { return strconv.FormatUint(uint64(id), 10) })
	if parts == "" {
		return links
	}
	return parts + " " + links
}

// short is the first few of a list, and how many more there are.
func short[T any](l []T, separator string, text func(T) string) string {
	const most = 3
	var parts []string
	for _, v := range l[:min(len(l), most)] {
		parts = append(parts, text(v))
	}
	s := strings.Join(parts, separator)
	if len(l) > most {
		s += fmt.Sprintf(" +%d", len(l)-most)
	}
	return s
}

// Write writes the objects that are asked for, or their sums.
func Write(w io.Writer, l *bpfobj.Listing, opts Options) error {
	shown := opts.choose(l)
	if opts.By != "" {
		return opts.writeSums(w, l, shown)
	}
	columns := opts.columns(l.BootID)
	if opts.JSON {
		return asJSON(w, shown, columns)
	}
	return asTable(w, shown, columns)
}

func asJSON[T any](w io.Writer, shown []T, columns []columnOf[T]) error {
	for i := range shown {
		line := fmt.Appendf(nil, `{"v":%d`, version)
		for _, c := range columns {
			value, err := json.Marshal(c.value(&shown[i]))
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			line = fmt.Appendf(line, `,"%s":%s`, c.name, format.EscapeJSON(value))
		}
		if _, err := w.Write(append(line, '}', '\n')); err != nil {
			return err
		}
	}
	return nil
}

func asTable[T any](w io.Writer, shown []T, columns []columnOf[T]) error {
	columns = slices.DeleteFunc(slices.Clone(columns), func(c columnOf[T]) bool { return c.header == "" })
	var headers []string
	var align []tw.Align
	for _, c := range columns {
		side := tw.AlignRight
		if c.left {
			side = tw.AlignLeft
		}
		headers, align = append(headers, c.header), append(align, side)
	}
	table := format.Table(w, 1, align, headers...)
	for i := range shown {
		cells := make([]string, len(columns))
		for j, c := range columns {
			if c.cell != nil {
				cells[j] = format.Printable(c.cell(&shown[i]))
			} else {
				cells[j] = format.Printable(fmt.Sprint(c.value(&shown[i])))
			}
		}
		if err := table.Append(cells); err != nil {
			return err
		}
	}
	return table.Render()
}

// choose compares, filters and sorts.
func (o *Options) choose(l *bpfobj.Listing) []object {
	all := o.Since.compare(l)
	shown := slices.DeleteFunc(all, func(x object) bool { return !o.wants(x.Object) })
	slices.SortStableFunc(shown, func(a, b object) int {
		byID := cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
		switch o.Sort {
		case "memlock":
			return cmp.Or(cmp.Compare(b.Memlock, a.Memlock), byID)
		case "charged":
			return cmp.Or(cmp.Compare(b.Charged, a.Charged), byID)
		case "type":
			return cmp.Or(cmp.Compare(a.Type, b.Type), byID)
		case "name":
			return cmp.Or(cmp.Compare(a.Name, b.Name), byID)
		}
		return byID
	})
	return shown
}

func (o *Options) wants(object *bpfobj.Object) bool {
	switch {
	case o.MapsOnly && object.Kind != bpfobj.KindMap,
		o.ProgramsOnly && object.Kind != bpfobj.KindProgram,
		o.Orphans && len(object.Orphan) == 0,
		len(o.Types) > 0 && !slices.Contains(o.Types, object.Type),
		len(o.Names) > 0 && !slices.Contains(o.Names, object.Name),
		len(o.PIDs) > 0 && !slices.ContainsFunc(object.Holders, func(h bpfobj.Holder) bool { return slices.Contains(o.PIDs, h.PID) }):
		return false
	}
	if o.Containers.Any() && !o.Containers.Has(object.Cgroup, object.Names) &&
		!slices.ContainsFunc(object.Holders, func(h bpfobj.Holder) bool { return o.Containers.Has(h.Cgroup, h.Names) }) {
		return false
	}
	if o.Cgroup == "" {
		return true
	}
	return object.CgroupKnown && cgroup.Matches(object.Cgroup, o.Cgroup) ||
		slices.ContainsFunc(object.Holders, func(h bpfobj.Holder) bool { return cgroup.Matches(h.Cgroup, o.Cgroup) })
}

// Notes say what the regime is, why columns are empty, and what changed, one line each.
func Notes(l *bpfobj.Listing, opts Options) []string {
	words := map[kernel.BPFAccounting]string{
		kernel.BPFRlimit:  "BPF memory is charged to users here, and held against RLIMIT_MEMLOCK (rlimit: a map was refused for the limit, and created without); MEMLOCK is what is charged",
		kernel.BPFMemcg:   "BPF memory is charged to memory cgroups here, and RLIMIT_MEMLOCK does not matter (memcg: a map was created with a limit of 0); MEMLOCK is the kernel's own estimate",
		kernel.BPFNone:    "BPF memory is held against nothing here: a map was created with RLIMIT_MEMLOCK 0, and cgroups do not account it; MEMLOCK is the kernel's own estimate",
		kernel.BPFUnknown: "MEMLOCK is the kernel's own estimate",
	}
	notes := []string{words[l.Accounting]}
	if slices.ContainsFunc(l.Objects, func(o bpfobj.Object) bool { return !o.ChargedKnown }) {
		notes = append(notes, "CHARGED is empty: what the kernel charged for an object is seen only while it happens, in a trace")
	}
	notes = append(notes, l.Notes...)
	if opts.Orphans {
		notes = append(notes, l.OrphanNotes...)
	}
	return append(notes, opts.Since.notes(l, opts.choose(l))...)
}
