package tracer

import (
	"testing"

	"github.com/pinwatch/pinwatch/bpf"
)

// Where there are no typed reads, no program calls the kernel's function or asks for
// its address; elsewhere all
// do, and none needs the library to look for it.
func TestBindTypedReads(t *testing.T) {
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
				case ins.Reference() == typedReads:
					addresses++
				}
			}
		}
		return calls, addresses
	}
	if calls, addresses := uses(); calls == 0 || addresses == 0 {
		t.Fatalf("%d calls of %s, its address taken %d times: nothing to hide", calls, typedReads, addresses)
	}
	bound := spec.Copy()
	bindTypedReads(bound.Programs, 4711)
	for name, program := range bound.Programs {
		for _, ins := range program.Instructions {
			if ins.IsKfuncCall() && ins.Constant != 4711 || ins.Reference() == typedReads {
				t.Errorf("bound to the kernel's type 4711, but %s has %v", name, ins)
			}
		}
	}
	bindTypedReads(spec.Programs, 0)
	if calls, addresses := uses(); calls != 0 || addresses != 0 {
		t.Errorf("hidden, but %d calls of %s, its address taken %d times", calls, typedReads, addresses)
	}
}
