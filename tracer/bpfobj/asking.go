package bpfobj

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// asking is a kprobe on prctl() that tells who pays for a map: see bpf/payers.bpf.c.
type asking struct {
	bpf.PayersObjects
	link link.Link
}

// ask attaches it.
func ask(types kernel.Types) (*asking, error) {
	defer kernel.LiftMemlock()()
	a := &asking{}
	var options ebpf.CollectionOptions
	options.Programs.KernelTypes = types.File
	if err := bpf.LoadPayersObjects(&a.PayersObjects, &options); err != nil {
		return nil, fmt.Errorf("load a kprobe (needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN): %w", err)
	}
	var err error
	if a.link, err = link.Kprobe(kernel.SyscallSymbol("sys_prctl"), a.KprobeSysPrctl, nil); err != nil {
		a.PayersObjects.Close()
		return nil, fmt.Errorf("attach a kprobe to prctl: %w", err)
	}
	return a, nil
}

func (a *asking) Close() {
	a.link.Close()
	a.PayersObjects.Close()
}

// payer is who pays for a map, or that this is not known.
func (a *asking) payer(id uint32) (payment, error) {
	unread := value{found: chainUnread}
	p := payment{id, unread, unread, unread}
	m, err := ebpf.NewMapFromID(ebpf.MapID(id))
	if err != nil {
		return p, nil // it went away
	}
	defer m.Close()
	if err := a.Answers.Put(uint32(0), bpf.PayersAnswer{}); err != nil {
		return p, err
	}
	unix.Prctl(int(bpf.PayersQuestionQUESTION_PAYER), uintptr(m.FD()), 0, 0, 0) // EINVAL, as everyone's
	var answer bpf.PayersAnswer
	if err := a.Answers.Lookup(uint32(0), &answer); err != nil {
		return p, err
	}
	switch {
	case answer.Known != 0:
		p.payer = value{chainFound, answer.Payer}
	case answer.Question == bpf.PayersQuestionQUESTION_PAYER:
		p.payer.found = chainNone
	}
	return p, nil
}

// askPayers asks for each map who pays for it.
func askPayers(maps []uint32, btf string) (kernel.BPFAccounting, []payment, error) {
	types, err := kernel.LoadTypes(btf, nil)
	if err != nil {
		return kernel.BPFUnknown, nil, err
	}
	accounting := kernel.BPFMemcg
	if users, err := types.ChargesBPFToUsers(); err != nil {
		return kernel.BPFUnknown, nil, err
	} else if users {
		accounting = kernel.BPFRlimit
	}
	a, err := ask(types)
	if err != nil {
		return kernel.BPFUnknown, nil, err
	}
	defer a.Close()
	var payments []payment
	for _, id := range maps {
		p, err := a.payer(id)
		if err != nil {
			return kernel.BPFUnknown, nil, fmt.Errorf("ask who pays for map %d: %w", id, err)
		}
		payments = append(payments, p)
	}
	return accounting, payments, nil
}

func (l *lister) mapIDs() (ids []uint32) {
	for i := range l.Objects {
		if l.Objects[i].Kind == KindMap {
			ids = append(ids, l.Objects[i].ID)
		}
	}
	return ids
}
