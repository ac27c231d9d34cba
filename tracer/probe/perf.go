package probe

import "github.com/pinwatch/pinwatch/bpf"

// backends are what is attached to see perf buffers mapped and unmapped, the one that
// loses least first. The first that this kernel and this user can use is taken.
func backends() []Backend {
	// Refused before 5.16: kernel/events/core.c was built without ftrace until
	// 79df45731da6.
	kprobes := []Probe{
		{Program: bpf.PerfProgKretprobePerfMmap},
		{Program: bpf.PerfProgKprobePerfMmap},
		{Program: bpf.PerfProgKretprobePerfMmapClose},
		{Program: bpf.PerfProgKprobePerfMmapClose},
		{Program: bpf.PerfProgKretprobePerfMmapMaySplit, Optional: true},
		{Program: bpf.PerfProgKprobePerfMmapMaySplit, Optional: true},
	}
	return []Backend{{
		Name:   AttachSession,
		Probes: kprobes,
	}, {
		Name:   AttachKprobe,
		Probes: kprobes,
	}, {
		// Cheaper, and needs no kprobes. But these programs can be preempted,
		// and the kernel skips one that is under way on the CPU already: of 49,000
		// events on a busy preemptible 7.3 they lost 2,531, where kprobes, which
		// run with preemption off, lost none. All is counted.
		Name: AttachFentry,
		Probes: []Probe{
			{Program: bpf.PerfProgFexitPerfMmap},
			{Program: bpf.PerfProgFentryPerfMmap},
			{Program: bpf.PerfProgFexitPerfMmapClose},
			{Program: bpf.PerfProgFentryPerfMmapClose},
			{Program: bpf.PerfProgFexitPerfMmapMaySplit, Optional: true},
			{Program: bpf.PerfProgFentryPerfMmapMaySplit, Optional: true},
		},
	}, {
		// Before 5.16: their callers. mmap_region() has mmap_lock already, so no
		// waiting for it comes between the reading and perf_mmap(), as it would with
		// vm_mmap_pgoff(). It is the same from 4.11 to 6.11. rb_alloc() and
		// rb_alloc_aux() are called by perf_mmap() alone.
		Name:  AttachKprobe,
		Where: "mmap_region and remove_vma",
		Probes: []Probe{
			{Program: bpf.PerfProgKretprobeMmapRegion, AtOnce: everyProcess},
			{Program: bpf.PerfProgKprobeMmapRegion},
			{Program: bpf.PerfProgKretprobeRemoveVma, AtOnce: everyProcess},
			{Program: bpf.PerfProgKprobeRemoveVma},
			{Program: bpf.PerfProgKprobeRbAlloc, Optional: true, Without: reached},
			{Program: bpf.PerfProgKprobeRbAllocAux, Optional: true, Without: reached, Idle: true},
		},
	}}
}

// reached is what rb_alloc() and rb_alloc_aux() tell.
const reached = "mappings that perf_mmap refuses with ENOMEM"

// everyProcess is how many calls may be under way at once of a function that every
// process uses.
const everyProcess = 1024
