//go:build guest

package tracer_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/kernel"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

const overVariable = "PINWATCH_TEST_OVER"

// What maps the buffer of one PMU after the other over the same addresses, and then tries to
// take it to pieces, is charged for each and given back each: nothing is called broken, and
// nothing is left. VmPin is the witness.
func TestMappedOver(t *testing.T) {
	guests.Test(t, guesttest.Ends, func(t *testing.T, _ guesttest.Kernel) {
		tr := begin(t, perfBuffersAlone())
		cmd := guesttest.Command(t, "/proc/self/exe")
		cmd.Env = append(os.Environ(), overVariable+"=1")
		r := cmd.Run()
		tr.stop()
		var mapped int
		if _, err := fmt.Sscanf(r.Stdout, "%d buffers mapped", &mapped); err != nil || r.Code != 0 || mapped < 3 {
			t.Fatalf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		charges, refunds := 0, 0
		var user, pinned int64
		for _, e := range tr.children() {
			user, pinned = user+e.ChargedUser, pinned+e.ChargedPinned
			switch {
			case e.Kind == ledger.Charge && e.Asked() == overPages:
				charges++
			case e.Kind == ledger.Refund:
				refunds++
			}
			if e.Verdict != ledger.OK {
				t.Errorf("%+v", e)
			}
		}
		if charges != mapped || refunds != mapped || user != 0 || pinned != 0 || tr.lost != 0 {
			t.Errorf("%d charges and %d refunds of %d buffers, %d and %d pages left, %d lost", charges, refunds, mapped, user, pinned, tr.lost)
		}
	})
}

// overPages is the size of each buffer, control page included.
const overPages = 3

// mapOver does it. What this kernel refuses to take to pieces stays whole.
func mapOver() error {
	page := uintptr(os.Getpagesize())
	mmap := func(addr uintptr, fd int, bytes uintptr, flags uintptr) (uintptr, unix.Errno) {
		got, _, errno := unix.Syscall6(unix.SYS_MMAP, addr, bytes, unix.PROT_READ|unix.PROT_WRITE, flags, uintptr(fd), 0)
		return got, errno
	}
	space, errno := mmap(0, -1, 4*overPages*page, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if errno != 0 {
		return fmt.Errorf("reserve addresses: %w", errno)
	}
	types, err := filepath.Glob("/sys/bus/event_source/devices/*/type")
	if err != nil {
		return err
	}
	mapped := 0
	for _, file := range types {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		kind, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
		if err != nil {
			return err
		}
		attr := kernel.DummyEvent()
		attr.Type = uint32(kind)
		fd, err := unix.PerfEventOpen(attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			continue // this PMU has no such event, or none of one process
		}
		if _, errno := mmap(space, fd, overPages*page, unix.MAP_SHARED|unix.MAP_FIXED); errno == 0 {
			mapped++
		}
	}
	// Twice more, so that there are some where a machine has few PMUs.
	for range 2 {
		fd, err := unix.PerfEventOpen(kernel.DummyEvent(), 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			return err
		}
		if _, errno := mmap(space, fd, overPages*page, unix.MAP_SHARED|unix.MAP_FIXED); errno != 0 {
			return fmt.Errorf("map over a buffer: %w", errno)
		}
		mapped++
	}
	pieces := []struct {
		what string
		call func() unix.Errno
	}{
		{"a hole", func() unix.Errno {
			_, _, errno := unix.Syscall(unix.SYS_MUNMAP, space+page, page, 0)
			return errno
		}},
		{"anonymous memory over the last page", func() unix.Errno {
			_, errno := mmap(space+2*page, -1, page, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED)
			return errno
		}},
		{"shrink", func() unix.Errno {
			_, _, errno := unix.Syscall6(unix.SYS_MREMAP, space, overPages*page, 2*page, 0, 0, 0)
			return errno
		}},
		{"grow", func() unix.Errno {
			_, _, errno := unix.Syscall6(unix.SYS_MREMAP, space, overPages*page, 2*overPages*page, unix.MREMAP_MAYMOVE, 0, 0)
			return errno
		}},
		{"move", func() unix.Errno {
			_, _, errno := unix.Syscall6(unix.SYS_MREMAP, space, overPages*page, overPages*page, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, space+2*overPages*page, 0)
			return errno
		}},
	}
	fmt.Printf("%d buffers mapped\n", mapped)
	for _, p := range pieces {
		fmt.Printf("%s: %v\n", p.what, p.call())
	}
	if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, space, 4*overPages*page, 0); errno != 0 {
		return fmt.Errorf("unmap all: %w", errno)
	}
	if left, err := kernel.VmPin("self"); err != nil || left != 0 {
		return errors.Join(err, fmt.Errorf("VmPin is %d KiB in the end", left))
	}
	return nil
}
