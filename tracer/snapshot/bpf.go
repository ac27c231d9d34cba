package snapshot

import (
	"errors"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// bpfObjects counts the host's BPF objects by their ids.
func (proc) bpfObjects(s *Snapshot) (o BPFObjects) {
	var errs []error
	o.Maps = count(ebpf.MapGetNextID, &errs)
	o.Programs = count(ebpf.ProgramGetNextID, &errs)
	links := new(link.Iterator)
	for links.Next() {
		o.Links++
	}
	if err := links.Err(); err != nil && !kernel.NoLinks(err) {
		errs = append(errs, err)
	}
	links.Close()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		s.degrade("BPF objects: not listed: %v (needs CAP_SYS_ADMIN)", errs[i])
		return BPFObjects{}
	}
	o.Known = true
	return o
}

func count[ID ~uint32](next func(ID) (ID, error), errs *[]error) (n int) {
	for id, err := next(0); ; id, err = next(id) {
		switch {
		case err == nil:
			n++
		case errors.Is(err, os.ErrNotExist):
			return n
		default:
			*errs = append(*errs, err)
			return n
		}
	}
}
