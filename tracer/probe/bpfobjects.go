package probe

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// BPF objects and their memory are watched by programs of their own, which share the
// transport with those for perf buffers.

// many is how many calls may be under way at once, in bpf(2) or waiting for RCU: more than
// the kernel follows by itself.
const many = 512

// objectProbes are for the making and the end of maps and programs. bpf(2) and
// the others are called through pointers or from other files, so that no
// compiler can hide a call. A return comes before its entry.
func objectProbes(rlimit, memcg, trampolines bool, k Kernel) []Probe {
	list := []Probe{
		{Program: bpf.ObjectsProgKretprobeSysBpf, AtOnce: many},
		{Program: bpf.ObjectsProgKprobeAnonInodeGetfd},
		{Program: bpf.ObjectsProgKretprobeBpfCheck, Optional: true, AtOnce: many},
		{Program: bpf.ObjectsProgKretprobeBpfProgAlloc, Optional: true, AtOnce: many},
	}
	if !rlimit && !memcg {
		list = append(list,
			Probe{Program: bpf.ObjectsProgKretprobeFreeCgroupPages, Optional: true, AtOnce: many},
			Probe{Program: bpf.ObjectsProgKprobeFreeCgroupPages, Optional: true})
	}
	// What comes back with an object is known at the return.
	if rlimit || memcg {
		list = append(list,
			Probe{Program: bpf.ObjectsProgKretprobeBpfMapFreeDeferred, AtOnce: many},
			// The last reference, which the memory outlives.
			Probe{Program: bpf.ObjectsProgKprobeBpfMapRelease, Optional: true, Idle: true},
			Probe{Program: bpf.ObjectsProgKprobeBpfMapPut, Optional: true, Idle: true},
			Probe{Program: bpf.ObjectsProgKprobeBpfProgRelease, Optional: true, Idle: true},
			Probe{Program: bpf.ObjectsProgKprobeBpfProgPut, Optional: true, Idle: true})
	}
	if rlimit {
		list = append(list,
			// How much was asked for, and the answer.
			Probe{Program: bpf.ObjectsProgKretprobeBpfMapChargeInit, Optional: true, AtOnce: many},
			Probe{Program: bpf.ObjectsProgKprobeBpfMapChargeInit, Optional: true},
			Probe{Program: bpf.ObjectsProgKretprobeBpfMapPrechargeMemlock, Optional: true, AtOnce: many},
			Probe{Program: bpf.ObjectsProgKprobeBpfMapPrechargeMemlock, Optional: true},
			Probe{Program: bpf.ObjectsProgKretprobeBpfProgCharge, Optional: true, AtOnce: many},
			Probe{Program: bpf.ObjectsProgKprobeBpfProgCharge, Optional: true})
	}
	return append(append(list, chosen(interruptProbes(rlimit), trampolines, k)...),
		Probe{Program: bpf.ObjectsProgKprobeBpfMapFreeDeferred},
		Probe{Program: bpf.ObjectsProgKprobeSysBpf})
}

// pair is a probe by a kprobe or, where the kernel has it, by a trampoline: kprobes are
// skipped inside of BPF programs and of bpf(2), in interrupts that come upon them too,
// trampolines are not. "" is none.
type pair struct {
	symbol         string
	kprobe, fentry string
	optional       bool
	ret            bool
	counted        bool // what it misses: it is not hot
}

// interruptProbes are for the end of programs, in interrupts: RCU ends many in one, and a
// kprobe is skipped at all of them if that came upon a BPF program.
func interruptProbes(rlimit bool) (list []pair) {
	const symbol = "__bpf_prog_put_rcu"
	if rlimit {
		list = append(list, pair{symbol: symbol, kprobe: bpf.ObjectsProgKretprobeBpfProgPutRcu, fentry: bpf.ObjectsProgFexitBpfProgPutRcu, ret: true, counted: true})
	}
	return append(list, pair{symbol: symbol, kprobe: bpf.ObjectsProgKprobeBpfProgPutRcu, fentry: bpf.ObjectsProgFentryBpfProgPutRcu, counted: true})
}

// growthProbes are for what maps take later. They are hot where a program updates maps.
func growthProbes() (list []pair) {
	for _, symbol := range []string{"bpf_map_kmalloc_node", "bpf_map_kmalloc_nolock", "bpf_map_kzalloc"} {
		list = append(list,
			pair{symbol: symbol, kprobe: bpf.ObjectsProgKretprobeMapAlloc, fentry: bpf.ObjectsProgFexitMapAlloc, optional: true, ret: true},
			pair{symbol: symbol, kprobe: bpf.ObjectsProgKprobeMapAlloc, fentry: bpf.ObjectsProgFentryMapAlloc, optional: true})
	}
	return append(list,
		pair{symbol: "bpf_map_alloc_percpu", kprobe: bpf.ObjectsProgKretprobeMapAllocPercpu, fentry: bpf.ObjectsProgFexitMapAllocPercpu, optional: true, ret: true},
		pair{symbol: "bpf_map_alloc_percpu", kprobe: bpf.ObjectsProgKprobeMapAllocPercpu, fentry: bpf.ObjectsProgFentryMapAllocPercpu, optional: true},
		pair{symbol: "bpf_mem_refill", kprobe: bpf.ObjectsProgKretprobeBpfMemRefill, fentry: bpf.ObjectsProgFexitBpfMemRefill, optional: true, ret: true},
		pair{symbol: "bpf_mem_refill", kprobe: bpf.ObjectsProgKprobeBpfMemRefill, fentry: bpf.ObjectsProgFentryBpfMemRefill, optional: true})
}

// chargeProbes are on the hot functions that charge memory cgroups. They are
// complete and do not overlap: every byte that is charged during a watched call passes
// through one of them.
func chargeProbes(k Kernel, spec *btf.Spec) []pair {
	list := []pair{
		{symbol: "__memcg_kmem_uncharge_page", fentry: bpf.ObjectsProgFentryUnchargePage, kprobe: bpf.ObjectsProgKprobeUnchargePage},
		{symbol: "obj_cgroup_uncharge", fentry: bpf.ObjectsProgFentryObjUncharge, kprobe: bpf.ObjectsProgKprobeObjUncharge},
		// The trampoline's sees arguments and result; a kprobe takes two.
		{symbol: "__memcg_kmem_charge_page", fentry: bpf.ObjectsProgFexitChargePage, kprobe: bpf.ObjectsProgKretprobeChargePage, ret: true},
		{symbol: "__memcg_kmem_charge_page", kprobe: bpf.ObjectsProgKprobeChargePage},
		{symbol: "obj_cgroup_charge", fentry: bpf.ObjectsProgFexitObjCharge, kprobe: bpf.ObjectsProgKprobeObjCharge},
		{symbol: "obj_cgroup_charge_account", fentry: bpf.ObjectsProgFexitObjChargeAccount, kprobe: bpf.ObjectsProgKprobeObjChargeAccount, optional: true},
	}
	// 7.1 on: the slab allocator charges in its hook, without a call. 7.2 gave
	// the hook one more argument.
	if !kernel.HasMember(spec, "obj_cgroup", "is_root") {
		return list
	}
	hook := pair{symbol: "__memcg_slab_post_alloc_hook", fentry: bpf.ObjectsProgFexitSlabHook, kprobe: bpf.ObjectsProgKprobeSlabHook}
	if len(k.Parameters(hook.symbol)) == 6 {
		hook.fentry, hook.kprobe = bpf.ObjectsProgFexitSlabHookFlags, bpf.ObjectsProgKprobeSlabHookFlags
	}
	return append(list, hook)
}

// chosen makes rows of pairs: by trampolines, where they have a program for it and the
// kernel's types know the function, else by kprobes. A charge path's second kprobe is not
// needed with a trampoline.
func chosen(pairs []pair, trampolines bool, k Kernel) (list []Probe) {
	taken := map[string]bool{}
	for _, p := range pairs {
		row := Probe{Program: p.fentry, Symbol: p.symbol, Optional: p.optional, Hot: !p.counted}
		if !trampolines || p.fentry == "" || len(k.Parameters(p.symbol)) == 0 {
			if taken[p.symbol] {
				continue
			}
			row.Program = p.kprobe
			if p.ret {
				row.AtOnce = many
			}
		} else {
			taken[p.symbol] = true
		}
		list = append(list, row)
	}
	return list
}

// OpenBPFObjects loads and attaches what is needed for BPF objects, and for what memory
// cgroups are charged for them, if that is asked for and this kernel does it: watched
// reports that. The notes say what cannot be seen here.
func OpenBPFObjects(source *ebpf.CollectionSpec, shared map[string]*ebpf.Map, memcg bool, k Kernel) (s *Set, watched bool, notes []string, err error) {
	types, err := k.Spec()
	if err != nil {
		return nil, false, nil, err
	}
	rlimit, err := k.ChargesBPFToUsers()
	if err != nil {
		return nil, false, nil, err
	}
	if memcg && rlimit {
		memcg = false
		notes = append(notes, "memory cgroups: BPF objects are not charged to cgroups before Linux 5.11: this kernel charges them to users, against RLIMIT_MEMLOCK")
	}
	if memcg && !kernel.HasMember(types, "mem_cgroup", "kmemcg_id") { // until 6.10 under CONFIG_MEMCG_KMEM
		memcg = false
		notes = append(notes, "memory cgroups: this kernel charges none for BPF objects: it was built without CONFIG_MEMCG, or without CONFIG_MEMCG_KMEM")
	}
	open := func(trampolines bool) (*Set, error) {
		probes := objectProbes(rlimit, memcg, trampolines, k)
		if memcg {
			// What is charged during a watched call must be seen from the first call on.
			probes = append(chosen(slices.Concat(chargeProbes(k, types), growthProbes()), trampolines, k), probes...)
		}
		return Open(source, probes, k, shared)
	}
	s, err = open(true)
	if err == nil || memcg && !Unsupported(err) {
		return s, memcg, notes, err
	}
	// Types from a file may know functions of a kernel that has no trampolines: whatever it
	// answers then, kprobes do.
	if memcg {
		notes = append(notes, fmt.Sprintf("memory that maps take later is not seen from inside of bpf(2) and of BPF programs: kprobes are skipped there, and there are no trampolines: %v", err))
	}
	s, err = open(false)
	return s, memcg, notes, err
}

// Open loads and attaches. Where sessions follow all returns, one link is on most functions:
// each of their calls takes some tens of instructions more, and a start a sixth less.
func Open(source *ebpf.CollectionSpec, probes []Probe, k Kernel, shared map[string]*ebpf.Map) (*Set, error) {
	s, err := Load(source, probes, k, shared)
	if err != nil {
		return nil, err
	}
	if k.followsAllReturns() && s.connect(k) != nil {
		s.disconnect() // a link for each function does as well
	}
	if err := s.Attach(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}
