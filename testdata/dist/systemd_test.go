package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// service is the guest's own: it runs guest.sh when the agent is up, or has failed, and then
// the guest is done.
const service = `[Unit]
After=pinwatch-agent.service
SuccessAction=poweroff
FailureAction=poweroff
[Service]
Type=oneshot
ExecStart=/guest.sh
TimeoutStartSec=1h
StandardOutput=file:/dev/ttyS1
StandardError=inherit
[Install]
WantedBy=multi-user.target
`

// The .deb in a guest that is a Debian with systemd: what an administrator sees of it who
// installs, uses and removes it.
func TestDebWithSystemd(t *testing.T) {
	root := cleanRoot(t)
	run(t, "cp", file(t, "*_amd64.deb"), filepath.Join(root, "pinwatch.deb"))
	run(t, "cp", "guest.sh", root)
	if err := os.WriteFile(filepath.Join(root, "etc/systemd/system/guest.service"), []byte(service), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "chroot", root, "bash", "-c", "dpkg -i /pinwatch.deb && systemctl enable pinwatch-agent guest 2>&1")
	said := boot(t, root)
	t.Log(said)

	const refused = "EPERM: pinned_vm 67 + extra 65 = 132 pages (528 KiB) > RLIMIT_MEMLOCK 128 pages (512 KiB)"
	for _, c := range []struct {
		section   string
		want, not []string
	}{
		{"boot", []string{
			"Active: active (running)", "CapPrm:\t0000008000000000\n", "CapEff:\t0000008000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n",
			"\npinwatch_refusals_total{errno=\"EPERM\",outcome=\"limit\",subsystem=\"perf\"} 1\n",
			"\npinwatch_refusals_by_uid_total{uid=\"2001\"} 1\n",
			"\npinwatch_refusals_by_cgroup_total{cgroup=\"/system.slice/guest.service\"} 1\n",
			"\npinwatch_events_total{kind=\"charge\",subsystem=\"bpf\"} ",
			"\npinwatch_recording 1\n", "\npinwatch_lost_events_total 0\n",
			"level=WARN msg=refused subsystem=perf errno=EPERM outcome=limit ",
			" uid=2001 cgroup=/system.slice/guest.service note=\"" + refused,
			// What CAP_SYS_ADMIN would be for, on this kernel and at Debian's level.
			"msg=\"watching perf buffers mapped and unmapped: session, ring buffer\"",
		}, []string{"not watched", "symbols are hidden", "left out"}},
		{"killed", []string{"\nok\n", "the agent did not end, and was started again", "pinwatch: an agent is writing on: "}, nil},
		{"stopped", []string{"ActiveState=inactive\n", "Result=success\n", "ExecMainStatus=0\n"}, nil},
		{"upgraded", []string{"\nactive\n", "\nanother process\n"}, nil},
		{"upgraded, and it cannot start", []string{"\ninstall ok installed\n"}, nil},
		// It is not started again and again.
		{"cannot trace", []string{"ActiveState=failed\n", "Result=exit-code\n", "ExecMainStatus=4\n", "NRestarts=0\n", "\nactive\n"}, nil},
		{"removed", []string{"\n/var/lib/pinwatch/pinwatch-00000001-"}, []string{"/usr", "/etc", "/run", "/proc", "/sys", "pinwatch-agent.service"}},
		{"installed", []string{"  └ EPERM: pinned_vm 0 + extra 256 = 256 pages (1 MiB) > RLIMIT_MEMLOCK 128 pages (512 KiB)", "\nok\n"}, nil},
	} {
		text := section(t, said, c.section)
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q", c.section, want)
			}
		}
		for _, not := range append(c.not, "exit status ", "not within") {
			if strings.Contains(text, not) {
				t.Errorf("%s: there is %q", c.section, not)
			}
		}
	}
	if n := strings.Count(section(t, said, "killed"), "  └ "+refused); n != 2 {
		t.Errorf("%d refusals are recorded", n)
	}
	const nothing = `
$ dpkg -P pinwatch >/dev/null

$ left

$ journalctl -k -o cat --no-pager | grep -E "type=1326|segfault|BUG|Oops"
exit status 1
`
	if text := section(t, said, "purged"); text != nothing {
		t.Errorf("there is more than\n%s", nothing)
	}
}

// section is what was said below a heading.
func section(t *testing.T, said, heading string) string {
	t.Helper()
	_, text, found := strings.Cut(said, "== "+heading+"\n")
	if !found {
		t.Fatalf("nothing of %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n== ")
	return text
}

// boot boots a root with systemd as init, and returns what its second serial port said.
func boot(t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	initramfs, console, said := filepath.Join(dir, "initramfs"), filepath.Join(dir, "console"), filepath.Join(dir, "said")
	// Not compressed: an emulated CPU unpacks slower than QEMU reads.
	run(t, "bash", "-euo", "pipefail", "-c", `cd "$1"
		rm -rf var/cache/apt var/lib/apt/lists usr/share/locale
		find . | cpio --quiet -o -H newc >"$2"`, "-", root, initramfs)
	kernels, err := exec.Command("../kernels/fetch.sh", "6.12").Output()
	fields := strings.Fields(string(kernels))
	if err != nil || len(fields) != 3 {
		t.Fatalf("fetch.sh: %q, %v", kernels, err)
	}
	// As tracer/guest does, which says why.
	args := []string{"-accel", "tcg,thread=single", "-cpu", "max,-cx16,-la57,-erms,-fsrm", "-smp", "2", "-m", "2G",
		"-display", "none", "-no-reboot", "-net", "none", "-nodefaults", "-kernel", fields[2], "-initrd", initramfs,
		"-append", "rdinit=/sbin/init console=ttyS0 panic=-1 loglevel=4 initcall_blacklist=load_system_certificate_list,crypto_kdf108_init,crypto_algapi_init highres=off init_on_alloc=0",
		"-serial", "file:" + console, "-serial", "file:" + said}
	begun := time.Now()
	var text string
	var out []byte
	for range 3 { // an emulated kernel sometimes dies while it boots
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
		out, err = exec.CommandContext(ctx, "qemu-system-x86_64", args...).CombinedOutput()
		cancel()
		if text = strings.ReplaceAll(read(t, said), "\r", ""); text != "" {
			break
		}
	}
	t.Logf("%.0f s in the guest", time.Since(begun).Seconds())
	if err != nil || !strings.HasSuffix(text, "\n== end\n") {
		t.Fatalf("QEMU: %v\n%s\nthe console:\n%s\nthe guest:\n%s", err, out, read(t, console), text)
	}
	return text
}
