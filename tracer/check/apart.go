package check

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// keepApart takes all threads of the checker to its first CPU, where Options.Apart
// says so and there are others.
func (r *run) keepApart() error {
	if !r.opts.Apart {
		return nil
	}
	if err := unix.SchedGetaffinity(0, &r.others); err != nil {
		return fmt.Errorf("read the CPUs of this process: %w", err)
	}
	if r.others.Count() < 2 {
		r.opts.Apart = false
		return nil
	}
	first := 0
	for !r.others.IsSet(first) {
		first++
	}
	r.own.Set(first)
	r.others.Clear(first)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		// A thread may have ended; one that begins meanwhile costs time, and nothing else.
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			unix.SchedSetaffinity(id, &r.own)
		}
	}
	return nil
}

// apart starts a process on the other CPUs. It gets them from the thread that starts
// it, before its runtime counts them.
func (r *run) apart(start func() error) error {
	if !r.opts.Apart {
		return start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.SchedSetaffinity(0, &r.others); err != nil {
		return err
	}
	defer unix.SchedSetaffinity(0, &r.own)
	return start()
}
