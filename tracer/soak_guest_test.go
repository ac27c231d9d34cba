//go:build guest

package tracer_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/ledger"
	"github.com/pinwatch/pinwatch/tracer/probe"
	"github.com/pinwatch/pinwatch/tracer/transport"
)

// soakVariable says how long TestSoak takes, each time.
const soakVariable = "PINWATCH_SOAK"

// soakTime is what it says, or what suits `make test`.
func soakTime() time.Duration {
	text := os.Getenv(soakVariable)
	if text == "" {
		return 5 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", soakVariable, err))
	}
	return d
}

// Many processes and threads of two users map, unmap, share buffers, exit and are killed at
// random while sysctls and limits change. No verdict may be false, and at the
// end the ledger must explain the kernel's counters to the page.
func TestSoak(t *testing.T) {
	guests.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) { soak(t, k, true, transport.Auto) })
}

// The same, and no process passes a buffer to another one.
func TestSoakAlone(t *testing.T) {
	guesttest.Long(t)
	guests.Test(t, outermost, func(t *testing.T, k guesttest.Kernel) { soak(t, k, false, transport.Auto) })
}

// The same, by the perf event array.
func TestSoakPerfArray(t *testing.T) {
	guesttest.Long(t)
	if os.Getenv(soakVariable) != "" {
		t.Skip("make soak has the time for the others")
	}
	guests.Test(t, outermost, func(t *testing.T, k guesttest.Kernel) { soak(t, k, true, transport.PerfArray) })
}

// outermost are the first and the last of the kernels.
func outermost(t *testing.T) []guesttest.Kernel {
	all := guesttest.Newest(t)
	if len(all) < 2 {
		return all
	}
	return []guesttest.Kernel{all[0], all[len(all)-1]}
}

func soak(t *testing.T, k guesttest.Kernel, share bool, transport string) {
	opts := everything()
	opts.Transport = transport
	var tr *trace
	for attempt := 1; ; attempt++ {
		var err error
		if tr, err = open(t, opts); err != nil {
			t.Fatal(err)
		}
		tr.forgets = true // an hour of them
		tr.run()
		r := guesttest.Command(t, "pinwatch", "workload", "soak", "--duration", soakTime().String(), "--sysctls", fmt.Sprintf("--share=%v", share)).Run()
		if r.Code != 0 || !strings.Contains(r.Stderr, "soak: seed 1") {
			t.Fatalf("exit %d\n%s", r.Code, r.Stderr)
		}
		tr.stop()
		t.Logf("%s%+v", r.Stderr, &tr.summary)
		if attempt == attempts || !tr.skipped() {
			break
		}
	}
	s := &tr.summary
	allowed := soakVerdicts(k, share)
	for v := ledger.OK + 1; int(v) < ledger.Verdicts; v++ {
		if s.Verdicts[v] > 0 && !slices.Contains(allowed, v) {
			t.Errorf("verdict %s %d on a kernel that is not known for it", v, s.Verdicts[v])
		}
	}
	if tr.lost != 0 {
		t.Errorf("events were lost: %s", tr.Losses())
	}
	for _, uid := range []uint32{2001, 2002} {
		i := slices.IndexFunc(s.Users, func(u ledger.Balance) bool { return u.UID == uid })
		if i < 0 || s.Users[i].Live != 0 || s.Users[i].Unexplained() != 0 {
			t.Errorf("uid %d is not explained to the page: %+v", uid, s.Users)
		}
	}
}

// soakVerdicts are those that a kernel may get.
func soakVerdicts(k guesttest.Kernel, share bool) (allowed []ledger.Verdict) {
	// What follows from a double charge: the allowance seems gone sooner.
	if series := k.Upstream(); has(series, "double-charge-of-further-mappings") || !examined(series) {
		allowed = append(allowed, ledger.DoubleCharge, ledger.WrongRefusal)
	}
	// And what follows from a refund to the wrong process: its pinned_vm
	// is too low, and the payer's too high.
	if share {
		allowed = append(allowed, ledger.MisdirectedRefund, ledger.WrongRefusal)
	}
	return allowed
}

// A probe that attaches and never fires is found out before anything is traced.
func TestSilentProbes(t *testing.T) {
	guests.Test(t, guesttest.First, func(t *testing.T, k guesttest.Kernel) {
		enter, leave := mappingFunctions(k)
		const enabled = "/sys/kernel/debug/kprobes/enabled"
		opts := tracer.Options{Attach: probe.AttachKprobe}
		guesttest.Set(t, enabled, "0")
		want := fmt.Sprintf("attached, but silent: the probes on [the return of %s %[1]s the return of %[2]s %[2]s]", enter, leave)
		if _, err := open(t, opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("kprobes disarmed: %v", err)
		}
		r := guesttest.Command(t, "pinwatch", "trace", "--only", "perf", "--attach", "kprobe").Run()
		if r.Code != 1 || !strings.Contains(r.Stderr, want) {
			t.Errorf("kprobes disarmed: %+v", r)
		}
		guesttest.Set(t, enabled, "1")
		if _, err := open(t, opts); err != nil {
			t.Errorf("kprobes armed again: %v", err)
		}
	})
}

// mappingFunctions are where probes on perf buffers are.
func mappingFunctions(k guesttest.Kernel) (enter, leave string) {
	if k.Before("5.16") { // there, this part of the kernel is closed to probes
		return "mmap_region", "remove_vma"
	}
	return "perf_mmap", "perf_mmap_close"
}

// The doctor tells the known accountings apart.
func TestDoctor(t *testing.T) {
	guests.Test(t, guesttest.Newest, func(t *testing.T, k guesttest.Kernel) {
		want := `accounting\s+ok\s+split`
		if has(k.Upstream(), "double-charge-of-further-mappings") {
			want = "double-charge"
		}
		if !examined(k.Upstream()) {
			want = "accounting "
		}
		said := run(t, "pinwatch", "doctor")
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("want %q:\n%s", want, said)
		}
		enter, leave := mappingFunctions(k)
		for _, function := range []string{" " + enter, " " + leave, "_sys_bpf", " bpf_map_free_deferred"} {
			if !regexp.MustCompile(function + "( and its return)?: fired in the self-test").MatchString(said) {
				t.Errorf("the probe on %s did not fire:\n%s", function, said)
			}
		}
	})
}
