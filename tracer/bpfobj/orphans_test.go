package bpfobj

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// An object is called an orphan for what was seen, and for nothing that was not.
func TestOrphans(t *testing.T) {
	held := func(cgroup string) []Holder { return []Holder{{PID: 1, Cgroup: cgroup, UID: 1000, UIDKnown: true}} }
	paid := func(cgroup string, o Object) Object {
		o.Cgroup, o.CgroupID, o.CgroupKnown, o.PayerGoneKnown = cgroup, 9, true, true
		return o
	}
	memcg, rlimit := kernel.BPFMemcg, kernel.BPFRlimit
	for name, c := range map[string]struct {
		object     Object
		accounting kernel.BPFAccounting
		pins       int
		unreadable int
		want       []Reason
		note       string
	}{
		"its pin alone":                {paid("/a", Object{References: 1, ReferencesKnown: true, Pinned: []string{"/p"}}), memcg, 1, 0, []Reason{PinAlone}, ""},
		"two pins alone":               {paid("/a", Object{References: 2, ReferencesKnown: true}), memcg, 2, 0, []Reason{PinAlone}, ""},
		"a pin and what was not seen":  {paid("/a", Object{References: 2, ReferencesKnown: true}), memcg, 1, 0, nil, ""},
		"a reference that is no pin":   {paid("/a", Object{References: 1, ReferencesKnown: true}), memcg, 0, 0, nil, ""},
		"references are not known":     {paid("/a", Object{Pinned: []string{"/p"}}), memcg, 1, 0, nil, "whether a pin alone holds it is not known (objects: 1)"},
		"the payer is gone":            {paid("/", Object{PayerGone: true, Holders: held("/b")}), memcg, 0, 0, []Reason{PayerGone}, ""},
		"a payer that cannot be read":  {Object{CgroupID: 9}, memcg, 0, 0, nil, "whether the payer's cgroup is gone is not known (objects: 1)"},
		"the root pays":                {Object{Cgroup: "/", CgroupKnown: true, Holders: held("/a")}, memcg, 0, 0, nil, ""},
		"another holds":                {paid("/a", Object{Holders: held("/ab")}), memcg, 0, 0, []Reason{PayerNotHolder}, ""},
		"another's cgroup":             {paid("/a", Object{Holders: held("")}), memcg, 0, 0, nil, ""},
		"the payer holds":              {paid("/a", Object{Holders: append(held("/b"), held("/a/c")...)}), memcg, 0, 0, nil, ""},
		"not all processes were read":  {paid("/a", Object{Holders: held("/b")}), memcg, 0, 3, nil, "not all processes could be read"},
		"a user's, another holds":      {Object{UID: 2000, UIDKnown: true, Holders: held("/")}, rlimit, 0, 0, []Reason{PayerNotHolder}, "no payer is called gone"},
		"a user's, who holds":          {Object{UID: 1000, UIDKnown: true, Holders: held("/")}, rlimit, 0, 0, nil, ""},
		"a user's, held by no one":     {Object{UID: 1000, UIDKnown: true}, rlimit, 0, 0, nil, ""},
		"pinwatch's own":               {Object{UID: 0x7efffffe, UIDKnown: true, Holders: held("/")}, rlimit, 0, 0, nil, ""},
		"who loaded it, of any regime": {Object{UID: 2000, UIDKnown: true, Holders: held("/"), Kind: KindProgram}, rlimit, 0, 0, nil, ""},
	} {
		o := c.object
		o.ID, o.Accounting = 5, c.accounting
		if o.Kind == "" {
			o.Kind = KindMap
		}
		l := &lister{Listing: Listing{Accounting: c.accounting}, index: map[kindID]int{}, unreadable: c.unreadable,
			pins: map[kindID][]inode{{o.Kind, 5}: make([]inode, c.pins)}}
		l.add(o)
		l.addOrphans()
		if diff := cmp.Diff(c.want, l.Objects[0].Orphan); diff != "" {
			t.Errorf("%s: want - got +\n%s", name, diff)
		}
		notes := strings.Join(l.OrphanNotes, "\n")
		if !strings.Contains(notes, c.note) || c.note == "" && c.accounting == memcg && notes != "" {
			t.Errorf("%s: %q; want %q", name, notes, c.note)
		}
	}
}
