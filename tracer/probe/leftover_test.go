package probe

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Only what a process of this namespace made that is gone is taken away: not what one has
// that lives, nor other programs' probes, whatever their names.
func TestLeftovers(t *testing.T) {
	const events = `r512:pinwatch_4026531836_100_5_0123456789abcdef/r_perf_mmap perf_mmap
p:pinwatch_4026531836_100_5_0123456789abcdef/p_perf_mmap perf_mmap
r512:pinwatch_4026531836_101_6_0123456789abcdef/alive perf_mmap
r512:pinwatch_4026531999_100_5_0123456789abcdef/another_namespace perf_mmap
r512:ebpf_0123456789abcdef/r_perf_mmap perf_mmap
p:pinwatch_100_5/other perf_mmap
p:pinwatch_4026531836_x_5_0123456789abcdef/other perf_mmap
p:kprobes/p_pinwatch_4026531836_100_5_0 perf_mmap arg=%di

`
	got := leftovers(events, 4026531836, func(m maker) bool { return m.pid == 100 && m.began == 5 })
	want := []string{"pinwatch_4026531836_100_5_0123456789abcdef/r_perf_mmap", "pinwatch_4026531836_100_5_0123456789abcdef/p_perf_mmap"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// This process is alive, one of its number that began at another time is not, and a child
// is gone once it was waited for.
func TestMakers(t *testing.T) {
	self, err := thisMaker()
	if err != nil {
		t.Fatal(err)
	}
	again, ok := makerOf(self.group() + "_0123456789abcdef")
	if !ok || again != self || self.gone() || self.pid != uint64(os.Getpid()) {
		t.Errorf("%+v is read back as %+v, %v; gone: %v", self, again, ok, self.gone())
	}
	if name := self.group() + "_" + strings.Repeat("0", 16); len(name) > 63 {
		t.Errorf("%s: too long for a group", name)
	}
	earlier := self
	earlier.began--
	if !earlier.gone() {
		t.Error("one that began earlier is not gone")
	}
	c := exec.Command("sleep", "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	child := maker{namespace: self.namespace, pid: uint64(c.Process.Pid)}
	if child.began, err = began(child.pid); err != nil || child.gone() {
		t.Errorf("a child that lives: %+v, %v", child, err)
	}
	c.Process.Kill()
	c.Wait()
	if !child.gone() {
		t.Errorf("a child that was killed: %+v is not gone", child)
	}
}
