//go:build guest

package tracer_test

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/charging"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/reason"
	"github.com/pinwatch/pinwatch/tracer/workload"
)

// modular are Debian's generic kernels with the modules that charge locked memory, and one
// with those that Debian does not build.
func modular(t *testing.T) (list []guesttest.Kernel) {
	for _, k := range guesttest.Fetch(t, "6.1-generic 6.12-generic 7.3-generic") {
		k.Modules = "ib_uverbs rdma_rxe vfio_iommu_type1 vfio-pci"
		if k.Before("6.14") {
			k.Modules = "crc32_generic " + k.Modules // of which rdma_rxe says nothing
		}
		list = append(list, k)
	}
	k := guesttest.Pinners(t)
	k.Modules = "vhost_vdpa vdpa_sim_net pinner"
	return append(list, k)
}

// counters are what a charge of some pages moves.
type counters struct{ user, pinned, locked int64 }

// pinning is a provocation of ModuleProvocations, and what is to come of it.
type pinning struct {
	charger, how string
	errno        unix.Errno // of a page beyond the limit, as the program sees it
	moves        counters   // by each page
	held         string     // the counter that is held against the limit
	remedies     []string
}

func pinnings(k guesttest.Kernel) []pinning {
	limit, capability := "ulimit -l 68 (KiB)", "CAP_IPC_LOCK (effective, initial user namespace)"
	if k.Series == "pinners" {
		return []pinning{
			// The kernel's own ENOMEM becomes EFAULT in write(2).
			{"vdpa", "limit", unix.EFAULT, counters{pinned: 1}, "pinned_vm of the process", []string{limit}},
			{"vdpa", "privileged", unix.EFAULT, counters{pinned: 1}, "pinned_vm of the process", []string{limit}},
			{"iommufd", "limit", unix.ENOMEM, counters{user: 1, pinned: 1}, "locked_vm of the user", []string{limit, capability}},
			{"iommufd", "process", unix.ENOMEM, counters{pinned: 1, locked: 1}, "locked_vm of the process", []string{limit, capability}},
			{"iommufd", "privileged", 0, counters{pinned: 1}, "", nil},
		}
	}
	return []pinning{
		{"vfio", "limit", unix.ENOMEM, counters{locked: 1}, "locked_vm of the process", []string{limit, capability}},
		{"vfio", "privileged", 0, counters{locked: 1}, "", nil},
		{"rdma", "limit", unix.ENOMEM, counters{pinned: 1}, "pinned_vm of the process", []string{limit, capability}},
		{"rdma", "privileged", 0, counters{pinned: 1}, "", nil},
	}
}

// Memory that is pinned for devices is charged to the counter that its charger takes, and
// a refusal is explained by that one. The witnesses are VmLck and VmPin, which the workload
// compares, its errno a page beyond the limit, and that the remedy helps.
func TestModules(t *testing.T) {
	if !guesttest.All() {
		t.Skip("takes generic kernels, which make test-kernels fetches")
	}
	guests.Test(t, modular, func(t *testing.T, k guesttest.Kernel) {
		unlimitMemlock(t)
		for _, p := range pinnings(k) {
			t.Run(p.charger+"-"+p.how, func(t *testing.T) { p.check(t) })
		}
	})
}

func (p pinning) check(t *testing.T) {
	attempt := func(flags ...string) workload.Attempt {
		args := slices.Concat([]string{"workload", "refuse", "--json"}, flags, []string{p.charger + "-" + p.how})
		return last(t, guesttest.Command(t, "pinwatch", args...).Run())
	}
	var seen workload.Attempt
	tr := traceObjects(t, tracer.Options{Others: true}, func(objectTrace) { seen = attempt() })
	if got := unix.Errno(seen.Errno); got != p.errno {
		t.Errorf("%v; want %v", got, p.errno)
	}
	var charged, refunded int64
	for _, e := range tr.entries {
		if e.Charger != ledger.Charger(p.charger) {
			continue
		}
		moved := counters{e.ChargedUser, e.ChargedPinned, e.LockedVM.Delta()}
		n := max(moved.user, moved.pinned, moved.locked) + min(moved.user, moved.pinned, moved.locked)
		if want := (counters{n * p.moves.user, n * p.moves.pinned, n * p.moves.locked}); moved != want {
			t.Errorf("charged are %+v; want %+v", moved, want)
		}
		charged += max(0, n)
		refunded -= min(0, n)
	}
	if want := map[bool]int64{false: 16, true: 17}[p.errno == 0]; charged != want || refunded != want {
		t.Errorf("%d pages charged and %d given back; want %d", charged, refunded, want)
	}
	refusals := refusalsOf(tr.entries, 65534)
	if want := map[bool]int{false: 1, true: 0}[p.errno == 0]; len(refusals) != want {
		t.Fatalf("%d refusals; want %d", len(refusals), want)
	}
	if p.errno == 0 {
		return
	}
	said := charging.OfRefusal(&refusals[0])
	text := said.Text()
	t.Log(text)
	sum := p.held + ": 16 pages + 1 page = 17 pages > 16 pages, over by 1 page"
	if said.Errno != "ENOMEM" || said.Outcome != reason.Limit || len(said.Reasons) != 1 || said.Over() != 1 || !strings.Contains(text, sum) {
		t.Errorf("%v, over by %d; want %s", said.Outcome, said.Over(), sum)
	}
	if brief := said.Brief(); !slices.Equal(brief, p.remedies) {
		t.Errorf("remedies: %q; want %q", brief, p.remedies)
	}
	if cured := attempt("--memlock-kib", "68"); cured.Errno != 0 {
		t.Errorf("%s with the remedy: %v", cured.What, unix.Errno(cured.Errno))
	}
}
