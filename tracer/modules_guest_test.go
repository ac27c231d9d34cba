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

// modular are Debian's generic kernels with the modules that charge locked memory.
func modular(t *testing.T) (list []guesttest.Kernel) {
	for _, k := range guesttest.Fetch(t, "6.1-generic 6.12-generic 7.3-generic") {
		k.Modules = "ib_uverbs rdma_rxe vfio_iommu_type1 vfio-pci"
		if k.Before("6.14") {
			k.Modules = "crc32_generic " + k.Modules // of which rdma_rxe says nothing
		}
		list = append(list, k)
	}
	return list
}

// Memory that is pinned for devices is charged to a counter of the process's: by vfio to
// locked_vm, by RDMA to pinned_vm. The witnesses are VmLck and VmPin, which the workload
// compares, its errno a page beyond the limit, and that the remedy helps.
func TestModules(t *testing.T) {
	if !guesttest.All() {
		t.Skip("takes generic kernels, which make test-kernels fetches")
	}
	guests.Test(t, modular, func(t *testing.T, k guesttest.Kernel) {
		unlimitMemlock(t)
		for _, c := range []struct {
			name, counter string
			charged       func(*ledger.Entry) int64
		}{
			{"vfio", "locked_vm of the process", func(e *ledger.Entry) int64 { return e.LockedVM.Delta() }},
			{"rdma", "pinned_vm of the process", func(e *ledger.Entry) int64 { return e.ChargedPinned }},
		} {
			for who, want := range map[string]struct {
				errno          unix.Errno
				charges, pages int64 // and as many are given back
			}{"limit": {unix.ENOMEM, 1, 16}, "privileged": {0, 2, 17}} {
				t.Run(c.name+" "+who, func(t *testing.T) {
					var attempt workload.Attempt
					tr := traceObjects(t, tracer.Options{Others: true}, func(objectTrace) {
						attempt = last(t, guesttest.Command(t, "pinwatch", "workload", "refuse", "--json", c.name+"-"+who).Run())
					})
					if got := unix.Errno(attempt.Errno); got != want.errno {
						t.Errorf("%v; want %v", got, want.errno)
					}
					var charges, charged, refunded int64
					for _, e := range tr.entries {
						if e.Charger != ledger.Charger(c.name) {
							continue
						}
						if n := c.charged(&e); n > 0 {
							charges, charged = charges+1, charged+n
						} else {
							refunded -= n
						}
						if e.ChargedUser != 0 || e.ChargedPinned+e.LockedVM.Delta() != c.charged(&e) {
							t.Errorf("another counter is charged: %+v", e)
						}
					}
					if charges != want.charges || charged != want.pages || refunded != want.pages {
						t.Errorf("%d charges of %d pages, and %d were given back; want %d and %d", charges, charged, refunded, want.charges, want.pages)
					}
					refusals := refusalsOf(tr.entries, 65534)
					if want.errno == 0 && len(refusals) == 0 {
						return
					}
					if len(refusals) != 1 {
						t.Fatalf("%d refusals", len(refusals))
					}
					said := charging.OfRefusal(&refusals[0])
					text := said.Text()
					t.Log(text)
					if said.Outcome != reason.Limit || len(said.Reasons) != 1 || said.Over() != 1 || !strings.Contains(text, c.counter+": 16 pages + 1 page = 17 pages > 16 pages, over by 1 page") {
						t.Error("the sum is not said")
					}
					if brief := said.Brief(); !slices.Equal(brief, []string{"ulimit -l 68 (KiB)", "CAP_IPC_LOCK (effective, initial user namespace)"}) {
						t.Errorf("remedies: %q", brief)
					}
					if cured := last(t, guesttest.Command(t, "pinwatch", "workload", "refuse", "--json", "--memlock-kib", "68", c.name+"-"+who).Run()); cured.Errno != 0 {
						t.Errorf("%s with the remedy: %v", cured.What, unix.Errno(cured.Errno))
					}
				})
			}
		}
	})
}
