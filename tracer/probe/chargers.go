package probe

import (
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// Chargers are the probes on the other ones that charge locked_vm and pinned_vm: those of
// the compiled programs, but for the exceptions below. All are optional: most are in
// modules, or of some versions only. A new charger whose function every kernel calls
// alike needs no line here.
func Chargers(source *ebpf.CollectionSpec, k Kernel) (list []Probe) {
	rules := exceptions(k)
	for _, program := range slices.Sorted(maps.Keys(source.Programs)) {
		symbols, known := rules[program]
		if !known {
			symbols = []string{""} // as its section says
		}
		for _, symbol := range symbols {
			p := Probe{Program: program, Symbol: symbol, Optional: true}.fromELF(source.Programs[program])
			if p.ret {
				p.AtOnce = many
			}
			// 5.10 calls nothing but what GCC split off it.
			if p.Symbol == "mm_account_pinned_pages" {
				p.Outlined = "mm_account_pinned_pages.part.0"
			}
			// It is missed where it runs in an interrupt that came upon another kprobe,
			// and there a worker gives back (537cf4e3cc2f), which has a probe of its own.
			p.Hot = p.Symbol == "xdp_put_umem"
			list = append(list, p)
		}
	}
	// A return comes before its entry, and each function's two together.
	slices.SortStableFunc(list, func(a, b Probe) int {
		if a.Symbol != b.Symbol {
			return strings.Compare(a.Symbol, b.Symbol)
		}
		switch {
		case a.ret == b.ret:
			return 0
		case a.ret:
			return -1
		}
		return 1
	})
	return list
}

// exceptions are the functions of programs that are for others, or more, than their
// section says; none: the program is for other kernels.
func exceptions(k Kernel) map[string][]string {
	rules := map[string][]string{}
	// It has another name since 7.3, and the same arguments.
	rules[bpf.ChargersProgKprobeIbUmemGet] = []string{"ib_umem_get", "__ib_umem_get_va"}
	rules[bpf.ChargersProgKretprobeIbUmemGet] = []string{"ib_umem_get", "__ib_umem_get_va"}
	// What vfio calls is called by others, too.
	if k.Absent["vfio_iommu_type1_ioctl"] {
		for _, program := range []string{bpf.ChargersProgKretprobeVfioPin, bpf.ChargersProgKprobeVfioAccount, bpf.ChargersProgKretprobeVfioAccount} {
			rules[program] = nil
		}
	}
	// The end of a ring calls the first of these that there is.
	var unregister, exit []string
	switch {
	case len(k.Parameters("__io_sqe_buffers_unregister")) > 0:
		unregister = []string{"__io_sqe_buffers_unregister"}
	case len(k.Parameters("io_sqe_buffers_unregister")) > 0:
		unregister = []string{"io_sqe_buffers_unregister"}
	case !k.HasStaticFunctions() && k.Absent == nil: // one of them
		unregister, exit = []string{"io_buffer_unmap"}, []string{"io_ring_exit_work"}
	case !k.HasStaticFunctions() && !k.Absent["io_buffer_unmap"]: // 5.10
		unregister = []string{"io_buffer_unmap"}
	default:
		exit = []string{"io_ring_exit_work"}
	}
	rules[bpf.ChargersProgKprobeIoSqeBuffersUnregister] = unregister
	rules[bpf.ChargersProgKretprobeIoSqeBuffersUnregister] = unregister
	rules[bpf.ChargersProgKprobeIoRingExitWork] = exit
	rules[bpf.ChargersProgKretprobeIoRingExitWork] = exit
	// Up to 5.11 it gives back, too; later it would only look as if it could. Until then a
	// ring knows whether it is charged, and since then it names nobody where it is not.
	types, err := k.Spec()
	if err == nil && !kernel.HasMember(types, "io_ring_ctx", "account_mem") && !kernel.HasMember(types, "io_ring_ctx", "limit_mem") {
		rules[bpf.ChargersProgKprobeIoUringRelease] = nil
		rules[bpf.ChargersProgKretprobeIoUringRelease] = nil
	}
	// 7.0 gives the user in place of the ring.
	rules[bpf.ChargersProgKprobeIoFreeRegionUser] = nil
	if slices.Index(k.Parameters("io_free_region"), "user") == 0 {
		rules[bpf.ChargersProgKprobeIoFreeRegionUser] = []string{"io_free_region"}
		rules[bpf.ChargersProgKprobeIoFreeRegion] = nil
	}
	// The comparison with the limit: 6.16 gives it the ring, 7.0 the user and the mm, and
	// before 6.1 nobody can tell what it is given.
	rules[bpf.ChargersProgKprobeIoAccountMemRing], rules[bpf.ChargersProgKprobeIoAccountMemUser] = nil, nil
	rules[bpf.ChargersProgKretprobeIoAccountMemRing] = nil
	switch parameters := k.Parameters("io_account_mem"); {
	case slices.Equal(parameters, []string{"ctx", "nr_pages"}):
		rules[bpf.ChargersProgKprobeIoAccountMemRing] = []string{"io_account_mem"}
		rules[bpf.ChargersProgKretprobeIoAccountMemRing] = []string{"io_account_mem"}
	case len(parameters) == 3 && parameters[0] == "user":
		rules[bpf.ChargersProgKprobeIoAccountMemUser] = []string{"io_account_mem"}
		rules[bpf.ChargersProgKretprobeIoAccountMemRing] = []string{"io_account_mem"}
	}
	return rules
}
