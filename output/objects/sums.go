package objects

import (
	"cmp"
	"io"
	"path"
	"slices"

	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// Groupings are what objects can be summed by.
func Groupings() []string { return []string{"cgroup", "pod", "pin", "type"} }

// sum is what the objects of a group are together.
type sum struct {
	group string
	known bool   // what group they are of
	label string // how the table names the group

	objects, maps, programs int
	memlock                 int64 // bytes, as the others
	charged                 int64
	chargedObjects          int   // of which that is known
	unpaid                  int64 // that no cgroup, or only the root, pays for
	payerUnknown            int64 // whose payer is not known
	orphans                 int
}

func (o *Options) sumColumns(bootID string) []columnOf[sum] {
	header := map[string]string{"cgroup": "CGROUP", "pod": "POD", "pin": "PINNED_BELOW", "type": "TYPE"}[o.By]
	none := map[string]string{"pod": "no pod", "pin": "not pinned"}[o.By]
	size := o.size()
	number := func(value func(s *sum) int) func(*sum) any { return func(s *sum) any { return value(s) } }
	bytes := func(name, header string, value func(s *sum) int64) columnOf[sum] {
		return columnOf[sum]{name: name, value: func(s *sum) any { return value(s) }, header: header,
			cell: func(s *sum) string { return size(value(s)) }}
	}
	charged := bytes("charged_bytes", "CHARGED", func(s *sum) int64 { return s.charged })
	charged.cell = func(s *sum) string {
		if s.chargedObjects == 0 {
			return ""
		}
		return size(s.charged)
	}
	return []columnOf[sum]{
		{name: "kind", value: func(*sum) any { return "sum" }},
		{name: "by", value: func(*sum) any { return o.By }},
		{name: "group", value: func(s *sum) any { return s.group }, header: header, left: true,
			cell: func(s *sum) string {
				if !s.known {
					return "not known"
				}
				return cmp.Or(s.label, s.group, none)
			}},
		{name: "label", value: func(s *sum) any { return s.label }},
		{name: "group_known", value: func(s *sum) any { return s.known }},
		{name: "objects", value: number(func(s *sum) int { return s.objects })},
		{name: "maps", value: number(func(s *sum) int { return s.maps }), header: "MAPS"},
		{name: "progs", value: number(func(s *sum) int { return s.programs }), header: "PROGS"},
		bytes("memlock_bytes", "MEMLOCK", func(s *sum) int64 { return s.memlock }),
		charged,
		{name: "charged_objects", value: number(func(s *sum) int { return s.chargedObjects })},
		bytes("unpaid_bytes", "UNPAID", func(s *sum) int64 { return s.unpaid }),
		bytes("payer_unknown_bytes", "PAYER_UNKNOWN", func(s *sum) int64 { return s.payerUnknown }),
		{name: "orphans", value: number(func(s *sum) int { return s.orphans }), header: "ORPHANS"},
		{name: "boot_id", value: func(*sum) any { return bootID }},
	}
}

func (o *Options) writeSums(w io.Writer, l *bpfobj.Listing, shown []object) error {
	sums := o.sums(l, shown)
	if o.JSON {
		return asJSON(w, sums, o.sumColumns(l.BootID))
	}
	return asTable(w, sums, o.sumColumns(l.BootID))
}

// sums adds the objects up by their groups, the largest first.
func (o *Options) sums(l *bpfobj.Listing, shown []object) (sums []sum) {
	type group struct {
		name  string
		known bool
	}
	index := map[group]int{}
	for _, object := range shown {
		names, known := groupsOf(o.By, object, l)
		for _, name := range names {
			g := group{name, known}
			i, ok := index[g]
			if !ok {
				i = len(sums)
				index[g] = i
				sums = append(sums, sum{group: name, known: known, label: label(o.By, object)})
			}
			sums[i].add(object, l.Accounting)
		}
	}
	slices.SortStableFunc(sums, func(a, b sum) int {
		byName := cmp.Compare(a.group, b.group)
		switch o.Sort {
		case "charged":
			return cmp.Or(cmp.Compare(b.charged, a.charged), byName)
		case "name", "type":
			return byName
		}
		return cmp.Or(cmp.Compare(b.memlock, a.memlock), byName)
	})
	return sums
}

// groupsOf are the groups that an object is of: of one that is pinned in several
// directories, each of them.
func groupsOf(by string, o object, l *bpfobj.Listing) (names []string, known bool) {
	switch by {
	case "cgroup":
		if o.CgroupKnown {
			return []string{o.Cgroup}, true
		}
		return []string{payer(&o)}, o.CgroupID != 0
	case "pod":
		return []string{cgroup.Identify(o.Cgroup).PodUID}, o.CgroupKnown
	case "pin":
		for _, pin := range o.Pinned {
			if dir := path.Dir(pin); !slices.Contains(names, dir) {
				names = append(names, dir)
			}
		}
		if names == nil {
			names = []string{""}
		}
		return names, l.Complete
	}
	return []string{o.Type}, true
}

// label is what people call an object's group, where that is known.
func label(by string, o object) string {
	names := o.Names
	switch by {
	case "cgroup":
		return names.String()
	case "pod":
		names.Container = ""
		return names.String()
	}
	return ""
}

func (s *sum) add(o object, accounting kernel.BPFAccounting) {
	s.objects++
	if o.Kind == bpfobj.KindMap {
		s.maps++
	} else {
		s.programs++
	}
	s.memlock += o.Memlock
	if o.ChargedKnown {
		s.charged += o.Charged
		s.chargedObjects++
	}
	switch {
	case accounting == kernel.BPFNone, accounting == kernel.BPFMemcg && o.CgroupKnown && o.Cgroup == "/":
		s.unpaid += o.Memlock
	case accounting == kernel.BPFMemcg && o.CgroupID != 0, accounting == kernel.BPFRlimit && o.UIDKnown:
	default:
		s.payerUnknown += o.Memlock
	}
	if len(o.Orphan) > 0 {
		s.orphans++
	}
}
