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
	Cgroup       string // holders in it or below, or the payer
	MapsOnly     bool
	ProgramsOnly bool
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

// column is one value of an object: in JSON and, with a header, in the
// table.
type column struct {
	name   string
	value  func(o *bpfobj.Object) any
	header string
	left   bool
	cell   func(o *bpfobj.Object) string // nil: as in JSON
}

// columnsOf is the one list of an object's columns.
func columnsOf(size func(int64) string) []column {
	ofMap := func(value func(o *bpfobj.Object) uint32, format string) func(o *bpfobj.Object) string {
		return func(o *bpfobj.Object) string {
			if o.Kind != bpfobj.KindMap {
				return ""
			}
			return fmt.Sprintf(format, value(o))
		}
	}
	keySize := func(o *bpfobj.Object) uint32 { return o.KeySize }
	valueSize := func(o *bpfobj.Object) uint32 { return o.ValueSize }
	entries := func(o *bpfobj.Object) uint32 { return o.MaxEntries }
	flags := func(o *bpfobj.Object) uint32 { return o.Flags }
	return []column{
		{name: "kind", value: func(o *bpfobj.Object) any { return o.Kind }, header: "KIND", left: true},
		{name: "id", value: func(o *bpfobj.Object) any { return o.ID }, header: "ID"},
		{name: "type", value: func(o *bpfobj.Object) any { return o.Type }, header: "TYPE", left: true},
		{name: "name", value: func(o *bpfobj.Object) any { return o.Name }, header: "NAME", left: true},
		{name: "key_size_bytes", value: func(o *bpfobj.Object) any { return keySize(o) }, header: "KEY", cell: ofMap(keySize, "%d")},
		{name: "value_size_bytes", value: func(o *bpfobj.Object) any { return valueSize(o) }, header: "VALUE", cell: ofMap(valueSize, "%d")},
		{name: "max_entries", value: func(o *bpfobj.Object) any { return entries(o) }, header: "ENTRIES", cell: ofMap(entries, "%d")},
		{name: "flags", value: func(o *bpfobj.Object) any { return flags(o) }, header: "FLAGS", cell: ofMap(flags, "%#x")},
		{name: "memlock_bytes", value: func(o *bpfobj.Object) any { return o.Memlock }, header: "MEMLOCK",
			cell: func(o *bpfobj.Object) string { return size(o.Memlock) }},
		{name: "charged_bytes", value: func(o *bpfobj.Object) any { return o.Charged }, header: "CHARGED",
			cell: known(func(o *bpfobj.Object) bool { return o.ChargedKnown }, func(o *bpfobj.Object) string { return size(o.Charged) })},
		{name: "charged_known", value: func(o *bpfobj.Object) any { return o.ChargedKnown }},
		{name: "regime", value: func(o *bpfobj.Object) any { return o.Accounting }},
		{name: "uid", value: func(o *bpfobj.Object) any { return o.UID }, header: "UID",
			cell: known(func(o *bpfobj.Object) bool { return o.UIDKnown }, func(o *bpfobj.Object) string { return strconv.FormatUint(uint64(o.UID), 10) })},
		{name: "uid_known", value: func(o *bpfobj.Object) any { return o.UIDKnown }},
		{name: "cgroup", value: func(o *bpfobj.Object) any { return o.Cgroup }, header: "CGROUP", left: true, cell: payer},
		{name: "cgroup_id", value: func(o *bpfobj.Object) any { return o.CgroupID }},
		{name: "cgroup_known", value: func(o *bpfobj.Object) any { return o.CgroupKnown }},
		{name: "container_id", value: func(o *bpfobj.Object) any { return cgroup.Identify(o.Cgroup).ContainerID }},
		{name: "pod_uid", value: func(o *bpfobj.Object) any { return cgroup.Identify(o.Cgroup).PodUID }},
		{name: "uses", value: func(o *bpfobj.Object) any { return list(o.Refs) }, header: "USES", left: true, cell: uses},
		{name: "links", value: func(o *bpfobj.Object) any { return list(o.Links) }},
		{name: "pinned", value: func(o *bpfobj.Object) any { return list(o.Pinned) }, header: "PINNED", left: true,
			cell: func(o *bpfobj.Object) string { return strings.Join(o.Pinned, " ") }},
		{name: "holders", value: func(o *bpfobj.Object) any { return list(o.Holders) }, header: "HOLDERS", left: true, cell: holders},
	}
}

// list makes an absent list an empty one in JSON.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// known is a cell that stays empty where the value is not known.
func known(is func(o *bpfobj.Object) bool, text func(o *bpfobj.Object) string) func(o *bpfobj.Object) string {
	return func(o *bpfobj.Object) string {
		if !is(o) {
			return ""
		}
		return text(o)
	}
}

// payer is the cgroup that is charged, and the id of one whose path is gone.
func payer(o *bpfobj.Object) string {
	if !o.CgroupKnown && o.CgroupID != 0 {
		return fmt.Sprintf("gone (id %d)", o.CgroupID)
	}
	return o.Cgroup
}

// uses are a program's maps, or the programs that use a map.
func uses(o *bpfobj.Object) string {
	if len(o.Refs) == 0 {
		return ""
	}
	word := "prog "
	if o.Kind == bpfobj.KindProgram {
		word = "map "
	}
	return word + short(o.Refs, ",", func(id uint32) string { return strconv.FormatUint(uint64(id), 10) })
}

func holders(o *bpfobj.Object) string {
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

// Maps writes the objects that are asked for.
func Write(w io.Writer, l *bpfobj.Listing, opts Options) error {
	shown := opts.choose(l.Objects)
	size := format.Bytes
	if opts.Bytes {
		size = func(n int64) string { return strconv.FormatInt(n, 10) }
	}
	columns := columnsOf(size)
	if opts.JSON {
		return asJSON(w, shown, columns)
	}
	return asTable(w, shown, columns)
}

func asJSON(w io.Writer, shown []bpfobj.Object, columns []column) error {
	for i := range shown {
		line := fmt.Appendf(nil, `{"v":%d`, version)
		for _, c := range columns {
			value, err := json.Marshal(c.value(&shown[i]))
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			line = fmt.Appendf(line, `,"%s":%s`, c.name, value)
		}
		if _, err := w.Write(append(line, '}', '\n')); err != nil {
			return err
		}
	}
	return nil
}

func asTable(w io.Writer, shown []bpfobj.Object, columns []column) error {
	columns = slices.DeleteFunc(slices.Clone(columns), func(c column) bool { return c.header == "" })
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

// choose filters and sorts.
func (o *Options) choose(all []bpfobj.Object) []bpfobj.Object {
	var shown []bpfobj.Object
	for i := range all {
		if o.wants(&all[i]) {
			shown = append(shown, all[i])
		}
	}
	slices.SortStableFunc(shown, func(a, b bpfobj.Object) int {
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
		len(o.Types) > 0 && !slices.Contains(o.Types, object.Type),
		len(o.Names) > 0 && !slices.Contains(o.Names, object.Name),
		len(o.PIDs) > 0 && !slices.ContainsFunc(object.Holders, func(h bpfobj.Holder) bool { return slices.Contains(o.PIDs, h.PID) }):
		return false
	}
	if o.Cgroup == "" {
		return true
	}
	return object.CgroupKnown && cgroup.Matches(object.Cgroup, o.Cgroup) ||
		slices.ContainsFunc(object.Holders, func(h bpfobj.Holder) bool { return cgroup.Matches(h.Cgroup, o.Cgroup) })
}

// Notes say what the regime is, and why columns are empty, one line each.
func Notes(l *bpfobj.Listing) []string {
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
	return append(notes, l.Notes...)
}
