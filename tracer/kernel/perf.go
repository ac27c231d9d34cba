package kernel

import "golang.org/x/sys/unix"

// DummyEvent is the plainest of all perf events: software, counting nothing, and not
// of the kernel.
func DummyEvent() *unix.PerfEventAttr {
	return &unix.PerfEventAttr{
		Type:   unix.PERF_TYPE_SOFTWARE,
		Config: unix.PERF_COUNT_SW_DUMMY,
		Size:   uint32(unix.PERF_ATTR_SIZE_VER1),
		Bits:   unix.PerfBitDisabled | unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv,
	}
}
