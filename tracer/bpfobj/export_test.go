package bpfobj

import "github.com/pinwatch/pinwatch/tracer/kernel"

// AskedPayers are who pays for maps, by their ids, as the kprobe tells it.
func AskedPayers(objects []Object) (map[uint32]uint64, kernel.BPFAccounting, error) {
	l := &lister{Listing: Listing{Objects: objects}}
	accounting, payments, err := askPayers(l.mapIDs(), "")
	payers := map[uint32]uint64{}
	for _, p := range payments {
		if p.payer.found == chainFound {
			payers[p.id] = p.payer.n
		}
	}
	return payers, accounting, err
}
