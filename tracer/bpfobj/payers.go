package bpfobj

import (
	"errors"

	"github.com/cilium/ebpf/btf"

	"github.com/pinwatch/pinwatch/tracer/cgroup"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// A map knows who pays for it, but no system call says so. A BPF iterator over
// all maps (Linux 5.8) reads it: no probe is attached, nothing is traced. Without, a
// kprobe on a system call is attached for as long as pinwatch asks (see asking.go).

// payerPath is how to get from a struct bpf_map to who pays: a uid or the id of a
// cgroup.
type payerPath struct {
	accounting kernel.BPFAccounting
	steps      chain
	// state leads to the percpu_ref of what the map points to, an obj_cgroup or a
	// mem_cgroup. The kernel kills it when the cgroup is removed. Empty: there is none.
	state chain
}

// refDead is __PERCPU_REF_DEAD of include/linux/percpu-refcount.h, in percpu_count_ptr.
const refDead = 2

// payment is who pays for a map, as one of the two ways tells it.
type payment struct {
	id    uint32
	payer value
	state value // percpu_count_ptr
	refs  value // references to the map
}

// findPayerPath looks up where this kernel keeps the payer, by its fields.
func findPayerPath(types *btf.Spec) (payerPath, error) {
	for _, candidate := range []struct {
		accounting    kernel.BPFAccounting
		fields, state [][]string
	}{
		// Linux 6.0: 4201d9ab3e42
		{kernel.BPFMemcg, [][]string{{"bpf_map", "objcg"}, {"obj_cgroup", "memcg"}, {"mem_cgroup", "css", "cgroup"}, {"cgroup", "kn"}, {"kernfs_node", "id"}},
			[][]string{{"bpf_map", "objcg"}, {"obj_cgroup", "refcnt", "percpu_count_ptr"}}},
		// Linux 5.11: 80ee81e0403c
		{kernel.BPFMemcg, [][]string{{"bpf_map", "memcg"}, {"mem_cgroup", "css", "cgroup"}, {"cgroup", "kn"}, {"kernfs_node", "id"}},
			[][]string{{"bpf_map", "memcg"}, {"mem_cgroup", "css", "refcnt", "percpu_count_ptr"}}},
		{kernel.BPFRlimit, [][]string{{"bpf_map", "memory", "user"}, {"user_struct", "uid", "val"}}, nil},
	} {
		steps, err := findChain(types, candidate.fields...)
		if err != nil {
			continue
		}
		state, _ := findChain(types, candidate.state...) // without, nothing is said of it
		return payerPath{candidate.accounting, steps, state}, nil
	}
	return payerPath{}, errors.New("struct bpf_map names no payer that is known here")
}

// iteratePayers reads who pays for the maps by the iterator.
func iteratePayers() (kernel.BPFAccounting, []payment, error) {
	types, err := iteratedTypes()
	if err != nil {
		return kernel.BPFUnknown, nil, err
	}
	path, err := findPayerPath(types)
	if err != nil {
		return kernel.BPFUnknown, nil, err
	}
	id, err := findChain(types, []string{"bpf_map", "id"})
	if err != nil {
		return kernel.BPFUnknown, nil, err
	}
	refs, _ := findChain(types, []string{"bpf_map", "refcnt", "counter"})
	read, err := iterate("bpf_map", []chain{id, path.steps, path.state, refs})
	var payments []payment
	for _, values := range read {
		payments = append(payments, payment{uint32(values[0].n), values[1], values[2], iterated(values[3])})
	}
	return path.accounting, payments, err
}

// addPayers notes who pays for the maps. Programs do not remember their cgroup.
func (l *lister) addPayers(tree *cgroup.Tree, btf string) {
	if l.Accounting != kernel.BPFMemcg && l.Accounting != kernel.BPFRlimit {
		return
	}
	accounting, payments, err := iteratePayers()
	if err != nil {
		var second error
		if accounting, payments, second = askPayers(l.mapIDs(), btf); second != nil {
			l.note("who pays for maps is not known without a trace of their creation: by a kprobe: %v; by an iterator over maps (Linux 5.8): %v", second, err)
			return
		}
	}
	if accounting != l.Accounting {
		l.note("who pays for maps is not known: struct bpf_map says %s, the probe says %s", accounting, l.Accounting)
		return
	}
	for _, p := range payments {
		if o := l.find(KindMap, p.id); o != nil {
			o.setPayer(accounting, p, tree)
			o.Names = l.names.Of(o.Cgroup)
		}
	}
	if accounting == kernel.BPFMemcg {
		l.note("which cgroup pays for a program is known only from a trace of its loading: the kernel does not keep it")
	}
}

func (o *Object) setPayer(accounting kernel.BPFAccounting, p payment, tree *cgroup.Tree) {
	o.References, o.ReferencesKnown = p.refs.n, p.refs.found == chainFound
	switch {
	case accounting == kernel.BPFRlimit:
		o.UID, o.UIDKnown = uint32(p.payer.n), p.payer.found == chainFound
	case p.payer.found == chainNone: // up to 7.0 the root cgroup, which has no limit, is not charged
		o.Cgroup, o.CgroupKnown = "/", true
	case p.payer.found == chainFound:
		o.CgroupID = p.payer.n
		o.PayerGone, o.PayerGoneKnown = p.state.n&refDead != 0, p.state.found == chainFound
		if tree != nil {
			o.Cgroup, o.CgroupKnown = tree.MemoryPath(p.payer.n)
		}
	}
}
