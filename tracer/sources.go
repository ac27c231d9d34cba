package tracer

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/transport"
)

// types are the running kernel's.
type types struct {
	kernel.Types
	// absent holds, for functions that only some kernels have, whether this one is
	// known to lack them.
	absent map[string]bool
}

// sources are the built-in programs, as they are before they fit a kernel; nil are
// those that are not asked for.
type sources struct {
	perf, objects, chargers *ebpf.CollectionSpec
}

func readSources(opts Options, via transport.Transport) (s sources, err error) {
	if s.perf, err = via.Perf(); err == nil && opts.BPF {
		s.objects, err = via.BPFObjects()
	}
	if err == nil && opts.Others {
		s.chargers, err = via.Chargers()
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

// resolve finds the kernel variables that the programs read, and which of the functions
// that not every kernel has are missing in this one.
func (s sources) resolve(types types) (asked *ebpf.Program, absent map[string]bool) {
	var programs []map[string]*ebpf.ProgramSpec
	for _, spec := range s.all() {
		programs = append(programs, spec.Programs)
	}
	var probes []setProbe
	if s.objects != nil {
		probes = append(objectProbes(true, true), growthProbes()...)
	}
	if s.chargers != nil {
		probes = append(probes, chargerProbes(types)...)
	}
	var functions []string
	for _, p := range probes {
		for _, name := range []string{p.symbol, p.outlined} {
			if !p.required && name != "" && !slices.Contains(functions, name) {
				functions = append(functions, name)
			}
		}
	}
	return resolveSymbols(functions, programs...)
}
