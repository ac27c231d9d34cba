package objects

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pinwatch/pinwatch/output/format"
	"github.com/pinwatch/pinwatch/tracer/bpfobj"
	"github.com/pinwatch/pinwatch/tracer/cgroup/container"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// Earlier is an earlier listing, read back from its JSON lines.
type Earlier struct {
	name    string
	objects []bpfobj.Object
	bootID  string // "": not told
}

// earlierLine is a line of a listing. Older ones lack some fields.
type earlierLine struct {
	Version      int                  `json:"v"`
	Kind         string               `json:"kind"`
	ID           uint32               `json:"id"`
	Type         string               `json:"type"`
	Name         string               `json:"name"`
	KeySize      uint32               `json:"key_size_bytes"`
	ValueSize    uint32               `json:"value_size_bytes"`
	MaxEntries   uint32               `json:"max_entries"`
	Flags        uint32               `json:"flags"`
	Memlock      int64                `json:"memlock_bytes"`
	Charged      int64                `json:"charged_bytes"`
	ChargedKnown bool                 `json:"charged_known"`
	Accounting   kernel.BPFAccounting `json:"regime"`
	UID          uint32               `json:"uid"`
	UIDKnown     bool                 `json:"uid_known"`
	Cgroup       string               `json:"cgroup"`
	CgroupID     uint64               `json:"cgroup_id"`
	CgroupKnown  bool                 `json:"cgroup_known"`
	container.Names
	Uses            []uint32        `json:"uses"`
	Links           []uint32        `json:"links"`
	Pinned          []string        `json:"pinned"`
	Holders         []bpfobj.Holder `json:"holders"`
	References      uint64          `json:"references"`
	ReferencesKnown bool            `json:"references_known"`
	PayerGone       bool            `json:"payer_gone"`
	PayerGoneKnown  bool            `json:"payer_gone_known"`
	Orphan          []bpfobj.Reason `json:"orphan"`
	BootID          string          `json:"boot_id"`
	Change          string          `json:"change"`
}

// longestLine is how long a line of an earlier listing may be, in bytes: it names every holder.
const longestLine = 64 << 20

// ReadEarlierFile reads a file that maps --json wrote.
func ReadEarlierFile(name string) (*Earlier, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return ReadEarlier(name, in)
}

// ReadEarlier reads what maps --json wrote. name is that of the file.
func ReadEarlier(name string, in io.Reader) (*Earlier, error) {
	e := &Earlier{name: name}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, longestLine)
	for n := 1; lines.Scan(); n++ {
		o, err := e.parse(lines.Bytes())
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", name, n, err)
		}
		e.objects = append(e.objects, o)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return e, nil
}

func (e *Earlier) parse(line []byte) (bpfobj.Object, error) {
	var l earlierLine
	if err := json.Unmarshal(line, &l); err != nil {
		return bpfobj.Object{}, fmt.Errorf("want what pinwatch maps --json writes: %w", err)
	}
	if l.Version == 1 && l.Kind == "program" {
		l.Kind = bpfobj.KindProgram
	}
	if l.Version < 1 || l.Version > version || l.Kind != bpfobj.KindMap && l.Kind != bpfobj.KindProgram || l.ID == 0 {
		return bpfobj.Object{}, errors.New("want a map or a program, as pinwatch maps --json writes them")
	}
	if l.Change != "" {
		return bpfobj.Object{}, errors.New("a difference, that --since wrote: want a listing")
	}
	if len(e.objects) > 0 && l.BootID != e.bootID {
		return bpfobj.Object{}, errors.New("of another boot than the lines before it")
	}
	e.bootID = l.BootID
	return bpfobj.Object{Kind: l.Kind, ID: l.ID, Type: l.Type, Name: l.Name, KeySize: l.KeySize, ValueSize: l.ValueSize,
		MaxEntries: l.MaxEntries, Flags: l.Flags, Memlock: l.Memlock, Charged: l.Charged, ChargedKnown: l.ChargedKnown, Accounting: l.Accounting,
		UID: l.UID, UIDKnown: l.UIDKnown, Cgroup: l.Cgroup, CgroupID: l.CgroupID, CgroupKnown: l.CgroupKnown, Names: l.Names, Refs: l.Uses, Links: l.Links,
		Pinned: l.Pinned, Holders: l.Holders, References: l.References, ReferencesKnown: l.ReferencesKnown,
		PayerGone: l.PayerGone, PayerGoneKnown: l.PayerGoneKnown, Orphan: l.Orphan}, nil
}

// What became of an object since the earlier listing.
const (
	changeNew   = "new"
	changeGone  = "gone"
	changeGrown = "grown"
)

// objectID is what the kernel tells objects of a boot apart by.
type objectID struct {
	kind string
	id   uint32
}

// compare is what changed; all objects, where there is no earlier listing.
func (e *Earlier) compare(l *bpfobj.Listing) (changed []object) {
	if e == nil {
		for i := range l.Objects {
			changed = append(changed, object{Object: &l.Objects[i]})
		}
		return changed
	}
	before := map[objectID]*bpfobj.Object{}
	for i := range e.objects {
		o := &e.objects[i]
		before[objectID{o.Kind, o.ID}] = o
	}
	for i := range l.Objects {
		now := &l.Objects[i]
		was := before[objectID{now.Kind, now.ID}]
		if e.rebooted(l) || was == nil || !same(was, now) {
			changed = append(changed, object{now, changeNew, now.Memlock})
			continue
		}
		delete(before, objectID{now.Kind, now.ID})
		if now.Memlock > was.Memlock {
			changed = append(changed, object{now, changeGrown, now.Memlock - was.Memlock})
		}
	}
	if !l.Complete && !e.rebooted(l) {
		return changed // what is not seen may be there
	}
	for i := range e.objects {
		o := &e.objects[i]
		if before[objectID{o.Kind, o.ID}] == o {
			changed = append(changed, object{o, changeGone, -o.Memlock})
		}
	}
	return changed
}

// rebooted reports whether the listings are known to be of two boots, or of two machines: ids
// are given anew then.
func (e *Earlier) rebooted(l *bpfobj.Listing) bool {
	return e.bootID != "" && l.BootID != "" && e.bootID != l.BootID
}

// same reports whether what has the same id may be the same object. A name is not known to
// who may not read it.
func same(a, b *bpfobj.Object) bool {
	return a.Type == b.Type && (a.Name == b.Name || a.Name == "" || b.Name == "") &&
		a.KeySize == b.KeySize && a.ValueSize == b.ValueSize && a.MaxEntries == b.MaxEntries && a.Flags == b.Flags
}

// notes say how much changed, and what of it cannot be told.
func (e *Earlier) notes(l *bpfobj.Listing, shown []object) (notes []string) {
	if e == nil {
		return nil
	}
	name := format.Printable(e.name)
	switch {
	case e.rebooted(l):
		notes = append(notes, name+" is of another boot, or of another machine: its ids are of other objects, so that all of it is gone and all that is here is new")
	case (e.bootID == "" || l.BootID == "") && len(e.objects) > 0:
		notes = append(notes, "of which boot "+name+" is cannot be told: objects with the same id, type, name and sizes are taken to be the same, which they are not after a reboot")
	}
	if !l.Complete && !e.rebooted(l) {
		notes = append(notes, "what is gone is not known: not all objects can be listed here")
	}
	var parts []string
	for _, change := range []string{changeNew, changeGone, changeGrown} {
		n, bytes := 0, int64(0)
		for _, o := range shown {
			if o.change == change {
				n++
				bytes += o.growth
			}
		}
		parts = append(parts, fmt.Sprintf("%d %s (%s)", n, change, signed(bytes, format.Bytes)))
	}
	return append(notes, "since "+name+": "+strings.Join(parts, ", "))
}

// signed writes a difference.
func signed(n int64, size func(int64) string) string {
	if n > 0 {
		return "+" + size(n)
	}
	return size(n)
}

func changeColumns(size func(int64) string) []column {
	return []column{
		{name: "change", value: func(o *object) any { return o.change }, header: "CHANGE", left: true},
		{name: "memlock_change_bytes", value: func(o *object) any { return o.growth }, header: "GROWTH",
			cell: func(o *object) string { return signed(o.growth, size) }},
	}
}
