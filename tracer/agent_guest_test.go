//go:build guest

package tracer_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
)

// The agent tells of a refusal as it happens, and after it was killed its recording does. The
// witness is the process that was refused.
func TestAgent(t *testing.T) { guests.Test(t, guesttest.Newest, watchesForEver) }

func watchesForEver(t *testing.T, k guesttest.Kernel) {
	kib := userPages(t, k)
	dir := filepath.Join(t.TempDir(), "ring")
	agent := guesttest.Command(t, "pinwatch", "agent", "--dir", dir, "--max-size", "1MB", "--listen", metricsAddress).Start()
	agent.WaitFor("msg=\"watching ")
	agent.WaitFor("msg=\"privileges are given up\" left=\"[cap_dac_override cap_dac_read_search cap_bpf]\"")
	agent.WaitFor("msg=\"system calls are confined\" others=refuse")
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", agent.Process.Pid))
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		for _, want := range []string{"CapInh:\t0000000000000000\n", "CapPrm:\t0000008000000006\n", "CapEff:\t0000008000000006\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("%s: want %s in\n%s", thread, want, status)
			}
		}
	}
	if len(threads) < 2 {
		t.Errorf("threads: %v", threads)
	}
	held := holdBuffers(t, "--uid", "2001", "--memlock-kib", kib(128), "--pages", "64")
	held.WaitFor(`"refused"`)
	agent.WaitFor("msg=refused subsystem=perf errno=EPERM outcome=limit")
	for path, want := range map[string]string{
		"/healthz": "ok\n",
		"/metrics": `pinwatch_refusals_total{errno="EPERM",outcome="limit",subsystem="perf"} 1` + "\n",
	} {
		if said := get(t, path); !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	refused := fmt.Sprintf(" pid=%d ", held.Process.Pid)
	time.Sleep(2 * time.Second) // no more than one may be lost
	r := agent.Stop(unix.SIGKILL)
	if !strings.Contains(r.Stderr, refused) || !strings.Contains(r.Stderr, "pinned_vm 69 + extra 65 = 134 pages") {
		t.Errorf("no word of process%sin\n%s", refused, r.Stderr)
	}
	again := guesttest.Command(t, "pinwatch", "agent", "--dir", dir, "--max-size", "1MB").Start()
	again.WaitFor("msg=\"watching ")
	held.Stop(os.Interrupt)
	if r := again.Stop(unix.SIGTERM); r.Code != 0 {
		t.Errorf("SIGTERM: exit %d: %s", r.Code, r.Stderr)
	}
	replay := guesttest.Command(t, "pinwatch", "replay", dir).Run()
	if replay.Code != 0 || !strings.Contains(replay.Stdout, "EPERM: pinned_vm 69 + extra 65 = 134 pages") ||
		!strings.Contains(replay.Stderr, "the agent did not end, and was started again") || strings.Count(replay.Stdout, "accounting of this kernel") != 2 {
		t.Errorf("%+v", replay)
	}
	// What explain says of it later is what it says of a command, with who held what then.
	explained := guesttest.Command(t, "pinwatch", "explain", "--at", "0s", "--uid", "2001", dir).Run()
	holder := regexp.MustCompile(fmt.Sprintf(`(?m)^ +%d +pinwatch +2001 +9 +585 +516 `, held.Process.Pid))
	if explained.Code != 1 || !strings.Contains(explained.Stdout, "REFUSED with EPERM: RLIMIT_MEMLOCK is exceeded by 6 pages") || !holder.MatchString(explained.Stdout) {
		t.Errorf("%+v", explained)
	}
	t.Log(explained.Stdout, explained.Stderr)
	if shown := guesttest.Command(t, "pinwatch", "top", "--replay", dir, "--view", "events").Run(); shown.Code != 0 || !strings.Contains(shown.Stdout, "! recording: gap: ") {
		t.Errorf("%+v", shown)
	}
}

const metricsAddress = "127.0.0.1:9435"

// get asks the agent, as Prometheus does.
func get(t *testing.T, path string) string {
	t.Helper()
	answer, err := http.Get("http://" + metricsAddress + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", path, answer.Status, err)
	}
	return string(body)
}
