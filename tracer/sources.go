package tracer

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// sources are the built-in programs, as they are before they fit a kernel; nil are
// those that are not asked for.
type sources struct {
	perf, objects, chargers *ebpf.CollectionSpec
}

func readSources(opts Options, via transport) (s sources, err error) {
	if s.perf, err = via.load(); err == nil && opts.BPF {
		s.objects, err = via.objects()
	}
	if err == nil && opts.Others {
		s.chargers, err = via.chargers()
	}
	if err != nil {
		return s, fmt.Errorf("read the built-in BPF programs: %w", err)
	}
	return s, nil
}

// all are those that are asked for.
func (s sources) all() (specs []*ebpf.CollectionSpec) {
	for _, spec := range []*ebpf.CollectionSpec{s.perf, s.objects, s.chargers} {
		if spec != nil {
			specs = append(specs, spec)
		}
	}
	return specs
}

// resolve finds the kernel variables that the programs read.
func (s sources) resolve() *ebpf.Program {
	var programs []map[string]*ebpf.ProgramSpec
	for _, spec := range s.all() {
		programs = append(programs, spec.Programs)
	}
	return resolveSymbols(programs...)
}
