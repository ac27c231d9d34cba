//go:build guest

package tracer_test

import (
	"path/filepath"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// clients are programs that nobody here wrote, in guests of their own: they are large.
var clients = clientGuests()

func clientGuests() *guesttest.Guests {
	files := []string{"../output/agent/syscalls.txt:" + confinedTo}
	if guesttest.All() {
		return &guesttest.Guests{Files: files, Tools: []string{"perf", "strace", "bpftrace"}, Memory: "4G"}
	}
	return &guesttest.Guests{Files: files, Tools: []string{"perf", "strace"}} // bpftrace and its libraries take 200 MB: once per release is enough
}

// Clients map their buffers as they document it: one of so many pages and the control page
// for every CPU. All of it is seen, charged right, and given back.
func TestClients(t *testing.T) {
	clients.Test(t, guesttest.Newest, func(t *testing.T, _ guesttest.Kernel) {
		t.Run("perf", func(t *testing.T) {
			clientIsSeen(t, "perf", "record", "-a", "-m", "64", "-e", "dummy", "-o", filepath.Join(t.TempDir(), "perf.data"), "--", "pinwatch", "version")
		})
		if guesttest.All() {
			t.Run("bpftrace", func(t *testing.T) {
				// Its buffers have 64 pages where BPFTRACE_PERF_RB_PAGES does not say otherwise.
				clientIsSeen(t, "bpftrace", "-e", `BEGIN { printf("here\n"); exit() }`)
			})
		}
	})
}

func clientIsSeen(t *testing.T, name string, args ...string) {
	const cpus, pages = 4, 65
	path := guesttest.LookPath(t, name)
	tr := begin(t, perfBuffersAlone())
	run(t, path, args...)
	tr.stop()
	var buffers int
	var user, pinned int64
	for _, e := range tr.children() {
		if e.Kind == ledger.Charge && e.Asked() == pages {
			buffers++
		}
		user += e.ChargedUser
		pinned += e.ChargedPinned
		if e.Verdict != ledger.OK || e.Uncertain {
			t.Errorf("%+v", e)
		}
	}
	if s := &tr.summary; buffers != cpus || user != 0 || pinned != 0 || tr.lost != 0 || s.Broken() {
		t.Errorf("%d buffers of %d pages; %d and %d pages left; %d lost; %+v", buffers, pages, user, pinned, tr.lost, s)
	}
}
