package workload

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
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
	raw, err := os.ReadFile("/sys/bus/event_source/devices/" + a.PMU + "/type")
	if err != nil {
		return fmt.Errorf("AUX area: requires a PMU that has one: %w", err)
	}
	kind, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 32)
	if err != nil {
		return err
	}
	attr := unix.PerfEventAttr{Type: uint32(kind), Size: uint32(unix.PERF_ATTR_SIZE_VER1), Bits: unix.PerfBitDisabled}
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("perf_event_open of %s: %w", a.PMU, err)
	}
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
	control := (*unix.PerfEventMmapPage)(unsafe.Pointer(&data[0]))
	control.Aux_offset = uint64(len(data))
	control.Aux_size = uint64(a.AUXPages * page)
	aux, err := unix.Mmap(fd, int64(len(data)), a.AUXPages*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
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
