//go:build guest

package tracer_test

import (
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/tracer/guest"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// Clients that nobody here wrote map their buffers as they document it: one of
// so many pages and the control page for every CPU. All of it is seen, charged right,
// and given back.
func TestClients(t *testing.T) {
	t.Parallel()
	const cpus = 4
	clients := []struct {
		name, command, memory string
		pages                 int64
	}{
		{"perf", "perf record -a -m 64 -e dummy -o /tmp/perf.data -- busybox sleep 0.3 >&2", "1G", 65},
		// Its buffers have 64 pages where BPFTRACE_PERF_RB_PAGES does not say otherwise.
		{"bpftrace", "bpftrace -e 'BEGIN { printf(\"here\\n\"); exit() }' >&2", "4G", 65},
	}
	if !guesttest.All() {
		clients = clients[:1] // bpftrace and its libraries take 200 MB: once per release is enough
	}
	for _, c := range clients {
		for _, k := range guesttest.Newest(t) {
			t.Run(c.name+"/"+k.String(), func(t *testing.T) {
				t.Parallel()
				shell, tool := guesttest.Shell(t), guesttest.Tool(t, c.name)
				out := guesttest.Run(t, k, func(config *guest.Config) {
					shell(config)
					tool(config)
					config.Memory = c.memory
				}, "trace", "--only", "perf", "--json", "--", "sh", "-c", c.command)
				if out.Code != 0 {
					t.Fatalf("exit %d: %s", out.Code, out.Stderr)
				}
				rows, summary, _ := split(t, out.Stdout)
				var buffers int
				var user, pinned int64
				for _, r := range rows {
					if r.Kind == "charge" && r.Pages == c.pages {
						buffers++
					}
					user += r.ChargedUser
					pinned += r.ChargedPinned
					if r.Verdict != "ok" || r.Certainty != "exact" {
						t.Errorf("%+v", r)
					}
				}
				if buffers != cpus || user != 0 || pinned != 0 || summary.Lost != 0 || summary.Verdict != "ok" {
					t.Errorf("%d buffers of %d pages; %d and %d pages left; %+v\n%s", buffers, c.pages, user, pinned, summary, strings.TrimSpace(out.Stderr))
				}
			})
		}
	}
}
