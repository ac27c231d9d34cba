package check

import "golang.org/x/sys/unix"

// The model is what the accounting is meant to be, in a few lines, and knows
// nothing of the tracer and its ledger: it says what every step of a scenario
// must lead to, and witnesses are held against that. Amounts are pages.
type model struct {
	allowance int64 // of a user: perf_event_mlock_kb in pages × online CPUs
	paranoid  int64 // perf_event_paranoid
}

// payer is one side of the accounts: what a user or a process is charged now.
type payer struct {
	pages int64
	areas int // of buffers of the user's processes, whoever of them pays

	// Of a user, what other chargers have: rings, umems, sends and BPF objects.
	locked int64 // in user->locked_vm
	shared int64 // the same, where perf_mmap() charges that counter, too; else 0
	held   int   // objects
}

// full is what perf_mmap() finds charged to a user.
func (p *payer) full() int64 { return p.pages + p.shared }

// caller is who maps.
type caller struct {
	user, mm *payer
	limit    int64 // RLIMIT_MEMLOCK
	ipcLock  bool  // CAP_IPC_LOCK, effective in the initial user namespace
}

// area is the data or the AUX area of a buffer while it lives, and who pays.
type area struct {
	by           caller
	pages        int64
	toUser, toMM int64
	mappings     int
}

// charge is the first mapping of an area: to the user what still fits its
// allowance, the rest to the process; EPERM exactly when the process would
// exceed its limit and nothing lets it.
func (m *model) charge(by caller, pages int64) (*area, unix.Errno) {
	a := &area{by: by, pages: pages, mappings: 1}
	a.toUser = min(pages, max(0, m.allowance-by.user.full()))
	a.toMM = pages - a.toUser
	if by.mm.pages+a.toMM > by.limit && m.paranoid > -1 && !by.ipcLock {
		return nil, unix.EPERM
	}
	by.user.pages += a.toUser
	by.mm.pages += a.toMM
	by.user.areas++
	return a, 0
}

// again is a further mapping: it charges nothing.
func (a *area) again() { a.mappings++ }

// unmap gives everything back to who paid, with the last mapping.
func (a *area) unmap() {
	if a.mappings--; a.mappings == 0 {
		a.by.user.pages -= a.toUser
		a.by.mm.pages -= a.toMM
		a.by.user.areas--
	}
}

// live reports whether anything maps it.
func (a *area) live() bool { return a != nil && a.mappings > 0 }

// room is what a user may still map at no process's expense.
func (m *model) room(user *payer) int64 { return max(0, m.allowance-user.full()) }

// sizes splits a number of pages into buffer sizes that perf accepts: a power of
// two and the control page, or the control page alone. The largest come first.
func sizes(pages int64) (list []int64) {
	for pages > 0 {
		size := int64(1)
		for next := int64(2); next <= pages; next = (next-1)*2 + 1 {
			size = next
		}
		list = append(list, size)
		pages -= size
	}
	return list
}
