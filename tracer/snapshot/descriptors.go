package snapshot

import (
	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/rule"
)

// descriptors are the buffers that open perf events lead to, by process. Where
// the kernel has no iterator of mappings they say what the mappings in
// /proc/PID/maps were charged.
type descriptors struct {
	byPID map[uint32][]bpf.SnapshotBuffer
}

// add enters what one descriptor leads to. Nothing held the buffer while it was
// read: what makes no sense was freed meanwhile.
func (d *descriptors) add(r *bpf.SnapshotBuffer) {
	sane := r.Mappings > 0 && r.DataPages > 0 && r.DataExtra >= 0 && r.AuxPages >= 0 && r.AuxExtra >= 0
	if !sane {
		return
	}
	if d.byPID == nil {
		d.byPID = map[uint32][]bpf.SnapshotBuffer{}
	}
	for _, have := range d.byPID[r.Pid] {
		if have.Buffer == r.Buffer {
			return // another descriptor of it
		}
	}
	d.byPID[r.Pid] = append(d.byPID[r.Pid], *r)
}

// match joins the mappings of a process with its descriptors, by area and size:
// there is nothing else that both show. Where as many buffers of a size are open
// as are mapped, they are the same ones. Where it is not so, a buffer's charge
// is known only if all that it can be were charged alike.
func (d *descriptors) match(pid uint32, mapped []Buffer) []Buffer {
	type kind struct {
		area  rule.Area
		pages int64
	}
	open := map[kind][]Buffer{}
	for _, r := range d.byPID[pid] {
		for _, area := range []rule.Area{rule.Data, rule.AUX} {
			if b := bufferOf(&r, area); b.Pages > 0 && b.Mappings > 0 {
				open[kind{area, b.Pages}] = append(open[kind{area, b.Pages}], b)
			}
		}
	}
	wanted := map[kind]int{}
	for _, m := range mapped {
		wanted[kind{m.Area, m.Pages}]++
	}
	for i, m := range mapped {
		k := kind{m.Area, m.Pages}
		candidates := open[k]
		switch {
		case len(candidates) == 0:
			continue // its event was closed, or came from another process
		case len(candidates) == wanted[k]:
			mapped[i] = candidates[0]
			open[k] = candidates[1:]
			wanted[k]--
		case alike(candidates):
			mapped[i].Extra, mapped[i].ExtraKnown = candidates[0].Extra, true
			mapped[i].PayerUID, mapped[i].PayerKnown = candidates[0].PayerUID, candidates[0].PayerKnown
		}
	}
	return mapped
}

// alike reports whether buffers were charged alike.
func alike(buffers []Buffer) bool {
	for _, b := range buffers[1:] {
		if b.Extra != buffers[0].Extra || b.PayerUID != buffers[0].PayerUID || b.PayerKnown != buffers[0].PayerKnown {
			return false
		}
	}
	return true
}
