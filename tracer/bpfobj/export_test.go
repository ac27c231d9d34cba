package bpfobj

import "github.com/pinwatch/pinwatch/tracer/kernel"

// AskedPayers are who pays for maps, by their ids, as the kprobe tells it.
func AskedPayers(objects []Object) (map[uint32]uint64, kernel.BPFAccounting, error) {
	l := &lister{Listing: Listing{Objects: objects}}
	accounting, records, err := askPayers(l.mapIDs(), "")
	payers := map[uint32]uint64{}
	for _, r := range records {
		if r.Found == payerFound {
			payers[r.ID] = r.Value
		}
	}
	return payers, accounting, err
}
