package tracer

import (
	"slices"

	"github.com/cilium/ebpf"

	"github.com/pinwatch/pinwatch/bpf"
)

// chargerProbes are for the other ones that charge locked_vm and pinned_vm. All are
// optional: most are in modules, or of some versions only. A return comes before
// its entry.
func chargerProbes(types types) (list []setProbe) {
	bracket := func(symbol, entry, ret string) {
		list = append(list, setProbe{symbol: symbol, kprobe: ret, ret: true}, setProbe{symbol: symbol, kprobe: entry})
	}
	bracket(syscallPrefix()+"sys_io_uring_setup", bpf.ChargersProgKprobeSysIoUringSetup, bpf.ChargersProgKretprobeSysIoUringSetup)
	bracket(syscallPrefix()+"sys_io_uring_register", bpf.ChargersProgKprobeSysIoUringRegister, bpf.ChargersProgKretprobeSysIoUringRegister)
	// The end of a ring calls the first of these that there is.
	switch {
	case len(types.Parameters("__io_sqe_buffers_unregister")) > 0:
		bracket("__io_sqe_buffers_unregister", bpf.ChargersProgKprobeIoSqeBuffersUnregister, bpf.ChargersProgKretprobeIoSqeBuffersUnregister)
	case len(types.Parameters("io_sqe_buffers_unregister")) > 0:
		bracket("io_sqe_buffers_unregister", bpf.ChargersProgKprobeIoSqeBuffersUnregister, bpf.ChargersProgKretprobeIoSqeBuffersUnregister)
	default:
		if !types.HasStaticFunctions() { // 5.10
			bracket("io_buffer_unmap", bpf.ChargersProgKprobeIoSqeBuffersUnregister, bpf.ChargersProgKretprobeIoSqeBuffersUnregister)
		}
		bracket("io_ring_exit_work", bpf.ChargersProgKprobeIoRingExitWork, bpf.ChargersProgKretprobeIoRingExitWork)
	}
	region := bpf.ChargersProgKprobeIoFreeRegion
	if slices.Index(types.Parameters("io_free_region"), "user") == 0 {
		region = bpf.ChargersProgKprobeIoFreeRegionUser
	}
	bracket("io_free_region", region, bpf.ChargersProgKretprobeIoFreeRegion)
	bracket("io_rsrc_put_work", bpf.ChargersProgKprobeIoRsrcPutWork, bpf.ChargersProgKretprobeIoRsrcPutWork)
	bracket("xdp_umem_create", bpf.ChargersProgKprobeXdpUmemCreate, bpf.ChargersProgKretprobeXdpUmemCreate)
	bracket("xdp_umem_release_deferred", bpf.ChargersProgKprobeXdpUmemReleaseDeferred, bpf.ChargersProgKretprobeXdpUmemReleaseDeferred)
	bracket("xdp_put_umem", bpf.ChargersProgKprobeXdpPutUmem, bpf.ChargersProgKretprobeXdpPutUmem)
	bracket("mm_account_pinned_pages", bpf.ChargersProgKprobeMmAccountPinnedPages, bpf.ChargersProgKretprobeMmAccountPinnedPages)
	// 5.10 calls nothing but what GCC split off it.
	for i := range 2 {
		list[len(list)-1-i].outlined = "mm_account_pinned_pages.part.0"
	}
	bracket("sock_zerocopy_callback", bpf.ChargersProgKprobeZerocopyFirst, bpf.ChargersProgKretprobeZerocopy)
	bracket("msg_zerocopy_callback", bpf.ChargersProgKprobeZerocopySecond, bpf.ChargersProgKretprobeZerocopy)
	bracket("msg_zerocopy_complete", bpf.ChargersProgKprobeZerocopySecond, bpf.ChargersProgKretprobeZerocopy)
	bracket("ib_umem_get", bpf.ChargersProgKprobeIbUmemGet, bpf.ChargersProgKretprobeIbUmemGet)
	bracket("ib_umem_release", bpf.ChargersProgKprobeIbUmemRelease, bpf.ChargersProgKretprobeIbUmemRelease)
	bracket("iopt_pages_update_pinned", bpf.ChargersProgKprobeIoptPagesUpdatePinned, bpf.ChargersProgKretprobeIoptPagesUpdatePinned)
	bracket("do_update_pinned", bpf.ChargersProgKprobeDoUpdatePinned, bpf.ChargersProgKretprobeDoUpdatePinned)
	bracket("vfio_lock_acct", bpf.ChargersProgKprobeVfioLockAcct, bpf.ChargersProgKretprobeVfioLockAcct)
	bracket("vhost_vdpa_map", bpf.ChargersProgKprobeVhostVdpaMap, bpf.ChargersProgKretprobeVhostVdpaMap)
	bracket("vhost_vdpa_pa_unmap", bpf.ChargersProgKprobeVhostVdpaPaUnmap, bpf.ChargersProgKretprobeVhostVdpaPaUnmap)
	return list
}

func openChargers(source *ebpf.CollectionSpec, shared map[string]*ebpf.Map, types types) (*probeSet, error) {
	s := &probeSet{}
	probes := chargerProbes(types)
	if !types.HasStaticFunctions() && !types.absent["io_buffer_unmap"] {
		probes = slices.DeleteFunc(probes, func(p setProbe) bool { return p.symbol == "io_ring_exit_work" })
	}
	if err := s.open(source, shared, types, probes); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}
