package objects

import (
	"strings"
	"testing"

	"github.com/pinwatch/pinwatch/output/hostile"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// Whoever names a map, a process, a pin, a cgroup or a container writes a text, and no line.
func TestHostile(t *testing.T) {
	for name, text := range hostile.Texts() {
		l := listing()
		was := before()
		for i := range l.Objects {
			hostile.Fill(&l.Objects[i], text)
			l.Objects[i].Accounting = kernel.BPFMemcg
		}
		hostile.Fill(&was.Objects, text)
		since := earlier(t, listing())
		since.name, since.objects = text, was.Objects
		for what, opts := range map[string]Options{"table": {}, "orphans": {Orphans: true}, "by cgroup": {By: "cgroup"}, "by pod": {By: "pod"}, "by pin": {By: "pin"},
			"by type": {By: "type"}, "since": {Since: since}, "JSON": {JSON: true}, "sums": {JSON: true, By: "pin"}, "since, JSON": {JSON: true, Since: since}} {
			var out strings.Builder
			if err := Write(&out, l, opts); err != nil {
				t.Fatal(err)
			}
			check, most := hostile.Terminal, 1+2*(len(l.Objects)+len(was.Objects))
			if opts.JSON {
				check = hostile.JSON
			}
			if err := check(out.String()); err != nil {
				t.Errorf("%s: %s: %v", name, what, err)
			}
			if n := strings.Count(out.String(), "\n"); n > most {
				t.Errorf("%s: %s: %d lines of %d objects", name, what, n, len(l.Objects)+len(was.Objects))
			}
			for _, note := range Notes(l, opts) {
				if err := hostile.Terminal(note); err != nil || strings.Contains(note, "\n") {
					t.Errorf("%s: %s: note %q: %v", name, what, note, err)
				}
			}
		}
	}
}
