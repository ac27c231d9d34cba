package probe

import (
	"testing"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// Where typed reads are hidden, no program calls the kernel's function or asks for
// its address; elsewhere all do.
func TestHideTypedReads(t *testing.T) {
	spec, err := bpf.LoadPerf()
	if err != nil {
		t.Fatal(err)
	}
	uses := func() (calls, addresses int) {
		for _, program := range spec.Programs {
			for _, ins := range program.Instructions {
				switch {
				case ins.IsKfuncCall():
					calls++
				case ins.Reference() == kernel.TypedReads:
					addresses++
				}
			}
		}
		return calls, addresses
	}
	if calls, addresses := uses(); calls == 0 || addresses == 0 {
		t.Fatalf("%d calls of %s, its address taken %d times: nothing to hide", calls, kernel.TypedReads, addresses)
	}
	Specs{Perf: spec}.eachProgram(hideTypedReads)
	if calls, addresses := uses(); calls != 0 || addresses != 0 {
		t.Errorf("hidden, but %d calls of %s, its address taken %d times", calls, kernel.TypedReads, addresses)
	}
}
