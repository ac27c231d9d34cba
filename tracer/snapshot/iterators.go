package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/bpf"
	"github.com/pinwatch/pinwatch/tracer/kernel"
)

// iterators are the kernel's own lists, each read through a BPF program that
// writes fixed records. A nil one is not to be had.
type iterators struct {
	tasks *iterator // processes and the counters of their users (5.8+)
	vmas  *iterator // mappings of perf buffers (5.12+)
	files *iterator // descriptors of perf events, where there is no vmas
}

// openIterators opens what the kernel and this user offer. Without the tasks
// there is nothing, and an error.
func openIterators(opts Options) (it iterators, degraded []string, err error) {
	types := ebpf.CollectionOptions{Cache: opts.Cache}
	if types.Cache == nil {
		types.Cache = btf.NewCache()
	}
	if opts.BTF != "" {
		if types.Programs.KernelTypes, err = btf.LoadSpec(opts.BTF); err != nil {
			return it, nil, fmt.Errorf("read kernel types from --btf %s: %w", opts.BTF, err)
		}
	}
	if it.tasks, err = openIterator(bpf.SnapshotProgIterTask, types); err != nil {
		return it, nil, err
	}
	if it.vmas, err = openIterator(bpf.SnapshotProgIterTaskVma, types); err != nil {
		degraded = append(degraded, fmt.Sprintf("mappings of perf buffers: no %s (Linux %s); %s: %v", kernel.MappingIterator().Name, kernel.MappingIterator().Since, kernel.MappingIterator().Instead, err))
		if it.files, err = openIterator(bpf.SnapshotProgIterPerfFiles, types); err != nil {
			degraded = append(degraded, fmt.Sprintf("charges of perf buffers: not readable: %v", err))
		}
	}
	return it, degraded, nil
}

func (it *iterators) close() {
	for _, i := range []*iterator{it.tasks, it.vmas, it.files} {
		if i != nil {
			i.Close()
		}
	}
}

// iterator is one loaded program and its link.
type iterator struct {
	objects *ebpf.Collection
	link    *link.Iter
}

func openIterator(program string, opts ebpf.CollectionOptions) (*iterator, error) {
	spec, err := bpf.LoadSnapshot()
	if err != nil {
		return nil, fmt.Errorf("read the built-in BPF programs: %w", err)
	}
	spec.Programs = map[string]*ebpf.ProgramSpec{program: spec.Programs[program]}
	defer kernel.LiftMemlock()()
	objects, err := ebpf.NewCollectionWithOptions(spec, opts)
	if err != nil {
		return nil, kernel.WithoutGuess(err)
	}
	l, err := link.AttachIter(link.IterOptions{Program: objects.Programs[program]})
	if err != nil {
		objects.Close()
		return nil, err
	}
	return &iterator{objects: objects, link: l}, nil
}

// Close frees an iterator.
func (i *iterator) Close() {
	i.link.Close()
	i.objects.Close()
}

// each runs an iterator once, and passes on its records in the machine's byte
// order.
func each[T bpf.SnapshotProcess | bpf.SnapshotBuffer](i *iterator, use func(*T)) error {
	r, err := i.link.Open()
	if err != nil {
		return fmt.Errorf("open a BPF iterator: %w", err)
	}
	defer r.Close()
	var record T
	into := unsafe.Slice((*byte)(unsafe.Pointer(&record)), unsafe.Sizeof(record))
	buffer := make([]byte, 256<<10)
	kept := 0
	for {
		n, err := r.Read(buffer[kept:])
		if errors.Is(err, unix.EAGAIN) {
			continue // the kernel has looked at a million things and found nothing to say
		}
		rest := buffer[:kept+n]
		for len(rest) >= len(into) {
			copy(into, rest)
			use(&record)
			rest = rest[len(into):]
		}
		kept = copy(buffer, rest)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read a BPF iterator: %w", err)
		}
	}
	if kept != 0 {
		return fmt.Errorf("read a BPF iterator: %d bytes are left over", kept)
	}
	return nil
}

func text(raw []byte) string {
	s, _, _ := bytes.Cut(raw, []byte{0})
	return string(s)
}
