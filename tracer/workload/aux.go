package workload

import (
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// AUX maps a buffer with an AUX area, which needs a PMU that has one, and unmaps
// both.
type AUX struct {
	PMU       string // name below /sys/bus/event_source/devices
	UID       int
	Memlock   int64 // RLIMIT_MEMLOCK in bytes; -1: leave it alone
	Pages     int   // data pages, a power of two
	AUXPages  int   // a power of two
	DataFirst bool  // unmap the data area first
}

// Run runs the workload; the steps are those of ShareStep.
func (a *AUX) Run(out io.Writer) error {
	events, err := openEvents(a.PMU, 1)
	if err != nil {
		return err
	}
	fd := events[0]
	defer unix.Close(fd)
	p := PerfBuffers{UID: a.UID, Memlock: a.Memlock}
	if err := p.drop(); err != nil {
		return err
	}
	page := os.Getpagesize()
	data, err := unix.Mmap(fd, 0, (a.Pages+1)*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the data area: %w", err)
	}
	aux, err := mapAUX(fd, data, a.AUXPages)
	if err != nil {
		return fmt.Errorf("map the AUX area: %w", err)
	}
	if err := shareReport(out, "map", "aux"); err != nil {
		return err
	}
	areas := [][]byte{aux, data}
	if a.DataFirst {
		areas = [][]byte{data, aux}
	}
	for _, area := range areas {
		if err := unix.Munmap(area); err != nil {
			return err
		}
	}
	return shareReport(out, "unmap", "aux")
}

// mapAUX maps an AUX area of so many pages behind an event's data area.
func mapAUX(fd int, data []byte, pages int) ([]byte, error) {
	size := pages * os.Getpagesize()
	control := (*unix.PerfEventMmapPage)(unsafe.Pointer(&data[0]))
	control.Aux_offset, control.Aux_size = uint64(len(data)), uint64(size)
	return unix.Mmap(fd, int64(len(data)), size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}
