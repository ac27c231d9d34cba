//go:build guest

package tracer_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
)

// An agent among random loads is killed, its disk is full, the clock jumps, and a reader of its
// metrics stalls. Nothing is lost uncounted, its memory stays as it is, and the counters that it
// tells of are the kernel's.
func TestAgentSoak(t *testing.T) {
	guesttest.Long(t)
	guests.Test(t, outermost, soakAgent)
}

// soakedAgent is an agent, and where it records.
type soakedAgent struct {
	*guesttest.Cmd
	disk string // a file system of its own
}

func (a *soakedAgent) start(t *testing.T) {
	a.Cmd = guesttest.Command(t, "pinwatch", "agent", "--dir", filepath.Join(a.disk, "ring"), "--max-size", "2MB", "--listen", metricsAddress).Start()
	a.WaitFor("msg=\"system calls are confined\"")
}

// load is random, and a ninth of the soak's time: there are so many.
func (a *soakedAgent) load(t *testing.T, seed int) {
	t.Helper()
	r := guesttest.Command(t, "pinwatch", "workload", "soak", "--seed", fmt.Sprint(seed), "--duration", max(2*time.Second, soakTime()/9).String(), "--sysctls").Run()
	if r.Code != 0 {
		t.Fatalf("exit %d\n%s", r.Code, r.Stderr)
	}
}

// metric is the sum of a metric's series whose labels hold some words.
func metric(t *testing.T, name, labels string) (sum float64) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^`+name+`(\{.*\})? (\S+)$`).FindAllStringSubmatch(get(t, "/metrics"), -1) {
		value, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(m[1], labels) {
			sum += value
		}
	}
	return sum
}

func soakAgent(t *testing.T, k guesttest.Kernel) {
	a := &soakedAgent{disk: t.TempDir()}
	if err := unix.Mount("tmpfs", a.disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(a.disk, unix.MNT_DETACH)
	a.start(t)
	a.load(t, 1)
	a.Stop(unix.SIGKILL)
	a.start(t)
	a.load(t, 2)
	for _, sub := range []struct {
		name string
		run  func(*testing.T)
	}{{"full disk", a.fullDisk}, {"clock", a.clock}, {"counters", a.counters}, {"reader", a.stalledReader}} {
		t.Run(sub.name, sub.run)
		t.Logf("%s: %d KiB resident", sub.name, a.resident(t))
	}

	// All that there is has happened: from here on its memory stays as it is.
	a.load(t, 9)
	resident := a.resident(t)
	for range 3 {
		a.load(t, 9)
		if now := a.resident(t); now > resident*5/4 {
			t.Errorf("%d KiB resident, after the same load as with %d", now, resident)
		}
	}
	// On a preempted kernel a kprobe may be skipped, which is counted.
	if lost, events := metric(t, "pinwatch_lost_events_total", ""), metric(t, "pinwatch_events_total", ""); lost > events/100 {
		t.Errorf("%v events were lost, and %v not", lost, events)
	}
	allowed := soakVerdicts(k, false)
	for v := ledger.OK + 1; int(v) < ledger.Verdicts; v++ {
		if n := metric(t, "pinwatch_verdicts_total", fmt.Sprintf("verdict=%q", v)); n > 0 && !slices.Contains(allowed, v) {
			t.Errorf("%v of %s on a kernel that is not known for it", n, v)
		}
	}
	if r := a.Stop(unix.SIGTERM); r.Code != 0 {
		t.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
	replay := guesttest.Command(t, "pinwatch", "replay", filepath.Join(a.disk, "ring")).Run()
	if replay.Code != 0 || !strings.Contains(replay.Stdout, "verdict: ") {
		t.Errorf("replayed: exit %d: %s", replay.Code, replay.Stderr)
	}
	t.Logf("%d KiB resident; replayed: %s", resident, replay.Stderr)
}

// resident is how much memory the agent has, in KiB.
func (a *soakedAgent) resident(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(raw)
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fullDisk takes all that the disk has left, and gives it back.
func (a *soakedAgent) fullDisk(t *testing.T) {
	const left = "pinwatch_unrecorded_events_total"
	if n := metric(t, left, ""); n != 0 {
		t.Fatalf("%v events were not recorded on a disk with room", n)
	}
	full := filepath.Join(a.disk, "full")
	if err := os.WriteFile(full, make([]byte, 16<<20), 0o600); err == nil {
		t.Fatal("the disk took twice its size")
	}
	for range 20 { // what is compressed is not much
		a.load(t, 3)
		if metric(t, left, "") != 0 {
			break
		}
	}
	if metric(t, left, "") == 0 || !strings.Contains(a.said(), "no space left") {
		t.Errorf("nothing is said of a full disk: %s", a.said())
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	a.load(t, 4)
	before := metric(t, left, "")
	a.load(t, 5)
	if after := metric(t, left, ""); after != before || metric(t, "pinwatch_recording", "") != 1 {
		t.Errorf("with room again %v more events were not recorded", after-before)
	}
}

// said is what the agent has logged.
func (a *soakedAgent) said() (text string) {
	a.WaitUntil("logged", func(_, stderr string) bool { text = stderr; return true })
	return text
}

// clock has it jump by an hour, and back.
func (a *soakedAgent) clock(t *testing.T) {
	for seed, by := range []int64{3600, -3600} {
		var now unix.Timeval
		if err := unix.Gettimeofday(&now); err != nil {
			t.Fatal(err)
		}
		now.Sec += by
		if err := unix.Settimeofday(&now); err != nil {
			t.Fatal(err)
		}
		a.load(t, 6+seed)
	}
}

// stalledReader asks for the metrics again and again, and reads nothing.
func (a *soakedAgent) stalledReader(t *testing.T) {
	connection, err := net.Dial("tcp", metricsAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	connection.SetWriteDeadline(time.Now().Add(time.Second))
	for range 10000 {
		if _, err := connection.Write([]byte("GET /metrics HTTP/1.1\r\nHost: stalled\r\n\r\n")); err != nil {
			break // it is not asked any more, either
		}
	}
	a.load(t, 8)
	if said := get(t, "/healthz"); said != "ok\n" {
		t.Errorf("healthz: %q", said)
	}
}

// counters has a user hold buffers whose pages are known.
func (a *soakedAgent) counters(t *testing.T) {
	const pages = 17
	of := func() float64 { return metric(t, "pinwatch_user_locked_bytes", `counter="perf",uid="2001"`) }
	// With the load's last process its user's counter went, whatever a kernel had left in it.
	// The next one begins at nothing.
	for last := -1.0; last != metric(t, "pinwatch_events_total", ""); time.Sleep(time.Second) {
		last = metric(t, "pinwatch_events_total", "")
	}
	held := holdBuffers(t, "--uid", "2001", "--pages", fmt.Sprint(pages-1), "--max", "1")
	want := float64(pages * os.Getpagesize())
	for late := time.Now().Add(patience); of() != want; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(late) {
			t.Errorf("%v bytes; want %v", of(), want)
			break
		}
	}
	held.Stop(os.Interrupt)
}
