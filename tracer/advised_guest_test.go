//go:build guest

package tracer_test

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pinwatch/pinwatch/tracer"
	"github.com/pinwatch/pinwatch/tracer/doctor"
	"github.com/pinwatch/pinwatch/tracer/guest/guesttest"
	"github.com/pinwatch/pinwatch/tracer/probe"
	"github.com/pinwatch/pinwatch/tracer/transport"
)

// What is advised where a trace cannot be opened was not tried just now, opens, and needs
// no more advice. Where nothing is advised, no choice of options opens it. 5.10 lacks most;
// that the newest lacks nothing is TestMatrix's.
func TestAdviceOfErrors(t *testing.T) {
	guesttest.Long(t)
	guests.Test(t, guesttest.Kernels, func(t *testing.T, _ guesttest.Kernel) {
		works := map[tracer.Advice]error{}
		for _, attach := range probe.AttachNames() {
			for _, via := range transport.Names() {
				works[tracer.Advice{Attach: attach, Transport: via}] = opens(tracer.Options{Attach: attach, Transport: via})
			}
		}
		for tried, err := range works {
			for name, watched := range watchable() {
				t.Run(fmt.Sprintf("%s %s %s", tried.Attach, tried.Transport, name), func(t *testing.T) {
					// To open it again with more than perf buffers takes long: once for each
					// way to attach that fails, and once for all that work.
					if err == nil && (name == "perf" || tried.Attach != probe.AttachAuto) || name != "perf" && tried.Transport != transport.Auto {
						return
					}
					watched.Attach, watched.Transport = tried.Attach, tried.Transport
					follow(t, watched, works)
				})
			}
		}
	})
}

// watchable are options by what --only names.
func watchable() map[string]tracer.Options {
	return map[string]tracer.Options{
		"perf":       {},
		"bpf":        {BPF: true, NotPerf: true},
		"bpf,memcg":  {BPF: true, Memcg: true, NotPerf: true},
		"others":     {Others: true, NotPerf: true},
		"everything": {BPF: true, Others: true},
	}
}

func opens(opts tracer.Options) error {
	t, err := tracer.Open(opts)
	if err == nil {
		t.Close()
	}
	return err
}

// follow does what the error of opening a trace says, where there is one.
func follow(t *testing.T, opts tracer.Options, works map[tracer.Advice]error) {
	opens := func(opts tracer.Options) error {
		err, known := works[tracer.Advice{Attach: opts.Attach, Transport: opts.Transport}]
		if known && !opts.BPF && !opts.Others { // that took long enough
			return err
		}
		return opens(opts)
	}
	err := opens(opts)
	if err == nil {
		return
	}
	t.Log(err)
	var not *tracer.NotOpened
	if !errors.As(err, &not) {
		if strings.Contains(err.Error(), "use --") {
			t.Error("an advice of options that nobody can follow")
		}
		for other, failed := range works {
			if failed == nil {
				t.Errorf("nothing is advised, and %s opens it", other)
			}
		}
		return
	}
	next := not.Advice.Follow(opts)
	if next.Attach == opts.Attach && next.Transport == opts.Transport {
		t.Errorf("%q is what was tried", not.Advice)
	}
	if not.Advice.Attach == opts.Attach || not.Advice.Transport == opts.Transport {
		t.Errorf("%q names what was tried", not.Advice)
	}
	if !strings.Contains(err.Error(), not.Advice.String()) {
		t.Errorf("%q is not said", not.Advice)
	}
	if err := opens(next); err != nil {
		t.Errorf("%q leads to: %v", not.Advice, err)
	}
}

// applies says of each thing that doctor can advise to do whether that would change
// anything, on this machine, as this user: root, with all capabilities.
func applies() map[string]func() bool {
	missing := func(path string) func() bool {
		return func() bool { _, err := os.Stat(path); return err != nil }
	}
	never := func() bool { return false }
	return map[string]func() bool{
		"run as root":                 never,
		"CAP_":                        never,
		"setcap":                      never,
		"--cap-add":                   never,
		"mount /proc":                 missing("/proc/self"),
		"/sys":                        missing("/sys/kernel"),
		"run pinwatch in the initial": never,
		"--security-opt":              func() bool { return seccomp() },
		"CONFIG_PERF_EVENTS":          missing("/proc/sys/kernel/perf_event_paranoid"),
		"CONFIG_DEBUG_INFO_BTF":       missing("/sys/kernel/btf/vmlinux"),
		"--btf":                       missing("/sys/kernel/btf/vmlinux"),
		"CONFIG_KALLSYMS_ALL":         func() bool { return !symbol(" d ") && !symbol(" D ") },
		"CONFIG_KPROBE_EVENTS":        missing("/sys/bus/event_source/devices/kprobe/type"),
		"kptr_restrict=1":             func() bool { return setting("/proc/sys/kernel/kptr_restrict") == "2" },
		"lockdown=":                   func() bool { return strings.Contains(setting("/sys/kernel/security/lockdown"), "[confidentiality]") },
		"perf_event_paranoid=2":       func() bool { return setting("/proc/sys/kernel/perf_event_paranoid") > "2" },
		"mount -t cgroup2":            func() bool { return !mounted("/sys/fs/cgroup") },
		"unified_cgroup_hierarchy":    func() bool { return !mounted("/sys/fs/cgroup") },
		"pinwatch guest":              missing("/sys/bus/event_source/devices/kprobe/type"),
		"nothing to do":               func() bool { return true },
		"a kernel that has it fixed":  func() bool { return true },
	}
}

func setting(path string) string {
	raw, _ := os.ReadFile(path)
	return strings.TrimSpace(string(raw))
}

func seccomp() bool { return !strings.Contains(setting("/proc/self/status"), "Seccomp:\t0") }

func symbol(kind string) bool { return strings.Contains(setting("/proc/kallsyms"), kind) }

func mounted(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// Whatever doctor advises to do would change something here: no option that is in use, no
// capability that is there, no setting that is as it should be. Details advise nothing that
// a remedy does not.
func TestAdviceOfDoctor(t *testing.T) {
	guests.Test(t, guesttest.OldestOrAll, func(t *testing.T, _ guesttest.Kernel) {
		options := regexp.MustCompile(`--(attach|transport) (\w+)`)
		asked := []tracer.Options{{}}
		if guesttest.All() { // each of them opens several traces
			asked = append(asked, tracer.Options{Attach: probe.AttachKprobe, Transport: transport.PerfArray}, tracer.Options{Attach: probe.AttachFentry}, tracer.Options{Transport: transport.Ringbuf})
		}
		for _, opts := range asked {
			for _, c := range doctor.Examine(opts) {
				if c.State != doctor.StateOK && strings.Contains(c.Detail, ": use ") {
					t.Errorf("%+v: the detail advises", c)
				}
				if c.State == doctor.StateOK || c.Remedy == "" {
					continue
				}
				next := opts
				chosen := options.FindAllStringSubmatch(c.Remedy, -1)
				for _, o := range chosen {
					if o[1] == "attach" {
						next.Attach = o[2]
					} else {
						next.Transport = o[2]
					}
				}
				if chosen != nil {
					if next == opts {
						t.Errorf("%+v: is in use", c)
					}
					if err := opens(next); err != nil {
						t.Errorf("%+v: leads to %v", c, err)
					}
					continue
				}
				known := false
				for words, would := range applies() {
					if strings.Contains(c.Remedy, words) {
						known = true
						if !would() {
							t.Errorf("%s: %q would change nothing here: %s", c.Name, words, c.Remedy)
						}
					}
				}
				if !known {
					t.Errorf("%s: %q: add to applies() when that helps", c.Name, c.Remedy)
				}
			}
		}
	})
}
