package bpfobj

import (
	"fmt"
	"slices"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/self"
)

// Reason is why an object looks left behind.
type Reason string

// The reasons.
const (
	PinAlone       Reason = "pin_alone"        // the kernel counts no reference but those of its pins
	PayerGone      Reason = "payer_gone"       // the cgroup that it was charged to was removed: its parent pays
	PayerNotHolder Reason = "payer_not_holder" // none of the processes that have it open is who pays
)

// addOrphans notes which objects are orphans, and of which this is not known.
func (l *lister) addOrphans() {
	var uncounted, homeless, unheld int
	for i := range l.Objects {
		o := &l.Objects[i]
		if !o.ReferencesKnown && len(o.Pinned) > 0 {
			uncounted++
		}
		isMap := o.Kind == KindMap
		if isMap && l.Accounting == kernel.BPFMemcg && !o.PayerGoneKnown && !(o.CgroupKnown && o.Cgroup == "/") {
			homeless++
		}
		o.Orphan = nil
		if o.pinAlone(len(l.pins[kindID{o.Kind, o.ID}])) {
			o.Orphan = append(o.Orphan, PinAlone)
		}
		if o.PayerGoneKnown && o.PayerGone {
			o.Orphan = append(o.Orphan, PayerGone)
		}
		if isMap && l.unreadable > 0 && len(o.Holders) > 0 {
			unheld++
		} else if isMap && o.payerNotHolder() {
			o.Orphan = append(o.Orphan, PayerNotHolder)
		}
	}
	note := func(n int, what, why string) {
		if n > 0 {
			l.OrphanNotes = append(l.OrphanNotes, fmt.Sprintf("%s is not known (objects: %d): %s", what, n, why))
		}
	}
	note(uncounted, "whether a pin alone holds it", "the references that the kernel counts are read by BPF iterators (Linux 5.8 for maps, 5.9 for programs; needs CAP_BPF, CAP_PERFMON and BTF)")
	note(homeless, "whether the payer's cgroup is gone", "that is read by a BPF iterator (Linux 5.8; needs CAP_BPF, CAP_PERFMON and BTF)")
	note(unheld, "whether the payer is among the holders", "not all processes could be read")
	if l.Accounting != kernel.BPFMemcg {
		l.OrphanNotes = append(l.OrphanNotes, "no payer is called gone: that is said of memory cgroups, and BPF memory is not known to be charged to any here")
	}
}

// addProgramReferences counts those of programs. Where there is no such iterator, they stay
// unknown.
func (l *lister) addProgramReferences() {
	if len(l.Objects) == 0 {
		return
	}
	types, err := iteratedTypes()
	if err != nil {
		return
	}
	id, err := findChain(types, []string{"bpf_prog", "aux"}, []string{"bpf_prog_aux", "id"})
	if err != nil {
		return
	}
	refs, err := findChain(types, []string{"bpf_prog", "aux"}, []string{"bpf_prog_aux", "refcnt", "counter"})
	if err != nil {
		return
	}
	read, err := iterate("bpf_prog", []chain{id, refs})
	if err != nil {
		return
	}
	for _, values := range read {
		if o := l.find(KindProgram, uint32(values[0].n)); o != nil {
			counted := iterated(values[1])
			o.References, o.ReferencesKnown = counted.n, counted.found == chainFound
		}
	}
}

// pinAlone reports whether nothing but its pins, so many, holds an object.
func (o *Object) pinAlone(pins int) bool {
	return o.ReferencesKnown && o.References > 0 && o.References <= uint64(pins) && len(o.Holders) == 0
}

// payerNotHolder reports whether processes have a map open, and none of them is who pays
// for it, or in the cgroup that does, or in one below. A payer that is gone is no longer
// who the kernel names.
func (o *Object) payerNotHolder() bool {
	if len(o.Holders) == 0 || o.PayerGone {
		return false
	}
	switch {
	case o.CgroupKnown:
		return !slices.ContainsFunc(o.Holders, func(h Holder) bool { return h.Cgroup == "" || cgroup.Matches(h.Cgroup, o.Cgroup) })
	case o.UIDKnown && o.Accounting == kernel.BPFRlimit && !self.Reserved(o.UID): // pinwatch makes its own as such a user
		return !slices.ContainsFunc(o.Holders, func(h Holder) bool { return !h.UIDKnown || h.UID == o.UID })
	}
	return false
}
