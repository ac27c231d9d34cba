package tracer

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// BPF objects and their memory are watched by programs of their own, which share
// the way to user space with those for perf buffers.

// objectProbes are for the making and the end of maps and programs. bpf(2) and
// the others are called through pointers or from other files, so that no
// compiler can hide a call. A return comes before its entry.
func objectProbes(rlimit, memcg bool) []setProbe {
	const free, freeProgram = "bpf_map_free_deferred", "__bpf_prog_put_rcu"
	list := []setProbe{
		{symbol: syscallPrefix() + "sys_bpf", kprobe: bpf.ObjectsProgKretprobeSysBpf, ret: true, required: true},
		{symbol: "anon_inode_getfd", kprobe: bpf.ObjectsProgKprobeAnonInodeGetfd, required: true},
	}
	// What comes back with an object is known at the return.
	if rlimit || memcg {
		list = append(list, setProbe{symbol: free, kprobe: bpf.ObjectsProgKretprobeBpfMapFreeDeferred, ret: true, required: true})
	}
	if rlimit {
		list = append(list,
			setProbe{symbol: freeProgram, kprobe: bpf.ObjectsProgKretprobeBpfProgPutRcu, ret: true, required: true},
			// How much was asked for.
			setProbe{symbol: "bpf_map_charge_init", kprobe: bpf.ObjectsProgKprobeBpfMapChargeInit},
			setProbe{symbol: "bpf_map_precharge_memlock", kprobe: bpf.ObjectsProgKprobeBpfMapPrechargeMemlock},
			setProbe{symbol: "__bpf_prog_charge", kprobe: bpf.ObjectsProgKprobeBpfProgCharge})
	}
	return append(list,
		setProbe{symbol: free, kprobe: bpf.ObjectsProgKprobeBpfMapFreeDeferred, required: true},
		setProbe{symbol: freeProgram, kprobe: bpf.ObjectsProgKprobeBpfProgPutRcu, required: true},
		setProbe{symbol: syscallPrefix() + "sys_bpf", kprobe: bpf.ObjectsProgKprobeSysBpf, required: true})
}

// growthProbes are for what maps take later. They are hot where a program updates
// maps, and kprobes are skipped inside of programs and of bpf(2): trampolines are
// not.
func growthProbes() (list []setProbe) {
	for _, symbol := range []string{"bpf_map_kmalloc_node", "bpf_map_kmalloc_nolock", "bpf_map_kzalloc"} {
		list = append(list,
			setProbe{symbol: symbol, kprobe: bpf.ObjectsProgKretprobeMapAlloc, fentry: bpf.ObjectsProgFexitMapAlloc, ret: true, hot: true},
			setProbe{symbol: symbol, kprobe: bpf.ObjectsProgKprobeMapAlloc, fentry: bpf.ObjectsProgFentryMapAlloc, hot: true})
	}
	return append(list,
		setProbe{symbol: "bpf_map_alloc_percpu", kprobe: bpf.ObjectsProgKretprobeMapAllocPercpu, fentry: bpf.ObjectsProgFexitMapAllocPercpu, ret: true, hot: true},
		setProbe{symbol: "bpf_map_alloc_percpu", kprobe: bpf.ObjectsProgKprobeMapAllocPercpu, fentry: bpf.ObjectsProgFentryMapAllocPercpu, hot: true},
		setProbe{symbol: "bpf_mem_refill", kprobe: bpf.ObjectsProgKretprobeBpfMemRefill, fentry: bpf.ObjectsProgFexitBpfMemRefill, ret: true, hot: true},
		setProbe{symbol: "bpf_mem_refill", kprobe: bpf.ObjectsProgKprobeBpfMemRefill, fentry: bpf.ObjectsProgFentryBpfMemRefill, hot: true})
}

// chargeProbes are on the hot functions that charge memory cgroups. They are
// complete and do not overlap: every byte that is charged in a bracket passes
// through one of them.
func chargeProbes(types types, spec *btf.Spec) []setProbe {
	list := []setProbe{
		{symbol: "__memcg_kmem_uncharge_page", fentry: bpf.ObjectsProgFentryUnchargePage, kprobe: bpf.ObjectsProgKprobeUnchargePage, required: true, hot: true},
		{symbol: "obj_cgroup_uncharge", fentry: bpf.ObjectsProgFentryObjUncharge, kprobe: bpf.ObjectsProgKprobeObjUncharge, required: true, hot: true},
		// The trampoline's sees arguments and result; a kprobe takes two.
		{symbol: "__memcg_kmem_charge_page", fentry: bpf.ObjectsProgFexitChargePage, kprobe: bpf.ObjectsProgKretprobeChargePage, ret: true, required: true, hot: true},
		{symbol: "__memcg_kmem_charge_page", kprobe: bpf.ObjectsProgKprobeChargePage, required: true, hot: true},
		{symbol: "obj_cgroup_charge", fentry: bpf.ObjectsProgFentryObjCharge, kprobe: bpf.ObjectsProgKprobeObjCharge, required: true, hot: true},
		{symbol: "obj_cgroup_charge_account", fentry: bpf.ObjectsProgFentryObjChargeAccount, kprobe: bpf.ObjectsProgKprobeObjChargeAccount, hot: true},
	}
	// 7.1 on: the slab allocator charges in its hook, without a call. 7.2 gave
	// the hook one more argument.
	var root *btf.Struct
	if spec.TypeByName("obj_cgroup", &root) != nil || !kernel.HasField(root, "is_root") {
		return list
	}
	hook := setProbe{symbol: "__memcg_slab_post_alloc_hook", fentry: bpf.ObjectsProgFentrySlabHook, kprobe: bpf.ObjectsProgKprobeSlabHook, required: true, hot: true}
	if len(types.Parameters(hook.symbol)) == 6 {
		hook.fentry, hook.kprobe = bpf.ObjectsProgFentrySlabHookFlags, bpf.ObjectsProgKprobeSlabHookFlags
	}
	return append(list, hook)
}

// openObjects attaches what is needed for BPF objects. It says whether the charges
// to memory cgroups are watched.
func openObjects(source *ebpf.CollectionSpec, shared map[string]*ebpf.Map, opts Options, types types) (s *probeSet, memcg bool, err error) {
	kernel, err := types.Spec()
	if err != nil {
		return nil, false, err
	}
	rlimit, err := types.ChargesBPFToUsers()
	if err != nil {
		return nil, false, err
	}
	s, memcg = &probeSet{}, opts.Memcg
	if memcg && rlimit {
		memcg = false
		s.degraded = append(s.degraded, "memory cgroups: this kernel charges BPF objects to users (RLIMIT_MEMLOCK), not to cgroups")
	}
	probes := objectProbes(rlimit, memcg)
	if memcg {
		// What is charged in a bracket must be seen from the first bracket on.
		probes = slices.Concat(chargeProbes(types, kernel), growthProbes(), probes)
	}
	trampolines := byTrampoline(probes, types)
	if err = s.open(source, shared, types, trampolines); err == nil {
		return s, memcg, nil
	}
	s.close()
	if !unsupported(err) || !memcg {
		return nil, false, err
	}
	s.degraded = append(s.degraded, fmt.Sprintf("memory that maps take later is not seen from inside of bpf(2) and of BPF programs: kprobes are skipped there, and there are no trampolines: %v", err))
	if err := s.open(source, shared, types, byKprobe(probes)); err != nil {
		s.close()
		return nil, false, err
	}
	return s, memcg, nil
}
