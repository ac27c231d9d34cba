package workload

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pinwatch/pinwatch/tracer/kernel"
	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/child"
)

// TwoProcesses has one process map a buffer that exceeds its user's allowance,
// and another one map the same buffer, and unmaps them in a given order.
type TwoProcesses struct {
	UID        int
	Memlock    int64 // RLIMIT_MEMLOCK in bytes; -1: leave it alone
	Pages      int   // data pages, a power of two
	PayerFirst bool  // the process that mapped first, and paid, unmaps first
}

// ShareStep is what a step did, by the witness of VmPin.
type ShareStep struct {
	Step     string `json:"step"`
	Process  string `json:"process"` // "payer" or "sharer"
	VmPinKiB int64  `json:"vm_pin_kib"`
}

// Run is the payer; the sharer is a child.
func (t *TwoProcesses) Run(out io.Writer) error {
	events, err := openEvents("", 1)
	if err != nil {
		return err
	}
	p := PerfBuffers{UID: t.UID, Memlock: t.Memlock}
	if err := p.drop(); err != nil {
		return err
	}
	size := (t.Pages + 1) * os.Getpagesize()
	data, err := unix.Mmap(events[0], 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %d pages: %w", t.Pages+1, err)
	}
	if err := shareReport(out, "map", "payer"); err != nil {
		return err
	}
	sharer := child.Command(context.Background(), sharerChild, t.Pages)
	sharer.ExtraFiles = []*os.File{os.NewFile(uintptr(events[0]), "event")}
	sharer.Stderr = os.Stderr
	orders, err := sharer.StdinPipe()
	if err != nil {
		return err
	}
	answers, err := sharer.StdoutPipe()
	if err != nil {
		return err
	}
	if err := sharer.Start(); err != nil {
		return err
	}
	lines := bufio.NewReader(answers)
	order := func(what string) error {
		if _, err := fmt.Fprintln(orders, what); err != nil {
			return err
		}
		answer, err := lines.ReadString('\n')
		if err != nil {
			return fmt.Errorf("the other process: %w", err)
		}
		_, err = io.WriteString(out, answer)
		return err
	}
	steps := []func() error{
		func() error { return order("unmap") },
		func() error {
			if err := unix.Munmap(data); err != nil {
				return err
			}
			return shareReport(out, "unmap", "payer")
		},
	}
	if t.PayerFirst {
		steps[0], steps[1] = steps[1], steps[0]
	}
	for _, step := range append([]func() error{func() error { return order("map") }}, steps...) {
		if err := step(); err != nil {
			return err
		}
	}
	orders.Close()
	return sharer.Wait()
}

func shareReport(out io.Writer, step, process string) error {
	pin, err := kernel.VmPin("self")
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(ShareStep{Step: step, Process: process, VmPinKiB: pin})
}

// share is the other process: it takes "map" and "unmap" from in, and has the event as
// descriptor 3.
func share(pages int, in io.Reader, out io.Writer) error {
	var data []byte
	orders := bufio.NewScanner(in)
	for orders.Scan() {
		var err error
		switch order := strings.TrimSpace(orders.Text()); order {
		case "map":
			data, err = unix.Mmap(3, 0, (pages+1)*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		case "unmap":
			err = unix.Munmap(data)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", orders.Text(), err)
		}
		if err := shareReport(out, orders.Text(), "sharer"); err != nil {
			return err
		}
	}
	return orders.Err()
}
