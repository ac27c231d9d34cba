package main

import (
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"golang.org/x/sys/unix"
)

// pair opens an event, maps a buffer of two pages, unmaps it and closes the event.
// Raw system calls: Go's scheduler has no part in what is measured.
func pair() error {
	attr := kernel.DummyEvent()
	cpu := -1
	fd, _, errno := unix.RawSyscall6(unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(attr)), 0, uintptr(cpu), uintptr(cpu), unix.PERF_FLAG_FD_CLOEXEC, 0)
	if errno != 0 {
		return fmt.Errorf("perf_event_open: %w", errno)
	}
	defer unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	size := uintptr(2 * os.Getpagesize())
	address, _, errno := unix.RawSyscall6(unix.SYS_MMAP, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED, fd, 0)
	if errno != 0 {
		return fmt.Errorf("mmap: %w", errno)
	}
	if _, _, errno = unix.RawSyscall(unix.SYS_MUNMAP, address, size, 0); errno != 0 {
		return fmt.Errorf("munmap: %w", errno)
	}
	return nil
}

func pairs(n int) error {
	for range n {
		if err := pair(); err != nil {
			return err
		}
	}
	return nil
}

// clock reads a clock in nanoseconds: under -icount shift=0, in instructions.
func clock(id int32) (int64, error) {
	var now unix.Timespec
	err := unix.ClockGettime(id, &now)
	return now.Nano(), err
}

// costOf is what a function costs the thread that runs it, and how long it takes.
func costOf(f func() error) (thread, wall int64, err error) {
	wall0, _ := clock(unix.CLOCK_MONOTONIC)
	thread0, _ := clock(unix.CLOCK_THREAD_CPUTIME_ID)
	if err := f(); err != nil {
		return 0, 0, err
	}
	thread1, _ := clock(unix.CLOCK_THREAD_CPUTIME_ID)
	wall1, err := clock(unix.CLOCK_MONOTONIC)
	return thread1 - thread0, wall1 - wall0, err
}

// empty attaches programs that do nothing where pinwatch's are attached: the floor
// of all that can be had there.
func empty(by string) (detach func(), err error) {
	var closers []func() error
	detach = func() {
		for _, c := range closers {
			c()
		}
	}
	for _, symbol := range []string{"perf_mmap", "perf_mmap_close"} {
		for _, ret := range []bool{true, false} {
			if by == "session" && ret {
				continue // the other one is on both ends
			}
			l, program, err := attachEmpty(symbol, by, ret)
			if err != nil {
				detach()
				return nil, fmt.Errorf("attach an empty program to %s by %s: %w", symbol, by, err)
			}
			closers = append(closers, l.Close, program.Close)
		}
	}
	return detach, nil
}

func attachEmpty(symbol, by string, ret bool) (link.Link, *ebpf.Program, error) {
	spec := &ebpf.ProgramSpec{Type: ebpf.Kprobe, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}}
	switch by {
	case "fentry":
		spec.Type, spec.AttachTo, spec.AttachType = ebpf.Tracing, symbol, ebpf.AttachTraceFEntry
		if ret {
			spec.AttachType = ebpf.AttachTraceFExit
		}
	case "session":
		spec.AttachType = ebpf.AttachTraceKprobeSession
	}
	program, err := ebpf.NewProgram(spec)
	if err != nil {
		return nil, nil, err
	}
	var l link.Link
	switch {
	case by == "fentry":
		l, err = link.AttachTracing(link.TracingOptions{Program: program})
	case by == "session":
		l, err = link.KprobeMulti(program, link.KprobeMultiOptions{Symbols: []string{symbol}, Session: true})
	case ret:
		l, err = link.Kretprobe(symbol, program, nil)
	default:
		l, err = link.Kprobe(symbol, program, nil)
	}
	if err != nil {
		program.Close()
	}
	return l, program, err
}

// settle waits until a number stays the same.
func settle(read func() int64) {
	for last := int64(-1); ; {
		now := read()
		if now == last {
			return
		}
		last = now
		time.Sleep(200 * time.Millisecond)
	}
}
